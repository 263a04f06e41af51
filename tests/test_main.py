"""The door as it is used: command lines in, run folders, one line and an exit code out."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import command
from scales import STARS

from persona_lab.compose import load_run
from persona_lab.distill import ledger
from persona_lab.distill.server import KEY
from persona_lab.errors import UserError
from persona_lab.evaluation import Result, Row
from persona_lab.experiment import Experiment
from persona_lab.lab import Lab
from persona_lab.model import module
from persona_lab.sources import Sources

from .distill.server import Server

Door = Callable[..., str]
REAL_RUN = Experiment.run


def fake_run(self: Any, lab: Lab) -> Result:
    if self.memory.name == "ml":
        raise KeyError("broken")
    names = {"distiller": "d", "embedder": "e", "personas": "p", "peft": "lora"}
    row = Row(
        id=None,
        **{key: getattr(self, key) for key in ("setup", "role", "seed", "changed")},
        **{
            key: getattr(self, key).name
            for key in ("model", "adapter", "memory", "data", "protocol", "decode")
        },
        **names,
    )
    metrics = {"rmse": 1.0, "mae": 0.8, "urr": 0.0, "rmse_expected": 1.0, "mae_expected": 0.8}
    metrics["digit_mass"] = 0.9
    metrics["rmse_worst"] = self.train.lr
    intervals = {name: {"value": 1.0, "low": 0.9, "high": 1.1} for name in metrics}
    counts = {"n_test": 3, "n_unrelated": 0, "truncated": 0}
    lists: dict[str, Any] = {"per_persona": [], "scale": STARS}
    tables = {name: {} for name in ("baselines", "timing", "cost", "versions", "keys")}
    whole = {"cohort": "dev", "metrics": metrics, "intervals": intervals, "reused": False}
    whole["development"] = self.data.development
    result = Result(row, **whole, **counts, **lists, **tables)
    result.save(lab.folder)
    return result


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Door:
    """Give a command line in a folder of its own; returns what it says when it ends."""
    monkeypatch.setattr(Experiment, "run", fake_run)
    return partial(command, tmp_path)


def status(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "status.json").read_text())


def jobs(tmp_path: Path) -> dict[str, Path]:
    return {file.parent.name: file.parent for file in tmp_path.glob("multirun/*/*/*/status.json")}


def test_run(door: Door, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert door("seed=3", "data.path=my/ratings.zip", "memory.top_k=2") == "0"
    (folder,) = tmp_path.glob("outputs/*/*")
    assert status(folder)["state"] == "completed"
    assert status(folder)["overrides"] == ["seed=3", "data.path=my/ratings.zip", "memory.top_k=2"]
    changed = {"data.path": "ratings.zip", "memory.top_k": 2}
    assert Result.load(folder).row.changed == changed
    assert "1.000" in capsys.readouterr().out
    again = load_run(folder)
    assert (again.experiment.seed, again.experiment.changed) == (3, changed)
    assert again.experiment.data.path == str(tmp_path / "my/ratings.zip")


def test_a_run_states_what_it_paid_and_holds_no_key(
    door: Door,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    planted = "sk-planted-0123456789"
    monkeypatch.setenv(KEY, planted)
    monkeypatch.setattr(Experiment, "run", REAL_RUN)
    with Server(tmp_path / "journal").running() as loopback:
        choices = [
            *("experiment=smoke", "adapter=none", "logger=csv", f"cache={tmp_path / 'cache'}"),
            *("movie_info=llm", f"movie_info.chat.base_url={loopback.url}"),
            *("distiller=openai", f"distiller.chat.base_url={loopback.url}"),
            *("embedder=ada002", f"embedder.server.base_url={loopback.url}"),
            *("data.reader.n_items=30", "data.reader.ratings_per_user=[20,30]"),
            *("data.min_ratings=20", "data.n_users=2", "personas.n_personas=2"),
        ]
        # Its errors repeat the key.
        loopback.faults = ["500", "429:0"]
        folders = tmp_path / "first", tmp_path / "again"
        for folder in folders:
            assert door(*choices, f"hydra.run.dir={folder}") == "0"
    assert loopback.keys == {f"bearer {planted}"}
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {"result.json", "config.yaml", "persona_lab.log", "ledger.sqlite"} <= {
        file.name for file in files
    }
    assert not [file for file in files if planted.encode() in file.read_bytes()]
    assert planted not in "".join(capsys.readouterr())

    first, again = map(Result.load, folders)
    rows = ledger.totals(Sources(tmp_path / "cache").ledger)
    answered = [row for row in rows if row["outcome"] == "answered"]
    for stage, purpose in {"split": "movie", "memories": "reflect", "vectors": "embed"}.items():
        own = [row for row in answered if row["purpose"].startswith(purpose)]
        assert first.costs[stage] == {
            "tokens": sum(row["tokens_in"] + row["tokens_out"] for row in own),
            "money": pytest.approx(sum(row["money"] for row in own)),
        }
        assert first.costs[stage]["money"] > 0
    assert first.cost["tokens"] == sum(cost["tokens"] for cost in first.costs.values())
    assert first.cost["money"] == pytest.approx(sum(row["money"] for row in answered))
    # A row that is reused states what it took, whenever that was.
    assert again.reused
    assert (again.cost, again.costs) == (first.cost, first.costs)


def test_sweep_goes_on_after_a_failure(door: Door, tmp_path: Path) -> None:
    assert door("-m", "memory=ml,ms", "adapter=none") == "persona-lab: 1 of 2 jobs completed"
    failed, completed = jobs(tmp_path).values()
    if status(failed)["state"] == "completed":
        failed, completed = completed, failed
    assert (failed.name, completed.name) == (
        *("00-memory=ml,adapter=none", "01-memory=ms,adapter=none"),
    )
    assert status(failed)["error"] == "KeyError: 'broken'"
    assert status(failed)["row"]["memory"] == "ml"
    assert "Traceback" in (failed / "persona_lab.log").read_text()
    assert "Traceback" not in (completed / "persona_lab.log").read_text()
    assert {"table1.md", "table1.csv", "report.html"} <= {
        file.name for file in failed.parent.iterdir()
    }


def test_a_sweeps_plan(door: Door, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    end = door("-m", "experiment=smoke", "row=r3,r9", "task=plan", "model.lora_targets=[none]")
    assert end == "persona-lab: 1 of 2 jobs completed"
    assert [status(job)["state"] for _, job in sorted(jobs(tmp_path).items())] == [
        *("planned", "failed")
    ]
    assert "What it would take" in capsys.readouterr().out
    (sweep,) = tmp_path.glob("multirun/*/*")
    assert not (sweep / "table1.md").exists()


def test_a_sweeps_folder_may_hold_older_jobs(
    door: Door, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = ("-m", f"hydra.sweep.dir={tmp_path / 'one'}", "adapter=none")
    for name, state in (("07-memory=ms", "completed"), ("08-plan", "planned")):
        older = tmp_path / "one" / name
        older.mkdir(parents=True)
        left = {"state": state, "error": None, "task": "persona_lab.tasks.Row", "overrides": []}
        left["started"] = "2020-01-01T00:00:00"
        (older / "status.json").write_text(json.dumps(left))
    assert door(*sweep, "seed=1") == "0"
    shutil.copy(tmp_path / "one/00-adapter=none,seed=1/result.json", tmp_path / "one/07-memory=ms")
    # The older result shows in the table; it does not stand for the job that failed.
    assert door(*sweep, "memory=ml,ms") == "persona-lab: 1 of 2 jobs completed"
    assert "What it would take" not in capsys.readouterr().out
    table = (tmp_path / "one" / "table1.csv").read_text()
    assert len(table.splitlines()) > 3


def test_a_run_of_the_shared_stages_alone(door: Door, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert door("experiment=smoke", "task=prepare", f"cache={cache}") == "0"
    (folder,) = tmp_path.glob("outputs/*/*")
    assert status(folder)["state"] == "prepared"
    made = {path.name for path in (cache / "store").iterdir() if not path.name.startswith(".")}
    assert made == {"split", "memories", "vectors", "personas"}


def test_sweep_over_rows(door: Door, tmp_path: Path) -> None:
    assert door("-m", "experiment=table1", "row=r3,r10") == "0"
    assert sorted(jobs(tmp_path)) == ["00-r3", "01-r10"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["experiment=table1"], "experiment=table1 is a sweep over row (add -m)"),
        (["-m", "seed=1,2", "hydra/launcher=joblib"], "(say how many at once, with GPUs"),
        (
            ["-m", "experiment=table1", "model=phi3"],
            "(name them apart: slm=<model> llm=<model>; a path of",
        ),
        (["-m", "row=glob(x*)"], "the sweep over row has no jobs"),
        (
            ["-m", "experiment=tune", "data.cohort=reported"],
            "a search would choose on test rows of reported users (search on others:",
        ),
        (["-m", "hydra/sweeper=optuna", "seed=1,2"], "a search would choose on test rows"),
        (["experiment=tune"], "experiment=tune is a sweep over train.lr, peft.r, train.weight_"),
        (["-m", "adapter=persona,persna"], "adapter 'persna' does not exist"),
        (["plan=true"], "plan=true is no choice any more (write task=plan)"),
        (["-m", "row=r3,r9", "stage=prepare"], "stage=prepare is no choice any more (write task="),
        (["task=train"], "task 'train' does not exist (choose plan, prepare, row)"),
        (["adapter=persna"], "adapter 'persna' does not exist"),
    ],
)
def test_refused_before_anything_is_written(
    door: Door, tmp_path: Path, arguments: list[str], said: str
) -> None:
    end = door(*arguments)
    assert said in end
    assert len(end.splitlines()) == 1
    assert not jobs(tmp_path)
    assert not any(tmp_path.glob("outputs/*/*"))


# What Optuna 2 asks of its libraries has moved since.
@pytest.mark.filterwarnings("ignore")
def test_a_search_makes_small_what_development_users_give(door: Door, tmp_path: Path) -> None:
    rates = "train.lr=choice(0.1,0.2,0.3)"
    given = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=6", "hydra.sweeper.sampler.seed=1"]
    assert door("-m", *given, "data.cohort=dev", rates) == "0"
    (found,) = tmp_path.glob("multirun/*/*/optimization_results.yaml")
    best = yaml.safe_load(found.read_text())
    tried = [float(name.split("train.lr=")[1][:3]) for name in jobs(tmp_path)]
    assert len(tried) == 6
    assert best["best_value"] == best["best_params"]["train.lr"] == min(tried)


@pytest.mark.filterwarnings("ignore")
def test_no_test_metric_is_an_objective(door: Door, tmp_path: Path) -> None:
    # Where the search itself chooses the users, a trial on reported ones has no value.
    given = ["experiment=tune", "hydra.sweeper.n_trials=6", "data.cohort=choice(dev,reported)"]
    end = door("-m", *given)
    states = [status(job) for job in jobs(tmp_path).values()]
    refused = [each for each in states if "data.cohort=reported" in each["overrides"]]
    assert 0 < len(refused) < 6
    assert end == f"persona-lab: {6 - len(refused)} of 6 jobs completed"
    for each in refused:
        assert (each["state"], each["error"][:34]) == (
            "failed",
            "a search would choose on test rows",
        )
    (found,) = tmp_path.glob("multirun/*/*/optimization_results.yaml")
    assert yaml.safe_load(found.read_text())["best_params"]["data.cohort"] == "dev"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["data.n_users=abc"], "data.n_users is 'abc' (it should be a valid integer)"),
        (["train.epochs=0"], "train.epochs is 0 (it should be greater than 0)"),
        (["+data.users=3"], "'data.users' does not exist (did you mean data.n_users?)"),
        (["task._target_=my.Task"], "task: my.Task cannot be imported"),
        (["memory=ml"], "KeyError: 'broken'"),
        (["data.reader._target_=my.Reader"], "data.reader: my.Reader cannot be imported"),
    ],
)
def test_failed_run_says_so_in_its_status(
    door: Door, tmp_path: Path, arguments: list[str], said: str
) -> None:
    end = door(*arguments)
    assert end.startswith(f"persona-lab: {said}")
    assert len(end.splitlines()) == 1
    (folder,) = tmp_path.glob("outputs/*/*")
    assert status(folder)["state"] == "failed"
    assert status(folder)["error"].startswith(said)


def test_load_run_wants_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not the folder of a run"):
        load_run(tmp_path)


def test_many_devices_are_refused_in_a_sweep(door: Door, tmp_path: Path) -> None:
    assert door("-m", "seed=1", "trainer=ddp").endswith("0 of 1 jobs completed")
    (job,) = jobs(tmp_path).values()
    assert status(job)["error"].startswith("a job of a sweep has one device")


def test_multirun_gives_way_to_cfg(door: Door, capsys: pytest.CaptureFixture[str]) -> None:
    assert door("-m", "experiment=table1", "slm=phi3", "--cfg", "job", "-p", "model") == "0"
    assert "\nname: phi3\n" in capsys.readouterr().out


OWN_TASK = """
from persona_lab.component import component
from persona_lab.tasks import Row

@component
class Count(Row):
    what: str

    state = "counted"

    def run(self, experiment, lab):
        (lab.folder / "count.txt").write_text(f"{self.what}: {experiment.data.n_users}")

    @staticmethod
    def conclude(folder, jobs):
        (folder / "counts.txt").write_text(" ".join(sorted(job.name for job in jobs)))
        return len(jobs)
"""


@pytest.mark.parametrize("sweep", [[], ["-m", "data.n_users=2,3", "hydra.sweep.dir=swept"]])
def test_a_task_of_the_users_own(door: Door, tmp_path: Path, sweep: list[str]) -> None:
    (tmp_path / "own_task.py").write_text(OWN_TASK)
    task = ["task._target_=own_task.Count", "+task.what=users"]
    assert door(*sweep, "experiment=smoke", "hydra.run.dir=once", *task) == "0"
    folder = tmp_path / ("swept" if sweep else "once")
    jobs = sorted(file.parent for file in folder.rglob("status.json"))
    counts = {(job / "count.txt").read_text() for job in jobs}
    assert counts == ({"users: 2", "users: 3"} if sweep else {"users: 8"})
    assert (folder / "counts.txt").read_text() == " ".join(job.name for job in jobs)
    for job in jobs:
        shown = status(job)
        assert (shown["state"], shown["task"]) == ("counted", "own_task.Count")
        assert "task" not in str(shown["row"]["changed"])


def test_a_task_that_fails_is_not_counted(door: Door, tmp_path: Path) -> None:
    (tmp_path / "own_task.py").write_text(OWN_TASK)
    task = ["task._target_=own_task.Count", "+task.what=users,3", "hydra.sweep.dir=swept"]
    assert door("-m", "experiment=smoke", *task) == "persona-lab: 1 of 2 jobs completed"
    (counted,) = (tmp_path / "swept/counts.txt").read_text().split()
    assert "task.what=users" in counted
    (failed,) = {file.parent.name for file in tmp_path.glob("swept/*/status.json")} - {counted}
    error = status(tmp_path / "swept" / failed)["error"]
    assert error == "task.what is 3 (it should be a valid string)"


@pytest.mark.parametrize("sweep", [[], ["-m", "hydra.sweep.dir=once"]])
def test_a_task_whose_end_fails_is_said_in_one_line(
    door: Door, tmp_path: Path, sweep: list[str]
) -> None:
    broken = OWN_TASK.replace("Count", "Broken").replace("return len(jobs)", "return jobs.size")
    (tmp_path / "broken_task.py").write_text(broken)
    task = ["task._target_=broken_task.Broken", "+task.what=users", "hydra.run.dir=once"]
    end = door(*sweep, "experiment=smoke", *task)
    assert end.startswith(
        f"persona-lab: no table of {'once' if sweep else tmp_path / 'once'}: AttributeError: "
    )
    assert len(end.splitlines()) == 1


def test_a_task_that_is_not_there_fails_every_job(door: Door) -> None:
    end = door("-m", "seed=1,2", "task._target_=my.Task")
    assert end == "persona-lab: 0 of 2 jobs completed"


OWN = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Reader:
    columns: list[str]

    def read(self, path, invalid):
        raise NotImplementedError
"""
OWN_DATA = """
defaults: [scale: five_stars, split@_here_: in_time, _self_]
_target_: persona_lab.data.Data
name: own
reader:
  _target_: own_reader.Reader
  columns: [user, item]
n_users: 5
test_rows_per_user: 2
"""
OWN_EXPERIMENT = """# @package _global_
defaults:
  - override /data: own
  - override /adapter: none
"""


def test_own_folder_and_own_class(door: Door, tmp_path: Path) -> None:
    (tmp_path / "own_reader.py").write_text(OWN)
    for name, text in {"data/own": OWN_DATA, "experiment/mine": OWN_EXPERIMENT}.items():
        file = tmp_path / f"conf/{name}.yaml"
        file.parent.mkdir(parents=True)
        file.write_text(text)
    assert door("--config-dir", "conf", "+experiment=mine") == "0"
    (folder,) = tmp_path.glob("outputs/*/*")
    row = Result.load(folder).row
    assert (row.data, row.adapter, row.changed) == ("own", "none", {})
    reader = load_run(folder).experiment.data.reader
    assert (type(reader).__name__, reader.columns) == ("Reader", ["user", "item"])


@pytest.mark.parametrize("sweep", [[], ["-m", "seed=1,2"]])
def test_sigterm_ends_a_run_and_a_sweep_while_lightning_rates(
    sweep: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The process sends itself a signal in the middle of the ratings.
    monkeypatch.setattr(module, "respond", lambda *given: os.kill(os.getpid(), signal.SIGTERM))
    given = [*sweep, "experiment=smoke", "adapter=none", f"cache={tmp_path / 'cache'}"]
    assert command(tmp_path, *given) == str(128 + signal.SIGTERM)
    (file,) = tmp_path.glob("*/*/*/**/status.json")
    assert status(file.parent)["state"] == "failed"


def test_jobs_in_processes_of_their_own_share_stages(tmp_path: Path) -> None:
    sweep = [
        "-m",
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
        "experiment=smoke",
        "adapter=none",
        "decode=expected",
    ]
    given = [*sweep, "memory=ms,ml", f"cache={tmp_path / 'cache'}", "seed=1"]
    program = [sys.executable, "-m", "persona_lab", *given]
    ended = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert [status(job)["state"] for job in jobs(tmp_path).values()] == ["completed"] * 2
    (table,) = tmp_path.glob("multirun/*/*/table1.csv")
    assert len(table.read_text().splitlines()) > 2
    for stage in ("split", "memories", "vectors", "personas"):
        (_,) = (tmp_path / "cache/store" / stage).glob("[!.]*")
    assert len([*(tmp_path / "cache/store/predictions").glob("[!.]*")]) == 2


def test_a_launcher_that_fails_is_said_in_one_line(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise RuntimeError("the cluster is gone\nlong story")

    monkeypatch.setattr("joblib.Parallel.__call__", fail)
    end = door("-m", "seed=1,2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert end.startswith("persona-lab: the launcher failed: RuntimeError: the cluster is gone (")
    assert len(end.splitlines()) == 1

"""Loggers: files in the run folder; no account, no network, no question."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import wandb
from configured import configured
from lightning.pytorch.loggers import TensorBoardLogger

from persona_lab.errors import UserError
from persona_lab.model import loggers
from persona_lab.model.loggers import (
    Csv,
    Labels,
    Logger,
    NoLogger,
    Outcome,
    Tensorboard,
    Wandb,
)

WANDB: Wandb = configured("logger=wandb")
LABELS = Labels(
    "r10", ("r10", "adapter=persona"), {"row": {"adapter": "persona"}}, {"personas": "p1"}
)
PREDICTIONS = pd.DataFrame(
    {
        "user_id": [1, 2],
        "response": ["<script>alert(1)</script>", "=1+1\x1b"],
        "prediction": pd.array([4, pd.NA], dtype="Float64"),
        "p1": [0.25, 0.5],
    }
)


class _Silent:
    """A terminal at which nobody sits."""

    def isatty(self) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"something was asked for on the terminal: {name}")


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No login, no wish for a mode, and a terminal that must not be read."""
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "no-settings"))
    monkeypatch.setattr(sys, "stdin", _Silent())
    yield
    wandb.teardown()


def log(logger: Logger, folder: Path) -> None:
    with logger.curves(folder, LABELS, {"persona_0": folder}) as opened:
        for name in ("persona_0", "persona_1"):
            for step in range(3):
                opened.log_metrics({f"{name}/loss": 1.0 / (step + 1)}, step=step)
            opened.finalize("success")


def test_no_logger_gives_none(tmp_path: Path) -> None:
    with NoLogger().curves(tmp_path, LABELS, {}) as opened:
        assert opened is None
    assert list(tmp_path.iterdir()) == []


def test_csv_holds_the_curves_of_all_adapters(tmp_path: Path) -> None:
    log(Csv(), tmp_path)
    table = pd.read_csv(tmp_path / "curves" / "metrics.csv")
    for name in ("persona_0", "persona_1"):
        assert table[f"{name}/loss"].dropna().tolist() == pytest.approx([1, 1 / 2, 1 / 3])


def test_a_run_again_in_its_folder_writes_its_curves_again(tmp_path: Path) -> None:
    log(Csv(), tmp_path)
    with pytest.warns(UserWarning, match="Previous log files in this directory will be deleted"):
        log(Csv(), tmp_path)
    assert len(pd.read_csv(tmp_path / "curves" / "metrics.csv")) == 6


def test_tensorboard_writes_events(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    log(Tensorboard(), tmp_path)
    assert list((tmp_path / "curves").glob("events.*"))


def test_tensorboard_that_is_missing_is_the_users_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: Any, **__: Any) -> TensorBoardLogger:
        raise ModuleNotFoundError("Neither `tensorboard` nor `tensorboardX` is available.")

    monkeypatch.setattr(loggers, "TensorBoardLogger", missing)
    with pytest.raises(UserError, match="pip install tensorboard"):
        log(Tensorboard(), tmp_path)


def test_another_missing_module_is_not_taken_for_tensorboard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loggers, "TensorBoardLogger", lambda *_, **__: None)
    with (
        pytest.raises(ModuleNotFoundError, match="no_such_module"),
        Tensorboard().curves(tmp_path, LABELS, {}),
    ):
        import no_such_module  # noqa: F401  # pyright: ignore


def read_back(folder: Path) -> list[list[dict[str, Any]]]:
    """The records of every offline run in a folder, in the order of their starts."""
    program = [sys.executable, "-m", "wandb", "leet", "inspect", "--json"]
    files = sorted(folder.rglob("*.wandb"), key=lambda file: file.stat().st_ctime_ns)
    said = (subprocess.run([*program, file], capture_output=True, check=True) for file in files)
    return [[json.loads(line) for line in each.stdout.splitlines()] for each in said]


def of_type(records: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [record[kind] for record in records if record["type"] == kind]


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "store" / "adapters" / "0123456789abcdef0123"
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "2026-01-31" / "12-00-00" / "10-r10"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.usefixtures("nobody")
def test_wandb_without_login_is_offline_with_a_run_for_each_stage(
    folder: Path, adapter: Path
) -> None:
    """Jobs of a sweep never merge into one run: each finds none open and leaves none open."""
    adapters, logger = {"persona_0": adapter}, WANDB
    assert wandb.run is None
    with logger.curves(folder, LABELS, adapters) as opened:
        for step in range(3):
            opened.log_metrics({"persona_0/loss": 1.0 / (step + 1)}, step=step)
    assert wandb.run is None
    numbers = {"rmse": 1.25, "urr": None, "beyond": {"ece": 0.5}}
    logger.outcome(folder, LABELS, Outcome(numbers, PREDICTIONS, adapters))
    assert wandb.run is None

    trained, rated = read_back(folder)
    for records, stage in ((trained, "adapters"), (rated, "predictions")):
        (run,) = of_type(records, "run")
        found = (run["display_name"], run["job_type"], run["run_group"], run["project"])
        assert found == ("r10", stage, "2026-01-31 12-00-00", "persona-lab")
        assert sorted(run["tags"]) == ["adapter=persona", "r10"]
        config = run["config"]["update"]
        assert (config["row"], config["keys"]) == ({"adapter": "persona"}, {"personas": "p1"})
        assert [each["exit_code"] for each in of_type(records, "exit")] == [0]
    losses = [each["item"]["persona_0/loss"] for each in of_type(trained, "history")]
    assert losses == pytest.approx([1, 1 / 2, 1 / 3])

    # One artifact, made by the one run and used by the other.
    (made,), (used, *_) = of_type(trained, "artifact"), of_type(rated, "artifact")
    assert made["name"] == used["name"] == "persona_0-0123456789abcdef0123"
    assert made["digest"] == used["digest"]
    assert (made.get("use_after_commit"), used["use_after_commit"]) == (None, True)
    assert json.loads(made["metadata"])["made_from"] == {"personas": "p1"}

    final: dict[str, Any] = {}
    for record in of_type(rated, "summary"):
        final |= record["update"]
    assert (final["rmse"], final["urr"]) == (1.25, None)
    assert final["predictions.nrows"] == 2
    (table,) = folder.rglob("predictions*.table.json")
    assert json.loads(table.read_text()) == {
        "columns": list(PREDICTIONS),
        "data": [[1, "<script>alert(1)</script>", 4.0, 0.25], [2, "=1+1\x1b", None, 0.5]],
    }
    noted = json.loads((folder / "wandb.json").read_text())
    assert noted == {
        "entity": None, "project": "persona-lab", "group": "2026-01-31 12-00-00",
    }  # fmt: skip


@pytest.mark.usefixtures("nobody")
def test_wandb_has_one_run_of_the_shared_stages_alone(folder: Path) -> None:
    Csv().prepared(folder, LABELS, {})
    assert [*folder.iterdir()] == []
    WANDB.prepared(folder, LABELS, {"timing": {"split": {"seconds": 1.5}}})
    assert wandb.run is None
    (records,) = read_back(folder)
    (run,) = of_type(records, "run")
    assert (run["job_type"], run["run_group"]) == ("prepare", "2026-01-31 12-00-00")
    assert run["config"]["update"]["keys"] == {"personas": "p1"}
    final = [record["update"] for record in of_type(records, "summary")]
    assert any(each.get("timing") == {"split": {"seconds": 1.5}} for each in final)
    assert [each["exit_code"] for each in of_type(records, "exit")] == [0]


@pytest.mark.usefixtures("nobody")
def test_wandb_has_no_run_of_training_where_nothing_is_trained(folder: Path) -> None:
    with WANDB.curves(folder, LABELS, {}) as opened:
        assert opened is None
    assert [*folder.iterdir()] == []


@pytest.mark.usefixtures("nobody")
def test_wandb_is_finished_also_after_an_error(folder: Path, adapter: Path) -> None:
    with pytest.raises(RuntimeError), WANDB.curves(folder, LABELS, {"persona_0": adapter}):
        raise RuntimeError
    assert wandb.run is None
    (records,) = read_back(folder)
    assert [each["exit_code"] for each in of_type(records, "exit")] == [1]
    assert of_type(records, "artifact") == []


@pytest.mark.usefixtures("nobody")
@pytest.mark.parametrize("mode", ["auto", "online"])
def test_wandb_with_a_key_but_no_network(
    folder: Path, mode: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(loggers, "_PATIENCE", 1.0)
    outcome = Outcome({"rmse": 1.0}, PREDICTIONS, {})
    if mode == "online":
        with pytest.raises(UserError, match="cannot be reached"):
            replace(WANDB, mode=mode).outcome(folder, LABELS, outcome)
        return
    monkeypatch.setenv("WANDB_MODE", "online")
    replace(WANDB, mode=mode).outcome(folder, LABELS, outcome)
    assert "for `wandb sync`" in caplog.text
    assert os.environ["WANDB_MODE"] == "offline"
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    assert file.stat().st_size > 0


MODES = [
    ("auto", False, None, "offline"),
    ("auto", True, None, "online"),
    ("auto", True, "offline", "offline"),
    ("auto", True, "disabled", "disabled"),
    ("auto", True, "online", "online"),
    ("offline", True, None, "offline"),
    ("online", True, None, "online"),
]


@pytest.mark.usefixtures("nobody")
@pytest.mark.parametrize(("mode", "logged_in", "wish", "expected"), MODES)
def test_wandb_is_online_where_it_can_and_may(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: Any,
    logged_in: bool,
    wish: str | None,
    expected: str,
) -> None:
    if wish is not None:
        monkeypatch.setenv("WANDB_MODE", wish)
    monkeypatch.setattr(wandb, "login", lambda **options: logged_in)
    monkeypatch.setattr(wandb, "init", lambda **options: options)
    options: Any = replace(WANDB, mode=mode).start(folder, LABELS, "adapters")
    assert (options["mode"], options["dir"]) == (expected, folder)


@pytest.mark.usefixtures("nobody")
def test_wandb_online_without_login_is_the_users_error(folder: Path) -> None:
    with pytest.raises(UserError, match=r"logger\.mode=auto"):
        replace(WANDB, mode="online").start(folder, LABELS, "adapters")

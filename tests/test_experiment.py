"""The whole flow on synthetic ratings and a random model: what runs share, reuse and report."""

import json
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import wandb

from persona_lab.cache import Cache, Stage
from persona_lab.compose import configure
from persona_lab.errors import UserError
from persona_lab.evaluation import Result
from persona_lab.evaluation.beyond import RANKING
from persona_lab.experiment import Experiment
from persona_lab.lab import Lab
from persona_lab.model import Predictions
from persona_lab.model.engine import Tree, group, run
from persona_lab.model.loggers import NoLogger, Wandb
from persona_lab.sources import Sources

PROTOCOL_KEYS = {"split", "memories", "vectors", "personas", "adapters", "predictions"}


@cache
def experiment(*overrides: str, study: str = "smoke") -> Experiment:
    return configure(f"experiment={study}", *overrides).experiment


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    folder = tmp_path_factory.mktemp("experiment")
    return Lab(Sources(folder), Cache(folder / "store"), folder, NoLogger())


def rating(lab: Lab, one: Experiment) -> Stage[Predictions]:
    """The predictions of an experiment, as a stage."""
    prepared = one.prepare(lab)
    return one.tuning(lab, prepared).rating()


@pytest.fixture(scope="module")
def first(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    folder = tmp_path_factory.mktemp("first")
    return folder, experiment().run(replace(lab, folder=folder))


def test_a_run_writes_its_result_and_predictions(first: tuple[Path, Result]) -> None:
    folder, result = first
    assert Result.load(folder) == result
    frame = pd.read_parquet(folder / "predictions.parquet")
    assert result.n_test == len(frame) == 32
    assert set(result.keys) >= PROTOCOL_KEYS
    digits = frame[[f"p{n}" for n in range(1, 6)]]
    assert digits.sum(axis=1).to_numpy() == pytest.approx(1)
    expected = digits.to_numpy() @ [1, 2, 3, 4, 5]
    assert frame["expected_rating"].to_numpy() == pytest.approx(expected)
    assert frame["digit_mass"].between(0, 1).all()
    assert frame["user_mean"].between(1, 5).all()
    for version, names in result.baselines.items():
        for name, errors in names.items():
            error = frame[f"{version}/{name}"] - frame["rating"]
            assert (error**2).mean() ** 0.5 == pytest.approx(errors["rmse"])
    references = result.beyond["references"]
    assert references["spearman"].keys() == {*RANKING}
    assert 0 < references["rps"]["value"] < 1
    examples = json.loads((folder / "examples.json").read_text())
    assert len(examples) == 3
    assert all(each["title"] in each["prompt"] for each in examples)
    picture = json.loads((folder / "personas.json").read_text())
    assert len(picture["users"]) == 8
    assert {"n_rows", "n_steps", "loss"} <= result.adapters["persona_0"].keys()


def test_a_second_run_reuses_all_and_gives_the_same(
    first: tuple[Path, Result], lab: Lab, tmp_path: Path
) -> None:
    _, result = first
    again = experiment().run(replace(lab, folder=tmp_path))
    assert again.reused
    assert not result.reused
    assert replace(again, reused=False) == result


def test_a_run_and_its_reuse_show_in_weights_and_biases(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    started: list[dict[str, Any]] = []
    begin = wandb.init
    monkeypatch.setattr(
        wandb, "init", lambda **options: started.append(options) or begin(**options)
    )
    stages = []
    for name in ("first", "again"):
        (tmp_path / name).mkdir()
        run = configure("experiment=smoke", "logger=wandb", "seed=7")
        own = replace(lab, folder=tmp_path / name, logger=run.lab.logger)
        result = run.experiment.run(own)
        stages.append([options["job_type"] for options in started])
        started.clear()
        assert json.loads((tmp_path / name / "wandb.json").read_text())["group"]
        assert wandb.run is None
    assert result.reused
    # What was computed once has curves once; every run has its numbers.
    assert stages == [["adapters", "predictions"], ["predictions"]]


def test_the_shared_stages_alone_show_in_weights_and_biases(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[dict[str, Any]] = []
    monkeypatch.setattr(Wandb, "prepared", lambda self, *given: shown.append(given[2]))
    run = configure("experiment=smoke", "logger=wandb", "task=prepare")
    own = replace(lab, folder=tmp_path, logger=run.lab.logger)
    assert run.task.run(run.experiment, own) is None
    (numbers,) = shown
    assert numbers["timing"].keys() == {"split", "memories", "vectors", "personas"}
    assert numbers["timing"]["split"]["seconds"] > 0
    assert numbers["costs"]["memories"] == {"tokens": 0, "money": 0}


def test_what_a_run_is_found_by_are_its_settings(first: tuple[Path, Result], lab: Lab) -> None:
    one = experiment("seed=3")
    own = replace(lab, folder=first[0])
    labels = one.labels(own, one.prepare(own))
    assert labels.name == "r10"
    assert {"r10", "adapter=persona", "memory=ms_ml", "seed=3"} <= {*labels.tags}
    assert labels.config["row"]["adapter"] == "persona"
    assert labels.config["settings"]["train"]["epochs"] == one.train.epochs
    # Neither the logger nor where something lies on this machine.
    assert "logger" not in labels.config["settings"]
    assert json.dumps(labels.config).count(str(Path.home())) == 0


def test_rows_share_what_does_not_depend_on_the_model(
    first: tuple[Path, Result], lab: Lab, tmp_path: Path
) -> None:
    _, result = first
    other = experiment("adapter=none", "memory=ms").run(replace(lab, folder=tmp_path))
    shared = {"split", "memories", "vectors", "personas", "baselines"}
    assert {key for key in result.keys if result.keys[key] == other.keys[key]} == shared
    assert (other.row.id, result.row.id) == ("r3", "r10")


def test_rerun_trains_again_and_agrees(
    first: tuple[Path, Result], lab: Lab, tmp_path: Path
) -> None:
    folder, _ = first
    # A store of its own: what it computes again would take the place of what others compare.
    store = Path(shutil.copytree(lab.cache.root, tmp_path / "store"))
    own = replace(lab, folder=tmp_path, cache=Cache(store), rerun=True)
    assert not experiment().run(own).reused
    one, two = (pd.read_parquet(each / "predictions.parquet") for each in (folder, tmp_path))
    pd.testing.assert_frame_equal(one, two)


def test_each_user_is_rated_by_the_adapter_of_the_users_persona(
    first: tuple[Path, Result], lab: Lab
) -> None:
    one = experiment()
    prepared = one.prepare(lab)
    tuning = one.tuning(lab, prepared)
    plan, adapters = tuning.plan, tuning.adapters()
    examples = tuning.examples(prepared.split.value.test, training=False)
    right = tuning.answer(examples, adapters)
    frame = pd.read_parquet(first[0] / "predictions.parquet")
    expected = frame["expected_rating"].to_numpy()
    assert [each.expected_rating for each in right] == pytest.approx(expected)
    for name, rows in plan.rows.items():
        personas = {prepared.personas.value.of(user) for user in rows["user_id"]}
        assert personas == {int(name.removeprefix("persona_"))}

    swapped = {**adapters, "persona_0": adapters["persona_1"], "persona_1": adapters["persona_0"]}
    wrong = tuning.answer(examples, swapped)
    changed = {
        plan.route[example.user_id]
        for example, a, b in zip(examples, right, wrong, strict=True)
        if a.expected_rating != b.expected_rating
    }
    assert changed == {"persona_0", "persona_1"}


def test_the_base_is_bit_identical_after_a_run(lab: Lab, tmp_path: Path) -> None:
    one = experiment("seed=3")
    base = one.model.load(lab.sources, torch.float32, "cpu")
    tree = Tree([group([[3, 4, 5, 6], [3, 4, 9]], [0, 1])])
    with torch.inference_mode():
        before = run(base, tree)
    one.run(replace(lab, folder=tmp_path))
    with torch.inference_mode():
        assert torch.equal(run(base, tree), before)


def test_another_users_profile_is_shown_to_the_same_adapters(
    first: tuple[Path, Result], lab: Lab, tmp_path: Path
) -> None:
    control = experiment("memory.test_profile=another").run(replace(lab, folder=tmp_path))
    _, result = first
    assert control.keys["adapters"] == result.keys["adapters"]
    assert control.keys["predictions"] != result.keys["predictions"]
    assert control.metrics["rmse_expected"] != result.metrics["rmse_expected"]


def test_random_memories_are_shown_to_the_same_adapters(lab: Lab) -> None:
    # Room for memories: at the usual context of the tiny model they are cut.
    nearest, control = (
        experiment(f"memory.test_memories={which}", "model.context=8192")
        for which in ("nearest", "random")
    )
    prepared = nearest.prepare(lab)
    split = prepared.split.value
    last = split.train.groupby("user_id").tail(2)

    def prompts(one: Experiment, rows: pd.DataFrame, training: bool) -> list[list[int]]:
        return [each.ids for each in one.tuning(lab, prepared).examples(rows, training=training)]

    usual, other = rating(lab, nearest), rating(lab, control)
    assert other.inputs["adapters"] == usual.inputs["adapters"]
    assert other.key != usual.key
    assert prompts(control, last, True) == prompts(nearest, last, True)
    shown = zip(
        prompts(control, split.test, False), prompts(nearest, split.test, False), strict=True
    )
    assert sum(one != other for one, other in shown) > len(split.test) / 2
    assert (control.row_id, control.departures) == (None, ["memory.test_memories=random"])


def test_memories_at_evaluation_only_are_shown_to_the_adapters_of_ms(
    first: tuple[Path, Result], lab: Lab
) -> None:
    def keys(*overrides: str) -> tuple[str, dict[str, str]]:
        stage = rating(lab, experiment(*overrides))
        return stage.key, stage.inputs["adapters"]

    rag, trained = keys("memory.training_memories=none")
    ms, of_ms = keys("memory=ms")
    assert trained == of_ms
    assert rag not in (ms, first[1].keys["predictions"])
    one = experiment("memory.training_memories=none")
    prepared = one.prepare(lab)
    tuning, split = one.tuning(lab, prepared), prepared.split.value
    for rows, training in ((split.train, True), (split.test, False)):
        shown = tuning.examples(rows.head(1), training=training)[0]
        assert ("YOUR MEMORIES" in tuning.codec.tokenizer.decode(shown.ids)) != training


def test_seeds_and_precisions_share_the_audit(lab: Lab) -> None:
    def keys(*overrides: str) -> tuple[str, str]:
        one = experiment(*overrides)
        return one.auditing(one.tuning(lab, one.prepare(lab))).key, rating(lab, one).key

    audit, predictions = keys()
    for other in ("seed=5", "trainer.precision=bf16-mixed", "peft=qlora"):
        same, others = keys(other)
        assert (same, others != predictions) == (audit, True)
    assert keys("prompt.order=static_first")[0] != audit


def test_only_what_groups_by_something_else_than_profiles_is_a_control() -> None:
    assert experiment("personas=minibatch").row_id == "r10"
    assert experiment("personas=kmeans", "personas.name=mine").row_id == "r10"
    for other in ("genres", "gender", "age"):
        assert experiment(f"personas={other}").departures
        assert not experiment(f"personas={other}", "adapter=single_max").departures


def test_a_base_in_four_bits_has_keys_of_its_own(lab: Lab) -> None:
    def keys(*overrides: str) -> set[str]:
        stage = rating(lab, experiment(*overrides))
        return {stage.key, *stage.inputs["adapters"].values()}

    # Also without an adapter: the frozen model rates by what is left of its weights.
    assert keys("adapter=none").isdisjoint(keys("adapter=none", "peft=qlora"))
    assert keys("adapter=none") == keys("adapter=none", "peft=dora")
    assert keys().isdisjoint(keys("peft=qlora"))
    assert keys("peft=qlora").isdisjoint(keys("peft=qlora", "peft.quantisation=fp4"))


def test_how_memories_are_found_is_nothing_to_prompts_without_them(
    lab: Lab,
) -> None:
    def key(*overrides: str) -> str:
        one = experiment("memory.top_k=2", *overrides)
        prepared = one.prepare(lab)
        return one.tuning(lab, prepared).training("persona_0").key

    ms = key("memory=ms")
    assert ms == key("memory=ms", "memory.top_k=1", "memory.query=user_item")
    assert key("memory=ml") != key("memory=ml", "memory.top_k=1")
    assert ms != key("memory=ms", "train.tokens_per_microbatch=99")


def test_more_personas_than_users_is_refused(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"personas\.n_personas is 9"):
        experiment("personas.n_personas=9").run(replace(lab, folder=tmp_path))


@pytest.mark.parametrize(("opposition", "persona_wins"), [(1.0, True), (0.0, False)])
def test_personas_win_where_they_differ_and_only_there(
    opposition: float, persona_wins: bool, lab: Lab, tmp_path: Path
) -> None:
    errors = {}
    for mode in ("persona", "single_max"):
        routed = experiment(
            f"adapter={mode}",
            f"data.reader.opposition={opposition}",
            "data.reader.n_users=100",
            "data.n_users=16",
            "model.random.layers=1",
            "data.test_rows_per_user=10",
            "train.batch_size=16",
            study="routing",
        )
        folder = tmp_path / mode
        folder.mkdir()
        routed.run(replace(lab, folder=folder))
        frame = pd.read_parquet(folder / "predictions.parquet")
        errors[mode] = (frame["expected_rating"] - frame["rating"]) ** 2
        users = frame["user_id"]
    gain = errors["single_max"] - errors["persona"]
    draws = np.random.default_rng(0).integers(0, users.nunique(), (1000, users.nunique()))
    low = np.quantile(gain.groupby(users).mean().to_numpy()[draws].mean(axis=1), 0.025)
    assert (low > 0) == persona_wins


def test_where_personas_differ_their_own_adapters_rate_them_best(lab: Lab, tmp_path: Path) -> None:
    crossing, plain = (
        experiment(
            "adapter=persona",
            f"adapter.matrix={matrix}",
            *("data.reader.n_users=100", "data.n_users=16", "model.random.layers=1"),
            *("data.test_rows_per_user=10", "train.batch_size=16"),
            study="routing",
        ).run(replace(lab, folder=tmp_path))
        for matrix in (True, False)
    )
    assert plain.matrix == []
    assert replace(crossing, matrix=[], reused=True) == plain
    cells = {(each["adapter"], each["users"]): each for each in crossing.matrix}
    names = ["persona_0", "persona_1"]
    assert [*cells] == [(adapter, users) for adapter in names for users in names]
    own = {each["persona"]: each["rmse_expected"] for each in plain.per_persona}
    for number, users in enumerate(names):
        assert cells[users, users]["rmse_expected"] == pytest.approx(own[number], rel=1e-4)
        other = cells[names[1 - number], users]["difference"]["rmse"]
        assert other["low"] > 0

from dataclasses import replace

import pytest
from scales import HALVES

from persona_lab.errors import UserError
from persona_lab.report import build


def test_runs_are_found_in_a_sweep_above_it_and_alone(sweep):
    sweep.add("morning/one")
    sweep.add("morning/two")
    sweep.add(".hydra/hidden")
    for folder in (sweep.folder, sweep.folder / "morning"):
        assert [run.name.split("/")[-1] for run in build(folder).runs] == ["one", "two"]
    assert [run.name for run in build(sweep.folder / "morning" / "one").runs] == ["one"]


def test_rows_are_sorted_by_number_then_others_by_name_then_seed(sweep):
    sweep.add("a", id="r10")
    sweep.add("b", id="r2", seed=1)
    sweep.add("c", id="r2", seed=0)
    sweep.add("e")
    sweep.add("d")
    assert [run.name for run in build(sweep.folder).runs] == ["c", "b", "a", "d", "e"]


def test_several_folders_make_one_report_with_runs_told_apart(sweep):
    sweep.add("x/run", id="r9")
    sweep.add("y/run", id="r9")
    runs = build(sweep.folder / "x", sweep.folder / "y").runs
    assert [run.name for run in runs] == ["x/run", "y/run"]
    assert len({run.label for run in runs}) == 2


def test_runs_are_told_apart_by_their_seed_where_that_does(sweep):
    for name, row, seed in (("a", "r9", 0), ("b", "r9", 1), ("c", "r5", 0), ("d", "r5", 0)):
        sweep.add(name, id=row, seed=seed)
    sweep.add("e")
    assert [run.label for run in build(sweep.folder).runs] == [
        "r5 · no adapter · M_s · c",
        "r5 · no adapter · M_s · d",
        "r9 · no adapter · M_s · seed 0",
        "r9 · no adapter · M_s · seed 1",
        "no adapter · M_s",
    ]


def test_runs_without_a_result_are_failures_with_their_error(sweep):
    sweep.add("fine")
    sweep.fail("broken", error="UserError: no weights", overrides=("adapter=persona", "seed=1"))
    sweep.fail("killed", state="running", error=None)
    sweep.write("empty", {"state": "completed"})
    sweep.write("torn", {})
    (sweep.folder / "torn" / "status.json").write_text("{")
    sweep.write("list", [])
    sweep.add("cut")
    (sweep.folder / "cut" / "predictions.parquet").write_bytes(b"PAR1")
    report = build(sweep.folder)
    assert [run.name for run in report.runs] == ["fine"]
    failures = {failure.name: failure for failure in report.failures}
    assert failures["broken"].error == "UserError: no weights"
    assert failures["broken"].overrides == ("adapter=persona", "seed=1")
    assert failures["killed"].error == "not finished, or killed"
    assert "no result.json" in failures["empty"].error
    assert {failures[name].state for name in ("torn", "list", "cut")} == {"damaged"}


def test_predictions_hold_a_probability_of_each_value_of_the_scale(sweep):
    result = sweep.add("run")
    replace(result, scale=HALVES).save(sweep.folder / "run")
    (failure,) = build(sweep.folder).failures
    assert "predictions.parquet lacks p0.5, p1.5, p2.5" in failure.error


def test_a_result_without_status_or_predictions_still_counts(sweep):
    sweep.add("copied")
    for name in ("status.json", "predictions.parquet"):
        (sweep.folder / "copied" / name).unlink()
    (run,) = build(sweep.folder).runs
    assert run.predictions is None


@pytest.mark.parametrize("name", ["", "nothing-here"])
def test_a_folder_without_runs_is_the_users_error(tmp_path, name):
    with pytest.raises(UserError):
        build(tmp_path / name)


@pytest.mark.parametrize(
    ("setup", "role", "model", "stands_in"),
    [
        ("paper", "slm", "phi3", False),
        ("paper", "llm", "llama3", False),
        ("paper", "llm", "phi3", True),
        ("paper", "slm", "tiny_phi3", True),
        ("paper", "slm", "smollm2", True),
        ("embedded", "slm", "phi3", False),
        ("embedded", "llm", "gemma3", True),
    ],
)
def test_a_model_stands_in_unless_it_is_the_papers_whatever_the_setup(
    sweep, setup, role, model, stands_in
):
    sweep.add("run")
    (run,) = build(sweep.folder).runs
    row = replace(run.result.row, setup=setup, role=role, model=model)
    assert replace(run, result=replace(run.result, row=row)).stands_in is stands_in

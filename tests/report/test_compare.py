from dataclasses import replace

import pytest

from persona_lab.report import build
from persona_lab.report.compare import against_run, findings, groups, verdict


def difference(low, high):
    return {"value": 0.0, "low": low, "high": high}


@pytest.mark.parametrize(
    ("differences", "said"),
    [
        ([difference(-0.2, -0.1)], "lower"),
        ([difference(0.1, 0.2)], "higher"),
        ([difference(-0.1, 0.1)], "within noise"),
        ([difference(-0.2, -0.1), None], "lower"),
        ([difference(-0.2, -0.1), difference(-0.3, -0.1)], "lower"),
        ([difference(-0.2, -0.1), difference(-0.2, 0.1)], "within noise"),
        ([difference(-0.2, -0.1), difference(0.1, 0.2)], "within noise"),
        ([difference(None, None)], "no interval"),
        ([None], "not compared"),
    ],
)
def test_a_claim_holds_only_if_all_intervals_agree(differences, said):
    assert verdict(*differences) == said


def test_runs_of_other_splits_are_kept_apart_with_their_own_baselines(sweep):
    sweep.add("a", split_seed=0)
    sweep.add("b", split_seed=1)
    sweep.add("c", split_seed=0, noise=0.1)
    first, second = groups(build(sweep.folder))
    assert [run.name for run in first.runs] == ["a", "c"]
    assert [run.name for run in second.runs] == ["b"]
    assert (first.name, second.name) == ("A", "B")
    assert first.best.name == "c"
    assert first.baselines != second.baselines
    assert next(iter(first.baselines)) == ("prompt", "prompt_mean")


def test_the_difference_to_the_best_run_is_paired_on_the_rows(sweep):
    good, bad = sweep.add("good", noise=0.2), sweep.add("bad", noise=1.2)
    runs = {run.name: run for run in build(sweep.folder).runs}
    found = against_run(runs["bad"], runs["good"])
    expected = bad.metrics["rmse_expected"] - good.metrics["rmse_expected"]
    assert found["value"] == pytest.approx(expected)
    assert 0 < found["low"] < found["high"]


def test_runs_are_not_compared_without_the_same_rows(sweep):
    sweep.add("all")
    sweep.add("some", n_users=30)
    runs = {run.name: run for run in build(sweep.folder).runs}
    assert against_run(runs["all"], runs["some"]) is None
    assert against_run(replace(runs["all"], predictions=None), runs["all"]) is None


def test_findings_name_every_baseline_once(sweep):
    sweep.add("run", noise=0.5)
    (group,) = groups(build(sweep.folder))
    said = " ".join(findings(group))
    for name in ("always 4", "user mean", "item mean (all)", "user + item bias (cohort)"):
        assert said.count(name) == 1
    assert "lower, beyond noise" in said
    assert all(sentence.endswith(".") for sentence in findings(group))

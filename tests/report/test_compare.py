from dataclasses import replace

import pytest

from persona_lab.report import build
from persona_lab.report.compare import (
    against,
    claims,
    contrasts,
    detectable,
    findings,
    groups,
    verdict,
)
from persona_lab.report.lines import alone


def against_run(run, other):
    return against(alone(run), alone(other))


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
        ([difference(2.0, 2.0)], "no interval"),
        ([difference(-0.2, -0.1), difference(0.3, 0.3)], "no interval"),
        ([difference(0.0, 0.0)], "equal"),
        ([difference(0.0, 0.0), difference(-0.1, 0.1)], "no interval"),
        ([], "not compared"),
        ([None], "not compared"),
    ],
)
def test_a_claim_holds_only_if_all_intervals_agree(differences, said):
    assert verdict(*differences) == said


def test_runs_of_other_test_rows_are_kept_apart_with_their_own_baselines(sweep):
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


def test_runs_of_the_same_test_rows_are_paired_also_where_another_mean_is_shown(sweep):
    sweep.add("strict", id="r9")
    other = sweep.add("paper", id="r10", protocol="paper")
    shown = {"prompt": {"prompt_mean": other.baselines["prompt"]["prompt_mean"] | {"rmse": 0.5}}}
    keys = other.keys | {"split": "another"}
    replace(other, baselines=other.baselines | shown, keys=keys).save(sweep.folder / "paper")
    (group,) = groups(build(sweep.folder))
    assert [run.name for run in group.runs] == ["strict", "paper"]
    assert against_run(*group.runs) is not None
    first, second, third, *_ = group.baselines
    assert (first, second) == (("prompt", "prompt_mean"), ("prompt", "prompt_mean_user_offset"))
    assert third[1].startswith("item mean that the prompt shows, in r10 · ")
    assert group.baselines[third]["rmse"] == 0.5
    assert len(group.baselines) == 1 + sum(map(len, other.baselines.values()))


def test_the_difference_to_the_best_run_is_paired_on_the_rows(sweep):
    good, bad = sweep.add("good", noise=0.2), sweep.add("bad", noise=1.2)
    runs = {run.name: run for run in build(sweep.folder).runs}
    found = against_run(runs["bad"], runs["good"])
    for name, interval in (("rmse", found.decoded), ("rmse_expected", found.expected)):
        assert interval["value"] == pytest.approx(bad.metrics[name] - good.metrics[name])
        assert 0 < interval["low"] < interval["high"]
    assert (found.verdict, found.check, found.n) == ("higher", None, 640)


def test_decoded_ratings_are_compared_where_both_answered_and_again_everywhere(sweep):
    sweep.add("some", unrelated=600)
    sweep.add("all", noise=0.5)
    sweep.add("none", unrelated=640)
    runs = {run.name: run for run in build(sweep.folder).runs}
    found = against_run(runs["some"], runs["all"])
    assert found.n == 40
    filled = runs["some"].predictions
    filled = filled["prediction"].fillna(filled["user_mean"]).astype(float)
    errors = [filled - runs["some"].predictions["rating"]]
    errors += [runs["all"].predictions["prediction"].astype(float)]
    errors[1] = errors[1] - runs["all"].predictions["rating"]
    first, second = [float((each**2).mean() ** 0.5) for each in errors]
    assert found.check["value"] == pytest.approx(first - second)
    silent = against_run(runs["none"], runs["all"])
    assert (silent.decoded, silent.verdict, silent.n) == (None, "not compared", 0)


def test_a_run_that_hardly_answers_is_never_the_best(sweep):
    """Its few answers, or its expected ratings, may err least."""
    sweep.add("silent", noise=0.1, unrelated=630)
    sweep.add("talking", noise=1.0, unrelated=10)
    (group,) = groups(build(sweep.folder))
    assert group.best.name == "talking"
    silent = replace(group, runs=tuple(run for run in group.runs if run.name == "silent"))
    assert silent.best is None


def test_personas_are_compared_with_what_differs_in_the_adapter_alone(sweep):
    sweep.add("a", adapter="persona", changed={"adapter.max_rows": 3})
    sweep.add("b", adapter="none")
    sweep.add("c", adapter="single_max")
    sweep.add("d", adapter="single_max", memory="ms_ml")
    sweep.add("e", adapter="single_max", changed={"memory.top_k": 3})
    sweep.add("f", adapter="single_max", seed=1)
    (group,) = groups(build(sweep.folder))
    found = [([run.name for run in each.runs] for each in pair) for pair in contrasts(group)]
    assert [tuple(map("".join, pair)) for pair in found] == [("a", "cf"), ("a", "b")]


def test_personas_of_no_profiles_are_compared_though_they_alone_are_a_control(sweep):
    sweep.add("a", adapter="persona", personas="genres", control=True)
    sweep.add("b", adapter="single_max", personas="genres")
    sweep.add("c", adapter="single_max", personas="kmeans")
    (group,) = groups(build(sweep.folder))
    assert [tuple(each.first.name for each in pair) for pair in contrasts(group)] == [("a", "b")]


def test_the_seeds_of_a_line_are_compared_together(sweep):
    for name, adapter, seed in (("a", "persona", 0), ("b", "persona", 1), ("c", "single_max", 0)):
        sweep.add(name, adapter=adapter, seed=seed)
    (group,) = groups(build(sweep.folder))
    ((line, other),) = contrasts(group)
    found = against(line, other)
    value = line.metrics["rmse_expected"] - other.metrics["rmse_expected"]
    assert found.expected["value"] == pytest.approx(value)
    assert found.decoded["value"] == pytest.approx(line.metrics["rmse"] - other.metrics["rmse"])


def test_what_would_show_is_of_persona_against_single_else_of_all_against_the_best(sweep):
    sweep.add("a", adapter="persona")
    sweep.add("b", adapter="none", noise=0.2)
    (group,) = groups(build(sweep.folder))
    assert detectable(group) == (against_run(group.runs[0], group.runs[1]).detectable,)
    sweep.add("c", adapter="single_max")
    (group,) = groups(build(sweep.folder))
    assert detectable(group) == (against_run(group.runs[0], group.runs[2]).detectable,)
    # Some 40 users: t(0.975) + t(0.8) = 2.87 standard errors; the interval is 2.02 of them wide.
    found = against_run(group.runs[0], group.runs[2]).decoded
    half = (found["high"] - found["low"]) / 2
    assert found["detectable"] == pytest.approx(half * 2.87 / 2.02, rel=0.1)


def test_claims_are_of_the_rows_of_the_table(sweep):
    """A run again of a seed stands on another line, and counts once."""
    for name, row, seed in (("a", "r9", 0), ("b", "r9", 1), ("c", "r9", 1), ("d", "r5", 0)):
        sweep.add(name, id=row, adapter="persona" if row == "r9" else "single_max", seed=seed)
    (group,) = groups(build(sweep.folder))
    assert [len(line.runs) for line in group.lines] == [1, 2, 1]
    (found,) = [each for each in claims(group) if each.name == "r9 < r5"]
    assert found.contrast.n_seeds == (2, 1)


@pytest.mark.parametrize("given", [{"cohort": "dev"}, {"facts": {"development": True}}])
def test_no_claim_is_judged_on_rows_that_choices_are_made_on(sweep, given):
    sweep.add("a", id="r9", adapter="persona", **given)
    sweep.add("b", id="r5", adapter="single_max", **given)
    (group,) = groups(build(sweep.folder))
    assert claims(group) == ()


def test_runs_are_not_compared_without_the_same_rows(sweep):
    sweep.add("all")
    sweep.add("some", n_users=30)
    runs = {run.name: run for run in build(sweep.folder).runs}
    assert against_run(runs["all"], runs["some"]) is None
    assert against_run(replace(runs["all"], predictions=None), runs["all"]) is None


def test_findings_name_every_baseline_once(sweep):
    sweep.add("run", noise=0.5)
    (group,) = groups(build(sweep.folder))
    said = " ".join(findings(group.best, list(group.baselines)))
    for name in ("always 4", "user mean", ", item mean,", "user's offset", "bias"):
        assert said.count(name) == 1
    assert "lower, beyond noise" in said


def test_findings_name_the_version_of_a_baseline_where_it_matters(sweep):
    sweep.add("run", noise=0.5)
    (group,) = groups(build(sweep.folder))
    for record in group.best.result.comparisons:
        if (record["version"], record["baseline"]) == ("cohort", "user_item_bias"):
            record["rmse"] = difference(0.1, 0.2)
    lower, higher = findings(group.best, list(group.baselines))
    assert "bias (all but the test rows)" in lower
    assert higher.endswith("than that of: user + item bias (the users' training rows).")

from dataclasses import replace

import pytest

from persona_lab.evaluation import adjust
from persona_lab.report import build
from persona_lab.report.compare import (
    against,
    against_best,
    against_predictors,
    against_single,
    claims,
    compared,
    contrasts,
    detectable,
    groups,
    verdict,
)
from persona_lab.report.lines import alone
from persona_lab.report.notes import findings

from .conftest import trained


def against_run(run, other):
    return against(alone(run), alone(other))


def detectable_between(run, other):
    return against_run(run, other).decoded.differences["rmse"].detectable


def value(contrast):
    return contrast.differences["rmse"].value


def test_runs_of_other_test_rows_are_kept_apart_with_their_own_baselines(sweep):
    sweep.add("a", split_seed=0)
    sweep.add("b", split_seed=1)
    sweep.add("c", split_seed=0, noise=0.1)
    first, second = groups(build(sweep.folder))
    assert [run.name for run in first.runs] == ["a", "c"]
    assert [run.name for run in second.runs] == ["b"]
    assert (first.name, second.name) == ("A", "B")
    assert first.best.first.name == "c"
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
    assert against_run(*group.runs).expected is not None
    first, second, third, *_ = group.baselines
    assert (first, second) == (("prompt", "prompt_mean"), ("prompt", "prompt_mean_user_offset"))
    assert third[1].startswith("item mean that the prompt shows, in r10 · ")
    assert group.baselines[third]["rmse"] == 0.5
    assert len(group.baselines) == 1 + sum(map(len, other.baselines.values()))


def test_the_difference_to_the_best_run_is_paired_on_the_rows(sweep):
    good, bad = sweep.add("good", noise=0.2), sweep.add("bad", noise=1.2)
    runs = {run.name: run for run in build(sweep.folder).runs}
    found = against_run(runs["bad"], runs["good"])
    for suffix, contrast in (("", found.decoded), ("_expected", found.expected)):
        for metric, ends in contrast.differences.items():
            name = f"{metric}{suffix}"
            assert ends.value == pytest.approx(bad.metrics[name] - good.metrics[name])
            assert 0 < ends.low < ends.high
    decoded = found.decoded
    assert (verdict(decoded), decoded.check, decoded.n) == ("higher", None, 640)


def test_decoded_ratings_are_compared_where_both_answered_and_again_everywhere(sweep):
    sweep.add("some", unrelated=600)
    sweep.add("all", noise=0.5)
    sweep.add("none", unrelated=640)
    runs = {run.name: run for run in build(sweep.folder).runs}
    found = against_run(runs["some"], runs["all"])
    assert found.decoded.n == 40
    filled = runs["some"].predictions
    filled = filled["prediction"].fillna(filled["user_mean"]).astype(float)
    errors = [filled - runs["some"].predictions["rating"]]
    errors += [runs["all"].predictions["prediction"].astype(float)]
    errors[1] = errors[1] - runs["all"].predictions["rating"]
    first, second = [float((each**2).mean() ** 0.5) for each in errors]
    assert found.decoded.check["rmse"].value == pytest.approx(first - second)
    silent = against_run(runs["none"], runs["all"])
    assert (silent.decoded, verdict(silent.decoded)) == (None, "not testable")


def test_a_line_that_hardly_answers_is_never_the_best(sweep):
    """Its few answers, or its expected ratings, may err least."""
    sweep.add("silent", noise=0.1, unrelated=630)
    sweep.add("talking", noise=1.0, unrelated=10)
    (group,) = groups(build(sweep.folder))
    assert group.best.first.name == "talking"
    lines = tuple(line for line in group.lines if line.first.name == "silent")
    silent = replace(group, lines=lines)
    assert silent.best is None
    assert against_best(silent) == {}


def test_the_best_is_a_line_of_all_its_seeds_and_no_lucky_one(sweep):
    lucky = sweep.add("a", id="r9", seed=0, noise=0.1)
    sweep.add("b", id="r9", seed=1, noise=1.5)
    steady = [sweep.add(name, id="r10", seed=i, noise=0.5) for i, name in enumerate("cd")]
    assert lucky.metrics["rmse"] < min(each.metrics["rmse"] for each in steady)
    (group,) = groups(build(sweep.folder))
    assert [run.name for run in group.best.runs] == ["c", "d"]
    assert [pair[0].first.name for pair in against_best(group)] == ["a"]


def test_seeds_that_together_hardly_answer_are_not_ranked(sweep):
    sweep.add("a", id="r9", seed=0, noise=0.1)
    sweep.add("b", id="r9", seed=1, noise=0.1, unrelated=630)
    sweep.add("c", id="r10", noise=1.0)
    (group,) = groups(build(sweep.folder))
    assert group.best.first.name == "c"


def test_every_line_is_compared_with_the_main_predictors_and_the_best_with_all(sweep):
    good = sweep.add("a", id="r9", noise=0.4, unrelated=3)
    bad = sweep.add("b", id="r5", noise=1.2)
    (group,) = groups(build(sweep.folder))
    found = against_predictors(group)
    best, other = sorted(group.lines, key=lambda line: line.metrics["rmse"])
    assert {key for line, key in found if line is other} == {*group.main}
    assert {key for line, key in found if line is best} == {*group.predictors}
    for line, result in ((best, good), (other, bad)):
        for version, name in group.main:
            each = found[line, (version, name)]
            theirs = result.baselines[version][name]["rmse"]
            ours = result.metrics["rmse_expected"]
            assert value(each.expected) == pytest.approx(ours - theirs)
            if line is other:  # on all rows; the best one leaves some out
                assert value(each.decoded) == pytest.approx(result.metrics["rmse"] - theirs)
    kept = found[best, ("all", "always_4")].decoded
    assert (kept.n, kept.check is None) == (637, False)


def test_seeds_are_compared_with_predictors_together(sweep):
    results = [sweep.add(name, id="r9", seed=i, noise=0.4 + i) for i, name in enumerate("ab")]
    (group,) = groups(build(sweep.folder))
    (line,) = group.lines
    for key in group.predictors:
        each = against_predictors(group)[line, key]
        theirs = results[0].baselines[key[0]][key[1]]
        for metric in ("rmse", "mae"):
            for contrast, suffix in ((each.decoded, ""), (each.expected, "_expected")):
                ours = line.metrics[f"{metric}{suffix}"]
                assert contrast.differences[metric].value == pytest.approx(ours - theirs[metric])
        assert each.decoded.n_seeds == (2, 1)
    # Two seeds that differ so much widen the interval beyond that of one of them.
    pooled = against_predictors(group)[line, ("all", "always_4")].expected.differences["rmse"]
    (alone,) = groups(build(sweep.folder / "a"))
    one = against_predictors(alone)[alone.lines[0], ("all", "always_4")].expected
    one = one.differences["rmse"]
    assert pooled.high - pooled.low > 1.5 * (one.high - one.low)


def test_what_is_expected_is_what_counts_under_the_expected_decode(sweep):
    sweep.add("a", decode="expected")
    (group,) = groups(build(sweep.folder))
    found = against_predictors(group)[group.lines[0], ("all", "always_4")]
    assert found.decoded.differences == found.expected.differences


def test_p_is_corrected_for_what_is_read_together_and_for_nothing_else(sweep):
    for name, adapter in (
        ("a", "persona"),
        ("b", "single_max"),
        ("c", "single_min"),
        ("d", "none"),
    ):
        sweep.add(name, adapter=adapter, noise=0.85 if name == "a" else 0.9)
    (group,) = groups(build(sweep.folder))
    found = compared(group)
    for kind in ("decoded", "expected"):
        bare = {f"{i}": getattr(against(*pair), kind) for i, pair in enumerate(found)}
        corrected = [getattr(each, kind).adjusted for each in found.values()]
        assert corrected == [each.adjusted for each in adjust(bare).values()]
    assert [pair[1].adapter for pair in against_single(group)] == ["single_max", "single_min"]
    assert all(found[pair] is each for pair, each in against_single(group).items())


def test_comparisons_with_predictors_are_one_family(sweep):
    for i, name in enumerate("ab"):
        sweep.add(name, id=f"r{i}", noise=0.9)
    (group,) = groups(build(sweep.folder))
    found = [each.decoded for each in against_predictors(group).values()]
    assert len(found) == len(group.main) + len(group.predictors)
    bare = {f"{i}": replace(each, adjusted={}) for i, each in enumerate(found)}
    assert [each.adjusted for each in adjust(bare).values()] == [each.adjusted for each in found]


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


def test_adapters_are_told_by_whom_they_serve_and_from_what_they_start(sweep):
    shared = trained("single_full") | {
        name: adapter | {"start": "single"} for name, adapter in trained("persona").items()
    }
    shared["single"]["serves"] = {"users": 0, "personas": []}
    sweep.add("a", adapter="from_shared", facts={"adapters": shared})
    for name, adapter in (
        ("b", "persona"), ("c", "random_persona"), ("d", "per_user"), ("e", "mine"), ("f", "none")
    ):  # fmt: skip
        sweep.add(name, adapter=adapter)
    (group,) = groups(build(sweep.folder))
    pairs = ["".join(line.first.name for line in pair) for pair in contrasts(group)]
    assert pairs == ["ae", "be", "ac", "bc", "ab", "af", "bf"]
    assert ["".join(line.first.name for line in pair) for pair in against_single(group)] == [
        "ae", "be",
    ]  # fmt: skip


def test_personas_of_no_profiles_are_compared_though_they_alone_are_a_control(sweep):
    sweep.add("a", adapter="persona", personas="genres", departures=["of genres"])
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
    expected = line.metrics["rmse_expected"] - other.metrics["rmse_expected"]
    assert value(found.expected) == pytest.approx(expected)
    assert value(found.decoded) == pytest.approx(line.metrics["rmse"] - other.metrics["rmse"])


def test_what_would_show_is_of_persona_against_single_else_of_all_against_the_best(sweep):
    sweep.add("a", adapter="persona")
    sweep.add("b", adapter="none", noise=0.2)
    (group,) = groups(build(sweep.folder))
    assert detectable(group) == (detectable_between(group.runs[0], group.runs[1]),)
    sweep.add("c", adapter="single_max")
    (group,) = groups(build(sweep.folder))
    assert detectable(group) == (detectable_between(group.runs[0], group.runs[2]),)
    # Some 40 users: t(0.975) + t(0.8) = 2.87 standard errors; the interval is 2.02 of them wide.
    found = against_run(group.runs[0], group.runs[2]).decoded.differences["rmse"]
    half = (found.high - found.low) / 2
    assert found.detectable == pytest.approx(half * 2.87 / 2.02, rel=0.1)


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
    assert against_run(runs["all"], runs["some"]) == (None, None)
    assert against_run(replace(runs["all"], predictions=None), runs["all"]) == (None, None)


def test_findings_leave_out_an_average_that_another_rows_prompt_shows(sweep):
    sweep.add("a", id="r9", noise=0.4)
    other = sweep.add("b", id="r10")
    shown = {"prompt": {"prompt_mean": other.baselines["prompt"]["prompt_mean"] | {"rmse": 0.5}}}
    replace(other, baselines=other.baselines | shown).save(sweep.folder / "b")
    report = build(sweep.folder)
    (group,) = groups(report)
    assert len([key for key in group.predictors if key[0] == "prompt"]) == 3
    assert any("minus that of 14 simple predictors" in said for said in findings(report))

from dataclasses import replace

import pytest

from persona_lab.evaluation import CLAIMS, OURS, TableRow, judge

NOISE = {"r10": 0.5, "r7": 0.9, "r8": 0.9, "r5": 0.9, "r9": 0.9, "random_ms_ml": 0.5}


@pytest.fixture
def table(run):
    """A persona row with the lowest error by far, single adapters all alike, no large model."""
    return {
        name: TableRow((run(noise, seed),)) for seed, (name, noise) in enumerate(NOISE.items(), 1)
    }


def by_name(table, prediction="expected"):
    return {judged.name: judged for judged in judge(table, prediction)}


def test_the_first_contrast_is_persona_against_single_and_names_are_unique():
    names = [claim.name for claim in (*CLAIMS, *OURS)]
    assert names[0] == "r10 > r7"
    assert len(set(names)) == len(names)


def test_claims_are_judged_beyond_noise_only(table):
    found = by_name(table)
    assert found["r10 > r7"].judgement == "contradicted"
    assert found["r10 < r7, r8"].judgement == "supported"
    assert found["r7 < r5"].judgement == "undecided"
    assert found["r10 < random_ms_ml"].judgement == "undecided"
    contrast = found["r10 < r7, r8"].contrast
    assert contrast.differences["rmse"].high < 0
    assert contrast.p("rmse") < contrast.adjusted["rmse"] < 0.05


def test_what_lacks_a_row_is_not_testable_and_says_which(table):
    found = by_name(table)["r7 < r4"]
    assert (found.judgement, found.why) == ("not testable", "r4 not in the table")


def test_a_stand_in_for_the_large_model_tests_nothing_about_it(table, run):
    played = TableRow((run(2.0, 9),), stands_in=True)
    found = by_name(table | {"r1": played, "r4": played})
    assert found["r7 < r1"].why == "a stand-in plays LLaMA-3 in r1"
    assert found["r7 < r1"].judgement == "not testable"
    assert found["r7 < r4"].judgement == "supported"
    real = by_name(table | {"r1": replace(played, stands_in=False)})
    assert real["r7 < r1"].judgement == "supported"


def test_rows_of_other_test_users_are_not_compared(table, run):
    found = by_name(table | {"r9": TableRow((run(0.9, 5, n_users=20),))})
    assert found["r10 < r9"].judgement == "not testable"


def all_rows(run, large, small):
    rows = {f"r{n}": TableRow((run(1, n, unrelated=large),)) for n in range(3)}
    return rows | {f"r{n}": TableRow((run(1, n, unrelated=small),)) for n in range(3, 11)}


@pytest.mark.parametrize(
    ("large", "small", "judgements"),
    [
        (0, 60, ("supported", "supported")),
        (60, 0, ("contradicted", "contradicted")),
        (1, 1, ("undecided", "undecided")),
    ],
)
def test_unrelated_responses_of_both_models(run, large, small, judgements):
    found = by_name(all_rows(run, large, small), "decoded")
    never, at_times = found["URR of r0, r1, r2 = 0"], found["URR of r3 to r10 > 0"]
    assert (never.judgement, at_times.judgement) == judgements
    assert never.shares["r2"].value == pytest.approx(large / 360)
    assert not any(name.startswith("URR") for name in by_name(all_rows(run, 0, 0)))


def test_few_responses_cannot_show_that_none_is_unrelated(run):
    rows = {f"r{n}": TableRow((run(1, n, n_users=20),)) for n in range(11)}
    assert by_name(rows, "decoded")["URR of r3 to r10 > 0"].judgement == "undecided"

from dataclasses import replace

import pytest

from persona_lab.evaluation import TableRow, judge
from persona_lab.evaluation.claims import CLAIMS, OURS

NOISE = {"r10": 0.5, "r7": 0.9, "r8": 0.9, "r5": 0.9, "r9": 0.9, "random_ms_ml": 0.5}


@pytest.fixture
def table(run):
    """A persona row with the lowest error by far, single adapters all alike, no large model."""
    return {
        name: TableRow(tuple(run(noise, 10 * place + seed) for seed in range(3)))
        for place, (name, noise) in enumerate(NOISE.items(), 1)
    }


def by_name(table, prediction="expected"):
    return {judged.name: judged for judged in judge(table, prediction)}


def test_the_first_contrast_is_persona_against_single_and_names_are_unique():
    names = [claim.name for claim in (*CLAIMS, *OURS)]
    assert names[:2] == ["r10 < r7", "r10 > r7"]
    assert len(set(names)) == len(names)


def test_claims_are_judged_beyond_noise_only(table):
    found = by_name(table)
    assert found["r10 < r7"].judgement == "supported"
    assert (found["r10 > r7"].judgement, found["r10 > r7"].source) == ("contradicted", "table")
    assert found["r10 < r7, r8"].judgement == "supported"
    assert found["r7 < r5"].judgement == "undecided"
    assert found["r10 < random_ms_ml"].judgement == "undecided"
    contrast = found["r10 < r7, r8"].contrast
    assert contrast.differences["rmse"].high < 0
    assert contrast.p("rmse") < contrast.adjusted["rmse"] < 0.05


def test_two_claims_on_the_same_rows_are_one_test(table):
    found = by_name({"r10": table["r10"], "r7": table["r7"]})["r10 < r7"].contrast
    assert found.adjusted["rmse"] == found.p("rmse")


def test_one_seed_of_a_trained_row_leaves_a_difference_undecided_and_says_why(table, run):
    once = TableRow(table["r7"].runs[:1])
    found = by_name(table | {"r7": once, "r4": TableRow((run(2.0, 9),))})
    assert (found["r10 < r7"].judgement, found["r10 < r7"].seeds) == ("undecided", 1)
    assert found["r10 < r7"].why.startswith("r7 with one seed")
    # What was not trained has no seeds to vary.
    trained = by_name(table | {"r4": TableRow((run(2.0, 9),))})["r7 < r4"]
    assert (trained.judgement, trained.why) == ("supported", "")


def test_trained_rows_share_what_varies_between_their_seeds(table, run):
    def widths(given):
        found = by_name(given)["r7 < r5"].contrast.differences["rmse"]
        return found.high - found.low

    # Neither r7 nor r5 varies much; a row beside them that does makes both less sure.
    apart = TableRow((run(0.4, 1), run(1.4, 2), run(0.4, 3)))
    assert widths(table | {"r6": apart}) > 2 * widths(table)
    assert widths(table | {"r4": apart}) == widths(table)  # not trained


def test_what_the_check_does_not_bear_out_is_undecided_and_says_so(run):
    # r7 errs less where it answers, which is seldom; the users' means are far off.
    silent = TableRow(tuple(run(0.3, seed, unrelated=300, mean=-2.0) for seed in (1, 2)))
    frozen = TableRow((run(1.0, 3, mean=-2.0),))
    found = by_name({"r7": silent, "r4": frozen}, "decoded")["r7 < r4"]
    assert found.contrast.differences["rmse"].side == -1
    assert (found.judgement, found.why.split(",")[0]) == ("undecided", "not so on all rows")


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
        (60, 0, ("contradicted", "undecided")),
        (1, 1, ("undecided", "undecided")),
    ],
)
def test_unrelated_responses_of_both_models(run, large, small, judgements):
    found = by_name(all_rows(run, large, small), "decoded")
    never, at_times = found["URR of r0, r1, r2 = 0"], found["URR of r3 to r10 > 0"]
    assert (never.judgement, at_times.judgement) == judgements
    assert never.shares["r2"].value == pytest.approx(large / 360)
    assert not any(name.startswith("URR") for name in by_name(all_rows(run, 0, 0)))


@pytest.mark.parametrize(("n_users", "judgement"), [(258, "undecided"), (259, "contradicted")])
def test_only_many_users_show_that_none_of_the_responses_is_unrelated(run, n_users, judgement):
    # 259 users without one: 95% sure that it is below the paper's lowest share, 1.15%.
    rows = {f"r{n}": TableRow((run(1, n, n_users=n_users),)) for n in range(11)}
    assert by_name(rows, "decoded")["URR of r3 to r10 > 0"].judgement == judgement


def test_a_stand_in_for_the_small_model_says_nothing_of_its_responses(run):
    rows = all_rows(run, 0, 60)
    played = rows | {"r5": replace(rows["r5"], stands_in=True)}
    found = by_name(played, "decoded")["URR of r3 to r10 > 0"]
    assert (found.judgement, found.why) == ("not testable", "a stand-in plays Phi-3 in r5")


def test_shares_of_unrelated_responses_vary_with_the_seed_too(run):
    frames = tuple(run(1, seed, unrelated=n) for seed, n in enumerate((0, 120)))
    rows = all_rows(run, 0, 60) | {"r10": TableRow(frames)}
    share = by_name(rows, "decoded")["URR of r3 to r10 > 0"].shares["r10"]
    assert share.value == pytest.approx(60 / 360)
    assert share.low < 0


def test_the_claim_about_size_cannot_be_tested_and_says_why(table):
    found = by_name(table)["r10 falls with size"]
    assert (found.judgement, found.contrast) == ("not testable", None)
    assert "no order of four sizes is rare" in found.why

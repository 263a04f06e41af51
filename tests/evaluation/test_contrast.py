import numpy as np
import pandas as pd
import pytest

from persona_lab.evaluation import Contrast, Difference, adjust, contrast, rows_key, varies


def test_rows_are_the_same_in_any_order_and_not_with_another_rating(run):
    one = run(1.0)
    assert rows_key(one) == rows_key(run(0.5, seed=1))
    assert rows_key(one) != rows_key(one.assign(rating=6 - one["rating"]))
    assert rows_key(one) != rows_key(one.iloc[1:])


def test_half_a_star_makes_other_rows(run):
    one = run(1.0)
    halves = one.assign(rating=one["rating"] + 0.5)
    assert rows_key(one) != rows_key(halves)
    assert rows_key(one) == rows_key(one.astype({"rating": float}))
    assert contrast([one], [halves], prediction="expected") is None


def test_a_planted_difference_is_found_and_a_null_is_not(run):
    better, worse, same = [run(0.7, 1)], [run(1.0, 2)], [run(1.0, 3)]
    for prediction in ("expected", "decoded"):
        assert contrast(better, worse, prediction=prediction).verdict() == "lower"
        assert contrast(worse, better, prediction=prediction).verdict("mae") == "higher"
        assert contrast(same, worse, prediction=prediction).verdict() == "within noise"


def test_rows_that_either_side_left_unanswered_are_left_out_and_checked(run):
    one, other = run(0.7, 1, unrelated=20), run(1.0, 2, unrelated=30)
    found = contrast([one], [other], prediction="decoded")
    assert (found.n, found.n_users, found.n_seeds) == (330, 28, (1, 1))
    kept = one["prediction"].notna() & (one.index >= 30)
    error = one["prediction"][kept].astype(float) - one["rating"][kept]
    theirs = other["prediction"].dropna().astype(float) - other["rating"]
    expected = np.sqrt((error**2).mean()) - np.sqrt((theirs**2).mean())
    assert found.differences["rmse"].value == pytest.approx(expected)
    assert found.check["mae"].value != found.differences["mae"].value
    assert contrast([one], [other], prediction="expected").check is None


def test_a_claim_holds_only_if_the_check_agrees(run):
    # The better run answers few rows; on the others its users' means are far off.
    one, other = run(0.3, 1, unrelated=300, mean=-2.0), run(1.0, 2, mean=-2.0)
    found = contrast([one], [other], prediction="decoded")
    assert found.differences["rmse"].high < 0 < found.check["rmse"].low
    assert found.verdict() == "within noise"


def test_runs_of_other_rows_or_without_answers_are_not_compared(run):
    one = run(1.0)
    assert contrast([one], [run(1.0, n_users=29)], prediction="expected") is None
    silent = one.assign(prediction=pd.array([pd.NA] * len(one), dtype="Float64"))
    assert contrast([one], [silent], prediction="decoded") is None


def test_seeds_are_pooled(run):
    runs = [run(0.7, seed) for seed in (1, 2, 3)]
    found = contrast(runs, [run(1.0, 4)], prediction="expected")
    assert found.n_seeds == (3, 1)
    squares = np.concatenate([(r["expected_rating"] - r["rating"]) ** 2 for r in runs])
    assert found.verdict() == "lower"
    one = contrast([run(1.0, 4)], [run(1.0, 5)], prediction="expected").differences["rmse"]
    theirs = np.sqrt(((run(1.0, 4)["expected_rating"] - run(1.0, 4)["rating"]) ** 2).mean())
    assert found.differences["rmse"].value == pytest.approx(np.sqrt(squares.mean()) - theirs)
    assert one.low < 0 < one.high


def test_what_varies_between_seeds_widens_the_difference_and_its_check(run):
    rows = [[run(noise, seed) for seed in (1, 2)] for noise in (0.7, 1.4)]
    rows.append([run(0.3, 3), run(2.5, 4)])  # a row whose seeds differ much
    known = varies(rows, "decoded")
    assert (known.freedom, known.rmse > 0.05) == (3, True)
    one, other = [run(0.7, 1, unrelated=20)], [run(1.0, 2)]
    alone = contrast(one, other, prediction="decoded")
    found = contrast(one, other, prediction="decoded", between=[known, known])
    assert (alone.verdict(), found.verdict()) == ("lower", "within noise")
    for narrow, wide in ((alone.differences, found.differences), (alone.check, found.check)):
        assert wide["rmse"].value == narrow["rmse"].value
        assert wide["rmse"].high - wide["rmse"].low > 3 * (narrow["rmse"].high - narrow["rmse"].low)


def test_many_contrasts_raise_the_bar_of_each(run):
    weak = contrast([run(0.93, 1)], [run(1.0, 2)], prediction="expected")
    alone = weak.p("rmse")
    nulls = {f"n{i}": contrast([run(1, i)], [run(1, 50 + i)], prediction="expected")
             for i in range(3, 8)}  # fmt: skip
    found = adjust({"weak": weak, **nulls})
    assert found["weak"].adjusted["rmse"] > alone
    assert found["weak"].adjusted["rmse"] <= 6 * alone + 1e-12
    assert all(found[name].verdict() == "within noise" for name in nulls)


def difference(low, high, p=0.001):
    return Difference((low or 0) / 2 + (high or 0) / 2, low, high, p, None)


def compare(*differences):
    """A contrast of the first difference, with the second as its check."""
    first, *check = ({"rmse": each, "mae": each} for each in differences)
    return Contrast("decoded", 9, 3, (1, 1), first, *check or [None])


@pytest.mark.parametrize(
    ("differences", "said"),
    [
        ([difference(-0.2, -0.1)], "lower"),
        ([difference(0.1, 0.2)], "higher"),
        ([difference(-0.1, 0.1)], "within noise"),
        ([difference(-0.2, -0.1), difference(-0.3, -0.1)], "lower"),
        ([difference(-0.2, -0.1), difference(-0.2, 0.1)], "within noise"),
        ([difference(-0.2, -0.1), difference(0.1, 0.2)], "within noise"),
        ([difference(-0.2, -0.1, p=0.051)], "undecided"),
        ([difference(0.1, 0.2), difference(0.1, 0.3, p=0.051)], "undecided"),
        ([difference(-0.1, 0.1, p=0.9)], "within noise"),
        ([difference(-0.2, -0.1, p=None)], "not testable"),
        ([difference(None, None, p=None)], "not testable"),
        ([difference(2.0, 2.0)], "not testable"),
        ([difference(-0.2, -0.1), difference(0.3, 0.3)], "not testable"),
        ([difference(0.0, 0.0, p=1.0)], "equal"),
        ([difference(0.0, 0.0), difference(-0.1, 0.1)], "not testable"),
    ],
)
def test_a_claim_holds_only_if_all_intervals_and_the_test_agree(differences, said):
    assert compare(*differences).verdict() == said


def test_a_claim_holds_only_after_correction():
    one = compare(difference(-0.2, -0.1, p=0.02))
    first, *_ = adjust({f"{i}": one for i in range(3)}).values()
    assert (one.verdict(), first.verdict()) == ("lower", "undecided")

import numpy as np
import pandas as pd
import pytest

from persona_lab.evaluation import Baselines, assess, intervals


def toy(n_users=20, rows_per_user=10, unrelated=0):
    """Ratings that the expected rating knows well, the decoded one roughly, a constant not."""
    rng = np.random.default_rng(0)
    n = n_users * rows_per_user
    rating = rng.integers(1, 6, n)
    predictions = pd.DataFrame(
        {
            "user_id": np.repeat(np.arange(n_users), rows_per_user),
            "item_id": np.tile(np.arange(rows_per_user), n_users),
            "rating": rating,
            "prediction": pd.array(np.clip(rating + rng.integers(-1, 2, n), 1, 5), dtype="Float64"),
            "expected_rating": np.clip(rating + rng.normal(0, 0.3, n), 1, 5),
            "digit_mass": 0.9,
            "persona": np.repeat(np.arange(n_users) % 2, rows_per_user),
        }
    )
    predictions.loc[: unrelated - 1, "prediction"] = pd.NA
    frame = predictions[["user_id", "item_id", "rating"]].assign(**{"cohort/constant": 3.0})
    metrics = {"cohort": {"constant": {"rmse": 1.4, "mae": 1.2}}}
    return predictions, Baselines(frame, metrics, dict.fromkeys(range(n_users), 3.0))


def test_a_run_is_compared_with_every_baseline_on_the_same_rows():
    predictions, found = toy()
    shuffled = predictions.sample(frac=1, random_state=1)
    expected, decoded = assess(shuffled, found, "paper").comparisons
    assert (expected["prediction"], decoded["prediction"]) == ("expected", "decoded")
    assert (expected["version"], expected["baseline"], expected["n"]) == ("cohort", "constant", 200)
    assert expected["rmse"]["high"] < decoded["rmse"]["low"] < decoded["rmse"]["high"] < 0
    plain = np.sqrt(((predictions["expected_rating"] - predictions["rating"]) ** 2).mean())
    constant = np.sqrt(((3 - predictions["rating"]) ** 2).mean())
    assert expected["rmse"]["value"] == pytest.approx(plain - constant)
    assert (expected["check"], decoded["check"]) == (None, None)


def test_unrelated_rows_leave_the_decoded_comparison_and_enter_its_check():
    expected, decoded = assess(*toy(unrelated=30), "paper").comparisons
    assert (expected["n"], decoded["n"]) == (200, 170)
    # The first 30 rows count as the constant itself in the check: the difference shrinks.
    assert decoded["mae"]["value"] < decoded["check"]["mae"]["value"] < 0


def test_expected_decode_has_one_comparison_per_baseline():
    found = assess(*toy(), "expected")
    assert [record["prediction"] for record in found.comparisons] == ["expected"]
    assert found.metrics["urr"] is None
    assert found.intervals["rmse"] == found.intervals["rmse_expected"]


def test_counts_intervals_and_personas():
    found = assess(*toy(unrelated=30), "paper")
    assert (found.n_test, found.n_unrelated) == (200, 30)
    assert 0 <= found.intervals["urr"]["low"] < 0.15 < found.intervals["urr"]["high"]
    assert found.metrics["urr"] == pytest.approx(0.15)
    assert found.intervals["rmse"]["value"] == pytest.approx(found.metrics["rmse"])
    assert found.intervals["rmse"]["low"] < found.metrics["rmse"] < found.intervals["rmse"]["high"]
    assert [(p["persona"], p["n_users"], p["n_test"]) for p in found.per_persona] == [
        (0, 10, 100),
        (1, 10, 100),
    ]
    assert sum(p["n_unrelated"] for p in found.per_persona) == 30


def test_a_run_without_any_rating_has_no_decoded_numbers():
    found = assess(*toy(n_users=3, unrelated=30), "paper")
    assert found.metrics["rmse"] is None
    assert set(found.intervals) == {"rmse_expected", "mae_expected", "urr"}
    assert [record["prediction"] for record in found.comparisons] == ["expected"]


def test_seeds_are_scored_together_in_any_order_of_their_rows():
    one, found = toy(unrelated=30)
    other = one.assign(prediction=pd.array([3.0] * len(one), dtype="Float64"), expected_rating=3.0)
    both = intervals([one, other.sample(frac=1, random_state=1)], "paper")
    errors = [frame["prediction"] - frame["rating"] for frame in (one, other)]
    errors = pd.concat(errors).dropna().astype(float)
    assert both["rmse"]["value"] == pytest.approx(np.sqrt((errors**2).mean()))
    assert both["urr"]["value"] == pytest.approx(30 / 400)
    # The one seed errs much less: with the seeds drawn again the interval spans them.
    alone = [assess(frame, found, "paper").intervals["rmse_expected"] for frame in (one, other)]
    assert both["rmse_expected"]["low"] < alone[0]["high"]
    assert both["rmse_expected"]["high"] > alone[1]["low"]
    assert "urr" not in intervals([one, other], "expected")


def test_predictions_of_other_rows_are_refused():
    predictions, found = toy()
    with pytest.raises(AssertionError, match="not the test rows"):
        assess(predictions.iloc[1:], found, "paper")

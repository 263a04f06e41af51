import numpy as np
import pandas as pd
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from persona_lab.evaluation.beyond import beyond, ranked_probability_score, reliability


def toy():
    """Two users of three rows each; the last row's response has no rating."""
    p = np.array([[0, 0, 0, 0, 1], [0, 0, 0, 0.5, 0.5], [0.2] * 5] * 2, dtype=float)
    return pd.DataFrame(
        {
            "user_id": [1, 1, 1, 2, 2, 2],
            "item_id": [1, 2, 3, 1, 2, 3],
            "rating": [5, 4, 1, 1, 2, 3],
            "response": ["5", "4", "3", "5", "4", "no <idea>"],
            "prediction": [5, 4, 3, 5, 4, np.nan],
            "expected_rating": p @ np.arange(1, 6),
            **{f"p{n}": p[:, n - 1] for n in range(1, 6)},
            "persona": [0, 0, 0, 1, 1, 1],
        }
    )


def found():
    train = pd.DataFrame({"user_id": [1, 2, 2, 2], "item_id": [1, 1, 1, 2]})
    return beyond(toy(), train, {1: 0, 2: 2})


def test_ranked_probability_score_by_hand():
    sure_and_right, sure_and_far = [0, 0, 0, 0, 1], [1, 0, 0, 0, 0]
    assert ranked_probability_score(np.array([sure_and_right], float), np.array([5])) == 0
    assert ranked_probability_score(np.array([sure_and_far], float), np.array([5])) == 1
    # Cumulated 0.2, 0.4, 0.6, 0.8 against 0, 0, 1, 1.
    uniform = ranked_probability_score(np.full((1, 5), 0.2), np.array([3]))
    assert uniform == pytest.approx((0.04 + 0.16 + 0.16 + 0.04) / 4)


def test_calibration_error_is_that_of_torchmetrics():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(5), 500)
    rating = rng.integers(1, 6, 500)
    gaps = [b["n"] * abs(b["accuracy"] - b["confidence"]) for b in reliability(p, rating)]
    theirs = multiclass_calibration_error(
        torch.from_numpy(p), torch.from_numpy(rating - 1), num_classes=5, n_bins=10, norm="l1"
    )
    assert sum(gaps) / 500 == pytest.approx(float(theirs), abs=1e-6)


def test_a_forecast_as_sure_as_it_is_right_is_calibrated():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(5), 20_000)
    rating = np.array([rng.choice(5, p=row) for row in p]) + 1
    assert all(abs(b["accuracy"] - b["confidence"]) < 0.06 for b in reliability(p, rating))
    assert sum(b["n"] for b in reliability(p, rating)) == 20_000


def test_ranks_are_compared_within_a_user():
    # User 1's ratings rise with the expected ones 5, 4.5, 3; user 2's fall.
    assert found()["spearman"] == {"value": pytest.approx(0.0), "n_users": 2}
    flat = toy().assign(expected_rating=3.0)
    ranks = beyond(flat, toy()[["user_id", "item_id"]], {1: 0, 2: 0})["spearman"]
    assert ranks == {"value": None, "n_users": 0}


def test_distance_of_histograms_by_hand():
    # Answered: 3, 4, 4, 5, 5 against 1, 1, 2, 4, 5, in order 2 + 3 + 2 + 1 + 0 apart.
    assert found()["wasserstein"]["decoded"] == pytest.approx(8 / 5)


def test_macro_weighs_users_alike():
    rows = toy()
    error = (rows["expected_rating"] - rows["rating"]).abs()
    one, two = error[:3].mean(), error[3:].mean()
    assert found()["macro"]["mae"] == pytest.approx((one + two) / 2)


def test_every_slice_counts_every_row_once():
    slices = found()["slices"]
    for name in ("persona", "activity", "history", "popularity"):
        parts = [part for part in slices if part["slice"] == name]
        assert sum(part["n"] for part in parts) == 6
        assert sum(part["n_unrelated"] for part in parts) == 1
    busy = next(part for part in slices if (part["slice"], part["value"]) == ("activity", "2"))
    assert (busy["n_users"], busy["n"]) == (1, 3)
    assert busy["mae"] == pytest.approx((4 + 2) / 2)
    popular = {p["value"]: p["n"] for p in slices if p["slice"] == "popularity"}
    assert popular == {"low": 2, "middle": 2, "high": 2}


def test_unrelated_responses_are_counted_with_an_example():
    assert found()["responses"] == [{"response": "no <idea>", "n": 1, "user_id": 2, "item_id": 3}]

import numpy as np
import pandas as pd
import pytest
import torch
from scales import HALVES, STARS
from torchmetrics.functional.classification import multiclass_calibration_error

from persona_lab.evaluation.beyond import beyond, ranked_probability_scores, reliability

TRAIN = pd.DataFrame({"user_id": [1, 2, 2, 2], "item_id": [1, 1, 1, 2], "rating": [4, 4, 5, 1]})


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
    return beyond(toy(), TRAIN, {1: 0, 2: 2}, STARS)


def score(p, rating):
    return ranked_probability_scores(np.array(p, float), STARS.index(rating)).tolist()


def test_ranked_probability_score_by_hand():
    sure_and_right, sure_and_far = [0, 0, 0, 0, 1], [1, 0, 0, 0, 0]
    assert score([sure_and_right, sure_and_far], [5, 5]) == [0, 1]
    # Cumulated 0.2, 0.4, 0.6, 0.8 against 0, 0, 1, 1.
    uniform = (0.04 + 0.16 + 0.16 + 0.04) / 4
    assert score([[0.2] * 5], [3]) == pytest.approx([uniform])


def test_calibration_error_is_that_of_torchmetrics():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(5), 500)
    rating = rng.integers(1, 6, 500)
    gaps = [b["n"] * abs(b["accuracy"] - b["confidence"]) for b in reliability(p, rating - 1)]
    theirs = multiclass_calibration_error(
        torch.from_numpy(p), torch.from_numpy(rating - 1), num_classes=5, n_bins=10, norm="l1"
    )
    assert sum(gaps) / 500 == pytest.approx(float(theirs), abs=1e-6)


def test_a_forecast_as_sure_as_it_is_right_is_calibrated():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(5), 20_000)
    rating = np.array([rng.choice(5, p=row) for row in p]) + 1
    assert all(abs(b["accuracy"] - b["confidence"]) < 0.06 for b in reliability(p, rating - 1))
    assert sum(b["n"] for b in reliability(p, rating - 1)) == 20_000


def test_ranks_are_compared_within_a_user():
    # User 1's ratings rise with the expected ones 5, 4.5, 3; user 2's fall.
    ranks = found()["spearman"]
    assert (ranks["value"], ranks["n_users"]) == (pytest.approx(0.0), 2)
    # Users at 1 and -1, and both of them drawn or one twice.
    assert (ranks["low"], ranks["high"]) == (pytest.approx(-1.0), pytest.approx(1.0))
    flat = toy().assign(expected_rating=3.0)
    ranks = beyond(flat, TRAIN, {1: 0, 2: 0}, STARS)["spearman"]
    assert ranks == {"value": None, "low": None, "high": None, "n_users": 0}


def test_intervals_of_score_and_ranks_are_over_users():
    rng = np.random.default_rng(0)
    users, n = np.repeat(np.arange(60), 20), 1200
    rating = rng.integers(1, 6, n)
    p = rng.dirichlet(np.ones(5), n)
    rows = pd.DataFrame({"user_id": users, "item_id": np.arange(n), "rating": rating})
    rows = rows.assign(response="4", prediction=4.0, persona=0)
    rows = rows.assign(
        expected_rating=p @ np.arange(1, 6), **{f"p{d}": p[:, d - 1] for d in range(1, 6)}
    )
    seen = beyond(rows, rows, dict.fromkeys(range(60), 0), STARS)
    score = seen["rps_interval"]
    assert score["value"] == pytest.approx(seen["rps"])
    # With users of one size, the interval is that of the mean over users.
    happened = rating[:, None] <= np.arange(1, 5)
    own = ((p.cumsum(axis=1)[:, :-1] - happened) ** 2).mean(axis=1).reshape(60, 20).mean(axis=1)
    half = 2.0 * own.std(ddof=1) / np.sqrt(60)
    assert score["high"] - score["value"] == pytest.approx(half, rel=0.15)
    assert score["value"] - score["low"] == pytest.approx(half, rel=0.15)
    ranks = seen["spearman"]
    assert ranks["low"] < 0 < ranks["high"]  # nothing is known of these ratings
    assert -1 < ranks["low"] < ranks["value"] < ranks["high"] < 1


def test_the_reference_forecast_is_the_training_ratings_histogram():
    # 1, 4, 4 and 5: cumulated 1/4, 1/4, 1/4 and 3/4 over the cuts.
    expected = np.mean(score([[0.25, 0, 0, 0.5, 0.25]] * 6, toy()["rating"]))
    reference = found()["references"]["rps"]
    assert reference["value"] == pytest.approx(expected)
    assert reference["low"] < reference["value"] < reference["high"]
    assert found()["references"]["spearman"] == {}


def test_simple_predictors_are_ranked_on_the_same_rows():
    simple = toy().assign(**{"prompt/prompt_mean": [5, 4, 3, 1, 2, 3], "all/always_4": 4.0})
    seen = beyond(simple, TRAIN, {1: 0, 2: 2}, STARS)["references"]["spearman"]
    assert seen.keys() == {"prompt/prompt_mean"}
    assert seen["prompt/prompt_mean"]["value"] == pytest.approx(1.0)


def test_half_stars_are_forecast_as_stars_are():
    rows = toy().drop(columns=["p1", "p2", "p3", "p4", "p5"]).astype({"rating": float})
    p = toy()[["p1", "p2", "p3", "p4", "p5"]].to_numpy()
    spread = np.zeros((6, 10))
    spread[:, 1::2] = p  # 1 to 5 are every second value
    halves = rows.assign(**dict(zip(HALVES.columns, spread.T, strict=True)))
    seen = beyond(halves, TRAIN.astype({"rating": float}), {1: 0, 2: 2}, HALVES)
    for name in ("ece", "spearman", "wasserstein", "macro"):
        assert seen[name] == pytest.approx(found()[name])
    shifted = halves.assign(rating=halves["rating"] - 0.5)
    assert beyond(shifted, TRAIN, {1: 0, 2: 2}, HALVES)["ece"] > seen["ece"]


def test_one_user_has_no_interval():
    one = toy().query("user_id == 1")
    seen = beyond(one, TRAIN, {1: 0}, STARS)
    for ends in (seen["rps_interval"], seen["spearman"], seen["references"]["rps"]):
        assert (ends["low"], ends["high"]) == (None, None)


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

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scales import HALVES, STARS

from persona_lab.evaluation import assess, intervals, score


def scored(frame, decode, scale=STARS):
    return score(frame, decode, scale)


def frame(ratings, predictions, expected=None, means=None):
    return pd.DataFrame(
        {
            "user_id": 1,
            "user_mean": means or 3.0,
            "rating": ratings,
            "prediction": pd.array(predictions, dtype="Float64"),
            "expected_rating": expected or [3.0] * len(ratings),
            "digit_mass": 0.5,
        }
    )


def test_unrelated_rows_are_left_out_counted_and_shown_in_variants():
    found = scored(frame([5, 2, 3], [4, None, None], means=[2.5, 2.5, 3.0]), "paper")
    assert (found["n_test"], found["n_unrelated"]) == (3, 2)
    assert found["urr"] == pytest.approx(2 / 3)
    assert (found["rmse"], found["mae"]) == (1, 1)
    # The rating farthest from 2 is 5 (off by 3), from 3 it is 1 or 5 (off by 2).
    assert found["mae_worst"] == pytest.approx((1 + 3 + 2) / 3)
    assert found["mae_midpoint"] == pytest.approx((1 + 1 + 0) / 3)
    assert found["rmse_user_mean"] == pytest.approx(np.sqrt((1 + 0.25 + 0) / 3))
    assert found["digit_mass"] == 0.5


def test_expected_decode_predicts_the_expected_rating_and_has_no_urr():
    found = scored(frame([5, 2], [None, None], expected=[4.5, 2.5]), "expected")
    assert found["rmse"] == found["rmse_expected"] == pytest.approx(0.5)
    assert found["urr"] is None
    assert found["n_unrelated"] == 0


def test_expected_errors_are_over_all_rows_whatever_the_decode():
    found = scored(frame([5, 1], [5, None], expected=[4.0, 4.0]), "greedy")
    assert found["mae"] == 0
    assert found["mae_expected"] == pytest.approx(2)


def test_no_answer_at_all_has_no_error_but_a_full_urr():
    found = scored(frame([5, 1], [None, None]), "paper")
    assert (found["rmse"], found["mae"], found["urr"]) == (None, None, 1.0)
    assert found["mae_worst"] == 4


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5) | st.none()), min_size=1))
def test_worst_bounds_every_other_way_to_count_an_unrelated_response(rows):
    ratings, predictions = map(list, zip(*rows, strict=True))
    found = scored(frame(ratings, predictions).assign(user_mean=3.6), "paper")
    for other in ("midpoint", "user_mean"):
        assert found[f"rmse_{other}"] <= found["rmse_worst"] + 1e-12
        assert found[f"mae_{other}"] <= found["mae_worst"] + 1e-12


def test_what_is_farthest_and_what_is_midway_follow_the_scale():
    halves = scored(frame([0.5, 2.5, 3.0], [None] * 3), "paper", HALVES)
    assert halves["mae_worst"] == pytest.approx((4.5 + 2.5 + 2.5) / 3)
    assert halves["mae_midpoint"] == pytest.approx((2.25 + 0.25 + 0.25) / 3)


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
            "user_mean": 3.0,
            "persona": np.repeat(np.arange(n_users) % 2, rows_per_user),
        }
    )
    predictions.loc[: unrelated - 1, "prediction"] = pd.NA
    return predictions


def assessed(decode="paper", **options):
    return assess(toy(**options), decode, STARS)


def test_counts_intervals_and_personas():
    found = assessed(unrelated=30)
    metrics, ends = found["metrics"], found["intervals"]
    assert (found["n_test"], found["n_unrelated"]) == (200, 30)
    assert 0 <= ends["urr"]["low"] < 0.15 < ends["urr"]["high"]
    assert metrics["urr"] == pytest.approx(0.15)
    assert ends["rmse"]["value"] == pytest.approx(metrics["rmse"])
    assert ends["rmse"]["low"] < metrics["rmse"] < ends["rmse"]["high"]
    assert [(p["persona"], p["n_users"], p["n_test"]) for p in found["per_persona"]] == [
        (0, 10, 100),
        (1, 10, 100),
    ]
    assert sum(p["n_unrelated"] for p in found["per_persona"]) == 30


def test_a_share_has_an_interval_over_users():
    predictions = pd.array([None, 4, 4, 4], dtype="Float64")
    rows = frame([4, 4, 4, 4], predictions).assign(user_id=[1, 1, 2, 2], item_id=[1, 2, 1, 2])
    assert intervals([rows], "paper")["urr"] == {"value": 0.25, "low": 0.0, "high": 0.5}


def test_under_the_expected_decode_the_expected_rating_counts():
    found = assessed("expected")
    assert found["metrics"]["urr"] is None
    assert found["intervals"]["rmse"] == found["intervals"]["rmse_expected"]


def test_a_run_without_any_rating_has_no_decoded_numbers():
    found = assessed(n_users=3, unrelated=30)
    assert found["metrics"]["rmse"] is None
    assert found["intervals"].keys() == {"rmse_expected", "mae_expected", "urr"}


def test_seeds_are_scored_together_in_any_order_of_their_rows():
    one = toy(unrelated=30)
    other = one.assign(prediction=pd.array([3.0] * len(one), dtype="Float64"), expected_rating=3.0)
    both = intervals([one, other.sample(frac=1, random_state=1)], "paper")
    errors = [frame["prediction"] - frame["rating"] for frame in (one, other)]
    errors = pd.concat(errors).dropna().astype(float)
    assert both["rmse"]["value"] == pytest.approx(np.sqrt((errors**2).mean()))
    assert both["urr"]["value"] == pytest.approx(30 / 400)
    # The one seed errs much less: with the seeds drawn again the interval spans them.
    alone = [intervals([frame], "paper")["rmse_expected"] for frame in (one, other)]
    assert both["rmse_expected"]["low"] < alone[0]["high"]
    assert both["rmse_expected"]["high"] > alone[1]["low"]
    assert "urr" not in intervals([one, other], "expected")

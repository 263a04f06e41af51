import pandas as pd
import pytest
from scales import STARS

from persona_lab.evaluation import Verdict, matrix, off_diagonal


def frame(expected):
    """Two rows each of users 1 to 3, with these expected ratings."""
    return pd.DataFrame(
        {
            "user_id": [1, 1, 2, 2, 3, 3],
            "rating": [4, 2, 4, 2, 4, 2],
            "prediction": pd.array([4, 2, 4, 2, 4, None], dtype="Float64"),
            "expected_rating": expected,
            "digit_mass": 0.5,
        }
    )


def cells(crossed, route):
    found = matrix(crossed, route, "paper", dict.fromkeys(route, 3.0), STARS)
    return {(cell["adapter"], cell["users"]): cell for cell in found}


def test_every_adapter_is_scored_on_the_users_of_each():
    crossed = {
        "persona_0": frame([4, 2, 4, 2, 2.0, 4.0]),
        "persona_1": frame([5, 3, 5, 3, 4.0, 2.0]),
    }
    found = cells(crossed, {1: "persona_0", 2: "persona_0", 3: "persona_1"})
    errors = {place: cell["rmse_expected"] for place, cell in found.items()}
    assert errors == pytest.approx(
        {
            ("persona_0", "persona_0"): 0,
            ("persona_0", "persona_1"): 2,
            ("persona_1", "persona_0"): 1,
            ("persona_1", "persona_1"): 0,
        }
    )
    counts = [(cell["n_users"], cell["n_test"], cell["n_unrelated"]) for cell in found.values()]
    assert counts == [(2, 4, 0), (1, 2, 1)] * 2
    assert found["persona_0", "persona_0"]["difference"] is None
    assert found["persona_1", "persona_0"]["difference"]["rmse"]["value"] == pytest.approx(1)
    # One user leaves nothing to draw from.
    alone = found["persona_0", "persona_1"]["difference"]["mae"]
    assert (alone["value"], alone["low"]) == (pytest.approx(2), None)


def test_users_of_the_frozen_model_have_no_adapter_to_be_compared_with():
    found = cells({"persona_0": frame(3.0)}, {1: "persona_0", 2: None, 3: None})
    assert [*found] == [("persona_0", "persona_0"), ("persona_0", None)]
    cell = found["persona_0", None]
    assert (cell["n_users"], cell["rmse_expected"], cell["difference"]) == (2, 1, None)


def test_without_crossed_adapters_there_is_no_matrix():
    assert matrix({}, {1: "single"}, "paper", {1: 3.0}, STARS) == []


def cell(value, p):
    ends = {"value": value, "low": value - 0.1, "high": value + 0.1, "p": p, "detectable": 0.2}
    return {"n_test": 9, "n_users": 3, "difference": {"rmse": ends, "mae": ends}}


def test_its_cells_are_corrected_together():
    cells = [cell(0.25, 0.001), {"difference": None}, cell(0.05, 0.5), *[cell(0.15, 0.03)] * 3]
    said = [Verdict.HIGHER, Verdict.WITHIN_NOISE, *[Verdict.UNDECIDED] * 3]
    assert [contrast.verdict() for contrast in off_diagonal(cells)] == said

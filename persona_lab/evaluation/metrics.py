"""Predictions of a run -> RMSE, MAE and URR, pooled over rows.

A response without a rating has no prediction: it is left out of RMSE and MAE and counted in URR,
with variants beside them that give it one (decision 13). Pure.
"""

from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import mean_absolute_error, root_mean_squared_error

from persona_lab.data import Scale


def decoded(frame: pd.DataFrame, decode: str) -> pd.Series:
    """Return what each row counts as predicted, NaN where the response was unrelated.

    Args:
        frame: Predictions with columns prediction (nullable) and expected_rating.
        decode: Name of the decoding; `expected` predicts the expected rating.
    """
    column = "expected_rating" if decode == "expected" else "prediction"
    return frame[column].astype("Float64").astype(float)


def score(frame: pd.DataFrame, decode: str, scale: Scale) -> dict[str, Any]:
    """Score predictions as decision 13 says.

    Args:
        frame: Predictions with columns user_id, rating, prediction (nullable), expected_rating,
            digit_mass and user_mean (the user's mean training rating), of shape (n_test, ...).
        decode: Name of the decoding: `paper`, `greedy` or `expected`.
        scale: What a rating can be.

    Returns:
        `rmse`, `mae` over the rows with a rating (None where there is none), `urr` the share of
        unrelated responses in 0..1 (None under `expected`, which always answers), `n_test`,
        `n_unrelated`; `rmse_expected`, `mae_expected` over all rows; `digit_mass`, the mean raw
        probability of the scale's labels. Then over all rows, with an unrelated response counted
        as the rating farthest from the truth (`*_worst`), as the middle of the scale
        (`*_midpoint`) or as the user's mean training rating (`*_user_mean`).
    """
    rating = frame["rating"].astype(float)
    prediction = decoded(frame, decode)
    answered = prediction.notna()
    farthest = pd.Series(np.where(rating >= scale.middle, scale.low, scale.high), frame.index)
    over_all_rows = {
        "expected": frame["expected_rating"],
        "worst": prediction.fillna(farthest),
        "midpoint": prediction.fillna(scale.middle),
        "user_mean": prediction.fillna(frame["user_mean"]),
    }
    return {
        **errors(rating[answered], prediction[answered]),
        "urr": None if decode == "expected" else float((~answered).mean()),
        "n_test": len(frame),
        "n_unrelated": int((~answered).sum()),
        "digit_mass": float(frame["digit_mass"].mean()),
        **{
            f"{metric}_{variant}": error
            for variant, filled in over_all_rows.items()
            for metric, error in errors(rating, filled).items()
        },
    }


def errors(rating: pd.Series, prediction: pd.Series) -> dict[str, float | None]:
    """Return `rmse` and `mae` in stars, None without rows."""
    if rating.empty:
        return {"rmse": None, "mae": None}
    return {
        "rmse": float(root_mean_squared_error(rating, prediction)),
        "mae": float(mean_absolute_error(rating, prediction)),
    }

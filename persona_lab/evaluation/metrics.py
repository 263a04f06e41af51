"""Predictions of test rows -> RMSE, MAE and URR, pooled over rows, with their intervals, of runs
and of every adapter on the users of each.

A response without a rating has no prediction: it is left out of RMSE and MAE and counted in URR,
with variants beside them that give it one (decision 13). Pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import mean_absolute_error, root_mean_squared_error

from persona_lab.data import Scale
from persona_lab.evaluation.contrast import Contrast, Prediction, adjust, predicted
from persona_lab.evaluation.uncertainty import (
    Difference,
    SeedVariance,
    interval,
    paired_interval,
)


def assess(predictions: pd.DataFrame, decode: str, scale: Scale) -> dict[str, Any]:
    """Score a run's predictions, by persona too.

    Args:
        predictions: As `score` takes them, with item_id and persona, of every test row.
        decode: Name of the decoding: `paper`, `greedy` or `expected`.

    Returns:
        Fields of a `Result`: `metrics` (what `score` returns, without the counts), `n_test`,
        `n_unrelated`, `intervals` and `per_persona` (`persona`, `n_users` and the scores of each
        persona's rows).
    """
    metrics = score(predictions, decode, scale)
    return {
        "n_test": metrics.pop("n_test"),
        "n_unrelated": metrics.pop("n_unrelated"),
        "metrics": metrics,
        "intervals": intervals([predictions], decode),
        "per_persona": [
            {
                "persona": persona,
                "n_users": int(rows["user_id"].nunique()),
                **score(rows, decode, scale),
            }
            for persona, rows in predictions.groupby(predictions["persona"].astype(int))
        ],
    }


def intervals(
    runs: Sequence[pd.DataFrame],
    decode: str,
    between: Mapping[Prediction, SeedVariance] | None = None,
) -> dict[str, dict[str, Any]]:
    """Score the runs of a row of a table, one per seed, over the test rows of all of them.

    Args:
        runs: user_id, item_id, rating, prediction (nullable) and expected_rating of the same test
            rows, in any order.
        between: The variance of RMSE and MAE between seeds where it is known from other rows, too;
            by default that of these runs.

    Returns:
        `rmse`, `mae`, `urr`, `rmse_expected`, `mae_expected` -> {value, low, high}: 95% over users
        and seeds. A metric without rows, or that the decoding does not have, is left out.
    """
    sides = [run.sort_values(["user_id", "item_id"]) for run in runs]
    users, ratings = (sides[0][name].to_numpy() for name in ("user_id", "rating"))
    kind: Prediction = "expected" if decode == "expected" else "decoded"
    readings: dict[str, Prediction] = {"": kind, "_expected": "expected"}
    ends = {}
    for suffix, reading in readings.items():
        scored = predicted(sides, reading)
        rows = ~np.isnan(scored).all(axis=0)
        if rows.any():
            known = (between or {}).get(reading)
            both = interval(users[rows], ratings[rows], scored[:, rows], between=known)
            ends |= {f"{metric}{suffix}": asdict(error) for metric, error in both.items()}
    if decode != "expected":
        # The mean of a 0 or 1 is the mean absolute error of a prediction of 0.
        silent = np.isnan(predicted(sides, kind)).astype(float)
        ends["urr"] = asdict(interval(users, np.zeros(len(users)), silent)["mae"])
    return ends


def decoded(frame: pd.DataFrame, decode: str) -> pd.Series:
    """What each row counts as predicted, NaN where the response was unrelated."""
    column = "expected_rating" if decode == "expected" else "prediction"
    return frame[column].astype("Float64").astype(float)


def score(frame: pd.DataFrame, decode: str, scale: Scale) -> dict[str, Any]:
    """Score predictions as decision 13 says.

    Args:
        frame: Predictions with columns user_id, rating, prediction (nullable), expected_rating,
            digit_mass and user_mean (the user's mean training rating), of shape (n_test, ...).

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
    """`rmse` and `mae` in stars, None without rows."""
    if rating.empty:
        return {"rmse": None, "mae": None}
    return {
        "rmse": float(root_mean_squared_error(rating, prediction)),
        "mae": float(mean_absolute_error(rating, prediction)),
    }


def matrix(
    crossed: Mapping[str, pd.DataFrame],
    route: Mapping[int, str | None],
    decode: str,
    user_means: Mapping[int, float],
    scale: Scale,
) -> list[dict[str, Any]]:
    """Score every adapter on every group of users.

    If personas are more than a division of the users, a persona's users are rated best by their own
    adapter: the diagonal.

    Args:
        crossed: Adapter -> its predictions of all users' test rows, all in the same order, as
            `score` takes them.
        route: user_id -> the user's own adapter, None for the frozen base.
        user_means: Each user's mean training rating.

    Returns:
        One record per adapter and group: `adapter`, `users` (the group's own adapter), `n_users`,
        what `score` returns, and `difference`: `rmse` and `mae` of the expected rating, this
        adapter's minus the group's own one's, paired (`Difference`); None where they are the same
        or the group has none.
    """
    cells = []
    for adapter, frame in crossed.items():
        frame = frame.assign(user_mean=frame["user_id"].map(user_means))
        own = frame["user_id"].map(dict(route))
        for users in [*crossed, *({None} & {*route.values()})]:
            group = own.isna() if users is None else own == users
            rows, difference = frame[group], None
            if users is not None and users != adapter:
                theirs = crossed[users].loc[group, "expected_rating"]
                difference = paired_interval(
                    rows["user_id"], rows["rating"], rows["expected_rating"], theirs
                )
            cells.append(
                {
                    "adapter": adapter,
                    "users": users,
                    "n_users": int(rows["user_id"].nunique()),
                    **score(rows, decode, scale),
                    "difference": difference and {m: asdict(d) for m, d in difference.items()},
                }
            )
    return cells


def off_diagonal(cells: Sequence[Mapping[str, Any]]) -> list[Contrast]:
    """The differences in a `matrix`, in its order, their p corrected together."""
    contrasts = {}
    for place, cell in enumerate(cells):
        if cell["difference"]:
            both = {metric: Difference(**ends) for metric, ends in cell["difference"].items()}
            contrasts[place] = Contrast(
                "expected", cell["n_test"], cell["n_users"], (1, 1), both, None
            )
    return [*adjust(contrasts).values()]

"""Predictions of test rows -> the errors that a run reports, with their intervals. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from persona_lab.data import Scale
from persona_lab.evaluation.contrast import Prediction, predicted
from persona_lab.evaluation.metrics import score
from persona_lab.evaluation.uncertainty import SeedVariance, interval, share_interval


def assess(predictions: pd.DataFrame, decode: str, scale: Scale) -> dict[str, Any]:
    """Score a run's predictions, by persona too.

    Args:
        predictions: user_id, item_id, rating, prediction (nullable), expected_rating, digit_mass,
            persona and user_mean of every test row, in any order.
        decode: Name of the decoding: `paper`, `greedy` or `expected`.
        scale: What a rating can be.

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
        decode: Name of the decoding: `paper`, `greedy` or `expected`.
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
    for suffix, prediction in readings.items():
        scored = predicted(sides, prediction)
        answered = ~np.isnan(scored).all(axis=0)
        if answered.any():
            both = interval(
                users[answered],
                ratings[answered],
                scored[:, answered],
                between=(between or {}).get(prediction),
            )
            ends |= {f"{metric}{suffix}": asdict(error) for metric, error in both.items()}
    if decode != "expected":
        ends["urr"] = asdict(share_interval(users, np.isnan(predicted(sides, kind))))
    return ends

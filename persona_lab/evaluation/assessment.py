"""Predictions and baselines of the same test rows -> every number that a run reports.

Pure. What is claimed of a run rests on the paired comparisons: the two predictions are scored on
the same rows, and the interval is clustered by user.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from persona_lab.evaluation.contrast import Prediction, predicted
from persona_lab.evaluation.metrics import decoded, score
from persona_lab.evaluation.predictors import Baselines
from persona_lab.evaluation.uncertainty import (
    SeedVariance,
    interval,
    paired_interval,
    share_interval,
)


@dataclass(frozen=True)
class Assessment:
    """The numbers of a run, under the names that they have in a `Result`.

    Attributes:
        metrics: What `score` returns, without the counts.
        intervals: `rmse`, `mae`, `urr`, `rmse_expected`, `mae_expected` -> {value, low, high}; a
            metric without rows, or that the decoding does not have, is left out.
        n_test: Test rows.
        n_unrelated: Test rows whose response has no rating.
        baselines: version -> name -> errors, as in `Baselines.metrics`.
        comparisons: One record per baseline and kind of prediction: `version`, `baseline`,
            `prediction` ("expected" or "decoded"), `n` rows, `rmse` and `mae`: {value, low, high,
            p, detectable} of the run's error minus the baseline's (`Difference`); `check`: the
            same for all rows with the user's mean in place of an unrelated response, None where
            there is none. A claim about decoded ratings holds only if both agree (decision 13).
        per_persona: `persona`, `n_users` and the scores of each persona's rows.
    """

    metrics: dict[str, Any]
    intervals: dict[str, dict[str, Any]]
    n_test: int
    n_unrelated: int
    baselines: dict[str, dict[str, dict[str, Any]]]
    comparisons: list[dict[str, Any]]
    per_persona: list[dict[str, Any]]


def assess(predictions: pd.DataFrame, found: Baselines, decode: str) -> Assessment:
    """Score a run's predictions, by persona too, and compare them with the baselines.

    Args:
        predictions: user_id, item_id, rating, prediction (nullable), expected_rating, digit_mass
            and persona of every test row, in any order.
        found: The baselines of the same split.
        decode: Name of the decoding: `paper`, `greedy` or `expected`.
    """
    keys = ["user_id", "item_id"]
    rows = predictions.merge(
        found.frame.drop(columns="rating"), on=keys, validate="one_to_one", how="inner"
    )
    assert len(rows) == len(predictions) == len(found.frame), "predictions are not the test rows"
    metrics = score(rows, decode, found.user_means)
    return Assessment(
        n_test=metrics.pop("n_test"),
        n_unrelated=metrics.pop("n_unrelated"),
        metrics=metrics,
        intervals=intervals([rows], decode),
        baselines=found.metrics,
        comparisons=list(_comparisons(rows, found, decode)),
        per_persona=[
            {
                "persona": persona,
                "n_users": int(group["user_id"].nunique()),
                **score(group, decode, found.user_means),
            }
            for persona, group in rows.groupby(rows["persona"].astype(int))
        ],
    )


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
    read = predicted(sides, kind)
    given: list[tuple[str, Prediction, np.ndarray]]
    given = [("", kind, read), ("_expected", "expected", predicted(sides, "expected"))]
    found = {}
    for suffix, prediction, scored in given:
        answered = ~np.isnan(scored).all(axis=0)
        if answered.any():
            both = interval(
                users[answered],
                ratings[answered],
                scored[:, answered],
                between=between.get(prediction) if between else None,
            )
            found |= {f"{name}{suffix}": asdict(ends) for name, ends in both.items()}
    if decode != "expected":
        found["urr"] = asdict(share_interval(users, np.isnan(read)))
    return found


def _comparisons(rows: pd.DataFrame, found: Baselines, decode: str) -> Iterator[dict[str, Any]]:
    prediction = decoded(rows, decode)
    answered = prediction.notna()
    filled = prediction.fillna(rows["user_id"].map(found.user_means))
    for version, names in found.metrics.items():
        for name in names:
            baseline = rows[f"{version}/{name}"]
            record = {"version": version, "baseline": name}
            expected = _paired(rows, rows["expected_rating"], baseline)
            yield record | {"prediction": "expected", "n": len(rows), "check": None} | expected
            if decode != "expected" and answered.any():
                on_both = _paired(rows[answered], prediction[answered], baseline[answered])
                check = None if answered.all() else _paired(rows, filled, baseline)
                n = int(answered.sum())
                yield record | {"prediction": "decoded", "n": n, "check": check} | on_both


def _paired(rows: pd.DataFrame, first: pd.Series, second: pd.Series) -> dict[str, Any]:
    both = paired_interval(rows["user_id"], rows["rating"], first, second)
    return {name: asdict(ends) for name, ends in both.items()}

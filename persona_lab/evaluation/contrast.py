"""Rows of a table -> their paired differences, each with what it can and cannot show.

A row of a table is the predictions of one or several runs that differ in their seed alone. Rows
are paired wherever they were tested on the same ratings, whatever else differs between them. Pure.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pandas as pd

from persona_lab.evaluation.uncertainty import (
    LEVEL,
    Difference,
    SeedVariance,
    holm,
    paired_interval,
    seed_variance,
)

Prediction = Literal["decoded", "expected"]
Verdict = Literal["lower", "higher", "undecided"]
METRICS = ("rmse", "mae")

_ROW = ["user_id", "item_id", "rating"]


@dataclass(frozen=True)
class Contrast:
    """The error of one row of a table minus that of another, or the mean of others.

    Attributes:
        prediction: What is scored: the rating `decoded` from the response, on the test rows that
            all sides answered, or the `expected` rating, on all.
        n: Test rows compared.
        n_users: Their users.
        n_seeds: Runs on each side.
        differences: `rmse` and `mae`.
        check: The same over all test rows, with the user's mean rating where a response has none;
            None where all were answered (decision 13).
        adjusted: The p of each metric after Holm's correction, from `adjust`.
    """

    prediction: Prediction
    n: int
    n_users: int
    n_seeds: tuple[int, ...]
    differences: dict[str, Difference]
    check: dict[str, Difference] | None
    adjusted: dict[str, float] = field(default_factory=dict)

    def p(self, metric: str) -> float | None:
        """The p of both, the difference and its check: the larger one."""
        ps = [each[metric].p for each in (self.differences, self.check) if each]
        return max((p for p in ps if p is not None), default=None)

    def check_agrees(self, metric: str = "rmse") -> bool:
        """Whether the check leaves a difference that excludes 0 on its side of it."""
        if self.check is None:
            return True
        first, again = self.differences[metric].side, self.check[metric].side
        return first == 0 or first == again

    def verdict(self, metric: str = "rmse") -> Verdict:
        """Whether the first errs less or more; the interval, the p and the check must agree."""
        p = self.adjusted.get(metric, self.p(metric))
        if p is None or p > 1 - LEVEL + 1e-12:
            return "undecided"
        sides = {each[metric].side for each in (self.differences, self.check) if each}
        return "lower" if sides == {-1} else "higher" if sides == {1} else "undecided"


def rows_key(predictions: pd.DataFrame) -> str:
    """Name the test rows of a run: equal for runs that can be paired.

    Args:
        predictions: user_id, item_id and rating, in any order.
    """
    rows = predictions[_ROW].sort_values(_ROW).to_numpy(dtype=np.int64)
    return hashlib.sha256(rows.tobytes()).hexdigest()[:20]


def predicted(runs: Sequence[pd.DataFrame], prediction: Prediction) -> np.ndarray:
    """Predicted ratings of a row's runs, of shape (n_seeds, n_rows); NaN where there is none."""
    column = "expected_rating" if prediction == "expected" else "prediction"
    columns = (run[column].astype("Float64") for run in runs)
    return np.stack([each.to_numpy(dtype=float, na_value=np.nan) for each in columns])


def varies(rows: Iterable[Sequence[pd.DataFrame]], prediction: Prediction) -> SeedVariance | None:
    """Pool the variance between seeds over trained rows of a table; None where none has two.

    Args:
        rows: Predictions of each row's runs, as `contrast` takes them, in any order.
        prediction: What is scored.
    """
    given = [[frame.sort_values(_ROW) for frame in row] for row in rows]
    return seed_variance((row[0]["rating"], predicted(row, prediction)) for row in given)


def contrast(
    first: Sequence[pd.DataFrame],
    *others: Sequence[pd.DataFrame],
    prediction: Prediction,
    between: Sequence[SeedVariance | None] = (),
) -> Contrast | None:
    """Compare a row of a table with another one, or with the mean of several others.

    Args:
        first: Predictions of the row's runs, one per seed: user_id, item_id, rating, prediction
            (nullable), expected_rating and user_mean (the user's mean training rating).
        others: The rows to compare with, likewise.
        prediction: What to score.
        between: The variance between seeds of each row, as `paired_interval` takes it.

    Returns:
        The differences; None where the test rows are not the same, or no row was answered by all.
    """
    if len({rows_key(frame) for row in (first, *others) for frame in row}) != 1:
        return None
    sides = [[frame.sort_values(_ROW) for frame in row] for row in (first, *others)]
    rows = sides[0][0]
    users, ratings, means = (rows[name].to_numpy() for name in ("user_id", "rating", "user_mean"))
    scored = [predicted(side, prediction) for side in sides]
    answered = ~np.isnan(np.concatenate(scored)).any(axis=0)
    if not answered.any():
        return None
    check = None
    if not answered.all():
        filled = [np.where(np.isnan(each), means, each) for each in scored]
        check = paired_interval(users, ratings, *filled, between=between)
    return Contrast(
        prediction=prediction,
        n=int(answered.sum()),
        n_users=len(np.unique(users[answered])),
        n_seeds=tuple(map(len, sides)),
        differences=paired_interval(
            users[answered],
            ratings[answered],
            *(each[:, answered] for each in scored),
            between=between,
        ),
        check=check,
    )


def adjust(contrasts: Mapping[str, Contrast]) -> dict[str, Contrast]:
    """Correct the p of all contrasts of a table for their number, each metric for itself.

    Args:
        contrasts: All that are read off one table with one kind of prediction, by name.
    """
    adjusted: dict[str, dict[str, float]] = {name: {} for name in contrasts}
    for metric in METRICS:
        ps = {name: p for name, each in contrasts.items() if (p := each.p(metric)) is not None}
        for name, p in zip(ps, holm(list(ps.values())), strict=True):
            adjusted[name][metric] = p
    return {name: replace(each, adjusted=adjusted[name]) for name, each in contrasts.items()}

"""Rows of a table -> their paired differences, each with what it can and cannot show. Pure.

A row is the predictions of runs that differ in their seed alone; rows are paired wherever they were
tested on the same ratings, whatever else differs between them.
"""

import hashlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal, TypeVar

import numpy as np
import pandas as pd

from persona_lab.evaluation.uncertainty import (
    LEVEL,
    METRICS,
    Difference,
    SeedVariance,
    holm,
    paired_interval,
    seed_variance,
)

Prediction = Literal["decoded", "expected"]
Key = TypeVar("Key", bound=Hashable)

_ROW = ["user_id", "item_id", "rating"]


class Verdict(StrEnum):
    """What a difference shows, or what a table says of a claim."""

    LOWER = "lower"
    HIGHER = "higher"
    EQUAL = "equal"
    """Nothing differs at all."""
    UNDECIDED = "undecided"
    """The intervals exclude 0, the corrected test does not; a claim: neither of the two below."""
    WITHIN_NOISE = "within noise"
    NOT_TESTABLE = "not testable"
    """There is nothing to compare, or too few users or rows for an interval."""
    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"


@dataclass(frozen=True)
class Contrast:
    """The error of one row of a table minus that of another, or the mean of others.

    Attributes:
        prediction: What is scored: the rating `decoded` from the response, on the test rows that
            all sides answered, or the `expected` rating, on all.
        n: Test rows compared, of `n_users`.
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

    def readings(self, metric: str = "rmse") -> list[Difference]:
        """The difference and, where some rows were not answered, its check."""
        return [reading[metric] for reading in (self.differences, self.check) if reading]

    def p(self, metric: str = "rmse") -> float | None:
        """The larger p of the difference and its check."""
        ps = (reading.p for reading in self.readings(metric))
        return max((p for p in ps if p is not None), default=None)

    def verdict(self, metric: str = "rmse") -> Verdict:
        """Whether the first errs less or more; the intervals, the p and the check must agree."""
        readings, p = self.readings(metric), self.adjusted.get(metric, self.p(metric))
        if all(reading.low == reading.high == 0 for reading in readings):
            return Verdict.EQUAL
        if p is None or any(reading.low in (None, reading.high) for reading in readings):
            return Verdict.NOT_TESTABLE
        sides = {reading.side for reading in readings}
        if sides not in ({-1}, {1}):
            return Verdict.WITHIN_NOISE
        if p > 1 - LEVEL + 1e-12:
            return Verdict.UNDECIDED
        return Verdict.LOWER if sides == {-1} else Verdict.HIGHER


def rows_key(predictions: pd.DataFrame) -> str:
    """Name a run's test rows, in any order: equal for runs that can be paired."""
    rows = predictions[_ROW].sort_values(_ROW).to_numpy(dtype=np.float64)
    return hashlib.sha256(rows.tobytes()).hexdigest()[:20]


def predicted(runs: Sequence[pd.DataFrame], prediction: Prediction) -> np.ndarray:
    """Predicted ratings of a row's runs, of shape (n_seeds, n_rows); NaN where there is none."""
    column = "expected_rating" if prediction == "expected" else "prediction"
    return np.stack([run[column].to_numpy(dtype=float, na_value=np.nan) for run in runs])


def varies(rows: Iterable[Sequence[pd.DataFrame]], prediction: Prediction) -> SeedVariance | None:
    """Pool the variance between seeds over trained rows of a table; None where none has two.

    The rows are predictions of each row's runs, as `contrast` takes them, in any order.
    """
    ordered = ([run.sort_values(_ROW) for run in runs] for runs in rows)
    return seed_variance((runs[0]["rating"], predicted(runs, prediction)) for runs in ordered)


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
    if len({rows_key(run) for runs in (first, *others) for run in runs}) != 1:
        return None
    sides = [[run.sort_values(_ROW) for run in runs] for runs in (first, *others)]
    scored = [predicted(side, prediction) for side in sides]
    answered = np.all(np.isfinite(np.concatenate(scored)), axis=0)
    if not answered.any():
        return None
    rows = sides[0][0]

    def differences(kept: np.ndarray) -> dict[str, Difference]:
        users, ratings, means = rows.loc[kept, ["user_id", "rating", "user_mean"]].to_numpy().T
        filled = (np.where(np.isnan(side), means, side) for side in (s[:, kept] for s in scored))
        return paired_interval(users, ratings, *filled, between=between)

    return Contrast(
        prediction=prediction,
        n=int(answered.sum()),
        n_users=rows.loc[answered, "user_id"].nunique(),
        n_seeds=tuple(map(len, sides)),
        differences=differences(answered),
        check=None if answered.all() else differences(np.ones_like(answered)),
    )


def adjust(contrasts: Mapping[Key, Contrast]) -> dict[Key, Contrast]:
    """Correct the p of all contrasts that are read off one table, each metric for itself."""
    adjusted: dict[str, dict[Key, float]] = {}
    for metric in METRICS:
        ps = {key: p for key, one in contrasts.items() if (p := one.p(metric)) is not None}
        adjusted[metric] = dict(zip(ps, holm([*ps.values()]), strict=True))
    return {
        key: replace(one, adjusted={name: ps[key] for name, ps in adjusted.items() if key in ps})
        for key, one in contrasts.items()
    }

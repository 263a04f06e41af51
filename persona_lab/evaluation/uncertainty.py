"""Predictions on the same rows -> errors and their differences, with 95% intervals over users.

A user's rows share that user's habits, so whole users are drawn again, not rows. The intervals say
how a number would move with other users from the same population; the fitted models, the items and
the training seed are held fixed. Pure.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

RESAMPLES = 2000
LEVEL = 0.95
_CELLS = 1_000_000  # users drawn at a time: bounds the memory of a resample of many users


@dataclass(frozen=True)
class Interval:
    """A number and its interval over users.

    Attributes:
        value: The number on the rows as they are.
        low: Lower end, None where fewer than two users leave nothing to draw from.
        high: Upper end, None likewise.
    """

    value: float
    low: float | None
    high: float | None


def interval(
    users: ArrayLike, ratings: ArrayLike, predictions: ArrayLike, *, seed: int = 0
) -> dict[str, Interval]:
    """Bootstrap over users of one prediction's errors.

    Args:
        users: The user of each row, of shape (n_rows,).
        ratings: The true ratings, of shape (n_rows,).
        predictions: The predicted ratings, of shape (n_rows,), none missing.
        seed: Seed of the resampling.

    Returns:
        `rmse` and `mae`, in stars.
    """
    errors = _errors(ratings, predictions)
    return _bootstrap(_per_user(users, np.stack([errors**2, np.abs(errors)])), _rmse_mae, seed)


def paired_interval(
    users: ArrayLike, ratings: ArrayLike, first: ArrayLike, second: ArrayLike, *, seed: int = 0
) -> dict[str, Interval]:
    """Bootstrap over users of the difference in error, first minus second, on the same rows.

    A negative difference says that `first` errs less. Both predictions are scored on the same
    drawn users, so what makes a user hard for both cancels out.

    Args:
        users: The user of each row, of shape (n_rows,).
        ratings: The true ratings, of shape (n_rows,).
        first: Predicted ratings, of shape (n_rows,), none missing.
        second: Predicted ratings to compare with, of shape (n_rows,), none missing.
        seed: Seed of the resampling.

    Returns:
        The differences of `rmse` and of `mae`, in stars.
    """
    a, b = _errors(ratings, first), _errors(ratings, second)
    sums = _per_user(users, np.stack([a**2, np.abs(a), b**2, np.abs(b)]))
    return _bootstrap(sums, lambda s: _rmse_mae(s) - _rmse_mae(s[:, [0, 3, 4]]), seed)


def _errors(ratings: ArrayLike, predictions: ArrayLike) -> np.ndarray:
    errors = np.asarray(predictions, dtype=float) - np.asarray(ratings, dtype=float)
    assert errors.size, "nothing was compared"
    assert np.isfinite(errors).all(), "a row without a prediction was compared"
    return errors


def _per_user(users: ArrayLike, losses: np.ndarray) -> np.ndarray:
    """Sum losses (k, n_rows) to (n_users, 1 + k): the number of rows, then each loss's sum."""
    _, user = np.unique(np.asarray(users), return_inverse=True)
    columns = [np.bincount(user), *(np.bincount(user, weights=loss) for loss in losses)]
    return np.stack(columns, axis=1).astype(float)


def _rmse_mae(totals: np.ndarray) -> np.ndarray:
    """Totals (m, 3+) of rows, squared and absolute error -> RMSE and MAE, of shape (m, 2)."""
    n, squared, absolute = totals[:, 0], totals[:, 1], totals[:, 2]
    return np.stack([np.sqrt(squared / n), absolute / n], axis=1)


def _bootstrap(
    sums: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], seed: int
) -> dict[str, Interval]:
    """Percentile intervals of a statistic (m, k) -> (m, 2) of the users' totals.

    The percentiles are widened for few users as in Hesterberg, "What Teachers Should Know About
    the Bootstrap" (2015): a plain percentile interval is too narrow by sqrt((n - 1) / n) and by
    the normal's quantile in place of Student's t.
    """
    n_users = len(sums)
    values = statistic(sums.sum(axis=0, keepdims=True))[0].tolist()
    lows: list[float | None] = [None, None]
    highs: list[float | None] = [None, None]
    if n_users > 1:
        t = stats.t.ppf((1 - LEVEL) / 2, n_users - 1)
        tail = float(stats.norm.cdf(np.sqrt(n_users / (n_users - 1)) * t))
        lows, highs = np.quantile(statistic(_redraw(sums, seed)), [tail, 1 - tail], axis=0).tolist()
    return {
        name: Interval(value, low, high)
        for name, value, low, high in zip(("rmse", "mae"), values, lows, highs, strict=True)
    }


def _redraw(sums: np.ndarray, seed: int) -> np.ndarray:
    """Totals over users drawn with replacement: (n_users, k) -> (RESAMPLES, k)."""
    rng = np.random.default_rng(seed)
    n_users = len(sums)
    at_once = max(1, _CELLS // n_users)
    blocks = []
    for start in range(0, RESAMPLES, at_once):
        drawn = rng.integers(n_users, size=(min(at_once, RESAMPLES - start), n_users))
        blocks.append(sums[drawn].sum(axis=1))
    return np.concatenate(blocks)

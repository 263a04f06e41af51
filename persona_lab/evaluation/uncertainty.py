"""Predictions on the same rows -> errors and their differences, with 95% intervals over users.

A user's rows share that user's habits, so whole users are drawn again, not rows. The variance
between seeds is added: two or three seeds are too few to be drawn again. A variance of two seeds is
hardly known, so the rows of a table may share one, pooled over all of them. The intervals say how a
number would move with other users from the same population, and with other seeds where their
variance is known; the items are held fixed. Pure.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

METRICS = ("rmse", "mae")
RESAMPLES = 2000
FLIPS = 9999
LEVEL = 0.95
POWER = 0.8
_CELLS = 1_000_000  # users drawn at a time: bounds the memory of a resample of many users
_KEPT = 4_000_000  # users drawn in all: what is kept for the next comparison takes 32 MB


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

    @property
    def side(self) -> int:
        """-1 where all of it is below 0, 1 where all is above, else 0."""
        if self.low is None or self.high is None:
            return 0
        return (self.low > 0) - (self.high < 0)


@dataclass(frozen=True)
class Difference(Interval):
    """A paired difference, first minus second, in stars.

    Attributes:
        p: Of the test over users that the two are exchangeable; None like the ends.
        detectable: The smallest true difference that a test at 5% would show with 80% power on
            users like these; None likewise.
    """

    p: float | None
    detectable: float | None


@dataclass(frozen=True)
class SeedVariance:
    """How much the errors of a row of a table vary with its seed alone, the same for all its rows.

    Attributes:
        rmse: Variance of RMSE, in squared stars.
        mae: Of MAE, likewise.
        freedom: Degrees of freedom of both: seeds less rows.
    """

    rmse: float
    mae: float
    freedom: int


def seed_variance(rows: Iterable[tuple[ArrayLike, ArrayLike]]) -> SeedVariance | None:
    """Pool the variance between seeds over the rows of a table, each with its degrees of freedom.

    As the analysis of variance does: it supposes that training varies alike in all of them. Where
    it does not, differences of the more variable rows are found a little too often.

    Args:
        rows: Of each row, the true ratings (n_rows,) and the predictions (n_seeds, n_rows); a test
            row that a seed has no rating for (NaN) is no part of that seed's error.

    Returns:
        The variance of one seed's error; None where no row has two seeds with an error.
    """
    freedom, squares = 0, np.zeros(2)
    for ratings, predictions in rows:
        errors = _errors(ratings, predictions)
        scores = _rmse_mae(_per_user(np.zeros(errors.shape[1]), errors)[0])
        scores = scores[np.isfinite(scores).all(axis=1)]
        if len(scores) > 1:
            freedom += len(scores) - 1
            squares += np.var(scores, axis=0) * len(scores)
    if not freedom:
        return None
    rmse, mae = (squares / freedom).tolist()
    return SeedVariance(rmse, mae, freedom)


def interval(
    users: ArrayLike,
    ratings: ArrayLike,
    predictions: ArrayLike,
    *,
    between: SeedVariance | None = None,
    seed: int = 0,
) -> dict[str, Interval]:
    """Bootstrap over users of one prediction's errors.

    Args:
        users: The user of each row, of shape (n_rows,).
        ratings: The true ratings, of shape (n_rows,).
        predictions: The predicted ratings, of shape (n_rows,), or (n_seeds, n_rows) where several
            seeds are pooled; a row that some seeds have no rating for (NaN) counts in the others.
        between: The variance between seeds; where it is not given, that of the seeds given here.
        seed: Seed of the resampling.

    Returns:
        `rmse` and `mae`, in stars.
    """
    errors = _errors(ratings, predictions)
    assert np.isfinite(errors).any(axis=0).all(), "a row that no seed has a rating for was scored"
    sums = _per_user(users, errors)
    spreads = _spreads([sums], lambda totals: _rmse_mae(totals[0]), [between], seed)
    return {name: Interval(each.value, each.low, each.high) for name, each in spreads.items()}


def share_interval(users: ArrayLike, counted: ArrayLike, *, seed: int = 0) -> Interval:
    """Bootstrap over users of the share of rows that are counted.

    Args:
        users: The user of each row, of shape (n_rows,).
        counted: Whether each row is, of shape (n_rows,) or (n_seeds, n_rows).
        seed: Seed of the resampling.
    """
    # The mean of a 0 or 1 is the mean absolute error of a prediction of 0.
    return interval(users, np.zeros(np.shape(users)), np.asarray(counted, float), seed=seed)["mae"]


def paired_interval(
    users: ArrayLike,
    ratings: ArrayLike,
    first: ArrayLike,
    *others: ArrayLike,
    between: Sequence[SeedVariance | None] = (),
    seed: int = 0,
) -> dict[str, Difference]:
    """Compare predictions of the same rows: error of the first minus the mean error of the others.

    A negative difference says that `first` errs less. All are scored on the same drawn users, so
    what makes a user hard for all cancels out; each side's seeds vary on their own. The test
    exchanges the two predictions of whole users at random: under the hypothesis that they are
    equally good nothing changes by that. Where seeds vary, a t-test that counts their variance must
    agree: the p is the larger one.

    Args:
        users: The user of each row, of shape (n_rows,).
        ratings: The true ratings, of shape (n_rows,).
        first: Predicted ratings, of shape (n_rows,) or (n_seeds, n_rows), none missing.
        others: Predicted ratings to compare with, most often one, likewise.
        between: The variance between seeds of each of these, where it is known from elsewhere; by
            default that of the seeds given here.
        seed: Seed of the resampling.

    Returns:
        The differences of `rmse` and of `mae`.
    """
    assert others, "nothing was compared"
    errors = [_errors(ratings, predictions) for predictions in (first, *others)]
    assert all(np.isfinite(side).all() for side in errors), (
        "a row without a prediction was compared"
    )
    sides = [_per_user(users, side) for side in errors]

    def difference(totals: list[np.ndarray]) -> np.ndarray:
        own, *theirs = map(_rmse_mae, totals)
        return own - np.mean(theirs, axis=0)

    spreads = _spreads(sides, difference, between or [None] * len(sides), seed)
    # At a fixed number of rows RMSE is monotone in the sum of squares: exchanging users for the
    # difference of RMSE is flipping signs of the users' differences of squares. The mean of several
    # RMSE is no RMSE: there each side's squares count by what they move its RMSE.
    own, *theirs = (side.mean(axis=1)[:, 1:] for side in sides)
    if len(theirs) > 1:
        own, *theirs = (losses / [_root(losses[:, 0]), 1.0] for losses in (own, *theirs))
    flips = _sign_flip(own - np.mean(theirs, axis=0), seed)
    return {
        name: replace(spread, p=p if spread.p is None or p is None else max(p, spread.p))
        for (name, spread), p in zip(spreads.items(), flips, strict=True)
    }


def _root(squares: np.ndarray) -> float:
    return float(np.sqrt(squares.sum())) or 1.0


def holm(ps: Sequence[float]) -> list[float]:
    """Adjust p-values for their number (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    p = np.asarray(ps, dtype=float)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate((p.size - np.arange(p.size)) * p[order])
    adjusted = np.empty(p.size)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted.tolist()


def _errors(ratings: ArrayLike, predictions: ArrayLike) -> np.ndarray:
    """Errors of shape (n_seeds, n_rows)."""
    errors = np.atleast_2d(np.asarray(predictions, float)) - np.asarray(ratings, dtype=float)
    assert errors.size, "nothing was compared"
    return errors


def _per_user(users: ArrayLike, errors: np.ndarray) -> np.ndarray:
    """Errors (n_seeds, n_rows) -> sums (n_users, n_seeds, 3): rows, squares, absolutes."""
    _, user = np.unique(np.asarray(users), return_inverse=True)
    known = np.nan_to_num(errors)
    losses = np.stack([np.isfinite(errors), known**2, np.abs(known)], axis=1)
    sums = [[np.bincount(user, weights=loss) for loss in of_seed] for of_seed in losses]
    return np.moveaxis(np.array(sums), -1, 0)


def _rmse_mae(totals: np.ndarray) -> np.ndarray:
    """Totals (m, 3) of rows, squared and absolute error -> RMSE and MAE (m, 2); NaN of no rows."""
    n, squared, absolute = totals[:, 0], totals[:, 1], totals[:, 2]
    with np.errstate(invalid="ignore"):  # a seed may have rated none of the users drawn, or none
        return np.stack([np.sqrt(squared / n), absolute / n], axis=1)


def _spreads(
    sides: Sequence[np.ndarray],
    statistic: Callable[[list[np.ndarray]], np.ndarray],
    between: Sequence[SeedVariance | None],
    seed: int,
) -> dict[str, Difference]:
    """Value and interval of a statistic of all sides, over users and seeds, for each metric.

    Percentiles over drawn users, stretched from their centre by what the variance between seeds
    adds to the standard error, with the degrees of freedom of Welch (1947): few where seeds are few
    and vary much.

    Args:
        sides: Sums of shape (n_users, n_seeds, 3), of the same users.
        statistic: One array (m, 3) of totals per side -> RMSE and MAE, of shape (m, 2).
        between: The variance between seeds of each side; None for that of its own seeds.
        seed: Seed of the resampling.

    Returns:
        `rmse` and `mae`; `p` is that of a t-test where seeds vary, else None.
    """
    n_users = len(sides[0])
    values = statistic([side.sum(axis=(0, 1))[None] for side in sides])[0]
    if n_users < 2:
        return {
            name: Difference(value, None, None, None, None)
            for name, value in zip(METRICS, values.tolist(), strict=True)
        }
    drawn = statistic(_redraw(sides, seed))
    ends = np.nanquantile(drawn, _tails(n_users), axis=0)
    # A resample of few users spreads too little, by sqrt((n - 1) / n).
    of_users = np.nanvar(drawn, axis=0, ddof=1) * n_users / (n_users - 1)
    parts = [(of_users, n_users - 1), *_of_seeds(sides, statistic, between)]
    variances = np.array([variance for variance, _ in parts])
    freedoms = np.array([freedom for _, freedom in parts])
    spreads = {}
    for i, (name, value) in enumerate(zip(METRICS, values.tolist(), strict=True)):
        variance = variances[:, i]
        error = float(np.sqrt(variance.sum()))
        weight = (variance**2 / freedoms).sum()
        freedom = float(variance.sum() ** 2 / weight) if weight else float(n_users - 1)
        reach = stats.t.ppf((1 + LEVEL) / 2, [n_users - 1, freedom])
        if variance[0] > 0:
            stretch = reach[1] * error / (reach[0] * np.sqrt(variance[0]))
            low, high = (value + stretch * (ends[:, i] - value)).tolist()
        else:
            low, high = float(value - reach[1] * error), float(value + reach[1] * error)
        p = None
        if variance[1:].sum() > 0:
            p = float(2 * stats.t.sf(abs(value) / error, freedom))
        detectable = float(stats.t.ppf([(1 + LEVEL) / 2, POWER], freedom).sum() * error)
        spreads[name] = Difference(value, low, high, p, detectable)
    return spreads


def _of_seeds(
    sides: Sequence[np.ndarray],
    statistic: Callable[[list[np.ndarray]], np.ndarray],
    between: Sequence[SeedVariance | None],
) -> Iterator[tuple[np.ndarray, int]]:
    """What the seeds of each side add to the variance of RMSE and MAE, and its freedom."""
    totals = [side.sum(axis=(0, 1))[None] for side in sides]
    shared: dict[SeedVariance, float] = {}
    for place, (side, known) in enumerate(zip(sides, between, strict=True)):
        if known is not None:
            weight = 1 if place == 0 else 1 / (len(sides) - 1)
            shared[known] = shared.get(known, 0) + weight**2 / side.shape[1]
            continue
        by_seed = [
            statistic([*totals[:place], side[:, n].sum(axis=0)[None], *totals[place + 1 :]])[0]
            for n in range(side.shape[1])
        ]
        rated = [scores for scores in by_seed if np.isfinite(scores).all()]
        if len(rated) > 1:
            yield np.var(rated, axis=0, ddof=1) / len(rated), len(rated) - 1
    for known, factor in shared.items():
        yield np.array([known.rmse, known.mae]) * factor, known.freedom


def _tails(n_users: int) -> list[float]:
    """Percentiles of an interval's ends, as shares, widened for few users.

    As in Hesterberg, "What Teachers Should Know About the Bootstrap" (2015): a plain percentile
    interval is too narrow by sqrt((n - 1) / n) and by the normal's quantile in place of Student's
    t.
    """
    t = stats.t.ppf((1 - LEVEL) / 2, n_users - 1)
    tail = float(stats.norm.cdf(np.sqrt(n_users / (n_users - 1)) * t))
    return [tail, 1 - tail]


def _redraw(sides: Sequence[np.ndarray], seed: int) -> list[np.ndarray]:
    """Totals over users drawn with replacement, and all seeds: one (RESAMPLES, 3) per side."""
    summed = np.stack([side.sum(axis=1) for side in sides], axis=1)
    blocks = _random(_times, RESAMPLES, len(summed), seed)
    totals = np.concatenate([np.tensordot(times, summed, axes=1) for times in blocks])
    return list(np.moveaxis(totals, 1, 0))


def _sign_flip(differences: np.ndarray, seed: int) -> list[float | None]:
    """Two-sided p of each column's sum under random signs of the rows, of shape (n_users, k).

    The observed signs count as one draw, so that no p is 0 (Phipson and Smyth, 2010).
    """
    n_users, k = differences.shape
    if n_users < 2:
        return [None] * k
    observed = np.abs(differences.sum(axis=0))
    # Sums that differ by rounding alone are equal.
    least = observed - 1e-9 * np.abs(differences).sum(axis=0)
    blocks = _random(_signs, FLIPS, n_users, seed)
    reached = np.zeros(k)
    for signs in blocks:
        reached += (np.abs(signs @ differences) >= least).sum(axis=0)
    return ((reached + 1) / (FLIPS + 1)).tolist()


def _times(rng: np.random.Generator, n: int, n_users: int) -> np.ndarray:
    """How often each user is drawn, of shape (n, n_users)."""
    drawn = rng.integers(n_users, size=(n, n_users)) + n_users * np.arange(n)[:, None]
    return np.bincount(drawn.ravel(), minlength=n * n_users).reshape(n, n_users).astype(float)


def _signs(rng: np.random.Generator, n: int, n_users: int) -> np.ndarray:
    return rng.integers(2, size=(n, n_users)) * 2.0 - 1.0


Draw = Callable[[np.random.Generator, int, int], np.ndarray]


def _random(draw: Draw, n: int, n_users: int, seed: int) -> Iterable[np.ndarray]:
    """Blocks of `n` draws; kept where they are small, as all comparisons of a table share them."""
    if n * n_users <= _KEPT:
        return _kept(draw, n, n_users, seed)
    return _blocks(draw, n, n_users, seed)


@lru_cache(maxsize=4)
def _kept(draw: Draw, n: int, n_users: int, seed: int) -> list[np.ndarray]:
    return list(_blocks(draw, n, n_users, seed))


def _blocks(draw: Draw, n: int, n_users: int, seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    at_once = max(1, _CELLS // n_users)
    for start in range(0, n, at_once):
        yield draw(rng, min(at_once, n - start), n_users)

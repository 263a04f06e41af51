"""Predictions on the same rows -> errors and their differences, with 95% intervals over users.

A user's rows share that user's habits, so whole users are drawn again, not rows. The variance
between seeds is added: two or three seeds are too few to be drawn again. A variance of two seeds is
hardly known, so the rows of a table may share one, pooled over all of them. The intervals say how a
number would move with other users from the same population, and with other seeds where their
variance is known; the items are held fixed. Pure.
"""

from collections.abc import Iterable, Iterator, Sequence
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
    """A number on the rows as they are, and its interval over users.

    The ends are None where fewer than two users leave nothing to draw from.
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
    """How much RMSE and MAE vary with the seed alone, the same for all rows of a table.

    Variances in squared stars, and the degrees of freedom of both: seeds less rows.
    """

    rmse: float
    mae: float
    freedom: int


def seed_variance(rows: Iterable[tuple[ArrayLike, ArrayLike]]) -> SeedVariance | None:
    """Pool the variance of a seed's error over the rows of a table, each with its freedom.

    As the analysis of variance does: it supposes that training varies alike in all of them. Where
    it does not, differences of the more variable rows are found a little too often.

    Args:
        rows: Of each row, the true ratings (n_rows,) and the predictions (n_seeds, n_rows); a test
            row that a seed has no rating for (NaN) is no part of that seed's error.

    Returns:
        None where no row has two seeds with an error.
    """
    freedom, squares = 0, np.zeros(2)
    for ratings, predictions in rows:
        scores = _scores([_per_user(np.zeros(np.shape(ratings)), ratings, predictions)[0]])
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
) -> dict[str, Interval]:
    """Bootstrap over users of the `rmse` and `mae` of one prediction.

    Args:
        users: The user of each row, of shape (n_rows,).
        ratings: The true ratings, of shape (n_rows,).
        predictions: The predicted ratings, of shape (n_rows,), or (n_seeds, n_rows) where several
            seeds are pooled; a row that some seeds have no rating for (NaN) counts in the others.
        between: The variance between seeds; where it is not given, that of the seeds given here.
    """
    unrated = np.isnan(np.atleast_2d(np.asarray(predictions))).all(axis=0)
    assert not unrated.any(), "a row that no seed has a rating for was scored"
    spreads = _spreads([_per_user(users, ratings, predictions)], [between])
    return {name: Interval(error.value, error.low, error.high) for name, error in spreads.items()}


def paired_interval(
    users: ArrayLike,
    ratings: ArrayLike,
    first: ArrayLike,
    *others: ArrayLike,
    between: Sequence[SeedVariance | None] = (),
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
        between: The variance between seeds of each of these, as `interval` takes it.

    Returns:
        The differences of `rmse` and of `mae`.
    """
    assert others, "nothing was compared"
    complete = not any(np.isnan(np.asarray(side)).any() for side in (first, *others))
    assert complete, "a row without a prediction was compared"
    sides = [_per_user(users, ratings, predictions) for predictions in (first, *others)]
    spreads = _spreads(sides, between or [None] * len(sides))
    if len(sides[0]) < 2:
        return spreads
    # At a fixed number of rows RMSE is monotone in the sum of squares: exchanging users for the
    # difference of RMSE is flipping signs of the users' differences of squares. The mean of several
    # RMSE is no RMSE: there each side's squares count by what they move its RMSE.
    own, *theirs = (side.mean(axis=1)[:, 1:] for side in sides)
    if len(theirs) > 1:
        own, *theirs = (side / [np.sqrt(side[:, 0].sum()) or 1.0, 1.0] for side in (own, *theirs))
    losses = own - np.mean(theirs, axis=0)
    # Sums that differ by rounding alone are equal.
    least = np.abs(losses.sum(axis=0)) - 1e-9 * np.abs(losses).sum(axis=0)
    reached = (np.abs(_weighted(losses, FLIPS, signs=True)) >= least).sum(axis=0)
    # The observed signs count as one draw, so that no p is 0 (Phipson and Smyth, 2010).
    ps = ((reached + 1) / (FLIPS + 1)).tolist()
    return {
        name: replace(spread, p=max(p, spread.p or 0.0))
        for (name, spread), p in zip(spreads.items(), ps, strict=True)
    }


def holm(ps: Sequence[float]) -> list[float]:
    """Adjust p-values for their number (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    p = np.asarray(ps, dtype=float)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate((p.size - np.arange(p.size)) * p[order])
    return np.minimum(steps, 1.0)[np.argsort(order)].tolist()


def _per_user(users: ArrayLike, ratings: ArrayLike, predictions: ArrayLike) -> np.ndarray:
    """Sums (n_users, n_seeds, 3) of each user's rows, squared errors and absolute errors."""
    errors = np.atleast_2d(np.asarray(predictions, float)) - np.asarray(ratings, dtype=float)
    _, user = np.unique(np.asarray(users), return_inverse=True)
    known = np.nan_to_num(errors)
    losses = np.stack([np.isfinite(errors), known**2, np.abs(known)], axis=1)
    sums = [[np.bincount(user, weights=loss) for loss in of_seed] for of_seed in losses]
    return np.moveaxis(np.array(sums), -1, 0)


def _scores(totals: Iterable[np.ndarray]) -> np.ndarray:
    """RMSE and MAE (m, 2) of the first side, minus the mean of the others' if any; NaN of no rows.

    Of each side, totals of shape (m, 3) of rows, squared and absolute errors.
    """
    with np.errstate(invalid="ignore"):  # a seed may have rated none of the users drawn, or none
        own, *theirs = (
            np.stack([np.sqrt(squared / n), absolute / n], axis=1)
            for n, squared, absolute in (side.T for side in totals)
        )
    return own - sum(theirs) / len(theirs) if theirs else own


def _spreads(
    sides: Sequence[np.ndarray], between: Sequence[SeedVariance | None]
) -> dict[str, Difference]:
    """Value and interval of `rmse` and `mae`, of one side or of the first minus the others.

    Percentiles over drawn users, stretched from their centre by what the variance between seeds
    adds to the standard error, with the degrees of freedom of Welch (1947): few where seeds are few
    and vary much. As in Hesterberg, "What Teachers Should Know About the Bootstrap" (2015), the
    percentiles are widened for few users: a plain percentile interval is too narrow by
    sqrt((n - 1) / n) and by the normal's quantile in place of Student's t.

    `sides` are sums of shape (n_users, n_seeds, 3), `between` the variance between the seeds of
    each, None for that of its own ones. The `p` is that of a t-test where seeds vary, else None.
    """
    n_users, confident = len(sides[0]), (1 + LEVEL) / 2
    values = _scores(side.sum(axis=(0, 1))[None] for side in sides)[0]
    if n_users < 2:
        none = dict.fromkeys(("low", "high", "p", "detectable"))
        return {n: Difference(v, **none) for n, v in zip(METRICS, values.tolist(), strict=True)}
    by_user = np.stack([side.sum(axis=1) for side in sides], axis=1)
    drawn = _scores(np.moveaxis(_weighted(by_user, RESAMPLES), 1, 0))
    of_users = stats.t.ppf(confident, n_users - 1)
    tail = stats.norm.cdf(-np.sqrt(n_users / (n_users - 1)) * of_users)
    ends = np.nanquantile(drawn, [tail, 1 - tail], axis=0)
    # A resample of few users spreads too little, by sqrt((n - 1) / n).
    varying = np.nanvar(drawn, axis=0, ddof=1) * n_users / (n_users - 1)
    variances, freedoms = zip((varying, n_users - 1), *_of_seeds(sides, between), strict=True)
    spreads = {}
    for i, (name, value) in enumerate(zip(METRICS, values.tolist(), strict=True)):
        variance = np.array(variances)[:, i]
        error = float(np.sqrt(variance.sum()))
        weight = (variance**2 / freedoms).sum()
        freedom = float(variance.sum() ** 2 / weight) if weight else float(n_users - 1)
        reach = stats.t.ppf(confident, freedom) * error
        low, high = float(value - reach), float(value + reach)
        if variance[0] > 0:
            stretch = reach / (of_users * np.sqrt(variance[0]))
            low, high = (value + stretch * (ends[:, i] - value)).tolist()
        p = None
        if variance[1:].sum() > 0:
            p = float(2 * stats.t.sf(abs(value) / error, freedom))
        detectable = float(stats.t.ppf([confident, POWER], freedom).sum() * error)
        spreads[name] = Difference(value, low, high, p, detectable)
    return spreads


def _of_seeds(
    sides: Sequence[np.ndarray], between: Sequence[SeedVariance | None]
) -> Iterator[tuple[np.ndarray, int]]:
    """What the seeds of each side add to the variance of RMSE and MAE, and its freedom."""
    totals = [side.sum(axis=(0, 1))[None] for side in sides]
    shared: dict[SeedVariance, float] = {}
    for place, (side, known) in enumerate(zip(sides, between, strict=True)):
        n_seeds = side.shape[1]
        if known is not None:
            weight = 1 if place == 0 else 1 / (len(sides) - 1)
            shared[known] = shared.get(known, 0) + weight**2 / n_seeds
            continue
        # One seed in the place of all of its side: a row of totals for each.
        by_seed = _scores([*totals[:place], side.sum(axis=0), *totals[place + 1 :]])
        rated = by_seed[np.isfinite(by_seed).all(axis=1)]
        if len(rated) > 1:
            yield np.var(rated, axis=0, ddof=1) / len(rated), len(rated) - 1
    for known, factor in shared.items():
        yield np.array([known.rmse, known.mae]) * factor, known.freedom


def _weighted(by_user: np.ndarray, n: int, *, signs: bool = False) -> np.ndarray:
    """Sums (n, ...) of users' values (n_users, ...), each by other `_weights` of the users."""
    # All comparisons of a table share what is kept.
    blocks = (_kept if n * len(by_user) <= _KEPT else _weights)(n, len(by_user), signs)
    return np.concatenate([np.tensordot(block, by_user, axes=1) for block in blocks])


def _weights(n: int, n_users: int, signs: bool) -> Iterator[np.ndarray]:
    """Blocks (m, n_users) of `n` draws: random signs, or how often each user is drawn again."""
    rng = np.random.default_rng(0)
    at_once = max(1, _CELLS // n_users)
    for start in range(0, n, at_once):
        shape = (min(at_once, n - start), n_users)
        if signs:
            yield rng.integers(2, size=shape) * 2.0 - 1.0
        else:
            drawn = rng.integers(n_users, size=shape) + n_users * np.arange(shape[0])[:, None]
            yield np.bincount(drawn.ravel(), minlength=drawn.size).reshape(shape).astype(float)


@lru_cache(maxsize=4)
def _kept(n: int, n_users: int, signs: bool) -> list[np.ndarray]:
    return list(_weights(n, n_users, signs))

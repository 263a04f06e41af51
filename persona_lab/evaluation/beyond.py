"""Predictions of a run -> what one error hides: calibration, ranks, histograms, slices. Pure.

The digits' probabilities p1..p5 are a forecast of the rating; the expected rating is its mean.
Beside what a reader has no scale for stands what a simple predictor reaches on the same rows.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import spearmanr, wasserstein_distance

from persona_lab.evaluation.metrics import errors
from persona_lab.evaluation.uncertainty import interval

DIGITS = np.arange(1, 6)
BINS = 10
RESPONSES = 10
RANKING = ("prompt/prompt_mean", "all/user_item_bias", "cohort/user_item_bias")
"""Simple predictors that rank a user's movies, as in `Baselines.frame`."""
_THIRDS = ("low", "middle", "high")


def beyond(
    predictions: pd.DataFrame,
    train: pd.DataFrame,
    activity: Mapping[Any, Any],
    simple: pd.DataFrame | None = None,
) -> dict[str, Any]:
    """Look at a run's predictions from other sides.

    Args:
        predictions: user_id, item_id, rating, response, prediction (nullable), expected_rating,
            p1..p5 and persona of every test row.
        train: user_id, item_id and rating of the selected users' training rows.
        activity: user -> tier of the activity trait.
        simple: What simple predictors say of the same rows, as `Baselines.frame`.

    Returns:
        `ece` and `reliability` (see `reliability`), `rps` with its `rps_interval` {value, low,
        high}, `spearman` (its mean `value` over the `n_users` in whom both ratings vary, with
        `low` and `high`, None without any), `references` (`rps` {value, low, high} of the training
        rows' histogram as the forecast of every row, and `spearman` of each simple predictor that
        ranks, by `<version>/<name>`), `wasserstein` (distance in stars
        between the histograms of predicted and true ratings, `decoded` on answered rows and
        `expected` on all), `macro` (`rmse` and `mae` of each user's expected ratings, averaged
        over users), `slices` and `responses` (the most frequent ones without a rating).
    """
    p = predictions[[f"p{digit}" for digit in DIGITS]].to_numpy(dtype=float)
    rating = predictions["rating"].to_numpy(dtype=int)
    bins = reliability(p, rating)
    gaps = [(each["n"], abs(each["accuracy"] - each["confidence"])) for each in bins]
    counts = np.bincount(rating, minlength=6)[1:]
    answered = predictions.dropna(subset="prediction")
    decoded = None
    if len(answered):
        decoded = float(wasserstein_distance(answered["prediction"], answered["rating"]))
    by_user = [
        errors(user["rating"], user["expected_rating"])
        for _, user in predictions.groupby("user_id")
    ]
    return {
        "ece": sum(n * gap for n, gap in gaps) / len(rating),
        "reliability": bins,
        "rps": ranked_probability_score(p, rating),
        "rps_interval": _mean(predictions["user_id"], _rps(p, rating)),
        "spearman": _spearman(predictions, predictions["expected_rating"]),
        "references": _references(predictions, train, simple),
        "wasserstein": {
            "decoded": decoded,
            "expected": float(wasserstein_distance(DIGITS, DIGITS, p.mean(axis=0), counts)),
        },
        "macro": {
            m: float(np.mean([value for each in by_user if (value := each[m]) is not None]))
            for m in ("rmse", "mae")
        },
        "slices": list(_slices(predictions, train, activity)),
        "responses": _unrelated(predictions),
    }


def reliability(p: np.ndarray, rating: np.ndarray) -> list[dict[str, Any]]:
    """Bins of the probability given to the likeliest digit, and how often that digit was right.

    Args:
        p: Probabilities of 1 to 5, of shape (n_rows, 5).
        rating: The true ratings, of shape (n_rows,).

    Returns:
        One record per bin with rows: `low`, `high`, `n`, `confidence` and `accuracy`. Their mean
        gap, weighted by rows, is the expected calibration error (Guo et al., 2017).
    """
    top = p.max(axis=1)
    right = p.argmax(axis=1) + 1 == rating
    # A probability on an edge belongs to the bin below it.
    bins = np.clip(np.ceil(top * BINS).astype(int) - 1, 0, BINS - 1)
    return [
        {
            "low": place / BINS,
            "high": (place + 1) / BINS,
            "n": int((bins == place).sum()),
            "confidence": float(top[bins == place].mean()),
            "accuracy": float(right[bins == place].mean()),
        }
        for place in np.unique(bins).tolist()
    ]


def ranked_probability_score(p: np.ndarray, rating: np.ndarray) -> float:
    """Mean squared distance of cumulated forecast and truth over the cuts between ratings.

    Zero for a sure and right forecast, 1 for 1 in place of 5 (Epstein, 1969, divided by the cuts).

    Args:
        p: Probabilities of 1 to 5, of shape (n_rows, 5).
        rating: The true ratings, of shape (n_rows,).
    """
    return float(_rps(p, rating).mean())


def _rps(p: np.ndarray, rating: np.ndarray) -> np.ndarray:
    happened = rating[:, None] <= DIGITS[:-1]
    return ((p.cumsum(axis=1)[:, :-1] - happened) ** 2).mean(axis=1)


def _spearman(predictions: pd.DataFrame, predicted: pd.Series) -> dict[str, Any]:
    rows = predictions[["user_id", "rating"]].assign(predicted=predicted)
    ranks: dict[Any, float] = {
        user: float(spearmanr(own["rating"], own["predicted"])[0])  # pyright: ignore
        for user, own in rows.groupby("user_id")
        if np.ptp(own["rating"]) > 0 and np.ptp(own["predicted"]) > 0
    }
    if not ranks:
        return {"value": None, "low": None, "high": None, "n_users": 0}
    return _mean([*ranks], [*ranks.values()]) | {"n_users": len(ranks)}


def _mean(users: ArrayLike, values: ArrayLike) -> dict[str, Any]:
    """Mean of values from -1 to 1 with its 95% interval over users: {value, low, high}."""
    # From -1, which none is below, the mean distance is the mean and 1.
    given = np.asarray(values, dtype=float)
    ends = asdict(interval(users, np.full(given.shape, -1.0), given)["mae"])
    return {name: None if end is None else end - 1 for name, end in ends.items()}


def _references(
    predictions: pd.DataFrame, train: pd.DataFrame, simple: pd.DataFrame | None
) -> dict[str, Any]:
    shares = np.bincount(train["rating"], minlength=6)[1:] / len(train)
    forecast = np.tile(shares, (len(predictions), 1))
    found: dict[str, Any] = {
        "rps": _mean(
            predictions["user_id"], _rps(forecast, predictions["rating"].to_numpy(dtype=int))
        ),
        "spearman": {},
    }
    if simple is not None:
        keys = ["user_id", "item_id"]
        rows = predictions[[*keys, "rating"]].merge(
            simple.drop(columns="rating"), on=keys, validate="one_to_one"
        )
        for name in RANKING:
            if name in rows:
                found["spearman"][name] = _spearman(rows, rows[name])
    return found


def _slices(
    predictions: pd.DataFrame, train: pd.DataFrame, activity: Mapping[Any, Any]
) -> Iterator[dict[str, Any]]:
    """Errors by persona, activity, and thirds of history length and popularity in training rows."""
    history = predictions["user_id"].map(train.groupby("user_id").size())
    popularity = predictions["item_id"].map(train.groupby("item_id").size()).fillna(0)
    for name, values in {
        "persona": predictions["persona"].astype(str),
        "activity": predictions["user_id"].map(activity).astype(str),
        "history": _thirds(history),
        "popularity": _thirds(popularity),
    }.items():
        for value, rows in predictions.groupby(values.to_numpy()):
            answered = rows.dropna(subset="prediction")
            expected = errors(rows["rating"], rows["expected_rating"])
            yield {
                "slice": name,
                "value": str(value),
                "n_users": int(rows["user_id"].nunique()),
                "n": len(rows),
                "n_unrelated": len(rows) - len(answered),
                **errors(answered["rating"], answered["prediction"].astype(float)),
                **{f"{metric}_expected": error for metric, error in expected.items()},
            }


def _thirds(values: pd.Series) -> pd.Series:
    cuts = np.quantile(values, [1 / 3, 2 / 3])
    thirds = np.searchsorted(cuts, values.to_numpy())
    return pd.Series([_THIRDS[third] for third in thirds], index=values.index)


def _unrelated(predictions: pd.DataFrame) -> list[dict[str, Any]]:
    """The most frequent responses without a rating: text, number of rows, and one such row."""
    rows = predictions[predictions["prediction"].isna()]
    return [
        {
            "response": str(text),
            "n": len(same),
            "user_id": int(same["user_id"].iloc[0]),
            "item_id": int(same["item_id"].iloc[0]),
        }
        for text, same in sorted(rows.groupby("response"), key=lambda each: -len(each[1]))
    ][:RESPONSES]

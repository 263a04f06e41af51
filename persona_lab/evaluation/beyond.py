"""Predictions of a run -> what one error hides: calibration, ranks, histograms, slices. Pure.

The probabilities of a scale's values are a forecast of the rating; the expected rating is its mean.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import spearmanr, wasserstein_distance

from persona_lab.data import Scale
from persona_lab.evaluation.metrics import errors
from persona_lab.evaluation.uncertainty import interval

BINS = 10
RESPONSES = 10
RANKING = ("prompt/prompt_mean", "all/user_item_bias", "cohort/user_item_bias")
"""Simple predictors that rank a user's movies."""


def beyond(
    predictions: pd.DataFrame,
    train: pd.DataFrame,
    activity: Mapping[Any, Any],
    scale: Scale,
) -> dict[str, Any]:
    """Look at a run's predictions from other sides.

    Args:
        predictions: user_id, item_id, rating, response, prediction (nullable), expected_rating,
            a probability of each value of the scale and persona of every test row; what simple
            predictors say of it, as from `Baselines.beside`, where that is known.
        train: user_id, item_id and rating of the selected users' training rows.
        activity: user -> tier of the activity trait.

    Returns:
        `ece` and `reliability` (see `reliability`), `rps` with its `rps_interval` {value, low,
        high}, `spearman` (its mean `value` over the `n_users` in whom both ratings vary, with
        `low` and `high`, None without any), `references` (`rps` {value, low, high} of the training
        rows' histogram as the forecast of every row, and `spearman` of each simple predictor that
        ranks, by `<version>/<name>`), `wasserstein` (distance in stars between the histograms of
        predicted and true ratings, `decoded` on answered rows and `expected` on all), `macro`
        (`rmse` and `mae` of each user's expected ratings, averaged over users), `slices` and
        `responses` (the most frequent ones without a rating).
    """
    p = predictions[[*scale.columns]].to_numpy(dtype=float)
    place = scale.index(predictions["rating"])
    users, n = predictions["user_id"], len(predictions)
    bins = reliability(p, place)
    scores = ranked_probability_scores(p, place)
    answered = predictions.dropna(subset="prediction")
    histogram, of_training = (
        np.bincount(places, minlength=len(scale.values))
        for places in (place, scale.index(train["rating"]))
    )
    reference = ranked_probability_scores(np.tile(of_training / len(train), (n, 1)), place)
    by_user = [
        errors(own["rating"], own["expected_rating"]) for _, own in predictions.groupby("user_id")
    ]
    return {
        "ece": sum(part["n"] * abs(part["accuracy"] - part["confidence"]) for part in bins) / n,
        "reliability": bins,
        "rps": float(scores.mean()),
        "rps_interval": _mean(users, scores),
        "spearman": _spearman(predictions, "expected_rating"),
        "references": {
            "rps": _mean(users, reference),
            "spearman": {
                name: _spearman(predictions, name) for name in RANKING if name in predictions
            },
        },
        "wasserstein": {
            "decoded": float(wasserstein_distance(answered["prediction"], answered["rating"]))
            if len(answered)
            else None,
            "expected": float(
                wasserstein_distance(scale.values, scale.values, p.mean(axis=0), histogram)
            ),
        },
        "macro": pd.DataFrame(by_user).mean().to_dict(),
        "slices": list(_slices(predictions, train, activity)),
        "responses": _unrelated(predictions),
    }


def reliability(p: np.ndarray, place: np.ndarray) -> list[dict[str, Any]]:
    """Compare how sure a forecast is of its most probable value with how often that is right.

    Args:
        p: Probabilities of the scale's values, of shape (n_rows, n_values).
        place: The true ratings' places on the scale, from 0, of shape (n_rows,).

    Returns:
        One record per bin with rows: `low`, `high`, `n`, `confidence` and `accuracy`. Their mean
        gap, weighted by rows, is the expected calibration error (Guo et al., 2017).
    """
    top, right = p.max(axis=1), p.argmax(axis=1) == place
    # A probability on an edge belongs to the bin below it.
    bins = np.clip(np.ceil(top * BINS).astype(int) - 1, 0, BINS - 1)
    return [
        {
            "low": number / BINS,
            "high": (number + 1) / BINS,
            "n": int((bins == number).sum()),
            "confidence": float(top[bins == number].mean()),
            "accuracy": float(right[bins == number].mean()),
        }
        for number in np.unique(bins).tolist()
    ]


def ranked_probability_scores(p: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Mean squared distance of cumulated forecast and truth over the cuts between values, by row.

    Zero for a sure and right forecast, 1 for the lowest value in place of the highest (Epstein,
    1969, divided by the number of cuts). The arguments are those of `reliability`.
    """
    happened = place[:, None] <= np.arange(p.shape[1] - 1)
    return ((p.cumsum(axis=1)[:, :-1] - happened) ** 2).mean(axis=1)


def _spearman(predictions: pd.DataFrame, name: str) -> dict[str, Any]:
    ranks: dict[Any, float] = {
        user: float(spearmanr(own["rating"], own[name])[0])  # pyright: ignore
        for user, own in predictions.groupby("user_id")
        if np.ptp(own["rating"]) > 0 and np.ptp(own[name]) > 0
    }
    if not ranks:
        return {"value": None, "low": None, "high": None, "n_users": 0}
    return _mean([*ranks], [*ranks.values()]) | {"n_users": len(ranks)}


def _mean(users: ArrayLike, values: ArrayLike) -> dict[str, Any]:
    """Mean of values from -1 to 1 with its 95% interval over users: {value, low, high}."""
    # From -1, which none is below, the mean distance is the mean and 1.
    ends = asdict(interval(users, np.full(np.shape(values), -1.0), values)["mae"])
    return {name: None if end is None else end - 1 for name, end in ends.items()}


def _slices(
    predictions: pd.DataFrame, train: pd.DataFrame, activity: Mapping[Any, Any]
) -> Iterator[dict[str, Any]]:
    """Errors by persona, activity, and thirds of history length and popularity in training rows."""
    history = predictions["user_id"].map(train.groupby("user_id").size())
    popularity = predictions["item_id"].map(train.groupby("item_id").size()).fillna(0)
    history, popularity = (
        np.take(("low", "middle", "high"), np.searchsorted(np.quantile(n, [1 / 3, 2 / 3]), n))
        for n in (history, popularity)
    )
    for name, values in {
        "persona": predictions["persona"].astype(str).to_numpy(),
        "activity": predictions["user_id"].map(activity).astype(str).to_numpy(),
        "history": history,
        "popularity": popularity,
    }.items():
        for value, rows in predictions.groupby(values):
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


def _unrelated(predictions: pd.DataFrame) -> list[Any]:
    """The most frequent responses without a rating: text, number of rows, and one such row."""
    alike = predictions[predictions["prediction"].isna()].groupby("response")
    rows = alike[["user_id", "item_id"]].first()
    rows.insert(0, "n", alike.size())
    rows = rows.sort_values("n", ascending=False, kind="stable").head(RESPONSES)
    return rows.reset_index().to_dict("records")

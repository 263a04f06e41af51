"""Split and all ratings -> what simple predictors say about the same test rows.

Each predictor stands in two versions: `cohort`, fitted on the training rows of the selected users
(what a run's adapters saw), and `all`, fitted on every rating but the selected users' test shares.
`prompt` holds the item's mean that the prompt itself shows, and the same with how far the user's
training ratings lie from it, as profiles tell. Pure.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from sklearn.metrics.pairwise import cosine_similarity

from persona_lab.cache import Entry, Stage
from persona_lab.data import Ratings, Scale, Split
from persona_lab.evaluation.metrics import errors

DAMPING = 5.0
"""Imaginary ratings at the mean that every user and item starts with, so that one rating of a rare
movie does not count as its mean. Of 0, 5 and 10, 5 has the least error on MovieLens cohorts (RMSE
1.02 against 1.04 and 1.03 in `cohort`; in `all` the three differ by less than 0.005)."""

ALWAYS = "always_"  # before the label of the value that is predicted always: always_4

# Usual values; nothing was tuned. (LensKit, which has both methods, needs an older pandas.)
FACTORS = 50
EPOCHS = 10
REGULARISATION = 0.1
NEIGHBOURS = 20

Predicted = dict[str, tuple[pd.Series, int]]


@dataclass(frozen=True, eq=False)
class Baselines:
    """Predictions of the simple predictors.

    Attributes:
        frame: user_id, item_id, rating and one column `<version>/<name>` per predictor, aligned
            with the split's test rows.
        metrics: version -> name -> `rmse`, `mae`, the same after rounding to the nearest value of
            the scale (`rmse_rounded`, `mae_rounded`), and `fallback`: the rows of users or items
            that the version never saw, which got its mean rating.
        user_means: user -> mean training rating.
    """

    STAGE: ClassVar[str] = "baselines"
    VERSION: ClassVar[int] = 3

    frame: pd.DataFrame
    metrics: dict[str, dict[str, dict[str, Any]]]
    user_means: dict[int, float]

    def beside(self, predictions: pd.DataFrame) -> pd.DataFrame:
        """Add what these say, and `user_mean`, to a run's predictions of the same test rows."""
        rows = predictions.assign(user_mean=predictions["user_id"].map(self.user_means)).merge(
            self.frame.drop(columns="rating"),
            on=["user_id", "item_id"],
            how="inner",
            validate="one_to_one",
        )
        assert len(rows) == len(predictions) == len(self.frame), "predictions are not the test rows"
        return rows


def predicting(
    split: Entry[Split], ratings: Callable[[], Ratings], *, shown_mean: bool
) -> Stage[Baselines]:
    """The simple predictors as a stage of the flow; the arguments are those of `baselines`."""
    return Stage(
        Baselines,
        {"split": split.key, "shown_mean": shown_mean},
        lambda: baselines(split.value, ratings().frame, split.value.scale, shown_mean=shown_mean),
    )


def always(scale: Scale) -> tuple[str, float]:
    """Name and value of what says 4 on a scale of 1 to 5, and as high a value on another."""
    value = float(scale.nearest(scale.low + 0.75 * (scale.high - scale.low)))
    return f"{ALWAYS}{scale.label(value)}", value


def baselines(
    split: Split, ratings: pd.DataFrame, scale: Scale, *, shown_mean: bool = True
) -> Baselines:
    """Predict the split's test rows by means, biases, neighbours and factors.

    `all` also leaves out the selected users' rows that are in neither part of the split (held back
    for validation or by a limit on test rows).

    Args:
        split: The selected users' training and test rows and the movies with their shown mean.
        ratings: All ratings of the data set (user_id, item_id, rating).
        shown_mean: Whether the prompt shows the movies' mean at all.
    """
    selected = pd.concat([split.train["user_id"], split.test["user_id"]]).unique()
    others = ratings[~ratings["user_id"].isin(selected)]
    columns = ["user_id", "item_id", "rating"]
    train, test = split.train[columns], split.test[columns].reset_index(drop=True)
    predictors = {
        "cohort": _predict(train, test, scale),
        "all": _predict(pd.concat([train, others[columns]]), test, scale),
    }
    means = split.movies.set_index("item_id")["mean"].astype(float)
    if shown_mean and test["item_id"].map(means).notna().any():
        predictors["prompt"] = _shown(train, test, means)
    frame = test.copy()
    metrics: dict[str, dict[str, dict[str, Any]]] = {version: {} for version in predictors}
    for version, named in predictors.items():
        for name, (prediction, fallback) in named.items():
            frame[f"{version}/{name}"] = prediction
            rounded = errors(test["rating"], pd.Series(scale.nearest(prediction)))
            metrics[version][name] = {
                **errors(test["rating"], prediction),
                **{f"{metric}_rounded": error for metric, error in rounded.items()},
                "fallback": fallback,
            }
    user_means = train.groupby("user_id")["rating"].mean()
    by_user = dict(zip(user_means.index.tolist(), user_means.tolist(), strict=True))
    return Baselines(frame, metrics, by_user)


def _predict(fit: pd.DataFrame, test: pd.DataFrame, scale: Scale) -> Predicted:
    """Fit each predictor: name -> its predictions and how many of them fell back on the mean.

    The bias is LensKit's BiasModel: b_i = sum(r - mean) / (n_i + damping), then
    b_u = sum(r - mean - b_i) / (n_u + damping); an unseen user or item has offset 0.
    """
    mean = float(fit["rating"].mean())
    user_means = fit.groupby("user_id")["rating"].mean()
    item_means = fit.groupby("item_id")["rating"].mean()
    residual = fit["rating"] - mean
    by_item = _damped(residual, fit["item_id"])
    by_user = _damped(residual - fit["item_id"].map(by_item), fit["user_id"])
    of_item, of_user = test["item_id"].map(by_item), test["user_id"].map(by_user)
    level = mean + of_item.fillna(0.0) + of_user.fillna(0.0)
    fallback = int((of_item.isna() | of_user.isna()).sum())
    # What the biases leave over of known ratings, of shape (n_users, n_items).
    fitted = mean + fit["item_id"].map(by_item) + fit["user_id"].map(by_user)
    left = (fit["rating"] - fitted).to_numpy(dtype=float)
    (rows, users), (columns, items) = map(pd.factorize, (fit["user_id"], fit["item_id"]))
    residuals = csr_array((left, (rows, columns)), shape=(len(users), len(items)))
    # Row and column of each test row, -1 where it is unseen.
    cells = [users.get_indexer(pd.Index(test["user_id"]))]
    cells.append(items.get_indexer(pd.Index(test["item_id"])))
    name, value = always(scale)
    return {
        "constant": (pd.Series(mean, index=test.index), 0),
        name: (pd.Series(value, index=test.index), 0),
        "user_mean": _filled(test["user_id"].map(user_means), mean),
        "item_mean": _filled(test["item_id"].map(item_means), mean),
        "user_item_bias": (level, fallback),
        "item_knn": (level + _by_neighbours(residuals, *cells), fallback),
        "biased_mf": (level + _by_factors(residuals, *cells), fallback),
    }


def _shown(train: pd.DataFrame, test: pd.DataFrame, means: pd.Series) -> Predicted:
    """As `_predict`, from the items' means that the prompt shows, and the users' offsets from them.

    b_u = sum(r - shown mean) / (n_u + damping) over the user's training rows, 0 for an unseen user.
    """
    mean = float(train["rating"].mean())
    shown, fallback = _filled(test["item_id"].map(means), mean)
    residual = train["rating"] - _filled(train["item_id"].map(means), mean)[0]
    offset = test["user_id"].map(_damped(residual, train["user_id"]))
    unseen = int((test["item_id"].map(means).isna() | offset.isna()).sum())
    return {
        "prompt_mean": (shown, fallback),
        "prompt_mean_user_offset": (shown + offset.fillna(0.0), unseen),
    }


def _filled(prediction: pd.Series, mean: float) -> tuple[pd.Series, int]:
    return prediction.fillna(mean), int(prediction.isna().sum())


def _damped(residual: pd.Series, by: pd.Series) -> pd.Series:
    groups = residual.groupby(by)
    return groups.sum() / (groups.size() + DAMPING)


def _by_neighbours(residuals: csr_array, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Mean residual of the user's most similar items, weighted by similarity; 0 without any.

    Item-based k nearest neighbours (Sarwar et al., 2001): cosines of residuals over all users,
    of which the 20 largest above 0 count.
    """
    similarity = np.asarray(cosine_similarity(residuals.T))
    means = np.zeros(len(rows))
    for place in np.flatnonzero((rows >= 0) & (columns >= 0)):
        rated, values = _row(residuals, rows[place])
        similar = similarity[columns[place], rated]
        nearest = np.argsort(-similar, kind="stable")[:NEIGHBOURS]
        weights = np.maximum(similar[nearest], 0.0)
        if weights.sum() > 0:
            means[place] = weights @ values[nearest] / weights.sum()
    return means


def _by_factors(residuals: csr_array, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Product of user's and item's factors, fitted by alternating least squares; 0 if unseen.

    Biased matrix factorisation (Koren, Bell and Volinsky, 2009), each user and item penalised
    by its number of ratings (Zhou et al., 2008).
    """
    by_item = csr_array(residuals.T)
    items = np.random.default_rng(0).normal(0, 0.1, (len(by_item.indptr) - 1, FACTORS))
    users = np.empty((len(residuals.indptr) - 1, FACTORS))
    for _ in range(EPOCHS):
        users = _solve(residuals, items)
        items = _solve(by_item, users)
    seen = (rows >= 0) & (columns >= 0)
    return np.where(seen, (users[rows] * items[columns]).sum(axis=1), 0.0)


def _row(matrix: csr_array, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns and values of one row."""
    stored = slice(matrix.indptr[row], matrix.indptr[row + 1])
    return matrix.indices[stored], matrix.data[stored]


def _solve(matrix: csr_array, others: np.ndarray) -> np.ndarray:
    """Best factors of every row given the columns' factors, by ridge regression."""
    factors = np.empty((len(matrix.indptr) - 1, FACTORS))
    for row in range(len(factors)):
        columns, values = _row(matrix, row)
        design = others[columns]
        penalty = REGULARISATION * len(columns) * np.eye(FACTORS)
        factors[row] = np.linalg.solve(design.T @ design + penalty, design.T @ values)
    return factors

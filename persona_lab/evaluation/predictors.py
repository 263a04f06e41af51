"""Split and all ratings -> what simple predictors say about the same test rows.

Each predictor stands in two versions: `cohort`, fitted on the training rows of the selected users
(what a run's adapters saw), and `all`, fitted on every rating but the selected users' test shares.
`prompt` holds the item's mean that the prompt itself shows. Pure, but for `save` and `load`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd

from persona_lab.data import Split
from persona_lab.evaluation.metrics import errors

DAMPING = 5.0
"""Imaginary ratings at the mean that every user and item starts with, so that one rating of a rare
movie does not count as its mean. Of 0, 5 and 10, 5 has the least error on MovieLens cohorts (RMSE
1.02 against 1.04 and 1.03 in `cohort`; in `all` the three differ by less than 0.005)."""

ALWAYS = 4.0


@dataclass(frozen=True, eq=False)
class Baselines:
    """Predictions of the simple predictors.

    Attributes:
        frame: user_id, item_id, rating and one column `<version>/<name>` per predictor, aligned
            with the split's test rows.
        metrics: version -> name -> `rmse`, `mae`, the same after rounding to a digit
            (`rmse_rounded`, `mae_rounded`), and `fallback`: the rows of users or items that the
            version never saw, which got its mean rating.
        user_means: user -> mean training rating.
    """

    STAGE: ClassVar[str] = "baselines"
    VERSION: ClassVar[int] = 1

    frame: pd.DataFrame
    metrics: dict[str, dict[str, dict[str, Any]]]
    user_means: dict[int, float]

    def save(self, folder: Path) -> None:
        """Write baselines.parquet and baselines.json into a folder."""
        self.frame.to_parquet(folder / "baselines.parquet", index=False)
        rest = {"metrics": self.metrics, "user_means": self.user_means}
        (folder / "baselines.json").write_text(json.dumps(rest, indent=1, allow_nan=False))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        rest = json.loads((folder / "baselines.json").read_text())
        return cls(
            frame=pd.read_parquet(folder / "baselines.parquet"),
            metrics=rest["metrics"],
            user_means={int(user): mean for user, mean in rest["user_means"].items()},
        )


def baselines(split: Split, ratings: pd.DataFrame, *, shown_mean: bool = True) -> Baselines:
    """Predict the split's test rows by constant, always 4, user mean, item mean and bias.

    Args:
        split: The selected users' training and test rows and the movies with their shown mean.
        ratings: All ratings of the data set (user_id, item_id, rating).
        shown_mean: Whether the prompt shows the movies' mean at all.

    Returns:
        The predictions and their errors. `all` also leaves out the selected users' rows that are
        in neither part of the split (held back for validation or by a limit on test rows).
    """
    selected = pd.concat([split.train["user_id"], split.test["user_id"]]).unique()
    others = ratings[~ratings["user_id"].isin(selected)]
    columns = ["user_id", "item_id", "rating"]
    fits = {
        "cohort": split.train[columns],
        "all": pd.concat([split.train[columns], others[columns]]),
    }
    test = split.test[columns].reset_index(drop=True)
    predictors = {version: _predict(fit, test) for version, fit in fits.items()}
    means = test["item_id"].map(split.movies.set_index("item_id")["mean"]).astype(float)
    if shown_mean and means.notna().any():
        predictors["prompt"] = {"prompt_mean": _filled(means, fits["cohort"]["rating"].mean())}
    frame = test.assign(
        **{
            f"{version}/{name}": prediction
            for version, named in predictors.items()
            for name, (prediction, _) in named.items()
        }
    )
    metrics = {
        version: {name: _errors(test["rating"], *found) for name, found in named.items()}
        for version, named in predictors.items()
    }
    user_means = split.train.groupby("user_id")["rating"].mean()
    by_user = dict(zip(user_means.index.tolist(), user_means.tolist(), strict=True))
    return Baselines(frame, metrics, by_user)


def _predict(fit: pd.DataFrame, test: pd.DataFrame) -> dict[str, tuple[pd.Series, int]]:
    """Fit each predictor: name -> its predictions and how many of them fell back on the mean."""
    mean = float(fit["rating"].mean())
    user_means = fit.groupby("user_id")["rating"].mean()
    item_means = fit.groupby("item_id")["rating"].mean()
    return {
        "constant": (pd.Series(mean, index=test.index), 0),
        "always_4": (pd.Series(ALWAYS, index=test.index), 0),
        "user_mean": _filled(test["user_id"].map(user_means), mean),
        "item_mean": _filled(test["item_id"].map(item_means), mean),
        "user_item_bias": _bias(fit, test, mean),
    }


def _filled(prediction: pd.Series, mean: float) -> tuple[pd.Series, int]:
    return prediction.fillna(mean), int(prediction.isna().sum())


def _bias(fit: pd.DataFrame, test: pd.DataFrame, mean: float) -> tuple[pd.Series, int]:
    """User+item bias: mean + damped item offset + damped offset of the user's residuals.

    As LensKit's BiasModel: b_i = sum(r - mean) / (n_i + damping), then
    b_u = sum(r - mean - b_i) / (n_u + damping). An unseen user or item has offset 0.
    """
    residual = fit["rating"] - mean
    items = _damped(residual, fit["item_id"])
    users = _damped(residual - fit["item_id"].map(items), fit["user_id"])
    of_item, of_user = test["item_id"].map(items), test["user_id"].map(users)
    fallback = int((of_item.isna() | of_user.isna()).sum())
    return mean + of_item.fillna(0.0) + of_user.fillna(0.0), fallback


def _damped(residual: pd.Series, by: pd.Series) -> pd.Series:
    groups = residual.groupby(by)
    return groups.sum() / (groups.size() + DAMPING)


def _errors(rating: pd.Series, prediction: pd.Series, fallback: int) -> dict[str, Any]:
    rounded = np.clip(np.floor(prediction + 0.5), 1, 5)
    of_digits = {f"{metric}_rounded": error for metric, error in errors(rating, rounded).items()}
    return {**errors(rating, prediction), **of_digits, "fallback": fallback}

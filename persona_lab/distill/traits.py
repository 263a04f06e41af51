"""Ratings in, three traits per user out. Pure.

After Zhang et al., On Generative Agents in Recommendation (Agent4Rec), SIGIR 2024; cuts as decided
in "Traits" of the decisions.
"""

from collections.abc import Collection

import numpy as np
import pandas as pd

from persona_lab.distill.taste import split_genres

# Percentiles, over all users, above which the second and the third tier begin.
CUTS = {"activity": (60, 90), "conformity": (25, 80), "diversity": (33, 66)}
# Share of a user's genres that the most frequent ones may make up together.
_MAIN_SHARE = 0.8


def traits(ratings: pd.DataFrame, movies: pd.DataFrame, users: Collection[int]) -> pd.DataFrame:
    """Tiers of activity, conformity and diversity.

    A value is in tier 1 where it is above the first cut and in tier 2 where it is above the second.

    Args:
        ratings: All users' ratings to measure on: user_id, item_id, rating.
        movies: item_id and genres ("Comedy|Crime").
        users: Whose traits are wanted; each has ratings.

    Returns:
        One row per wanted user, in the order given: user_id, activity (0: few ratings), conformity
        (0: close to the movies' means) and diversity (0: few genres), each 0, 1 or 2.
    """
    values = pd.DataFrame(
        {
            "activity": ratings.groupby("user_id").size(),
            "conformity": _distance_from_others(ratings),
            "diversity": _main_genres(ratings, movies),
        }
    ).fillna({"diversity": 0})
    tiers = {
        name: np.searchsorted(np.percentile(values[name], cuts), values[name].loc[list(users)])
        for name, cuts in CUTS.items()
    }
    return pd.DataFrame({"user_id": list(users), **tiers})


def _distance_from_others(ratings: pd.DataFrame) -> pd.Series:
    """Mean squared difference between a user's ratings and the movies' means over all users."""
    means = ratings.groupby("item_id")["rating"].transform("mean")
    return (ratings["rating"] - means).pow(2).groupby(ratings["user_id"]).mean()


def _main_genres(ratings: pd.DataFrame, movies: pd.DataFrame) -> pd.Series:
    """Number of genres, by descending share, whose cumulated share stays within 0.8."""
    genres = movies[["item_id"]].assign(genre=movies["genres"].map(split_genres)).explode("genre")
    counts = (
        ratings[["user_id", "item_id"]]
        .merge(genres.dropna(), on="item_id")
        .groupby(["user_id", "genre"])
        .size()
        .sort_values(ascending=False)
    )
    by_user = counts.groupby(level="user_id")
    shares = by_user.cumsum() / by_user.transform("sum")
    # A share of exactly 0.8 is within, whatever the rounding.
    return (shares <= _MAIN_SHARE + 1e-9).groupby(level="user_id").sum()

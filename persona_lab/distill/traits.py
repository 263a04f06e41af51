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
# What the most frequent genres of a user may make up of all: their number is the diversity.
_MAIN_SHARE = 0.8


def traits(ratings: pd.DataFrame, movies: pd.DataFrame, users: Collection[int]) -> pd.DataFrame:
    """Tiers of activity, conformity and diversity: 1 above the first cut, 2 above the second.

    Activity is the number of ratings, conformity their mean squared distance to movies' means.

    Args:
        ratings: All users' ratings to measure on: user_id, item_id, rating.
        movies: item_id and genres ("Comedy|Crime").
        users: Whose traits are wanted; each has ratings.

    Returns:
        One row per wanted user, in the order given: user_id, activity (0: few ratings), conformity
        (0: close to the movies' means) and diversity (0: few genres), each 0, 1 or 2.
    """
    means = ratings.groupby("item_id")["rating"].transform("mean")
    genres = movies[["item_id"]].assign(genre=movies["genres"].map(split_genres)).explode("genre")
    counts = ratings[["user_id", "item_id"]].merge(genres.dropna(), on="item_id")
    counts = counts.value_counts(["user_id", "genre"])
    by_user = counts.groupby(level="user_id")
    # A share of exactly 0.8 is within, whatever the rounding.
    main = by_user.cumsum() / by_user.transform("sum") <= _MAIN_SHARE + 1e-9
    values = pd.DataFrame(
        {
            "activity": ratings.groupby("user_id").size(),
            "conformity": (ratings["rating"] - means).pow(2).groupby(ratings["user_id"]).mean(),
            "diversity": main.groupby(level="user_id").sum(),
        }
    ).fillna({"diversity": 0})
    tiers = {
        name: np.searchsorted(np.percentile(values[name], cuts), values[name].loc[list(users)])
        for name, cuts in CUTS.items()
    }
    return pd.DataFrame({"user_id": list(users), **tiers})

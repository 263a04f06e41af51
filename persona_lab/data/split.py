"""Ratings in time order; one cohort's training and test rows with all movies. Pure."""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pandas as pd

from persona_lab.data.cost import Cost
from persona_lab.data.scale import Scale


@dataclass(frozen=True, eq=False)
class Split:
    """What the rest of the flow may know of the data.

    Attributes:
        train: The selected users' training rows: user_id, item_id, rating, timestamp and position
            (index in the user's whole history), sorted by user_id and position.
        test: Their test rows, in the same form.
        movies: All movies of the data set: item_id, title, year, genres, summary, cast, director,
            mean (average rating, NaN when the protocol gives none) and mean_known (False where
            mean is only the global one), sorted by item_id.
        users: The selected users with what is known of them, sorted by user_id.
        cohort: Which cohort they are: "reported" or "dev".
        train_fraction: Share of a history that is for training.
        validation_fraction: Share of the training rows, the last in time, that `test` consists
            of; 0 where it consists of real test rows.
        skipped: Lines that the reader left out, by problem.
        counts: ratings, users, eligible_users, selected_users; of the selected users' rows train,
            test and held_back (test rows that are not used here).
        scale: The values that a rating can take.
        cost: Of the movies' texts.
    """

    STAGE: ClassVar[str] = "split"
    VERSION: ClassVar[int] = 4

    train: pd.DataFrame
    test: pd.DataFrame
    movies: pd.DataFrame
    users: pd.DataFrame
    cohort: str
    train_fraction: float
    validation_fraction: float
    skipped: dict[str, int]
    counts: dict[str, int]
    scale: Scale
    cost: Cost = field(default_factory=Cost)

    def training_rows(self, ratings: pd.DataFrame) -> pd.DataFrame:
        """Training rows, by this split's rule, of any users whose whole histories are given."""
        return training_rows(in_time_order(ratings), self.train_fraction, self.validation_fraction)


def in_time_order(ratings: pd.DataFrame) -> pd.DataFrame:
    """Histories by user_id, each by time, ties by item_id (decision 7).

    A column position is added: 0, 1, ... within each user.
    """
    ordered = ratings.sort_values(["user_id", "timestamp", "item_id"], ignore_index=True)
    return ordered.assign(position=ordered.groupby("user_id").cumcount())


def training_rows(
    history: pd.DataFrame, train_fraction: float, validation_fraction: float = 0.0
) -> pd.DataFrame:
    """First rows of each user's history: ceil(train_fraction n) of n rows (decision 10).

    Of these ceil((1 - validation_fraction) ...) are left when the last ones are for validation.
    The history is as from `in_time_order`, whole.
    """
    kept = history.groupby("user_id")["position"].transform("size")
    for share in (train_fraction, 1 - validation_fraction):
        # Rounded first: in floating point 0.55 x 20 is a little more than 11.
        kept = np.ceil((kept * share).round(9))
    return history[history["position"] < kept]


def draw_rows(rows: pd.DataFrame, per_user: int, seed: int) -> pd.DataFrame:
    """At most `per_user` random rows of each user, in the order given: sorted by user_id.

    Each user's draw depends on the seed and the user alone, and a larger draw contains a smaller.
    """
    users = zip(*np.unique(rows["user_id"], return_counts=True), strict=True)
    draws = [np.random.default_rng([seed, user]).permutation(size) for user, size in users]
    return rows[np.concatenate(draws) < per_user]

"""A data set's configuration in, its ratings and the split of one cohort out.

Reads disk, and the network by way of the sources.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field, NonNegativeInt, PositiveInt

from persona_lab.cache import Stage, content_hash
from persona_lab.component import component, neutral
from persona_lab.data.movie_info import MovieInfo
from persona_lab.data.ratings import Invalid, Ratings, Reader
from persona_lab.data.scale import Scale
from persona_lab.data.split import Split, draw_rows, in_time_order, training_rows
from persona_lab.errors import UserError
from persona_lab.sources import Source, Sources


@component
class Protocol:
    """The choices that differ between the paper's likely setting and one free of leaks.

    Attributes:
        name: What reports call it.
        item_mean: Whose ratings make a movie's average: users outside both cohorts, everyone
            (test rows too), the cohort's training rows (the labels of training prompts are then
            part of what these show, of test prompts not), or no average at all (decision 1).
        traits: Whether a user's traits are measured on the training rows or on all (decision 2).
        profile_snapshot: Whether a training row sees the final profile or the one before its own
            batch (decision 4).
        title_check: Whether the texts are kept free of titles of the user's history that would
            tell a rating (decisions 4 and 4b).
        recall_time: Whether a training row recalls earlier memories only or any (decision 6).
    """

    name: str
    item_mean: Literal["outside_cohort", "all", "training", "none"]
    traits: Literal["training", "all"]
    profile_snapshot: Literal["final", "causal"]
    title_check: bool
    recall_time: Literal["earlier", "any"]


@component
class Data:
    """A data set, the users taken from it, and how their histories are split.

    Attributes:
        name: What reports call it.
        reader: Its format.
        scale: The values that a rating can take, and the words for them.
        source: Where it is fetched from when no path is given.
        path: Folder or zip of the user's own; wins over `source`.
        invalid: Whether a bad line is an error ("error") or is left out and counted ("drop").
        min_ratings: Users with fewer ratings are not eligible (decision 11).
        max_ratings: Users with more ratings are not eligible.
        n_users: Size of a cohort.
        cohort: "reported", whose test rows are for results alone, or "dev", on which every choice
            is made (decision 28). The two are disjoint for one and the same n_users and seed;
            averages "outside_cohort" are over users in neither.
        seed: Draws the cohorts and the test rows; the seed of training is another one.
        train_fraction: Share of each history, the first in time, that is for training.
        test_rows_per_user: How many test rows of each user are drawn, None for all.
        validation_fraction: When above 0, the last share of the training rows takes the place of
            the test rows.
    """

    name: str = neutral()
    reader: Reader
    scale: Scale
    source: Source | None = neutral()
    path: str | None = neutral()
    invalid: Invalid
    min_ratings: PositiveInt
    max_ratings: PositiveInt
    n_users: PositiveInt
    cohort: Literal["reported", "dev"]
    seed: NonNegativeInt
    train_fraction: Annotated[float, Field(gt=0, lt=1)]
    test_rows_per_user: PositiveInt | None
    validation_fraction: Annotated[float, Field(ge=0, lt=1)]

    @property
    def development(self) -> bool:
        """Whether what is rated is there to choose on, not a test row of a reported user."""
        return self.cohort == "dev" or self.validation_fraction > 0

    def ratings(self, sources: Sources) -> Ratings:
        """Read all ratings, fetching the files first; UserError where one is missing or bad."""
        files = self._own_files()
        if files is None and self.source is not None:
            files = sources.fetch(self.source)
        return self.reader.read(files, self.invalid, self.scale)

    def stage(
        self,
        ratings: Callable[[], Ratings],
        protocol: Protocol,
        movie_info: MovieInfo,
        sources: Sources,
    ) -> Stage[Split]:
        """The split as a stage of the flow; the arguments are those of `split`."""
        inputs = {
            "data": self,
            "content": self.fingerprint(sources),
            "movie_info": [movie_info, movie_info.fingerprint(sources)],
            "item_mean": protocol.item_mean,
        }
        return Stage(Split, inputs, lambda: self.split(ratings(), protocol, movie_info, sources))

    def fingerprint(self, sources: Sources) -> Any:
        """A source's pins, or the hash of a path's content; UserError where nothing is there."""
        if (files := self._own_files()) is not None:
            return {"content": content_hash(files)}
        return self.source and {"source": vars(self.source)}

    def split(
        self, ratings: Ratings, protocol: Protocol, movie_info: MovieInfo, sources: Sources
    ) -> Split:
        """Select the cohort and split its histories in time.

        Raises:
            UserError: Users are too few, or no rating is left to average over or to test on.
        """
        frame = ratings.frame
        sizes = frame.groupby("user_id").size()
        eligible = sizes.index[sizes.between(self.min_ratings, self.max_ratings)].to_numpy()
        cohorts = self._cohorts(eligible)
        selected = np.sort(cohorts[self.cohort])
        history = in_time_order(frame[frame["user_id"].isin(selected)])
        train, test = self._train_and_test(history)
        texts, cost = movie_info.read(ratings.movies, sources)
        movies = ratings.movies.merge(texts, on="item_id", how="left", validate="one_to_one")
        movies = movies.sort_values("item_id", ignore_index=True)
        # The ratings that the movies' averages are made of (decision 1).
        averaged = {
            "outside_cohort": frame[~frame["user_id"].isin(np.concatenate([*cohorts.values()]))],
            "all": frame,
            "training": train,
            "none": frame.head(0),
        }[protocol.item_mean]
        if averaged.empty and protocol.item_mean != "none":
            raise UserError(
                "no ratings are left for the movies' averages: every user is in a cohort",
                "lower data.n_users, or set protocol.item_mean=none",
            )
        means = movies["item_id"].map(averaged.groupby("item_id")["rating"].mean()).astype(float)
        movies["mean"] = means.fillna(averaged["rating"].mean())
        movies["mean_known"] = means.notna()
        return Split(
            train=train.reset_index(drop=True),
            test=test.reset_index(drop=True),
            movies=movies,
            users=ratings.users.set_index("user_id").loc[selected].reset_index(),
            cohort=self.cohort,
            train_fraction=self.train_fraction,
            validation_fraction=self.validation_fraction,
            scale=ratings.scale,
            skipped=ratings.skipped,
            counts={
                "ratings": len(frame),
                "users": len(sizes),
                "eligible_users": len(eligible),
                "selected_users": len(selected),
                "train": len(train),
                "test": len(test),
                "held_back": len(history) - len(train) - len(test),
            },
            cost=cost,
        )

    def _own_files(self) -> Path | None:
        path = None if self.path is None else Path(self.path).expanduser()
        if path is not None and not path.exists():
            mend = "set data.path to a folder or zip with the data's files"
            raise UserError(f"data.path {self.path} does not exist", mend)
        return path

    def _cohorts(self, eligible: np.ndarray) -> dict[str, np.ndarray]:
        """The user ids of both cohorts; "dev" is empty where users are too few for two."""
        n, here = self.n_users, len(eligible)
        they_are = f"{here} users have {self.min_ratings} to {self.max_ratings} ratings"
        if n > here:
            fewer = f"set data.n_users to at most {here}, or " if here else ""
            raise UserError(
                f"{they_are}, and data.n_users is {n}",
                f"{fewer}widen data.min_ratings, data.max_ratings",
            )
        if self.cohort == "dev" and 2 * n > here:
            raise UserError(
                f"{they_are}: too few for a development cohort of {n} beside the reported one",
                f"set data.n_users to at most {here // 2}, or take the last training rows of the "
                "reported users: data.cohort=reported data.validation_fraction=0.1",
            )
        drawn = np.random.default_rng(self.seed).permutation(eligible)
        return {"reported": drawn[:n], "dev": drawn[here - n :] if 2 * n <= here else drawn[:0]}

    def _train_and_test(self, history: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
        train = training_rows(history, self.train_fraction, self.validation_fraction)
        if self.validation_fraction > 0:
            history = training_rows(history, self.train_fraction)
        test = history.drop(train.index)
        if test.empty:
            mend = "lower data.train_fraction or raise data.validation_fraction"
            raise UserError("no rows are left to test on", mend)
        if self.test_rows_per_user is not None:
            test = draw_rows(test, self.test_rows_per_user, self.seed)
        return train, test

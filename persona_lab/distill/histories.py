"""A split in, each user's history out; what a distiller must do, and what all of them say. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import pandas as pd

from persona_lab.data import Cost, Ratings, Scale, Split
from persona_lab.data.split import in_time_order
from persona_lab.distill.titles import natural_title
from persona_lab.sources import Sources

Scope = Literal["training", "all"]

_ROW = ["item_id", "rating", "timestamp", "position"]
_MOVIE = ["title", "year", "genres", "summary", "cast", "director", "mean"]


@dataclass(frozen=True, eq=False)
class History:
    """What a distiller may know of one user.

    Attributes:
        user_id: The user.
        table: A table with the history's rows among others': item_id, rating, timestamp, position,
            and the movie's title, year, genres, summary, cast, director and mean (NaN where the
            protocol shows none or the movie has none of its own). A movie is the same in all rows.
        scale: Of the ratings.
        span: Which rows of the table are this user's.
    """

    user_id: int
    table: pd.DataFrame
    scale: Scale
    span: slice = field(default_factory=lambda: slice(None))

    @cached_property
    def rows(self) -> pd.DataFrame:
        """One row per rating of the user, in time order, with the columns of the table."""
        return self.table.iloc[self.span]


@dataclass(frozen=True)
class UserMemories:
    """What a distiller makes of one history.

    Attributes:
        user_id: The user.
        profile: First-person description of the user's taste (M_s), from all rows.
        snapshots: The profile as it stood after each batch of rows.
        interactions: For each row, why the user rated it so (M_l).
        insights: What each batch taught; empty where nothing of the kind is kept.
        counts: What happened on the way, by name (texts asked again, texts kept, ...).
        cost: Of the replies that the texts were made from, whenever they were paid for.
    """

    user_id: int
    profile: str
    snapshots: list[str]
    interactions: list[str]
    insights: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)


@runtime_checkable
class Distiller(Protocol):
    """Turns histories into memories, batch by batch (paper, section 3.2)."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    @property
    def batch_size(self) -> int:
        """Rows per batch (paper, appendix A: at most 10)."""
        ...

    @property
    def scope(self) -> Scope:
        """Which ratings it is given: "all" adds the test rows, to show the leak (decision 3)."""
        ...

    def distill(
        self, histories: Iterable[History], seed: int, sources: Sources
    ) -> Iterator[UserMemories]:
        """Distil each history, in any order.

        A batch's interaction texts and snapshot may use rows up to and including the batch.
        """
        ...

    def fingerprint(self, sources: Sources) -> str:
        """Hash of all that the texts depend on beside the fields."""
        ...

    def estimate(self, sizes: Sequence[int], scale: Scale) -> Cost:
        """What histories of so many rows come to, before anything is paid; nothing without an LLM.

        Args:
            sizes: Number of rows of each history.
            scale: Of the ratings.
        """
        ...


def history_rows(split: Split, ratings: Ratings, scope: Scope) -> pd.DataFrame:
    """The rows of all histories, user_id and the columns of `History.rows`, by user and position.

    Args:
        split: Knows the users, their training rows and the movies.
        ratings: All ratings; used by scope "all" only.
        scope: Which rows of a user are given.
    """
    rows = split.train
    if scope == "all":
        selected = ratings.frame["user_id"].isin(split.users["user_id"])
        rows = in_time_order(ratings.frame[selected])
    movies = split.movies.assign(mean=split.movies["mean"].where(split.movies["mean_known"]))
    joined = rows.merge(movies, on="item_id", how="left", validate="many_to_one")
    return joined[["user_id", *_ROW, *_MOVIE]]


def histories(rows: pd.DataFrame, scale: Scale) -> Iterator[History]:
    """One history after another, from what `history_rows` gave."""
    users, starts = np.unique(rows["user_id"], return_index=True)
    table = rows.drop(columns="user_id")
    bounds = pairwise([*starts.tolist(), len(rows)])
    for user_id, (start, stop) in zip(users.tolist(), bounds, strict=True):
        yield History(user_id, table, scale, slice(start, stop))


@lru_cache(2**16)
def rated_as(title: str, year: int | None, label: str) -> str:
    """What every text on an interaction says: "I rated Fargo (1996) as 5".

    Args:
        title: From the catalogue.
        year: None or a missing value where it is unknown.
        label: The rating, as the scale writes it.
    """
    beside = "" if pd.isna(year) else f" ({int(year)})"
    return f"I rated {natural_title(title)}{beside} as {label}"


def rated_so_many(n: int) -> str:
    """What a profile says that nothing else is known for."""
    return f"I have rated {n} movies."

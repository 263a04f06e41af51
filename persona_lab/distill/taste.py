"""Rated movies in, one by one; running sums of a user's taste out. Pure.

Everything that the texts say is read from these sums, so that a profile after every batch costs
no second look at the history.
"""

from collections import defaultdict
from itertools import combinations
from typing import NamedTuple

import pandas as pd

from persona_lab.distill.english import split_genres, split_names

# Ratings at the user's own mean that every group starts with, so that few ratings say little.
_PRIOR = 4.0
# Later actors of a cast seldom decide a rating.
_LEADING = 3
_LOW = 2

OLD = "before 1960"


class Rated(NamedTuple):
    """A movie that the user has rated.

    Attributes:
        title: From the catalogue.
        year: None where unknown.
        rating: 1 to 5.
        mean: Average rating of others, None where unknown.
        genres: Named genres.
        pairs: Their pairs.
        era: See `era`; None where unknown.
        directors: Names.
        actors: Names of the leading ones.
    """

    title: str
    year: int | None
    rating: int
    mean: float | None
    genres: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    era: str | None
    directors: tuple[str, ...]
    actors: tuple[str, ...]


def rated_movies(rows: pd.DataFrame) -> list[Rated]:
    """The rows of histories (see `History`), in order; one movie's equal ratings are one object."""
    keys = list(zip(rows["item_id"].tolist(), rows["rating"].tolist(), strict=True))
    distinct = rows[~rows.duplicated(["item_id", "rating"]).to_numpy()]
    columns = ("item_id", "title", "year", "rating", "mean", "genres", "director", "cast")
    values = (distinct[column].tolist() for column in columns)
    rated = {}
    for item_id, title, year, rating, mean, genres, director, cast in zip(*values, strict=True):
        named = split_genres(_text(genres))
        rated[item_id, rating] = Rated(
            title,
            None if pd.isna(year) else int(year),
            rating,
            None if pd.isna(mean) else mean,
            named,
            tuple(combinations(sorted(named), 2)),
            None if pd.isna(year) else era(int(year)),
            split_names(_text(director)),
            split_names(_text(cast))[:_LEADING],
        )
    return [rated[key] for key in keys]


def era(year: int) -> str:
    """The decade of a year, "the 1990s"; one for all of the earlier years."""
    return f"the {year // 10 * 10}s" if year >= 1960 else OLD


class Sums:
    """Sums over the ratings of one group of movies.

    Attributes:
        n: How many.
        total: Sum of the ratings.
        fives: How many are a 5.
        lows: How many are a 1 or a 2.
        compared: How many have an average of others.
        above: Sum of rating minus average over these.
    """

    __slots__ = ("above", "compared", "fives", "lows", "n", "total")

    def __init__(self) -> None:
        self.n = self.total = self.fives = self.lows = self.compared = 0
        self.above = 0.0

    def add(self, rating: int, mean: float | None) -> None:
        """Count one rating."""
        self.n += 1
        self.total += rating
        if rating == 5:
            self.fives += 1
        elif rating <= _LOW:
            self.lows += 1
        if mean is not None:
            self.compared += 1
            self.above += rating - mean

    @property
    def mean(self) -> float:
        """Mean rating; NaN where there is none."""
        return self.total / self.n if self.n else float("nan")

    @property
    def lead(self) -> float:
        """Mean of rating minus average of others; NaN where none is known."""
        return self.above / self.compared if self.compared else float("nan")

    def effect(self, usual: float) -> float:
        """How far the mean is from the user's usual one, drawn towards 0 where ratings are few."""
        return (self.total - self.n * usual) / (self.n + _PRIOR)


class Taste:
    """What is known of a user after the movies added so far.

    Attributes:
        rated: The movies, in order.
        all: Sums over all of them.
        shares: Number of ratings by value; index 0 is unused.
        genres: Sums by genre; likewise `pairs`, `eras`, `directors` and `actors`.
        bands: Sums by the movie's average: its half points, rounded down (7 is 3.5 to 4.0).
    """

    def __init__(self) -> None:
        self.rated: list[Rated] = []
        self.all = Sums()
        self.shares = [0] * 6
        self.genres: defaultdict[str, Sums] = defaultdict(Sums)
        self.pairs: defaultdict[tuple[str, str], Sums] = defaultdict(Sums)
        self.eras: defaultdict[str, Sums] = defaultdict(Sums)
        self.directors: defaultdict[str, Sums] = defaultdict(Sums)
        self.actors: defaultdict[str, Sums] = defaultdict(Sums)
        self.bands: defaultdict[int, Sums] = defaultdict(Sums)

    def add(self, movie: Rated) -> None:
        """Count one more movie."""
        rating, mean = movie.rating, movie.mean
        self.rated.append(movie)
        self.shares[rating] += 1
        self.all.add(rating, mean)
        for name in movie.genres:
            self.genres[name].add(rating, mean)
        for pair in movie.pairs:
            self.pairs[pair].add(rating, mean)
        for name in movie.directors:
            self.directors[name].add(rating, mean)
        for name in movie.actors:
            self.actors[name].add(rating, mean)
        if movie.era is not None:
            self.eras[movie.era].add(rating, mean)
        if mean is not None:
            self.bands[min(8, max(5, int(2 * mean)))].add(rating, mean)

    @property
    def usual(self) -> float:
        """The user's mean rating."""
        return self.all.mean

    @property
    def spread(self) -> float:
        """Standard deviation of the ratings."""
        usual = self.usual
        squares = sum(count * (value - usual) ** 2 for value, count in enumerate(self.shares))
        return (squares / self.all.n) ** 0.5


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""

"""Rated movies in, one by one; what they show of the user's taste out, as named facts. Pure.

Everything is read from running sums, so that a profile after every batch costs no second look at
the history. What would rest on too few ratings is no fact.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from itertools import combinations
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from persona_lab.data import Scale

# Ratings at the user's own mean that every group starts with, so that few ratings say little.
_PRIOR = 4.0
# Later actors of a cast seldom decide a rating.
_LEADING = 3
# With fewer ratings little can be said; with fewer than _LONG nothing of change.
_FEW, _LONG = 6, 30
# What movies are rated on average, as a share of the scale: 3.6 of 1 to 5.
_TYPICAL = 0.65
# Cuts between movies of low and high averages, likewise: 3.0, 3.5 and 4.0.
_BANDS = (0.5, 0.625, 0.75)
# Ratings up to here are low ones, likewise: 1 and 2.
_LOW = 0.3
_OLD = "before 1960"
_UNNAMED = {"", "unknown", "(no genres listed)"}

# Facts by name; one that is not known has no name here.
Facts = dict[str, Any]


class Rated(NamedTuple):
    """A movie that the user has rated.

    Attributes:
        title: From the catalogue.
        year: None where unknown.
        rating: On the scale.
        place: Of the rating on the scale, from 0.
        mean: Average rating of others, None where unknown.
        genres: Named genres.
        directors: Names.
        groups: What it shares with other movies, (kind, name) each: `genre`, `pair` (of genres),
            `director`, `actor` (the leading ones) and `era` (its decade, "the 1990s").
    """

    title: str
    year: int | None
    rating: float
    place: int
    mean: float | None
    genres: tuple[str, ...]
    directors: tuple[str, ...]
    groups: tuple[tuple[str, Any], ...]


def rated_movies(rows: pd.DataFrame, scale: Scale) -> list[Rated]:
    """The rows of histories (see `History`), in order; one movie's equal ratings are one object."""
    keys = list(zip(rows["item_id"].tolist(), rows["rating"].tolist(), strict=True))
    distinct = rows[~rows.duplicated(["item_id", "rating"]).to_numpy()]
    distinct = distinct.assign(place=scale.index(distinct["rating"])).astype(object)
    distinct = distinct.where(distinct.notna(), None)
    rated = {}
    for row in distinct.to_dict("records"):
        genres, directors = split_genres(row["genres"] or ""), split_names(row["director"] or "")
        shared = {
            "genre": genres,
            "pair": combinations(sorted(genres), 2),
            "director": directors,
            "actor": split_names(row["cast"] or "")[:_LEADING],
        }
        groups = [(kind, name) for kind, names in shared.items() for name in names]
        if (year := row["year"]) is not None:
            groups.append(("era", f"the {year // 10 * 10}s" if year >= 1960 else _OLD))
        told = (row["rating"], row["place"], row["mean"], genres, directors, tuple(groups))
        rated[row["item_id"], row["rating"]] = Rated(row["title"], year, *told)
    return [rated[key] for key in keys]


@cache
def split_genres(genres: str) -> tuple[str, ...]:
    """The named genres of "Comedy|Crime", in order."""
    return tuple(dict.fromkeys(genre for genre in genres.split("|") if genre not in _UNNAMED))


@cache
def split_names(names: str) -> tuple[str, ...]:
    """The people of "Jane Doe, John Roe, Jr.|Max Moe", in order."""
    people: list[str] = []
    for name in names.replace("|", ",").split(","):
        name = name.strip()
        if people and name in {"Jr.", "Sr.", "II", "III"}:
            people[-1] += f" {name}"
        elif name:
            people.append(name)
    return tuple(dict.fromkeys(people))


class Sums:
    """Sums over the ratings of one group of movies.

    Attributes:
        n: How many.
        total: Of the ratings.
        highest: How many are the highest of the scale.
        low: How many are low.
        compared: How many have an average of others.
        above: Of rating minus average over these.
    """

    __slots__ = ("above", "compared", "highest", "low", "n", "total")

    def __init__(self) -> None:
        self.n = self.highest = self.low = self.compared = 0
        self.total = self.above = 0.0


class Taste:
    """What is known of a user after the movies added so far.

    Attributes:
        scale: Of the ratings.
        rated: The movies, in order.
        all: Sums over all of them.
        counts: Number of ratings by place on the scale.
        groups: Sums by kind of group and its name (see `Rated`).
        bands: Sums by the movie's average: how many of the cuts it reaches.
    """

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        width = scale.high - scale.low
        # Thresholds are in points of a scale from 1 to 5.
        self._point = width / 4
        self._cuts = [scale.low + share * width for share in _BANDS]
        self._lows = int(np.searchsorted(scale.values, scale.low + _LOW * width, side="right"))
        self.rated: list[Rated] = []
        self.all = Sums()
        self.counts = [0] * len(scale.labels)
        self.groups: defaultdict[str, defaultdict[Any, Sums]]
        self.groups = defaultdict(lambda: defaultdict(Sums))
        self.bands: defaultdict[int, Sums] = defaultdict(Sums)

    def add(self, movie: Rated) -> None:
        """Count one more movie."""
        self.rated.append(movie)
        self.counts[movie.place] += 1
        groups = [self.all, *(self.groups[kind][name] for kind, name in movie.groups)]
        if movie.mean is not None:
            groups.append(self.bands[bisect_right(self._cuts, movie.mean)])
        for sums in groups:
            sums.n += 1
            sums.total += movie.rating
            sums.highest += movie.place == len(self.counts) - 1
            sums.low += movie.place < self._lows
            if movie.mean is not None:
                sums.compared += 1
                sums.above += movie.rating - movie.mean

    @property
    def usual(self) -> float:
        """The user's mean rating; NaN before the first."""
        return self.all.total / self.all.n if self.rated else float("nan")

    def level(self, rating: float, levels: int) -> int:
        """In which of so many levels, from 0, a rating lies."""
        low, high = self.scale.low, self.scale.high
        return round((rating - low) / (high - low) * (levels - 1))

    def facts(self) -> Facts:
        """What the ratings, at least one, show."""
        n = self.all.n
        facts: Facts = {"n": n, "usual": self.usual}
        if n < _FEW:
            labels = [self.scale.labels[movie.place] for movie in self.rated]
            facts |= {"ratings": labels} if n > 1 else {"single": labels[0]}
            facts["seen"] = [{"genre": genre} for genre, _ in _genres(self.rated).most_common(3)]
        else:
            facts |= self._group_facts() | self._habits() | self._beside_averages()
            if n >= _LONG:
                facts |= self._drift()
        return _known_only(facts)

    def reasons(self, movie: Rated) -> Facts:
        """What the ratings so far, if any, say of such a movie with such a rating."""
        usual, point = self.usual, self._point
        above = movie.rating - usual
        evidence = sorted(self._evidence(movie), key=itemgetter("effect", "mean"))
        if not evidence:
            return {}
        if abs(above) < 0.5 * point:
            near = min(evidence, key=lambda group: abs(group["mean"] - movie.rating))
            by = abs(near["mean"] - movie.rating) / point
            if by > 0.5:
                return {"ordinary": usual}
            return {"same" if by < 0.05 else "near": near}
        support, contrast = evidence[-1], evidence[0]
        if above < 0:
            support, contrast = contrast, support
        telling = support["effect"] * above > 0 and abs(support["effect"]) >= 0.1
        if telling and abs(support["mean"] - movie.rating) <= point:
            return {"above": above, "support": support}
        if abs(contrast["mean"] - movie.rating) > point:
            return {"contrast": contrast}
        return {"above": above, "unusual": usual} if self.all.n >= 5 else {}

    def beside(self, movie: Rated) -> Facts:
        """The rating beside the average that others give, or else beside the ratings so far."""
        if movie.mean is not None:
            by = (movie.rating - movie.mean) / self._point
            return {"alike": movie.mean} if abs(by) < 0.3 else {"mean": movie.mean, "by": by}
        if self.all.n < 10:
            return {}
        share = _share(self.counts[movie.place], self.all.n)
        return {"share": share} if share else {"new": self.scale.labels[movie.place]}

    def _evidence(self, movie: Rated) -> Iterator[Facts]:
        """What is shared with enough movies rated before."""
        for kind, name in movie.groups:
            sums = self.groups[kind].get(name)
            # An era that most movies are from says nothing.
            if sums and (3 <= sums.n < 0.6 * self.all.n if kind == "era" else sums.n >= 2):
                yield self._told(kind, name, sums)

    def _told(self, kind: str, name: Any, sums: Sums) -> Facts:
        effect = _drawn(sums.total, sums.n, self.usual) / self._point
        return {kind: name, "n": sums.n, "mean": sums.total / sums.n, "effect": effect}

    def _known(self, kind: str, least: int) -> list[Facts]:
        """The groups with enough ratings, by name."""
        groups = sorted(self.groups[kind].items())
        return [self._told(kind, name, sums) for name, sums in groups if sums.n >= least]

    def _known_genres(self) -> list[Facts]:
        whole = self.all
        lead = whole.above / whole.compared if whole.compared else 0.0
        genres = self._known("genre", 1)
        for facts in genres:
            sums = self.groups["genre"][facts["genre"]]
            facts["share"] = sums.n / whole.n
            facts["highest_share"], facts["low_share"] = sums.highest / sums.n, sums.low / sums.n
            facts["more_highest"] = _drawn(sums.highest, sums.n, whole.highest / whole.n)
            facts["more_low"] = _drawn(sums.low, sums.n, whole.low / whole.n)
            if sums.compared:
                facts["lead"] = sums.above / sums.compared
                facts["own_way"] = _drawn(sums.above, sums.compared, lead) / self._point
        return genres

    def _group_facts(self) -> Facts:
        """Genres, pairs of them, decades and people that are rated otherwise than the rest."""
        least = 3 if self.all.n < 40 else 4
        watched = self._known_genres()
        genres = [group for group in watched if group["n"] >= least]
        liked, disliked = _most(genres, "effect", 0.1, 4), _most(genres, "effect", 0.1, 4, -1)
        not_liked = [group for group in genres if group not in liked]
        not_disliked = [group for group in genres if group not in disliked]
        rest = [group for group in not_liked if group in not_disliked]
        facts = {
            "liked": liked,
            "favourites": liked[:3],
            "disliked": disliked,
            "least_liked": disliked[:2],
            "otherwise" if liked or disliked else "genres": _most(rest, "effect", -9, 4),
            "watched": _most(watched, "share", 0.1, 4),
            "highest": self.scale.labels[-1],
            "low": self.scale.labels[max(self._lows, 1) - 1],
            "given_highest": _most(not_disliked, "more_highest", 0.08, 2),
            "given_low": _most(not_liked, "more_low", 0.08, 2),
            "eras": sorted(self._known("era", least), key=lambda group: group["era"] != _OLD),
        }
        if self.all.compared >= _FEW:
            facts["kind_to"] = _most(not_disliked, "own_way", 0.1, 3)
            facts["harsh_on"] = _most(not_liked, "own_way", 0.1, 3, -1)
        means = {group["genre"]: group["mean"] for group in genres}
        pairs = self._known("pair", least)
        for name, sign in (("best_pairs", 1), ("worst_pairs", -1)):
            # Such as say more than either genre does.
            telling = [
                pair
                for pair in pairs
                if all(sign * (pair["mean"] - means[genre]) > 0 for genre in pair["pair"])
            ]
            facts[name] = _most(telling, "effect", 0.2, 2, sign)
        # A movie may be named after its hero.
        titles = {movie.title for movie in self.rated}
        for role, enough in (("director", 2), ("actor", 3)):
            people = [person for person in self._known(role, enough) if person[role] not in titles]
            facts[f"good_{role}s"] = _most(people, "effect", 0.25, 2)
            facts[f"bad_{role}s"] = _most(people, "effect", 0.25, 1, -1)
        return facts

    def _beside_averages(self) -> Facts:
        """How the ratings depend on the movies' average ratings."""
        if self.all.compared < _FEW:
            typical = self.scale.low + 4 * _TYPICAL * self._point
            return {"generosity": (self.usual - typical) / self._point}
        lead = self.all.above / self.all.compared
        facts: Facts = {"generosity": lead / self._point, "by": abs(lead)}
        facts["even" if abs(lead) < 0.15 * self._point else "lead"] = lead
        known = [band for band in range(len(_BANDS), -1, -1) if self.bands[band].n >= 3]
        if len(known) < 2:
            return facts
        ends = [None, *self._cuts, None]
        facts["bands"] = bands = [
            {
                "average": _known_only({"start": ends[band], "stop": ends[band + 1]}),
                "mean": self.bands[band].total / self.bands[band].n,
            }
            for band in known
        ]
        if self.all.compared >= 20:
            # Points of rating for a point of the averages; bands are half a point apart.
            rise = (bands[0]["mean"] - bands[-1]["mean"]) / self._point
            facts["agreement"] = 2 * rise / (known[0] - known[-1])
        return facts

    def _drift(self) -> Facts:
        """What has changed in the last third of the history."""
        size = self.all.n // 3
        before, lately = self.rated[:-size], self.rated[-size:]
        old, new = (sum(movie.rating for movie in part) / len(part) for part in (before, lately))
        was, now = _genres(before), _genres(lately)
        turns = [
            {"genre": genre, "by": now[genre] / len(lately) - was[genre] / len(before)}
            for genre in sorted(self.groups["genre"])
        ]
        towards, away = _most(turns, "by", 0.15, 2), _most(turns, "by", 0.15, 2, -1)
        facts: Facts = {"towards": towards, "away": away}
        change = {"old": old, "new": new, "size": size, "by": new - old}
        if abs(new - old) >= 0.3 * self._point:
            facts["change"] = change
        elif not towards and not away:
            facts["steady"] = change
        return facts

    def _habits(self) -> Facts:
        """How often each rating is given, the typical one and the spread."""
        n, top = self.all.n, max(self.counts)
        given = [
            {"label": label, "count": count, "share": _share(count, n)}
            for label, count in zip(self.scale.labels, self.counts, strict=True)
        ][::-1]
        typical = [rating for rating in given if rating["count"] == top]
        if top == n:
            return {"always": typical[0]["label"]}
        spread = sum((movie.rating - self.usual) ** 2 for movie in self.rated) ** 0.5 / n**0.5
        return {
            "typical": typical,
            "given": [rating for rating in given if rating["count"]],
            "never": [rating for rating in given if not rating["count"]],
            "spread": spread,
            "variety": spread / self._point,
        }


def _most(groups: list[Facts], by: str, least: float, count: int, sign: int = 1) -> list[Facts]:
    """The groups with the most of something, or with -1 the least: at least so much of it."""
    enough = [group for group in groups if sign * group.get(by, -np.inf * sign) >= least]
    return sorted(enough, key=lambda group: -sign * group[by])[:count]


def _drawn(total: float, n: int, usual: float) -> float:
    """How far a mean is from the usual one, drawn towards 0 where its n are few."""
    return (total - n * usual) / (n + _PRIOR)


def _share(count: int, n: int) -> float:
    # What was given is never at 0%.
    return max(count / n, 0.01) if count else 0.0


def _genres(movies: list[Rated]) -> Counter[str]:
    return Counter(genre for movie in movies for genre in movie.genres)


def _known_only(facts: Facts) -> Facts:
    return {name: fact for name, fact in facts.items() if fact not in ([], None)}

"""Rated movies in, one by one; what they show of the user's taste out, as named facts. Pure.

Everything is read from running sums, so that a profile after every batch costs no second look at
the history. What would rest on too few ratings is no fact.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import combinations, count, groupby
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
# What may explain a rating, and how many movies that share it must have been rated before.
_REASONS = {"genre": 2, "pair": 2, "director": 2, "actor": 2, "era": 3}

# Facts by name; one that is not known has no name here.
Facts = dict[str, Any]
# Movies that share something: a kind of thing, and its name.
Group = tuple[str, Any]


class Rated(NamedTuple):
    """A movie that the user has rated; its year and its mean of others' ratings may be None.

    Attributes:
        place: Of the rating on the scale, from 0.
        groups: Numbers of its groups.
        least: How many movies of each group must have been rated before for it to be a reason.
        counts: What it adds to the sums of each (see `Taste`).
    """

    title: str
    year: int | None
    rating: float
    place: int
    mean: float | None
    genres: tuple[str, ...]
    directors: tuple[str, ...]
    groups: np.ndarray
    least: np.ndarray
    counts: np.ndarray


class Movies:
    """The rated movies of a table of histories (see `History`), and the groups that they form.

    Attributes:
        scale: Of the ratings.
        point: A point of a scale from 1 to 5 on this one: thresholds are in such points.
        cuts: Between the bands of low and high averages.
        lows: Number of values of the scale that are low.
        rated: By row of the table; one movie's equal ratings are one object.
        groups: Kind and name by number. Kinds are `all` (number 0), `genre`, `pair` (of genres),
            `director`, `actor` (a leading one), `era` ("the 1990s"), `band` and `place`.
        kinds: Numbers of the groups of a kind, by name.
    """

    def __init__(self, table: pd.DataFrame, scale: Scale) -> None:
        width = scale.high - scale.low
        self.scale, self.point = scale, width / 4
        self.cuts = [scale.low + share * width for share in _BANDS]
        self.lows = int(np.searchsorted(scale.values, scale.low + _LOW * width, side="right"))
        names = ("item_id", "rating", "title", "year", "mean", "genres", "director", "cast")
        columns = [*(table[name] for name in names), pd.Series(scale.index(table["rating"]))]
        rows = list(zip(*(column.tolist() for column in columns), strict=True))
        fixed: list[Group] = [
            ("all", ""),
            *(("place", place) for place in range(len(scale.values))),
        ]
        numbers = defaultdict(count(len(fixed)).__next__, zip(fixed, count()))
        distinct = {row[:2]: row[1:] for row in rows}
        rated = {movie: self._rated(row, numbers) for movie, row in distinct.items()}
        self.rated = [rated[row[:2]] for row in rows]
        self.groups = list(numbers)
        self.kinds = defaultdict(lambda: np.array([], int))
        for kind, groups in groupby(sorted(numbers), itemgetter(0)):
            self.kinds[kind] = np.array([numbers[group] for group in groups])

    def _rated(self, row: Sequence[Any], numbers: Mapping[Group, int]) -> Rated:
        known: list[Any] = [None if pd.isna(value) else value for value in row]
        rating, title, year, mean, genres, director, cast, place = known
        genres, directors = split_genres(genres or ""), split_names(director or "")
        shared = {
            "all": [""],
            "place": [place],
            "genre": genres,
            "pair": combinations(sorted(genres), 2),
            "director": directors,
            "actor": split_names(cast or "")[:_LEADING],
            "era": [] if year is None else [f"the {year // 10 * 10}s" if year >= 1960 else _OLD],
            "band": [] if mean is None else [bisect_right(self.cuts, mean)],
        }
        groups = [(kind, name) for kind, names in shared.items() for name in names]
        number = np.array([numbers[group] for group in groups])
        least = np.array([_REASONS.get(kind, np.inf) for kind, _ in groups])
        above = (0, 0) if mean is None else (1, rating - mean)
        counts = (1, rating, place == len(self.scale.values) - 1, place < self.lows, *above)
        told = (title, year, rating, place, mean, genres, directors)
        return Rated(*told, number, least, np.array(counts))


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


class Taste:
    """What is known of a user after the movies added so far.

    Attributes:
        movies: All that may be added.
        rated: Those added, in order.
        usual: The user's mean rating; NaN before the first.
        sums: By group: the number of ratings, their sum, how many are the highest of the scale, how
            many are low, how many have an average of others, and the sum of rating minus average
            over these.
    """

    def __init__(self, movies: Movies) -> None:
        self.movies = movies
        self.rated: list[Rated] = []
        self.usual = float("nan")
        self.sums = np.zeros((len(movies.groups), 6))

    def add(self, movie: Rated) -> None:
        """Count one more movie."""
        self.rated.append(movie)
        self.sums[movie.groups] += movie.counts
        self.usual = float(self.sums[0, 1]) / len(self.rated)

    def facts(self) -> Facts:
        """What the ratings, at least one, show."""
        n = len(self.rated)
        facts: Facts = {"n": n, "usual": self.usual}
        if n < _FEW:
            labels = [self.movies.scale.labels[movie.place] for movie in self.rated]
            facts |= {"ratings": labels} if n > 1 else {"single": labels[0]}
            facts["seen"] = [{"genre": genre} for genre, _ in _genres(self.rated).most_common(3)]
        else:
            facts |= self._group_facts() | self._habits() | self._beside_averages()
            if n >= _LONG:
                facts |= self._drift()
        return _known_only(facts)

    def reasons(self, movie: Rated) -> Facts:
        """What the ratings so far, if any, say of such a movie with such a rating."""
        usual, point = self.usual, self.movies.point
        # An era that most movies are from says nothing.
        most = 0.6 * len(self.rated)
        evidence = self._known(movie.groups, movie.least)
        evidence = [group for group in evidence if "era" not in group or group["n"] < most]
        if not evidence:
            return {}
        evidence.sort(key=itemgetter("effect", "mean"))
        above = movie.rating - usual
        if abs(above) < 0.5 * point:
            near = min(evidence, key=lambda group: abs(group["mean"] - movie.rating))
            by = abs(near["mean"] - movie.rating) / point
            if by > 0.5:
                return {"ordinary": usual}
            return {"same" if by < 0.05 else "near": near}
        contrast, support = (evidence[end] for end in ((0, -1) if above > 0 else (-1, 0)))
        telling = support["effect"] * above > 0 and abs(support["effect"]) >= 0.1
        if telling and abs(support["mean"] - movie.rating) <= point:
            return {"above": above, "support": support}
        if abs(contrast["mean"] - movie.rating) > point:
            return {"contrast": contrast}
        return {"above": above, "unusual": usual} if len(self.rated) >= 5 else {}

    def beside(self, movie: Rated) -> Facts:
        """The rating beside the average that others give, or else beside the ratings so far."""
        if movie.mean is not None:
            by = (movie.rating - movie.mean) / self.movies.point
            return {"alike": movie.mean} if abs(by) < 0.3 else {"mean": movie.mean, "by": by}
        if len(self.rated) < 10:
            return {}
        (place,) = self.movies.kinds["place"][[movie.place]]
        share = _share(self.sums[place, 0], len(self.rated))
        return {"share": share} if share else {"new": self.movies.scale.labels[movie.place]}

    def _told(self, number: int, sums: list[float]) -> Facts:
        kind, name = self.movies.groups[number]
        n, total, *_ = sums
        effect = _drawn(total, n, self.usual) / self.movies.point
        return {kind: name, "n": int(n), "mean": total / n, "effect": effect, "sums": sums}

    def _known(self, numbers: np.ndarray, least: int | np.ndarray) -> list[Facts]:
        """The groups with enough ratings."""
        numbers = numbers[self.sums[numbers, 0] >= least]
        return list(map(self._told, numbers.tolist(), self.sums[numbers].tolist()))

    def _group_facts(self) -> Facts:
        """Genres, pairs of them, decades and people that are rated otherwise than the rest."""
        movies, n = self.movies, len(self.rated)
        _, _, highest, low, compared, above = self.sums[0].tolist()
        least = 3 if n < 40 else 4
        watched = self._known(self.movies.kinds["genre"], 1)
        for genre in watched:
            of_genre = genre["n"]
            _, _, its_highest, its_low, its_compared, its_above = genre["sums"]
            genre |= {
                "share": of_genre / n,
                "highest_share": its_highest / of_genre,
                "low_share": its_low / of_genre,
                "more_highest": _drawn(its_highest, of_genre, highest / n),
                "more_low": _drawn(its_low, of_genre, low / n),
            }
            if compared >= _FEW and its_compared:
                genre["lead"] = its_above / its_compared
                genre["own_way"] = _drawn(its_above, its_compared, above / compared) / movies.point
        genres = [genre for genre in watched if genre["n"] >= least]
        liked, disliked = _most(genres, "effect", 0.1, 4), _most(genres, "effect", 0.1, 4, -1)
        not_liked = [genre for genre in genres if genre not in liked]
        not_disliked = [genre for genre in genres if genre not in disliked]
        rest = [genre for genre in not_liked if genre in not_disliked]
        facts = {
            "liked": liked,
            "favourites": liked[:3],
            "disliked": disliked,
            "least_liked": disliked[:2],
            "otherwise" if liked or disliked else "genres": _most(rest, "effect", -9, 4),
            "watched": _most(watched, "share", 0.1, 4),
            "highest": movies.scale.labels[-1],
            "low": movies.scale.labels[max(movies.lows, 1) - 1],
            "given_highest": _most(not_disliked, "more_highest", 0.08, 2),
            "given_low": _most(not_liked, "more_low", 0.08, 2),
            "eras": sorted(
                self._known(self.movies.kinds["era"], least), key=lambda group: group["era"] != _OLD
            ),
            "kind_to": _most(not_disliked, "own_way", 0.1, 3),
            "harsh_on": _most(not_liked, "own_way", 0.1, 3, -1),
        }
        means = {genre["genre"]: genre["mean"] for genre in genres}
        pairs = self._known(self.movies.kinds["pair"], least)
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
            people = [
                person
                for person in self._known(self.movies.kinds[role], enough)
                if person[role] not in titles
            ]
            facts[f"good_{role}s"] = _most(people, "effect", 0.25, 2)
            facts[f"bad_{role}s"] = _most(people, "effect", 0.25, 1, -1)
        return facts

    def _beside_averages(self) -> Facts:
        """How the ratings depend on the movies' average ratings."""
        scale, point, cuts = self.movies.scale, self.movies.point, self.movies.cuts
        *_, compared, above = self.sums[0].tolist()
        if compared < _FEW:
            typical = scale.low + 4 * _TYPICAL * point
            return {"generosity": (self.usual - typical) / point}
        lead = above / compared
        facts: Facts = {"generosity": lead / point, "by": abs(lead)}
        facts["even" if abs(lead) < 0.15 * point else "lead"] = lead
        known = self._known(self.movies.kinds["band"], 3)[::-1]
        if len(known) < 2:
            return facts
        ends = {"start": [None, *cuts], "stop": [*cuts, None]}
        facts["bands"] = [
            {
                "average": _known_only({end: at[group["band"]] for end, at in ends.items()}),
                "mean": group["mean"],
            }
            for group in known
        ]
        if compared >= 20:
            # Points of rating for a point of the averages; bands are half a point apart.
            rise = (known[0]["mean"] - known[-1]["mean"]) / point
            facts["agreement"] = 2 * rise / (known[0]["band"] - known[-1]["band"])
        return facts

    def _drift(self) -> Facts:
        """What has changed in the last third of the history."""
        size = len(self.rated) // 3
        before, lately = self.rated[:-size], self.rated[-size:]
        old, new = (sum(movie.rating for movie in part) / len(part) for part in (before, lately))
        was, now = _genres(before), _genres(lately)
        turns = [
            {"genre": genre, "by": now[genre] / len(lately) - was[genre] / len(before)}
            for genre in sorted(was | now)
        ]
        towards, away = _most(turns, "by", 0.15, 2), _most(turns, "by", 0.15, 2, -1)
        facts: Facts = {"towards": towards, "away": away}
        change = {"old": old, "new": new, "size": size, "by": new - old}
        if abs(new - old) >= 0.3 * self.movies.point:
            facts["change"] = change
        elif not towards and not away:
            facts["steady"] = change
        return facts

    def _habits(self) -> Facts:
        """How often each rating is given, the typical one and the spread."""
        n, numbers = len(self.rated), self.movies.kinds["place"]
        counts = list(zip(self.movies.scale.labels, self.sums[numbers, 0].tolist(), strict=True))[
            ::-1
        ]
        top = max(count for _, count in counts)
        typical = [{"label": label} for label, count in counts if count == top]
        if top == n:
            return {"always": typical[0]["label"]}
        spread = sum((movie.rating - self.usual) ** 2 for movie in self.rated) ** 0.5 / n**0.5
        return {
            "typical": typical,
            "given": [
                {"label": label, "share": _share(count, n)} for label, count in counts if count
            ],
            "never": [{"label": label} for label, count in counts if not count],
            "spread": spread,
            "variety": spread / self.movies.point,
        }


def _most(groups: list[Facts], by: str, least: float, count: int, sign: int = 1) -> list[Facts]:
    """The groups with the most of something, or with -1 the least: at least so much of it."""
    enough = [group for group in groups if by in group and sign * group[by] >= least]
    return sorted(enough, key=lambda group: -sign * group[by])[:count]


def _drawn(total: float, n: float, usual: float) -> float:
    """How far a mean is from the usual one, drawn towards 0 where its n are few."""
    return (total - n * usual) / (n + _PRIOR)


def _share(count: float, n: int) -> float:
    # What was given is never at 0%.
    return max(count / n, 0.01) if count else 0.0


def _genres(movies: list[Rated]) -> Counter[str]:
    return Counter(genre for movie in movies for genre in movie.genres)


def _known_only(facts: Facts) -> Facts:
    return {name: fact for name, fact in facts.items() if fact not in ([], None)}

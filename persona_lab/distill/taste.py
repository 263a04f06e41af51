"""Rated movies in, one by one; what they show of the user's taste out, as named facts. Pure.

Everything is read from running sums, so that a profile after every batch costs no second look at
the history. What would rest on too few ratings is no fact.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import combinations
from typing import Any, NamedTuple

import pandas as pd

from persona_lab.data import Scale

# Ratings at the user's own mean that every group starts with, so that few ratings say little.
_PRIOR = 4.0
# Later actors of a cast seldom decide a rating.
_LEADING = 3
# With fewer ratings little can be said; with fewer than _LONG nothing of change.
FEW, _LONG = 6, 30
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
        pairs: Their pairs.
        era: Its decade, "the 1990s", or one for all of the earlier years; None where unknown.
        directors: Names.
        actors: Names of the leading ones.
    """

    title: str
    year: int | None
    rating: float
    place: int
    mean: float | None
    genres: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    era: str | None
    directors: tuple[str, ...]
    actors: tuple[str, ...]


def rated_movies(rows: pd.DataFrame, scale: Scale) -> list[Rated]:
    """The rows of histories (see `History`), in order; one movie's equal ratings are one object."""
    keys = list(zip(rows["item_id"].tolist(), rows["rating"].tolist(), strict=True))
    distinct = rows[~rows.duplicated(["item_id", "rating"]).to_numpy()]
    distinct = distinct.assign(place=scale.index(distinct["rating"]))
    columns = ("item_id", "title", "year", "rating", "place", "mean", "genres", "director", "cast")
    rated = {}
    for item_id, title, year, rating, place, mean, genres, director, cast in zip(
        *(distinct[column].tolist() for column in columns), strict=True
    ):
        named = split_genres(genres if isinstance(genres, str) else "")
        year = None if pd.isna(year) else int(year)
        rated[item_id, rating] = Rated(
            title,
            year,
            rating,
            place,
            None if pd.isna(mean) else mean,
            named,
            tuple(combinations(sorted(named), 2)),
            None if year is None else f"the {year // 10 * 10}s" if year >= 1960 else _OLD,
            split_names(director if isinstance(director, str) else ""),
            split_names(cast if isinstance(cast, str) else "")[:_LEADING],
        )
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
        total: Sum of the ratings.
        highest: How many are the highest of the scale.
        lows: How many are low.
        compared: How many have an average of others.
        above: Sum of rating minus average over these.
    """

    __slots__ = ("above", "compared", "highest", "lows", "n", "total")

    def __init__(self) -> None:
        self.n = self.highest = self.lows = self.compared = 0
        self.total = self.above = 0.0

    @property
    def mean(self) -> float:
        """Mean rating; there must be one."""
        return self.total / self.n

    @property
    def lead(self) -> float:
        """Mean of rating minus average of others; one must be known."""
        return self.above / self.compared

    def effect(self, usual: float) -> float:
        """How far the mean is from the user's usual one, drawn towards 0 where ratings are few."""
        return (self.total - self.n * usual) / (self.n + _PRIOR)


class Taste:
    """What is known of a user after the movies added so far.

    Differences between ratings are told in points of a scale from 1 to 5 where words depend on
    them, and are else on the scale itself.

    Attributes:
        scale: Of the ratings.
        rated: The movies, in order.
        all: Sums over all of them.
        shares: Number of ratings by place on the scale.
        genres: Sums by genre; likewise `pairs`, `eras`, `directors` and `actors`.
        bands: Sums by the movie's average: how many of the cuts it reaches.
    """

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        width = scale.high - scale.low
        self._point = width / 4
        self._cuts = [scale.low + share * width for share in _BANDS]
        self._typical = scale.low + _TYPICAL * width
        self._low_places = sum(value <= scale.low + _LOW * width for value in scale.values)
        self.rated: list[Rated] = []
        self.all = Sums()
        self.shares = [0] * len(scale.values)
        self.genres: defaultdict[str, Sums] = defaultdict(Sums)
        self.pairs: defaultdict[tuple[str, str], Sums] = defaultdict(Sums)
        self.eras: defaultdict[str, Sums] = defaultdict(Sums)
        self.directors: defaultdict[str, Sums] = defaultdict(Sums)
        self.actors: defaultdict[str, Sums] = defaultdict(Sums)
        self.bands: defaultdict[int, Sums] = defaultdict(Sums)

    def add(self, movie: Rated) -> None:
        """Count one more movie."""
        rating, mean = movie.rating, movie.mean
        highest, low = movie.place == len(self.shares) - 1, movie.place < self._low_places
        self.rated.append(movie)
        self.shares[movie.place] += 1
        groups = [
            self.all,
            *(self.genres[name] for name in movie.genres),
            *(self.pairs[pair] for pair in movie.pairs),
            *(self.directors[name] for name in movie.directors),
            *(self.actors[name] for name in movie.actors),
        ]
        if movie.era is not None:
            groups.append(self.eras[movie.era])
        if mean is not None:
            groups.append(self.bands[sum(mean >= cut for cut in self._cuts)])
        for sums in groups:
            sums.n += 1
            sums.total += rating
            sums.highest += highest
            sums.lows += low
            if mean is not None:
                sums.compared += 1
                sums.above += rating - mean

    def level(self, rating: float, levels: int) -> int:
        """In which of so many levels, from 0, a rating lies."""
        low, high = self.scale.low, self.scale.high
        return round((rating - low) / (high - low) * (levels - 1))

    def facts(self) -> Facts:
        """What the ratings show, at least one: numbers, labels of ratings, and groups of these."""
        facts: Facts = {"n": self.all.n, "usual": self.all.mean}
        if self.all.n < FEW:
            labels = [self.scale.labels[movie.place] for movie in self.rated]
            facts |= {"single": labels[0]} if len(labels) == 1 else {"ratings": labels}
            genres = Counter(genre for movie in self.rated for genre in movie.genres)
            facts["seen"] = [{"genre": genre} for genre, _ in genres.most_common(3)]
        else:
            self._least = 3 if self.all.n < 40 else 4
            facts |= self._genre_facts() | dict(self._era_facts()) | dict(self._people_facts())
            facts |= dict(self._habit_facts())
            if self.all.compared >= FEW:
                facts |= dict(self._average_facts())
            if self.all.n >= _LONG:
                facts |= dict(self._drift_facts())
        return {name: fact for name, fact in facts.items() if fact not in ([], None)}

    def beside(self, movie: Rated) -> Facts:
        """The rating beside the average that others give, or beside the ratings so far."""
        if movie.mean is not None:
            by = (movie.rating - movie.mean) / self._point
            return {"alike": movie.mean} if abs(by) < 0.3 else {"mean": movie.mean, "by": by}
        if self.all.n < 10:
            return {}
        count = self.shares[movie.place]
        return {"share": max(count / self.all.n, 0.01)} if count else {"first": self.all.n}

    def reasons(self, movie: Rated) -> Facts:
        """What the ratings so far, if any, say of such a movie with such a rating."""
        if not self.rated:
            return {}
        usual, point = self.all.mean, self._point
        groups = sorted(self._evidence(movie), key=lambda group: (group["effect"], group["mean"]))
        if not groups:
            return {}
        above = movie.rating - usual
        facts: Facts = {"above": above}
        if abs(above) < 0.5 * point:
            near = min(groups, key=lambda group: abs(group["mean"] - movie.rating))
            by = abs(near["mean"] - movie.rating) / point
            if by > 0.5:
                return facts | {"ordinary": usual}
            return facts | {"same" if by < 0.05 else "near": near}
        support, contrast = (groups[-1], groups[0]) if above > 0 else (groups[0], groups[-1])
        telling = support["effect"] * above > 0 and abs(support["effect"]) >= 0.1 * point
        if telling and abs(support["mean"] - movie.rating) <= point:
            return facts | {"support": support}
        if abs(contrast["mean"] - movie.rating) > point:
            return facts | {"contrast": contrast}
        return facts | {"unusual": usual} if self.all.n >= 5 else {}

    def _evidence(self, movie: Rated) -> Iterator[Facts]:
        """What is shared with enough movies rated before."""
        usual = self.all.mean
        shared: tuple[tuple[str, tuple[Any, ...], Mapping[Any, Sums]], ...] = (
            ("genre", movie.genres, self.genres),
            ("pair", movie.pairs, self.pairs),
            ("director", movie.directors, self.directors),
            ("actor", movie.actors, self.actors),
        )
        for kind, names, groups in shared:
            for name in names:
                sums = groups.get(name)
                if sums and sums.n >= 2:
                    yield {kind: name, "mean": sums.mean, "effect": sums.effect(usual)}
        era = self.eras.get(movie.era) if movie.era else None
        # An era that most movies are from says nothing.
        if era and 3 <= era.n < 0.6 * self.all.n:
            yield {"era": movie.era, "mean": era.mean, "effect": era.effect(usual)}

    def _ranked(self, groups: Mapping[str, Sums], least: int, kind: str) -> list[Facts]:
        """The groups with enough ratings, best liked first."""
        usual = self.all.mean
        known = [
            {kind: name, "mean": sums.mean, "n": sums.n, "effect": sums.effect(usual) / self._point}
            for name, sums in groups.items()
            if sums.n >= least
        ]
        return sorted(known, key=lambda group: (-group["effect"], group[kind]))

    def _genre_facts(self) -> Facts:
        known = self._ranked(self.genres, self._least, "genre")
        liked = [group for group in known[:4] if group["effect"] >= 0.1]
        disliked = [group for group in known[:-5:-1] if group["effect"] <= -0.1]
        told = {group["genre"] for group in (*liked, *disliked)}
        rest = [group for group in known if group["genre"] not in told][:4]
        often = sorted((-sums.n, genre) for genre, sums in self.genres.items())[:4]
        n = self.all.n
        return {
            "liked": liked,
            "favourites": liked[:3],
            "disliked": disliked,
            "least_liked": disliked[:2],
            "otherwise" if told else "genres": rest,
            "watched": [{"genre": genre, "share": -k / n} for k, genre in often if -k >= n / 10],
            **self._pair_facts(liked, disliked),
            **self._extreme_facts(known, liked, disliked),
            **self._own_way_facts(liked, disliked),
        }

    def _pair_facts(self, liked: list[Facts], disliked: list[Facts]) -> Facts:
        """Pairs of genres rated higher, or lower, than either genre."""
        above, below = [], []
        likes, dislikes = ({group["genre"] for group in groups} for groups in (liked, disliked))
        for pair, sums in self.pairs.items():
            if sums.n < self._least:
                continue
            effect = sums.effect(self.all.mean) / self._point
            means = [self.genres[genre].mean for genre in pair]
            if effect >= 0.2 and sums.mean > max(means) and dislikes.isdisjoint(pair):
                above.append((-effect, pair, sums.mean))
            if effect <= -0.2 and sums.mean < min(means) and likes.isdisjoint(pair):
                below.append((effect, pair, sums.mean))
        return {
            name: [{"pair": pair, "mean": mean} for _, pair, mean in sorted(pairs)[:2]]
            for name, pairs in (("best_pairs", above), ("worst_pairs", below))
        }

    def _extreme_facts(
        self, known: list[Facts], liked: list[Facts], disliked: list[Facts]
    ) -> Facts:
        """What is given the highest rating, and what a low one, more often than the rest."""
        facts: Facts = {
            "highest": self.scale.labels[-1],
            "low": self.scale.labels[max(self._low_places, 1) - 1],
        }
        told = {group["genre"] for group in disliked}
        for name, count in (("given_highest", "highest"), ("given_low", "lows")):
            usual = getattr(self.all, count) / self.all.n
            shares = []
            for genre in {group["genre"] for group in known} - told:
                of, k = self.genres[genre].n, getattr(self.genres[genre], count)
                if k > 1 and k / of >= usual + 0.08:
                    shares.append((k / of, genre))
            most = sorted(shares, reverse=True)[:2]
            facts[name] = [{"genre": genre, "share": share} for share, genre in most]
            told = {group["genre"] for group in liked} | {genre for _, genre in most}
        return facts

    def _own_way_facts(self, liked: list[Facts], disliked: list[Facts]) -> Facts:
        """Genres rated further from the movies' averages than the rest."""
        if self.all.compared < FEW:
            return {}
        usual, point = self.all.lead, self._point
        likes, dislikes = ({group["genre"] for group in groups} for groups in (liked, disliked))
        kind, harsh = [], []
        for genre, sums in self.genres.items():
            if sums.compared < self._least or genre in (dislikes if sums.lead > 0 else likes):
                continue
            offset = (sums.above - sums.compared * usual) / (sums.compared + _PRIOR) / point
            if offset >= 0.1 and sums.lead >= 0.1 * point:
                kind.append((-sums.lead, genre))
            if offset <= -0.1 and sums.lead <= -0.1 * point:
                harsh.append((sums.lead, genre))
        return {
            name: [{"genre": genre, "by": -by} for by, genre in sorted(groups)[:3]]
            for name, groups in (("kind_to", kind), ("harsh_on", harsh))
        }

    def _era_facts(self) -> Iterator[tuple[str, Any]]:
        known = sorted(
            (era != _OLD, era, sums) for era, sums in self.eras.items() if sums.n >= self._least
        )
        if len(known) == 1 and known[0][2].n >= 0.8 * self.all.n:
            yield "only_era", known[0][1]
        if len(known) > 1:
            yield "eras", [{"era": era, "mean": sums.mean} for _, era, sums in known]
        old, new = (
            [movie.rating for movie in self.rated if movie.year and (movie.year < 1980) is before]
            for before in (True, False)
        )
        if min(len(old), len(new)) >= 5:
            newer = sum(new) / len(new) - sum(old) / len(old)
            if abs(newer) >= 0.3 * self._point:
                yield "newer", newer

    def _people_facts(self) -> Iterator[tuple[str, Any]]:
        for role, groups, least in (("directors", self.directors, 2), ("actors", self.actors, 3)):
            people = self._ranked(groups, least, "name")
            if people:
                # A movie may be named after its hero.
                titles = {movie.title for movie in self.rated}
                people = [person for person in people if person["name"] not in titles]
            yield f"good_{role}", [person for person in people if person["effect"] >= 0.25][:2]
            worst = [person for person in people[::-1] if person["effect"] <= -0.25]
            yield f"bad_{role}", worst[:1]

    def _average_facts(self) -> Iterator[tuple[str, Any]]:
        """How the ratings depend on the movies' average ratings."""
        lead = self.all.lead
        yield "generosity", lead / self._point
        yield ("even" if abs(lead) < 0.15 * self._point else "lead"), lead
        yield "by", abs(lead)
        known = [band for band in range(len(_BANDS), -1, -1) if self.bands[band].n >= 3]
        if len(known) < 2:
            return
        bounds = [None, *self._cuts, None]
        bands = []
        for band in known:
            ends = {"start": bounds[band], "stop": bounds[band + 1]}
            average = {name: end for name, end in ends.items() if end is not None}
            bands.append({"average": average, "mean": self.bands[band].mean})
        yield "bands", bands
        if self.all.compared >= 20:
            # Of the user's rating to the movies' average, from band to band of half a point.
            rise = (bands[0]["mean"] - bands[-1]["mean"]) / self._point
            yield "agreement", 2 * rise / (known[0] - known[-1])

    def _drift_facts(self) -> Iterator[tuple[str, Any]]:
        """What has changed in the last third of the history."""
        size = self.all.n // 3
        before, lately = self.rated[:-size], self.rated[-size:]
        old, new = (sum(movie.rating for movie in part) / len(part) for part in (before, lately))
        facts = {"old": old, "new": new, "size": size}
        changed = abs(new - old) >= 0.3 * self._point
        shares = [
            {genre: k / len(part) for genre, k in _genre_counts(part).items()}
            for part in (before, lately)
        ]
        gains = sorted(
            (shares[1].get(genre, 0.0) - shares[0].get(genre, 0.0), genre) for genre in self.genres
        )
        towards = [{"genre": genre} for gain, genre in gains[::-1] if gain >= 0.15][:2]
        away = [{"genre": genre} for gain, genre in gains if gain <= -0.15][:2]
        yield "towards", towards
        yield "away", away
        if changed:
            yield "change", facts | {"by": new - old}
        elif not towards and not away:
            yield "steady", facts

    def _habit_facts(self) -> Iterator[tuple[str, Any]]:
        """How often each rating is given, the typical one and the spread."""
        n, labels = self.all.n, self.scale.labels
        counts = list(zip(labels, self.shares, strict=True))[::-1]
        top = max(self.shares)
        if self.all.compared < FEW:
            yield "generosity", (self.all.mean - self._typical) / self._point
        if top == n:
            yield "always", labels[self.shares.index(n)]
            return
        yield "typical", [{"label": label} for label, count in counts if count == top]
        # What was given is never at 0%.
        shares = [(label, max(count / n, 0.01)) for label, count in counts if count]
        yield "given", [{"label": label, "share": share} for label, share in shares]
        yield "never", [{"label": label} for label, count in counts if not count]
        squares = sum(
            count * (value - self.all.mean) ** 2
            for value, count in zip(self.scale.values, self.shares, strict=True)
        )
        yield "spread", (squares / n) ** 0.5
        yield "variety", (squares / n) ** 0.5 / self._point


def _genre_counts(movies: list[Rated]) -> Counter[str]:
    return Counter(genre for movie in movies for genre in movie.genres)

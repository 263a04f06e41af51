"""Genres, numbers and lists in, English phrases out. Pure.

Names are chosen so that the texts read well: "drama" in a list, "a crime drama" for one movie.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import NamedTuple


class _Genre(NamedTuple):
    kind: str  # as the object of a sentence: "I enjoy ..."
    offer: str  # what one finds there, likewise
    adjective: str
    noun: str | None = None


_GENRES = {
    "Action": _Genre("action", "fights at full speed", "action"),
    "Adventure": _Genre("adventure", "daring journeys", "adventure"),
    "Animation": _Genre("animation", "cartoons", "animated"),
    "Children's": _Genre("children's movies", "stories for the whole family", "children's"),
    "Comedy": _Genre("comedy", "a good laugh", "comic", "comedy"),
    "Crime": _Genre("crime", "gangsters", "crime"),
    "Documentary": _Genre("documentaries", "real life", "documentary", "documentary"),
    "Drama": _Genre("drama", "serious stories about people", "dramatic", "drama"),
    "Fantasy": _Genre("fantasy", "magic", "fantasy"),
    "Film-Noir": _Genre("film noir", "cynical heroes in the dark", "noir", "film noir"),
    "Horror": _Genre("horror", "a good scare", "horror"),
    "Musical": _Genre("musicals", "singing on the screen", "musical", "musical"),
    "Mystery": _Genre("mystery", "riddles", "mystery", "mystery"),
    "Romance": _Genre("romance", "love stories", "romantic", "romance"),
    "Sci-Fi": _Genre("sci-fi", "visions of the future", "sci-fi"),
    "Thriller": _Genre("thrillers", "suspense", "suspenseful", "thriller"),
    "War": _Genre("war movies", "soldiers in battle", "war"),
    "Western": _Genre("westerns", "cowboys", "western", "western"),
}
# Which of a movie's genres is the noun: a "romantic comedy", but a "comic drama".
_NOUNS = (
    *("Documentary", "Western", "Musical", "Film-Noir", "Thriller", "Drama", "Comedy"),
    *("Mystery", "Romance"),
)
_UNNAMED = {"", "unknown", "(no genres listed)"}


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


def kind(genre: str) -> str:
    """A genre as the object of a sentence: "drama", "westerns"."""
    return _GENRES[genre].kind if genre in _GENRES else f"{genre.lower()} movies"


def offer(genre: str) -> str:
    """What one finds in a genre, as the object of a sentence: "suspense", "love stories"."""
    return _GENRES[genre].offer if genre in _GENRES else kind(genre)


@cache
def movie_phrase(genres: tuple[str, ...]) -> str:
    """One movie of these genres, without article: "crime drama", "animated children's musical"."""
    first = [genre for genre in ("Animation", "Children's") if genre in genres]
    core = [genre for genre in genres if genre not in first]
    noun = next((genre for genre in _NOUNS if genre in core), None)
    lead = [_adjective(genre) for genre in first]
    if len(core) > 2 and noun:
        parts = [_noun(genre) or _adjective(genre) for genre in core]
        return " ".join([*lead, "mix of", listed(parts)])
    qualities = listed([_adjective(genre) for genre in core if genre != noun])
    head = _noun(noun) if noun else "movie"
    return " ".join(filter(None, [*lead, qualities, head]))


def _adjective(genre: str) -> str:
    return _GENRES[genre].adjective if genre in _GENRES else genre.lower()


def _noun(genre: str) -> str | None:
    return _GENRES[genre].noun if genre in _GENRES else None


@cache
def movies_phrase(genres: tuple[str, ...]) -> str:
    """Several movies of these (one or two) genres: "crime dramas", "romantic comedies"."""
    phrase = movie_phrase(genres)
    return f"{phrase[:-1]}ies" if phrase.endswith("y") else f"{phrase}s"


def with_article(phrase: str) -> str:
    """The phrase after "a" or "an"."""
    return f"{'an' if phrase[0] in 'aeiouAEIOU' else 'a'} {phrase}"


def listed(parts: Sequence[str]) -> str:
    """Parts as a list: "a", "a and b", "a, b and c"."""
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else "".join(parts)


def amount(points: float) -> str:
    """The size of a difference of ratings, in words up to about a point."""
    size = abs(points)
    for limit, words in (
        (0.35, "about a quarter of a point"),
        (0.65, "about half a point"),
        (0.85, "about three quarters of a point"),
        (1.2, "about a whole point"),
    ):
        if size < limit:
            return words
    return f"{size:.1f} points"


def percent(share: float) -> str:
    """A share of 1 in whole percent; a small one never as 0%."""
    return f"{share:.0%}" if share >= 0.01 else "under 1%"


@dataclass(frozen=True)
class Voice:
    """One user's way of putting things: which of several equal wordings is taken.

    Attributes:
        seed: Of the run.
        user_id: The user.
    """

    seed: int
    user_id: int

    def pick(self, place: str, options: Sequence[str], turn: int = 0) -> str:
        """One of the options, the same for the same place, the next one at the next turn."""
        start = zlib.crc32(place.encode(), self._own)
        return options[(start + turn) % len(options)]

    @cached_property
    def _own(self) -> int:
        return zlib.crc32(f"{self.seed} {self.user_id} ".encode())

"""Named facts in, English sentences out, in the words of a YAML. Pure.

A sentence has one form or several; the first is said whose facts are all known, and where there is
none the sentence is left out. A form has one wording or several, set apart by " | ". A wording
names facts in braces, as `str.format` does; what follows a colon says how a fact is put:

    {mean:.1f}       a number, as Python formats it
    {lead:side}      a number in words: the level of this name in which it lies
    {genre:kind}     a genre in words
    {pair:many}      movies of these genres; {genres:one} is one such movie
    {liked:scored}   a list or a group of facts: each by the part of this name ({liked:scored or}
                     joins the last two with "or"). Of a part's wordings the first is for the first
                     of a list and the last for the others.
    {label:a}        with its article: "an action movie", "a 4"; {label:A} begins a sentence
"""

import zlib
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from string import Formatter
from typing import Any, NamedTuple

from pydantic import PositiveInt

from persona_lab.component import component

Forms = str | Sequence[str]
Facts = Mapping[str, Any]


@component
class Phrases:
    """The words of the statistical distiller (conf/distiller/statistical.yaml).

    Attributes:
        profile: Sentences by theme, in the order of the text.
        expendable: Themes that a profile of more than `most_words` goes without, the first first.
        most_words: What a prompt of a small model has room for beside the movies.
        reason: Why a movie was rated so.
        feelings: How a movie was liked, in levels from the lowest rating to the highest.
        beside: A rating beside the others' average, or the user's habits where there is none.
        parts: Forms of a list's or a group's members.
        levels: Words for numbers: the lowest, where the next begins, that one, and so on.
        genres: Each genre's `kind` and `offer` (what one finds in it), as objects of a sentence,
            its `adjective` and, where it has one, its `noun`.
        other_genre: The same for any other {name}.
        nouns: Genres by how readily they are the noun of a movie's two.
        mix: Movies of more than two {kinds}.
    """

    profile: Mapping[str, Sequence[Forms]]
    expendable: Sequence[str]
    most_words: PositiveInt
    reason: Forms
    feelings: Sequence[str]
    beside: Forms
    parts: Mapping[str, Forms]
    levels: Mapping[str, Sequence[str | float]]
    genres: Mapping[str, Mapping[str, str]]
    other_genre: Mapping[str, str]
    nouns: Sequence[str]
    mix: str


@dataclass(frozen=True)
class Voice:
    """One user's way of putting things: which of several wordings is taken.

    Attributes:
        seed: Of the run.
        user_id: The user.
    """

    seed: int
    user_id: int

    def pick(self, place: bytes, n: int, turn: int = 0) -> int:
        """One of n, the same for the same place, the next one at the next turn."""
        return (zlib.crc32(place, self._start) + turn) % n

    @cached_property
    def _start(self) -> int:
        return zlib.crc32(f"{self.seed} {self.user_id} ".encode())


class _Field(NamedTuple):
    before: str
    path: tuple[str, ...]
    way: str


class _Form(NamedTuple):
    text: bytes
    names: frozenset[str]
    wordings: list[tuple[_Field, ...]]


Sentence = tuple[_Form, ...]
Choice = Callable[[_Form], int]


class Writer:
    """Says facts in the words of `Phrases`, made ready once for many texts.

    Attributes:
        reason: A sentence without its stop.
        feelings: Likewise, by level.
        beside: A sentence.
    """

    def __init__(self, phrases: Phrases) -> None:
        self._phrases = phrases
        self._themes = {
            theme: [_sentence(forms) for forms in sentences]
            for theme, sentences in phrases.profile.items()
        }
        self.reason, self.beside = _sentence(phrases.reason), _sentence(phrases.beside)
        self.feelings = [_sentence(forms) for forms in phrases.feelings]
        self._parts = {name: _sentence(forms) for name, forms in phrases.parts.items()}
        self._levels = {name: (level[::2], level[1::2]) for name, level in phrases.levels.items()}
        self._movies: dict[Any, str] = {}

    def profile(self, facts: Facts, voice: Voice) -> str:
        """A whole profile, of at most `most_words` words where its expendable themes allow."""
        said = {
            theme: " ".join(filter(None, (self.say(form, facts, voice) for form in sentences)))
            for theme, sentences in self._themes.items()
        }
        for theme in (None, *self._phrases.expendable):
            said.pop(theme, None)
            text = " ".join(filter(None, said.values()))
            if len(text.split()) <= self._phrases.most_words:
                break
        return text

    def say(self, sentence: Sentence, facts: Facts, voice: Voice, turn: int = 0) -> str:
        """A sentence in the user's wording; "" where no form's facts are known."""
        return self._say(sentence, facts, lambda form: voice.pick(form.text, len(form.wordings), turn))

    def movie(self, genres: tuple[str, ...], directors: tuple[str, ...]) -> str:
        """One movie, without article: "crime drama by Jane Doe"."""
        known = self._movies.get((genres, directors))
        if known is None:
            facts = {"genres": genres} | ({"directors": list(directors)} if directors else {})
            known = self._movies[genres, directors] = self._say(self._parts["movie"], facts, _first)
        return known

    def _say(self, sentence: Sentence, facts: Facts, choice: Choice) -> str:
        form = next((form for form in sentence if form.names <= facts.keys()), None)
        if form is None:
            return ""
        said = []
        for before, path, way in form.wordings[choice(form) if len(form.wordings) > 1 else 0]:
            said.append(before)
            if path:
                value: Any = facts
                for name in path:
                    value = value[name]
                said.append(self._put(value, way))
        return "".join(said)

    def _put(self, value: Any, way: str) -> str:
        if isinstance(value, list):
            name, _, joint = way.partition(" ")
            if not name:
                return listed(value)
            part = self._parts[name]
            first, others = value[0], value[1:]
            members = [self._say(part, first, _first)]
            return listed(members + [self._say(part, other, _last) for other in others], joint)
        if isinstance(value, dict):
            return self._say(self._parts[way], value, _first)
        if isinstance(value, tuple):
            movie = self._of_genres(value)
            if way == "one":
                return movie
            return f"{movie[:-1]}ies" if movie.endswith("y") else f"{movie}s"
        if way in self._levels:
            words, cuts = self._levels[way]
            return words[bisect_right(cuts, value)]
        if way in ("a", "A"):
            return f"{way}n {value}" if value[0] in "aeiou8" else f"{way} {value}"
        if way in ("kind", "offer"):
            return self._genre(value)[way]
        return format(value, way)

    def _of_genres(self, genres: tuple[str, ...]) -> str:
        if len(genres) > 2:
            kinds = [self._genre(genre)["kind"] for genre in genres]
            return self._phrases.mix.format(kinds=listed(kinds))
        noun = next((genre for genre in self._phrases.nouns if genre in genres), None)
        adjectives = [self._genre(genre)["adjective"] for genre in genres if genre != noun]
        return " ".join([*adjectives, self._genre(noun)["noun"] if noun else "movie"])

    def _genre(self, name: str) -> Mapping[str, str]:
        words = self._phrases.genres.get(name)
        if words is None:
            other = self._phrases.other_genre.items()
            words = {key: text.format(name=name.lower()) for key, text in other}
        return words


def listed(parts: Sequence[str], joint: str = "") -> str:
    """Parts as a list: "a", "a and b", "a, b and c"."""
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} {joint or 'and'} {parts[-1]}"


def _sentence(forms: Forms) -> Sentence:
    return tuple(_form(text) for text in ([forms] if isinstance(forms, str) else forms))


def _form(text: str) -> _Form:
    wordings = [
        tuple(
            _Field(before, tuple(name.split(".")) if name else (), way or "")
            for before, name, way, _ in Formatter().parse(wording.strip())
        )
        for wording in text.split(" | ")
    ]
    names = {field.path[0] for wording in wordings for field in wording if field.path}
    return _Form(text.encode(), frozenset(names), wordings)


def _first(form: _Form) -> int:
    return 0


def _last(form: _Form) -> int:
    return -1

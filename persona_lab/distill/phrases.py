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

import re
import zlib
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from string import Formatter
from typing import Any

from pydantic import PositiveInt

from persona_lab.component import component

# Facts by name; what is not known has no name here.
Facts = Mapping[str, Any]
Forms = str | Sequence[str]


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


def voice(seed: int, user_id: int) -> int:
    """One user's way of putting things: which wordings are taken."""
    return zlib.crc32(f"{seed} {user_id} ".encode())


Put = Callable[[Any], str]
# Texts, each with the name of the fact that follows it, of a fact within that one, and how it is
# put; names are "" where there is none.
Wording = list[tuple[str, str, str, Put]]


# Forms made ready: what a voice chooses by, the facts that it needs, and its wordings.
Sentence = list[tuple[bytes, frozenset[str], list[Wording]]]


class Writer:
    """Says facts in the words of `Phrases`, made ready once for many texts."""

    def __init__(self, phrases: Phrases) -> None:
        self._phrases = phrases
        self._genre, self._one = cache(self._genre), cache(self._one)
        self._parts = {name: self.sentence(forms) for name, forms in phrases.parts.items()}
        self._themes = {
            theme: [self.sentence(forms) for forms in sentences]
            for theme, sentences in phrases.profile.items()
        }
        self.reason, self.beside = self.sentence(phrases.reason), self.sentence(phrases.beside)
        self.feelings = [self.sentence(forms) for forms in phrases.feelings]

    def profile(self, facts: Facts, voice: int) -> str:
        """A whole profile, of at most `most_words` words where its expendable themes allow."""
        said = {
            theme: " ".join(filter(None, (self.say(each, facts, voice) for each in sentences)))
            for theme, sentences in self._themes.items()
        }
        text = " ".join(filter(None, said.values()))
        for theme in self._phrases.expendable:
            if len(text.split()) > self._phrases.most_words:
                said.pop(theme, None)
                text = " ".join(filter(None, said.values()))
        return text

    def say(self, sentence: Sentence, facts: Facts, voice: int, turn: int = 0) -> str:
        """A sentence in the user's wording, the next one at the next turn; "" if no form fits."""
        for place, names, wordings in sentence:
            if names <= facts.keys():
                return _said(wordings[(zlib.crc32(place, voice) + turn) % len(wordings)], facts)
        return ""

    def part(self, name: str, facts: Facts, wording: int = 0) -> str:
        """A part of a sentence; "" where no form's facts are known."""
        for _, names, wordings in self._parts[name]:
            if names <= facts.keys():
                return _said(wordings[wording], facts)
        return ""

    def sentence(self, forms: Forms) -> Sentence:
        """A sentence ready to be said."""
        ready = []
        for form in [forms] if isinstance(forms, str) else forms:
            wordings: list[Wording] = []
            for wording in form.split(" | "):
                wordings.append(fields := [])
                for before, path, way, _ in Formatter().parse(wording.strip()):
                    name, _, within = (path or "").partition(".")
                    fields.append((before, name, within, self._put(way or "")))
            names = {name for fields in wordings for _, name, _, _ in fields} - {""}
            ready.append((form.encode(), frozenset(names), wordings))
        return ready

    def _put(self, way: str) -> Put:
        """How a fact is put, by what follows the colon."""
        name, _, joint = way.partition(" ")
        if not way:
            return lambda value: listed(value) if isinstance(value, list) else str(value)
        if name in self._phrases.parts:
            return lambda value: self._members(name, value, joint)
        if level := self._phrases.levels.get(way):
            words, cuts = level[::2], level[1::2]
            return lambda value: str(words[bisect_right(cuts, value)])
        ways: dict[str, Put] = {
            "kind": lambda genre: self._genre(genre)["kind"],
            "offer": lambda genre: self._genre(genre)["offer"],
            "one": self._one,
            "many": lambda genres: re.sub("ys$", "ies", f"{self._one(genres)}s"),
            "a": _with_article,
            "A": lambda phrase: _with_article(phrase).capitalize(),
        }
        return ways.get(way) or f"{{:{way}}}".format

    def _members(self, part: str, value: Any, joint: str) -> str:
        if not isinstance(value, list):
            return self.part(part, value)
        first, others = value[:1], value[1:]
        texts = [self.part(part, member) for member in first]
        return listed(texts + [self.part(part, member, -1) for member in others], joint)

    def _one(self, genres: tuple[str, ...]) -> str:
        """A movie of these genres."""
        if len(genres) > 2:
            kinds = listed([self._genre(genre)["kind"] for genre in genres])
            return self._phrases.mix.format(kinds=kinds)
        noun = next((genre for genre in self._phrases.nouns if genre in genres), None)
        adjectives = [self._genre(genre)["adjective"] for genre in genres if genre != noun]
        return " ".join([*adjectives, self._genre(noun)["noun"] if noun else "movie"])

    def _genre(self, genre: str) -> Mapping[str, str]:
        other = self._phrases.other_genre.items()
        words = {name: text.format(name=genre.lower()) for name, text in other}
        return self._phrases.genres.get(genre, words)


def listed(parts: Sequence[str], joint: str = "") -> str:
    """Parts as a list: "a", "a and b", "a, b and c"."""
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} {joint or 'and'} {parts[-1]}"


def _said(wording: Wording, facts: Facts) -> str:
    said = ""
    for before, name, within, put in wording:
        said += before
        if name:
            said += put(facts[name][within] if within else facts[name])
    return said


def _with_article(phrase: str) -> str:
    return f"an {phrase}" if phrase[0] in "aeiou8" else f"a {phrase}"

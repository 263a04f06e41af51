"""A profile and a batch of movies in, the two messages of a call out. Pure.

The first message, the instruction, is the same for all users and batches of one kind of call; the
second holds what is known. Texts of users and movies stand between tags that no such text can
write, each on one line and cut to a length, so that a title stays a title whatever it says.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from persona_lab.component import component
from persona_lab.data import Scale
from persona_lab.distill.phrases import listed
from persona_lab.distill.taste import split_genres
from persona_lab.distill.titles import natural_title

# Longest texts that a prompt shows, in characters; a catalogue's are far below.
_LONGEST = {"title": 200, "genres": 200, "director": 200, "cast": 400, "summary": 1000}
_LONGEST_PROFILE = 20_000


@component
class Prompts:
    """The words of the calls (conf/distiller/prompts/).

    Attributes:
        version: Of the texts; part of each call's purpose.
        setting: Who the LLM is, what is data, and the scale: {numbers}, {low}, {high} and {scale},
            which says what each of its values means.
        predict: Asks for the ratings of movies unseen.
        rated: Shows movies with their ratings.
        explain: Asks for "about" and "because" of each movie; left out without enriched texts.
        insight: Asks for "insight"; left out without reflection.
        rewrite: Asks for "profile", as reflection makes it.
        extend: Asks for "profile", where there is no reflection.
        profile: What a profile is; {max_words}.
        answer: The form of the reply; {form}.
        no_profile: Stands in place of a profile before the first.
        movie: Lines on a movie by what they tell, {value}: title, year, genres, director, cast,
            summary, mean, predicted, rating.
    """

    version: int
    setting: str
    predict: str
    rated: str
    explain: str
    insight: str
    rewrite: str
    extend: str
    profile: str
    answer: str
    no_profile: str
    movie: Mapping[str, str]

    def instruction(self, scale: Scale, form: Mapping[str, Any], *texts: str) -> str:
        """The first message: the setting, the texts that are not "", and the form of the answer."""
        whole = all(float(label).is_integer() for label in scale.labels)
        meanings = [
            f"{label} that I {re.sub('^are ', 'am ', words)}"
            for label, words in zip(scale.labels, scale.words, strict=True)
        ]
        explained = listed(meanings).replace(" that", " means that", 1)
        values = {
            "{numbers}": "whole numbers" if whole else "numbers",
            "{low}": scale.labels[0],
            "{high}": scale.labels[-1],
            "{scale}": re.sub(r"\bit\b", "the movie", explained, count=1),
        }
        setting = self.setting
        for name, value in values.items():
            setting = setting.replace(name, value)
        answer = self.answer.replace("{form}", json.dumps(form))
        return "\n\n".join(filter(None, (setting, *texts, answer)))

    def known(self, profile: str, movies: Iterable[Mapping[str, Any]]) -> str:
        """The second message: the profile, "" where there is none yet, and the movies.

        Args:
            profile: In the LLM's words.
            movies: Each with some of the keys of `movie`; missing values are left out.
        """
        shown = "\n".join(
            f"<movie_{n}>\n{self._movie(movie)}\n</movie_{n}>" for n, movie in enumerate(movies, 1)
        )
        own = _data(profile, _LONGEST_PROFILE) if profile else self.no_profile
        return f"<profile>\n{own}\n</profile>\n<movies>\n{shown}\n</movies>"

    def _movie(self, movie: Mapping[str, Any]) -> str:
        values = {name: _value(name, movie.get(name)) for name in self.movie}
        return "\n".join(
            self.movie[name].replace("{value}", value) for name, value in values.items() if value
        )


def _data(text: str, longest: int) -> str:
    """A text as data: on one line, without what opens or closes a tag, cut to a length."""
    return re.sub(r"\s+", " ", text).strip().replace("<", "‹").replace(">", "›")[:longest]


def _value(name: str, value: Any) -> str:
    if value is None or pd.isna(value):
        return ""
    if name == "title":
        value = natural_title(value)
    elif name == "genres":
        value = ", ".join(split_genres(value))
    elif name == "mean":
        value = f"{value:.2f}"
    return _data(str(value), _LONGEST.get(name, 20))

"""Profile, traits, recalled memories and a movie -> a prompt in titled sections.

The words are the fields of `Template`, filled from conf/prompt/; their structure is that of the
paper's Appendix C. Pure.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from string import Formatter
from typing import Any, Literal, get_args

import pandas as pd

from persona_lab.component import component
from persona_lab.data import Scale
from persona_lab.distill.taste import split_genres
from persona_lab.errors import UserError

Role = Literal["system", "user"]
Part = Literal["profile", "traits", "memories"]

TRAITS = ("activity", "conformity", "diversity")

_ORDERS = {
    "paper": "persona traits profile traits_explained memories task movie rating",
    "static_first": "persona traits_explained task traits profile memories movie rating",
}
_ON_SCALE = {"low", "high", "scale"}
_PLACEHOLDERS = {
    **{name: {name} for name in ("year", "genres", "mean", "summary", "cast")},
    "memories": {"mean_explained"},
    "memory": {"movie", "summary", "text"},
    "movie": {"title", "year", "genres", "mean"},
    "mean_unknown": {"mean"},
    "task": _ON_SCALE,
    "rating": _ON_SCALE,
}
_CACHED = 20_000
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True)
class Section:
    """One titled part of a prompt.

    Attributes:
        name: What it is: persona, traits, profile, memories, task, movie ...
        role: Whose message it belongs to.
        head: Its text, or what stands before its units.
        units: What a budget may drop one by one: memories in order of similarity, a profile's
            sentences from oldest to newest. None where the section is never shortened.
        joint: What stands between the head and the units.
        none: What stands in place of the units when there is none; the section vanishes if empty.
    """

    name: str
    role: Role
    head: str
    units: tuple[str, ...] | None = None
    joint: str = " "
    none: str = ""

    @property
    def text(self) -> str:
        """The section as the model reads it; empty where there is nothing to say."""
        if self.units is None:
            return self.head
        units = self.units or ((self.none,) if self.none else ())
        return self.joint.join((self.head, *units)) if units else ""


@dataclass(frozen=True)
class Prompt:
    """Sections in reading order, those of the system message first."""

    sections: tuple[Section, ...]


@component
class Template:
    """The words of a prompt (paper, Appendix C) and which of a user's parts it shows.

    Texts may name the placeholders given in braces; line breaks of a text stay, other runs of
    white space become one space.

    Attributes:
        persona: Introduction of the role play.
        traits: Texts of activity, conformity and diversity, each for the tiers 0, 1 and 2.
        traits_explained: What the three traits mean.
        profile: What stands before the profile's sentences.
        memories: What stands before the recalled memories; {mean_explained}.
        mean_explained: What an average is; empty where movies are shown without it.
        memory: One recalled memory: {movie}, {summary}, {text}.
        no_memories: Stands in place of memories where none was recalled.
        task: The question and the scale: {low} and {high} are its ends, {scale} says what each
            value means.
        movie: {title}, then {year}, {genres} and {mean}: the four texts below, empty if unknown.
        year: {year}.
        genres: {genres}.
        mean: {mean}, the historical average rating.
        mean_unknown: {mean} of all movies, for a movie that nobody rated before.
        summary: {summary}: the plot, then `cast`; left out where both are unknown.
        cast: {cast}.
        rating: Last words, after which the rating stands; may name what `task` may.
        order: `paper` puts the task after the memories; `static_first` puts what is the same for
            all rows before what varies (decision 29).
        show: Which of profile, traits and memories a prompt may show.
    """

    persona: str
    traits: Mapping[str, Sequence[str]]
    traits_explained: str
    profile: str
    memories: str
    mean_explained: str
    memory: str
    no_memories: str
    task: str
    movie: str
    year: str
    genres: str
    mean: str
    mean_unknown: str
    summary: str
    cast: str
    rating: str
    order: Literal["paper", "static_first"]
    show: Sequence[Part]

    def __post_init__(self) -> None:
        tiers = {trait: len(texts) for trait, texts in self.traits.items()}
        if tiers != dict.fromkeys(TRAITS, 3):
            raise UserError(
                f"prompt.traits has the texts {tiers}", f"give three each for {', '.join(TRAITS)}"
            )
        for name, allowed in _PLACEHOLDERS.items():
            try:
                parts = Formatter().parse(getattr(self, name))
                named = {part for _, part, _, _ in parts if part is not None}
            except ValueError as error:
                raise UserError(f"prompt.{name}: {error}", "write {{ or }} for a brace") from error
            if unknown := sorted(named - allowed):
                raise UserError(
                    f"prompt.{name} names {{{'}, {'.join(unknown)}}}",
                    f"it may name {{{'}, {'.join(sorted(allowed))}}}",
                )

    @property
    def shows_mean(self) -> bool:
        """Whether a prompt tells movies' average ratings."""
        return "{mean}" in self.movie

    @property
    def departures(self) -> list[str]:
        """In what it departs from the paper's prompt, each in a few words."""
        hidden = [f"no {part} in the prompt" for part in get_args(Part) if part not in self.show]
        no_mean = [] if self.shows_mean else ["no average rating in the prompt"]
        reordered = [] if self.order == "paper" else [f"sections in the order {self.order}"]
        return [*hidden, *no_mean, *reordered]

    def render(
        self,
        *,
        profile: str | None,
        traits: Sequence[int] | None,
        memories: Sequence[tuple[Mapping[str, Any], str]] | None,
        movie: Mapping[str, Any],
        scale: Scale,
    ) -> Prompt:
        """Lay out one prompt.

        Args:
            profile: The user's profile; None where it is not to be shown.
            traits: Tiers 0 to 2 of activity, conformity and diversity; None likewise.
            memories: Pairs of a recalled movie and its enriched interaction, most similar first;
                None where memories are not to be shown, empty where none was recalled.
            movie: The movie to rate: title and, where known, year, genres ("Comedy|Crime"),
                summary, cast, mean, mean_known.
            scale: The ratings to choose from.

        Returns:
            The prompt. Without profile and traits its system message is the task alone
            (decision 25).
        """
        parts: dict[str, Any] = {"profile": profile, "traits": traits, "memories": memories}
        shown = {part: parts[part] for part in self.show if parts[part] is not None}
        sections: list[Section] = []

        def add(name: str, role: Role, text: str, **more: Any) -> None:
            sections.append(Section(name, role, _tidy(text), **more))

        about_user = "profile" in shown or "traits" in shown
        if about_user:
            add("persona", "system", self.persona)
        if "profile" in shown:
            add("profile", "system", self.profile, units=_sentences(shown["profile"]))
        if "traits" in shown:
            tiers = zip(TRAITS, shown["traits"], strict=True)
            add("traits", "system", " ".join(self.traits[name][int(tier)] for name, tier in tiers))
            add("traits_explained", "system", self.traits_explained)
        if "memories" in shown:
            explained = self.mean_explained if _field(movie, "mean") else ""
            texts = []
            for about, text in shown["memories"]:
                head, plot = self._movie(about)
                text = self.memory.format(movie=head, summary=plot, text=_line(text))
                texts.append(_tidy(text))
            head, none = self.memories.format(mean_explained=explained), _tidy(self.no_memories)
            add("memories", "user", head, units=tuple(texts), joint="\n", none=none)
        values = {"low": scale.labels[0], "high": scale.labels[-1], "scale": scale.explained}
        task_role = "user" if about_user and self.order == "paper" else "system"
        add("task", task_role, self.task.format(**values))
        head, plot = self._movie(movie)
        add("movie", "user", f"{head}\n{self.summary.format(summary=plot)}" if plot else head)
        add("rating", "user", self.rating.format(**values))
        order = _ORDERS[self.order].split()
        sections.sort(key=lambda section: (section.role == "user", order.index(section.name)))
        return Prompt(tuple(sections))

    def _movie(self, movie: Mapping[str, Any]) -> tuple[str, str]:
        """A movie's line, and what is known of its plot and cast."""
        year, mean = _field(movie, "year"), _field(movie, "mean")
        genres = ", ".join(_line(genre) for genre in split_genres(_field(movie, "genres")))
        mean_text = self.mean if movie.get("mean_known", True) else self.mean_unknown
        line = self.movie.format(
            title=_line(movie["title"]),
            year=self.year.format(year=int(year)) if year else "",
            genres=self.genres.format(genres=genres) if genres else "",
            mean=mean_text.format(mean=mean) if mean else "",
        )
        cast = _line(_field(movie, "cast").replace("|", ", "))
        parts = (_line(_field(movie, "summary")), self.cast.format(cast=cast) if cast else "")
        return _tidy(line), " ".join(filter(None, parts))


def _field(movie: Mapping[str, Any], name: str) -> Any:
    value = movie.get(name)
    return "" if pd.isna(value) else value


def _line(text: str) -> str:
    # Foreign text stays on its line: a line break in it could pass for a section of the prompt.
    return " ".join(text.split())


@lru_cache(maxsize=_CACHED)
def _tidy(text: str) -> str:
    return "\n".join(_line(line) for line in text.strip().split("\n"))


@lru_cache(maxsize=_CACHED)
def _sentences(text: str) -> tuple[str, ...]:
    line = _line(text)
    return tuple(_SENTENCE_END.split(line)) if line else ()

"""Movies in, an LLM's summary, cast and director of each out, as a source of movie texts.

What an LLM does not know it is told to leave empty; nothing that it writes is more than text.
"""

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pandas as pd
from pydantic import BaseModel, ValidationError

from persona_lab.component import component
from persona_lab.data import Cost
from persona_lab.distill.chat import TOKENS_PER_WORD, Chat, Conversation, Request
from persona_lab.sources import Sources

_log = logging.getLogger(__name__)

_ASKED = 3
# Of an answer, for the estimate.
_USUAL_WORDS = 70
# Longest texts that are kept, in characters.
_LONGEST = {"summary": 1000, "cast": 400, "director": 200}


class Known(BaseModel, extra="forbid"):
    """What an LLM says of a movie; several people are separated by commas."""

    summary: str
    cast: str
    director: str


@component
class LlmMovieInfo:
    """Texts that an LLM knows of movies, one call for each (the paper's prompts show such).

    Attributes:
        chat: What answers.
        prompt: What it is told, the same for all movies; it names the form of the answer.
        movie: Line on the movie, with {title}, {year} and {genres}.
        version: Of the prompt; part of each call's purpose.
    """

    chat: Chat
    prompt: str
    movie: str
    version: int

    def read(self, movies: pd.DataFrame, sources: Sources) -> tuple[pd.DataFrame, Cost]:
        """Texts from the LLM (see `MovieInfo`); empty ones where no reply has the form asked for.

        Raises:
            UserError: The LLM cannot be reached or may not be paid.
        """
        talks = [self._talk(movie) for movie in movies.to_dict("records")]
        tokens_in = round(TOKENS_PER_WORD * len(talks) * len(f"{self.prompt} {self.movie}".split()))
        tokens_out = round(TOKENS_PER_WORD * len(talks) * _USUAL_WORDS)
        _log.info(
            f"movie_info: {len(talks)} movies take as many calls, about {tokens_in} tokens in and "
            f"{tokens_out} out, money {self.chat.price(tokens_in, tokens_out):.2f}"
        )
        told, costs = zip(*self.chat.converse(talks, sources, len(talks)), strict=True)
        texts = pd.DataFrame(told, index=movies.index)
        n_told = (texts["summary"] != "").sum()
        _log.info("movie_info: %d of %d movies have a summary", n_told, len(texts))
        return movies[["item_id"]].join(texts), sum(costs, Cost())

    def fingerprint(self, sources: Sources) -> str:
        """That of the LLM."""
        return self.chat.fingerprint(sources)

    def _talk(self, movie: Mapping[Any, Any]) -> Conversation[tuple[dict[str, str], Cost]]:
        shown = self.movie
        for name in ("title", "year", "genres"):
            value = "unknown" if pd.isna(movie[name]) else str(movie[name])
            shown = shown.replace(f"{{{name}}}", " ".join(value.split())[:200])
        messages, cost = (("system", self.prompt), ("user", shown)), Cost()
        for sample in range(_ASKED):
            reply = yield Request(messages, Known, f"movie v{self.version}", sample, 400)
            cost += reply.cost
            # A server without schemas may write words around the object.
            start, end = reply.text.find("{"), reply.text.rfind("}") + 1
            with suppress(ValidationError):
                known = vars(Known.model_validate_json(reply.text[start:end]))
                return {k: " ".join(known[k].split())[:n] for k, n in _LONGEST.items()}, cost
        return dict.fromkeys(_LONGEST, ""), cost

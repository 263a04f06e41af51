"""Requests in, replies of an OpenAI-compatible server out, through the ledger. Needs the network.

The component that is configured: what is asked in which form, what an answer says and what it
costs. A `Desk` asks.
"""

import asyncio
import base64
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

import numpy as np
from pydantic import BaseModel, Field, PositiveFloat, PositiveInt

from persona_lab.cache import NotAtHand
from persona_lab.component import component, neutral
from persona_lab.data import Cost
from persona_lab.distill.chat import (
    TOKENS_PER_WORD,
    Conversation,
    Reply,
    Request,
    converse_in_rounds,
)
from persona_lab.distill.client import KEY
from persona_lab.distill.desk import Desk
from persona_lab.distill.ledger import Attempt, Call, Ledger
from persona_lab.errors import UserError
from persona_lab.sources import Sources

_log = logging.getLogger(__name__)

# Of one call of embeddings.
_TEXTS = 64
# A message's frame beside its words; a token has at least one byte.
_TOKENS_OF_MESSAGE = 10

T = TypeVar("T")


@component
class OpenAI:
    """A model behind OpenAI's protocol: theirs, vLLM, Ollama, llama.cpp, transformers serve.

    Attributes:
        model: Its name there.
        base_url: Where the server is; the key is read from OPENAI_API_KEY, which a server on this
            machine does not need.
        parameters: Further fields of each request, such as {seed: 0}.
        prices: Of a million tokens by model: {input, cached, output}.
        batch_discount: Share of the price that a batch saves.
        budget: What the calls of one stage may cost, those already paid for included; None for
            any amount. Nothing is sent that could pass it; a higher one goes on where it ended.
        mode: "sync", or "batch": all open requests in one batch, cheaper and slower.
        concurrency: Most calls in flight.
        timeout: Seconds that one attempt may take.
        max_attempts: Attempts at one call before a run ends.
        poll_seconds: Time between looks at a batch.
    """

    model: str
    base_url: str
    parameters: Mapping[str, Any]
    prices: Mapping[str, Mapping[str, float]] = neutral()
    batch_discount: Annotated[float, Field(ge=0, le=1)] = neutral()
    budget: float | None = neutral()
    mode: Literal["sync", "batch"] = neutral()
    concurrency: PositiveInt = neutral()
    timeout: PositiveFloat = neutral()
    max_attempts: PositiveInt = neutral()
    poll_seconds: PositiveFloat = neutral()

    def __post_init__(self) -> None:
        where = urlsplit(self.base_url)
        if "@" in where.netloc or where.query:
            mend = f"leave them out of the address, and export {KEY}=<the key>"
            raise UserError("base_url holds credentials or a query", mend)
        if self.budget is not None and self.model not in self.prices:
            mend = f"give prices.{self.model}, or leave out the budget"
            raise UserError(f"a budget is set, and {self.model} has no price", mend)

    def converse(
        self,
        conversations: Iterable[Conversation[T]],
        sources: Sources,
        expected: int | None = None,
    ) -> list[T]:
        """Carry conversations to their ends (see `Chat`)."""
        talks = list(conversations)

        async def one(desk: Desk, talk: Conversation[T]) -> T:
            try:
                request = next(talk)
                while True:
                    request = talk.send(_reply(await desk.ask(self._question(request))))
            except StopIteration as end:
                return end.value

        with self._desk(sources, expected) as desk:
            if self.mode == "sync":
                return desk.run(desk.all(one(desk, talk) for talk in talks))

            def answer(requests: Sequence[Request]) -> list[Reply]:
                return [*map(_reply, desk.run(desk.ask_all([*map(self._question, requests)])))]

            return converse_in_rounds(talks, answer)

    def embed(self, texts: Sequence[str], sources: Sources) -> tuple[np.ndarray, Cost]:
        """Vectors of texts as the server gives them, float32 of shape (n_texts, dim); their cost.

        Raises:
            UserError: The server cannot be reached or may not be paid, takes no such texts, or
                gives other than one vector for each.
        """
        parts = [texts[start : start + _TEXTS] for start in range(0, len(texts), _TEXTS)]
        calls = [
            self._call("embeddings", "embed/1", {"input": list(part), "encoding_format": "base64"})
            for part in parts
        ]
        tokens = round(TOKENS_PER_WORD * sum(len(text.split()) for text in texts))
        _log.info(
            "vectors of %d texts take %d calls, about %d tokens, money %.2f",
            *(len(texts), len(calls), tokens, self.price(tokens, 0)),
        )
        with self._desk(sources, len(calls)) as desk:
            answers = desk.run(desk.ask_all(calls))
        pairs = zip(parts, answers, strict=True)
        vectors = np.stack([row for part, answer in pairs for row in self._vectors(part, answer)])
        costs = (Cost(1, each.tokens_in, each.tokens_out, each.money) for each in answers)
        return vectors, sum(costs, Cost())

    def _vectors(self, texts: Sequence[str], answer: Attempt) -> list[np.ndarray]:
        """The vectors of an answer in the order of its texts: servers may give them in another."""
        rows = json.loads(answer.body)["data"]
        places = [row.get("index", place) for place, row in enumerate(rows)]
        if len(places) != len(texts) or set(places) != set(range(len(texts))):
            told = f"{self.model} must give vectors 0 to {len(texts) - 1}, one of each text"
            raise UserError(f"{told}, and gave {places}", "name another model or base_url")
        return [_vector(rows[places.index(place)]["embedding"]) for place in range(len(texts))]

    def price(self, tokens_in: int, tokens_out: int) -> float:
        """Price of tokens, none of them cached, in the mode chosen; 0 where none is known."""
        return self.money(tokens_in, 0, tokens_out, batch=self.mode == "batch")

    def money(self, tokens_in: int, tokens_cached: int, tokens_out: int, *, batch: bool) -> float:
        """Price of an answer; `tokens_cached` of `tokens_in` come from the server's cache."""
        price = self.prices.get(self.model, {})
        full = price.get("input", 0.0)
        paid = (tokens_in - tokens_cached) * full + tokens_cached * price.get("cached", full)
        paid += tokens_out * price.get("output", 0.0)
        return paid / 1e6 * (1 - self.batch_discount * batch)

    def fingerprint(self, sources: Sources) -> str:
        """A constant: who owns the server says what it answers."""
        return "openai"

    @contextmanager
    def _desk(self, sources: Sources, expected: int | None) -> Iterator[Desk]:
        if sources.offline:
            raise NotAtHand(f"{self.model} would have to be asked", "run it without task=plan")
        with Ledger(sources.ledger) as ledger, asyncio.Runner() as runner:
            desk = Desk(self, ledger, runner, expected)
            try:
                yield desk
            finally:
                runner.run(desk.client.close())

    def _call(self, route: str, purpose: str, body: Mapping[str, Any], **other: Any) -> Call:
        body = {"model": self.model, **body, **self.parameters}
        request = {"base_url": self.base_url, "route": route, "purpose": purpose, "body": body}
        size = len(json.dumps([body, other.get("schema")]).encode())
        tokens = size + _TOKENS_OF_MESSAGE * len(body.get("messages", ()))
        at_most = self.price(tokens, body.get("max_tokens", 0))
        return Call(purpose, self.model, {**request, **other}, at_most)

    def _question(self, request: Request) -> Call:
        body = {
            "messages": [{"role": role, "content": text} for role, text in request.messages],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
        }
        schema = request.schema and _strict(request.schema)
        return self._call("chat", request.purpose, body, schema=schema, sample=request.sample)


@cache
def _strict(form: type[BaseModel]) -> dict[str, Any]:
    return {"name": form.__name__, "strict": True, "schema": form.model_json_schema()}


def _reply(answer: Attempt) -> Reply:
    choice = json.loads(answer.body)["choices"][0]
    refusal = choice["message"].get("refusal")
    text = refusal or choice["message"].get("content") or ""
    refused = bool(refusal) or choice.get("finish_reason") == "content_filter"
    return Reply(text, refused, answer.tokens_in, answer.tokens_out, answer.money)


def _vector(embedding: str | list[float]) -> np.ndarray:
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding), dtype="<f4").astype(np.float32)
    return np.asarray(embedding, dtype=np.float32)

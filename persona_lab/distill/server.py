"""Requests in, replies of an OpenAI-compatible server out, through the ledger. Needs the network.

Every attempt at a call is in the ledger before anyone reads of it, and a batch before the server
knows it, so that nobody asks again what was asked.
"""

import asyncio
import base64
import itertools
import json
import logging
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar
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
from persona_lab.distill.client import AGAIN, KEY, ROUTES, Client, Failed, usage
from persona_lab.distill.ledger import Attempt, Call, Claim, Ledger
from persona_lab.errors import UserError
from persona_lab.sources import Sources

if TYPE_CHECKING:
    import openai

_log = logging.getLogger(__name__)

# Of one call of embeddings.
_TEXTS = 64
# A message's frame beside its words; a token has at least one byte.
_TOKENS_OF_MESSAGE = 10
_PROGRESS_SECONDS = 15.0
_OTHER_JOB_SECONDS = 0.2
_BATCHES_OF_A_CALL = 3
_BATCH_ENDS = ("completed", "failed", "expired", "cancelled")

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

        async def one(desk: _Desk, talk: Conversation[T]) -> T:
            try:
                request = next(talk)
                while True:
                    request = talk.send(_reply(await desk.ask(self._question(request))))
            except StopIteration as end:
                return end.value

        with self._desk(sources, expected) as desk:
            if self.mode == "sync":
                return desk.runner.run(desk.all(one(desk, talk) for talk in talks))

            def answer(requests: Sequence[Request]) -> list[Reply]:
                calls = [self._question(request) for request in requests]
                return [_reply(answer) for answer in desk.runner.run(desk.ask_all(calls))]

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
            answers = desk.runner.run(desk.ask_all(calls))
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
    def _desk(self, sources: Sources, expected: int | None) -> Iterator["_Desk"]:
        if sources.offline:
            raise NotAtHand(f"{self.model} would have to be asked", "run it without task=plan")
        with Ledger(sources.ledger) as ledger, asyncio.Runner() as runner:
            client, budget = Client(self), _Budget(self.budget, self.model, expected)
            try:
                yield _Desk(self, ledger, runner, client, budget)
            finally:
                runner.run(client.close())

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


@dataclass(frozen=True)
class _Desk:
    """What one job has in flight."""

    server: OpenAI
    ledger: Ledger
    runner: asyncio.Runner
    client: Client
    budget: "_Budget"

    async def all(self, work: Iterable[Awaitable[T]]) -> list[T]:
        """Results in order; at an error, what is in flight is still waited for and kept."""
        results = await asyncio.gather(*work, return_exceptions=True)
        self.budget.tell(last=True)
        errors = [result for result in results if isinstance(result, BaseException)]
        # An error of ours comes before what the user can mend.
        for error in sorted(errors, key=lambda error: isinstance(error, UserError)):
            raise error
        return results  # type: ignore[return-value]

    async def ask(self, call: Call) -> Attempt:
        client = await self.client.free.get()
        try:
            while not (claim := await self._claim(call)).ours:
                if claim.answer is not None:
                    return self.budget.count(claim.answer, reused=True)
                if claim.batch is not None:
                    await self._collect(claim.batch)
                else:
                    await self.client.wait(_OTHER_JOB_SECONDS)
            try:
                answer = await self.client.retry(lambda: self._send(call, client))
            except BaseException:
                # Nobody may be left to wait for it when the job is being ended.
                self.ledger.hand([call.key])
                raise
            return self.budget.count(answer, reused=False)
        finally:
            self.client.free.put_nowait(client)

    async def ask_all(self, calls: Sequence[Call]) -> list[Attempt]:
        """Answers of calls, in order; in the mode `batch` by way of the server's batches."""
        if self.server.mode == "sync":
            return await self.all(map(self.ask, calls))
        answers: dict[str, Attempt] = {}
        tries: Counter[str] = Counter()
        while missing := {call.key: call for call in calls if call.key not in answers}:
            claims = {key: await self._claim(call) for key, call in missing.items()}
            for key, claim in claims.items():
                if claim.answer is not None:
                    answers[key] = self.budget.count(claim.answer, reused=key not in tries)
            batches = {claim.batch for claim in claims.values() if claim.batch is not None}
            if ours := [missing[key] for key, claim in claims.items() if claim.ours]:
                covered = self.budget.cover(ours)
                tries.update(call.key for call in covered)
                if max(tries.values()) > _BATCHES_OF_A_CALL:
                    raise UserError(f"{self.server.model} fails calls of its batches", AGAIN)
                await self.ledger.hand({call.key for call in ours} - {call.key for call in covered})
                batches.add(await self._submit(covered))
            for batch in batches:
                await self._collect(batch)
            if not batches and missing.keys() - answers.keys():
                await self.client.wait(_OTHER_JOB_SECONDS)
        self.budget.tell(last=True)
        return [answers[call.key] for call in calls]

    async def _claim(self, call: Call) -> Claim:
        if self.client.stopped is not None:
            raise self.client.stopped
        claim = await self.ledger.claim(call)
        self.budget.lose(call.key, in_all=claim.lost)
        return claim

    async def _send(self, call: Call, client: "openai.AsyncOpenAI") -> Attempt:
        """One attempt at a call; it too must be covered, since a lost one has used up its share."""
        async with self.budget.hold(call.at_most):
            await self.client.turn()
            start = time.monotonic()
            try:
                body = await self.client.post(call.request, client)
                tokens = usage(call.request["route"], body)
            except (Failed, asyncio.CancelledError) as error:
                # The job may end; the server may answer, and bill, all the same.
                failed = error if isinstance(error, Failed) else Failed("cancelled", lost=True)
                money = call.at_most * failed.lost
                self.budget.lose(call.key, more=money)
                seconds = time.monotonic() - start
                attempt = Attempt(failed.outcome, failed.body, money=money, seconds=seconds)
                await self.ledger.record(call.key, attempt)
                raise
            return await self._keep(call.key, body, tokens, time.monotonic() - start)

    async def _keep(
        self, key: str, body: str, tokens: dict[str, int], seconds: float, *, batch: bool = False
    ) -> Attempt:
        """Put an answer and its cost into the ledger; of two answers to a call the first stays."""
        money = self.server.money(**tokens, batch=batch)
        body = self.client.clean(body, longest=None)
        attempt = Attempt("answered", body, **tokens, money=money, seconds=seconds)
        return await self.ledger.record(key, attempt)

    async def _submit(self, calls: Sequence[Call]) -> str:
        """Hand calls to a new batch; the ledger knows its token before the server."""
        api, token = self.client.api, f"{self.ledger.owner}-{uuid.uuid4().hex}"
        url: Any = f"/v1{ROUTES[calls[0].request['route']]}"
        bodies = {call.key: self.client.body(call.request) for call in calls}
        lines = [
            json.dumps({"custom_id": key, "method": "POST", "url": url, "body": body})
            for key, body in bodies.items()
        ]
        upload = (f"persona_lab-{token}.jsonl", "\n".join(lines).encode())
        file = await self.client.surely(lambda: api.files.create(file=upload, purpose="batch"))
        await self.ledger.hand(bodies, to=token)
        tries = itertools.count()

        async def create() -> str:
            # A first try may have come through although its answer did not.
            if next(tries) and (known := await self._search(token)):
                return known
            told: Any = {"completion_window": "24h", "metadata": {"persona_lab": token}}
            return (await api.batches.create(input_file_id=file.id, endpoint=url, **told)).id

        name = await self.client.surely(create)
        await self.ledger.hand(bodies, token, to=f"{token} {name}")
        _log.info("batch %s: %d calls", name, len(calls))
        return f"{token} {name}"

    async def _collect(self, batch: str) -> None:
        """Wait for a batch, whoever submitted it, and keep its answers; free what has none."""
        api = self.client.api
        token, _, name = batch.partition(" ")
        while True:
            lives, keys = await self.ledger.batch(batch)
            if not keys:
                return
            if not name and not lives:
                # Its submitter was killed between the server's answer and the ledger, or before.
                name = await self.client.surely(lambda: self._search(token))
                if name is None:
                    await self.ledger.hand(keys, batch)
                    return
            if name:
                state = await self.client.surely(partial(api.batches.retrieve, name))
                if state.status in _BATCH_ENDS:
                    break
            await self.client.wait(self.server.poll_seconds)
        for file in filter(None, (state.output_file_id, state.error_file_id)):
            content = await self.client.surely(partial(api.files.content, file))
            # Unlike `splitlines`: texts may hold other ends of lines.
            for line in filter(str.strip, content.text.split("\n")):
                await self._keep_line(line)
        await self.ledger.hand(keys, batch)
        if state.status == "failed":
            told = self.client.clean(str(state.errors))
            raise UserError(f"the server refused a batch: {told}", "mode=sync asks one by one")

    async def _keep_line(self, line: str) -> None:
        try:
            row = json.loads(line)
            key, response = str(row["custom_id"]), row.get("response") or {}
            status, body = response.get("status_code"), response.get("body")
            route = "embeddings" if "data" in (body or {}) else "chat"
        except (LookupError, ValueError, TypeError, AttributeError, RecursionError):
            # The other lines are paid for: they are kept, and this one's call is asked again.
            _log.warning("a line of a batch cannot be read: %s", self.client.clean(line))
            return
        text = json.dumps(body)
        try:
            if status != 200:
                raise Failed(f"batch: status {status}", body=text[:500])
            await self._keep(key, text, usage(route, text), 0.0, batch=True)
        except Failed as failed:
            await self.ledger.record(key, Attempt(failed.outcome, self.client.clean(failed.body)))

    async def _search(self, token: str) -> str | None:
        async for batch in self.client.api.batches.list(limit=100):
            if (batch.metadata or {}).get("persona_lab") == token:
                return batch.id
        return None


class _Budget:
    """What the calls of one job may cost, what they have cost, whenever they were paid for, and how
    it goes."""

    def __init__(self, limit: float | None, model: str, expected: int | None) -> None:
        self._limit = float("inf") if limit is None else limit
        self._model, self._expected = model, expected
        self._spent = self._aside = self._paid = 0.0
        # What attempts at a call may have cost for nothing, by its key.
        self._lost: defaultdict[str, float] = defaultdict(float)
        self._calls = self._reused = self._tokens = 0
        self._change = asyncio.Condition()
        self._start = self._told = time.monotonic()

    @asynccontextmanager
    async def hold(self, money: float) -> AsyncIterator[None]:
        """Set money aside for what is sent; wait while what is in flight may need it."""
        async with self._change:
            while self._spent + self._aside + money > self._limit:
                if self._aside == 0:
                    raise self._end(money)
                await self._change.wait()
            self._aside += money
        try:
            yield
        finally:
            async with self._change:
                # What floats leave over must not keep a budget from ending.
                self._aside = round(self._aside - money, 12)
                self._change.notify_all()

    def cover(self, calls: Sequence[Call]) -> Sequence[Call]:
        """As many calls, the cheapest first, as it surely covers; at least one."""
        calls = sorted(calls, key=lambda call: call.at_most)
        sums = itertools.accumulate(call.at_most for call in calls)
        covered = calls[: sum(total <= self._limit - self._spent for total in sums)]
        if not covered:
            raise self._end(calls[0].at_most)
        return covered

    def _end(self, money: float) -> UserError:
        return UserError(
            f"the budget of {self._limit:g} ends here: {self._spent:.4f} are spent, and "
            f"the next call may cost {money:.4f}",
            "raise the budget and run the same command: it goes on from here",
        )

    def lose(self, key: str, *, in_all: float = 0.0, more: float = 0.0) -> None:
        """Count what attempts at a call may have cost for nothing."""
        lost = max(in_all, self._lost[key] + more)
        self._spent += lost - self._lost[key]
        self._lost[key] = lost

    def count(self, answer: Attempt, *, reused: bool) -> Attempt:
        self._spent += answer.money
        self._paid += 0 if reused else answer.money
        self._calls += 1
        self._reused += reused
        self._tokens += answer.tokens_in + answer.tokens_out
        if time.monotonic() - self._told > _PROGRESS_SECONDS:
            self.tell()
        return answer

    def tell(self, *, last: bool = False) -> None:
        """Say what is done and paid and, unless it is the last word, how long it will take."""
        self._told = time.monotonic()
        made = self._calls - self._reused
        of = left = ""
        if self._expected and not last:
            of = f" of about {self._expected:,}"
            minutes = (self._told - self._start) / 60 * max(0, self._expected - self._calls)
            left = f", about {minutes / made:.0f} min left" if made else ""
        _log.info(
            f"{self._model}: {self._calls:,}{of} calls ({self._reused:,} from the ledger), "
            f"{self._tokens:,} tokens, money {self._spent:.4f} ({self._paid:.4f} now){left}"
        )


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

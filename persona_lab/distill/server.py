"""Requests in, replies of an OpenAI-compatible server out, through the ledger.

Retries, waiting, prices and the budget are ours: the client of the `openai` package only sends.
Needs the network. The key comes from the environment alone and goes nowhere but to the server.
"""

import asyncio
import base64
import itertools
import json
import logging
import os
import random
import time
import uuid
from bisect import bisect_right
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlsplit

import numpy as np
from pydantic import BaseModel

from persona_lab.cache import NotAtHand
from persona_lab.data import Cost
from persona_lab.distill.chat import (
    TOKENS_PER_WORD,
    Conversation,
    Reply,
    Request,
    converse_in_rounds,
)
from persona_lab.distill.ledger import Attempt, Call, Claim, Ledger
from persona_lab.errors import UserError
from persona_lab.sources import Sources

if TYPE_CHECKING:
    import openai

_log = logging.getLogger(__name__)

KEY = "OPENAI_API_KEY"
_ROUTES = {"chat": "/chat/completions", "embeddings": "/embeddings"}
_LOCAL = ("localhost", "127.0.0.1", "::1")
# The client sends some key always.
_NO_KEY = "none"
_AGAIN = "run the same command again: nothing that was answered is asked again"
# A message's frame beside its words; a token has at least one byte.
_TOKENS_OF_MESSAGE = 10
_LONGEST_WAIT = 60.0
_OTHER_JOB_SECONDS = 0.2
_PROGRESS_SECONDS = 15.0
_BATCHES_OF_A_CALL = 3

# Tests put a clock of their own here: servers ask to wait for minutes.
_now, _sleep = time.monotonic, asyncio.sleep

T = TypeVar("T")


@dataclass(frozen=True)
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
    base_url: str = "https://api.openai.com/v1"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    prices: Mapping[str, Mapping[str, float]] = field(default_factory=dict, metadata={"key": False})
    batch_discount: float = field(default=0.5, metadata={"key": False})
    budget: float | None = field(default=None, metadata={"key": False})
    mode: Literal["sync", "batch"] = field(default="sync", metadata={"key": False})
    concurrency: int = field(default=16, metadata={"key": False})
    timeout: float = field(default=180.0, metadata={"key": False})
    max_attempts: int = field(default=10, metadata={"key": False})
    poll_seconds: float = field(default=30.0, metadata={"key": False})

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
                    answer = await desk.ask(self._chat_call(request))
                    request = talk.send(_reply(answer))
            except StopIteration as end:
                return end.value

        with self._desk(sources, expected) as (desk, runner):
            if self.mode == "sync":
                return runner.run(desk.all(one(desk, talk) for talk in talks))

            def answer(requests: Sequence[Request]) -> list[Reply]:
                calls = [self._chat_call(request) for request in requests]
                return [_reply(answer) for answer in runner.run(desk.ask_batch(calls))]

            return converse_in_rounds(talks, answer)

    def embed(
        self, texts: Sequence[str], sources: Sources, at_once: int = 64
    ) -> tuple[np.ndarray, Cost]:
        """Vectors of texts as the server gives them, float32 of shape (n_texts, dim); their cost.

        Args:
            texts: At least one.
            sources: Where the ledger is.
            at_once: Texts in one call.

        Raises:
            UserError: The server cannot be reached or may not be paid, takes no such texts, or
                gives other than one vector for each.
        """
        parts = [texts[start : start + at_once] for start in range(0, len(texts), at_once)]
        calls = [self._embeddings_call(part) for part in parts]
        tokens = round(TOKENS_PER_WORD * sum(len(text.split()) for text in texts))
        _log.info(
            "vectors of %d texts take %d calls, about %d tokens, money %.2f",
            *(len(texts), len(calls), tokens, self.price(tokens, 0)),
        )
        with self._desk(sources, len(calls)) as (desk, runner):
            if self.mode == "batch":
                answers = runner.run(desk.ask_batch(calls))
            else:
                answers = runner.run(desk.all(map(desk.ask, calls)))
        pairs = zip(parts, answers, strict=True)
        vectors = np.stack([row for part, answer in pairs for row in self._vectors(part, answer)])
        return vectors, sum((answer.cost for answer in answers), Cost())

    def _vectors(self, texts: Sequence[str], answer: Attempt) -> list[np.ndarray]:
        """The vectors of an answer in the order of its texts: servers may give them in another."""
        rows = json.loads(answer.body)["data"]
        places = [row.get("index", place) for place, row in enumerate(rows)]
        if len(places) != len(texts) or set(places) != set(range(len(texts))):
            told = f"{self.model} must give vectors 0 to {len(texts) - 1}, one of each text"
            raise UserError(f"{told}, and gave {places}", "name another model or base_url")
        vectors = dict(zip(places, rows, strict=True))
        return [_vector(vectors[place]["embedding"]) for place in range(len(texts))]

    def price(self, tokens_in: int, tokens_out: int) -> float:
        """Price of tokens, none of them cached, in the mode chosen; 0 where none is known."""
        return self.money(tokens_in, 0, tokens_out, batch=self.mode == "batch")

    def money(self, tokens_in: int, cached: int, tokens_out: int, *, batch: bool) -> float:
        """Price of an answer with these tokens, `cached` of `tokens_in` from the server's cache."""
        price = self.prices.get(self.model, {})
        full = price.get("input", 0.0)
        paid = (tokens_in - cached) * full + cached * price.get("cached", full)
        paid += tokens_out * price.get("output", 0.0)
        return paid / 1e6 * (1 - self.batch_discount * batch)

    def fingerprint(self, sources: Sources) -> str:
        """A constant: who owns the server says what it answers."""
        return "openai"

    @contextmanager
    def _desk(
        self, sources: Sources, expected: int | None
    ) -> Iterator[tuple["_Desk", asyncio.Runner]]:
        self._check()
        if sources.offline:
            raise NotAtHand(f"{self.model} would have to be asked", "run it without task=plan")
        with Ledger(sources.ledger) as ledger, asyncio.Runner() as runner:
            desk = _Desk(self, ledger, expected)
            try:
                yield desk, runner
            finally:
                runner.run(desk.close())

    def _check(self) -> None:
        for name in ("concurrency", "max_attempts", "timeout", "poll_seconds"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name} is {getattr(self, name)}", "it must be above 0")
        where = urlsplit(self.base_url)
        if "@" in where.netloc or where.query:
            mend = f"leave them out of the address, and export {KEY}=<the key>"
            raise UserError("base_url holds credentials or a query", mend)
        if self.budget is not None and self.model not in self.prices:
            mend = f"give prices.{self.model}, or leave out the budget"
            raise UserError(f"a budget is set, and {self.model} has no price", mend)

    def _call(self, route: str, purpose: str, body: Mapping[str, Any], **other: Any) -> Call:
        body = {"model": self.model, **body, **self.parameters}
        request = {"base_url": self.base_url, "route": route, "purpose": purpose, "body": body}
        size = len(json.dumps([body, other.get("schema")]).encode())
        tokens = size + _TOKENS_OF_MESSAGE * len(body.get("messages", ()))
        at_most = self.price(tokens, body.get("max_tokens", 0))
        return Call(purpose, self.model, {**request, **other}, at_most)

    def _chat_call(self, request: Request) -> Call:
        body = {
            "messages": [{"role": role, "content": text} for role, text in request.messages],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
        }
        schema = None
        if request.schema is not None:
            schema = _strict(request.schema)
        return self._call("chat", request.purpose, body, schema=schema, sample=request.sample)

    def _embeddings_call(self, texts: Sequence[str]) -> Call:
        body = {"input": list(texts), "encoding_format": "base64"}
        return self._call("embeddings", "embed/1", body)


class _Failed(Exception):
    """An attempt that brought no answer: what happened, how long to wait, may it be billed."""

    def __init__(
        self, outcome: str, wait: float = 0.0, *, lost: bool = False, body: str = ""
    ) -> None:
        super().__init__(outcome)
        self.outcome, self.wait, self.lost, self.body = outcome, wait, lost, body


class _Desk:
    """What one job has in flight: its calls, its money, its waiting."""

    def __init__(self, server: OpenAI, ledger: Ledger, expected: int | None) -> None:
        # Imported here: it takes a second, and the package is an extra.
        try:
            import httpx2
            import openai
        except ImportError:
            raise UserError("the package openai is missing", "pip install openai") from None
        self.api, self.raw = openai, httpx2.Response
        for name in ("openai", "httpx2"):
            # They would write a line for each call.
            logging.getLogger(name).setLevel(logging.WARNING)
        self.server, self.ledger, self.expected = server, ledger, expected
        self.secret = os.environ.get(KEY, "").strip() or _NO_KEY
        self.change = asyncio.Condition()
        # Each call in flight has a client of its own: one connection pool, which looks through all
        # of its connections at each request, takes a quarter of the time at 32.
        trust = httpx2.create_ssl_context()
        self.clients = [
            openai.AsyncOpenAI(
                api_key=self.secret,
                base_url=server.base_url,
                max_retries=0,
                timeout=server.timeout,
                http_client=openai.DefaultAsyncHttpxClient(verify=trust),
            )
            for _ in range(server.concurrency)
        ]
        self.client = self.clients[0]
        self.free: asyncio.LifoQueue[openai.AsyncOpenAI] = asyncio.LifoQueue()
        for client in self.clients:
            self.free.put_nowait(client)
        self.spent = self.reserved = self.until = 0.0
        self.counted: set[str] = set()
        self.calls = self.reused = self.tokens = 0
        self.paid = 0.0
        self.start = self.told = _now()
        self.stopped: UserError | None = None
        # 0: by the schema; 1: as any JSON object; 2: plainly. What is refused is not tried again.
        self.plainness = 0

    async def all(self, work: Iterable[Awaitable[T]]) -> list[T]:
        """Results in order; at an error, what is in flight is still waited for and kept."""
        results = await asyncio.gather(*work, return_exceptions=True)
        self.tell(last=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, UserError):
                raise result
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return results  # type: ignore[return-value]

    async def ask(self, call: Call) -> Attempt:
        """A call's answer: from the ledger, from another job, or from the server."""
        async with self.slot() as client:
            while not (claim := await self.claim(call)).ours:
                if claim.answer is not None:
                    return self.count(call, claim.answer, claim.lost, reused=True)
                if claim.batch is not None:
                    await self.collect(claim.batch)
                else:
                    await _sleep(_OTHER_JOB_SECONDS)
            self.count_lost(call, claim.lost)
            try:
                answer = await self.send(call, client)
            except BaseException:
                # Nobody may be left to wait for it when the job is being ended.
                self.ledger.release([call.key])
                raise
            return self.count(call, answer)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator["openai.AsyncOpenAI"]:
        """A client that nobody else uses."""
        client = await self.free.get()
        try:
            yield client
        finally:
            self.free.put_nowait(client)

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(client.close() for client in self.clients))

    async def claim(self, call: Call) -> Claim:
        if self.stopped is not None:
            raise self.stopped
        return await asyncio.wrap_future(self.ledger.claim(call))

    @asynccontextmanager
    async def hold(self, money: float) -> AsyncIterator[None]:
        """Set money aside for what is sent; wait while what is in flight may need it."""
        budget = self.server.budget
        async with self.change:
            while budget is not None and self.spent + self.reserved + money > budget:
                if self.reserved == 0:
                    raise UserError(
                        f"the budget of {budget:g} ends here: {self.spent:.4f} are spent, and the "
                        f"next call may cost {money:.4f}",
                        "raise the budget and run the same command: it goes on from here",
                    )
                await self.change.wait()
            self.reserved += money
        try:
            yield
        finally:
            async with self.change:
                # What floats leave over must not keep a budget from ending.
                self.reserved = (
                    max(0.0, self.reserved - money) if self.reserved - money > 1e-12 else 0.0
                )
                self.change.notify_all()

    async def send(self, call: Call, client: "openai.AsyncOpenAI") -> Attempt:
        """Attempt a call until it is answered; every attempt is in the ledger."""

        async def post() -> Attempt:
            # Each attempt anew: one that was lost has used up what was set aside for it.
            async with self.hold(call.at_most):
                await self.turn()
                start = _now()
                try:
                    body = await self.post(call.request, client)
                    answer = _opened(call.request["route"], body)
                except (_Failed, asyncio.CancelledError) as error:
                    failed = error
                    if not isinstance(failed, _Failed):
                        # The job ends; the server may answer, and bill, all the same.
                        failed = _Failed("cancelled", lost=True)
                    money = call.at_most * failed.lost
                    self.spent += money
                    seconds = _now() - start
                    attempt = Attempt(failed.outcome, failed.body, money=money, seconds=seconds)
                    await asyncio.wrap_future(self.ledger.record(call.key, attempt))
                    raise
                return await self.keep(call.key, body, answer, _now() - start, batch=False)

        return await self.retry(post)

    async def turn(self) -> None:
        """Wait as long as the server asked for; raise what has ended the job."""
        if (wait := self.until - _now()) > 0:
            await _sleep(wait)
        if self.stopped is not None:
            raise self.stopped

    async def keep(
        self, key: str, body: str, usage: Mapping[str, int], seconds: float, *, batch: bool
    ) -> Attempt:
        money = self.server.money(**usage, batch=batch)
        attempt = Attempt(
            "answered",
            body.replace(self.secret, "***") if self.secret != _NO_KEY else body,
            usage["tokens_in"],
            usage["cached"],
            usage["tokens_out"],
            money,
            seconds,
        )
        return await asyncio.wrap_future(self.ledger.record(key, attempt))

    async def retry(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """The outcome of something that may fail for a while."""
        failed = _Failed("")
        for turn in range(self.server.max_attempts):
            await self.turn()
            try:
                return await attempt()
            except _Failed as error:
                failed = error
                self.until = max(self.until, _now() + failed.wait)
                _log.debug("%s failed: %s", self.server.base_url, failed.outcome)
                if turn + 1 < self.server.max_attempts:
                    await _sleep(min(_LONGEST_WAIT, 2**turn / 2) * random.uniform(0.5, 1))
        what = f"{self.server.base_url} failed {self.server.max_attempts} times: {failed.outcome}"
        raise self.stop(UserError(what, _AGAIN))

    async def post(self, request: Mapping[str, Any], client: "openai.AsyncOpenAI") -> str:
        """One attempt at a request; as plainly as the server asks for."""
        path, schema = _ROUTES[request["route"]], request.get("schema")

        async def send() -> str | None:
            plainness = self.plainness
            body = {**request["body"], **_form(schema, plainness)}
            try:
                return (await client.post(path, body=body, cast_to=self.raw)).text
            except self.api.BadRequestError as error:
                refused = "response_format" in str(error) or "json_schema" in str(error)
                if not (refused and schema and plainness < 2):
                    raise
                self.plainness = max(self.plainness, plainness + 1)
                return None

        while (text := await self.talk(send)) is None:
            pass
        return text

    async def talk(self, send: Callable[[], Awaitable[T]]) -> T:
        """What the client's call gives, its failures told apart.

        Raises:
            _Failed: It may work later.
            UserError: It will not.
        """
        api, server = self.api, self.server
        # Here, not at the job's beginning: what the ledger answers needs no key.
        if self.secret == _NO_KEY and urlsplit(server.base_url).hostname not in _LOCAL:
            raise self.stop(UserError(f"{server.base_url} needs a key", f"export {KEY}=<the key>"))
        try:
            return await send()
        except api.APITimeoutError:
            raise _Failed("timeout", lost=True) from None
        except api.APIConnectionError as error:
            unsent = type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout")
            cause = type(error.__cause__ or error).__name__
            raise _Failed(f"connection: {cause}", lost=not unsent) from None
        except api.APIStatusError as error:
            status = error.status_code
            spent_up = getattr(error, "code", None) == "insufficient_quota"
            if (status not in (408, 409, 429) and status < 500) or spent_up:
                raise self.stop(self.refusal(error)) from None
            wait = _retry_after(error.response.headers)
            body = self.clean(error.response.text)
            raise _Failed(f"status {status}", wait, body=body) from None

    def refusal(self, error: "openai.APIStatusError") -> UserError:
        mend = f"{self.server.model} at {self.server.base_url} must know this request"
        if self.server.mode == "batch":
            mend += "; mode=sync asks one by one"
        if error.status_code in (401, 403):
            mend = f"export {KEY}=<a key that this server knows>"
        elif error.status_code == 404:
            mend = "name another model or base_url"
        elif error.status_code == 429:
            mend = "the account has no credit left: add some and run the same command again"
        text = " ".join(self.clean(str(error)).split())
        return UserError(f"the server refused: {text}", mend)

    def clean(self, text: str) -> str:
        """A server's words without the key, should it repeat it, and not too many of them."""
        return (text if self.secret == _NO_KEY else text.replace(self.secret, "***"))[:500]

    def stop(self, error: UserError) -> UserError:
        self.stopped = self.stopped or error
        return error

    def count_lost(self, call: Call, lost: float) -> None:
        if call.key not in self.counted:
            self.counted.add(call.key)
            self.spent += lost

    def count(
        self, call: Call, answer: Attempt, lost: float = 0.0, *, reused: bool = False
    ) -> Attempt:
        """Add an answer to what was spent and done, and say how it goes now and then."""
        self.count_lost(call, lost)
        self.spent += answer.money
        self.paid += 0 if reused else answer.money
        self.calls += 1
        self.reused += reused
        self.tokens += answer.tokens_in + answer.tokens_out
        if _now() - self.told > _PROGRESS_SECONDS:
            self.tell()
        return answer

    def tell(self, *, last: bool = False) -> None:
        self.told = _now()
        made = self.calls - self.reused
        left = ""
        if self.expected and made and not last:
            seconds = (self.told - self.start) / made * max(0, self.expected - self.calls)
            left = f", about {seconds / 60:.0f} min left"
        of = f" of about {self.expected:,}" if self.expected and not last else ""
        _log.info(
            "%s: %s%s calls (%s from the ledger), %s tokens, money %.4f (%.4f now)%s",
            *(self.server.model, f"{self.calls:,}", of, f"{self.reused:,}", f"{self.tokens:,}"),
            *(self.spent, self.paid, left),
        )

    async def ask_batch(self, calls: Sequence[Call]) -> list[Attempt]:
        """Answers of calls, in order, by way of the server's batches."""
        answers: dict[str, Attempt] = {}
        tried: dict[str, int] = {}
        while missing := {call.key: call for call in calls if call.key not in answers}:
            ours: list[Call] = []
            batches, others = set(), 0
            for call in missing.values():
                claim = await self.claim(call)
                if claim.answer is not None:
                    reused = call.key not in tried
                    answers[call.key] = self.count(call, claim.answer, claim.lost, reused=reused)
                elif claim.batch is not None:
                    batches.add(claim.batch)
                elif claim.ours:
                    self.count_lost(call, claim.lost)
                    ours.append(call)
                else:
                    others += 1
            if affordable := await self.affordable(ours):
                for call in affordable:
                    tried[call.key] = tried.get(call.key, 0) + 1
                    if tried[call.key] > _BATCHES_OF_A_CALL:
                        raise UserError(f"{self.server.model} fails calls of its batches", _AGAIN)
                batches.add(await self.submit(affordable))
            for token in batches:
                await self.collect(token)
            if others:
                await _sleep(_OTHER_JOB_SECONDS)
        self.tell(last=True)
        return [answers[call.key] for call in calls]

    async def affordable(self, calls: Sequence[Call]) -> list[Call]:
        """The first of our calls that the budget surely covers; the others are given back."""
        left = float("inf") if self.server.budget is None else self.server.budget - self.spent
        sums = list(itertools.accumulate(call.at_most for call in calls))
        n = bisect_right(sums, left)
        await asyncio.wrap_future(self.ledger.release([call.key for call in calls[n:]]))
        if calls and not n:
            async with self.hold(min(call.at_most for call in calls)):
                pass
        return list(calls[:n])

    async def submit(self, calls: Sequence[Call]) -> str:
        """Hand calls to a new batch; the ledger knows its token before the server."""
        token = uuid.uuid4().hex
        lines = [
            {
                "custom_id": call.key,
                "method": "POST",
                "url": f"/v1{_ROUTES[call.request['route']]}",
                "body": {
                    **call.request["body"],
                    **_form(call.request.get("schema"), self.plainness),
                },
            }
            for call in calls
        ]
        content = "\n".join(map(json.dumps, lines)).encode()
        name = f"persona_lab-{token}.jsonl"
        create_file = partial(self.client.files.create, file=(name, content), purpose="batch")
        file = await self.retry(partial(self.talk, create_file))
        await asyncio.wrap_future(self.ledger.announce(token, [call.key for call in calls]))
        url: Any = lines[0]["url"]
        tries = itertools.count()

        async def create() -> str:
            # A first try may have come through although its answer did not.
            if next(tries) and (known := await self.find(token)):
                return known
            send = self.client.batches.create(
                input_file_id=file.id,
                endpoint=url,
                completion_window="24h",
                metadata={"persona_lab": token},
            )
            return (await self.talk(lambda: send)).id

        batch_id = await self.retry(create)
        await asyncio.wrap_future(self.ledger.submitted(token, batch_id))
        _log.info("batch %s: %d calls", batch_id, len(calls))
        return token

    async def collect(self, token: str) -> None:
        """Wait for a batch, whoever submitted it, and keep its answers; free what has none."""
        retrieve = self.client.batches.retrieve
        while True:
            name, alive, keys = await asyncio.wrap_future(self.ledger.batch(token))
            if not keys:
                return
            if name is None:
                # Its submitter was killed between the server's answer and the ledger, or before.
                name = None if alive else await self.retry(partial(self.find, token))
                if name is None and not alive:
                    await asyncio.wrap_future(self.ledger.release(keys, token))
                    return
            if name is not None:
                batch = await self.retry(partial(self.talk, partial(retrieve, name)))
                if batch.status in ("completed", "failed", "expired", "cancelled"):
                    break
            await _sleep(self.server.poll_seconds)
        for file_id in (batch.output_file_id, batch.error_file_id):
            if file_id is not None:
                await self.keep_file(file_id)
        await asyncio.wrap_future(self.ledger.release(keys, token))
        if batch.status == "failed":
            told = self.clean(str(batch.errors))
            raise UserError(f"the server refused a batch: {told}", "mode=sync asks one by one")

    async def find(self, token: str) -> str | None:
        async def search() -> str | None:
            async for batch in self.client.batches.list(limit=100):
                if (batch.metadata or {}).get("persona_lab") == token:
                    return batch.id
            return None

        return await self.talk(search)

    async def keep_file(self, file_id: str) -> None:
        content = await self.retry(partial(self.talk, partial(self.client.files.content, file_id)))
        # Unlike `splitlines`: texts may hold other ends of lines.
        for line in filter(str.strip, content.text.split("\n")):
            try:
                row = json.loads(line)
                key, response = str(row["custom_id"]), row.get("response") or {}
                status, body = response.get("status_code"), response.get("body")
                route = "embeddings" if "data" in (body or {}) else "chat"
            except (LookupError, ValueError, TypeError, AttributeError, RecursionError):
                # The other lines are paid for: they are kept, and this one's call is asked again.
                _log.warning("a line of a batch cannot be read: %s", self.clean(line))
                continue
            text = json.dumps(body)
            try:
                if status != 200:
                    raise _Failed(f"batch: status {status}", body=text[:500])
                await self.keep(key, text, _opened(route, text), 0.0, batch=True)
            except _Failed as failed:
                attempt = Attempt(failed.outcome, self.clean(failed.body))
                await asyncio.wrap_future(self.ledger.record(key, attempt))


@lru_cache
def _strict(form: type[BaseModel]) -> dict[str, Any]:
    return {"name": form.__name__, "strict": True, "schema": form.model_json_schema()}


def _form(schema: Mapping[str, Any] | None, plainness: int) -> dict[str, Any]:
    """What makes a server hold its answer to a form, as far as it can."""
    if schema is None or plainness == 2:
        return {}
    if plainness == 1:
        return {"response_format": {"type": "json_object"}}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def _opened(route: str, body: str) -> dict[str, int]:
    """Tokens that an answer took, as arguments of `OpenAI.money`.

    Raises:
        _Failed: It is no answer.
    """
    try:
        answer = json.loads(body)
        if route == "chat":
            message = answer["choices"][0]["message"]
            assert isinstance(message.get("content") or message.get("refusal") or "", str)
        else:
            assert all(row["embedding"] for row in answer["data"])
        usage = answer.get("usage") or {}
        details = usage.get("prompt_tokens_details") or {}
        return {
            "tokens_in": int(usage.get("prompt_tokens") or 0),
            "cached": int(details.get("cached_tokens") or 0),
            "tokens_out": int(usage.get("completion_tokens") or 0),
        }
    except (LookupError, ValueError, TypeError, AttributeError, AssertionError, RecursionError):
        # It may have been paid for: the ledger keeps it as it came.
        raise _Failed("unreadable", lost=True, body=body) from None


def _reply(answer: Attempt) -> Reply:
    choice = json.loads(answer.body)["choices"][0]
    message = choice["message"]
    refusal = message.get("refusal")
    return Reply(
        text=refusal or message.get("content") or "",
        refused=bool(refusal) or choice.get("finish_reason") == "content_filter",
        tokens_in=answer.tokens_in,
        tokens_out=answer.tokens_out,
        money=answer.money,
    )


def _vector(embedding: str | list[float]) -> np.ndarray:
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding), dtype="<f4").astype(np.float32)
    return np.asarray(embedding, dtype=np.float32)


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that a server asks to wait: a number or a date."""
    told = headers.get("retry-after")
    if told is None:
        return 0.0
    try:
        return max(0.0, float(told))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(told).timestamp() - time.time())
    except ValueError:
        return 0.0

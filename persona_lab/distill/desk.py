"""Calls in, their answers out: from the ledger, from another job, or from the server.

Every attempt at a call is in the ledger before anyone reads of it, and a batch before the server
knows it, so that nobody asks again what was asked. Needs the network.
"""

import asyncio
import itertools
import json
import logging
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from persona_lab.distill.client import AGAIN, ROUTES, Client, Failed, usage
from persona_lab.distill.ledger import Attempt, Call, Claim, Ledger
from persona_lab.errors import UserError

if TYPE_CHECKING:
    import openai

    from persona_lab.distill.server import OpenAI

_log = logging.getLogger(__name__)

_PROGRESS_SECONDS = 15.0
_OTHER_JOB_SECONDS = 0.2
_BATCHES_OF_A_CALL = 3
_BATCH_ENDS = ("completed", "failed", "expired", "cancelled")

T = TypeVar("T")


class Budget:
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
        """Count an answer, and say now and then how it goes."""
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
            if made:
                seconds = (self._told - self._start) / made * max(0, self._expected - self._calls)
                left = f", about {seconds / 60:.0f} min left"
        _log.info(
            f"{self._model}: {self._calls:,}{of} calls ({self._reused:,} from the ledger), "
            f"{self._tokens:,} tokens, money {self._spent:.4f} ({self._paid:.4f} now){left}"
        )


class Desk:
    """What one job has in flight, in the loop of `runner`."""

    def __init__(
        self, server: "OpenAI", ledger: Ledger, runner: asyncio.Runner, expected: int | None
    ) -> None:
        self._server, self._ledger, self.run = server, ledger, runner.run
        self.client = Client(server)
        self._budget = Budget(server.budget, server.model, expected)

    async def all(self, work: Iterable[Awaitable[T]]) -> list[T]:
        """Results in order; at an error, what is in flight is still waited for and kept."""
        results = await asyncio.gather(*work, return_exceptions=True)
        self._budget.tell(last=True)
        errors = [result for result in results if isinstance(result, BaseException)]
        # An error of ours comes before what the user can mend.
        for error in sorted(errors, key=lambda error: isinstance(error, UserError)):
            raise error
        return results  # type: ignore[return-value]

    async def ask(self, call: Call) -> Attempt:
        """A call's answer."""
        client = await self.client.free.get()
        try:
            while not (claim := await self._claim(call)).ours:
                if claim.answer is not None:
                    return self._budget.count(claim.answer, reused=True)
                if claim.batch is not None:
                    await self._collect(claim.batch)
                else:
                    await self.client.wait(_OTHER_JOB_SECONDS)
            try:
                answer = await self.client.retry(lambda: self._send(call, client))
            except BaseException:
                # Nobody may be left to wait for it when the job is being ended.
                self._ledger.hand([call.key])
                raise
            return self._budget.count(answer, reused=False)
        finally:
            self.client.free.put_nowait(client)

    async def ask_all(self, calls: Sequence[Call]) -> list[Attempt]:
        """Answers of calls, in order; in the mode `batch` by way of the server's batches."""
        if self._server.mode == "sync":
            return await self.all(map(self.ask, calls))
        answers: dict[str, Attempt] = {}
        tries: Counter[str] = Counter()
        while missing := {call.key: call for call in calls if call.key not in answers}:
            claims = {key: await self._claim(call) for key, call in missing.items()}
            for key, claim in claims.items():
                if claim.answer is not None:
                    answers[key] = self._budget.count(claim.answer, reused=key not in tries)
            batches = {claim.batch for claim in claims.values() if claim.batch is not None}
            if ours := [missing[key] for key, claim in claims.items() if claim.ours]:
                covered = self._budget.cover(ours)
                tries.update(call.key for call in covered)
                if max(tries.values()) > _BATCHES_OF_A_CALL:
                    raise UserError(f"{self._server.model} fails calls of its batches", AGAIN)
                await self._ledger.hand(
                    {call.key for call in ours} - {call.key for call in covered}
                )
                batches.add(await self._submit(covered))
            for batch in batches:
                await self._collect(batch)
            if not batches and missing.keys() - answers.keys():
                await self.client.wait(_OTHER_JOB_SECONDS)
        self._budget.tell(last=True)
        return [answers[call.key] for call in calls]

    async def _claim(self, call: Call) -> Claim:
        if self.client.stopped is not None:
            raise self.client.stopped
        claim = await self._ledger.claim(call)
        self._budget.lose(call.key, in_all=claim.lost)
        return claim

    async def _send(self, call: Call, client: "openai.AsyncOpenAI") -> Attempt:
        """One attempt at a call; it too must be covered, since a lost one has used up its share."""
        async with self._budget.hold(call.at_most):
            await self.client.turn()
            start = time.monotonic()
            try:
                body = await self.client.post(call.request, client)
                tokens = usage(call.request["route"], body)
            except (Failed, asyncio.CancelledError) as error:
                # The job may end; the server may answer, and bill, all the same.
                failed = error if isinstance(error, Failed) else Failed("cancelled", lost=True)
                money = call.at_most * failed.lost
                self._budget.lose(call.key, more=money)
                seconds = time.monotonic() - start
                attempt = Attempt(failed.outcome, failed.body, money=money, seconds=seconds)
                await self._ledger.record(call.key, attempt)
                raise
            return await self._keep(call.key, body, tokens, time.monotonic() - start)

    async def _keep(
        self, key: str, body: str, tokens: dict[str, int], seconds: float, *, batch: bool = False
    ) -> Attempt:
        """Put an answer and its cost into the ledger; of two answers to a call the first stays."""
        money = self._server.money(**tokens, batch=batch)
        body = self.client.without_key(body)
        attempt = Attempt("answered", body, **tokens, money=money, seconds=seconds)
        return await self._ledger.record(key, attempt)

    async def _submit(self, calls: Sequence[Call]) -> str:
        """Hand calls to a new batch; the ledger knows its token before the server."""
        api, token = self.client.api, f"{self._ledger.owner}-{uuid.uuid4().hex}"
        url: Any = f"/v1{ROUTES[calls[0].request['route']]}"
        bodies = {call.key: self.client.body(call.request) for call in calls}
        lines = [
            json.dumps({"custom_id": key, "method": "POST", "url": url, "body": body})
            for key, body in bodies.items()
        ]
        upload = (f"persona_lab-{token}.jsonl", "\n".join(lines).encode())
        file = await self._surely(lambda: api.files.create(file=upload, purpose="batch"))
        await self._ledger.hand(bodies, to=token)
        tries = itertools.count()

        async def create() -> str:
            # A first try may have come through although its answer did not.
            if next(tries) and (known := await self._search(token)):
                return known
            batch = await api.batches.create(
                input_file_id=file.id,
                endpoint=url,
                completion_window="24h",
                metadata={"persona_lab": token},
            )
            return batch.id

        name = await self._surely(create)
        await self._ledger.hand(bodies, token, to=f"{token} {name}")
        _log.info("batch %s: %d calls", name, len(calls))
        return f"{token} {name}"

    async def _collect(self, batch: str) -> None:
        """Wait for a batch, whoever submitted it, and keep its answers; free what has none."""
        api = self.client.api
        token, _, name = batch.partition(" ")
        while True:
            lives, keys = await self._ledger.batch(batch)
            if not keys:
                return
            if not name and not lives:
                # Its submitter was killed between the server's answer and the ledger, or before.
                name = await self._surely(lambda: self._search(token))
                if name is None:
                    await self._ledger.hand(keys, batch)
                    return
            if name:
                state = await self._surely(partial(api.batches.retrieve, name))
                if state.status in _BATCH_ENDS:
                    break
            await self.client.wait(self._server.poll_seconds)
        for file in filter(None, (state.output_file_id, state.error_file_id)):
            content = await self._surely(partial(api.files.content, file))
            # Unlike `splitlines`: texts may hold other ends of lines.
            for line in filter(str.strip, content.text.split("\n")):
                await self._keep_line(line)
        await self._ledger.hand(keys, batch)
        if state.status == "failed":
            told = self.client.clean(str(state.errors))
            raise UserError(f"the server refused a batch: {told}", "mode=sync asks one by one")

    async def _keep_line(self, line: str) -> None:
        """Keep what a line of a batch's result says of a call."""
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
            await self._ledger.record(key, Attempt(failed.outcome, self.client.clean(failed.body)))

    async def _search(self, token: str) -> str | None:
        async for batch in self.client.api.batches.list(limit=100):
            if (batch.metadata or {}).get("persona_lab") == token:
                return batch.id
        return None

    async def _surely(self, send: Callable[[], Awaitable[T]]) -> T:
        """What the client's call gives, tried until it does."""
        return await self.client.retry(lambda: self.client.talk(send))

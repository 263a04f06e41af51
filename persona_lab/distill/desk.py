"""Calls in, their answers out: from the ledger, from another job, or from the server.

Every attempt at a call is in the ledger before anyone reads of it. Needs the network.
"""

import asyncio
import time
from asyncio import wrap_future
from collections.abc import Awaitable, Iterable
from typing import TYPE_CHECKING, TypeVar

from persona_lab.distill.batch import Batches
from persona_lab.distill.budget import Budget
from persona_lab.distill.client import OTHER_JOB_SECONDS, Client, Failed, usage
from persona_lab.distill.ledger import Attempt, Call, Claim, Ledger
from persona_lab.errors import UserError

if TYPE_CHECKING:
    import openai

    from persona_lab.distill.server import OpenAI

T = TypeVar("T")


class Desk:
    """What one job has in flight.

    Attributes:
        server: Whom it asks.
        ledger: Open.
        client: The way there.
        budget: What it may spend.
        batches: Asks by way of the server's batches.
    """

    def __init__(self, server: "OpenAI", ledger: Ledger, expected: int | None) -> None:
        self.server, self.ledger = server, ledger
        self.client = Client(server)
        self.budget = Budget(server.budget, server.model, expected)
        self.batches = Batches(self)

    async def all(self, work: Iterable[Awaitable[T]]) -> list[T]:
        """Results in order; at an error, what is in flight is still waited for and kept."""
        results = await asyncio.gather(*work, return_exceptions=True)
        self.budget.tell(last=True)
        errors = [result for result in results if isinstance(result, BaseException)]
        if errors:
            raise next((each for each in errors if not isinstance(each, UserError)), errors[0])
        return results  # type: ignore[return-value]

    async def claim(self, call: Call) -> Claim:
        """What the ledger says of a call; raises what has ended the job."""
        if self.client.stopped is not None:
            raise self.client.stopped
        return await wrap_future(self.ledger.claim(call))

    async def ask(self, call: Call) -> Attempt:
        """A call's answer."""
        async with self.client.slot() as client:
            while not (claim := await self.claim(call)).ours:
                if claim.answer is not None:
                    return self.budget.count(call, claim.answer, claim.lost, reused=True)
                if claim.batch is not None:
                    await self.batches.collect(claim.batch)
                else:
                    await self.client.wait(OTHER_JOB_SECONDS)
            self.budget.lose(call, claim.lost)
            try:
                answer = await self.client.retry(lambda: self._send(call, client))
            except BaseException:
                # Nobody may be left to wait for it when the job is being ended.
                self.ledger.release([call.key])
                raise
            return self.budget.count(call, answer)

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
                self.budget.spent += money
                seconds = time.monotonic() - start
                attempt = Attempt(failed.outcome, failed.body, money=money, seconds=seconds)
                await wrap_future(self.ledger.record(call.key, attempt))
                raise
            return await self.keep(call.key, body, tokens, time.monotonic() - start)

    async def keep(
        self, key: str, body: str, tokens: dict[str, int], seconds: float, *, batch: bool = False
    ) -> Attempt:
        """Put an answer and its cost into the ledger; of two answers to a call the first stays."""
        attempt = Attempt(
            "answered",
            self.client.without_key(body),
            tokens["tokens_in"],
            tokens["cached"],
            tokens["tokens_out"],
            self.server.money(**tokens, batch=batch),
            seconds,
        )
        return await wrap_future(self.ledger.record(key, attempt))

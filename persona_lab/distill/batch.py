"""Calls in, their answers out by way of a server's batches: at a lower price, within a day.

The ledger knows a batch before the server does, so that whoever comes later collects it, and nobody
submits its calls again. Needs the network.
"""

import itertools
import json
import logging
import uuid
from asyncio import wrap_future
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from persona_lab.distill.client import AGAIN, OTHER_JOB_SECONDS, ROUTES, Failed, usage
from persona_lab.distill.ledger import Attempt, Call
from persona_lab.errors import UserError

if TYPE_CHECKING:
    from persona_lab.distill.desk import Desk

_log = logging.getLogger(__name__)

_BATCHES_OF_A_CALL = 3
_ENDS = ("completed", "failed", "expired", "cancelled")

T = TypeVar("T")


class Batches:
    """The batches of one job, and those that others have left to it."""

    def __init__(self, desk: "Desk") -> None:
        self._desk, self._ledger, self._client = desk, desk.ledger, desk.client

    async def ask(self, calls: Sequence[Call]) -> list[Attempt]:
        """Answers of calls, in order."""
        budget = self._desk.budget
        answers: dict[str, Attempt] = {}
        tries: Counter[str] = Counter()
        while missing := {call.key: call for call in calls if call.key not in answers}:
            ours: list[Call] = []
            batches, others = set(), False
            for call in missing.values():
                claim = await self._desk.claim(call)
                if claim.answer is not None:
                    reused = call.key not in tries
                    answer = budget.count(call, claim.answer, claim.lost, reused=reused)
                    answers[call.key] = answer
                elif claim.batch is not None:
                    batches.add(claim.batch)
                elif claim.ours:
                    budget.lose(call, claim.lost)
                    ours.append(call)
                else:
                    others = True
            if ours:
                affordable = await self._affordable(ours)
                tries.update(call.key for call in affordable)
                if max(tries.values()) > _BATCHES_OF_A_CALL:
                    model = self._desk.server.model
                    raise UserError(f"{model} fails calls of its batches", AGAIN)
                batches.add(await self._submit(affordable))
            for token in batches:
                await self.collect(token)
            if others:
                await self._client.wait(OTHER_JOB_SECONDS)
        budget.tell(last=True)
        return [answers[call.key] for call in calls]

    async def _affordable(self, calls: Sequence[Call]) -> Sequence[Call]:
        """The first of our calls that the budget surely covers; the others are given back."""
        n = self._desk.budget.covered(calls)
        await wrap_future(self._ledger.release([call.key for call in calls[n:]]))
        if not n:
            # This says what is missing.
            async with self._desk.budget.hold(min(call.at_most for call in calls)):
                pass
        return calls[:n]

    async def _submit(self, calls: Sequence[Call]) -> str:
        """Hand calls to a new batch; the ledger knows its token before the server."""
        api, token = self._client.api, uuid.uuid4().hex
        url: Any = f"/v1{ROUTES[calls[0].request['route']]}"
        lines = [
            {
                "custom_id": call.key,
                "method": "POST",
                "url": url,
                "body": self._client.body(call.request),
            }
            for call in calls
        ]
        content = "\n".join(map(json.dumps, lines)).encode()
        upload = (f"persona_lab-{token}.jsonl", content)
        file = await self._surely(lambda: api.files.create(file=upload, purpose="batch"))
        await wrap_future(self._ledger.announce(token, [call.key for call in calls]))
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
        await wrap_future(self._ledger.submitted(token, name))
        _log.info("batch %s: %d calls", name, len(calls))
        return token

    async def collect(self, token: str) -> None:
        """Wait for a batch, whoever submitted it, and keep its answers; free what has none."""
        while True:
            name, alive, keys = await wrap_future(self._ledger.batch(token))
            if not keys:
                return
            if name is None and not alive:
                # Its submitter was killed between the server's answer and the ledger, or before.
                name = await self._surely(lambda: self._search(token))
                if name is None:
                    await wrap_future(self._ledger.release(keys, token))
                    return
            if name is not None:
                batch = await self._surely(partial(self._client.api.batches.retrieve, name))
                if batch.status in _ENDS:
                    break
            await self._client.wait(self._desk.server.poll_seconds)
        for file in (batch.output_file_id, batch.error_file_id):
            if file is not None:
                await self._keep(file)
        await wrap_future(self._ledger.release(keys, token))
        if batch.status == "failed":
            told = self._client.clean(str(batch.errors))
            raise UserError(f"the server refused a batch: {told}", "mode=sync asks one by one")

    async def _search(self, token: str) -> str | None:
        async for batch in self._client.api.batches.list(limit=100):
            if (batch.metadata or {}).get("persona_lab") == token:
                return batch.id
        return None

    async def _keep(self, file: str) -> None:
        content = await self._surely(lambda: self._client.api.files.content(file))
        # Unlike `splitlines`: texts may hold other ends of lines.
        for line in filter(str.strip, content.text.split("\n")):
            try:
                row = json.loads(line)
                key, response = str(row["custom_id"]), row.get("response") or {}
                status, body = response.get("status_code"), response.get("body")
                route = "embeddings" if "data" in (body or {}) else "chat"
            except (LookupError, ValueError, TypeError, AttributeError, RecursionError):
                # The other lines are paid for: they are kept, and this one's call is asked again.
                _log.warning("a line of a batch cannot be read: %s", self._client.clean(line))
                continue
            text = json.dumps(body)
            try:
                if status != 200:
                    raise Failed(f"batch: status {status}", body=text[:500])
                await self._desk.keep(key, text, usage(route, text), 0.0, batch=True)
            except Failed as failed:
                attempt = Attempt(failed.outcome, self._client.clean(failed.body))
                await wrap_future(self._ledger.record(key, attempt))

    async def _surely(self, send: Callable[[], Awaitable[T]]) -> T:
        """What the client's call gives, tried until it does."""
        return await self._client.retry(lambda: self._client.talk(send))

"""What calls may cost in, what they have cost out: no call is sent that the budget may not cover.

One job's money and progress. Pure, but for its log.
"""

import asyncio
import logging
import time
from bisect import bisect_right
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import accumulate

from persona_lab.distill.ledger import Attempt, Call
from persona_lab.errors import UserError

_log = logging.getLogger(__name__)

_PROGRESS_SECONDS = 15.0


class Budget:
    """What one job has spent, has set aside and has done.

    Attributes:
        limit: What its calls may cost, those already paid for included; None for any amount.
        model: Whom it asks.
        expected: Number of calls that it will probably take, None where nobody knows.
        spent: What its calls have cost, whenever they were paid for.
    """

    def __init__(self, limit: float | None, model: str, expected: int | None) -> None:
        self.limit, self.model, self.expected = limit, model, expected
        self.spent = self._aside = self._paid = 0.0
        self._calls = self._reused = self._tokens = 0
        self._known: set[str] = set()
        self._change = asyncio.Condition()
        self._start = self._told = time.monotonic()

    @asynccontextmanager
    async def hold(self, money: float) -> AsyncIterator[None]:
        """Set money aside for what is sent; wait while what is in flight may need it.

        Raises:
            UserError: It would pass the limit, whatever comes of what is in flight.
        """
        async with self._change:
            while self.limit is not None and self.spent + self._aside + money > self.limit:
                if self._aside == 0:
                    raise UserError(
                        f"the budget of {self.limit:g} ends here: {self.spent:.4f} are spent, and "
                        f"the next call may cost {money:.4f}",
                        "raise the budget and run the same command: it goes on from here",
                    )
                await self._change.wait()
            self._aside += money
        try:
            yield
        finally:
            async with self._change:
                # What floats leave over must not keep a budget from ending.
                self._aside = self._aside - money if self._aside - money > 1e-12 else 0.0
                self._change.notify_all()

    def covered(self, calls: Sequence[Call]) -> int:
        """How many of the first calls it surely covers."""
        left = float("inf") if self.limit is None else self.limit - self.spent
        return bisect_right(list(accumulate(call.at_most for call in calls)), left)

    def lose(self, call: Call, lost: float) -> None:
        """Count, once, what earlier attempts at a call may have cost."""
        if call.key not in self._known:
            self._known.add(call.key)
            self.spent += lost

    def count(
        self, call: Call, answer: Attempt, lost: float = 0.0, *, reused: bool = False
    ) -> Attempt:
        """Count an answer, and say now and then how it goes."""
        self.lose(call, lost)
        self.spent += answer.money
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
        if self.expected and not last:
            of = f" of about {self.expected:,}"
            if made:
                seconds = (self._told - self._start) / made * max(0, self.expected - self._calls)
                left = f", about {seconds / 60:.0f} min left"
        _log.info(
            "%s: %s%s calls (%s from the ledger), %s tokens, money %.4f (%.4f now)%s",
            *(self.model, f"{self._calls:,}", of, f"{self._reused:,}", f"{self._tokens:,}"),
            *(self.spent, self._paid, left),
        )

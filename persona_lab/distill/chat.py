"""What an algorithm asks of an LLM, and what it is told: requests out, replies in. Pure.

An algorithm is a generator: it yields requests, is sent replies and returns its result.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from pydantic import BaseModel

from persona_lab.data import Cost
from persona_lab.sources import Sources

# Of English, on average: for estimates.
TOKENS_PER_WORD = 4 / 3


@dataclass(frozen=True)
class Request:
    """One question to an LLM. Two equal requests are one, and are paid for once.

    Attributes:
        messages: (role, content) in order; what is the same for all users comes first, so that a
            server's cache of prompts counts.
        schema: The form of the answer, where it is JSON. A server that knows no schemas is asked
            without one: the messages must tell the form too, with the word JSON.
        purpose: Name and version of the prompt, such as `reflect/1`.
        sample: 0, 1, ...: the same question asked again is another request.
    """

    messages: tuple[tuple[str, str], ...]
    schema: type[BaseModel] | None
    purpose: str
    sample: int = 0
    max_tokens: int = 4096
    temperature: float = 0.0


@dataclass(frozen=True)
class Reply:
    """What came of a request: any text, whatever the request's schema, and whether the server marks
    it as a refusal or withheld it."""

    text: str
    refused: bool = False
    tokens_in: int = 0
    tokens_out: int = 0
    money: float = 0.0

    @property
    def cost(self) -> Cost:
        """That of one call."""
        return Cost(1, self.tokens_in, self.tokens_out, self.money)


T = TypeVar("T")
Conversation = Generator[Request, Reply, T]


@runtime_checkable
class Chat(Protocol):
    """An LLM that answers requests."""

    def converse(
        self,
        conversations: Iterable[Conversation[T]],
        sources: Sources,
        expected: int | None = None,
    ) -> list[T]:
        """Carry conversations side by side from their beginnings to their ends, with `expected`
        calls, as far as that is known; their results in the order given.

        Raises:
            UserError: The LLM cannot be reached or may not be paid; what was answered is kept.
        """
        ...

    def price(self, tokens_in: int, tokens_out: int) -> float:
        """Price of tokens, none of them from a server's cache."""
        ...

    def fingerprint(self, sources: Sources) -> str:
        """Hash of all that replies depend on beside the fields."""
        ...


def converse_in_rounds(
    conversations: Iterable[Conversation[T]],
    answer: Callable[[Sequence[Request]], Sequence[Reply]],
) -> list[T]:
    """Carry conversations to their ends; `answer` is handed all requests that are open at a time,
    and gives a reply to each, in order."""
    talks, results = list(conversations), dict[int, T]()
    # The first step of a generator takes None.
    replies: dict[int, Any] = dict.fromkeys(range(len(talks)))
    while replies:
        requests: dict[int, Request] = {}
        for number, reply in replies.items():
            try:
                requests[number] = talks[number].send(reply)
            except StopIteration as end:
                results[number] = end.value
        answers = answer(list(requests.values())) if requests else ()
        replies = dict(zip(requests, answers, strict=True))
    return [results[number] for number in range(len(talks))]

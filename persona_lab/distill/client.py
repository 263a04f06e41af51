"""Requests in, the bodies of a server's replies out: what may be sent again is told from what ends.

Retries and waiting are ours: the client of the `openai` package only sends. Needs the network. The
key comes from the environment alone and goes nowhere but to the server.
"""

import asyncio
import json
import logging
import os
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from persona_lab.errors import UserError

if TYPE_CHECKING:
    import openai

    from persona_lab.distill.server import OpenAI

_log = logging.getLogger(__name__)

KEY = "OPENAI_API_KEY"
ROUTES = {"chat": "/chat/completions", "embeddings": "/embeddings"}
AGAIN = "run the same command again: nothing that was answered is asked again"
_LOCAL = ("localhost", "127.0.0.1", "::1")
_LONGEST_WAIT = 60.0
# Forms of an answer, and what is tried where a server refuses one: at last, no form.
_PLAINER = {"json_schema": "json_object", "json_object": None}

# Tests put a clock of their own here: servers ask to wait for minutes.
_now, _sleep = time.monotonic, asyncio.sleep

T = TypeVar("T")


@dataclass(eq=False)
class Failed(Exception):
    """An attempt that brought no answer, seconds that the server asks to wait, whether it may be
    billed all the same, and what came."""

    outcome: str
    wait: float = 0.0
    lost: bool = False
    body: str = ""


class Client:
    """One job's way to a server: clients of the `openai` package, those that are `free` and `api`
    for what is asked one at a time; `stopped` is what has ended the job."""

    def __init__(self, server: "OpenAI") -> None:
        # Imported here: it takes a second, and the package is an extra.
        try:
            import httpx2
            import openai
        except ImportError:
            raise UserError("the package openai is missing", "pip install openai") from None
        for name in ("openai", "httpx2"):
            # They would write a line for each call.
            logging.getLogger(name).setLevel(logging.WARNING)
        self._openai, self._raw, self._server = openai, httpx2.Response, server
        self._secret = os.environ.get(KEY, "").strip()
        self.free: asyncio.LifoQueue[openai.AsyncOpenAI] = asyncio.LifoQueue()
        # Each call in flight has a client of its own: one connection pool, which looks through all
        # of its connections at each request, takes a quarter of the time at 32.
        trust = httpx2.create_ssl_context()
        for _ in range(server.concurrency):
            self.api = openai.AsyncOpenAI(
                api_key=self._secret or "none",
                base_url=server.base_url,
                max_retries=0,
                timeout=server.timeout,
                http_client=openai.DefaultAsyncHttpxClient(verify=trust),
            )
            self.free.put_nowait(self.api)
        self.stopped: UserError | None = None
        self._until = 0.0
        self._form: str | None = "json_schema"

    async def close(self) -> None:
        """Close all connections."""
        while not self.free.empty():
            await self.free.get_nowait().close()

    async def turn(self) -> None:
        """Wait as long as the server asked for; raise what has ended the job."""
        await self.wait(self._until - _now())
        if self.stopped is not None:
            raise self.stopped

    async def wait(self, seconds: float) -> None:
        """Let others go on for so long."""
        if seconds > 0:
            await _sleep(seconds)

    async def retry(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """The outcome of what may fail for a while, or UserError after `max_attempts`."""
        server, failed = self._server, Failed("")
        for turn in range(server.max_attempts):
            await self.turn()
            try:
                return await attempt()
            except Failed as error:
                failed = error
                self._until = max(self._until, _now() + failed.wait)
                _log.debug("%s failed: %s", server.base_url, failed.outcome)
                if turn + 1 < server.max_attempts:
                    await _sleep(min(_LONGEST_WAIT, 2**turn / 2) * random.uniform(0.5, 1))
        what = f"{server.base_url} failed {server.max_attempts} times: {failed.outcome}"
        raise self._stop(UserError(what, AGAIN))

    async def surely(self, send: Callable[[], Awaitable[T]]) -> T:
        """What a client's call gives, tried until it does."""

        async def attempt() -> T:
            with self._errors():
                return await send()

        return await self.retry(attempt)

    async def post(self, request: Mapping[str, Any], client: "openai.AsyncOpenAI") -> str:
        """One attempt at a request; as plainly as the server asks for."""
        with self._errors():
            while True:
                path, body = ROUTES[request["route"]], self.body(request)
                try:
                    return (await client.post(path, body=body, cast_to=self._raw)).text
                except self._openai.BadRequestError as error:
                    refused = "response_format" in str(error) or "json_schema" in str(error)
                    if not (refused and "response_format" in body):
                        raise
                    # What is refused is not tried again, by others in flight either.
                    if (form := body["response_format"]["type"]) == self._form:
                        self._form = _PLAINER[form]

    def body(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The body of a request, with what holds the answer to a form as far as the server can."""
        if request.get("schema") is None or self._form is None:
            return dict(request["body"])
        schema = {"json_schema": request["schema"]} if self._form == "json_schema" else {}
        return {**request["body"], "response_format": {"type": self._form, **schema}}

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn a client's errors into Failed, where it may work later, or UserError."""
        url = self._server.base_url
        # Here, not at the job's beginning: what the ledger answers needs no key.
        if not self._secret and urlsplit(url).hostname not in _LOCAL:
            raise self._stop(UserError(f"{url} needs a key", f"export {KEY}=<the key>"))
        try:
            yield
        except self._openai.APITimeoutError:
            raise Failed("timeout", lost=True) from None
        except self._openai.APIConnectionError as error:
            cause = type(error.__cause__ or error).__name__
            raise Failed(f"connection: {cause}", lost=cause != "ConnectError") from None
        except self._openai.APIStatusError as error:
            status = error.status_code
            spent_up = getattr(error, "code", None) == "insufficient_quota"
            if (status not in (408, 409, 429) and status < 500) or spent_up:
                raise self._stop(self._refusal(error)) from None
            wait = _retry_after(error.response.headers)
            raise Failed(f"status {status}", wait, body=self.clean(error.response.text)) from None

    def clean(self, text: str, longest: int | None = 500) -> str:
        """A server's words without the key, should it repeat it."""
        return (text.replace(self._secret, "***") if self._secret else text)[:longest]

    def _refusal(self, error: "openai.APIStatusError") -> UserError:
        mend = f"{self._server.model} at {self._server.base_url} must know this request"
        if self._server.mode == "batch":
            mend += "; mode=sync asks one by one"
        mend = {
            401: f"export {KEY}=<a key that this server knows>",
            403: f"export {KEY}=<a key that this server knows>",
            404: "name another model or base_url",
            429: "the account has no credit left: add some and run the same command again",
        }.get(error.status_code, mend)
        text = " ".join(self.clean(str(error)).split())
        return UserError(f"the server refused: {text}", mend)

    def _stop(self, error: UserError) -> UserError:
        self.stopped = self.stopped or error
        return error


def usage(route: str, body: str) -> dict[str, int]:
    """Tokens that an answer took, named as in `Attempt`; raises Failed where it is no answer."""
    try:
        answer = json.loads(body)
        if route == "chat":
            message = answer["choices"][0]["message"]
            assert isinstance(message.get("content") or message.get("refusal") or "", str)
        else:
            assert all(row["embedding"] for row in answer["data"])
        counts = answer.get("usage") or {}
        details = counts.get("prompt_tokens_details") or {}
        return {
            "tokens_in": int(counts.get("prompt_tokens") or 0),
            "tokens_cached": int(details.get("cached_tokens") or 0),
            "tokens_out": int(counts.get("completion_tokens") or 0),
        }
    except (LookupError, ValueError, TypeError, AttributeError, AssertionError, RecursionError):
        # It may have been paid for: the ledger keeps it as it came.
        raise Failed("unreadable", lost=True, body=body) from None


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that a server asks to wait: a number or a date."""
    told = headers.get("retry-after", "0")
    with suppress(ValueError):
        return max(0.0, float(told))
    with suppress(ValueError):
        return max(0.0, parsedate_to_datetime(told).timestamp() - time.time())
    return 0.0

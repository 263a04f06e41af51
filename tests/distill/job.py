"""Runs jobs that tests kill: a line of arguments in, the job's process id out, then its status.

Each job is a fork of this process, which has imported what it needs: a hundred start in seconds.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import openai  # noqa: F401

from persona_lab.distill import Conversation, OpenAI, Request
from persona_lab.sources import Sources

FIELDS = {
    "model": "toy",
    "parameters": {},
    "prices": {"toy": {"input": 10.0, "cached": 5.0, "output": 100.0}},
    "batch_discount": 0.5,
    "budget": None,
    "mode": "sync",
    "concurrency": 16,
    "timeout": 180.0,
    "max_attempts": 10,
    "poll_seconds": 0.01,
}


def toy(url: str, **fields: Any) -> OpenAI:
    return OpenAI(base_url=url, **{**FIELDS, **fields})


def talk(user: int, calls: int) -> Conversation[str]:
    said = []
    for turn in range(calls):
        # What is asked next depends on what was said, as in a distillation.
        asked = f"{user}-{turn} {len(''.join(said))}"
        reply = yield Request((("system", "Be brief."), ("user", asked)), None, "talk/1")
        said.append(reply.text)
    return "\n".join(said)


def job(
    url: str,
    cache: str,
    out: str,
    users: int,
    calls: int,
    concurrency: int,
    mode: str = "sync",
) -> None:
    chat = toy(url, concurrency=concurrency, mode=mode, poll_seconds=0.02)
    start = time.perf_counter()
    texts = chat.converse((talk(user, calls) for user in range(users)), Sources(Path(cache)))
    seconds = time.perf_counter() - start
    Path(out).write_text("\n\n".join(texts))
    Path(f"{out}.seconds").write_text(str(seconds))


def main() -> None:
    for line in sys.stdin:
        if (pid := os.fork()) == 0:
            job(*json.loads(line))
            os._exit(0)
        print(pid, flush=True)
        print(os.waitpid(pid, 0)[1], flush=True)


if __name__ == "__main__":
    main()

"""A job that tests run and kill: <url> <cache> <users> <calls of each> <concurrency> <out>."""

import sys
import time
from pathlib import Path

from persona_lab.assets import Assets
from persona_lab.distill import Conversation, OpenAI, Request

PRICES = {"toy": {"input": 10.0, "cached": 5.0, "output": 100.0}}


def talk(user: int, calls: int) -> Conversation[str]:
    said = []
    for turn in range(calls):
        # What is asked next depends on what was said, as in a distillation.
        asked = f"{user}-{turn} {len(''.join(said))}"
        reply = yield Request((("system", "Be brief."), ("user", asked)), None, "talk/1")
        said.append(reply.text)
    return "\n".join(said)


def main(url: str, cache: str, users: str, calls: str, concurrency: str, out: str) -> None:
    chat = OpenAI("toy", url, prices=PRICES, concurrency=int(concurrency))
    start = time.perf_counter()
    texts = chat.converse(
        (talk(user, int(calls)) for user in range(int(users))), Assets(Path(cache))
    )
    print(time.perf_counter() - start)
    Path(out).write_text("\n\n".join(texts))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Five real users distilled by a real OpenAI-compatible server, and by the same model in process.

python experiments/distillation/served.py <transformers> <folder> [choices ...]

<transformers> is the program of an environment with `transformers[serving]`: it serves SmolLM2. The
whole flow runs on what the server wrote (`distiller=openai`) and again on what the same weights
wrote in the process (`distiller=local`); both runs' folders come into <folder>. Printed is what the
agents remember and what became of them.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from persona_lab import load_agents
from persona_lab.compose import configure
from persona_lab.evaluation import Result

NAME = "SmolLM2-135M-Instruct"
# The users with the fewest ratings: twelve to train on, two batches. One persona: where no profile
# is valid, the five are alike.
CHOICES = [
    *("data.n_users=5", "data.min_ratings=20", "data.max_ratings=20"),
    *("data.test_rows_per_user=null", "distiller.batch_size=6", "personas.n_personas=1"),
]
# Without do_sample this server takes the likeliest tokens, whatever the temperature asked for.
SAMPLING = json.dumps({"do_sample": True, "top_k": 50, "eos_token_id": 2, "pad_token_id": 2})
WRITERS = {
    "openai": [
        *("distiller=openai", f"distiller.chat.model={NAME}", "distiller.chat.concurrency=2"),
        "+distiller.chat.parameters.max_tokens=400",
        f"+distiller.chat.parameters.generation_config='{SAMPLING}'",
        "distiller.chat.timeout=600",
    ],
    "local": ["distiller=local", "distiller.chat.max_new_tokens=45"],
}
_PORT, _SECONDS_TO_START = 8765, 180


def main(transformers: str, folder: Path, choices: list[str]) -> None:
    """Run the flow on both writers' memories and print what they are."""
    with serving(transformers) as url:
        run(folder / "openai", [*WRITERS["openai"], f"distiller.chat.base_url={url}", *choices])
    run(folder / "local", [*WRITERS["local"], *choices])
    for writer in WRITERS:
        show(folder / writer)


@contextmanager
def serving(transformers: str) -> Iterator[str]:
    """Serve the weights of the embedded setup under a name that is no path; gives the base URL."""
    built = configure()
    weights = built.experiment.model.published(built.lab.sources)
    assert weights is not None
    with tempfile.TemporaryDirectory() as place:
        Path(place, NAME).symlink_to(weights)
        command = [transformers, "serve", NAME, "--device", "cpu", "--dtype", "float32"]
        command += ["--host", "127.0.0.1", "--port", str(_PORT)]
        server = subprocess.Popen(command, cwd=place, env=os.environ | {"HF_HUB_OFFLINE": "1"})
        try:
            until = time.monotonic() + _SECONDS_TO_START
            while not answers(f"http://127.0.0.1:{_PORT}/health"):
                assert server.poll() is None, "the server ended"
                assert time.monotonic() < until, "the server does not answer"
                time.sleep(1)
            yield f"http://127.0.0.1:{_PORT}/v1"
        finally:
            server.terminate()
            server.wait()


def answers(url: str) -> bool:
    """Whether something answers there."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except OSError:
        return False


def run(folder: Path, choices: list[str]) -> None:
    """The whole flow in a process of its own."""
    command = [sys.executable, "-m", "persona_lab", *CHOICES, *choices]
    subprocess.run([*command, f"hydra.run.dir={folder}"], check=True)


def show(folder: Path) -> None:
    """What the distiller counted, what it wrote, and what became of it."""
    result, agents = Result.load(folder), load_agents(folder)
    print(f"\n# {folder.name}: {result.cost['tokens']:,} tokens, {result.distillation}")
    rows = agents.prepared.memories.value.interactions
    for user_id, agent in agents.items():
        print(f"\n## {user_id}, persona {agent.persona}\n{agent.profile}")
        for text in rows.loc[rows["user_id"] == user_id, "text"].head(3):
            print(f"- {text}")
    print(f"\n{result.metrics}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])

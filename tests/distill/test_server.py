"""An OpenAI-compatible server on the loopback: faults, money, batches, kills, and no call twice."""

import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
from pydantic import BaseModel

from persona_lab.cache import NotAtHand
from persona_lab.data import Cost
from persona_lab.distill import (
    Conversation,
    LlmMovieInfo,
    OpenAI,
    Reply,
    Request,
    client,
    ledger,
    server,
)
from persona_lab.errors import UserError
from persona_lab.memory import ServerEmbedder
from persona_lab.sources import Sources

from .job import talk, toy
from .server import Server

JOB = Path(__file__).with_name("job.py")


@pytest.fixture
def loopback(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "journal").running() as running:
        yield running


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waiting takes no time; what was waited for is listed."""
    waited: list[float] = []
    sleep = client._sleep

    async def wait(seconds: float) -> None:
        waited.append(seconds)
        await sleep(0)

    monkeypatch.setattr(client, "_now", lambda: time.monotonic() + sum(waited))
    monkeypatch.setattr(client, "_sleep", wait)
    return waited


def chat(loopback: Server, **fields: Any) -> OpenAI:
    return toy(loopback.url, **fields)


def once(text: str, schema: type[BaseModel] | None = None) -> Conversation[Reply]:
    return (yield Request((("user", text),), schema, "once/1"))


def outcomes(cache: Path) -> dict[str, int]:
    return {row["outcome"]: row["attempts"] for row in ledger.totals(Sources(cache).ledger)}


def test_nothing_is_asked_twice(loopback: Server, tmp_path: Path) -> None:
    llm = chat(loopback)
    first = llm.converse([talk(user, 3) for user in range(4)], Sources(tmp_path))
    assert first == llm.converse([talk(user, 3) for user in range(4)], Sources(tmp_path))
    assert set(loopback.asked().values()) == {1}
    assert loopback.asked().total() == 12
    # 60 tokens at 10, 40 cached ones at 5 and 10 of the answer at 100, for a million each.
    (row,) = ledger.totals(Sources(tmp_path).ledger)
    assert row["money"] == pytest.approx(12 * 1800e-6)
    assert llm.price(100, 10) == pytest.approx(2000e-6)
    assert replace(llm, mode="batch").price(100, 10) == pytest.approx(1000e-6)


def test_equal_requests_are_one_call_and_samples_are_not(loopback: Server, tmp_path: Path) -> None:
    def again(sample: int) -> Conversation[Reply]:
        return (yield Request((("user", "same"),), None, "once/1", sample))

    chat(loopback).converse([again(sample) for sample in (0, 0, 1)], Sources(tmp_path))
    assert loopback.asked() == {"same": 2}


@pytest.mark.parametrize("retry_after", [0, 2, 300])
def test_a_storm_passes(
    loopback: Server, tmp_path: Path, clock: list[float], retry_after: int
) -> None:
    faults = [f"429:{retry_after}"] * 4 + ["500", "503", "reset", "cut", "truncated"]
    loopback.faults = list(faults)
    texts = chat(loopback, max_attempts=20).converse(
        [talk(user, 2) for user in range(6)], Sources(tmp_path)
    )
    assert all(len(text.splitlines()) == 2 for text in texts)
    found = outcomes(tmp_path)
    assert found.pop("answered") == 12
    assert sum(found.values()) == len(faults)
    assert (found["status 429"], found["status 500"], found["unreadable"]) == (4, 1, 1)
    # Lost on the way, a reply may have been paid for: the ledger counts what it can have cost.
    lost = [row["money"] for row in ledger.totals(Sources(tmp_path).ledger)]
    assert sum(money > 0 for money in lost) == len(found) - 3 + 1
    # What passed between the reply and the wait is taken off: seconds on a loaded machine.
    assert max(clock) > retry_after - 5
    assert max(clock) < retry_after + client._LONGEST_WAIT


def test_a_time_out_is_asked_again(loopback: Server, tmp_path: Path) -> None:
    loopback.faults = ["timeout"]
    (reply,) = chat(loopback, timeout=0.5).converse([once("hello")], Sources(tmp_path))
    assert reply.text == "heard hello"
    assert outcomes(tmp_path) == {"answered": 1, "timeout": 1}


def test_odd_replies_reach_the_algorithm(loopback: Server, tmp_path: Path) -> None:
    asked = ["REFUSE", "EMPTY", "LONG"]
    refused, empty, long = chat(loopback).converse(map(once, asked), Sources(tmp_path))
    assert (refused.text, refused.refused) == ("I will not.", True)
    assert (empty.text, empty.refused) == ("", False)
    assert len(long.text.split()) == 2500
    assert outcomes(tmp_path) == {"answered": 3}


def test_a_server_without_schemas_is_asked_plainly(loopback: Server, tmp_path: Path) -> None:
    class Answer(BaseModel):
        word: str

    loopback.plain = {"json_schema", "json_object"}
    replies = chat(loopback).converse(
        [once(f"hello {n}", Answer) for n in range(3)], Sources(tmp_path)
    )
    assert [reply.text for reply in replies] == [f"heard hello {n}" for n in range(3)]
    assert outcomes(tmp_path) == {"answered": 3}


def test_a_server_that_never_answers_ends_the_run(
    loopback: Server, tmp_path: Path, clock: list[float]
) -> None:
    loopback.faults = ["503"] * 50
    with pytest.raises(UserError, match="failed 4 times: status 503"):
        chat(loopback, max_attempts=4).converse([once("a"), once("b")], Sources(tmp_path))
    assert outcomes(tmp_path)["status 503"] <= 8
    loopback.faults = ["401"]
    with pytest.raises(UserError, match="export OPENAI_API_KEY"):
        chat(loopback).converse([once("c")], Sources(tmp_path))


def test_a_budget_ends_before_it_is_passed_and_goes_on(loopback: Server, tmp_path: Path) -> None:
    def run(budget: float | None) -> list[str]:
        talks = [talk(user, 5) for user in range(8)]
        return chat(loopback, budget=budget, concurrency=4).converse(talks, Sources(tmp_path))

    with pytest.raises(UserError, match=r"the budget of 0\.44 ends here"):
        run(0.44)
    spent = sum(row["money"] for row in ledger.totals(Sources(tmp_path).ledger))
    # The last call that would not fit can cost 0.42 at most, and costs 0.0018.
    assert 0.02 < spent <= 0.44
    done = loopback.asked().total()
    with pytest.raises(UserError, match=r"the budget of 0\.44 ends here"):
        run(0.44)
    assert loopback.asked().total() == done < 40
    run(5.0)
    assert loopback.asked().total() == 40
    assert set(loopback.asked().values()) == {1}
    with pytest.raises(UserError, match="other has no price"):
        replace(chat(loopback, budget=1.0), model="other").converse([], Sources(tmp_path))


@pytest.mark.parametrize("fault", ["truncated", "cut", "reset"])
def test_attempts_that_were_lost_use_up_the_budget(
    loopback: Server, tmp_path: Path, clock: list[float], fault: str
) -> None:
    loopback.faults = [fault] * 20
    # A call can cost 0.42 at most: two of them fit, and so no third attempt at any.
    with pytest.raises(UserError, match="the budget of 1 ends here"):
        chat(loopback, budget=1.0).converse([once("a"), once("b"), once("c")], Sources(tmp_path))
    paid = ledger.totals(Sources(tmp_path).ledger)
    assert sum(row["attempts"] for row in paid) == 2
    assert 0.8 < sum(row["money"] for row in paid) <= 1


def test_what_is_in_flight_at_the_end_is_in_the_ledger(loopback: Server, tmp_path: Path) -> None:
    loopback.faults = ["timeout"] * 3

    def interrupt() -> None:
        until = time.monotonic() + 60
        while loopback.open < 3 and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    # A shell starts what it runs in the background with this signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            chat(loopback).converse([once(text) for text in "abc"], Sources(tmp_path))
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    (row,) = ledger.totals(Sources(tmp_path).ledger)
    assert (row["outcome"], row["attempts"]) == ("cancelled", 3)
    assert row["money"] > 3 * 0.4
    (reply,) = chat(loopback).converse([once("a")], Sources(tmp_path))
    assert reply.text == "heard a"


@pytest.mark.parametrize("mode", ["sync", "batch"])
def test_only_what_the_ledger_does_not_answer_needs_a_key(
    loopback: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: Literal["sync", "batch"],
) -> None:
    monkeypatch.setattr(client, "_LOCAL", ())
    monkeypatch.setenv(client.KEY, "sk-planted")
    llm = chat(loopback, mode=mode)
    paid = llm.converse([talk(user, 2) for user in range(3)], Sources(tmp_path / "paid"))
    monkeypatch.delenv(client.KEY)
    elsewhere = Sources(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    ledger.import_lines(elsewhere.ledger, ledger.export(Sources(tmp_path / "paid").ledger))
    assert llm.converse([talk(user, 2) for user in range(3)], elsewhere) == paid
    with pytest.raises(UserError, match=r"needs a key \(export OPENAI_API_KEY"):
        llm.converse([talk(0, 3), once("new")], elsewhere)
    assert loopback.asked().total() == 6
    assert loopback.keys == {"bearer sk-planted"}


def test_batches_cost_half_and_give_the_same(loopback: Server, tmp_path: Path) -> None:
    talks = lambda: [talk(user, 2) for user in range(3)]  # noqa: E731
    one_by_one = chat(loopback).converse(talks(), Sources(tmp_path / "sync"))
    batched = chat(loopback, mode="batch")
    assert batched.converse(talks(), Sources(tmp_path / "batch")) == one_by_one
    assert len(loopback.batches) == 2
    paid = [
        sum(row["money"] for row in ledger.totals(Sources(tmp_path / name).ledger))
        for name in ("sync", "batch")
    ]
    assert paid[1] == pytest.approx(paid[0] / 2)


def test_a_batch_holds_what_the_budget_covers(loopback: Server, tmp_path: Path) -> None:
    # Of 0.21 at most each, and 0.0009 in the end.
    batched = chat(loopback, mode="batch", budget=0.5)
    replies = batched.converse([once(text) for text in "abcde"], Sources(tmp_path))
    assert [reply.text for reply in replies] == [f"heard {text}" for text in "abcde"]
    inputs = [loopback.files[batch["input_file_id"]] for batch in loopback.batches.values()]
    assert [lines.count("custom_id") for lines in inputs] == [2, 2, 1]
    # What fits goes first, whatever its place.
    with pytest.raises(UserError, match=r"the budget of 0\.5 ends here"):
        batched.converse([once("long " * 20_000), once("short")], Sources(tmp_path))
    assert [text[:5] for text in loopback.asked() - Counter("abcde")] == ["short"]


def test_any_line_of_a_batch_can_be_read_or_is_asked_again(
    loopback: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    done, odd = loopback._done, ["{", "7", "{}", '{"custom_id": "x", "response": 7}']

    def lines(batch: dict[str, Any]) -> Iterator[str]:
        kept = [json.dumps(json.loads(line), ensure_ascii=False) for line in done(batch)]
        return iter([*odd, "", *kept[1:], ""] if len(loopback.batches) == 1 else kept)

    monkeypatch.setattr(loopback, "_done", lines)
    batched = chat(loopback, mode="batch")
    asked = ["a", "one\u2028two\u0085three"]
    replies = batched.converse(map(once, asked), Sources(tmp_path))
    assert [reply.text for reply in replies] == [f"heard {text}" for text in asked]
    assert len(loopback.batches) == 2
    assert caplog.text.count("a line of a batch cannot be read") == len(odd)
    assert outcomes(tmp_path) == {"answered": 2}


def test_a_server_that_takes_no_batch_is_told_with_a_mend(
    loopback: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    route = loopback._route

    def refusing(method: str, path: str, body: bytes) -> tuple[int, bytes]:
        if (method, path) == ("POST", "/batches"):
            return 400, b'{"error": {"message": "no batches here"}}'
        return route(method, path, body)

    monkeypatch.setattr(loopback, "_route", refusing)
    with pytest.raises(UserError, match=r"no batches here.*mode=sync asks one by one"):
        chat(loopback, mode="batch").converse([once("a")], Sources(tmp_path))


@pytest.mark.parametrize("killed", ["before the id is kept", "after"])
def test_a_batch_killed_before_it_is_collected_is_collected_once(
    loopback: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: str
) -> None:
    batched = chat(loopback, mode="batch")
    loopback.finished = False

    class Killed(BaseException):
        pass

    hand = ledger.Ledger.hand

    def kill(*_: Any) -> None:
        raise Killed

    def kill_at_name(*args: Any, to: str | None = None) -> Any:
        return kill() if to and "batch-0" in to else hand(*args, to=to)

    before = killed.startswith("before")
    with monkeypatch.context() as patch:
        patch.setattr(ledger.Ledger, *(("hand", kill_at_name) if before else ("batch", kill)))
        with pytest.raises(Killed):
            batched.converse([once("a"), once("b")], Sources(tmp_path))
    assert len(loopback.batches) == 1
    loopback.finished = True
    replies = batched.converse([once("a"), once("b")], Sources(tmp_path))
    assert [reply.text for reply in replies] == ["heard a", "heard b"]
    assert len(loopback.batches) == 1
    assert loopback.asked() == {"a": 1, "b": 1}


def test_embeddings(loopback: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_TEXTS", 4)
    texts = [f"text {n}" for n in range(10)]
    vectors, cost = chat(loopback).embed(texts, Sources(tmp_path))
    assert vectors.shape == (10, 4)
    assert cost == Cost(3, 20, 0, pytest.approx(200e-6))
    again, same_cost = chat(loopback).embed(texts, Sources(tmp_path))
    assert (vectors == again).all()
    assert same_cost == cost
    assert len(np.unique(vectors, axis=0)) == 10
    assert loopback.asked().total() == 3


def test_vectors_are_those_of_their_texts(
    loopback: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"text {n}" for n in range(4)]
    vectors, _ = chat(loopback).embed(texts, Sources(tmp_path / "in order"))
    reply = loopback._reply

    def answering(change: Callable[[list[Any]], list[Any]]) -> None:
        def changed(path: str, question: dict[str, Any]) -> dict[str, Any]:
            told = reply(path, question)
            rows = [{**row, "index": place} for place, row in enumerate(told["data"])]
            return {**told, "data": change(rows)}

        monkeypatch.setattr(loopback, "_reply", changed)

    answering(lambda rows: rows[::-1])
    turned, _ = chat(loopback).embed(texts, Sources(tmp_path / "turned"))
    assert (turned == vectors).all()
    for n, wrong in enumerate([lambda rows: rows[1:], lambda rows: [*rows, rows[0]]]):
        answering(wrong)
        with pytest.raises(UserError, match=r"vectors 0 to 3.*\(name another model or base_url\)"):
            chat(loopback).embed(texts, Sources(tmp_path / f"wrong {n}"))


def test_an_embedder_gives_vectors_of_length_1(loopback: Server, tmp_path: Path) -> None:
    embedder = ServerEmbedder("toy", chat(loopback))
    vectors, cost = embedder.load(Sources(tmp_path))(["one", "two"])
    assert (cost.calls, cost.tokens) == (1, 2)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1)


def test_movies_are_told_by_the_llm(loopback: Server, tmp_path: Path) -> None:
    movies = pd.DataFrame(
        {
            "item_id": [3, 5],
            "title": ["Quiet Harbor", "Iron Parade"],
            "year": pd.array([1999, None], dtype="Int64"),
            "genres": ["Drama", "War"],
        },
        index=[7, 9],
    )
    told = '{"summary": "Boats  off {title}.", "cast": "Ann Lee", "director": ""}'
    info = LlmMovieInfo(chat(loopback), "Say what you know.", told, version=1)
    texts, cost = info.read(movies, Sources(tmp_path))
    assert cost == Cost(2, 200, 20, pytest.approx(2 * 1800e-6))
    assert texts["item_id"].tolist() == [3, 5]
    assert texts["summary"].tolist() == ["Boats off Quiet Harbor.", "Boats off Iron Parade."]
    assert texts["cast"].tolist() == ["Ann Lee", "Ann Lee"]
    assert texts["director"].tolist() == ["", ""]
    # No JSON in any of three replies: nothing is known of the movie.
    unknown = LlmMovieInfo(chat(loopback), "Say what you know.", "{title} {year}", version=1)
    texts, cost = unknown.read(movies, Sources(tmp_path))
    assert (texts[["summary", "cast"]] == "").all(axis=None)
    # Replies of no use were paid for like any other.
    assert cost.calls == 6
    assert loopback.asked()["Iron Parade unknown"] == 3


def test_nobody_is_asked_where_that_is_ruled_out(loopback: Server, tmp_path: Path) -> None:
    with pytest.raises(NotAtHand):
        chat(loopback).converse([once("a")], Sources(tmp_path, offline=True))
    assert not loopback.asked()


def test_the_key_stays_where_it_is(
    loopback: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    planted = "sk-planted-0123456789"
    monkeypatch.setenv(client.KEY, planted)
    caplog.set_level(logging.DEBUG)
    loopback.faults = ["500", "429:0"]
    chat(loopback).converse([once("hello"), once("other")], Sources(tmp_path / "c"))
    loopback.faults = ["401"]
    with pytest.raises(UserError) as caught:
        chat(loopback).converse([once("third")], Sources(tmp_path / "c"))
    # The server's refusal repeats the key.
    assert "401" in str(caught.value)
    files = [file.read_bytes() for file in (tmp_path / "c").rglob("*") if file.is_file()]
    assert not any(planted.encode() in content for content in files)
    assert loopback.keys == {f"bearer {planted}"}
    assert planted not in f"{caught.value!r} {caplog.text}"
    monkeypatch.delenv(client.KEY)
    with pytest.raises(UserError, match="export OPENAI_API_KEY"):
        toy("https://api.openai.com/v1").converse([once("hello")], Sources(tmp_path / "d"))
    with pytest.raises(UserError, match="base_url holds credentials"):
        toy("http://me:secret@localhost/v1").converse([], Sources(tmp_path / "d"))


class Jobs:
    """Starts jobs from a process that has imported what they need, one at a time."""

    def __init__(self, url: str) -> None:
        self.url, self.at = url, 0
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([sys.executable, str(JOB)], **pipes)

    def start(self, cache: Path, *arguments: int | str) -> Path:
        """Begin a job: users, calls of each, concurrency and mode; its output file."""
        assert self.process.stdin
        out = cache / f"out-{os.urandom(4).hex()}"
        line = json.dumps([self.url, str(cache), str(out), *arguments])
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        self.at = self._read()
        return out

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.at, signal.SIGKILL)
        assert self._read() in (signal.SIGKILL, 0)

    def end(self) -> None:
        assert self._read() == 0

    def close(self) -> None:
        self.process.communicate(timeout=60)

    def _read(self) -> int:
        assert self.process.stdout
        return int(self.process.stdout.readline())


@pytest.fixture
def jobs(loopback: Server) -> Iterator[Jobs]:
    started = Jobs(loopback.url)
    yield started
    started.close()


def test_two_jobs_ask_once(loopback: Server, tmp_path: Path, jobs: Jobs) -> None:
    loopback.latency = 0.02
    other = Jobs(loopback.url)
    both = [each.start(tmp_path, 10, 4, 5) for each in (jobs, other)]
    for each in (jobs, other):
        each.end()
    other.close()
    assert set(loopback.asked().values()) == {1}
    assert loopback.asked().total() == 40
    assert both[0].read_bytes() == both[1].read_bytes()


def test_a_batch_outlives_its_job(loopback: Server, tmp_path: Path, jobs: Jobs) -> None:
    loopback.finished = False
    jobs.start(tmp_path, 3, 1, 1, "batch")
    until = time.monotonic() + 60
    while not loopback.batches:
        assert time.monotonic() < until
        time.sleep(0.002)
    jobs.kill()
    loopback.finished = True
    out = jobs.start(tmp_path, 3, 1, 1, "batch")
    jobs.end()
    assert out.exists()
    assert len(loopback.batches) == 1
    assert set(loopback.asked().values()) == {1}
    assert loopback.asked().total() == 3


def answered(cache: Path) -> set[str]:
    """The questions whose answers are committed."""
    path = Sources(cache).ledger
    rows = map(json.loads, ledger.export(path) if path.exists() else ())
    return {row["request"]["body"]["messages"][-1]["content"] for row in rows}


@pytest.mark.parametrize(
    ("kills", "users"), [(5, 20), pytest.param(100, 100, marks=pytest.mark.long)]
)
def test_kills_cost_at_most_what_is_in_flight(
    loopback: Server, tmp_path: Path, jobs: Jobs, kills: int, users: int
) -> None:
    in_flight, calls = 4, 5
    loopback.latency = 0.05
    draw = random.Random(0)
    total, begun = users * calls, time.monotonic()
    settled: dict[str, int] = {}
    for goal in sorted(draw.sample(range(total), kills)):
        jobs.start(tmp_path, users, calls, in_flight)
        until = time.monotonic() + 60
        while len(loopback.asked()) < goal:
            assert time.monotonic() < until
            time.sleep(0.002)
        time.sleep(loopback.latency * draw.random())
        jobs.kill()
        # What was on its way is asked, whoever waits for the answer.
        time.sleep(loopback.latency)
        while loopback.open:
            time.sleep(0.002)
        asked = loopback.asked()
        settled = {question: asked[question] for question in answered(tmp_path)} | settled
    resumed = jobs.start(tmp_path, users, calls, in_flight)
    jobs.end()
    asked = loopback.asked()
    repeated = asked.total() - total
    seconds = time.monotonic() - begun
    print(f"{kills} kills, {total} calls, {repeated} repeated, {seconds:.0f} s")
    assert len(asked) == total
    assert 0 <= repeated <= kills * in_flight
    assert settled
    assert {question: asked[question] for question in settled} == settled
    undisturbed = jobs.start(tmp_path / "undisturbed", users, calls, in_flight)
    jobs.end()
    assert undisturbed.read_bytes() == resumed.read_bytes()


@pytest.mark.long
def test_throughput(loopback: Server, tmp_path: Path, jobs: Jobs) -> None:
    loopback.latency = 0.2
    out = jobs.start(tmp_path, 64, 90, 64)
    jobs.end()
    rate = 64 * 90 / float(Path(f"{out}.seconds").read_text())
    print(f"{rate:.0f} calls/s of {64 / 0.2:.0f}")
    assert loopback.most == 64
    assert rate >= 0.9 * 64 / 0.2

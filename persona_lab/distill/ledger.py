"""Calls of an LLM in, their answers out of one SQLite file: nothing paid is ever paid twice.

A call is known by the hash of its canonical request. Its raw answer is committed before anyone
reads it, every attempt is kept with its tokens and money, and a call in flight has an owner, so
that of several jobs one asks and the others wait. An owner lives while it holds a lock, which the
system frees when it dies. For jobs of one machine: SQLite's write-ahead log is not for network file
systems. A locked file for each call would need no database, but commits half as many answers a
second with 32 calls in flight, a third with 64, and takes six times the processor's time.
"""

import hashlib
import json
import queue
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeVar

from filelock import FileLock, Timeout

from persona_lab.cache import locked
from persona_lab.data import Cost
from persona_lab.errors import UserError

_SCHEMA = 2
_TABLES = """
CREATE TABLE IF NOT EXISTS calls (
    key TEXT PRIMARY KEY, purpose TEXT NOT NULL, model TEXT NOT NULL, request TEXT NOT NULL,
    owner TEXT, at_most REAL NOT NULL);
CREATE TABLE IF NOT EXISTS attempts (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL, at REAL NOT NULL, seconds REAL NOT NULL,
    outcome TEXT NOT NULL, tokens_in INTEGER NOT NULL, tokens_cached INTEGER NOT NULL,
    tokens_out INTEGER NOT NULL, money REAL NOT NULL, body TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS attempts_of ON attempts (key);
CREATE UNIQUE INDEX IF NOT EXISTS answers ON attempts (key) WHERE outcome = 'answered';
CREATE TABLE IF NOT EXISTS batches (token TEXT PRIMARY KEY, id TEXT, owner TEXT NOT NULL);
"""
# Owners of version 1 showed life by moving on the time at which they expire.
_FROM_1 = """
ALTER TABLE batches RENAME TO expiring;
CREATE TABLE batches (token TEXT PRIMARY KEY, id TEXT, owner TEXT NOT NULL);
INSERT INTO batches SELECT token, id, owner FROM expiring;
DROP TABLE expiring;
"""
_NEW_CALL = (
    "INSERT OR IGNORE INTO calls (key, purpose, model, request, owner, at_most) "
    "VALUES (?, ?, ?, ?, ?, ?)"
)
_TOKENS = ("tokens_in", "tokens_cached", "tokens_out")
_MOST_AT_ONCE = 1000
_BATCH = "batch:"

T = TypeVar("T")


@dataclass(frozen=True)
class Call:
    """What a server is asked.

    Attributes:
        purpose: Name and version of the prompt.
        model: Name of the model.
        request: All that the answer depends on, JSON-able.
        at_most: What it can cost at most.
    """

    purpose: str
    model: str
    request: Mapping[str, Any]
    at_most: float = 0.0

    @cached_property
    def canonical(self) -> str:
        """The request as text: equal for equal requests."""
        return json.dumps(
            self.request, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )

    @cached_property
    def key(self) -> str:
        """SHA-256 of the canonical request, 64 hex digits."""
        return hashlib.sha256(self.canonical.encode()).hexdigest()


@dataclass(frozen=True)
class Attempt:
    """One try at a call.

    Attributes:
        outcome: `answered`, or what went wrong.
        body: What came, as it came; "" where nothing did.
        tokens_in: Tokens of the prompt.
        tokens_cached: Those of them from the server's cache.
        tokens_out: Tokens of the answer.
        money: Its price; of one that was lost on the way, what it can have cost at most.
        seconds: How long it took.
    """

    outcome: str
    body: str = ""
    tokens_in: int = 0
    tokens_cached: int = 0
    tokens_out: int = 0
    money: float = 0.0
    seconds: float = 0.0

    @property
    def cost(self) -> Cost:
        """That of one call."""
        return Cost(1, self.tokens_in, self.tokens_out, self.money)


@dataclass(frozen=True)
class Claim:
    """What the ledger says of a call.

    Attributes:
        answer: Its answer; None where it has none yet.
        ours: Whether it is now for us to ask.
        batch: Token of the batch that will bring the answer, None where there is no such batch.
        lost: What other attempts at it may have cost.
    """

    answer: Attempt | None = None
    ours: bool = False
    batch: str | None = None
    lost: float = 0.0


class Ledger:
    """The file, open for one process; used as a context manager.

    One thread writes, and commits together what has come together: a disk's slow flush is shared
    by all calls in flight.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._owner = uuid.uuid4().hex
        self._life = self._lock(self._owner)
        self._work: queue.SimpleQueue[tuple[Callable[[sqlite3.Connection], Any], Future] | None]
        self._work = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="ledger", daemon=True)

    def __enter__(self) -> Self:
        with closing(_connect(self._path)):
            self._life.acquire()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        free = "UPDATE calls SET owner = NULL WHERE owner = ?"
        self._do(lambda db: db.execute(free, (self._owner,)))
        self._work.put(None)
        self._thread.join()
        self._life.release()
        Path(self._life.lock_file).unlink(missing_ok=True)

    def claim(self, call: Call) -> Future[Claim]:
        """The call's answer, or who is to ask."""
        return self._do(lambda db: self._claim(db, call))

    def record(self, key: str, attempt: Attempt) -> Future[Attempt]:
        """Keep an attempt; the answer of a call that has one already is that one."""

        def insert(db: sqlite3.Connection) -> Attempt:
            kept = _insert(db, key, attempt)
            if attempt.outcome != "answered":
                return attempt
            db.execute("UPDATE calls SET owner = NULL WHERE key = ?", (key,))
            return attempt if kept else _answer(db, key) or attempt

        return self._do(insert)

    def release(self, keys: Iterable[str], token: str | None = None) -> Future[None]:
        """Leave calls of ours, or of a batch, to whoever asks next."""
        owner = self._owner if token is None else _BATCH + token
        held = [(key, owner) for key in keys]
        sql = "UPDATE calls SET owner = NULL WHERE key = ? AND owner = ?"
        return self._do(lambda db: db.executemany(sql, held) and None)

    def announce(self, token: str, keys: Sequence[str]) -> Future[None]:
        """Hand our calls to a batch that is about to be submitted."""

        def move(db: sqlite3.Connection) -> None:
            db.execute("INSERT INTO batches VALUES (?, NULL, ?)", (token, self._owner))
            sql = "UPDATE calls SET owner = ? WHERE key = ?"
            db.executemany(sql, [(_BATCH + token, key) for key in keys])

        return self._do(move)

    def submitted(self, token: str, batch_id: str) -> Future[None]:
        """Keep the server's name of a batch."""
        sql = "UPDATE batches SET id = ? WHERE token = ?"
        return self._do(lambda db: db.execute(sql, (batch_id, token)) and None)

    def batch(self, token: str) -> Future[tuple[str | None, bool, list[str]]]:
        """The server's name of a batch, whether its submitter lives, and the calls it holds."""

        def read(db: sqlite3.Connection) -> tuple[str | None, bool, list[str]]:
            sql = "SELECT id, owner FROM batches WHERE token = ?"
            name, owner = db.execute(sql, (token,)).fetchone()
            held = db.execute("SELECT key FROM calls WHERE owner = ?", (_BATCH + token,))
            return name, self._lives(owner), [key for (key,) in held]

        return self._do(read)

    def _claim(self, db: sqlite3.Connection, call: Call) -> Claim:
        # As few statements as can be: between two of them this thread waits for the others' turn.
        row = (call.key, call.purpose, call.model, call.canonical, self._owner, call.at_most)
        if db.execute(_NEW_CALL, row).rowcount:
            return Claim(ours=True)
        sql = "SELECT total(money) FROM attempts WHERE key = ? AND outcome != 'answered'"
        (lost,) = db.execute(sql, (call.key,)).fetchone()
        if answer := _answer(db, call.key):
            return Claim(answer, lost=lost)
        sql = "SELECT owner, at_most FROM calls WHERE key = ?"
        owner, at_most = db.execute(sql, (call.key,)).fetchone()
        if owner is not None:
            if owner.startswith(_BATCH):
                return Claim(batch=owner.removeprefix(_BATCH), lost=lost)
            if self._lives(owner):
                return Claim(lost=lost)
            # Its owner died while it was in flight: it may have been answered, and paid for.
            _insert(db, call.key, Attempt("abandoned", money=at_most))
            lost += at_most
        sql = "UPDATE calls SET owner = ?, at_most = ? WHERE key = ?"
        db.execute(sql, (self._owner, call.at_most, call.key))
        return Claim(ours=True, lost=lost)

    def _lock(self, owner: str) -> FileLock:
        return FileLock(self._path.with_name(f".{self._path.name}.{owner}.lock"))

    def _lives(self, owner: str) -> bool:
        if owner == self._owner:
            return True
        lock = self._lock(owner)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)
        return False

    def _do(self, work: Callable[[sqlite3.Connection], T]) -> Future[T]:
        future: Future[T] = Future()
        self._work.put((work, future))
        return future

    def _write(self) -> None:
        with closing(_connect(self._path)) as db:
            running = True
            while running:
                jobs = [self._work.get()]
                with suppress(queue.Empty):
                    while len(jobs) < _MOST_AT_ONCE:
                        jobs.append(self._work.get_nowait())
                running = None not in jobs
                todo = [job for job in jobs if job is not None]
                try:
                    db.execute("BEGIN IMMEDIATE")
                    results = [work(db) for work, _ in todo]
                    db.execute("COMMIT")
                except Exception as error:
                    with suppress(sqlite3.Error):
                        db.execute("ROLLBACK")
                    for _, future in todo:
                        if future.set_running_or_notify_cancel():
                            future.set_exception(error)
                else:
                    for (_, future), result in zip(todo, results, strict=True):
                        # Whoever asked may have been cancelled meanwhile.
                        if future.set_running_or_notify_cancel():
                            future.set_result(result)


def totals(path: Path) -> list[dict[str, Any]]:
    """What was asked and paid: one row per purpose, model and outcome."""
    sums = ", ".join(f"sum({name}) AS {name}" for name in (*_TOKENS, "money"))
    return _read(
        path,
        f"SELECT purpose, model, outcome, count(*) AS attempts, {sums} "
        "FROM attempts JOIN calls USING (key) GROUP BY purpose, model, outcome ORDER BY 1, 2, 3",
    )


def attempts(path: Path) -> list[dict[str, Any]]:
    """Every attempt in the order of time, without what was asked and answered."""
    return _read(
        path,
        "SELECT datetime(at, 'unixepoch') AS at, substr(key, 1, 12) AS key, purpose, model, "
        f"outcome, {', '.join(_TOKENS)}, money, round(seconds, 2) AS seconds "
        "FROM attempts JOIN calls USING (key) ORDER BY attempts.at, attempts.id",
    )


def export(path: Path) -> Iterator[str]:
    """Every answered call as a line of JSON, sorted by key."""
    rows = _read(
        path,
        f"SELECT key, purpose, model, request, {', '.join(_TOKENS)}, money, body "
        "FROM attempts JOIN calls USING (key) WHERE outcome = 'answered' ORDER BY key",
    )
    for row in rows:
        yield json.dumps({**row, "request": json.loads(row["request"])})


def import_lines(path: Path, lines: Iterable[str]) -> int:
    """Add what `export` wrote, all or nothing; number of calls that were not yet answered.

    Raises:
        UserError: A line is not of an export, or its request is not that of its key.
    """
    added = 0
    mend = "give a file that python -m persona_lab.ledger export wrote"
    with closing(_connect(path)) as db:
        db.execute("BEGIN IMMEDIATE")
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                call = Call(row["purpose"], row["model"], row["request"])
                counts = {name: row[name] for name in (*_TOKENS, "money")}
                answer = Attempt("answered", row["body"], **counts)
                same = call.key == row["key"]
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"line {number} is not of an export", mend) from error
            if not same:
                raise UserError(f"line {number} has another key than its request", mend)
            db.execute(_NEW_CALL, (call.key, call.purpose, call.model, call.canonical, None, 0))
            added += _insert(db, call.key, answer)
        db.execute("COMMIT")
    return added


def _connect(path: Path) -> sqlite3.Connection:
    """Open the file, made with its tables where it is not there.

    Raises:
        UserError: It is no ledger, or of another version, or cannot be written.
    """
    try:
        # SQLite does not wait for another job that turns to the write-ahead log at the same time.
        with locked(path):
            db = sqlite3.connect(path, timeout=60, isolation_level=None)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if make := {0: _TABLES, 1: _FROM_1}.get(version):
                db.executescript(f"BEGIN;{make}PRAGMA user_version = {_SCHEMA};COMMIT;")
    except sqlite3.Error as error:
        mend = "name a cache folder that can be written, or move the file away"
        raise UserError(f"the ledger {path} cannot be used: {error}", mend) from error
    if version not in range(_SCHEMA + 1):
        mend = "read it with the version that wrote it"
        raise UserError(f"the ledger {path} has version {version}, not {_SCHEMA}", mend)
    return db


def _read(path: Path, sql: str) -> list[dict[str, Any]]:
    if not path.is_file():
        raise UserError(f"there is no ledger {path}", "name the cache folder with --cache")
    with closing(_connect(path)) as db:
        db.row_factory = sqlite3.Row
        return [dict(row) for row in db.execute(sql)]


def _answer(db: sqlite3.Connection, key: str) -> Attempt | None:
    columns = ", ".join(field.name for field in fields(Attempt))
    sql = f"SELECT {columns} FROM attempts WHERE key = ? AND outcome = 'answered'"
    row = db.execute(sql, (key,)).fetchone()
    return None if row is None else Attempt(*row)


def _insert(db: sqlite3.Connection, key: str, attempt: Attempt) -> int:
    """Add an attempt, if it is no second answer; number of rows that this adds."""
    row = {"key": key, "at": time.time(), **asdict(attempt)}
    sql = f"INSERT OR IGNORE INTO attempts ({', '.join(row)}) VALUES (:{', :'.join(row)})"
    return db.execute(sql, row).rowcount

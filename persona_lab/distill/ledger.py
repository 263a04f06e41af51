"""Calls of an LLM in, their answers out of one SQLite file: nothing paid is ever paid twice.

For jobs of one machine: SQLite's write-ahead log is not for network file systems.
"""

import hashlib
import json
import sqlite3
import time
import uuid
from asyncio import wrap_future
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, fields
from functools import cached_property, partial, wraps
from pathlib import Path
from typing import Any, Self, TypeVar

from filelock import FileLock, Timeout

from persona_lab.cache import locked
from persona_lab.errors import UserError

_SCHEMA = 3
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
"""
# Versions 1 and 2 kept the server's name of a batch in a table of its own.
_FROM_OLDER = """
UPDATE calls SET owner = calls.owner || coalesce(
    (SELECT ' ' || id FROM batches WHERE 'batch:' || token = calls.owner), '');
"""
_COUNTS = "tokens_in", "tokens_cached", "tokens_out", "money"
_BATCH = "batch:"

T = TypeVar("T")


@dataclass(frozen=True)
class Call:
    """What a server is asked: the purpose, which is the name and version of the prompt, the model,
    all that the answer depends on, JSON-able, and what it can cost at most."""

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
    """One try at a call: `answered`, or what went wrong; what came, as it came; and the price or,
    of one that was lost on the way, what it can have cost at most. `tokens_cached` of `tokens_in`
    come from the server's cache."""

    outcome: str
    body: str = ""
    tokens_in: int = 0
    tokens_cached: int = 0
    tokens_out: int = 0
    money: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Claim:
    """What the ledger says of a call: its answer, that it is ours to ask, the batch that will bring
    the answer, or none of these while another job asks; and what other attempts may have cost."""

    answer: Attempt | None = None
    ours: bool = False
    batch: str | None = None
    lost: float = 0.0


class Written(Future[T]):
    """What is in the ledger once it is on the disk: awaited, or waited for by `result`."""

    def __await__(self) -> Generator[Any, None, T]:
        return wrap_future(self).__await__()


def _written(work: Callable[..., T]) -> Callable[..., Written[T]]:
    """Let the writing thread do it, also when whoever asks for it is cancelled meanwhile."""

    @wraps(work)
    def queue(ledger: "Ledger", *args: Any, **kwargs: Any) -> Written[T]:
        result: Written[T] = Written()
        result.set_running_or_notify_cancel()
        ledger._jobs.append((partial(work, ledger, *args, **kwargs), result))
        ledger._thread.submit(ledger._commit)
        return result

    return queue


class Ledger:
    """The file, open for one process; used as a context manager.

    A call is known by the hash of its canonical request. Its raw answer is committed before anyone
    reads it, every attempt is kept with its tokens and money, and a call in flight has an owner, so
    that of several jobs one asks and the others wait. An owner lives while it holds a lock, which
    the system frees when it dies. One thread writes, and commits together what has come together: a
    disk's slow flush is shared by all calls in flight. (A locked file for each call commits half as
    many answers a second with 32 calls in flight, and takes six times the processor's time.)

    A batch owns calls as `<its submitter>-<anything>`, with ` <server's name>` once it has one.
    """

    def __init__(self, path: Path) -> None:
        self._path, self.owner = path, uuid.uuid4().hex
        self._life = self._lock(self.owner)
        self._jobs: deque[tuple[Callable[[], Any], Written[Any]]] = deque()
        self._thread = ThreadPoolExecutor(1, "ledger")

    def __enter__(self) -> Self:
        self._db = _connect(self._path)
        self._life.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()
        self._db.execute("UPDATE calls SET owner = NULL WHERE owner = ?", (self.owner,))
        self._db.close()
        self._life.release()
        Path(self._life.lock_file).unlink(missing_ok=True)

    @_written
    def claim(self, call: Call) -> Claim:
        """The call's answer, or who is to ask."""
        # As few statements as can be: between two of them this thread waits for the others' turn.
        if _add_call(self._db, call, self.owner):
            return Claim(ours=True)
        sql = "SELECT total(money) FROM attempts WHERE key = ? AND outcome != 'answered'"
        (lost,) = self._db.execute(sql, (call.key,)).fetchone()
        if answer := self._answer(call.key):
            return Claim(answer, lost=lost)
        sql = "SELECT owner, at_most FROM calls WHERE key = ?"
        owner, at_most = self._db.execute(sql, (call.key,)).fetchone()
        if owner is not None:
            if owner.startswith(_BATCH):
                return Claim(batch=owner.removeprefix(_BATCH), lost=lost)
            if self._lives(owner):
                return Claim(lost=lost)
            # Its owner died while it was in flight: it may have been answered, and paid for.
            _add(self._db, call.key, Attempt("abandoned", money=at_most))
            lost += at_most
        sql = "UPDATE calls SET owner = ?, at_most = ? WHERE key = ?"
        self._db.execute(sql, (self.owner, call.at_most, call.key))
        return Claim(ours=True, lost=lost)

    @_written
    def record(self, key: str, attempt: Attempt) -> Attempt:
        """Keep an attempt; the answer of a call that has one already is that one."""
        added = _add(self._db, key, attempt)
        if attempt.outcome != "answered":
            return attempt
        self._db.execute("UPDATE calls SET owner = NULL WHERE key = ?", (key,))
        return attempt if added else self._answer(key) or attempt

    @_written
    def hand(self, keys: Iterable[str], batch: str | None = None, to: str | None = None) -> None:
        """Hand calls of ours, or of a batch, to another batch or to whoever asks next."""
        old, new = self.owner if batch is None else _BATCH + batch, to and _BATCH + to
        sql = "UPDATE calls SET owner = ? WHERE key = ? AND owner = ?"
        self._db.executemany(sql, [(new, key, old) for key in keys])

    @_written
    def batch(self, batch: str) -> tuple[bool, list[str]]:
        """Whether the submitter of a batch lives, and the calls that the batch holds."""
        rows = self._db.execute("SELECT key FROM calls WHERE owner = ?", (_BATCH + batch,))
        return self._lives(batch.partition("-")[0]), [key for (key,) in rows]

    def _answer(self, key: str) -> Attempt | None:
        columns = ", ".join(field.name for field in fields(Attempt))
        sql = f"SELECT {columns} FROM attempts WHERE key = ? AND outcome = 'answered'"
        row = self._db.execute(sql, (key,)).fetchone()
        return None if row is None else Attempt(*row)

    def _lock(self, owner: str) -> FileLock:
        return FileLock(self._path.with_name(f".{self._path.name}.{owner}.lock"))

    def _lives(self, owner: str) -> bool:
        lock = self._lock(owner)
        with suppress(Timeout), lock.acquire(timeout=0):
            Path(lock.lock_file).unlink(missing_ok=True)
            return False
        return True

    def _commit(self) -> None:
        if not (jobs := [self._jobs.popleft() for _ in range(len(self._jobs))]):
            return
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                settle = [partial(result.set_result, work()) for work, result in jobs]
        except Exception as error:
            settle = [partial(result.set_exception, error) for _, result in jobs]
        for done in settle:
            done()


def totals(path: Path) -> list[dict[str, Any]]:
    """What was asked and paid: one row per purpose, model and outcome."""
    sums = ", ".join(f"sum({name}) AS {name}" for name in _COUNTS)
    columns = f"purpose, model, outcome, count(*) AS attempts, {sums}"
    return _read(path, columns, "GROUP BY purpose, model, outcome ORDER BY 1, 2, 3")


def attempts(path: Path) -> list[dict[str, Any]]:
    """Every attempt in the order of time, without what was asked and answered."""
    columns = "datetime(at, 'unixepoch') AS at, substr(key, 1, 12) AS key, purpose, model, outcome"
    columns += f", {', '.join(_COUNTS)}, round(seconds, 2) AS seconds"
    return _read(path, columns, "ORDER BY attempts.at, attempts.id")


def export(path: Path) -> Iterator[str]:
    """Every answered call as a line of JSON, sorted by key."""
    columns = f"key, purpose, model, request, {', '.join(_COUNTS)}, body"
    for row in _read(path, columns, "WHERE outcome = 'answered' ORDER BY key"):
        yield json.dumps({**row, "request": json.loads(row["request"])})


def import_lines(path: Path, lines: Iterable[str]) -> int:
    """Add what `export` wrote, all or nothing; number of calls that were not yet answered.

    Raises:
        UserError: A line is not of an export, or its request is not that of its key.
    """
    added = 0
    mend = "give a file that python -m persona_lab.ledger export wrote"
    with closing(_connect(path)) as db, db:
        db.execute("BEGIN IMMEDIATE")
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                call = Call(row["purpose"], row["model"], row["request"])
                answer = Attempt("answered", row["body"], *(row[name] for name in _COUNTS))
                if call.key != row["key"]:
                    raise UserError(f"line {number} has another key than its request", mend)
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"line {number} is not of an export", mend) from error
            _add_call(db, call, None)
            added += _add(db, call.key, answer)
    return added


def _connect(path: Path) -> sqlite3.Connection:
    """Open the file, made with its tables where it is not there, or raise UserError."""
    try:
        # SQLite does not wait for another job that turns to the write-ahead log at the same time.
        with locked(path):
            db = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version < _SCHEMA:
                make = _FROM_OLDER if version else _TABLES
                db.executescript(f"BEGIN;{make}PRAGMA user_version = {_SCHEMA};COMMIT;")
    except sqlite3.Error as error:
        mend = "name a cache folder that can be written, or move the file away"
        raise UserError(f"the ledger {path} cannot be used: {error}", mend) from error
    if version > _SCHEMA:
        mend = "read it with the version that wrote it"
        raise UserError(f"the ledger {path} has version {version}, not {_SCHEMA}", mend)
    return db


def _read(path: Path, columns: str, rest: str) -> list[dict[str, Any]]:
    if not path.is_file():
        raise UserError(f"there is no ledger {path}", "name the cache folder with --cache")
    with closing(_connect(path)) as db:
        db.row_factory = sqlite3.Row
        sql = f"SELECT {columns} FROM attempts JOIN calls USING (key) {rest}"
        return [dict(row) for row in db.execute(sql)]


def _add_call(db: sqlite3.Connection, call: Call, owner: str | None) -> int:
    row = (call.key, call.purpose, call.model, call.canonical, owner, call.at_most)
    names = "key, purpose, model, request, owner, at_most"
    return db.execute(f"INSERT OR IGNORE INTO calls ({names}) VALUES (?,?,?,?,?,?)", row).rowcount


def _add(db: sqlite3.Connection, key: str, attempt: Attempt) -> int:
    """Add an attempt, if it is no second answer; number of rows that this adds."""
    row = {"key": key, "at": time.time(), **asdict(attempt)}
    sql = f"INSERT OR IGNORE INTO attempts ({', '.join(row)}) VALUES (:{', :'.join(row)})"
    return db.execute(sql, row).rowcount

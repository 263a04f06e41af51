"""What a result depends on and how it is computed -> the result: computed once, whoever asks.

Folders that are built by one job while the others wait, published atomically and verified when read
(`once`); and the results of the flow's stages in such folders, named by the hash of their inputs
(`Cache`). Reads and writes disk.
"""

import hashlib
import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar, get_type_hints

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python
from safetensors.numpy import load_file, save_file

from persona_lab.component import component, describe, hash_file
from persona_lab.errors import UserError

_log = logging.getLogger(__name__)

_MANIFEST, _ARRAYS, _REST = "manifest.json", "arrays.safetensors", "fields.json"
# Larger files are read in full once per machine, then known by size and time of change.
_LARGE_BYTES = 64 * 2**20


class NotAtHand(UserError):
    """What is asked for would have to be fetched or computed, and that was ruled out."""


class Output(Protocol):
    """What a stage of the flow hands on: a dataclass, kept as `write` and `read` do.

    One that needs files of its own has methods `save(folder)` and `load(folder)`. `VERSION` is
    raised by hand when the same inputs give another output: it is part of the key.
    """

    STAGE: ClassVar[str]
    VERSION: ClassVar[int]


T = TypeVar("T", bound=Output)
Part = TypeVar("Part")


@dataclass(frozen=True)
class Stage(Generic[T]):
    """A step of the flow, stated once: for its key, for its computation, and for a plan of it.

    Attributes:
        kind: Class of the result.
        inputs: All that the result depends on; components are described by `describe`.
        compute: Gives the result.
    """

    kind: type[T]
    inputs: Mapping[str, Any]
    compute: Callable[[], T]

    @cached_property
    def key(self) -> str:
        """Hash of the stage, its version and its inputs, 20 hex digits."""
        return _key(self.kind, self.inputs)


@dataclass(frozen=True)
class Entry(Generic[T]):
    """A result in its place; it is read from its files, also by the job that computed it, so that a
    first run and a later one see the same.

    Attributes:
        kind: Class of the result.
        folder: Where its files are; its name is the stage's key.
        seconds: Time of the computation, whenever it was; 0 of a result that is not there.
        reused: False for the caller that computed it.
        there: Whether there is a result; one that is not there has a key, and no value.
    """

    kind: type[T]
    folder: Path
    seconds: float
    reused: bool
    there: bool = True

    @property
    def key(self) -> str:
        """The stage's key."""
        return self.folder.name

    @cached_property
    def value(self) -> T:
        """The result, read at its first use and kept.

        Raises:
            NotAtHand: It is not there.
        """
        return self.read()

    def require(self) -> None:
        """Raise where there is no result.

        Raises:
            NotAtHand: It is not there.
        """
        if not self.there:
            raise NotAtHand(f"{self.kind.STAGE} {self.key} is not in the store", "run once")

    def read(self) -> T:
        """The result, not kept: for what is large and used once."""
        return self.part(getattr(self.kind, "load", partial(read, self.kind)))

    def part(self, load: Callable[[Path], Part]) -> Part:
        """What `load` reads of the result's folder: for who does not need all of it."""
        self.require()
        with locked(self.folder):
            return load(self.folder)


@component
class Cache:
    """Content-addressed results of stages.

    Attributes:
        root: Folder that may be shared by any number of jobs.
        verify: Read also large files in full each time.
        computing: Whether a result that is not there is computed.
    """

    root: Path
    verify: bool = field(default=False, kw_only=True)
    computing: bool = field(default=True, kw_only=True)

    def once(self, stage: Stage[T], *, rerun: bool = False) -> Entry[T]:
        """The stored result of a stage, or the computed one, stored.

        A kill or an error in the computation leaves nothing behind.

        Args:
            stage: What is computed.
            rerun: Compute also when it is stored, and put the new result in its place.
        """
        folder = self.folder(stage)
        label = f"{stage.kind.STAGE} {stage.key}"
        if not self.computing:
            return self.find(stage) or Entry(stage.kind, folder, 0.0, reused=True, there=False)

        def build(fresh: Path) -> None:
            start = time.perf_counter()
            value = stage.compute()
            seconds = time.perf_counter() - start
            getattr(value, "save", partial(write, value))(fresh)
            _write_manifest(fresh, stage, seconds)
            _log.info("%s: computed in %.1f s", label, seconds)

        reused = not once(folder, self._damage(stage), build, rerun=rerun)
        if reused:
            _log.info("%s: reused", label)
        self._remember(folder)
        with locked(folder):
            return self._entry(stage.kind, folder, reused=reused)

    def find(self, stage: Stage[T]) -> Entry[T] | None:
        """The stored result, None where there is none or, with a warning, a damaged one.

        Waits for no job that computes it for the first time.
        """
        folder, damage = self.folder(stage), self._damage(stage)
        with suppress(OSError):
            if folder.exists() and damage(folder) is None:
                return self._entry(stage.kind, folder, reused=True)
        if not published(folder):
            return None
        # What a job puts a new one in the place of may only seem lost or damaged.
        with locked(folder):
            if not folder.exists():
                return None
            if (harm := damage(folder)) is not None:
                _log.warning("%s %s is damaged (%s)", stage.kind.STAGE, folder.name, harm)
                return None
            return self._entry(stage.kind, folder, reused=True)

    def folder(self, stage: Stage[Any]) -> Path:
        """Where the result of a stage lies once it is stored; its name is the key."""
        return self.root / stage.kind.STAGE / stage.key

    def _entry(self, kind: type[T], folder: Path, *, reused: bool) -> Entry[T]:
        seconds = json.loads((folder / _MANIFEST).read_text())["seconds"]
        return Entry(kind, folder, seconds, reused)

    def _damage(self, stage: Stage[Any]) -> Callable[[Path], str | None]:
        """What tells what is wrong with a folder of the stage's result, None when it is whole."""

        def damage(folder: Path) -> str | None:
            try:
                manifest = json.loads((folder / _MANIFEST).read_text())
                files, inputs, _ = manifest["files"], manifest["spec"], float(manifest["seconds"])
                stamps = self._stamps(folder)
                for name, expected in files.items():
                    path = folder / name
                    known = stamps.get(name) == _stamp(path) and not self.verify
                    if not known and hash_file(path) != expected["sha256"]:
                        return f"{name} differs from its hash"
            except OSError as error:
                return str(error)
            except (ValueError, KeyError, TypeError, AttributeError):
                return f"{_MANIFEST} is not readable"
            if _key(stage.kind, inputs) != folder.name:
                return f"{_MANIFEST} belongs to another key"
            self._remember(folder)
            return None

        return damage

    def _stamp_file(self, folder: Path) -> Path:
        name = f"{folder.parent.name}-{folder.name}.json"
        return self.root / ".verified" / (platform.node() or "local") / name

    def _stamps(self, folder: Path) -> dict[str, list[int]]:
        """Size and time of change of the large files that this machine has read in full."""
        with suppress(OSError, ValueError):
            return json.loads(self._stamp_file(folder).read_text())
        return {}

    def _remember(self, folder: Path) -> None:
        stamps = {path.relative_to(folder).as_posix(): _stamp(path) for path in _files(folder)}
        large = {name: stamp for name, stamp in stamps.items() if stamp[0] > _LARGE_BYTES}
        if not large or large == self._stamps(folder):
            return
        # What cannot be noted, as on a full disk, is read in full again.
        with suppress(OSError):
            target = self._stamp_file(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            fresh = target.with_name(f"{target.name}.{os.getpid()}")
            fresh.write_text(json.dumps(large))
            fresh.replace(target)


def once(
    folder: Path,
    damage: Callable[[Path], str | None],
    build: Callable[[Path], None],
    doing: str | None = None,
    *,
    rerun: bool = False,
) -> bool:
    """Build a folder unless it is there and whole, while others that want it wait.

    Args:
        folder: What is wanted.
        damage: Tells what is wrong with a folder that is there, None when it is whole.
        build: Fills an empty folder; a kill or an error in it leaves nothing behind.
        doing: Told, with the time that it took, when it is built.
        rerun: Build also where it is whole, and put the new folder in its place.

    Returns:
        Whether it was built now. What was damaged is kept beside it as `<name>.damaged`.
    """
    with locked(folder):
        if folder.exists() and not rerun:
            if (harm := damage(folder)) is None:
                return False
            aside = folder.with_name(f"{folder.name}.damaged")
            _log.warning(
                "%s/%s is damaged (%s): moved to %s, making it again",
                *(folder.parent.name, folder.name, harm, aside),
            )
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
        start = time.perf_counter()
        if doing:
            _log.info("%s", doing)
        publish(folder, build)
        if doing:
            _log.info("%s: ready in %.1f s", folder.name, time.perf_counter() - start)
    return True


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock file beside `folder`; the system frees it when its owner dies.

    Whoever reads the folder while it may be replaced holds the lock too. What a `publish` that was
    killed between its two moves has left aside is put back.

    Raises:
        UserError: The folder's parent cannot be made or written.
    """
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        _log.info("%s/%s: another job makes it; waiting", folder.parent.name, folder.name)
        lock.acquire()
    except OSError as error:
        raise UserError(
            f"the folder {folder.parent} cannot be written: {error.strerror}",
            "name one that can be written; PERSONA_LAB_CACHE names the cache",
        ) from error
    try:
        if not folder.exists() and (aside := _aside(folder)).exists():
            aside.rename(folder)
        yield
    finally:
        lock.release()


def publish(folder: Path, build: Callable[[Path], None]) -> None:
    """Let `build` fill an empty folder, then put it in the place of `folder`.

    The caller holds the lock. Where `folder` was there before, it is absent for the instant between
    two renames; to all who hold the lock, also after a kill at any moment, it is the old one or the
    new one, whole.
    """
    fresh, old = folder.with_name(f".{folder.name}.tmp"), _aside(folder)
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        build(fresh)
        for path in [*fresh.rglob("*"), fresh]:
            _sync(path)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    _sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def published(folder: Path) -> bool:
    """Whether `folder` is there, or is absent only for the instant within a `publish`."""
    # Asked twice: the second rename may come between the first two answers.
    return folder.exists() or _aside(folder).exists() or folder.exists()


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _key(kind: type[Output], inputs: Mapping[str, Any]) -> str:
    stated = {"stage": kind.STAGE, "version": kind.VERSION, "spec": describe(inputs)}
    text = json.dumps(stated, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def write(output: Any, folder: Path) -> None:
    """Write a dataclass's fields: tables as Parquet, arrays as safetensors, the rest as JSON."""
    arrays, rest = {}, {}
    for name, value in vars(output).items():
        if isinstance(value, pd.DataFrame):
            value.to_parquet(folder / f"{name}.parquet", index=False)
        elif isinstance(value, np.ndarray):
            arrays[name] = np.ascontiguousarray(value)
        elif name in {field.name for field in fields(output)}:
            rest[name] = value
    if arrays:
        save_file(arrays, folder / _ARRAYS)
    text = json.dumps(to_jsonable_python(rest), indent=1, allow_nan=False)
    (folder / _REST).write_text(text, encoding="utf-8")


def read(kind: type[T], folder: Path) -> T:
    """Read what `write` wrote of a dataclass."""
    rest = json.loads((folder / _REST).read_text(encoding="utf-8"))
    arrays = load_file(folder / _ARRAYS) if (folder / _ARRAYS).exists() else {}
    tables = {path.stem: pd.read_parquet(path) for path in folder.glob("*.parquet")}
    hints = get_type_hints(kind)
    typed = {
        name: value and TypeAdapter(hints[name]).validate_json(json.dumps(value))
        for name, value in rest.items()
    }
    return kind(**typed, **arrays, **tables)


def content_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, or of the names and bytes of all files below a folder."""
    if not path.is_dir():
        return hash_file(path)
    hashes = {file.relative_to(path).as_posix(): content_hash(file) for file in _files(path)}
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _write_manifest(folder: Path, stage: Stage[Any], seconds: float) -> None:
    manifest = {
        "stage": stage.kind.STAGE,
        "version": stage.kind.VERSION,
        "key": stage.key,
        "spec": describe(stage.inputs),
        "seconds": seconds,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "files": {
            file.relative_to(folder).as_posix(): {
                "sha256": hash_file(file),
                "bytes": file.stat().st_size,
            }
            for file in _files(folder)
        },
    }
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=2))

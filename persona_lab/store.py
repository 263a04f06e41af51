"""A stage's output in, the same output out: computed once, whoever asks.

Results are folders `<stage>/<key>/` under one root, named by the hash of what they depend on,
verified when read, published atomically, and computed by one job while the others wait.
"""

import copy
import hashlib
import json
import logging
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import Field, dataclass, field, fields, is_dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

from persona_lab.assets import NotAtHand, hash_file, locked, publish, published

_log = logging.getLogger(__name__)

_MANIFEST = "manifest.json"
# Larger files are read in full once per machine, then known by size and time of change.
_LARGE_BYTES = 64 * 2**20


class StageOutput(Protocol):
    """What a stage of the flow hands on, as files.

    `VERSION` is raised by hand when the same inputs give another output: it is part of the key.
    """

    STAGE: ClassVar[str]
    VERSION: ClassVar[int]

    def save(self, folder: Path) -> None:
        """Write all that `load` needs into an empty folder."""
        ...

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        ...


T = TypeVar("T", bound=StageOutput)
Part = TypeVar("Part")


@dataclass(frozen=True)
class Entry(Generic[T]):
    """A stored result; it is read from its files, also by the job that computed it, so that a first
    run and a later one see the same.

    Attributes:
        kind: Class of the result.
        key: Hash of the stage, its version and its inputs.
        seconds: Time of the computation, whenever it was.
        reused: False for the caller that computed it.
        folder: Where its files are.
    """

    kind: type[T]
    key: str
    seconds: float
    reused: bool
    folder: Path

    @cached_property
    def value(self) -> T:
        """The result, read at its first use and kept."""
        return self.read()

    def read(self) -> T:
        """The result, not kept: for what is large and used once."""
        return self.part(self.kind.load)

    def part(self, load: Callable[[Path], Part]) -> Part:
        """What `load` reads of the result's folder: for who does not need all of it."""
        with locked(self.folder):
            return load(self.folder)

    def holding(self, value: T) -> Self:
        """The same entry with another value, in memory only: to ask what would be if."""
        other = copy.copy(self)
        vars(other)["value"] = value
        return other


@dataclass(frozen=True)
class Store:
    """Content-addressed results of stages.

    Attributes:
        root: Folder that may be shared by any number of jobs.
        verify: Read also large files in full each time.
        computing: Whether a result that is not there is computed; else it is `NotAtHand`.
    """

    root: Path
    verify: bool = field(default=False, kw_only=True)
    computing: bool = field(default=True, kw_only=True)

    def key(self, kind: type[StageOutput], spec: Mapping[str, Any]) -> str:
        """Hash of the stage, its version and the described inputs, 20 hex digits."""
        inputs = {"stage": kind.STAGE, "version": kind.VERSION, "spec": describe(spec)}
        text = json.dumps(inputs, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    def folder(self, kind: type[StageOutput], spec: Mapping[str, Any]) -> Path:
        """Where the result of a stage lies once it is stored; its name is the key."""
        return self.root / kind.STAGE / self.key(kind, spec)

    def once(
        self,
        kind: type[T],
        spec: Mapping[str, Any],
        compute: Callable[[], T],
        *,
        rerun: bool = False,
    ) -> Entry[T]:
        """The stored result, or the computed one, stored.

        Args:
            kind: Class of the result.
            spec: All that the result depends on; components are described by `describe`.
            compute: Gives the result; a kill or an error in it leaves nothing behind.
            rerun: Compute also when it is stored, and put the new result in its place.
        """
        folder = self.folder(kind, spec)
        key = folder.name
        if not self.computing:
            if (found := self.find(kind, spec)) is None:
                raise NotAtHand(f"{kind.STAGE} {key} is not in the store", "run once to have it")
            return found
        with locked(folder):
            if folder.exists() and not rerun:
                if (damage := self._damage(kind, folder)) is None:
                    _log.info("%s %s: reused", kind.STAGE, key)
                    return self._read(kind, folder, reused=True)
                aside = folder.with_name(f"{key}.damaged")
                _log.warning(
                    "%s %s is damaged (%s): moved to %s, computing again",
                    *(kind.STAGE, key, damage, aside),
                )
                shutil.rmtree(aside, ignore_errors=True)
                folder.rename(aside)
            start = time.perf_counter()
            value = compute()
            seconds = time.perf_counter() - start

            def save(fresh: Path) -> None:
                value.save(fresh)
                _write_manifest(fresh, kind, key, spec, seconds)

            publish(folder, save)
            self._remember(folder)
            _log.info("%s %s: computed in %.1f s", kind.STAGE, key, seconds)
            return self._read(kind, folder, reused=False)

    def find(self, kind: type[T], spec: Mapping[str, Any]) -> Entry[T] | None:
        """The stored result, None where there is none or, with a warning, a damaged one.

        Waits for no job that computes it for the first time.
        """
        folder = self.folder(kind, spec)
        with suppress(OSError):
            if folder.exists() and self._damage(kind, folder) is None:
                return self._read(kind, folder, reused=True)
        if not published(folder):
            return None
        # What a job puts a new one in the place of may only seem lost or damaged.
        with locked(folder):
            if not folder.exists():
                return None
            if (damage := self._damage(kind, folder)) is not None:
                _log.warning("%s %s is damaged (%s)", kind.STAGE, folder.name, damage)
                return None
            return self._read(kind, folder, reused=True)

    def _read(self, kind: type[T], folder: Path, *, reused: bool) -> Entry[T]:
        seconds = json.loads((folder / _MANIFEST).read_text())["seconds"]
        return Entry(kind, folder.name, seconds, reused, folder)

    def _damage(self, kind: type[StageOutput], folder: Path) -> str | None:
        """What is wrong with an entry, None when it is whole."""
        try:
            manifest = json.loads((folder / _MANIFEST).read_text())
            files, spec, _ = manifest["files"], manifest["spec"], float(manifest["seconds"])
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
        if self.key(kind, spec) != folder.name:
            return f"{_MANIFEST} belongs to another key"
        self._remember(folder)
        return None

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


def describe(component: Any) -> Any:
    """JSON-able description of what a result depends on.

    A dataclass becomes its class path and fields, without those declared with
    `metadata={"key": False}` and those with `metadata={"key": "changed"}` that have their default,
    and, where the class is not one of ours, whose stages have a VERSION, the hash of its module's
    source; tuples become lists, paths text, and whole floats integers (a YAML's `1` and `1.0` are
    one value).

    Raises:
        TypeError: For any other type, which it names: it has no stable description.
    """
    match component:
        case None | bool() | str() | int():
            return component
        case float() if component.is_integer():
            return int(component)
        case float():
            return component
        case Path():
            return component.as_posix()
        case list() | tuple():
            return [describe(item) for item in component]
        case Mapping():
            if odd := [key for key in component if not isinstance(key, str)]:
                raise TypeError(f"the key {odd[0]!r} of a mapping is not text")
            return {key: describe(value) for key, value in component.items()}
    if is_dataclass(component) and not isinstance(component, type):
        kind = type(component)
        values = {
            each.name: describe(getattr(component, each.name))
            for each in fields(component)
            if _counts(each, getattr(component, each.name))
        }
        return {"class": f"{kind.__module__}.{kind.__qualname__}", **_source(kind), **values}
    kind = type(component)
    raise TypeError(
        f"{kind.__module__}.{kind.__qualname__} has no description for a key: make it a frozen "
        "dataclass, or leave the field out by metadata={'key': False}"
    )


def _counts(declared: Field[Any], value: Any) -> bool:
    """Whether a field of a dataclass is part of the key; a later one only where it is used."""
    key = declared.metadata.get("key", True)
    return value != declared.default if key == "changed" else key


def _source(kind: type) -> dict[str, str]:
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    if kind.__module__.split(".")[0] == __package__ or file is None:
        return {}
    return {"source": hash_file(Path(file))}


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


def _write_manifest(
    folder: Path, kind: type[StageOutput], key: str, spec: Mapping[str, Any], seconds: float
) -> None:
    manifest = {
        "stage": kind.STAGE,
        "version": kind.VERSION,
        "key": key,
        "spec": describe(spec),
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

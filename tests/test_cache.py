import json
import logging
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, ClassVar, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persona_lab import cache as module
from persona_lab.cache import Cache, NotAtHand, Stage, content_hash, locked
from persona_lab.component import component, describe, neutral


@dataclass(frozen=True)
class Toy:
    """Its file has upper case only, so what is read differs from what was saved."""

    STAGE: ClassVar[str] = "toy"
    VERSION: ClassVar[int] = 1

    text: str

    def save(self, folder: Path) -> None:
        (folder / "deep").mkdir()
        (folder / "deep" / "toy.txt").write_text(self.text.upper())

    @classmethod
    def load(cls, folder: Path) -> Self:
        return cls((folder / "deep" / "toy.txt").read_text())


@dataclass(frozen=True)
class Toy2(Toy):
    VERSION: ClassVar[int] = 2


@component
class Inner:
    rate: float = 0.5


@component
class Component:
    name: str = "a"
    sizes: tuple[int, ...] = (1, 2)
    inner: Inner = Inner()
    workers: int = neutral(default=1)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "store")


def never() -> Toy:
    raise AssertionError("computed although it was stored")


def stage(
    compute: Callable[[], Toy], inputs: Mapping[str, Any] = MappingProxyType({})
) -> Stage[Toy]:
    return Stage(Toy, inputs, compute)


def key(inputs: Mapping[str, Any], kind: type[Toy] = Toy) -> str:
    return Stage(kind, inputs, never).key


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


# A script that stores a Toy in argv[1]; its `compute` and `save` are put in.
SCRIPT = """
import sys
from pathlib import Path
from persona_lab.cache import Cache, Stage

class Toy:
    STAGE, VERSION = "toy", 1
    def save(self, folder):
        (folder / "deep").mkdir()
        (folder / "deep" / "toy.txt").write_text("CHILD")
        {save}
    @classmethod
    def load(cls, folder):
        return cls()

def compute():
    {compute}
    return Toy()

{before}
entry = Cache(Path(sys.argv[1])).once(Stage(Toy, {{"a": 1}}, compute))
print(entry.reused)
"""


@contextmanager
def job(root: Path, *, compute="pass", save="pass", before="pass") -> Iterator[subprocess.Popen]:
    code = SCRIPT.format(compute=compute, save=save, before=before)
    with subprocess.Popen(
        [sys.executable, "-c", code, str(root)], stdin=-1, stdout=-1, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_it_is_computed_once_and_then_read(cache: Cache, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO):
        first = cache.once(stage(lambda: Toy("hello"), {"a": 1}))
        again = cache.once(stage(never, {"a": 1}))
    assert not first.reused
    assert again.reused
    assert replace(again, reused=False) == first
    assert first.value == Toy("HELLO")
    assert first.folder == cache.root / "toy" / first.key
    assert f"toy {first.key}: computed in" in caplog.text
    assert f"toy {first.key}: reused" in caplog.text


def test_the_manifest_says_what_the_entry_is(cache: Cache):
    entry = cache.once(stage(lambda: Toy("hello"), {"component": Component()}))
    stored = manifest(entry.folder)
    assert stored.pop("created").endswith("+00:00")
    assert stored == {
        "stage": "toy",
        "version": 1,
        "key": entry.key,
        "spec": describe({"component": Component()}),
        "seconds": entry.seconds,
        "files": {
            "deep/toy.txt": {
                "sha256": content_hash(entry.folder / "deep" / "toy.txt"),
                "bytes": 5,
            }
        },
    }


def test_find_computes_nothing(cache: Cache):
    assert cache.find(stage(never, {"a": 1})) is None
    entry = cache.once(stage(lambda: Toy("hello"), {"a": 1}))
    assert cache.find(stage(never, {"a": 1})) == replace(entry, reused=True)
    (entry.folder / "deep" / "toy.txt").write_text("OTHER")
    assert cache.find(stage(never, {"a": 1})) is None


def test_a_cache_that_does_not_compute_gives_what_is_there(cache: Cache):
    reading = replace(cache, computing=False)
    missing = reading.once(stage(never, {"a": 1}))
    assert (missing.there, missing.key, missing.seconds) == (False, key({"a": 1}), 0.0)
    assert missing.folder == cache.folder(stage(never, {"a": 1}))
    for use in (lambda: missing.value, missing.read, missing.require, lambda: missing.part(str)):
        with pytest.raises(NotAtHand, match=f"toy {missing.key} is not in the store"):
            use()
    assert not cache.root.exists()
    entry = cache.once(stage(lambda: Toy("hello"), {"a": 1}))
    entry.require()
    assert reading.once(stage(never, {"a": 1})) == replace(entry, reused=True)
    # Also a damaged one is not made again.
    (entry.folder / "deep" / "toy.txt").write_text("OTHER")
    assert not reading.once(stage(never, {"a": 1}), rerun=True).there
    assert (entry.folder / "deep" / "toy.txt").read_text() == "OTHER"


def test_find_waits_for_a_rerun_that_is_between_its_two_moves(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
):
    entry = cache.once(stage(lambda: Toy("old")))
    aside = entry.folder.with_name(f".{entry.key}.old")
    held, waiting, found = threading.Event(), threading.Event(), []
    monkeypatch.setattr(module._log, "info", lambda *words: waiting.set())

    def rerun():
        with locked(entry.folder):
            entry.folder.rename(aside)
            held.set()
            waiting.wait(60)
            aside.rename(entry.folder)

    job = threading.Thread(target=rerun)
    job.start()
    held.wait()
    found.append(cache.find(stage(never)))
    job.join()
    assert found == [replace(entry, reused=True)]


def test_find_does_not_wait_for_the_first_computation(cache: Cache):
    with locked(cache.folder(stage(never))):
        waiting = threading.Thread(target=lambda: cache.find(stage(never)), daemon=True)
        waiting.start()
        waiting.join(5)
        assert not waiting.is_alive()


def test_a_part_is_read_without_the_rest(cache: Cache, monkeypatch: pytest.MonkeyPatch):
    entry = cache.once(stage(lambda: Toy("hello")))
    monkeypatch.setattr(Toy, "load", never)
    assert entry.part(lambda folder: (folder / "deep" / "toy.txt").stat().st_size) == 5


def test_seconds_are_those_of_the_first_computation(cache: Cache, monkeypatch: pytest.MonkeyPatch):
    now = 0.0
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now))

    def slow() -> Toy:
        nonlocal now
        now += 8
        return Toy("hello")

    assert cache.once(stage(slow)).seconds == 8
    assert cache.once(stage(never)).seconds == 8


def test_rerun_replaces_what_is_stored(cache: Cache):
    cache.once(stage(lambda: Toy("old")))
    renewed = cache.once(stage(lambda: Toy("new")), rerun=True)
    assert not renewed.reused
    assert renewed.value == Toy("NEW")
    assert cache.once(stage(never)).value == Toy("NEW")


def test_a_result_is_read_at_its_first_use_and_kept_unless_it_is_large(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
):
    entry = cache.once(stage(lambda: Toy("hello")))
    read: list[Path] = []
    load = Toy.load
    monkeypatch.setattr(Toy, "load", lambda folder: read.append(folder) or load(folder))
    entry = cache.once(stage(never))
    assert not read
    assert entry.value is entry.value
    assert entry.read() is not entry.read()
    assert len(read) == 3


def test_what_a_kill_between_the_two_moves_left_aside_is_put_back(cache: Cache):
    entry = cache.once(stage(lambda: Toy("old")))
    entry.folder.rename(entry.folder.with_name(f".{entry.key}.old"))
    again = cache.once(stage(never))
    assert again.reused
    assert again.value == Toy("OLD")


@pytest.mark.parametrize("rerun", [False, True])
def test_an_error_leaves_what_was_there(cache: Cache, rerun: bool):
    def fail() -> Toy:
        raise RuntimeError("no luck")

    if rerun:
        cache.once(stage(lambda: Toy("old")))
    with pytest.raises(RuntimeError, match="no luck"):
        cache.once(stage(fail), rerun=rerun)
    entry = cache.find(stage(never))
    assert (entry.value if entry else None) == (Toy("OLD") if rerun else None)


@pytest.mark.parametrize("moment", ["compute", "save"])
def test_a_kill_leaves_nothing_and_blocks_nobody(cache: Cache, moment: str):
    stop = "print('here', flush=True); sys.stdin.readline()"
    with job(cache.root, **{moment: stop}) as process:
        assert process.stdout
        assert process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert cache.find(stage(never, {"a": 1})) is None
    start = time.perf_counter()
    entry = cache.once(stage(lambda: Toy("mine"), {"a": 1}))
    assert entry.value == Toy("MINE")
    assert time.perf_counter() - start < 5
    # Also what the killed job had half written is gone.
    assert [path.name for path in (cache.root / "toy").iterdir() if path.is_dir()] == [entry.key]


def test_two_processes_compute_once(cache: Cache, tmp_path: Path):
    count = tmp_path / "count"
    compute = (
        f"open({str(count)!r}, 'a').write('x'); print('here', flush=True); sys.stdin.readline()"
    )
    tell = (
        "import logging; logging.basicConfig(level='INFO', stream=sys.stdout, format='%(message)s')"
    )
    with job(cache.root, compute=compute) as one:
        assert one.stdout
        assert one.stdout.readline() == "here\n"
        with job(cache.root, compute=compute, before=tell) as two:
            assert two.stdout
            assert two.stdout.readline().endswith("another job makes it; waiting\n")
            assert one.communicate("go\n", timeout=60)[0] == "False\n"
            assert two.communicate(timeout=60)[0].endswith("True\n")
    assert count.read_text() == "x"


def empty(file: Path) -> None:
    file.write_bytes(b"")


def change(file: Path) -> None:
    file.write_bytes(b"x" + file.read_bytes()[1:])


@pytest.mark.parametrize("damage", [Path.unlink, empty, change])
@pytest.mark.parametrize("name", ["deep/toy.txt", "manifest.json"])
def test_damage_is_seen_and_mended(
    cache: Cache,
    caplog: pytest.LogCaptureFixture,
    name: str,
    damage: Callable[[Path], None],
):
    entry = cache.once(stage(lambda: Toy("old")))
    damage(entry.folder / name)
    mended = cache.once(stage(lambda: Toy("new")))
    assert not mended.reused
    assert mended.value == Toy("NEW")
    assert f"toy/{entry.key} is damaged" in caplog.text
    assert name in caplog.text
    assert (cache.root / "toy" / f"{entry.key}.damaged").is_dir()
    assert cache.once(stage(never)).reused
    damage(entry.folder / name)
    assert cache.once(stage(lambda: Toy("third"))).value == Toy("THIRD")


def test_an_entry_under_another_key_is_damaged(cache: Cache, caplog: pytest.LogCaptureFixture):
    entry = cache.once(stage(lambda: Toy("one"), {"a": 1}))
    entry.folder.rename(entry.folder.with_name(key({"a": 2})))
    assert cache.once(stage(lambda: Toy("two"), {"a": 2})).value == Toy("TWO")
    assert "belongs to another key" in caplog.text


def test_a_large_file_is_read_in_full_once_per_machine(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "_LARGE_BYTES", 4)
    entry = cache.once(stage(lambda: Toy("hello")))
    file = entry.folder / "deep" / "toy.txt"
    status = file.stat()
    change(file)
    assert cache.find(stage(never)) is None, "the time of change differs"
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert cache.find(stage(never)) is not None
    assert Cache(cache.root, verify=True).find(stage(never)) is None
    monkeypatch.setattr(platform, "node", lambda: "another")
    assert cache.find(stage(never)) is None


def test_the_key_is_what_it_was_when_results_were_stored(monkeypatch: pytest.MonkeyPatch):
    for kind in (Component, Inner):
        monkeypatch.setattr(kind, "__module__", "toys")
    # Stored results are lost when this changes: raise no VERSION for it, mend `describe`.
    spec = {"component": Component(), "upstream": "0123abcd", "seed": 0, "rate": 3e-4}
    assert key(spec) == "58d99be1ab60dbdf1524"


def test_the_key_follows_what_the_result_depends_on():
    base = key({"component": Component()})
    assert key({"component": Component(workers=8)}) == base
    others = [
        key({"component": Component(name="b")}),
        key({"component": Component(sizes=(2, 1))}),
        key({"component": Component(inner=Inner(0.25))}),
        key({"component": Component()}, Toy2),
        key({"component": Inner()}),
        key({"component": Component(), "seed": 0}),
    ]
    assert len({base, *others}) == 1 + len(others)


TEXT = st.text('ab"é\n', max_size=3)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


def otherwise_written(value: Any) -> Any:
    """The same value with dicts in reverse order and tuples for lists."""
    if isinstance(value, dict):
        return {key: otherwise_written(value[key]) for key in reversed(value)}
    return tuple(map(otherwise_written, value)) if isinstance(value, list) else value


@given(st.dictionaries(TEXT, JSON))
def test_the_key_does_not_depend_on_how_the_spec_is_written(spec: dict[str, Any]):
    base = key(spec)
    assert key(otherwise_written(spec)) == base
    assert key(json.loads(json.dumps(describe(spec)))) == base
    assert key({"spec": spec}) != base


def test_whole_floats_are_integers_and_truth_is_neither():
    assert key({"rate": 1.0}) == key({"rate": 1})
    assert key({"rate": True}) != key({"rate": 1})
    assert key({"rate": 0.1 + 0.2}) != key({"rate": 0.3})
    with pytest.raises(ValueError, match="not JSON compliant"):
        key({"rate": float("nan")})


def test_content_hash_follows_names_and_bytes_only(tmp_path: Path):
    for folder in ("one", "two"):
        (tmp_path / folder / "deep").mkdir(parents=True)
        (tmp_path / folder / "a").write_text("1")
        (tmp_path / folder / "deep" / "b").write_text("2")
    hashed = content_hash(tmp_path / "one")
    assert content_hash(tmp_path / "two") == hashed
    (tmp_path / "two" / "a").rename(tmp_path / "two" / "c")
    assert content_hash(tmp_path / "two") != hashed
    (tmp_path / "one" / "deep" / "b").write_text("3")
    assert content_hash(tmp_path / "one") != hashed
    assert content_hash(tmp_path / "one" / "a") == content_hash(tmp_path / "two" / "c")

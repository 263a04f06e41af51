"""Small worlds of memories whose vectors lie on a grid, so that many similarities tie."""

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from hypothesis import strategies as st

from persona_lab.distill import Memories
from persona_lab.memory import Bank, Memory, Recalled, Vectors

USERS, ITEMS = [10, 20, 30], list(range(1, 8))


class World(NamedTuple):
    memories: Memories
    vectors: Vectors


def unit(rows: list[list[int]]) -> np.ndarray:
    """Rows scaled to length 1, or 0, as float32."""
    array = np.array(rows, dtype=float).reshape(-1, 3)
    length = np.linalg.norm(array, axis=1, keepdims=True)
    return (array / np.where(length > 0, length, 1)).astype(np.float32)


def recall(bank: Bank, user: int, item: int, before: int | None = None) -> list[Recalled]:
    """What a user recalls for a movie at a place in the history, None: after all of it."""
    place = len(ITEMS) if before is None else before
    return bank.recall_rows(
        pd.DataFrame({"user_id": [user], "item_id": [item], "position": [place]})
    )[0]


@st.composite
def _worlds(draw: st.DrawFn) -> World:
    rows = []
    for user in USERS:
        watched = draw(st.lists(st.sampled_from(ITEMS), min_size=1, unique=True))
        for position, item in enumerate(watched):
            rows.append((user, item, draw(st.integers(1, 5)), 7, position, position // 2))
    columns = ["user_id", "item_id", "rating", "timestamp", "position", "batch"]
    shuffled = draw(st.permutations(rows))
    interactions = pd.DataFrame(shuffled, columns=columns)
    interactions["text"] = [f"{user} on {item}" for user, item, *_ in shuffled]

    def vectors(n: int) -> np.ndarray:
        row = st.lists(st.integers(-2, 2), min_size=3, max_size=3)
        return unit(draw(st.lists(row, min_size=n, max_size=n)))

    return World(
        Memories(profiles=None, snapshots=None, interactions=interactions, counts={}),  # type: ignore
        Vectors(
            user_ids=np.array(USERS),
            profiles=vectors(len(USERS)),
            item_ids=np.array(ITEMS),
            items=vectors(len(ITEMS)),
            interactions=vectors(len(rows)),
        ),
    )


@pytest.fixture(scope="session")
def toy() -> SimpleNamespace:
    """Strategies, for tests that draw from `st.data()`."""
    memories = st.builds(
        Memory,
        name=st.just("mine"),
        profile=st.booleans(),
        interactions=st.just(True),
        top_k=st.integers(1, 9),
        min_similarity=st.none() | st.sampled_from([-1.0, -0.5, 0.0, 0.5, 0.99, 1.0]),
        query=st.sampled_from(["item", "user_item"]),
        key=st.sampled_from(["item", "enriched", "item_enriched"]),
        test_profile=st.just("own"),
        text=st.just("enriched"),
        training_memories=st.just("nearest"),
        test_memories=st.just("nearest"),
    )
    return SimpleNamespace(
        users=USERS,
        items=ITEMS,
        unit=unit,
        recall=recall,
        worlds=_worlds(),
        memories=memories,
        recall_times=st.sampled_from(["earlier", "any"]),
        befores=st.integers(0, len(ITEMS)),
    )

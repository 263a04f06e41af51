import logging
import shutil
from dataclasses import replace
from types import SimpleNamespace

import hypothesis
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from persona_lab.memory import Bank, Index, Memory, Vectors
from persona_lab.sources import Sources

# Each example writes a table.
few = hypothesis.settings(max_examples=25)


@few
@given(st.data())
def test_the_index_recalls_what_the_bank_recalls(toy, tmp_path_factory, data):
    world, memory = data.draw(toy.worlds), data.draw(toy.memories)
    memory = replace(memory, test_memories=data.draw(st.sampled_from(["nearest", "random"])))
    time = data.draw(toy.recall_times)
    bank = Bank(world.memories, world.vectors, memory, time)
    sources = Sources(tmp_path_factory.mktemp("cache"))
    index = Index.open(sources, world.memories, world.vectors, memory)
    for user in toy.users:
        for item in data.draw(st.lists(st.sampled_from(toy.items), max_size=3)):
            assert index.recall(user, item) == toy.recall(bank, user, item)


@pytest.fixture
def world(toy):
    """Users 10, 20 and 30 watched movies 1 to 4, each its own way to remember."""
    pairs = [(user, item) for user in toy.users for item in (1, 2, 3, 4)]
    interactions = pd.DataFrame(pairs, columns=["user_id", "item_id"]).assign(
        rating=3, timestamp=0, position=[0, 1, 2, 3] * 3, text=[f"{pair}" for pair in pairs]
    )
    return SimpleNamespace(
        memories=SimpleNamespace(interactions=interactions),
        vectors=Vectors(
            user_ids=np.array(toy.users),
            profiles=toy.unit([[1, 0, 0]] * 3),
            item_ids=np.array([1, 2, 3, 4]),
            items=toy.unit([[1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 1, 2]]),
            interactions=None,
        ),
        recall=toy.recall,
    )


def open_index(sources, world):
    memory = Memory("mine", profile=True, interactions=True, top_k=3)
    index = Index.open(sources, world.memories, world.vectors, memory)
    bank = Bank(world.memories, world.vectors, memory, "earlier")
    assert index.recall(10, 1) == world.recall(bank, 10, 1)
    (folder,) = [path for path in (sources.cache / "derived").iterdir() if path.is_dir()]
    return folder


def test_the_table_is_built_once(world, tmp_path):
    folder = open_index(Sources(tmp_path), world)
    built = folder.stat().st_ino
    assert open_index(Sources(tmp_path), world).stat().st_ino == built


def test_a_deleted_table_is_built_again(world, tmp_path):
    shutil.rmtree(open_index(Sources(tmp_path), world))
    open_index(Sources(tmp_path), world)


@pytest.mark.parametrize("name", ["*.lance/data/*.lance", "*.lance/_versions/*.manifest", "sha256"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_table_is_built_again(world, tmp_path, caplog, name, damage):
    folder = open_index(Sources(tmp_path), world)
    (file,) = folder.glob(name)
    content = file.read_bytes()
    middle = len(content) // 2
    if damage == "flip":
        file.write_bytes(content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :])
    elif damage == "cut":
        file.write_bytes(content[:middle])
    else:
        file.unlink()
    with caplog.at_level(logging.WARNING):
        open_index(Sources(tmp_path), world)
    assert "is damaged" in caplog.text


def test_other_memories_have_a_table_of_their_own(world, tmp_path):
    open_index(Sources(tmp_path), world)
    world.memories.interactions["text"] = "another"
    memory = Memory("mine", profile=True, interactions=True, top_k=3)
    index = Index.open(Sources(tmp_path), world.memories, world.vectors, memory)
    texts = {each.text for user in (10, 20, 30) for each in index.recall(user, 1)}
    assert texts == {"another"}


def test_an_unknown_user_or_movie_is_said(world, tmp_path):
    memory = Memory("mine", profile=True, interactions=True)
    index = Index.open(Sources(tmp_path), world.memories, world.vectors, memory)
    with pytest.raises(KeyError, match="99"):
        index.recall(99, 1)
    with pytest.raises(KeyError, match="77"):
        index.recall(np.int64(10), 77)

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from persona_lab.distill import Memories
from persona_lab.memory import Bank, Memory, Vectors
from persona_lab.memory import bank as bank_module

COLUMNS = ["user_id", "item_id", "rating", "position", "text"]


def float32_sum(one, other):
    total = [float(a) + float(b) for a, b in zip(one, other, strict=True)]
    length = math.sqrt(math.fsum(each * each for each in total)) or 1.0
    return [np.float32(each / length) for each in total]


def brute_force(world, memory, recall_time, user_id, item_id, before):
    """Every memory of every user, one after another, in plain Python."""
    vectors = world.vectors
    item = dict(zip(vectors.item_ids, vectors.items, strict=True))
    query = item[item_id]
    if memory.query == "user_item":
        query = float32_sum(query, vectors.profiles[list(vectors.user_ids).index(user_id)])
    found = []
    for row, memo in enumerate(world.memories.interactions.itertuples()):
        if memo.user_id != user_id or memo.item_id == item_id:
            continue
        if recall_time == "earlier" and before is not None and memo.position >= before:
            continue
        match memory.key:
            case "item":
                key = item[memo.item_id]
            case "enriched":
                key = vectors.interactions[row]
            case "item_enriched":
                key = float32_sum(item[memo.item_id], vectors.interactions[row])
        cosine = math.fsum(float(a) * float(b) for a, b in zip(query, key, strict=True))
        if memory.min_similarity is None or round(cosine, 6) >= memory.min_similarity:
            found.append((-round(cosine, 6), -memo.position, memo.item_id, memo.text, memo.rating))
    return [(item, text, rating, -p, -c) for c, p, item, text, rating in sorted(found)]


@given(st.data())
def test_recall_is_brute_force(toy, data):
    world, memory = data.draw(toy.worlds), data.draw(toy.memories)
    time = data.draw(toy.recall_times)
    bank = Bank(world.memories, world.vectors, memory, time)
    for user in toy.users:
        for item in toy.items:
            before = data.draw(toy.befores)
            recalled = [
                (each.item_id, each.text, each.rating, each.position, each.similarity)
                for each in toy.recall(bank, user, item, before)
            ]
            expected = brute_force(world, memory, time, user, item, before)[: memory.top_k]
            assert [each[:4] for each in recalled] == [each[:4] for each in expected]
            assert [each[4] for each in recalled] == pytest.approx([each[4] for each in expected])
            assert item not in [each[0] for each in recalled]


@given(st.data())
def test_rows_recall_in_their_order_what_each_recalls_alone(toy, data):
    world, memory = data.draw(toy.worlds), data.draw(toy.memories)
    bank = Bank(world.memories, world.vectors, memory, data.draw(toy.recall_times))
    row = st.tuples(
        st.sampled_from(toy.users), st.sampled_from(toy.items), st.integers(0, len(toy.items))
    )
    drawn = data.draw(st.lists(row))
    rows = pd.DataFrame(drawn, columns=["user_id", "item_id", "position"]).astype("int64")
    # Rows of a subset keep their index: recall goes by place.
    rows.index = pd.Index(data.draw(st.permutations(range(len(rows)))), dtype="int64")
    assert bank.recall_rows(rows) == [toy.recall(bank, *each) for each in drawn]


def toy_bank(toy, memory=None, recall_time="earlier"):
    """User 10 watched 1, 2, 3 and 4; 2 and 3 are alike, 4 is nothing like them."""
    interactions = pd.DataFrame(
        [(10, item, 3, item - 1, f"I saw {item}") for item in (1, 2, 3, 4)] + [(20, 2, 5, 0, "no")],
        columns=COLUMNS,
    )
    vectors = Vectors(
        user_ids=np.array([10, 20]),
        profiles=toy.unit([[1, 0, 0], [0, 1, 0]]),
        item_ids=np.array([1, 2, 3, 4, 5]),
        items=toy.unit([[1, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 1], [1, 0, 0]]),
        interactions=None,
    )
    memories = Memories(None, None, interactions, {})  # type: ignore
    memory = memory or Memory("mine", profile=True, interactions=True, top_k=9)
    return Bank(memories, vectors, memory, recall_time)


def test_of_equal_memories_the_later_comes_first(toy):
    recalled = toy.recall(toy_bank(toy), 10, 5)
    assert [each.item_id for each in recalled] == [3, 2, 1, 4]
    assert [each.similarity for each in recalled] == pytest.approx([1, 1, 0.707107, 0])


def test_a_movie_of_the_history_recalls_only_what_came_before_it(toy):
    assert [each.item_id for each in toy.recall(toy_bank(toy), 10, 2, before=1)] == [1]
    assert toy.recall(toy_bank(toy), 10, 1, before=0) == []
    anytime = toy_bank(toy, recall_time="any")
    assert [each.item_id for each in toy.recall(anytime, 10, 2, before=1)] == [3, 1, 4]


def test_memories_below_the_least_similarity_are_not_recalled(toy):
    memory = Memory("mine", profile=True, interactions=True, top_k=9, min_similarity=0.8)
    assert [each.item_id for each in toy.recall(toy_bank(toy, memory), 10, 5)] == [3, 2]


def test_random_memories_are_as_many_of_the_users_own(toy):
    nearest = Memory("mine", profile=True, interactions=True, top_k=2, min_similarity=0.5)
    control = replace(nearest, test_memories="random")
    drawn = toy_bank(toy, control)
    assert toy.recall(drawn, 10, 5) == toy.recall(drawn, 10, 5)
    # 4 is nothing like 5 and stands for it all the same; 1 may not recall itself or what is later.
    many = [toy.recall(toy_bank(toy, replace(control, top_k=k)), 10, 5) for k in (1, 2, 3)]
    assert [len(each) for each in many] == [1, 2, 3]
    assert {each.item_id for recalled in many for each in recalled} <= {1, 2, 3, 4}
    assert {tuple(each.item_id for each in recalled) for recalled in many} - {(3,), (3, 2)}
    assert [each.item_id for each in toy.recall(drawn, 10, 2, before=1)] == [1]
    assert toy.recall(drawn, 10, 1, before=0) == []


@given(st.data())
def test_random_memories_are_what_may_be_recalled(toy, data):
    world, memory = data.draw(toy.worlds), data.draw(toy.memories)
    time, user = data.draw(toy.recall_times), data.draw(st.sampled_from(toy.users))
    item, before = data.draw(st.sampled_from(toy.items)), data.draw(toy.befores)
    control = replace(memory, test_memories="random")
    nearest, drawn = (
        toy.recall(Bank(world.memories, world.vectors, each, time), user, item, before)
        for each in (memory, control)
    )
    allowed = replace(memory, top_k=99, min_similarity=None)
    everything = toy.recall(Bank(world.memories, world.vectors, allowed, time), user, item, before)
    assert len(drawn) == len(nearest) == len({each.item_id for each in drawn})
    assert {each.item_id for each in drawn} <= {each.item_id for each in everything}


def test_training_prompts_show_nothing_that_is_changed_for_test_prompts():
    memory = Memory("ms_ml", profile=True, interactions=True, top_k=3, query="user_item")
    changed = replace(memory, test_profile="another", test_memories="random")
    assert changed.in_training() == memory.in_training() == memory
    # Without memories in it, a training prompt is that of memory=ms.
    alone = replace(changed, training_memories="none").in_training()
    assert alone == Memory("ms_ml", profile=True, interactions=False)
    assert replace(memory, interactions=False).shown() == alone


def test_each_users_memories_are_read_once(toy, monkeypatch):
    reads = []
    real = bank_module.key_vectors
    monkeypatch.setattr(
        bank_module, "key_vectors", lambda *args: reads.append(len(args[-1])) or real(*args)
    )
    rows = pd.DataFrame({"user_id": [10, 20, 10, 20, 10], "item_id": 5, "position": 9})
    toy_bank(toy).recall_rows(rows)
    assert sorted(reads) == [1, 4]


def test_who_or_what_is_unknown_is_said(toy):
    with pytest.raises(KeyError, match="99"):
        toy.recall(toy_bank(toy), 99, 1)
    with pytest.raises(KeyError, match="77"):
        toy.recall(toy_bank(toy), 10, 77)

import math
from dataclasses import replace
from types import SimpleNamespace

import hypothesis
import numpy as np
import pandas as pd
import pytest
from configured import configured
from hypothesis import given
from hypothesis import strategies as st

from persona_lab.data import Cost
from persona_lab.distill import Memories
from persona_lab.memory import Bank, Table, Vectors

# Worlds are large: each example has dozens of recalls.
few = hypothesis.settings(max_examples=30)

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
    recalled = []
    for row, memo in enumerate(world.memories.interactions.itertuples()):
        if memo.user_id != user_id or memo.item_id == item_id:
            continue
        if recall_time == "earlier" and memo.position >= before:
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
            recalled.append(
                (-round(cosine, 6), -memo.position, memo.item_id, memo.text, memo.rating)
            )
    return [(item, text, rating, -p, -c) for c, p, item, text, rating in sorted(recalled)]


@few
@given(st.data())
def test_recall_is_brute_force(toy, data):
    world, memory = data.draw(toy.worlds), data.draw(toy.memories)
    time = data.draw(toy.recall_times)
    pairs = [(user, item) for user in toy.users for item in toy.items]
    befores = data.draw(st.lists(toy.befores, min_size=len(pairs), max_size=len(pairs)))
    rows = pd.DataFrame(pairs, columns=["user_id", "item_id"]).assign(position=befores)
    bank = Bank(world.memories, world.vectors, memory, time)
    for (_, row), recalled in zip(rows.iterrows(), bank.recall_rows(rows), strict=True):
        expected = brute_force(world, memory, time, *row)[: memory.top_k]
        similarities = [memo.similarity for memo in recalled]
        assert similarities == pytest.approx([similarity for *_, similarity in expected])
        assert [(memo.item_id, memo.text, memo.rating, memo.position) for memo in recalled] == [
            tuple(fields) for *fields, _ in expected
        ]


@few
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


def toy_bank(toy, memory=None, recall_time="earlier", later=None):
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
    memory = memory or configured("memory=ms_ml", top_k=9)
    return Bank(memories, vectors, memory, recall_time, later)


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
    memory = configured("memory=ms_ml", top_k=9, min_similarity=0.8)
    assert [each.item_id for each in toy.recall(toy_bank(toy, memory), 10, 5)] == [3, 2]


def test_random_memories_are_as_many_of_the_users_own(toy):
    nearest = configured("memory=ms_ml", top_k=2, min_similarity=0.5)
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


@few
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


def test_each_users_memories_are_read_once(toy, monkeypatch):
    reads = []
    real = Bank._recall
    monkeypatch.setattr(Bank, "_recall", lambda *args: reads.append(args[1]) or real(*args))
    rows = pd.DataFrame({"user_id": [10, 20, 10, 20, 10], "item_id": 5, "position": 9})
    toy_bank(toy).recall_rows(rows)
    assert sorted(reads) == [10, 20]


def test_who_or_what_is_unknown_is_said(toy):
    with pytest.raises(KeyError, match="99"):
        toy.recall(toy_bank(toy), 99, 1)
    with pytest.raises(KeyError, match="77"):
        toy.recall(toy_bank(toy), 10, 77)


# Each example writes a table.
@hypothesis.settings(max_examples=10)
@given(st.data())
def test_later_memories_are_recalled_like_those_of_the_training_rows(toy, tmp_path_factory, data):
    """The same memories, some of them in the table: recall is the same."""
    world, memory = data.draw(toy.worlds), data.draw(toy.memories)
    memory = replace(memory, test_memories=data.draw(st.sampled_from(["nearest", "random"])))
    time, all_rows = data.draw(toy.recall_times), world.memories.interactions
    # Every user keeps at least a memory of the training rows.
    drawn = data.draw(st.lists(st.booleans(), min_size=len(all_rows), max_size=len(all_rows)))
    early = (all_rows["position"] == 0).to_numpy() | np.array(drawn)
    vectors, own = world.vectors, all_rows[early]
    kept = SimpleNamespace(interactions=own)
    of_kept = replace(vectors, interactions=vectors.interactions[early])
    table = Table(tmp_path_factory.mktemp("later") / "memories")
    bank = Bank(kept, of_kept, memory, time, table)
    bank.add(all_rows[~early], lambda texts: (vectors.interactions[~early], Cost()))
    whole = Bank(world.memories, vectors, memory, time)
    again = Bank(kept, of_kept, memory, time, Table(table.folder))
    rows = pd.DataFrame(
        [(user, item, before) for user in toy.users for item in toy.items for before in (3, 9)],
        columns=["user_id", "item_id", "position"],
    )
    assert bank.recall_rows(rows) == again.recall_rows(rows) == whole.recall_rows(rows)


def test_half_stars_are_remembered_as_they_are(toy):
    bank = toy_bank(toy)
    bank._interactions["rating"] -= 0.5
    assert {memo.rating for memo in toy.recall(bank, 10, 5)} == {2.5}


def test_only_known_users_remember_known_movies(toy, tmp_path):
    bank = toy_bank(toy, later=Table(tmp_path / "memories"))
    row = {"user_id": 10, "item_id": 5, "rating": 2, "position": 4, "text": "more"}
    for unknown in ({"user_id": 99}, {"item_id": 77}):
        with pytest.raises(KeyError, match=str(*unknown.values())):
            bank.add(pd.DataFrame([row | unknown]))
    assert not any(tmp_path.iterdir())
    bank.add(pd.DataFrame([row]))
    assert toy.recall(bank, 10, 2)[0].text == "more"
    assert toy.recall(bank, 10, 2, before=4)[0].text == "I saw 3"

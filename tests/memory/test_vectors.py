from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from persona_lab.cache import Cache, Stage
from persona_lab.data import Cost
from persona_lab.memory import Vectors, embed, item_text

HEAT = {
    "title": "Heat",
    "year": 1995,
    "genres": "Action|Crime",
    "summary": "A thief and a detective.",
    "cast": "Al Pacino, Robert De Niro",
    "mean": 3.9,
}


def encode(texts):
    """Length and first letter of each text; remembers what it was asked."""
    encode.asked.append(list(texts))
    vectors = np.array([(len(text), ord(text[0])) for text in texts], dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), Cost(1, len(texts))


@pytest.fixture
def inputs():
    encode.asked = []
    memories = SimpleNamespace(
        profiles=pd.DataFrame({"user_id": [1, 2, 3], "profile": ["War", "I like war.", "War"]}),
        interactions=pd.DataFrame({"text": ["Good.", "Heat (1995).", "Good."]}),
    )
    split = SimpleNamespace(
        users=pd.DataFrame({"user_id": [3, 2, 1]}),
        movies=pd.DataFrame(
            {
                "item_id": [7, 8],
                "title": ["Heat", "Up"],
                "year": pd.array([1995, None], dtype="Int64"),
                **dict.fromkeys(("genres", "summary", "cast"), ""),
            }
        ),
    )
    return memories, split


def test_item_text_says_all_but_the_average_rating():
    assert item_text(HEAT) == (
        "Heat (1995). Action, Crime. A thief and a detective. Cast: Al Pacino, Robert De Niro."
    )
    unknown = {"title": "Who?", "year": pd.NA, "genres": "Drama", "summary": "", "cast": ""}
    assert item_text(unknown) == "Who? Drama."


def test_each_text_is_embedded_once_and_stands_where_it_belongs(inputs):
    vectors = embed(encode, *inputs, enriched=True)
    (asked,) = encode.asked
    assert sorted(asked) == ["Good.", "Heat (1995).", "I like war.", "Up.", "War"]
    assert vectors.user_ids.tolist() == [3, 2, 1]
    assert vectors.interactions is not None
    for found, texts in (
        (vectors.profiles, ["War", "I like war.", "War"]),
        (vectors.items, ["Heat (1995).", "Up."]),
        (vectors.interactions, ["Good.", "Heat (1995).", "Good."]),
    ):
        np.testing.assert_array_equal(found, encode(texts)[0])
    np.testing.assert_array_equal(vectors.profile_of(2), encode(["I like war."])[0][0])
    np.testing.assert_array_equal(vectors.items_of([8, 7, 8]), vectors.items[[1, 0, 1]])


def test_interactions_are_embedded_only_where_asked(inputs):
    assert embed(encode, *inputs, enriched=False).interactions is None
    assert not {"Good."} & set(encode.asked[0])


@pytest.mark.parametrize("enriched", [True, False])
def test_vectors_survive_the_store(inputs, tmp_path, enriched):
    vectors = embed(encode, *inputs, enriched=enriched)
    stored = Cache(tmp_path).once(Stage(Vectors, {"toy": 1}, lambda: vectors)).value
    for name, array in vars(vectors).items():
        if array is None or name == "cost":
            assert getattr(stored, name) == array
        else:
            np.testing.assert_array_equal(getattr(stored, name), array, strict=True)

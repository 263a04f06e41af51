import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from transformers import PreTrainedTokenizerFast

from persona_lab.distill import Memories
from persona_lab.memory import Memory
from persona_lab.prompting import Codec, Example, Template, make_examples

MS = Memory("ms", profile=True, interactions=False)
ML = Memory("ml", profile=False, interactions=True)
MS_ML = Memory("ms_ml", profile=True, interactions=True)
FINAL = SimpleNamespace(profile_snapshot="final")
CAUSAL = SimpleNamespace(profile_snapshot="causal")

MOVIES = pd.DataFrame(
    {
        "item_id": [10, 20, 30],
        "title": ["Alien", "Brazil", "Casablanca"],
        "year": pd.array([1979, 1985, None], dtype="Int64"),
        "genres": ["Horror|Sci-Fi", "Sci-Fi", ""],
        "summary": ["", "A clerk dreams.", ""],
        "cast": ["", "", ""],
        "director": ["", "", ""],
        "mean": [4.04, 3.9, 3.5],
        "mean_known": [True, True, False],
    }
)
# User 1's rows stand after user 2's: the order of the rows, not of the users, is kept.
ROWS = pd.DataFrame(
    {
        "user_id": [2, 1, 1],
        "item_id": [10, 20, 30],
        "rating": [5, 1, 3],
        "timestamp": [0, 1, 2],
        "position": [0, 0, 1],
    }
)
MEMORIES = Memories(
    profiles=pd.DataFrame(
        {
            "user_id": [1, 2],
            "profile": ["First user, at the end.", "Second user, at the end."],
            "activity": [0, 2],
            "conformity": [1, 1],
            "diversity": [2, 0],
        }
    ),
    snapshots=pd.DataFrame(
        {
            "user_id": [1, 1, 2],
            "batch": [0, 1, 0],
            "profile": ["First user, after one batch.", "First user, at the end.", "Second."],
        }
    ),
    interactions=ROWS.assign(batch=[0, 0, 1], text=["a", "b", "c"]),
    counts={},
)


@dataclass
class Bank:
    """Recalls for every row the movie before it in the catalogue."""

    asked: list[pd.DataFrame] = field(default_factory=list)

    def recall_rows(self, rows: pd.DataFrame) -> list[list[SimpleNamespace]]:
        self.asked.append(rows)
        return [
            [SimpleNamespace(item_id=item_id - 10, text=f"Recalled for {item_id}.")]
            if item_id > 10
            else []
            for item_id in rows["item_id"]
        ]


@pytest.fixture
def codec(tokenizers: dict[str, PreTrainedTokenizerFast]) -> Codec:
    return Codec(tokenizers["smollm2"], "template", 4096)


def examples_of(codec: Codec, template: Template, **changed: Any) -> list[Example]:
    arguments = {
        "rows": ROWS,
        "bank": Bank(),
        "memories": MEMORIES,
        "split": SimpleNamespace(movies=MOVIES),
        "template": template,
        "codec": codec,
        "memory": MS_ML,
        "protocol": FINAL,
        "training": True,
    } | changed
    return make_examples(arguments.pop("rows"), **arguments)


def texts_of(codec: Codec, examples: list[Example]) -> list[str]:
    return [codec.tokenizer.decode(example.ids) for example in examples]


def test_examples_stand_in_the_order_of_the_rows(codec: Codec, template: Template) -> None:
    examples = examples_of(codec, template)
    assert [(each.user_id, each.item_id, each.rating) for each in examples] == [
        (2, 10, 5),
        (1, 20, 1),
        (1, 30, 3),
    ]
    texts = texts_of(codec, examples)
    assert "Second user, at the end." in texts[0]
    assert template.traits["activity"][2] in texts[0]
    assert template.traits["diversity"][0] in texts[0]
    assert (
        "MOVIE: Alien (1979). Genres: Horror, Sci-Fi. Historical average rating: 4.04." in texts[0]
    )
    assert "YOUR MEMORIES\n(none)" in texts[0]
    assert "First user, at the end." in texts[1]
    assert "YOUR MEMORIES\nMOVIE: Alien (1979)." in texts[1]
    assert "MY MEMORY: Recalled for 20." in texts[1]
    assert "MOVIE: Casablanca. Nobody has rated it before; the average" in texts[2]


def test_the_truth_is_not_in_the_prompt(codec: Codec, template: Template) -> None:
    examples = examples_of(codec, template)
    others = examples_of(codec, template, rows=ROWS.assign(rating=[1, 5, 4]))
    assert [replace(each, rating=0) for each in examples] == [
        replace(each, rating=0) for each in others
    ]


def test_memory_decides_what_is_shown(codec: Codec, template: Template) -> None:
    for text in texts_of(codec, examples_of(codec, template, memory=MS, bank=None)):
        assert "at the end." in text
        assert "MEMORIES" not in text
    for text in texts_of(codec, examples_of(codec, template, memory=ML)):
        assert text.startswith("<|im_start|>system\nTASK:")
        assert "YOUR MEMORIES" in text
        assert "user, at the end" not in text
        assert not any(tier in text for tiers in template.traits.values() for tier in tiers)


def test_a_causal_training_row_sees_the_profile_before_its_batch(
    codec: Codec, template: Template
) -> None:
    first, second, third = texts_of(codec, examples_of(codec, template, protocol=CAUSAL))
    for text in (first, second):
        assert template.profile not in text
        assert template.persona in text
    assert "First user, after one batch." in third
    assert "at the end" not in third.replace("movie at the end", "")


def test_a_test_row_sees_the_final_profile_and_may_be_unknown_to_the_memories(
    codec: Codec, template: Template
) -> None:
    empty = SimpleNamespace(**{**vars(MEMORIES), "interactions": MEMORIES.interactions.head(0)})
    texts = texts_of(
        codec, examples_of(codec, template, memories=empty, protocol=CAUSAL, training=False)
    )
    assert ["First user, at the end." in text for text in texts] == [False, True, True]


def test_the_bank_is_asked_once_for_all_rows(codec: Codec, template: Template) -> None:
    bank = Bank()
    examples_of(codec, template, bank=bank)
    assert len(bank.asked) == 1
    pd.testing.assert_frame_equal(bank.asked[0], ROWS)


def test_what_the_context_cuts_is_counted(
    tokenizers: dict[str, PreTrainedTokenizerFast], codec: Codec, template: Template
) -> None:
    lengths = [len(example.ids) for example in examples_of(codec, template)]
    tight = Codec(tokenizers["smollm2"], "template", max(lengths) + codec.new_tokens - 1)
    assert [each.cut for each in examples_of(tight, template)] == [
        {"memories": 1} if length == max(lengths) else {} for length in lengths
    ]


def test_a_control_shows_test_prompts_another_users_profile(
    codec: Codec, template: Template
) -> None:
    control = replace(MS_ML, test_profile="another")
    exchanged = texts_of(codec, examples_of(codec, template, memory=control, training=False))
    assert "First user, at the end." in exchanged[0]
    assert template.traits["activity"][0] in exchanged[0]
    assert "Second user, at the end." in exchanged[1]
    assert "MY MEMORY: Recalled for 20." in exchanged[1]


def test_a_raw_memory_is_the_movie_and_its_rating(codec: Codec, template: Template) -> None:
    @dataclass
    class Rated(Bank):
        def recall_rows(self, rows: pd.DataFrame) -> list[list[SimpleNamespace]]:
            found = super().recall_rows(rows)
            return [[SimpleNamespace(**vars(each), rating=2) for each in row] for row in found]

    raw = replace(MS_ML, text="raw")
    texts = texts_of(codec, examples_of(codec, template, memory=raw, bank=Rated()))
    assert "MY MEMORY: I rated Alien (1979) as 2." in texts[1]
    assert "MY MEMORY: A clerk dreams. I rated Brazil (1985) as 2." in texts[2]
    assert "Recalled for" not in "".join(texts)


def test_without_the_average_in_the_prompt_only_it_is_gone(
    codec: Codec, template: Template, load_template: Callable[..., Template]
) -> None:
    with_mean = texts_of(codec, examples_of(codec, template))
    without = texts_of(codec, examples_of(codec, load_template("no_mean")))
    for one, other in zip(with_mean, without, strict=True):
        assert "verage rating" not in other
        kept = re.sub(r" ?(Historical|Nobody|A movie's historical)[^.]*?(\d\.\d\d|you)\.", "", one)
        assert kept.split() == other.split()

import re
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from configured import configured
from transformers import PreTrainedTokenizerFast

from persona_lab.data import NoMovieInfo, Ratings, Scale
from persona_lab.distill import Memories
from persona_lab.memory import Bank, Vectors
from persona_lab.prompting import Codec, Example, Template, make_examples
from persona_lab.prompting.template import TRAITS
from persona_lab.sources import Sources

MS, ML, MS_ML = (configured(f"memory={option}") for option in ("ms", "ml", "ms_ml"))
FIVE = configured("data/scale=five_stars")
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
class ToyBank:
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
    return Codec(tokenizers["smollm2"], "template", 4096, 4, FIVE)


def examples_of(codec: Codec, template: Template, **changed: Any) -> list[Example]:
    arguments = {
        "rows": ROWS,
        "bank": ToyBank(),
        "memories": MEMORIES,
        "split": SimpleNamespace(movies=MOVIES, scale=FIVE),
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
    bank = ToyBank()
    examples_of(codec, template, bank=bank)
    assert len(bank.asked) == 1
    pd.testing.assert_frame_equal(bank.asked[0], ROWS)


def test_what_the_context_cuts_is_counted(
    tokenizers: dict[str, PreTrainedTokenizerFast], codec: Codec, template: Template
) -> None:
    lengths = [len(example.ids) for example in examples_of(codec, template)]
    room = max(lengths) + codec.new_tokens - 1
    tight = Codec(tokenizers["smollm2"], "template", room, 4, FIVE)
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
    class Rated(ToyBank):
        def recall_rows(self, rows: pd.DataFrame) -> list[list[SimpleNamespace]]:
            found = super().recall_rows(rows)
            return [[SimpleNamespace(**vars(each), rating=2) for each in row] for row in found]

    raw = replace(MS_ML, text="raw")
    texts = texts_of(codec, examples_of(codec, template, memory=raw, bank=Rated()))
    assert "MY MEMORY: I rated Alien (1979) as 2." in texts[1]
    assert "MY MEMORY: A clerk dreams. I rated Brazil (1985) as 2." in texts[2]
    assert "Recalled for" not in "".join(texts)


def test_without_the_average_in_the_prompt_only_it_is_gone(
    codec: Codec, template: Template
) -> None:
    with_mean = texts_of(codec, examples_of(codec, template))
    without = texts_of(codec, examples_of(codec, configured("prompt=no_mean")))
    for one, other in zip(with_mean, without, strict=True):
        assert "verage rating" not in other
        kept = re.sub(r" ?(Historical|Nobody|A movie's historical)[^.]*?(\d\.\d\d|you)\.", "", one)
        assert kept.split() == other.split()


def test_half_stars_go_from_the_split_to_the_answer(
    tokenizers: dict[str, PreTrainedTokenizerFast], tmp_path: Path
) -> None:
    """Users who rated in half stars: split, average, recalled memory, prompt and answer."""
    values = [n / 2 for n in range(1, 11)]
    scale = Scale(values, [f"gave it {value:g}" for value in values])
    n_users, n_movies = 4, 5
    frame = pd.DataFrame(
        {
            "user_id": np.repeat(range(n_users), n_movies),
            "item_id": np.tile(range(n_movies), n_users),
            "rating": np.resize([3.5, 4.0, 0.5, 5.0, 2.5, 1.0], n_users * n_movies),
            "timestamp": np.tile(range(n_movies), n_users),
        }
    )
    movies = pd.DataFrame({"item_id": range(n_movies), "title": [*"abcde"], "genres": "Drama"})
    movies["year"] = pd.array([None] * n_movies, "Int64")
    users = pd.DataFrame({"user_id": range(n_users)})
    data = configured("data=synthetic", scale=scale, min_ratings=1, n_users=1, cohort="reported")
    strict = configured("protocol=strict")
    split = data.split(
        Ratings(frame, movies, users, {}, scale),
        *(strict, NoMovieInfo(), Sources(tmp_path)),
    )
    assert set(split.train["rating"]) <= set(values)
    (user,) = split.users["user_id"]
    memories = Memories(
        pd.DataFrame({"user_id": [user], "profile": "I like a.", **dict.fromkeys(TRAITS, 0)}),
        snapshots=pd.DataFrame(),
        interactions=split.train.assign(text="I rated it."),
        counts={},
    )
    vectors = Vectors(
        np.array([user]), np.eye(1), np.arange(n_movies), np.ones((n_movies, 1)), None
    )
    tokenizer = deepcopy(tokenizers["smollm2"])
    tokenizer.add_tokens([*scale.labels])
    codec = Codec(tokenizer, "plain", 4096, 4, scale)
    raw = replace(MS_ML, text="raw")
    examples = make_examples(
        split.test,
        bank=Bank(memories, vectors, raw, "earlier"),
        memories=memories,
        split=split,
        template=configured("prompt=appendix_c"),
        codec=codec,
        memory=raw,
        protocol=strict,
        training=False,
    )
    assert [example.rating for example in examples] == split.test["rating"].tolist()
    last = split.train.iloc[-1]
    for example in examples:
        text = tokenizer.decode(example.ids)
        assert "from 0.5 to 5, where 0.5 means you gave it 0.5, 1 you gave it 1" in text
        assert f"as {last['rating']:g}." in text
        answer, _ = codec.answer(example.rating)
        assert tokenizer.decode([answer]).strip() == f"{example.rating:g}"

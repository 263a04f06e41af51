"""Parsing by a table, and responses against generation row by row."""

import copy
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from configured import configured
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import PreTrainedModel

from persona_lab.data import Scale
from persona_lab.errors import UserError
from persona_lab.model import BaseModel, Decode, Response, TrainedAdapter, attach, lend
from persona_lab.model.adapters import weights_of
from persona_lab.model.decode import respond
from persona_lab.model.train import by_prefix
from persona_lab.prompting import Codec, Example

PAPER: Decode = configured("decode=paper")
STARS: Scale = configured("data/scale=five_stars")
SEED = 3
# What the talkative model says: all that makes a digit a rating or not.
ALPHABET = "0123456 \n.,/-"

PARSED: list[tuple[str, int | None]] = [
    ("4", 4),
    (" 4", 4),
    ("4/5", 4),
    ("4/5.", 4),
    ("4 out of 5", 4),
    ("Rating: 3.", 3),
    ("3. A movie", 3),
    ("5\n4", 5),
    ("I'd say 4!", 4),
    ("**2**", 2),
    ("(1)", 1),
    ("4, maybe", 4),
    ("0 or 5", 5),
    ("10", None),
    ("10 4", 4),
    ("4.5", None),
    ("4,5", None),
    (".5", None),
    ("3.0", 3),
    ("4.00", 4),
    ("4.05", None),
    ("4.0.5", None),
    ("4.00/5", 4),
    ("4.00/10", None),
    ("2024", None),
    ("4/10", None),
    ("4/50", None),
    ("1/2", None),
    ("1-5", None),
    ("-4", None),
    ("4th", None),
    ("v4", None),
    ("0", None),
    ("6", None),
    ("four", None),
    ("", None),
    ("٤", None),
    ("4٤", None),
]


@pytest.mark.parametrize(("text", "rating"), PARSED)
def test_parsed_rating(text: str, rating: int | None) -> None:
    assert PAPER.parse(text, STARS) == rating


texts = st.text(st.sampled_from([*ALPHABET, "7", "a", "_", "!", "٤"]), max_size=12)


@given(st.one_of(texts, st.text()))
def test_a_parsed_rating_is_on_the_scale_and_stands_in_the_text(text: str) -> None:
    rating = PAPER.parse(text, STARS)
    assert rating is None or (rating in STARS.values and STARS.label(rating) in text)


@given(texts, texts)
def test_nothing_that_follows_changes_a_settled_rating(text: str, more: str) -> None:
    for n in range(len(text) + 1):
        if PAPER.settled(text[:n], STARS):
            rating = PAPER.parse(text[:n], STARS)
            assert rating is not None
            assert rating == PAPER.parse(text, STARS) == PAPER.parse(text + more, STARS)


@pytest.mark.parametrize("text", ["", "4", "4.", "4/", "4-", "10 ", "x "])
def test_what_may_still_change_is_not_settled(text: str) -> None:
    assert not PAPER.settled(text, STARS)


@pytest.mark.parametrize("text", ["4 ", "4\n", "So 4 stars"])
def test_what_cannot_change_is_settled(text: str) -> None:
    assert PAPER.settled(text, STARS)


HALVES = Scale([n / 2 for n in range(1, 11)], [""] * 10)


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        *[("3.5", 3.5), ("3", 3), ("3.0", 3), ("0.5/5", 0.5), ("5.0", 5), ("3.5 stars", 3.5)],
        *[("3.25", None), ("13.5", None), ("3.5/10", None), ("0", None), ("5.5", None)],
    ],
)
def test_half_stars_are_read_as_well(text: str, rating: float | None) -> None:
    assert PAPER.parse(text, HALVES) == rating


def test_a_broken_pattern_is_the_users_error() -> None:
    with pytest.raises(UserError, match=r"decode\.pattern is no regular expression"):
        replace(PAPER, pattern="([1-5]")
    with pytest.raises(UserError, match="has no group"):
        replace(PAPER, pattern="{values}")


def test_a_pattern_that_finds_no_rating_in_its_match_is_the_users_error() -> None:
    digits = replace(PAPER, pattern=r"(\d+)")
    assert digits.parse("4 stars", STARS) == 4
    with pytest.raises(UserError, match=r"decode\.pattern .* finds '45' in .* '45 stars'"):
        digits.parse("45 stars", STARS)
    with pytest.raises(UserError, match="finds None"):
        replace(PAPER, pattern=r"({values})|none").parse("none", STARS)


@pytest.fixture
def talkative(tiny: BaseModel, codec: Codec, sources: Any, in_fp64: None) -> PreTrainedModel:
    """A random fp64 model that mostly writes digits, breaks and ends of turns."""
    model = copy.deepcopy(tiny.load(sources, torch.float64, "cpu"))
    size, hidden = model.config.vocab_size, model.config.hidden_size
    torch.manual_seed(0)
    to_vocabulary = nn.Linear(hidden, size, dtype=torch.float64)
    nn.init.normal_(to_vocabulary.weight, std=0.1)
    nn.init.zeros_(to_vocabulary.bias)
    spoken = [token for sign in ALPHABET for token in codec.tokenizer(sign)["input_ids"]]
    assert len({*spoken}) == len(ALPHABET)
    # More spaces, since they settle a rating.
    to_vocabulary.bias.data[[*spoken, *codec.stop_ids]] = 6.0
    to_vocabulary.bias.data[codec.tokenizer(" ")["input_ids"]] = 7.5
    model.set_output_embeddings(to_vocabulary)
    return model.requires_grad_(False)


def answer(
    model: PreTrainedModel, codec: Codec, decode: Decode, examples: list[Example], budget: int
) -> list[Response]:
    groups = list(by_prefix([e.ids for e in examples], [e.user_id for e in examples]))
    found = respond(model, codec, decode, groups, examples, SEED, budget)
    return [found[i] for i in range(len(examples))]


def draw_alone(
    model: PreTrainedModel, codec: Codec, decode: Decode, example: Example
) -> tuple[str, np.ndarray]:
    """All that one row's generator draws, and the first position's logits."""
    draws = np.random.default_rng([SEED, example.user_id, example.item_id])
    ids, response = list(example.ids), []
    first = None
    for draw in draws.random(decode.max_new_tokens):
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].numpy()
        first = logits if first is None else first
        likeliest = np.argsort(-logits)[: 1 if decode.name == "greedy" else decode.top_k]
        weights = np.exp((logits[likeliest] - logits.max()) / decode.temperature)
        share = np.cumsum(weights / weights.sum())
        token = int(likeliest[min(np.searchsorted(share, draw, "right"), len(share) - 1)])
        if token in codec.stop_ids:
            break
        response.append(token)
        ids.append(token)
    assert first is not None
    text = codec.tokenizer.decode(
        response, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return str(text), first


DECODES = [
    replace(PAPER, temperature=1.5, max_new_tokens=6),
    replace(PAPER, temperature=1.0, top_k=5),
    replace(PAPER, max_new_tokens=1),
    replace(PAPER, name="greedy"),
]


@pytest.mark.parametrize("cleaned_up", [False, True])
@pytest.mark.parametrize("decode", DECODES, ids=lambda each: f"{each.name}{each.max_new_tokens}")
def test_responses_are_those_of_generation_row_by_row(
    talkative: PreTrainedModel,
    codec: Codec,
    make_examples: Callable[..., list[Example]],
    monkeypatch: pytest.MonkeyPatch,
    decode: Decode,
    cleaned_up: bool,
) -> None:
    # A clean-up takes spaces before punctuation away: "4 .5" would become "4.5".
    for option in ("", "_for_bpe_even_though_it_will_corrupt_output"):
        name = f"clean_up_tokenization_spaces{option}"
        monkeypatch.setattr(codec.tokenizer, name, cleaned_up)
    examples = make_examples(n_users=8, n_rows=5)
    oracle = copy.deepcopy(talkative)
    oracle.set_attn_implementation("eager")
    with torch.inference_mode():
        drawn = [draw_alone(oracle, codec, decode, example) for example in examples]
    for response, (text, logits) in zip(
        answer(talkative, codec, decode, examples, 100), drawn, strict=True
    ):
        # Decoding may stop early, and must not change the rating by it.
        assert text.startswith(response.text)
        assert response.text == text or decode.settled(response.text, STARS)
        assert response.prediction == decode.parse(text, STARS)
        digits = np.exp(logits[list(codec.value_ids)])
        np.testing.assert_allclose(response.probabilities, digits / digits.sum(), rtol=1e-9)
        np.testing.assert_allclose(response.digit_mass, digits.sum() / np.exp(logits).sum())


def test_the_model_says_all_sorts_of_things(
    talkative: PreTrainedModel, codec: Codec, make_examples: Callable[..., list[Example]]
) -> None:
    """Else the comparison with row-by-row generation would show little."""
    responses = answer(talkative, codec, DECODES[0], make_examples(n_users=80, n_rows=5), 100)
    assert {response.prediction for response in responses} == {None, 1, 2, 3, 4, 5}
    assert len({response.text for response in responses}) > 20
    n_settled = sum(DECODES[0].settled(response.text, STARS) for response in responses)
    assert 0 < n_settled < len(responses)


@pytest.mark.parametrize("budget", [1, 40, 90, 10_000])
def test_no_batch_changes_a_response(
    talkative: PreTrainedModel,
    codec: Codec,
    make_examples: Callable[..., list[Example]],
    budget: int,
) -> None:
    decode = DECODES[0]
    examples = make_examples(n_users=8, n_rows=5)
    expected = answer(talkative, codec, decode, examples, 200)
    order = random.Random(0).sample(range(len(examples)), len(examples))
    shuffled = answer(talkative, codec, decode, [examples[i] for i in order], budget)
    for i, response in zip(order, shuffled, strict=True):
        assert (response.text, response.prediction) == (expected[i].text, expected[i].prediction)
        np.testing.assert_allclose(response.probabilities, expected[i].probabilities, rtol=1e-9)


def test_another_seed_draws_other_responses(
    talkative: PreTrainedModel,
    codec: Codec,
    make_examples: Callable[..., list[Example]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    examples = make_examples()
    before = [each.text for each in answer(talkative, codec, DECODES[0], examples, 200)]
    monkeypatch.setitem(globals(), "SEED", 4)
    assert [each.text for each in answer(talkative, codec, DECODES[0], examples, 200)] != before


def test_expected_reads_the_mean_of_the_digits(
    talkative: PreTrainedModel, codec: Codec, make_examples: Callable[..., list[Example]]
) -> None:
    examples = make_examples()
    sampled = answer(talkative, codec, PAPER, examples, 200)
    for response, other in zip(
        answer(talkative, codec, replace(PAPER, name="expected"), examples, 200),
        sampled,
        strict=True,
    ):
        assert response.text == ""
        assert response.prediction == response.expected_rating
        by_hand = sum(n * p for n, p in enumerate(response.probabilities, start=1))
        assert response.expected_rating == pytest.approx(by_hand)
        assert 1 < response.expected_rating < 5
        assert response.probabilities.sum() == pytest.approx(1, abs=1e-12)
        assert 0 < response.digit_mass < 1
        # What the probabilities are does not depend on the decoding.
        np.testing.assert_array_equal(response.probabilities, other.probabilities)


def test_a_merged_adapter_answers_like_an_unmerged_one(
    talkative: PreTrainedModel, codec: Codec, make_examples: Callable[..., list[Example]]
) -> None:
    examples = make_examples()
    config = configured("peft=lora", r=4, alpha=8).config(["q_proj", "k_proj"])
    with lend(talkative, config, seed=0) as lent:
        for tensor in lent.state_dict().values():
            if tensor.shape[-1] == 4:
                nn.init.normal_(tensor, std=0.5)
        adapter = TrainedAdapter(config, weights_of(lent), {})
    decode = DECODES[0]
    base = answer(talkative, codec, decode, examples, 200)
    with attach(talkative, adapter):
        unmerged = answer(talkative, codec, decode, examples, 200)
    with attach(talkative, adapter, merge=True):
        merged = answer(talkative, codec, decode, examples, 200)
    for one, other, without in zip(unmerged, merged, base, strict=True):
        assert one.text == other.text
        np.testing.assert_allclose(one.probabilities, other.probabilities, rtol=1e-9)
        assert not np.allclose(one.probabilities, without.probabilities, rtol=1e-3)
    for one, other in zip(answer(talkative, codec, decode, examples, 200), base, strict=True):
        np.testing.assert_array_equal(one.probabilities, other.probabilities)

"""Steps, schedule and labels of training."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from configured import configured
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from persona_lab.model import Train
from persona_lab.model.train import answered, by_prefix
from persona_lab.prompting import Codec, Example

TRAIN: Train = configured("train=default")


def rows_of(counts: list[int]) -> list[Example]:
    """Users with so many rows each, mixed."""
    examples = [Example(user, row, 3, [1], {}) for user, n in enumerate(counts) for row in range(n)]
    order = np.random.default_rng(0).permutation(len(examples))
    return [examples[i] for i in order]


counts = st.lists(st.integers(0, 30), min_size=1, max_size=8).filter(any)


@given(counts, st.integers(1, 12), st.integers(1, 9), st.integers(0, 3))
def test_each_epoch_covers_every_row_once(
    counts: list[int], batch_size: int, rows_per_prefix: int, seed: int
) -> None:
    examples = rows_of(counts)
    recipe = replace(TRAIN, batch_size=batch_size, rows_per_prefix=rows_per_prefix)
    for epoch in range(2):
        steps = recipe.steps(examples, seed, epoch)
        assert sorted(i for step in steps for i in step) == list(range(len(examples)))
        sizes = {len(step) for step in steps}
        assert max(sizes) - min(sizes) <= 1
        # As near to the batch size as whole steps can be.
        assert len(steps) == max(1, round(len(examples) / batch_size))
        assert steps == recipe.steps(examples, seed, epoch)


@given(counts, st.integers(1, 9), st.integers(0, 3))
def test_rows_of_a_user_come_in_chunks_of_the_size_asked(
    counts: list[int], rows_per_prefix: int, seed: int
) -> None:
    examples = rows_of(counts)
    recipe = replace(TRAIN, batch_size=16, rows_per_prefix=rows_per_prefix)
    order = [examples[i].user_id for step in recipe.steps(examples, seed, 0) for i in step]
    n_runs = Counter(user for user, after in pairwise([*order, None]) if user != after)
    for user, n in enumerate(counts):
        # No more runs than chunks: rows that share a prefix stand together.
        assert n_runs[user] <= -(-n // rows_per_prefix)


def test_a_step_mixes_users() -> None:
    examples = rows_of([30] * 10)
    steps = TRAIN.steps(examples, 0, 0)
    assert len(steps) == 9
    n_users = [len({examples[i].user_id for i in step}) for step in steps]
    # By chance a user is drawn twice; no step is one user.
    assert min(n_users) > 1
    assert np.mean(n_users) > 3.5


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    examples = rows_of([30] * 4)
    orders = {str(TRAIN.steps(examples, s, e)) for s in range(2) for e in range(2)}
    assert len(orders) == 4


def test_the_schedule_warms_up_over_a_tenth_of_the_steps_and_falls_to_nothing() -> None:
    optimiser, schedule = replace(TRAIN, lr=0.5).optimiser([nn.Parameter(torch.zeros(1))], 25)
    rates = []
    for _ in range(25):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    # floor(10% of 25) = 2 steps of warm-up.
    assert rates[:3] == [0, 0.25, 0.5]
    assert max(rates) == 0.5
    assert all(a > b for a, b in pairwise(rates[2:]))
    assert optimiser.param_groups[0]["lr"] == pytest.approx(0)
    assert optimiser.param_groups[0]["weight_decay"] == 0.01
    assert isinstance(optimiser, torch.optim.AdamW)


def test_what_is_taught_is_the_digit_and_the_end_of_the_turn(
    codec: Codec, make_examples: Callable[..., list[Example]]
) -> None:
    examples = make_examples()
    rows = answered(examples, codec)
    end = codec.tokenizer.convert_tokens_to_ids("<|end|>")
    digits = [codec.tokenizer.convert_tokens_to_ids(str(each.rating)) for each in examples]
    assert rows.answers == [[digit, end] for digit in digits]
    whole: dict[int, list[int]] = {}
    for one in rows.groups:
        for row, suffix in zip(one.rows, one.suffixes, strict=True):
            whole[row] = [*one.prefix, *suffix]
            # The states that predict both tokens are the row's own.
            assert len(suffix) >= 2
    expected = [[*each.ids, digit] for each, digit in zip(examples, digits, strict=True)]
    assert [whole[i] for i in range(len(examples))] == expected


def test_equal_prompts_keep_what_predicts_their_answers_apart(codec: Codec) -> None:
    # Two movies of one title and year.
    examples = [Example(1, item, rating, [7, 8, 9], {}) for item, rating in ((1, 2), (2, 5))]
    (one,) = answered(examples, codec).groups
    assert one.prefix == [7, 8]
    assert one.suffixes == [[9, codec.value_ids[1]], [9, codec.value_ids[4]]]


def test_groups_are_the_users(make_examples: Callable[..., list[Example]]) -> None:
    examples = make_examples(n_users=3, n_rows=4, prefix=12)
    order: list[Any] = np.random.default_rng(0).permutation(len(examples)).tolist()
    mixed = [examples[i] for i in order]
    groups = list(by_prefix([e.ids for e in mixed], [e.user_id for e in mixed]))
    assert [{mixed[i].user_id for i in one.rows} for one in groups] == [{0}, {1}, {2}]
    assert all(len(one.prefix) >= 12 for one in groups)


def test_no_rows_no_groups(codec: Codec) -> None:
    assert answered([], codec).groups == []

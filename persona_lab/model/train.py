"""Examples and a training recipe -> optimiser steps that mix users and share their prefixes. Pure.

A step holds several users, and of each several rows: few enough that the step is not one user,
many enough that the users' long prefixes are computed once for several rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from persona_lab.component import component
from persona_lab.model.engine import Group, group
from persona_lab.model.loss import Loss
from persona_lab.prompting import Codec, Example


@component
class Train:
    """How an adapter is trained (decision 20).

    Attributes:
        loss: What training makes small.
        lr: Peak learning rate of AdamW.
        epochs: Passes over the rows.
        batch_size: Rows per optimiser step.
        rows_per_prefix: Rows of one user that are drawn together, at most: they share its prefix.
        weight_decay: AdamW's.
        warmup: Share of the steps in which the rate rises, rounded down.
        schedule: Name of a transformers schedule.
        tokens_per_microbatch: Tokens computed at once; bounds memory, and draws dropout anew.
    """

    loss: Loss
    lr: PositiveFloat
    epochs: PositiveInt
    batch_size: PositiveInt
    rows_per_prefix: PositiveInt
    weight_decay: NonNegativeFloat
    warmup: Annotated[float, Field(ge=0, le=1)]
    schedule: Literal["cosine", "linear", "constant_with_warmup"]
    tokens_per_microbatch: PositiveInt

    def steps(self, examples: Sequence[Example], seed: int, epoch: int) -> list[list[int]]:
        """Indices of the examples of every optimiser step of an epoch; each example once."""
        rng = np.random.default_rng([seed, epoch])
        by_user: dict[int, list[int]] = {}
        for i in rng.permutation(len(examples)):
            by_user.setdefault(examples[i].user_id, []).append(int(i))
        chunks = [
            chunk.tolist()
            for _, own in sorted(by_user.items())
            for chunk in np.array_split(own, -(-len(own) // self.rows_per_prefix))
        ]
        flat = [i for chunk in rng.permutation(len(chunks)) for i in chunks[chunk]]
        n_steps = max(1, round(len(flat) / self.batch_size))
        return [part.tolist() for part in np.array_split(flat, n_steps)]

    def optimiser(self, parameters: Sequence, n_steps: int) -> tuple[Optimizer, LRScheduler]:
        """AdamW and the schedule over `n_steps` optimiser steps."""
        optimiser = AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay)
        schedule = get_scheduler(self.schedule, optimiser, int(self.warmup * n_steps), n_steps)
        return optimiser, schedule


@dataclass(frozen=True)
class Answered:
    """The rows of a step, with their answers: what the loss is taken over.

    Attributes:
        groups: Rows by shared prefix; a row is its prompt and all of its answer but the last token.
        answers: Per row, by its index in the step, the answer's tokens.
        value_ids: Token of each value of the scale, as an answer begins with it.
        values: The scale's values.
    """

    groups: list[Group]
    answers: list[list[int]]
    value_ids: Sequence[int]
    values: Sequence[float]


def answered(examples: Sequence[Example], codec: Codec) -> Answered:
    """Join prompts with answers, grouped by user; the loss is on answers only (decision 21)."""
    answers = [codec.answer(example.rating) for example in examples]
    rows = [example.ids + answer[:-1] for example, answer in zip(examples, answers, strict=True)]
    # Two prompts may be equal (movies of one title): what predicts an answer is still a row's own.
    shortest = len(answers[0]) if answers else 1
    groups = list(by_prefix(rows, [e.user_id for e in examples], shortest))
    return Answered(groups, answers, codec.value_ids, codec.scale.values)


def by_prefix(
    rows: Sequence[list[int]], users: Sequence[int], shortest: int = 1
) -> Iterator[Group]:
    """Group rows of token ids by user; `Group.rows` index `rows`, `shortest` as in `group`."""
    for _, members in groupby(np.argsort(users, kind="stable").tolist(), key=users.__getitem__):
        indices = list(members)
        yield group([rows[i] for i in indices], indices, shortest)

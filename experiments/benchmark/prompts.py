"""A prompt's choices -> real rows: the examples of users of the embedded setup, and their model.

The ratings, the profiles and the words are the project's own. Summaries and casts come from a CSV
file where one is given; else `Filler` stands in for them with meaningless words of their length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedModel

from persona_lab import estimate
from persona_lab.component import component
from persona_lab.compose import configure
from persona_lab.data import Cost
from persona_lab.experiment import Experiment
from persona_lab.lab import Lab
from persona_lab.model import Decode, Train, Trainer
from persona_lab.model.train import by_prefix
from persona_lab.prompting import Codec, Example
from persona_lab.sources import Sources

ROWS_PER_USER = 32
"""Rows that every user has, of each kind: the most that a cell takes."""

_QUICK = ["experiment=smoke", "model.context=4096", "data.train_fraction=0.5"]
_WORDS = """
river winter letter stranger house promise garden journey brother shadow morning silver teacher
station harbour question memory window captain village secret winner mountain paper doctor island
summer record market daughter engine forest message theatre soldier kitchen finds leaves keeps
follows answers carries forgets builds returns watches learns hides
""".split()  # noqa: SIM905


@component
class Filler:
    """Placeholder texts: a summary of 36 words and a cast of five two-word names per movie.

    They mean nothing; they give a prompt the length that a summary and a cast would.
    """

    words: int = 36
    people: int = 5

    def read(self, movies: pd.DataFrame, sources: Sources) -> tuple[pd.DataFrame, Cost]:
        """Texts as `persona_lab.data.MovieInfo` wants them, the same for an item every time."""
        texts = [self._of(int(item)) for item in movies["item_id"]]
        told = pd.DataFrame(texts, columns=["summary", "cast", "director"])
        return told.assign(item_id=movies["item_id"].to_numpy()), Cost()

    def fingerprint(self, sources: Sources) -> str:
        """The sizes."""
        return f"filler-{self.words}-{self.people}"

    def _of(self, item: int) -> tuple[str, str, str]:
        rng = np.random.default_rng(item)
        summary = " ".join(rng.choice(_WORDS, self.words)).capitalize() + "."
        names = (" ".join(rng.choice(_WORDS, 2)).title() for _ in range(self.people))
        return summary, ", ".join(names), ""


@dataclass(frozen=True)
class Choice:
    """Which prompts, and which model reads them.

    Attributes:
        prompts: What they show: `ms` or `ms_ml`.
        order: Of their parts (`prompt.order`).
        precision: In which the model computes: Lightning's name.
        movie_info: A file with summaries and casts; None: filler.
        quick: A tiny random model.
        trainer: `cpu` or `gpu`.
        shape: A model's name (conf/model): random weights of its sizes, with the setup's tokenizer
            and vocabulary; None: the setup's model.
    """

    prompts: str
    order: str
    precision: str
    movie_info: str | None
    quick: bool
    trainer: str = "cpu"
    shape: str | None = None


@dataclass(frozen=True)
class Rows:
    """Users' rows and the model that reads them.

    Attributes:
        train: Training rows of each user, `ROWS_PER_USER` or more.
        evaluate: Test rows likewise.
        base: The frozen model, on the engine's attention.
        codec: How it reads.
        peft: PEFT's configuration at the setup's dropout.
        trainer: The setup's trainer in the precision chosen.
        recipe: The setup's way of training.
        decode: The setup's way of answering.
        plan: What `task=plan` would say of training on rows (see `planned`).
    """

    train: list[list[Example]]
    evaluate: list[list[Example]]
    base: PreTrainedModel
    codec: Codec
    peft: Any
    trainer: Trainer
    recipe: Train
    decode: Decode
    plan: Callable[[Sequence[Example]], dict[str, float]]

    def of(self, what: str, first: int, n_users: int, n_rows: int) -> list[Example]:
        """Rows of the users from number `first` on, counted round and round."""
        users: list[list[Example]] = getattr(self, what)
        chosen = (users[(first + i) % len(users)] for i in range(n_users))
        return [row for user in chosen for row in user[:n_rows]]


@lru_cache
def load(choice: Choice) -> Rows:
    """Compose the setup, let it distil and lay out prompts; the store keeps what it computed."""
    info = f"movie_info.path={choice.movie_info}"
    overrides = [
        *(_QUICK if choice.quick else ["data.n_users=16"]),
        *(["movie_info=csv", info] if choice.movie_info else []),
        f"memory={choice.prompts}",
        f"prompt.order={choice.order}",
        f"trainer={choice.trainer}",
        f"trainer.precision={choice.precision}",
        "trainer.progress=false",
        f"data.test_rows_per_user={ROWS_PER_USER}",
    ]
    run = configure(*overrides)
    shape = configure(f"slm={choice.shape}").experiment.model if choice.shape else None
    experiment, lab = run.experiment, run.lab
    if choice.movie_info is None:
        experiment = replace(experiment, movie_info=Filler(2, 1) if choice.quick else Filler())
    prepared = experiment.prepare(lab)
    codec = experiment.tuning(lab, prepared).codec
    if shape:
        sizes = {**(shape.sizes or {}), "vocab_size": len(codec.tokenizer)}
        own = replace(experiment.model, name=f"{shape.name}'s shape", random=sizes)
        experiment = replace(experiment, model=own)
    trainer = experiment.trainer
    base = experiment.model.load(lab.sources, trainer.dtype, trainer.device)

    def users(rows: pd.DataFrame, *, training: bool) -> list[list[Example]]:
        latest = rows.groupby("user_id").tail(ROWS_PER_USER)
        examples = experiment.tuning(lab, prepared).examples(latest, training=training)
        examples = with_prefix(examples, 64) if choice.quick else examples
        by_user: dict[int, list[Example]] = {}
        for example in examples:
            by_user.setdefault(example.user_id, []).append(example)
        return [own for own in by_user.values() if len(own) == ROWS_PER_USER]

    split = prepared.split.value
    return Rows(
        users(split.train, training=True),
        users(split.test, training=False),
        base,
        codec,
        experiment.peft.config(experiment.model.lora_targets),
        trainer,
        experiment.train,
        experiment.decode,
        partial(planned, experiment, lab, codec),
    )


def planned(
    experiment: Experiment, lab: Lab, codec: Codec, rows: Sequence[Example]
) -> dict[str, float]:
    """One optimiser step as `task=plan` counts it: bytes held at once, and operations."""
    shape = estimate.Shape.of(experiment, lab, trained=True)
    ids = [[*row.ids, codec.answer(row.rating)[0]] for row in rows]
    budget = experiment.train.tokens_per_microbatch
    users = [row.user_id for row in rows]
    work = estimate.Work.of(ids, users, budget, answers=estimate._ANSWER)
    return {
        "weights": shape.held + 4 * shape.adapter,
        "activations": shape.kept_in_training(work),
        "optimiser": 12 * shape.adapter,
        "operations": shape.training(work),
        "unique_tokens": work.unique_tokens,
    }


def lengths(rows: Sequence[Example]) -> tuple[float, float]:
    """Median tokens of the users' shared prefixes and of the rows' suffixes."""
    groups = list(by_prefix([row.ids for row in rows], [row.user_id for row in rows]))
    return (
        float(np.median([len(each.prefix) for each in groups])),
        float(np.median([len(suffix) for each in groups for suffix in each.suffixes])),
    )


def with_prefix(rows: Sequence[Example], n_tokens: int) -> list[Example]:
    """The rows with each user's shared prefix cut or repeated to `n_tokens`: for timing only."""
    changed = list(rows)
    for each in by_prefix([row.ids for row in rows], [row.user_id for row in rows]):
        prefix = (list(each.prefix) * (n_tokens // len(each.prefix) + 1))[:n_tokens]
        for index, suffix in zip(each.rows, each.suffixes, strict=True):
            changed[index] = replace(rows[index], ids=[*prefix, *suffix])
    return changed

"""What rows share -> one row's prompts, adapters and predictions: the part of the flow that knows
the model.

Each stage is stated once, for its key, for its computation and for a plan. Reads and writes through
the lab.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedModel

from persona_lab.cache import Entry, Stage
from persona_lab.data import Cost, Protocol, Ratings, Split
from persona_lab.distill import Memories
from persona_lab.lab import Lab
from persona_lab.memory import Bank, Memory, Recalled, Table, Vectors
from persona_lab.model import (
    BaseModel,
    Decode,
    Fit,
    Mode,
    Peft,
    Plan,
    Predictions,
    Rating,
    Response,
    Train,
    TrainedAdapter,
    Trainer,
    attach,
    fit_on_devices,
    rate_examples,
)
from persona_lab.personas import Personas
from persona_lab.prompting import Codec, Example, Template, make_examples

_SHOWN = 3  # prompts of a run that a report shows


@dataclass(frozen=True)
class Prepared:
    """The stages that do not know the model: shared by every row of the table.

    Attributes:
        ratings: All ratings, read at the first call and kept.
        split: Training and test rows of the selected users, and the movies.
        memories: Profiles and enriched interactions.
        vectors: Of profiles and movies.
        personas: Of the selected users.
    """

    ratings: Callable[[], Ratings]
    split: Entry[Split]
    memories: Entry[Memories]
    vectors: Entry[Vectors]
    personas: Entry[Personas]

    @property
    def entries(self) -> dict[str, Entry[Any]]:
        """The stages by name."""
        stages = (self.split, self.memories, self.vectors, self.personas)
        return {entry.kind.STAGE: entry for entry in stages}

    def keys(self) -> dict[str, str]:
        """Stage -> key in the cache."""
        return {name: entry.key for name, entry in self.entries.items()}

    def timing(self) -> dict[str, dict[str, Any]]:
        """Stage -> seconds of its first computation."""
        return {name: {"seconds": entry.seconds} for name, entry in self.entries.items()}

    def costs(self) -> dict[str, Cost]:
        """Stage -> what its calls of servers came to, whenever they were paid for."""
        paying = (self.split, self.memories, self.vectors)
        return {entry.kind.STAGE: entry.value.cost for entry in paying}


@dataclass(frozen=True)
class Tuning:
    """A row's own part of the flow, in its lab.

    Attributes:
        lab: The row's places.
        prepared: What it shares with others.
        plan: Which adapter trains on which rows and rates which users.
        curves: A context manager in which adapters are trained, see `Logger.curves`; is given the
            folders of those that are.
        seed: Of row draws, training and sampling.
        prompt, memory, protocol, model, peft, adapter, train, decode, trainer: As in `Experiment`.
    """

    lab: Lab
    prepared: Prepared
    plan: Plan
    curves: Callable[[Mapping[str, Path]], Any]
    seed: int
    prompt: Template
    memory: Memory
    protocol: Protocol
    model: BaseModel
    peft: Peft
    adapter: Mode
    train: Train
    decode: Decode
    trainer: Trainer

    def training(self, name: str, curves: Any = None) -> Stage[TrainedAdapter]:
        """One adapter of the plan, as a stage.

        Args:
            name: The adapter's.
            curves: Lightning's logger of its losses.
        """
        start = self.plan.starts.get(name)
        before = None if start is None else self.training(start, curves)

        def fit() -> TrainedAdapter:
            work = Fit(
                name,
                self.examples(self.plan.rows[name], training=True),
                self.train,
                self.peft.config(self.model.lora_targets),
                self.seed,
                start=None if before is None else self.lab.once(before).read(),
            )
            return fit_on_devices(
                self._load, self.codec, work, self.trainer, self.lab.folder, curves
            )

        # What only test prompts show does not touch an adapter.
        inputs = self._computed(self.memory.in_training()) | {
            "peft": self.peft,
            "train": self.train,
            "adapter": self.adapter,
            "name": name,
            "start": None if before is None else before.key,
            "personas": self.prepared.personas.key,
        }
        return Stage(TrainedAdapter, inputs, fit)

    def adapters(self, *, rerun: bool = True) -> dict[str, Entry[TrainedAdapter]]:
        """Every adapter of the plan, trained or reused, by its name.

        Args:
            rerun: Whether what the lab is to compute again is.
        """
        cache, rerun = self.lab.cache, rerun and self.lab.rerun
        stages = {name: self.training(name) for name in self.plan.rows}
        new = {
            name: cache.folder(stage)
            for name, stage in stages.items()
            if rerun or cache.find(stage) is None
        }
        with self.curves(new) as curves:
            return {name: cache.once(self.training(name, curves), rerun=rerun) for name in stages}

    def rating(self, rater: str | None = None) -> Stage[Predictions]:
        """Responses to the test rows, as a stage.

        Args:
            rater: The adapter that rates all rows; None: each user's own.
        """
        split, personas = self.prepared.split, self.prepared.personas

        def rate() -> Predictions:
            # Those that rate all rows were trained a moment ago.
            adapters = self.adapters(rerun=rater is None)
            raters = adapters if rater is None else {rater: adapters[rater]}
            start = time.perf_counter()
            examples = self.examples(split.value.test, training=False)
            responses = self.answer(examples, adapters, rater)
            seconds = time.perf_counter() - start
            columns = split.value.scale.columns
            predictions = Predictions.of(examples, responses, personas.value.of, columns)
            return predictions.timed(seconds, raters, self.train.epochs)

        inputs = self._computed(self.memory) | {
            "decode": self.decode,
            "personas": personas.key,
            "adapters": {name: self.training(name).key for name in self.plan.rows},
            "rater": rater,
        }
        return Stage(Predictions, inputs, rate)

    def answer(
        self,
        examples: Sequence[Example],
        adapters: Mapping[str, Entry[TrainedAdapter]],
        rater: str | None = None,
    ) -> list[Response]:
        """Responses to examples in their order, by each user's own adapter, or all by one."""
        routes = [rater or self.plan.route[example.user_id] for example in examples]
        base = self.base()
        responses: dict[int, Response] = {}
        for name in dict.fromkeys(routes):
            own = [i for i, route in enumerate(routes) if route == name]
            adapter = None if name is None else adapters[name].read()
            with attach(base, adapter, merge=self.decode.merge):
                rows = [examples[i] for i in own]
                rating = Rating(name or "the frozen model", rows, self.decode, self.seed)
                answers = rate_examples(base, self.codec, rating, self.trainer, self.lab.folder)
            responses |= dict(zip(own, answers, strict=True))
        return [responses[i] for i in range(len(examples))]

    def examples(
        self,
        rows: pd.DataFrame,
        *,
        training: bool,
        split: Split | None = None,
        memories: Memories | None = None,
        later: Table | None = None,
    ) -> list[Example]:
        """Rows -> prompts as token ids, under the protocol's rules for training or test rows.

        Args:
            rows: As for `make_examples`.
            training: Whether they are training rows.
            split: In place of the row's own, for what would be if.
            memories: Likewise.
            later: What users remember beyond their training rows.
        """
        memory = self.memory.in_training() if training else self.memory
        memories = memories or self.prepared.memories.value
        return make_examples(
            rows,
            bank=self.bank(memory, memories, later),
            memories=memories,
            split=split or self.prepared.split.value,
            template=self.prompt,
            codec=self.codec,
            memory=memory,
            protocol=self.protocol,
            training=training,
        )

    def recalled(self, rows: pd.DataFrame) -> list[list[Recalled]]:
        """What training rows recall; nothing where their prompts show no memories."""
        bank = self.bank(self.memory.in_training(), self.prepared.memories.value)
        return bank.recall_rows(rows) if bank else []

    def bank(self, memory: Memory, memories: Memories, later: Table | None = None) -> Bank | None:
        """What users' agents recall from; None where the prompt shows no memories."""
        if not memory.interactions:
            return None
        vectors, recall_time = self.prepared.vectors.value, self.protocol.recall_time
        return Bank(memories, vectors, memory, recall_time, later)

    def illustrate(self) -> None:
        """Write what a report shows beside the numbers: the personas and a few test prompts."""
        prepared, folder = self.prepared, self.lab.folder
        profiles = prepared.memories.value.profiles["profile"].tolist()
        picture = prepared.personas.value.picture(prepared.vectors.value.profiles, profiles)
        (folder / "personas.json").write_text(json.dumps(picture), encoding="utf-8")
        test = prepared.split.value.test
        titles = prepared.split.value.movies.set_index("item_id")["title"]
        rows = test.iloc[np.linspace(0, len(test) - 1, min(_SHOWN, len(test))).astype(int)]
        examples = [
            {
                "user_id": example.user_id,
                "item_id": example.item_id,
                "title": str(titles[example.item_id]),
                "prompt": self.codec.tokenizer.decode(example.ids),
            }
            for example in self.examples(rows, training=False)
        ]
        (folder / "examples.json").write_text(json.dumps(examples), encoding="utf-8")

    @property
    def codec(self) -> Codec:
        """How the model reads prompts and writes ratings."""
        scale = self.prepared.split.value.scale
        return self.model.codec(self.lab.sources, self.decode.max_new_tokens, scale)

    def base(self) -> PreTrainedModel:
        """The frozen base model, where and as the row holds it."""
        return self._load()

    @property
    def _load(self) -> Callable[[], PreTrainedModel]:
        # Picklable: processes that train together load each its own.
        trainer, bits = self.trainer, self.peft.quantisation
        return partial(self.model.load, self.lab.sources, trainer.dtype, trainer.device, bits)

    def shown(self, memory: Memory) -> dict[str, Any]:
        """What prompts depend on, for keys."""
        recalls = memory.interactions
        return {
            "model": [self.model, self.model.fingerprint(self.lab.sources)],
            "prompt": self.prompt,
            "memory": memory.shown(),
            "profile_snapshot": self.protocol.profile_snapshot,
            "recall_time": self.protocol.recall_time if recalls else None,
            "new_tokens": self.decode.max_new_tokens,
            "memories": self.prepared.memories.key,
            "vectors": self.prepared.vectors.key if recalls else None,
        }

    def _computed(self, memory: Memory) -> dict[str, Any]:
        """What depends on prompts and on how a model computes."""
        precision = [self.trainer.computes, self.trainer.weights, self.peft.quantisation]
        return self.shown(memory) | {"precision": precision, "seed": self.seed}

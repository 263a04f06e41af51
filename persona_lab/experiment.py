"""One configuration -> one row of the table: the paper's Figure 1 on one screen.

`Experiment.run` is the flow. Each stage is stated once and computed once for all runs that share
it; what a component may see is what the flow hands it. Reads and writes only through a `Lab`.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache, partial
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import Field
from transformers import PreTrainedModel

from persona_lab.cache import Entry, Stage
from persona_lab.component import describe
from persona_lab.data import Cost, Data, MovieInfo, Protocol, Ratings, Split
from persona_lab.distill import Distiller, Memories, distillation
from persona_lab.evaluation import (
    Audit,
    Result,
    Row,
    assess,
    auditing,
    beyond,
    matrix,
    predicting,
    row_id,
)
from persona_lab.lab import Lab
from persona_lab.memory import Bank, Embedder, Memory, Recalled, Vectors, embedding
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
from persona_lab.model.loggers import Labels, Outcome
from persona_lab.personas import Clustering, Personas, grouping
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
class Experiment:
    """A row of the table: one choice of every config group.

    Attributes:
        setup: Name of the composed setup, for the result.
        role: Which of the paper's two models plays: `slm` or `llm`.
        seed: Of clustering, row draws, training and sampling; who is selected is `data.seed`.
        changed: Choices that differ from the setup's defaults, for the result.
    """

    setup: str
    role: str
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    changed: Mapping[str, Any]
    data: Data
    movie_info: MovieInfo
    protocol: Protocol
    distiller: Distiller
    embedder: Embedder
    memory: Memory
    personas: Clustering
    prompt: Template
    model: BaseModel
    peft: Peft
    adapter: Mode
    train: Train
    decode: Decode
    trainer: Trainer

    def run(self, lab: Lab) -> Result:
        """Distil, cluster, fine-tune, let every user agent rate its test rows, and assess.

        The run's folder gets result.json, predictions.parquet, personas.json and examples.json.
        """
        prepared = self.prepare(lab)
        plan = self.plan(prepared)
        predictions = lab.once(self.rating(lab, prepared, plan), own=True)
        # Adapters that were trained a moment ago are not trained again, also under `rerun`.
        trained = replace(lab, rerun=False)
        crossed = {
            name: lab.once(self.rating(trained, prepared, plan, rater=name), own=True).value.frame
            for name in plan.crossed
        }
        simple = lab.once(
            predicting(prepared.split, prepared.ratings, shown_mean=self.prompt.shows_mean)
        )
        audit = lab.once(self.auditing(lab, prepared))

        test = predictions.value.frame
        measured = assess(test, simple.value, self.decode.name)
        facts = predictions.value.facts
        costs = prepared.costs()
        adapters = {
            name: lab.cache.folder(self.training(lab, prepared, plan, name)) for name in plan.rows
        }
        result = Result(
            row=self.row,
            cohort=self.data.cohort,
            development=self.data.development,
            **vars(measured),
            truncated=facts["truncated"],
            cuts=facts["cuts"],
            skipped=prepared.split.value.skipped,
            adapters=facts["adapters"],
            timing=prepared.timing() | facts["timing"],
            cost=sum(costs.values(), Cost()).paid,
            costs={stage: cost.paid for stage, cost in costs.items()},
            distillation=prepared.memories.value.counts,
            beyond=beyond(
                test,
                prepared.split.value.train,
                prepared.memories.value.profiles.set_index("user_id")["activity"].to_dict(),
                simple.value.frame,
            ),
            audit=audit.value.findings,
            matrix=matrix(crossed, plan.route, self.decode.name, simple.value.user_means),
            versions=facts["versions"],
            keys=prepared.keys()
            | {"adapters": "+".join(folder.name for folder in adapters.values()) or "none"}
            | {"predictions": predictions.key, "baselines": simple.key},
            reused=predictions.reused,
        )
        # A report has nothing but run folders: what simple predictors say goes along.
        test = simple.value.beside(test)
        test.to_parquet(lab.folder / "predictions.parquet", index=False)
        self._illustrate(lab, prepared)
        result.save(lab.folder)
        lab.logger.outcome(
            lab.folder, self.labels(lab, prepared), Outcome(result.numbers(), test, adapters)
        )
        return result

    def prepare(self, lab: Lab) -> Prepared:
        """Ratings -> split -> memories -> vectors -> personas, each computed or reused."""
        ratings: Callable[[], Ratings] = cache(partial(self.data.ratings, lab.sources))
        split = lab.once(self.data.stage(ratings, self.protocol, self.movie_info, lab.sources))
        # Memories depend on the data's seed only: several training seeds share what was paid for.
        memories = lab.once(
            distillation(self.distiller, split, ratings, self.protocol, self.data.seed, lab.sources)
        )
        enriched = self.memory.key != "item"
        vectors = lab.once(
            embedding(self.embedder, memories, split, lab.sources, enriched=enriched)
        )
        personas = lab.once(grouping(self.personas, vectors, split, self.seed))
        return Prepared(ratings, split, memories, vectors, personas)

    def plan(self, prepared: Prepared) -> Plan:
        """Which adapter trains on which rows and rates which users."""
        return self.adapter.plan(prepared.split.value.train, prepared.personas.value, self.seed)

    def training(
        self, lab: Lab, prepared: Prepared, plan: Plan, name: str, curves: Any = None
    ) -> Stage[TrainedAdapter]:
        """One adapter of the plan, as a stage; `curves` is Lightning's logger of its losses."""
        before = plan.starts.get(name)
        start = None if before is None else self.training(lab, prepared, plan, before, curves)

        def fit() -> TrainedAdapter:
            work = Fit(
                name,
                self.examples(lab, prepared, plan.rows[name], training=True),
                self.train,
                self.peft.config(self.model.lora_targets),
                self.seed,
                start=None if start is None else lab.once(start).read(),
            )
            base = partial(self.base, lab)
            return fit_on_devices(base, self.codec(lab), work, self.trainer, lab.folder, curves)

        # What only test prompts show does not touch an adapter.
        inputs = self._computed(lab, prepared, self.memory.in_training()) | {
            "peft": self.peft,
            "train": self.train,
            "adapter": self.adapter,
            "name": name,
            "start": None if start is None else start.key,
            "personas": prepared.personas.key,
        }
        return Stage(TrainedAdapter, inputs, fit)

    def adapters(
        self, lab: Lab, prepared: Prepared, plan: Plan
    ) -> dict[str, Entry[TrainedAdapter]]:
        """Every adapter of the plan, trained or reused, by its name."""
        stages = {name: self.training(lab, prepared, plan, name) for name in plan.rows}
        new = {
            name: lab.cache.folder(stage)
            for name, stage in stages.items()
            if lab.rerun or lab.cache.find(stage) is None
        }
        with lab.logger.curves(lab.folder, self.labels(lab, prepared), new) as curves:
            return {
                name: lab.once(self.training(lab, prepared, plan, name, curves), own=True)
                for name in plan.rows
            }

    def rating(
        self, lab: Lab, prepared: Prepared, plan: Plan, rater: str | None = None
    ) -> Stage[Predictions]:
        """Responses to the test rows as a stage: by each user's own adapter, or all by one."""
        stages = {name: self.training(lab, prepared, plan, name) for name in plan.rows}

        def rate() -> Predictions:
            adapters = self.adapters(lab, prepared, plan)
            raters = adapters if rater is None else {rater: adapters[rater]}
            start = time.perf_counter()
            examples = self.examples(lab, prepared, prepared.split.value.test, training=False)
            responses = self.answer(lab, plan, adapters, examples, rater)
            seconds = time.perf_counter() - start
            personas, columns = prepared.personas.value, self.data.scale.columns
            predictions = Predictions.of(examples, responses, personas.of, columns)
            return predictions.timed(seconds, raters, self.train.epochs)

        inputs = self._computed(lab, prepared, self.memory) | {
            "decode": self.decode,
            "personas": prepared.personas.key,
            "adapters": {name: stage.key for name, stage in stages.items()},
            "rater": rater,
        }
        return Stage(Predictions, inputs, rate)

    def answer(
        self,
        lab: Lab,
        plan: Plan,
        adapters: Mapping[str, Entry[TrainedAdapter]],
        examples: Sequence[Example],
        rater: str | None = None,
    ) -> list[Response]:
        """Responses to examples in their order, by each user's own adapter, or all by one."""
        codec, base = self.codec(lab), self.base(lab)
        routes = [rater or plan.route[example.user_id] for example in examples]
        responses: dict[int, Response] = {}
        for name in dict.fromkeys(routes):
            own = [i for i, route in enumerate(routes) if route == name]
            adapter = None if name is None else adapters[name].read()
            with attach(base, adapter, merge=self.decode.merge):
                rows = [examples[i] for i in own]
                rating = Rating(name or "the frozen model", rows, self.decode, self.seed)
                answers = rate_examples(base, codec, rating, self.trainer, lab.folder)
            responses |= dict(zip(own, answers, strict=True))
        return [responses[i] for i in range(len(examples))]

    def auditing(self, lab: Lab, prepared: Prepared) -> Stage[Audit]:
        """Whether test ratings show in what prompts are made of, as a stage."""

        def prompts(split: Split, memories: Memories, rows: pd.DataFrame) -> list[list[int]]:
            shown = self._examples(lab, split, memories, prepared.vectors, rows, training=False)
            return [example.ids for example in shown]

        def recall(rows: pd.DataFrame) -> list[list[Recalled]]:
            memory = self.memory.in_training()
            bank = self.bank(prepared.memories.value, prepared.vectors, memory)
            return bank.recall_rows(rows) if bank else []

        return auditing(
            self._shown(lab, prepared, self.memory),
            self.data,
            self.distiller,
            self.protocol,
            lab.sources,
            prepared.ratings,
            prepared.split,
            prepared.memories,
            prompts,
            recall,
        )

    def examples(
        self, lab: Lab, prepared: Prepared, rows: pd.DataFrame, *, training: bool
    ) -> list[Example]:
        """Rows -> prompts as token ids, under the protocol's rules for training or test rows."""
        stages = (prepared.split.value, prepared.memories.value, prepared.vectors)
        return self._examples(lab, *stages, rows, training=training)

    def _examples(
        self,
        lab: Lab,
        split: Split,
        memories: Memories,
        vectors: Entry[Vectors],
        rows: pd.DataFrame,
        *,
        training: bool,
    ) -> list[Example]:
        memory = self.memory.in_training() if training else self.memory
        return make_examples(
            rows,
            bank=self.bank(memories, vectors, memory),
            memories=memories,
            split=split,
            template=self.prompt,
            codec=self.codec(lab),
            memory=memory,
            protocol=self.protocol,
            training=training,
        )

    def bank(self, memories: Memories, vectors: Entry[Vectors], memory: Memory) -> Bank | None:
        """What users' agents recall from; None where the prompt shows no memories."""
        if not memory.interactions:
            return None
        return Bank(memories, vectors.value, memory, self.protocol.recall_time)

    def base(self, lab: Lab) -> PreTrainedModel:
        """The frozen base model, where and as the run holds it."""
        trainer = self.trainer
        return self.model.load(lab.sources, trainer.dtype, trainer.device, self.peft.quantisation)

    def codec(self, lab: Lab) -> Codec:
        """How the model reads prompts and writes ratings."""
        return self.model.codec(lab.sources, self.decode.max_new_tokens, self.data.scale)

    def _shown(self, lab: Lab, prepared: Prepared, memory: Memory) -> dict[str, Any]:
        """What prompts depend on."""
        return {
            "model": [self.model, self.model.fingerprint(lab.sources)],
            "prompt": self.prompt,
            "memory": memory.shown(),
            "profile_snapshot": self.protocol.profile_snapshot,
            "recall_time": self.protocol.recall_time if memory.interactions else None,
            "new_tokens": self.decode.max_new_tokens,
            "memories": prepared.memories.key,
            "vectors": prepared.vectors.key if memory.interactions else None,
        }

    def _computed(self, lab: Lab, prepared: Prepared, memory: Memory) -> dict[str, Any]:
        """What depends on prompts and on how a model computes."""
        precision = [self.trainer.computes, self.trainer.weights, self.peft.quantisation]
        return self._shown(lab, prepared, memory) | {"precision": precision, "seed": self.seed}

    @property
    def control(self) -> bool:
        """Whether prompt, memory or personas are changed so that it is no row of Table 1."""
        of_personas = self.personas.departures if self.adapter.name == "persona" else ()
        return bool([*self.prompt.departures, *self.memory.departures, *of_personas])

    @property
    def row_id(self) -> str | None:
        """The row of Table 1 that this is, None for any other."""
        return None if self.control else row_id(self.role, self.adapter.name, self.memory.name)

    @property
    def row(self) -> Row:
        """The name of each choice."""
        named = {
            choice.name: getattr(self, choice.name).name
            for choice in fields(Row)
            if hasattr(getattr(self, choice.name, None), "name")
        }
        return Row(
            id=self.row_id,
            setup=self.setup,
            role=self.role,
            seed=self.seed,
            changed=dict(self.changed),
            control=self.control,
            **named,
        )

    def labels(self, lab: Lab, prepared: Prepared) -> Labels:
        """What the run is found by in a tracker."""
        row = asdict(self.row)
        shown = ("setup", "role", "model", "adapter", "memory", "data", "protocol", "seed")
        return Labels(
            name=self.row_id or lab.folder.name,
            tags=(self.row_id or "no row of Table 1", *(f"{name}={row[name]}" for name in shown)),
            config={"row": row, "settings": describe(self)},
            keys=prepared.keys(),
        )

    def _illustrate(self, lab: Lab, prepared: Prepared) -> None:
        """Write what a report shows beside the numbers: the personas and a few test prompts."""
        profiles = prepared.memories.value.profiles["profile"].tolist()
        picture = prepared.personas.value.picture(prepared.vectors.value.profiles, profiles)
        (lab.folder / "personas.json").write_text(json.dumps(picture), encoding="utf-8")
        test, movies = prepared.split.value.test, prepared.split.value.movies
        rows = test.iloc[np.linspace(0, len(test) - 1, min(_SHOWN, len(test))).astype(int)]
        tokenizer, titles = self.codec(lab).tokenizer, movies.set_index("item_id")["title"]
        examples = [
            {
                "user_id": example.user_id,
                "item_id": example.item_id,
                "title": str(titles[example.item_id]),
                "prompt": tokenizer.decode(example.ids),
            }
            for example in self.examples(lab, prepared, rows, training=False)
        ]
        (lab.folder / "examples.json").write_text(json.dumps(examples), encoding="utf-8")

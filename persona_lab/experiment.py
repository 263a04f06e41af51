"""One configuration -> one row of the table: the paper's Figure 1 on one screen.

`Experiment.run` is the flow. Each stage is stated once and computed once for all runs that share
it; what a component may see is what the flow hands it. Reads and writes only through a `Lab`.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from functools import cache, partial
from typing import Annotated, Any

import pandas as pd
from pydantic import Field

from persona_lab.cache import Entry, Stage
from persona_lab.component import component, describe
from persona_lab.data import Cost, Data, MovieInfo, Protocol, Ratings, Split
from persona_lab.distill import Distiller, Memories, distillation
from persona_lab.evaluation import (
    Audit,
    Baselines,
    Result,
    Row,
    adapter_records,
    assess,
    auditing,
    beyond,
    matrix,
    predicting,
    row_id,
)
from persona_lab.lab import Lab
from persona_lab.memory import Embedder, Memory, embedding
from persona_lab.model import (
    BaseModel,
    Decode,
    Mode,
    Peft,
    Plan,
    Predictions,
    Train,
    Trainer,
)
from persona_lab.model.loggers import Labels, Outcome
from persona_lab.personas import Clustering, grouping
from persona_lab.prompting import Template
from persona_lab.tuning import Prepared, Tuning


@component
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
        tuning = self.tuning(lab, prepared)
        predictions = lab.once(tuning.rating(), own=True)
        crossed = {
            name: lab.once(tuning.rating(name), own=True).value.frame
            for name in tuning.plan.crossed
        }
        simple = lab.once(
            predicting(prepared.split, prepared.ratings, shown_mean=self.prompt.shows_mean)
        )
        audit = lab.once(self.auditing(tuning))

        # A report has nothing but run folders: what simple predictors say goes along.
        test = simple.value.beside(predictions.value.frame)
        test.to_parquet(lab.folder / "predictions.parquet", index=False)
        tuning.illustrate()
        result = self._result(tuning, predictions, test, crossed, simple, audit)
        result.save(lab.folder)
        adapters = {name: lab.cache.folder(tuning.training(name)) for name in tuning.plan.rows}
        outcome = Outcome(result.numbers(), test, adapters)
        lab.logger.outcome(lab.folder, self.labels(lab, prepared), outcome)
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

    def tuning(self, lab: Lab, prepared: Prepared, plan: Plan | None = None) -> Tuning:
        """The part of the flow that knows the model; `plan` by default follows from `prepared`."""
        return Tuning(
            lab=lab,
            prepared=prepared,
            plan=plan
            or self.adapter.plan(prepared.split.value.train, prepared.personas.value, self.seed),
            curves=lambda new: lab.logger.curves(lab.folder, self.labels(lab, prepared), new),
            seed=self.seed,
            prompt=self.prompt,
            memory=self.memory,
            protocol=self.protocol,
            model=self.model,
            peft=self.peft,
            adapter=self.adapter,
            train=self.train,
            decode=self.decode,
            trainer=self.trainer,
        )

    def auditing(self, tuning: Tuning) -> Stage[Audit]:
        """Whether test ratings show in what prompts are made of, as a stage."""
        prepared = tuning.prepared

        def prompts(split: Split, memories: Memories, rows: pd.DataFrame) -> list[list[int]]:
            shown = tuning.examples(rows, training=False, split=split, memories=memories)
            return [example.ids for example in shown]

        return auditing(
            tuning.shown(self.memory),
            self.data,
            self.distiller,
            self.protocol,
            tuning.lab.sources,
            prepared.ratings,
            prepared.split,
            prepared.memories,
            prompts,
            tuning.recalled,
        )

    def _result(
        self,
        tuning: Tuning,
        predictions: Entry[Predictions],
        test: pd.DataFrame,
        crossed: Mapping[str, pd.DataFrame],
        simple: Entry[Baselines],
        audit: Entry[Audit],
    ) -> Result:
        """All numbers of the run; `test` are its test rows with what simple predictors say."""
        prepared, plan, facts = tuning.prepared, tuning.plan, predictions.value.facts
        split, memories = prepared.split.value, prepared.memories.value
        assignment = prepared.personas.value.assignment
        costs, decode = prepared.costs(), self.decode.name
        activity = memories.profiles.set_index("user_id")["activity"].to_dict()
        keys = [tuning.training(name).key for name in plan.rows]
        return Result(
            row=self.row,
            scale=split.scale,
            cohort=self.data.cohort,
            development=self.data.development,
            **assess(test, decode, split.scale),
            baselines=simple.value.metrics,
            truncated=facts["truncated"],
            cuts=facts["cuts"],
            skipped=split.skipped,
            adapters=adapter_records(facts["adapters"], plan.route, plan.starts, assignment),
            timing=prepared.timing() | facts["timing"],
            cost=sum(costs.values(), Cost()).paid,
            costs={stage: cost.paid for stage, cost in costs.items()},
            distillation=memories.counts,
            beyond=beyond(test, split.train, activity, split.scale),
            audit=audit.value.findings,
            matrix=matrix(crossed, plan.route, decode, simple.value.user_means, split.scale),
            versions=facts["versions"],
            keys=prepared.keys()
            | {"adapters": "+".join(keys) or "none"}
            | {"predictions": predictions.key, "baselines": simple.key},
            reused=predictions.reused,
        )

    @property
    def departures(self) -> list[str]:
        """In what prompt, memory or personas depart from the paper, so that no row is Table 1's."""
        # Personas that no adapter is for do not touch the row.
        of_personas = self.personas.departures if self.adapter.name == "persona" else ()
        return [*self.prompt.departures, *self.memory.departures, *of_personas]

    @property
    def row_id(self) -> str | None:
        """The row of Table 1 that this is, None for any other."""
        if self.departures:
            return None
        return row_id(self.role, self.adapter.name, self.memory.name)

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
            departures=self.departures,
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

"""One configuration -> one row of the table: the paper's Figure 1 on one screen.

`Experiment.run` is the flow. Each stage is computed once for all runs that share it, by the key of
all that it depends on; what a component may see is what the flow hands it. Reads and writes only
through the sources, the store and the run's own folder.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import pandas as pd
from pydantic import Field
from transformers import PreTrainedModel

from persona_lab.cache import Cache, Entry, Stage
from persona_lab.component import describe
from persona_lab.data import Cost, Data, MovieInfo, NoMovieInfo, Protocol, Ratings, Scale, Split
from persona_lab.distill import Distiller, Memories, distil, history_rows, users_traits
from persona_lab.evaluation import (
    Audit,
    Baselines,
    Result,
    Row,
    Seen,
    adapter_records,
    assess,
    audit,
    baselines,
    beyond,
    matrix,
    other_ratings,
    row_id,
)
from persona_lab.memory import Bank, Embedder, Memory, Vectors, embed
from persona_lab.model import (
    AdapterMode,
    BaseModel,
    Decode,
    Peft,
    Plan,
    Response,
    Train,
    TrainedAdapter,
    Trainer,
    attach,
    fit_on_devices,
    rate_examples,
)
from persona_lab.model.loggers import Labels, Logger, Outcome
from persona_lab.personas import Clustering, Personas, known_users
from persona_lab.prompting import Codec, Example, Template, make_examples
from persona_lab.sources import Sources

_AUDITED = 50  # rows, each of another user
_SHOWN = 3  # prompts of a run that a report shows
_SCALE = Scale(
    (1, 2, 3, 4, 5), ("hated it", "disliked it", "found it fair", "liked it", "loved it")
)
_VERSIONS = ("torch", "transformers", "peft", "lightning", "scikit-learn", "persona-lab")


@dataclass(frozen=True)
class Predictions:
    """What the user agents answered to the test rows.

    Attributes:
        frame: user_id, item_id, rating (the truth), response, prediction (NaN when unrelated),
            expected_rating, p1..p5, digit_mass, persona.
        facts: `cuts` (what was cut from prompts, by name), `truncated` (rows cut), `timing`,
            `adapters` (each adapter's training summary) and `versions` (of what made them).
    """

    STAGE: ClassVar[str] = "predictions"
    VERSION: ClassVar[int] = 2

    frame: pd.DataFrame
    facts: dict[str, Any]

    def save(self, folder: Path) -> None:
        """Write predictions.parquet and facts.json."""
        self.frame.to_parquet(folder / "predictions.parquet", index=False)
        (folder / "facts.json").write_text(json.dumps(self.facts, indent=1))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        facts = json.loads((folder / "facts.json").read_text())
        return cls(pd.read_parquet(folder / "predictions.parquet"), facts)


@dataclass(frozen=True)
class Prepared:
    """The stages that do not know the model: shared by every row of the table."""

    split: Entry[Split]
    memories: Entry[Memories]
    vectors: Entry[Vectors]
    personas: Entry[Personas]

    def keys(self) -> dict[str, str]:
        """Stage -> key in the store."""
        return {entry.STAGE: getattr(self, entry.STAGE).key for entry in _PREPARED}

    def timing(self) -> dict[str, dict[str, Any]]:
        """Stage -> seconds of its first computation."""
        return {name: {"seconds": getattr(self, name).seconds} for name in self.keys()}

    def costs(self) -> dict[str, Cost]:
        """Stage -> what its calls of servers came to, whenever they were paid for."""
        paying = (self.split, self.memories, self.vectors)
        return {entry.kind.STAGE: entry.value.cost for entry in paying}


_PREPARED = (Split, Memories, Vectors, Personas)


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
    adapter: AdapterMode
    train: Train
    decode: Decode
    trainer: Trainer
    logger: Logger = field(metadata={"key": False})

    def run(self, sources: Sources, store: Cache, folder: Path, rerun: bool = False) -> Result:
        """Distil, cluster, fine-tune, let every user agent rate its test rows, and assess.

        Args:
            sources: Public artefacts.
            store: Results of stages that other runs share.
            folder: Gets `result.json`, `predictions.parquet`, `personas.json` and `examples.json`.
            rerun: Train and rate again although the store has this row.
        """
        prepared = self.prepare(sources, store)
        plan = self.plan(prepared)
        predictions = _once(
            store,
            Predictions,
            self._predictions_spec(sources, store, prepared, plan),
            lambda: self._rate(sources, store, folder, prepared, plan, rerun),
            rerun=rerun,
        )
        crossed = self._crossed(sources, store, folder, prepared, plan, rerun)
        shown_mean = "{mean}" in self.prompt.movie
        found = _once(
            store,
            Baselines,
            {"split": prepared.split.key, "shown_mean": shown_mean},
            lambda: baselines(
                prepared.split.value,
                self.data.ratings(sources).frame,
                _SCALE,
                shown_mean=shown_mean,
            ),
        )
        seen = _once(
            store,
            Audit,
            self._prompts_spec(sources, prepared, self.memory) | {"split": prepared.split.key},
            lambda: self.audit(sources, prepared),
        )
        # What simple predictors say goes along: a report that compares runs has nothing but their
        # folders.
        frame = found.value.beside(predictions.value.frame)
        result = self._result(
            sources, store, prepared, plan, predictions, frame, crossed, found, seen.value
        )
        frame.to_parquet(folder / "predictions.parquet", index=False)
        self._illustrate(sources, prepared, folder)
        result.save(folder)
        adapters = self._adapter_folders(sources, store, prepared, plan)
        outcome = Outcome(result.numbers(), frame, adapters)
        self.logger.outcome(folder, self._labels(folder, prepared), outcome)
        return result

    def _labels(self, folder: Path, prepared: Prepared) -> Labels:
        row = asdict(self.row)
        shown = ("setup", "role", "model", "adapter", "memory", "data", "protocol", "seed")
        return Labels(
            name=self.row_id or folder.name,
            tags=(self.row_id or "no row of Table 1", *(f"{name}={row[name]}" for name in shown)),
            config={"row": row, "settings": describe(self)},
            keys=prepared.keys(),
        )

    def _illustrate(self, sources: Sources, prepared: Prepared, folder: Path) -> None:
        """Write what a report shows beside the numbers: the personas and a few test prompts."""
        personas, profiles = prepared.personas.value, prepared.memories.value.profiles
        picture = personas.picture(prepared.vectors.value.profiles, profiles["profile"].tolist())
        (folder / "personas.json").write_text(json.dumps(picture), encoding="utf-8")
        test, movies = prepared.split.value.test, prepared.split.value.movies
        rows = test.iloc[np.linspace(0, len(test) - 1, min(_SHOWN, len(test))).astype(int)]
        codec, titles = self.codec(sources), movies.set_index("item_id")["title"]
        examples = [
            {
                "user_id": each.user_id,
                "item_id": each.item_id,
                "title": str(titles[each.item_id]),
                "prompt": codec.tokenizer.decode(each.ids),
            }
            for each in self.examples(prepared, codec, rows, training=False)
        ]
        (folder / "examples.json").write_text(json.dumps(examples), encoding="utf-8")

    def prepare_alone(self, sources: Sources, store: Cache, folder: Path) -> None:
        """Compute what rows share and no more, and show what it took.

        Args:
            sources: Public artefacts.
            store: Gets the stages.
            folder: The run's; what a logger writes goes there.
        """
        prepared = self.prepare(sources, store)
        costs = {stage: _paid(cost) for stage, cost in prepared.costs().items()}
        numbers = {"timing": prepared.timing(), "costs": costs}
        self.logger.prepared(folder, self._labels(folder, prepared), numbers)

    def prepare(self, sources: Sources, store: Cache) -> Prepared:
        """Ratings -> split -> memories -> vectors -> personas, each computed or reused."""
        ratings: Callable[[], Ratings] = cache(lambda: self.data.ratings(sources))
        split = _once(
            store,
            Split,
            {
                "data": self.data,
                "content": self.data.fingerprint(sources),
                "movie_info": [self.movie_info, self.movie_info.fingerprint(sources)],
                "item_mean": self.protocol.item_mean,
            },
            lambda: self.data.split(ratings(), self.protocol, self.movie_info, sources),
        )
        # Memories depend on the data's seed only: several training seeds share what was paid for.
        memories = _once(
            store,
            Memories,
            {
                "split": split.key,
                "distiller": [self.distiller, self.distiller.fingerprint(sources)],
                "traits": self.protocol.traits,
                "title_check": self.protocol.title_check,
            },
            lambda: distil(
                self.distiller,
                split.value,
                ratings(),
                self.protocol,
                self.data.seed,
                sources,
            ),
        )
        enriched = self.memory.key != "item"
        vectors = _once(
            store,
            Vectors,
            {
                "memories": memories.key,
                "embedder": [self.embedder, self.embedder.fingerprint(sources)],
                "enriched": enriched,
            },
            lambda: embed(
                self.embedder.load(sources), memories.value, split.value, enriched=enriched
            ),
        )
        personas = _once(
            store,
            Personas,
            {"vectors": vectors.key, "clustering": self.personas, "seed": self.seed},
            lambda: self.personas.fit(vectors.value.profiles, known_users(split.value), self.seed),
        )
        return Prepared(split, memories, vectors, personas)

    def plan(self, prepared: Prepared) -> Plan:
        """Which adapter trains on which rows and rates which users."""
        return self.adapter.plan(prepared.split.value.train, prepared.personas.value, self.seed)

    def examples(
        self, prepared: Prepared, codec: Codec, rows: pd.DataFrame, *, training: bool
    ) -> list[Example]:
        """Rows -> prompts as token ids, under the protocol's rules for training or test rows."""
        memory = self.memory.in_training() if training else self.memory
        return make_examples(
            rows,
            bank=self.bank(prepared, memory),
            memories=prepared.memories.value,
            split=prepared.split.value,
            template=self.prompt,
            codec=codec,
            memory=memory,
            protocol=self.protocol,
            training=training,
        )

    def bank(self, prepared: Prepared, memory: Memory) -> Bank | None:
        """What users' agents recall from; None where the prompt shows no memories."""
        if not memory.interactions:
            return None
        return Bank(
            prepared.memories.value, prepared.vectors.value, memory, self.protocol.recall_time
        )

    def audit(self, sources: Sources, prepared: Prepared) -> Audit:
        """Make everything again from other test ratings, and look for what changed.

        An LLM is not asked again: of its texts the audit says that they were not checked.
        """
        ratings, split, memories = (
            self.data.ratings(sources),
            prepared.split.value,
            prepared.memories.value,
        )
        pairs = ["user_id", "item_id"]
        selected = ratings.frame[ratings.frame["user_id"].isin(split.users["user_id"])]
        known = pd.MultiIndex.from_frame(split.train[pairs])
        unseen = selected[~pd.MultiIndex.from_frame(selected[pairs]).isin(known)]

        def rated_otherwise(rows: pd.DataFrame) -> tuple[Ratings, Split]:
            other = replace(ratings, frame=other_ratings(ratings.frame, rows, _SCALE))
            again = self.data.split(other, self.protocol, NoMovieInfo(), sources)
            # Texts do not follow ratings, and to ask for them again may need a key.
            means = {name: again.movies[name] for name in ("mean", "mean_known")}
            return other, replace(again, movies=split.movies.assign(**means))

        def seen(ratings: Ratings, prepared: Prepared) -> Seen:
            rows = history_rows(prepared.split.value, ratings, self.distiller.scope)
            examples = self.examples(prepared, codec, sample, training=False)
            prompts = [each.ids for each in examples]
            return Seen(prepared.split.value, prepared.memories.value, rows, prompts)

        other, other_split = rated_otherwise(unseen)
        sizes = split.train.groupby("user_id").size().tolist()
        rewritten = self.distiller.estimate(sizes).calls == 0
        if rewritten:
            again = distil(
                self.distiller, other_split, other, self.protocol, self.data.seed, sources
            )
        else:
            texts = memories.profiles[["user_id", "profile"]]
            tiers = users_traits(other_split, other, self.protocol)
            again = replace(memories, profiles=texts.merge(tiers, on="user_id"))
        codec = self.codec(sources)
        sample = split.test.groupby("user_id").head(1).head(_AUDITED)
        trained = split.train.groupby("user_id").sample(1, random_state=0).head(_AUDITED)
        bank = self.bank(prepared, self.memory.in_training())
        recalled = bank.recall_rows(trained) if bank else []
        places = trained[[*pairs, "position"]].to_numpy().tolist()[: len(recalled)]
        return audit(
            seen(ratings, prepared),
            seen(
                other,
                replace(
                    prepared,
                    split=_holding(prepared.split, other_split),
                    memories=_holding(prepared.memories, again),
                ),
            ),
            rated_otherwise(split.train)[1].movies.set_index("item_id")["mean"],
            sample,
            [(*place, each) for place, each in zip(places, recalled, strict=True)],
            rewritten=rewritten,
        )

    def adapters(
        self,
        sources: Sources,
        store: Cache,
        prepared: Prepared,
        plan: Plan,
        *,
        folder: Path,
        logger: Any = None,
        rerun: bool = False,
    ) -> dict[str, Entry[TrainedAdapter]]:
        """Every adapter of the plan, trained or reused, by its name."""

        def fit(name: str) -> TrainedAdapter:
            codec = self.codec(sources)
            return fit_on_devices(
                partial(self.base, sources),
                codec,
                self.examples(prepared, codec, plan.rows[name], training=True),
                self.train,
                self.peft.config(self.model.lora_targets),
                self.trainer,
                folder=folder,
                logger=logger,
                seed=self.seed,
                name=name,
            )

        return {
            name: _once(
                store,
                TrainedAdapter,
                self._adapter_spec(sources, prepared, name),
                lambda name=name: fit(name),
                rerun=rerun,
            )
            for name in plan.rows
        }

    def base(self, sources: Sources) -> PreTrainedModel:
        """The frozen base model, where and as the run holds it."""
        trainer = self.trainer
        return self.model.load(sources, trainer.dtype, trainer.device, self.peft.quantisation)

    def codec(self, sources: Sources) -> Codec:
        """How the model reads prompts and writes ratings."""
        return self.model.codec(sources, self.decode.max_new_tokens)

    def _prompts_spec(self, sources: Sources, prepared: Prepared, memory: Memory) -> dict[str, Any]:
        return {
            "model": [self.model, self.model.fingerprint(sources)],
            "prompt": self.prompt,
            "memory": memory.shown(),
            "profile_snapshot": self.protocol.profile_snapshot,
            "recall_time": self.protocol.recall_time if memory.interactions else None,
            "new_tokens": self.decode.max_new_tokens,
            "memories": prepared.memories.key,
            "vectors": prepared.vectors.key if memory.interactions else None,
        }

    def _computed_spec(
        self, sources: Sources, prepared: Prepared, memory: Memory
    ) -> dict[str, Any]:
        # Prompts do not depend on these; what is computed from them does.
        return self._prompts_spec(sources, prepared, memory) | {
            "precision": [
                *(self.trainer.computes, self.trainer.weights),
                *filter(None, [self.peft.quantisation]),
            ],
            "seed": self.seed,
        }

    def _adapter_spec(self, sources: Sources, prepared: Prepared, name: str) -> dict[str, Any]:
        # What only test prompts show does not touch an adapter.
        return self._computed_spec(sources, prepared, self.memory.in_training()) | {
            "peft": self.peft,
            "train": self.train,
            "adapter": self.adapter,
            "name": name,
            "personas": prepared.personas.key,
        }

    def _adapter_folders(
        self, sources: Sources, store: Cache, prepared: Prepared, plan: Plan
    ) -> dict[str, Path]:
        return {
            name: store._folder(
                Stage(TrainedAdapter, self._adapter_spec(sources, prepared, name), Mapping)
            )
            for name in plan.rows
        }

    def _predictions_spec(
        self, sources: Sources, store: Cache, prepared: Prepared, plan: Plan
    ) -> dict[str, Any]:
        folders = self._adapter_folders(sources, store, prepared, plan)
        return self._computed_spec(sources, prepared, self.memory) | {
            "decode": self.decode,
            "personas": prepared.personas.key,
            "adapters": {name: folder.name for name, folder in folders.items()},
        }

    def answer(
        self,
        sources: Sources,
        plan: Plan,
        adapters: Mapping[str, Entry[TrainedAdapter]],
        examples: Sequence[Example],
        folder: Path,
    ) -> list[Response]:
        """Let every example be answered by the adapter of its own user, in their order."""
        codec = self.codec(sources)
        base = self.base(sources)
        routes = [plan.route[example.user_id] for example in examples]
        responses: dict[int, Response] = {}
        for name in dict.fromkeys(routes):
            own = [i for i, route in enumerate(routes) if route == name]
            adapter = None if name is None else adapters[name].read()
            with attach(base, adapter, merge=self.decode.merge):
                answers = rate_examples(
                    base,
                    codec,
                    [examples[i] for i in own],
                    self.decode,
                    self.trainer,
                    folder=folder,
                    seed=self.seed,
                    name=name or "the frozen model",
                )
            responses |= dict(zip(own, answers, strict=True))
        return [responses[i] for i in range(len(examples))]

    @property
    def departures(self) -> list[str]:
        """In what prompt, memory or personas are changed so that it is no row of Table 1."""
        shown = self.memory
        whole = set(self.prompt.show) == {"profile", "traits", "memories"}
        of_profiles = self.adapter.name != "persona" or getattr(self.personas, "of_profiles", True)
        reasons = {
            "memories recalled otherwise": (
                shown != Memory(shown.name, shown.profile, shown.interactions)
            ),
            "other parts in the prompt": not whole or "{mean}" not in self.prompt.movie,
            "another order of the prompt": self.prompt.order != "paper",
            "personas not of profiles": not of_profiles,
        }
        return [reason for reason, departs in reasons.items() if departs]

    @property
    def control(self) -> bool:
        """Whether it departs from Table 1 in more than its adapter."""
        return bool(self.departures)

    @property
    def row_id(self) -> str | None:
        """The row of Table 1 that this is, None for any other."""
        return None if self.control else row_id(self.role, self.adapter.name, self.memory.name)

    @property
    def row(self) -> Row:
        """What this is a run of."""
        return Row(
            id=self.row_id,
            setup=self.setup,
            role=self.role,
            model=self.model.name,
            adapter=self.adapter.name,
            memory=self.memory.name,
            data=self.data.name,
            distiller=self.distiller.name,
            embedder=self.embedder.name,
            personas=self.personas.name,
            protocol=self.protocol.name,
            decode=self.decode.name,
            peft=self.peft.name,
            seed=self.seed,
            changed=dict(self.changed),
            departures=self.departures,
        )

    def _rate(
        self,
        sources: Sources,
        store: Cache,
        folder: Path,
        prepared: Prepared,
        plan: Plan,
        rerun: bool,
    ) -> Predictions:
        """Train what is missing, then let each user's adapter rate the user's test rows."""

        def stored(name: str) -> bool:
            spec = self._adapter_spec(sources, prepared, name)
            return store.find(Stage(TrainedAdapter, spec, Mapping)) is not None

        folders = self._adapter_folders(sources, store, prepared, plan)
        new = {name: place for name, place in folders.items() if rerun or not stored(name)}
        with self.logger.curves(folder, self._labels(folder, prepared), new) as logger:
            adapters = self.adapters(
                sources, store, prepared, plan, folder=folder, logger=logger, rerun=rerun
            )
        return self._predictions(sources, folder, prepared, plan, adapters)

    def _crossed(
        self,
        sources: Sources,
        store: Cache,
        folder: Path,
        prepared: Prepared,
        plan: Plan,
        rerun: bool,
    ) -> dict[str, pd.DataFrame]:
        """All users' test rows as each adapter that the plan crosses rates them, by its name."""
        crossed = {}
        for name in plan.crossed:
            alone = Plan({name: plan.rows[name]}, dict.fromkeys(plan.route, name))
            spec = self._predictions_spec(sources, store, prepared, alone) | {"crossed": name}

            def rate(alone: Plan = alone) -> Predictions:
                adapters = self.adapters(sources, store, prepared, alone, folder=folder)
                return self._predictions(sources, folder, prepared, alone, adapters)

            crossed[name] = _once(store, Predictions, spec, rate, rerun=rerun).value.frame
        return crossed

    def _predictions(
        self,
        sources: Sources,
        folder: Path,
        prepared: Prepared,
        plan: Plan,
        adapters: Mapping[str, Entry[TrainedAdapter]],
    ) -> Predictions:
        start = time.perf_counter()
        test = prepared.split.value.test
        examples = self.examples(prepared, self.codec(sources), test, training=False)
        responses = self.answer(sources, plan, adapters, examples, folder)
        seconds = time.perf_counter() - start
        n_trained = sum(map(len, plan.rows.values())) * self.train.epochs
        trained = sum(entry.seconds for entry in adapters.values())
        facts = {
            "cuts": dict(sum((Counter(each.cut) for each in examples), Counter())),
            "truncated": sum(bool(each.cut) for each in examples),
            "timing": {
                "adapters": _timing(trained, n_trained),
                "predictions": _timing(seconds, len(test)),
            },
            "adapters": {
                name: entry.part(TrainedAdapter.load_summary) for name, entry in adapters.items()
            },
            "versions": {name: version(name) for name in _VERSIONS},
        }
        return Predictions(_frame(examples, responses, prepared.personas.value.of), facts)

    def _result(
        self,
        sources: Sources,
        store: Cache,
        prepared: Prepared,
        plan: Plan,
        predictions: Entry[Predictions],
        frame: pd.DataFrame,
        crossed: Mapping[str, pd.DataFrame],
        found: Entry[Baselines],
        seen: Audit,
    ) -> Result:
        facts, memories = predictions.value.facts, prepared.memories.value
        costs = prepared.costs()
        adapters = self._adapter_folders(sources, store, prepared, plan)
        return Result(
            row=self.row,
            cohort=self.data.cohort,
            development=self.data.development,
            scale=_SCALE,
            **assess(frame, self.decode.name, _SCALE),
            baselines=found.value.metrics,
            truncated=facts["truncated"],
            cuts=facts["cuts"],
            skipped=prepared.split.value.skipped,
            adapters=adapter_records(
                facts["adapters"],
                plan.route,
                {},
                prepared.personas.value.assignment,
            ),
            timing=prepared.timing() | facts["timing"],
            cost=_paid(sum(costs.values(), Cost())),
            costs={stage: _paid(cost) for stage, cost in costs.items()},
            distillation=memories.counts,
            beyond=beyond(
                frame,
                prepared.split.value.train,
                memories.profiles.set_index("user_id")["activity"].to_dict(),
                _SCALE,
            ),
            audit=seen.findings,
            matrix=matrix(crossed, plan.route, self.decode.name, found.value.user_means, _SCALE),
            versions=facts["versions"],
            keys=prepared.keys()
            | {
                "adapters": "+".join(each.name for each in adapters.values()) or "none",
                "predictions": predictions.key,
                "baselines": found.key,
            },
            reused=predictions.reused,
        )


def _paid(cost: Cost) -> dict[str, float]:
    return {"tokens": cost.tokens, "money": cost.money}


def _timing(seconds: float, rows: int) -> dict[str, float | None]:
    return {"seconds": seconds, "rows_per_second": rows / seconds if rows else None}


def _frame(
    examples: Sequence[Example], answers: Sequence[Response], persona: Callable[[int], int]
) -> pd.DataFrame:
    table = {
        "user_id": [each.user_id for each in examples],
        "item_id": [each.item_id for each in examples],
        "rating": [each.rating for each in examples],
        "response": [each.text for each in answers],
        "prediction": np.array([each.prediction for each in answers], dtype=float),
        "expected_rating": [each.expected_rating for each in answers],
        **{f"p{n}": [each.probabilities[n - 1] for each in answers] for n in range(1, 6)},
        "digit_mass": [each.digit_mass for each in answers],
        "persona": [persona(each.user_id) for each in examples],
    }
    return pd.DataFrame(table)


def _once(store: Any, kind: Any, spec: Any, compute: Any, rerun: bool = False) -> Any:
    return store.once(Stage(kind, spec, compute), rerun=rerun)


def _holding(entry: Any, value: Any) -> Any:
    import copy

    other = copy.copy(entry)
    vars(other)["value"] = value
    return other

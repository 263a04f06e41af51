"""Every number of one run, and what it was a run of -> result.json, and back.

A result is what a report reads; others' scripts may rely on its fields, so `SCHEMA` counts up when
one changes its meaning. `save` and `load` touch disk.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import pandas as pd

from persona_lab.data import Scale
from persona_lab.errors import UserError

Serving = Literal["none", "all", "personas", "users", "groups"]

TABLE_1 = {
    ("llm", "none", "ms"): "r0",
    ("llm", "none", "ms_ml"): "r1",
    ("llm", "none", "ml"): "r2",
    ("slm", "none", "ms"): "r3",
    ("slm", "none", "ms_ml"): "r4",
    ("slm", "single_max", "ms"): "r5",
    ("slm", "single_min", "ms"): "r6",
    ("slm", "single_max", "ms_ml"): "r7",
    ("slm", "single_min", "ms_ml"): "r8",
    ("slm", "persona", "ms"): "r9",
    ("slm", "persona", "ms_ml"): "r10",
}
CONTROLS = {
    ("slm", "random_persona", "ms"): "random_ms",
    ("slm", "random_persona", "ms_ml"): "random_ms_ml",
}
"""Rows beside Table 1 that what it claims of personas must be compared with."""


def row_id(role: str, adapter: str, memory: str) -> str | None:
    """The row of the paper's Table 1 with this role, adapter and memory, if any."""
    return TABLE_1.get((role, adapter, memory))


@dataclass(frozen=True)
class Row:
    """What a run was a run of: the name of each choice.

    Attributes:
        id: `r0` to `r10` where role, adapter and memory are those of a row of Table 1, without
            departures.
        changed: Every other choice that differs from the default: dotted field -> value.
        departures: In what its parts depart from the paper, so that it is no row of Table 1
            whatever its adapter: short reasons.
    """

    id: str | None
    setup: str
    role: str
    model: str
    adapter: str
    memory: str
    data: str
    distiller: str
    embedder: str
    personas: str
    protocol: str
    decode: str
    peft: str
    seed: int
    changed: dict[str, Any] = field(default_factory=dict)
    departures: list[str] = field(default_factory=list)


def adapter_records(
    summaries: Mapping[str, Mapping[str, Any]],
    route: Mapping[int, str | None],
    starts: Mapping[str, str],
    assignment: pd.DataFrame,
) -> dict[str, dict[str, Any]]:
    """Say of each trained adapter what it began from and whom it rates: `Result.adapters`.

    Args:
        summaries: Adapter -> its training summary.
        route: user_id -> the adapter that rates the user's movies, None for the frozen base.
        starts: Adapter -> the one that it goes on from; absent where it began afresh.
        assignment: user_id and persona of all users.
    """
    personas = dict(iter(assignment.groupby(assignment["persona"].astype(int))["user_id"]))
    records = {}
    for name, summary in summaries.items():
        users = {user for user, adapter in route.items() if adapter == name}
        whole = [persona for persona, members in personas.items() if users.issuperset(members)]
        serves = {"users": len(users), "personas": whole}
        records[name] = {**summary, "serves": serves, "start": starts.get(name)}
    return records


@dataclass(frozen=True)
class Result:
    """The result of one run; what is by `stage` is by the name of a stage of the flow.

    Attributes:
        cohort: Whose test rows these are: `reported` or `dev` (decision 28).
        development: Whether the rows are there to choose on: of development users, or held back
            from training (decision 28).
        metrics: What `score` returns but the counts.
        intervals: metric -> {value, low, high}: 95% over users.
        n_test: Test rows; of `n_unrelated` the response has no rating, of `truncated` the prompt
            was cut to fit the model's context.
        baselines: version -> name -> errors on the same rows, see `Baselines.metrics`.
        per_persona: Scores of each persona's rows.
        timing: stage -> {"seconds": float, "rows_per_second": float or None}.
        cost: What all stages paid for: name -> count or money, {"tokens": 0, "money": 0.0}.
        costs: stage -> its share of it: of `split` for the movies' texts, of `memories` for the
            distillation, of `vectors` for embeddings.
        keys: stage -> key in the store; `reused`: whether the predictions were taken from there.
        cuts: What was cut from prompts, by section's name.
        skipped: Lines of the ratings that the reader left out, by problem.
        adapters: Each adapter's training summary (`n_rows`, `n_steps`, `loss`, `unique_tokens`);
            `serves`: how many `users` it rates, and the `personas` of which it rates all users;
            `start`: the adapter that it goes on from, None where it began afresh.
        distillation: What the distiller wrote, asked again, kept and dropped (`Memories.counts`).
        beyond, audit, matrix: What these functions return; `matrix` with `adapter.matrix` alone.
    """

    SCHEMA: ClassVar[int] = 2

    row: Row
    scale: Scale
    cohort: str
    development: bool
    metrics: dict[str, Any]
    intervals: dict[str, dict[str, Any]]
    n_test: int
    n_unrelated: int
    truncated: int
    baselines: dict[str, dict[str, dict[str, Any]]]
    per_persona: list[dict[str, Any]]
    timing: dict[str, dict[str, Any]]
    cost: dict[str, float]
    versions: dict[str, str]
    keys: dict[str, str]
    reused: bool
    cuts: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    adapters: dict[str, dict[str, Any]] = field(default_factory=dict)
    distillation: dict[str, float] = field(default_factory=dict)
    beyond: dict[str, Any] = field(default_factory=dict)
    audit: list[dict[str, Any]] = field(default_factory=list)
    costs: dict[str, dict[str, float]] = field(default_factory=dict)
    matrix: list[dict[str, Any]] = field(default_factory=list)

    @property
    def serving(self) -> Serving:
        """Whom an adapter serves: all users, whole personas, one user each, or other groups."""
        serves = [adapter["serves"] for adapter in self.adapters.values()]
        serves = [served for served in serves if served["users"]]
        if not serves:
            return "none"
        if self._tested().keys() <= {*serves[0]["personas"]}:
            return "all"
        if all(served["personas"] for served in serves):
            return "personas"
        return "users" if all(served["users"] == 1 for served in serves) else "groups"

    def scores_of(self, adapter: str) -> dict[str, Any] | None:
        """The errors of those whom an adapter rates; None unless these are all, or one persona."""
        personas, tested = self.adapters[adapter]["serves"]["personas"], self._tested()
        if tested.keys() <= {*personas}:
            return self.metrics
        return tested.get(personas[0]) if len(personas) == 1 else None

    def _tested(self) -> dict[int, dict[str, Any]]:
        return {scores["persona"]: scores for scores in self.per_persona}

    def objective(self) -> float:
        """What a search over choices makes small: RMSE over all rows, in stars.

        A response without a rating counts as the rating farthest from the truth: left out, or as
        the user's mean, which few models beat, it would reward silence.

        Raises:
            UserError: These are test rows of reported users, on which nothing may be chosen.
        """
        if not self.development:
            raise UserError(
                "a search would choose on test rows of reported users (decision 28)",
                "search on others: data.cohort=dev, or data.validation_fraction=0.1",
            )
        return self.metrics["rmse_worst"]

    def numbers(self) -> dict[str, Any]:
        """What the run came to, without lists: `metrics` at the top, the rest below its name."""
        names = (
            *("cohort", "n_test", "n_unrelated", "truncated", "reused"),
            *("intervals", "baselines", "timing", "cost", "cuts", "skipped", "distillation"),
        )
        return {
            **self.metrics,
            **{name: getattr(self, name) for name in names},
            "beyond": {k: v for k, v in self.beyond.items() if not isinstance(v, list)},
            "audit_found": sum(finding["found"] for finding in self.audit),
            "audit_unchecked": sum(bool(finding["note"]) for finding in self.audit),
        }

    def save(self, folder: Path) -> None:
        """Write result.json into a folder: all of it or, when interrupted, nothing."""
        text = json.dumps({"schema": self.SCHEMA} | asdict(self), indent=2, allow_nan=False)
        partial = folder / "result.json.partial"
        partial.write_text(text + "\n", encoding="utf-8")
        os.replace(partial, folder / "result.json")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a folder's result.json.

        Raises:
            UserError: The file is missing, damaged or of another schema.
        """
        path = folder / "result.json"
        mend = "run it again with rerun=true, or read it with the version that wrote it"
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            schema = record.pop("schema")
            if schema != cls.SCHEMA:
                raise UserError(f"{path} has schema {schema}, not {cls.SCHEMA}", mend)
            if missing := {part.name for part in fields(cls)} - record.keys():
                raise UserError(f"{path} lacks {', '.join(sorted(missing))}", mend)
            parts = {"row": Row(**record["row"]), "scale": Scale(**record["scale"])}
            return cls(**record | parts)
        except FileNotFoundError:
            raise UserError(f"{folder} has no result.json", "give the folder of a run") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is not a run's result: {error}", mend) from error

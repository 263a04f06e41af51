"""Every number of one run, and what it was a run of -> result.json, and back.

A result is what a report reads; others' scripts may rely on its fields, so `SCHEMA` counts up when
one changes its meaning. `save` and `load` touch disk.
"""

import json
import os
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Self

from persona_lab.errors import UserError

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


def row_id(role: str, adapter: str, memory: str) -> str | None:
    """Return the row of the paper's Table 1 with this role, adapter and memory, None if none."""
    return TABLE_1.get((role, adapter, memory))


@dataclass(frozen=True)
class Row:
    """What a run was a run of: the name of each choice.

    Attributes:
        id: `r0` to `r10` where role, adapter and memory are those of a row of Table 1, and it is
            no control.
        setup: `embedded`, `paper` or someone's own.
        role: `slm` or `llm`.
        model: Name of the model that the role resolved to.
        adapter: Adapter mode.
        memory: What the prompt shows of the memories.
        data: Name of the data set.
        distiller: What wrote the memories.
        embedder: What made vectors of them.
        personas: What clustered the users.
        protocol: `strict` or `paper`.
        decode: `paper`, `greedy` or `expected`.
        peft: The adapters' kind.
        seed: The training seed.
        changed: Every other choice that differs from the default: dotted field -> value.
        control: Whether its prompt, memory or personas are changed so that it is no row of
            Table 1 whatever its adapter.
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
    control: bool = False


@dataclass(frozen=True)
class Result:
    """The result of one run.

    Attributes:
        row: What it was a run of.
        cohort: Whose test rows these are: `reported` or `dev` (decision 28).
        metrics: `rmse`, `mae`, `urr` (a share in 0..1) of the decode chosen, `rmse_expected`,
            `mae_expected` and the variants of `metrics.score`.
        intervals: metric -> {value, low, high}: 95% over users.
        n_test: Test rows.
        n_unrelated: Test rows whose response has no rating.
        truncated: Test rows whose prompt was cut to fit the model's context.
        baselines: version -> name -> errors on the same rows.
        comparisons: The run's error minus each baseline's, paired, see `Assessment`.
        per_persona: Scores of each persona's rows.
        timing: stage -> {"seconds": float, "rows_per_second": float or None}.
        cost: What all stages paid for: name -> count or money, {"tokens": 0, "money": 0.0}.
        versions: package -> version.
        keys: stage -> key in the store.
        reused: Whether the predictions were taken from the store.
        cuts: What was cut from prompts, by section's name.
        skipped: Lines of the ratings that the reader left out, by problem.
        adapters: Each adapter's training summary: `n_rows`, `n_steps`, `loss`, `unique_tokens`.
        distillation: What the distiller wrote, asked again, kept and dropped, by name (see
            `Memories.counts`).
        beyond: Calibration, ranks, histograms, slices and unrelated responses, see `beyond`.
        audit: What looking for test ratings found, place by place, see `Audit`.
        costs: stage -> its share of `cost`: of `split` for the movies' texts, of `memories` for the
            distillation, of `vectors` for embeddings.
        development: Whether the rows are there to choose on: of development users, or held back
            from training (decision 28).
        matrix: With `adapter.matrix`, every persona's adapter on every persona's users, see
            `matrix`; else empty.
    """

    SCHEMA: ClassVar[int] = 1

    row: Row
    cohort: str
    metrics: dict[str, Any]
    intervals: dict[str, dict[str, Any]]
    n_test: int
    n_unrelated: int
    truncated: int
    baselines: dict[str, dict[str, dict[str, Any]]]
    comparisons: list[dict[str, Any]]
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
    development: bool = field(default_factory=bool)
    matrix: list[dict[str, Any]] = field(default_factory=list)

    def objective(self) -> float:
        """What a search over choices makes small: RMSE over all rows, in stars.

        A response without a rating counts as the rating farthest from the truth. Left out, or as
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

    def save(self, folder: Path) -> None:
        """Write result.json into a folder: all of it or, when interrupted, nothing."""
        text = json.dumps({"schema": self.SCHEMA} | asdict(self), indent=2, allow_nan=False)
        partial = folder / "result.json.partial"
        partial.write_text(text + "\n", encoding="utf-8")
        os.replace(partial, folder / "result.json")

    def numbers(self) -> dict[str, Any]:
        """Return what the run came to, without lists: for a tracker that shows runs side by side.

        `metrics` stand at the top, the rest below its field's name.
        """
        nested = ("intervals", "baselines", "timing", "cost", "cuts", "skipped", "distillation")
        single = ("cohort", "n_test", "n_unrelated", "truncated", "reused")
        beyond = {name: value for name, value in self.beyond.items() if not isinstance(value, list)}
        audited = {
            "audit_found": sum(each["found"] for each in self.audit),
            "audit_unchecked": sum(bool(each.get("note")) for each in self.audit),
        }
        named = {name: getattr(self, name) for name in (*single, *nested)}
        return {**self.metrics, **named, "beyond": beyond, **audited}

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a folder's result.json.

        Raises:
            UserError: The file is missing, damaged or of another schema.
        """
        path = folder / "result.json"
        mend = "run it again with rerun=true, or read it with the version that wrote it"
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            schema = found.pop("schema")
            row = Row(**found.pop("row"))
        except FileNotFoundError:
            raise UserError(f"{folder} has no result.json", "give the folder of a run") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is not a run's result: {error}", mend) from error
        if schema != cls.SCHEMA:
            raise UserError(f"{path} has schema {schema}, not {cls.SCHEMA}", mend)
        # What has a default came later: a result written before it is one still.
        wanted = {f.name for f in fields(cls) if f.default_factory is MISSING}
        missing = wanted - found.keys() - {"row"}
        if missing:
            raise UserError(f"{path} lacks {', '.join(sorted(missing))}", mend)
        known = {f.name: found[f.name] for f in fields(cls) if f.name in found}
        known.setdefault("development", known["cohort"] == "dev")
        return cls(row=row, **known)

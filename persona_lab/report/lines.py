"""Runs on the same test rows -> the lines of Table 1, the seeds of a line together. Pure."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from persona_lab.evaluation import SeedVariance, intervals, varies
from persona_lab.evaluation.contrast import Prediction
from persona_lab.evaluation.metrics import decoded
from persona_lab.report.runs import Run, label, told_apart

KINDS: tuple[Prediction, ...] = ("decoded", "expected")


@dataclass(frozen=True, eq=False)
class Line:
    """The runs of one configuration, which differ in their seed alone.

    Attributes:
        label: What tells it from the other lines on its test rows.
        runs: One per seed, in the report's order.
        metrics: `rmse`, `mae`, `urr`, `rmse_expected`, `mae_expected` and `digit_mass` of the test
            rows under all seeds; None where there is none.
        intervals: metric -> {value, low, high}: 95% over users, and over seeds where `between` or
            these runs say how they vary.
        between: Of an adapter's line, the variance between seeds of what counts as `decoded` and of
            the `expected` rating, pooled over lines of its model; empty where none has two seeds.
    """

    label: str
    runs: tuple[Run, ...]
    metrics: Mapping[str, float | None]
    intervals: Mapping[str, Mapping[str, Any]]
    between: Mapping[Prediction, SeedVariance] = field(default_factory=dict)

    @property
    def first(self) -> Run:
        """A run that stands for all in what they have in common."""
        return self.runs[0]

    @property
    def adapter(self) -> str:
        """Its adapter mode."""
        return self.first.result.row.adapter

    @property
    def n_unrelated(self) -> int:
        """Test rows of all seeds whose response has no rating."""
        return sum(run.result.n_unrelated for run in self.runs)

    @property
    def rmse_by_seed(self) -> tuple[float, float] | None:
        """Mean and standard deviation of the seeds' RMSE; None unless two seeds have one."""
        errors = [run.result.metrics["rmse"] for run in self.runs]
        known = [rmse for rmse in errors if rmse is not None]
        return (float(np.mean(known)), float(np.std(known, ddof=1))) if len(known) > 1 else None


def alone(run: Run) -> Line:
    """Return a run as a line of its own, with the numbers of its result."""
    return Line(run.label, (run,), run.result.metrics, run.result.intervals)


def trained(run: Run) -> bool:
    """Whether adapters were trained for a run."""
    return bool(run.result.adapters)


def lines(runs: Sequence[Run]) -> tuple[Line, ...]:
    """Pool runs on the same test rows that differ in their seed alone.

    Two runs of one seed, as of two sweeps in one report, stand on two lines; so does a run without
    its predictions. How much training varies with the seed is pooled over the lines of a model that
    were decoded alike.
    """
    alike: dict[tuple[str, int], list[Run]] = {}
    repeats = Counter[tuple[str, int]]()
    for run in runs:
        row = run.result.row
        apart = run.name if run.predictions is None else ""
        choices = [asdict(row) | {"seed": None}, run.result.cohort, apart]
        key = json.dumps(choices, sort_keys=True)
        alike.setdefault((key, repeats[key, row.seed]), []).append(run)
        repeats[key, row.seed] += 1
    labels = told_apart([_label(seeds) for seeds in alike.values()])
    between = _between(alike.values())
    return tuple(
        _line(name, seeds, between.get(_varying_with(seeds[0]), {}))
        for name, seeds in zip(labels, alike.values(), strict=True)
    )


def _varying_with(run: Run) -> tuple[str, str] | None:
    """What lines share a variance between seeds; None for what was not trained."""
    row = run.result.row
    return (row.model, row.decode) if trained(run) and run.predictions is not None else None


def _between(
    rows: Iterable[Sequence[Run]],
) -> dict[tuple[str, str] | None, dict[Prediction, SeedVariance]]:
    alike: dict[tuple[str, str], list[list[pd.DataFrame]]] = {}
    for runs in rows:
        if key := _varying_with(runs[0]):
            alike.setdefault(key, []).append(frames(runs))
    return {
        key: {kind: variance for kind in KINDS if (variance := varies(predictions, kind))}
        for key, predictions in alike.items()
    }


def frames(runs: Sequence[Run]) -> list[pd.DataFrame]:
    """Predictions of a line's runs, `prediction` as its decoding has it."""
    decode = runs[0].result.row.decode
    kept = (run.predictions for run in runs if run.predictions is not None)
    return [frame.assign(prediction=decoded(frame, decode)) for frame in kept]


def _label(runs: Sequence[Run]) -> tuple[str, str]:
    """A line's label, and what tells it from another one of that label."""
    first = runs[0]
    if len(runs) == 1:
        return first.label, first.name
    name = re.sub(r"[-,]seed=\d+", "", first.name)
    return f"{label(first.result.row)} · {len(runs)} seeds", name


def _line(name: str, runs: Sequence[Run], between: Mapping[Prediction, SeedVariance]) -> Line:
    if len(runs) == 1 and not between:
        return alone(runs[0])
    ends = intervals(frames(runs), runs[0].result.row.decode, between)
    names = ("rmse", "mae", "urr", "rmse_expected", "mae_expected")
    metrics = {metric: ends[metric]["value"] if metric in ends else None for metric in names}
    masses = [run.result.metrics.get("digit_mass") for run in runs]
    known = [mass for mass in masses if mass is not None]
    metrics["digit_mass"] = float(np.mean(known)) if known else None
    return Line(name, tuple(runs), metrics, ends, between)

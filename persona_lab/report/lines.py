"""Runs on the same test rows -> the lines of Table 1, the seeds of a line together. Pure."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
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


def lines(runs: Sequence[Run]) -> tuple[Line, ...]:
    """Pool runs on the same test rows that differ in their seed alone.

    Two runs of one seed, as of two sweeps in one report, stand on two lines; so does a run without
    its predictions. How much training varies with the seed is pooled over the lines of a model that
    were decoded alike.
    """
    alike: dict[tuple[str, int], list[Run]] = {}
    repeats = Counter[tuple[str, int]]()
    for run in runs:
        row, apart = run.result.row, run.name if run.predictions is None else ""
        key = json.dumps([asdict(row) | {"seed": None}, run.result.cohort, apart], sort_keys=True)
        alike.setdefault((key, repeats[key, row.seed]), []).append(run)
        repeats[key, row.seed] += 1
    by_model: dict[tuple[str, str] | None, list[list[pd.DataFrame]]] = {}
    for seeds in alike.values():
        by_model.setdefault(_varying_with(seeds[0]), []).append(frames(seeds))
    between: dict[tuple[str, str] | None, dict[Prediction, SeedVariance]] = {
        model: {kind: known for kind in KINDS if model and (known := varies(rows, kind))}
        for model, rows in by_model.items()
    }
    labels = told_apart(
        (
            f"{label(first.result.row)} · {1 + len(others)} seeds" if others else first.label,
            re.sub(r"[-,]seed=\d+", "", first.name) if others else first.name,
        )
        for first, *others in alike.values()
    )
    return tuple(
        _line(shown, seeds, between[_varying_with(seeds[0])])
        for shown, seeds in zip(labels, alike.values(), strict=True)
    )


def _varying_with(run: Run) -> tuple[str, str] | None:
    """What lines share a variance between seeds; None for what was not trained."""
    trained = run.result.adapters and run.predictions is not None
    return (run.result.row.model, run.result.row.decode) if trained else None


def _line(name: str, runs: Sequence[Run], between: Mapping[Prediction, SeedVariance]) -> Line:
    if len(runs) == 1 and not between:
        return alone(runs[0])
    ends = intervals(frames(runs), runs[0].result.row.decode, between)
    names = ("rmse", "mae", "urr", "rmse_expected", "mae_expected")
    metrics = {metric: ends[metric]["value"] if metric in ends else None for metric in names}
    masses = [run.result.metrics["digit_mass"] for run in runs]
    metrics["digit_mass"] = sum(masses) / len(masses)
    return Line(name, tuple(runs), metrics, ends, between)


def frames(runs: Sequence[Run]) -> list[pd.DataFrame]:
    """Predictions of a line's runs, `prediction` as its decoding has it."""
    decode = runs[0].result.row.decode
    kept = (run.predictions for run in runs if run.predictions is not None)
    return [frame.assign(prediction=decoded(frame, decode)) for frame in kept]

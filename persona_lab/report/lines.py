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
        given = [run.result.metrics["rmse"] for run in self.runs]
        found = [rmse for rmse in given if rmse is not None]
        return (float(np.mean(found)), float(np.std(found, ddof=1))) if len(found) > 1 else None


def alone(run: Run) -> Line:
    """Return a run as a line of its own, with the numbers of its result."""
    return Line(run.label, (run,), run.result.metrics, run.result.intervals)


def lines(runs: Sequence[Run]) -> tuple[Line, ...]:
    """Pool runs on the same test rows that differ in their seed alone.

    Two runs of one seed, as of two sweeps in one report, stand on two lines; so does a run without
    its predictions. How much training varies with the seed is pooled over the lines of a model that
    were decoded alike.
    """
    found: dict[tuple[str, int], list[Run]] = {}
    repeats = Counter[tuple[str, int]]()
    for run in runs:
        row, cohort = run.result.row, run.result.cohort
        same = run.name if run.predictions is None else ""
        choices = json.dumps([asdict(row) | {"seed": None}, cohort, same], sort_keys=True)
        repeat = repeats[choices, row.seed]
        repeats[choices, row.seed] += 1
        found.setdefault((choices, repeat), []).append(run)
    labels = told_apart([_named(each) for each in found.values()])
    between = _between(found.values())
    return tuple(
        _line(each, shown, between.get(_trained(each[0]), {}))
        for each, shown in zip(found.values(), labels, strict=True)
    )


def _trained(run: Run) -> tuple[str, str] | None:
    """What lines share a variance between seeds; None for what was not trained."""
    row = run.result.row
    untrained = not run.result.adapters or run.predictions is None
    return None if untrained else (row.model, row.decode)


def _between(
    rows: Iterable[Sequence[Run]],
) -> dict[tuple[str, str] | None, dict[Prediction, SeedVariance]]:
    alike: dict[tuple[str, str], list[list[pd.DataFrame]]] = {}
    for runs in rows:
        if key := _trained(runs[0]):
            alike.setdefault(key, []).append(frames(runs))
    kinds: tuple[Prediction, ...] = ("decoded", "expected")
    return {
        key: {kind: found for kind in kinds if (found := varies(given, kind))}
        for key, given in alike.items()
    }


def frames(runs: Sequence[Run]) -> list[pd.DataFrame]:
    """Predictions of a line's runs, `prediction` as its decoding has it."""
    decode = runs[0].result.row.decode
    given = (run.predictions for run in runs if run.predictions is not None)
    return [frame.assign(prediction=decoded(frame, decode)) for frame in given]


def _named(runs: Sequence[Run]) -> tuple[str, str]:
    """A line's label, and what tells it from another one of that label."""
    first = runs[0]
    if len(runs) == 1:
        return first.label, first.name
    name = re.sub(r"[-,]seed=\d+", "", first.name)
    return f"{label(first.result.row)} · {len(runs)} seeds", name


def _line(runs: Sequence[Run], shown: str, between: Mapping[Prediction, SeedVariance]) -> Line:
    first = runs[0]
    if len(runs) == 1 and not between:
        return alone(first)
    ends = intervals(frames(runs), first.result.row.decode, between)
    masses = [mass for run in runs if (mass := run.result.metrics.get("digit_mass")) is not None]
    names = ("rmse", "mae", "urr", "rmse_expected", "mae_expected")
    metrics = {name: ends[name]["value"] if name in ends else None for name in names}
    metrics["digit_mass"] = float(np.mean(masses)) if masses else None
    return Line(shown, tuple(runs), metrics, ends, between)

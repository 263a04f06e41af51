"""Run folders -> what a report is made of: results, predictions, failures.

Reads status.json, result.json, predictions.parquet, personas.json, examples.json and wandb.json of
each run and nothing else.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from persona_lab.errors import UserError
from persona_lab.evaluation import Result, Row
from persona_lab.report import paper

MEMORIES = {"ms": "M_s", "ml": "M_l", "ms_ml": "M_s + M_l"}
DEPTH = 2  # a sweep's folder holds runs; a day's folder holds sweeps
_COLUMNS = {"user_id", "item_id", "rating", "response", "prediction", "expected_rating"}
_COLUMNS |= {"digit_mass", "persona", "user_mean"}


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run.

    Attributes:
        name: The run's folder, relative to what holds all folders asked for. Names a run.
        result: Its numbers.
        label: What tells it from the report's other runs in one short line.
        predictions: Its test rows as in predictions.parquet; None where the folder has none.
        personas: What `Personas.picture` gives, from personas.json; None where there is none.
        examples: user_id, item_id, title and prompt of a few test rows, from examples.json.
        logged: entity, project and group in Weights & Biases, from wandb.json; None if not there.
    """

    name: str
    label: str
    result: Result
    predictions: pd.DataFrame | None
    personas: dict[str, Any] | None = None
    examples: tuple[dict[str, Any], ...] = ()
    logged: dict[str, Any] | None = None

    @property
    def stands_in(self) -> bool:
        """Whether its model is another than the one that the paper used in this role."""
        row = self.result.row
        return not row.model.lower().startswith(paper.MODELS.get(row.role, "\0"))

    @property
    def papers(self) -> paper.Numbers | None:
        """The paper's numbers of the same row, None where what the prompt shows was changed."""
        row = self.result.row
        changed = {name.split(".")[0] for name in row.changed}
        return None if changed & {"prompt", "memory"} else paper.TABLE_1.get(row.id or "")


@dataclass(frozen=True)
class Failure:
    """A run without a result: it failed, is still running, was killed, or left damaged files."""

    name: str
    state: str
    error: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """Finished runs, r0 to r10 before others, and failures, by name."""

    runs: tuple[Run, ...]
    failures: tuple[Failure, ...]


def build(*folders: Path) -> Report:
    """Read every run in these folders: a run's own folder, a sweep's, or one above sweeps.

    Raises:
        UserError: A folder is missing or no run is found in any of them.
    """
    read: list[Run | Failure] = []
    above = os.path.commonpath([folder.resolve() for folder in folders])
    for root in folders:
        if not root.is_dir():
            raise UserError(f"{root} is not a folder", "give a sweep's or a run's folder")
        for folder in _run_folders(root, DEPTH):
            inside = folder.resolve().relative_to(above).as_posix()
            read.append(_read(folder, folder.resolve().name if inside == "." else inside))
    if not read:
        named = ", ".join(str(folder) for folder in folders)
        mend = "give a folder that holds runs, each with a status.json or result.json"
        raise UserError(f"no runs in {named}", mend)
    runs = sorted((run for run in read if isinstance(run, Run)), key=_order)
    # A seed tells runs of one label apart where each has another; else their folders do.
    seeds = {run.label: [r.result.row.seed for r in runs if r.label == run.label] for run in runs}
    repeated = {name for name, of_runs in seeds.items() if len({*of_runs}) < len(of_runs)}
    labels = told_apart(
        (run.label, run.name if run.label in repeated else f"seed {run.result.row.seed}")
        for run in runs
    )
    failures = (failure for failure in read if isinstance(failure, Failure))
    return Report(
        tuple(replace(run, label=shown) for run, shown in zip(runs, labels, strict=True)),
        tuple(sorted(failures, key=lambda failure: failure.name)),
    )


def _order(run: Run) -> tuple[int, str, int]:
    row, ids = run.result.row, list(paper.TABLE_1)
    return (ids.index(row.id), "", row.seed) if row.id in ids else (len(ids), run.name, row.seed)


def told_apart(named: Iterable[tuple[str, str]]) -> list[str]:
    """Return the labels of (label, mark), with its mark behind a label that several share."""
    named = list(named)
    seen = Counter(label for label, _ in named)
    return [f"{label} · {mark}" if seen[label] > 1 else label for label, mark in named]


def _run_folders(folder: Path, depth: int) -> Iterator[Path]:
    if (folder / "status.json").exists() or (folder / "result.json").exists():
        yield folder
    elif depth:
        for inner in sorted(folder.iterdir()):
            if inner.is_dir() and not inner.name.startswith("."):
                yield from _run_folders(inner, depth - 1)


def _read(folder: Path, name: str) -> Run | Failure:
    overrides: tuple[str, ...] = ()
    try:
        # A result without a status was written by hand or copied, and counts as done.
        status = _load(folder / "status.json", absent={"state": "completed"})
        if not isinstance(status, dict):
            raise UserError(f"{folder / 'status.json'} is damaged", "run it again")
        overrides = tuple(map(str, status.get("overrides") or ()))
        state = str(status.get("state", "unknown"))
        if state != "completed":
            error = status.get("error") or ("not finished, or killed" if state == "running" else "")
            return Failure(name, state, str(error), overrides)
        result = Result.load(folder)
        path = folder / "predictions.parquet"
        frame = _load(path, pd.read_parquet)
        if frame is not None and (missing := {*_COLUMNS, *result.scale.columns} - {*frame}):
            raise UserError(f"{path} lacks {', '.join(sorted(missing))}", "run it again")
        pictures, examples, logged = (
            _load(folder / f"{kind}.json") for kind in ("personas", "examples", "wandb")
        )
        shown = label(result.row)
        return Run(name, shown, result, frame, pictures, tuple(examples or ()), logged)
    except UserError as error:
        return Failure(name, "damaged", str(error), overrides)


def changed_alike(runs: Sequence[Run]) -> dict[str, Any]:
    """Return what every run changed alike."""
    first, *others = [run.result.row.changed for run in runs] or [{}]
    return {
        name: value
        for name, value in first.items()
        if all(name in changed and changed[name] == value for changed in others)
    }


def label(row: Row) -> str:
    """Return what a run is called in one short line: its row of Table 1, adapter and memory."""
    adapter = "no adapter" if row.adapter == "none" else row.adapter
    return " · ".join(filter(None, (row.id, adapter, MEMORIES.get(row.memory, row.memory))))


def _load(
    path: Path,
    read: Callable[[Path], Any] = lambda path: json.loads(path.read_text(encoding="utf-8")),
    absent: Any = None,
) -> Any:
    try:
        return read(path)
    except FileNotFoundError:
        return absent
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged: {error}", "run it again") from error

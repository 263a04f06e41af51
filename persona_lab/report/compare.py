"""Runs -> which of their differences are more than noise.

Runs are compared only where their test rows come from one split. Every statement rests on a paired
95% interval, clustered by user, of the RMSE of expected ratings, which every row has. Pure.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from persona_lab.evaluation import paired_interval
from persona_lab.report.runs import Report, Run

VERSIONS = ("prompt", "all", "cohort")
NAMES = {
    "prompt_mean": "item mean that the prompt shows",
    "constant": "training mean",
    "always_4": "always 4",
    "user_mean": "user mean",
    "item_mean": "item mean",
    "user_item_bias": "user + item bias",
    "item_knn": "nearest neighbours",
    "biased_mf": "matrix factorisation",
}
UNVARIED = ("prompt_mean", "always_4", "user_mean")
"""Baselines that predict the same in every version."""


@dataclass(frozen=True)
class Group:
    """Runs that were tested on the same rows.

    Attributes:
        name: A letter, empty where all runs are of one group.
        runs: In the report's order.
        baselines: (version, name) -> errors, the prompt's mean first.
    """

    name: str
    runs: tuple[Run, ...]
    baselines: dict[tuple[str, str], dict[str, Any]]

    @property
    def best(self) -> Run:
        """The run with the lowest RMSE of expected ratings."""
        return min(self.runs, key=lambda run: run.result.metrics["rmse_expected"])


def groups(report: Report) -> tuple[Group, ...]:
    """Group a report's runs by the split that their test rows come from."""
    by_split: dict[str, list[Run]] = {}
    for run in report.runs:
        by_split.setdefault(run.result.keys.get("split", run.name), []).append(run)
    return tuple(
        Group(_letters(i) if len(by_split) > 1 else "", tuple(runs), _baselines(runs))
        for i, runs in enumerate(by_split.values())
    )


def _letters(i: int) -> str:
    return (_letters(i // 26 - 1) if i >= 26 else "") + chr(ord("A") + i % 26)


def _baselines(runs: list[Run]) -> dict[tuple[str, str], dict[str, Any]]:
    found = {
        (version, name): errors
        for run in reversed(runs)
        for version, names in run.result.baselines.items()
        for name, errors in names.items()
    }
    order = {version: i for i, version in enumerate(VERSIONS)}
    ranks = {name: i for i, name in enumerate(NAMES)}
    return dict(
        sorted(
            found.items(),
            key=lambda item: (order.get(item[0][0], 99), ranks.get(item[0][1], 99), item[0]),
        )
    )


def against_baseline(run: Run, version: str, name: str, prediction: str) -> dict[str, Any] | None:
    """Return a run's stored comparison with a baseline, None where it has none.

    Args:
        run: The run.
        version: The baseline's version.
        name: The baseline's name.
        prediction: `expected` or `decoded`.
    """
    for record in run.result.comparisons:
        if (record["version"], record["baseline"], record["prediction"]) == (
            version,
            name,
            prediction,
        ):
            return record
    return None


def against_run(run: Run, best: Run) -> dict[str, Any] | None:
    """Return the interval of a run's RMSE of expected ratings minus the best run's.

    None where a run has no predictions or they are not of the same rows.
    """
    if run.predictions is None or best.predictions is None:
        return None
    keys = ["user_id", "item_id"]
    rows = run.predictions.merge(best.predictions, on=keys, suffixes=("", "_best"))
    if not len(rows) == len(run.predictions) == len(best.predictions):
        return None
    found = paired_interval(
        rows["user_id"], rows["rating"], rows["expected_rating"], rows["expected_rating_best"]
    )
    return asdict(found["rmse"])


def verdict(*differences: dict[str, Any] | None) -> str:
    """Say what intervals of a difference show: `lower`, `higher` or `within noise`.

    With several intervals (a check) a claim holds only if all agree. Without ends: `no interval`.
    """
    signs = set()
    for difference in differences:
        if difference is None:
            continue
        if difference["low"] is None:
            return "no interval"
        signs.add((difference["low"] > 0) - (difference["high"] < 0))
    if not signs:
        return "not compared"
    return {1: "higher", -1: "lower", 0: "within noise"}[signs.pop() if len(signs) == 1 else 0]


def baseline_label(version: str, name: str) -> str:
    """Return a baseline's name, with its version where that changes what it predicts."""
    spoken = NAMES.get(name, name)
    return spoken if name in UNVARIED else f"{spoken} ({version})"


def findings(group: Group) -> Iterator[str]:
    """Say how a group's best run stands to the baselines on the same rows, the prompt's apart."""
    by_verdict: dict[str, dict[str, None]] = {}
    for version, name in group.baselines:
        if version == "prompt":
            continue
        record = against_baseline(group.best, version, name, "expected")
        said = verdict(record and record["rmse"])
        by_verdict.setdefault(said, {})[baseline_label(version, name)] = None
    for said, text in (
        ("lower", "Its error is lower, beyond noise, than that of"),
        ("within noise", "Within noise of"),
        ("higher", "Its error is higher, beyond noise, than that of"),
        ("no interval", "Too few users for an interval against"),
        ("not compared", "Not compared with"),
    ):
        if said in by_verdict:
            yield f"{text}: {', '.join(by_verdict[said])}."

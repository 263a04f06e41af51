"""Runs -> which of their differences are more than noise.

Runs are compared wherever they were tested on the same ratings. Every statement rests on paired
95% intervals, clustered by user: of the ratings as decoded, on the rows that both answered and
again with each user's mean training rating for what was not (decision 13), and of the expected
ratings, which every row has. Pure.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from persona_lab.evaluation import Judged, TableRow, contrast, judge, rows_key
from persona_lab.evaluation.metrics import decoded
from persona_lab.report.lines import Line, alone, lines
from persona_lab.report.runs import Report, Run

MAX_URR = 0.05
VERSIONS = ("prompt", "all", "cohort")
SINGLE = ("single_max", "single_min", "single_full")
NAMES = {
    "prompt_mean": "item mean that the prompt shows",
    "prompt_mean_user_offset": "item mean that the prompt shows + user's offset",
    "constant": "training mean",
    "always_4": "always 4",
    "user_mean": "user mean",
    "item_mean": "item mean",
    "user_item_bias": "user + item bias",
    "item_knn": "nearest neighbours",
    "biased_mf": "matrix factorisation",
}
FITTED = {
    "prompt": "what the prompt shows",
    "all": "all but the test rows",
    "cohort": "the users' training rows",
}
"""What each version of a baseline was fitted on."""
UNVARIED = ("prompt_mean", "prompt_mean_user_offset", "always_4", "user_mean")
"""Baselines that predict the same in every version."""

Interval = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Group:
    """Runs that were tested on the same rows.

    Attributes:
        name: A letter, empty where all runs are of one group.
        runs: In the report's order.
        lines: The runs, the seeds of a configuration together, by their first.
        baselines: (version, name) -> errors, the prompt's mean first.
    """

    name: str
    runs: tuple[Run, ...]
    lines: tuple[Line, ...]
    baselines: dict[tuple[str, str], dict[str, Any]]

    @property
    def best(self) -> Run | None:
        """The run with the lowest RMSE among those that answered nearly all rows, if any did.

        A run whose responses mostly hold no rating has an RMSE of a few rows that it chose itself.
        """
        answering = [run for run in self.runs if answers(run)]
        return min(answering, key=lambda run: run.result.metrics["rmse"], default=None)


@dataclass(frozen=True)
class Difference:
    """A line's RMSE minus another's, paired on the rows: {value, low, high, detectable} each.

    Attributes:
        decoded: On the `n` rows that all seeds answered; None where there is none.
        check: On all rows, unrelated responses as the user's mean; None where it is the same.
        expected: Of the expected ratings, on all rows.
        n: Rows that all seeds of both answered.
    """

    decoded: Interval | None
    check: Interval | None
    expected: Interval
    n: int

    @property
    def verdict(self) -> str:
        """What the decoded ratings show."""
        return verdict(self.decoded, self.check) if self.decoded else verdict()

    @property
    def detectable(self) -> float | None:
        """The smallest true difference that the decoded ratings would show, see `Difference`."""
        return self.decoded["detectable"] if self.decoded else None


def answers(run: Run) -> bool:
    """Whether a run's responses hold a rating in all but a few rows."""
    return (run.result.metrics["urr"] or 0) <= MAX_URR and run.result.metrics["rmse"] is not None


# Each form of a report asks for the same: what draws users again is kept while one is written.
@lru_cache(maxsize=1)
def groups(report: Report) -> tuple[Group, ...]:
    """Group a report's runs by their test rows, whatever else differs between them."""
    by_rows: dict[str, list[Run]] = {}
    for run in report.runs:
        frame = run.predictions
        alone = run.result.keys.get("split", run.name)
        by_rows.setdefault(alone if frame is None else rows_key(frame), []).append(run)
    return tuple(
        Group(_letters(i) if len(by_rows) > 1 else "", tuple(runs), lines(runs), _baselines(runs))
        for i, runs in enumerate(by_rows.values())
    )


def _letters(i: int) -> str:
    return (_letters(i // 26 - 1) if i >= 26 else "") + chr(ord("A") + i % 26)


def _baselines(runs: list[Run]) -> dict[tuple[str, str], dict[str, Any]]:
    """Baselines of all runs; one that is another in a later run is named with that run.

    So is the average that the prompt shows, where runs differ in what it is taken over.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for run in runs:
        for version, names in run.result.baselines.items():
            for name, errors in names.items():
                others = [each for key, each in found.items() if key[0] == version]
                if found.setdefault((version, name), errors) != errors and errors not in others:
                    found[version, f"{NAMES.get(name, name)}, in {run.label}"] = errors
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


def both_readings(record: dict[str, Any] | None) -> tuple[Interval | None, Interval | None]:
    """Return a stored comparison's difference in RMSE and its check's."""
    if record is None:
        return None, None
    return record["rmse"], record["check"] and record["check"]["rmse"]


@lru_cache(maxsize=64)
def against(line: Line, other: Line) -> Difference | None:
    """Return a line's errors minus another's, None unless both predict the same rows."""
    sides = [
        [
            frame.assign(prediction=decoded(frame, run.result.row.decode))
            for run in each.runs
            if (frame := run.predictions) is not None
        ]
        for each in (line, other)
    ]
    if not all(sides):
        return None
    expected = contrast(*sides, prediction="expected")
    if expected is None:
        return None
    answered = contrast(*sides, prediction="decoded")
    return Difference(
        answered and asdict(answered.differences["rmse"]),
        answered and answered.check and asdict(answered.check["rmse"]),
        asdict(expected.differences["rmse"]),
        answered.n if answered else 0,
    )


def contrasts(group: Group) -> Iterator[tuple[Line, Line]]:
    """Yield each line of an adapter per persona with each that differs in the adapter alone.

    The question of the paper first: against one adapter for all users.
    """
    others = (*SINGLE, "random_persona", "none")
    found = [
        (others.index(other.adapter), i, line, other)
        for i, line in enumerate(group.lines)
        if line.adapter == "persona"
        for other in group.lines
        if other.adapter in others and _but_adapter(line.first) == _but_adapter(other.first)
    ]
    yield from ((line, other) for _, _, line, other in sorted(found, key=lambda each: each[:2]))


def against_single(group: Group) -> Iterator[tuple[Line, Line]]:
    """Yield those contrasts that are the paper's question."""
    yield from ((line, other) for line, other in contrasts(group) if other.adapter in SINGLE)


def against_best(group: Group) -> Iterator[tuple[Line, Line]]:
    """Yield each run with the group's best one."""
    best = group.best
    if best is not None:
        yield from ((alone(run), alone(best)) for run in group.runs if run is not best)


@lru_cache(maxsize=8)
def detectable(group: Group) -> tuple[float, ...]:
    """Return the smallest true differences in RMSE, in stars, that a group's test rows would show.

    One for each pair that is the paper's question; where there is none, for each run against the
    best one.
    """
    pairs = [*against_single(group)] or [*against_best(group)]
    found = [against(*pair) for pair in pairs]
    return tuple(each.detectable for each in found if each and each.detectable)


@lru_cache(maxsize=8)
def claims(group: Group) -> tuple[Judged, ...]:
    """Judge the paper's claims by a group's rows of Table 1, the seeds of a row together.

    Where the group holds several settings (another K, another protocol), by the one with the most
    rows, which `judged_setting` names. None is judged on rows that choices are made on
    (decision 28).
    """
    settings = _settings(group)
    if not settings:
        return ()
    setting = max(settings, key=lambda each: len(settings[each]))
    expected = json.loads(setting)["decode"] == "expected"
    return judge(settings[setting], "expected" if expected else "decoded")


def judged_setting(group: Group) -> str:
    """Return what tells the setting that claims are judged by from the others; empty without any.

    As `name=value` of what differs between them.
    """
    settings = _settings(group)
    if len(settings) < 2:
        return ""
    choices = [_flat(json.loads(each)) for each in settings]
    judged = _flat(json.loads(max(settings, key=lambda each: len(settings[each]))))
    names = dict.fromkeys(name for each in choices for name in each)
    differing = [name for name in names if len({str(each.get(name)) for each in choices}) > 1]
    return ", ".join(f"{name}={judged.get(name, 'as in the setup')}" for name in differing)


def _flat(setting: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in setting.items() if name != "changed"} | setting[
        "changed"
    ]


def _settings(group: Group) -> dict[str, dict[str, TableRow]]:
    """Rows by name, for each setting in which nothing differs but what Table 1 says."""
    settings: dict[str, dict[str, TableRow]] = {}
    for line in group.lines:
        row = line.first.result.row
        name = row.id if line.first.papers else None
        if row.adapter == "random_persona" and row.role == "slm":
            name = f"random_{row.memory}"
        frames = tuple(run.predictions for run in line.runs if run.predictions is not None)
        if name is not None and frames and not line.first.result.development:
            rows = settings.setdefault(_setting(line.first), {})
            sizes = tuple(run.trained_on for run in line.runs)
            rows.setdefault(name, TableRow(frames, line.first.stands_in, sizes))
    return settings


def _setting(run: Run) -> str:
    choices = json.loads(_but_adapter(run))
    return json.dumps(choices | dict.fromkeys(("role", "model", "memory")), sort_keys=True)


def _but_adapter(run: Run) -> str:
    choices = asdict(run.result.row)
    changed = {
        name: value for name, value in choices["changed"].items() if not name.startswith("adapter")
    }
    # Whether a row is a control may be the adapter's doing; what else makes it one is compared.
    blank = dict.fromkeys(("id", "adapter", "seed", "control"))
    return json.dumps(choices | blank | {"changed": changed}, sort_keys=True)


def verdict(*differences: Interval | None) -> str:
    """Say what intervals of a difference show: `lower`, `higher` or `within noise`.

    With several intervals (a check) a claim holds only if all agree. `no interval` where there are
    no ends, or no width between them though the predictions differ, as with a handful of users or
    rows; `equal` where nothing differs.
    """
    given = [difference for difference in differences if difference is not None]
    if not given:
        return "not compared"
    if all(each["low"] == each["high"] == 0 for each in given):
        return "equal"
    if any(each["low"] is None or each["low"] == each["high"] for each in given):
        return "no interval"
    signs = {(each["low"] > 0) - (each["high"] < 0) for each in given}
    return {1: "higher", -1: "lower", 0: "within noise"}[signs.pop() if len(signs) == 1 else 0]


def baseline_label(version: str, name: str) -> str:
    """Return a baseline's name, with its version where that changes what it predicts."""
    spoken = NAMES.get(name, name)
    once = name in UNVARIED or version == "prompt"
    return spoken if once else f"{spoken} ({FITTED.get(version, version)})"


def findings(run: Run, baselines: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Say how a run's decoded ratings stand to baselines on the same rows."""
    prediction = "expected" if run.result.row.decode == "expected" else "decoded"
    verdicts = {
        key: verdict(*both_readings(against_baseline(run, *key, prediction))) for key in baselines
    }
    by_verdict: dict[str, dict[str, None]] = {}
    for (version, name), said in verdicts.items():
        alike = {each for key, each in verdicts.items() if key[1] == name} == {said}
        label = NAMES.get(name, name) if alike else baseline_label(version, name)
        by_verdict.setdefault(said, {})[label] = None
    for said, text in (
        ("lower", "Its error is lower, beyond noise, than that of"),
        ("within noise", "Within noise of"),
        ("equal", "Exactly the error of"),
        ("higher", "Its error is higher, beyond noise, than that of"),
        ("no interval", "Too few users or rows for an interval against"),
        ("not compared", "Not compared with"),
    ):
        if said in by_verdict:
            yield f"{text}: {', '.join(by_verdict[said])}."

"""Runs -> which of their differences are more than noise.

Every statement rests on paired 95% intervals and tests, clustered by user, wherever runs were
tested on the same ratings (decision 13). The p of what is read together is corrected by Holm. Pure.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

from persona_lab.evaluation import Contrast, Judged, TableRow, Verdict, judge, rows_key
from persona_lab.evaluation.contrast import adjust, contrast
from persona_lab.evaluation.predictors import ALWAYS
from persona_lab.evaluation.result import CONTROLS
from persona_lab.report.lines import KINDS, Line, frames, lines
from persona_lab.report.runs import Report, Run

MAX_URR = 0.05
NAMES = {
    "prompt_mean": "item mean that the prompt shows",
    "prompt_mean_user_offset": "item mean that the prompt shows + user's offset",
    "constant": "training mean",
    ALWAYS: "always ",
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
UNVARIED = ("prompt_mean", "prompt_mean_user_offset", ALWAYS, "user_mean")
"""Baselines that predict the same in every version."""
MAIN = (
    ("prompt", "prompt_mean"),
    ("prompt", "prompt_mean_user_offset"),
    ("all", ALWAYS),
    ("all", "user_mean"),
    ("cohort", "user_item_bias"),
    ("all", "user_item_bias"),
)
"""The simple predictors that every line is compared with: (version, kind)."""


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
    def best(self) -> Line | None:
        """The line with the lowest RMSE among those that answered nearly all rows, if any did.

        A line whose responses mostly hold no rating has an RMSE of a few rows that it chose itself.
        """
        rated = {line: rmse for line in self.lines if (rmse := line.metrics["rmse"]) is not None}
        return min(filter(answers, rated), key=lambda line: rated[line], default=None)

    @property
    def predictors(self) -> tuple[tuple[str, str], ...]:
        """(version, name) of every baseline, those that all versions have alike once."""
        return tuple(key for key in self.baselines if key[0] != "cohort" or not unvaried(key[1]))

    @property
    def main(self) -> tuple[tuple[str, str], ...]:
        """The main ones of these, with which every line is compared."""
        return tuple(key for key in self.predictors if (key[0], _kind(key[1])) in MAIN)


class Comparison(NamedTuple):
    """A line's error minus another's or a simple predictor's, paired on the test rows.

    Attributes:
        decoded: Of what counts as predicted, on the rows that all seeds of both answered; None
            where there is none.
        expected: Of the expected ratings, on all rows; None unless both predict the same ones.
    """

    decoded: Contrast | None
    expected: Contrast | None


Pair = tuple[Line, Line]
Predictor = tuple[str, str]
Key = TypeVar("Key", Pair, tuple[Line, Predictor])


def answers(line: Line) -> bool:
    """Whether a line's responses hold a rating in all but a few rows."""
    return (line.metrics["urr"] or 0) <= MAX_URR and line.metrics["rmse"] is not None


def _kind(name: str) -> str:
    return ALWAYS if name.startswith(ALWAYS) else name


def spoken(name: str) -> str:
    """Return what a baseline is called: `always 4`."""
    kind = _kind(name)
    return NAMES.get(kind, kind) + name.removeprefix(kind)


def unvaried(name: str) -> bool:
    """Whether a baseline predicts the same in every version."""
    return _kind(name) in UNVARIED


def baseline_label(version: str, name: str) -> str:
    """Return a baseline's name, with its version where that changes what it predicts."""
    once = unvaried(name) or version == "prompt"
    return spoken(name) if once else f"{spoken(name)} ({FITTED.get(version, version)})"


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


def _baselines(runs: list[Run]) -> dict[Predictor, dict[str, Any]]:
    """Baselines of all runs; one that is another in a later run is named with that run.

    So is the average that the prompt shows, where runs differ in what it is taken over.
    """
    baselines: dict[Predictor, dict[str, Any]] = {}
    for run in runs:
        for version, names in run.result.baselines.items():
            for name, errors in names.items():
                known = [baselines[key] for key in baselines if key[0] == version]
                if baselines.setdefault((version, name), errors) != errors and errors not in known:
                    baselines[version, f"{spoken(name)}, in {run.label}"] = errors
    orders = [{name: i for i, name in enumerate(names)} for names in (FITTED, NAMES)]
    keys = sorted(
        baselines, key=lambda k: (orders[0].get(k[0], 99), orders[1].get(_kind(k[1]), 99), k)
    )
    return {key: baselines[key] for key in keys}


@lru_cache(maxsize=256)
def against(line: Line, other: Line | Predictor) -> Comparison:
    """Return a line's errors minus another's, or a simple predictor's.

    No p is corrected: that is of the table in which a pair stands.
    """
    own = frames(line.runs)
    if isinstance(other, Line):
        theirs, between = frames(other.runs), other.between
    else:
        column, between = "/".join(other), {}
        theirs = [
            frame.assign(prediction=frame[column], expected_rating=frame[column])
            for frame in own[:1]
            if column in frame
        ]
    if not own or not theirs:
        return Comparison(None, None)
    varying = {kind: [line.between.get(kind), between.get(kind)] for kind in KINDS}
    return Comparison(
        *(contrast(own, theirs, prediction=kind, between=varying[kind]) for kind in KINDS)
    )


def _corrected(comparisons: Mapping[Key, Comparison]) -> dict[Key, Comparison]:
    """Correct the p of what is read together, each kind of rating for itself."""
    decoded, expected = (
        adjust({key: known for key, both in comparisons.items() if (known := getattr(both, kind))})
        for kind in KINDS
    )
    return {key: Comparison(decoded.get(key), expected.get(key)) for key in comparisons}


@lru_cache(maxsize=8)
def against_predictors(group: Group) -> dict[tuple[Line, Predictor], Comparison]:
    """Compare every line with the main simple predictors, and the best one with all of them.

    Their p are corrected together: a pair says the same in every table.
    """
    best = group.best
    return _corrected(
        {
            (line, key): against(line, key)
            for line in group.lines
            for key in (group.predictors if line is best else group.main)
        }
    )


def contrasts(group: Group) -> Iterator[Pair]:
    """Yield each line of an adapter per persona with each that differs in the adapter alone.

    The question of the paper first: against one adapter for all users; then against groups of other
    users, persona adapters that began afresh where these did not, and the frozen model.
    """

    def begins(line: Line) -> bool:
        """Whether its adapters go on from another one."""
        return any(adapter["start"] for adapter in line.first.result.adapters.values())

    kinds = ("all", "groups", "personas", "none")
    modes = list(dict.fromkeys(line.adapter for line in group.lines))
    pairs = [
        (kinds.index(other.first.result.serving), modes.index(other.adapter), i, line, other)
        for i, line in enumerate(group.lines)
        if line.first.result.serving == "personas"
        for other in group.lines
        if other.first.result.serving in kinds
        and _choices(other.first) == _choices(line.first)
        and (other.first.result.serving != "personas" or (begins(line) and not begins(other)))
    ]
    yield from ((line, other) for *_, line, other in sorted(pairs, key=lambda pair: pair[:3]))


@lru_cache(maxsize=8)
def compared(group: Group) -> dict[Pair, Comparison]:
    """Compare these, their p corrected together."""
    return _corrected({pair: against(*pair) for pair in contrasts(group)})


def against_single(group: Group) -> dict[Pair, Comparison]:
    """Return those contrasts that are the paper's question, corrected with all of them."""
    pairs = compared(group).items()
    return {pair: both for pair, both in pairs if pair[1].first.result.serving == "all"}


@lru_cache(maxsize=8)
def against_best(group: Group) -> dict[Pair, Comparison]:
    """Compare each line with the group's best one, their p corrected together."""
    best = group.best
    others = [line for line in group.lines if line is not best] if best else []
    return _corrected({(line, best): against(line, best) for line in others if best})


def detectable(group: Group) -> tuple[float, ...]:
    """Return the smallest true differences in RMSE, in stars, that a group's test rows would show.

    One for each pair that is the paper's question; where there is none, for each line against the
    best one.
    """
    comparisons = (against_single(group) or against_best(group)).values()
    return tuple(filter(None, (least(both.decoded) for both in comparisons)))


@lru_cache(maxsize=8)
def claims(group: Group) -> tuple[Judged, ...]:
    """Judge the paper's claims by a group's rows of Table 1, the seeds of a row together.

    Where the group holds several settings (another K, another protocol), by the one with the most
    rows, which `judged_setting` names. None is judged on rows that choices are made on
    (decision 28).
    """
    for choices, rows in _settings(group):
        return judge(rows, "expected" if choices["decode"] == "expected" else "decoded")
    return ()


def judged_setting(group: Group) -> str:
    """Return what tells the setting that claims are judged by from the others; empty without any.

    As `name=value` of what differs between them.
    """
    settings = [choices for choices, _ in _settings(group)]
    names = dict.fromkeys(name for choices in settings for name in choices)
    differing = [
        name for name in names if len({str(choices.get(name)) for choices in settings}) > 1
    ]
    return ", ".join(f"{name}={settings[0].get(name, 'as in the setup')}" for name in differing)


def _settings(group: Group) -> list[tuple[dict[str, Any], dict[str, TableRow]]]:
    """Choices and rows by name of each setting in which nothing differs but what Table 1 says.

    The one with the most rows first.
    """
    settings: dict[str, tuple[dict[str, Any], dict[str, TableRow]]] = {}
    for line in group.lines:
        row, runs = line.first.result.row, frames(line.runs)
        control = CONTROLS.get((row.role, row.adapter, row.memory))
        name = row.id if line.first.papers else control
        if name and runs and not line.first.result.development:
            choices = _choices(line.first, "role", "model", "memory")
            key = json.dumps(choices, sort_keys=True)
            _, rows = settings.setdefault(key, (choices, {}))
            rows.setdefault(name, TableRow(tuple(runs), line.first.stands_in))
    return sorted(settings.values(), key=lambda setting: -len(setting[1]))


def _choices(run: Run, *but: str) -> dict[str, Any]:
    """All choices of a run but the adapter and the seed.

    What makes it no row of Table 1 may be the adapter's doing; what else does is among the choices.
    """
    row = asdict(run.result.row)
    choices = row | row.pop("changed")
    left_out = ("id", "seed", "departures", *but)
    return {
        name: value
        for name, value in choices.items()
        if name not in left_out and not name.startswith("adapter")
    }


def verdict(difference: Contrast | None) -> Verdict:
    """Say what a difference in RMSE shows."""
    return difference.verdict() if difference else Verdict.NOT_TESTABLE


def least(difference: Contrast | None) -> float | None:
    """Return the smallest true difference in RMSE that would show, None where it is not known."""
    return difference.differences["rmse"].detectable if difference else None

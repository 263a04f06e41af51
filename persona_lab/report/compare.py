"""Runs -> which of their differences are more than noise.

Runs are compared wherever they were tested on the same ratings. Every statement rests on paired
95% intervals and tests, clustered by user: of the ratings as decoded, on the rows that both
answered and again with each user's mean training rating for what was not (decision 13), and of the
expected ratings, which every row has. The p of what is read together is corrected by Holm. Pure.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import pandas as pd

from persona_lab import evaluation
from persona_lab.evaluation import (
    Contrast,
    Judged,
    SeedVariance,
    TableRow,
    adjust,
    contrast,
    judge,
    rows_key,
)
from persona_lab.evaluation.contrast import Prediction
from persona_lab.evaluation.predictors import ALWAYS
from persona_lab.report.lines import Line, frames, lines
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
MAIN = (
    ("prompt", "prompt_mean"),
    ("prompt", "prompt_mean_user_offset"),
    ("all", "always_4"),
    ("all", "user_mean"),
    ("cohort", "user_item_bias"),
    ("all", "user_item_bias"),
)
"""The simple predictors that every line is compared with: (version, name)."""


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
        return tuple(key for key in self.baselines if key[1] not in UNVARIED or key[0] != "cohort")


@dataclass(frozen=True)
class Difference:
    """A line's error minus another's or a simple predictor's, paired on the test rows.

    Attributes:
        decoded: Of what counts as predicted, on the rows that all seeds of both answered; None
            where there is none.
        expected: Of the expected ratings, on all rows; None where it is not known.
    """

    decoded: Contrast | None
    expected: Contrast | None


Pair = tuple[Line, Line]
Predictor = tuple[str, str]


def answers(line: Line) -> bool:
    """Whether a line's responses hold a rating in all but a few rows."""
    return (line.metrics["urr"] or 0) <= MAX_URR and line.metrics["rmse"] is not None


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


@lru_cache(maxsize=64)
def against(line: Line, other: Line) -> Difference | None:
    """Return a line's errors minus another's, None unless both predict the same rows.

    No p is corrected: that is of the table in which a pair stands.
    """
    return _difference(line, frames(other.runs), other.between)


def _difference(
    line: Line, other: Sequence[pd.DataFrame], between: Mapping[Prediction, SeedVariance]
) -> Difference | None:
    own = frames(line.runs)
    if not own or not other:
        return None

    def minus(prediction: Prediction) -> Contrast | None:
        varying = [each.get(prediction) for each in (line.between, between)]
        return contrast(own, other, prediction=prediction, between=varying)

    expected = minus("expected")
    return expected and Difference(minus("decoded"), expected)


def _against_predictor(line: Line, version: str, name: str) -> Difference | None:
    """Return a line's errors minus a simple predictor's, None where its runs cannot tell.

    A run alone has them in its result, over users. For several seeds, and where it is known how
    they vary, they are computed from what the predictors said, which a run keeps; what always 4 and
    the user's mean say needs no keeping.
    """
    if len(line.runs) == 1 and not line.between:
        return _stored(line.first, version, name)
    for frame in frames(line.runs):
        known = {"always_4": ALWAYS, "user_mean": frame["user_mean"]}
        said = known.get(name, frame.get(f"{version}/{name}"))
        if said is not None:
            simple = frame.assign(prediction=said, expected_rating=said)
            return _difference(line, [simple], {})
    return None


def _stored(run: Run, version: str, name: str) -> Difference | None:
    """Return what a run's result says of it and a simple predictor."""
    found = {
        record["prediction"]: record
        for record in run.result.comparisons
        if (record["version"], record["baseline"]) == (version, name)
    }
    if "expected" not in found:
        return None
    n_users = sum(each["n_users"] for each in run.result.per_persona)
    expected = read("expected", found["expected"], n_users)
    if run.result.row.decode == "expected":
        return Difference(expected, expected)
    given = found.get("decoded")
    return Difference(read("decoded", given, n_users) if given else None, expected)


def read(prediction: Prediction, record: Mapping[str, Any], n_users: int) -> Contrast:
    """Return a contrast of one run that its result.json holds.

    Args:
        prediction: What was scored.
        record: `rmse` and `mae`, each {value, low, high, p, detectable}, `n` and, where some rows
            were not answered, `check`.
        n_users: Users compared.
    """

    def both(ends: Mapping[str, Any]) -> dict[str, evaluation.Difference]:
        untested = dict.fromkeys(("p", "detectable"))  # as in results of earlier versions
        return {name: evaluation.Difference(**untested | ends[name]) for name in ("rmse", "mae")}

    check = record.get("check")
    return Contrast(prediction, record["n"], n_users, (1, 1), both(record), check and both(check))


def _corrected(found: Sequence[Difference | None]) -> list[Difference | None]:
    """Correct the p of differences that are read together, each kind of rating for itself."""

    def adjusted(contrasts: Iterable[Contrast | None]) -> dict[str, Contrast]:
        return adjust({f"{i}": each for i, each in enumerate(contrasts) if each is not None})

    decoded = adjusted(each and each.decoded for each in found)
    expected = adjusted(each and each.expected for each in found)
    return [
        each and Difference(decoded.get(f"{i}"), expected.get(f"{i}"))
        for i, each in enumerate(found)
    ]


@lru_cache(maxsize=8)
def against_predictors(group: Group) -> dict[tuple[Line, Predictor], Difference | None]:
    """Compare every line with the main simple predictors, and the best one with all of them.

    Their p are corrected together: a pair says the same in every table.
    """
    best = group.best
    pairs = [
        (line, key)
        for line in group.lines
        for key in group.predictors
        if key in MAIN or line is best
    ]
    found = _corrected([_against_predictor(line, *key) for line, key in pairs])
    return dict(zip(pairs, found, strict=True))


def contrasts(group: Group) -> Iterator[Pair]:
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


@lru_cache(maxsize=8)
def compared(group: Group) -> dict[Pair, Difference | None]:
    """Compare these, their p corrected together."""
    return _together(contrasts(group))


def against_single(group: Group) -> dict[Pair, Difference | None]:
    """Return those contrasts that are the paper's question, corrected with all of them."""
    return {pair: each for pair, each in compared(group).items() if pair[1].adapter in SINGLE}


@lru_cache(maxsize=8)
def against_best(group: Group) -> dict[Pair, Difference | None]:
    """Compare each line with the group's best one, their p corrected together."""
    best = group.best
    if best is None:
        return {}
    return _together((line, best) for line in group.lines if line is not best)


def crossed(run: Run) -> list[Contrast | None]:
    """Compare a run's adapters on each other's users with their own one, corrected together."""
    cells = [cell for cell in run.result.matrix if cell["difference"]]
    found = [
        Difference(
            None, read("expected", cell["difference"] | {"n": cell["n_test"]}, cell["n_users"])
        )
        for cell in cells
    ]
    return [each and each.expected for each in _corrected(found)]


def _together(pairs: Iterable[Pair]) -> dict[Pair, Difference | None]:
    given = list(pairs)
    return dict(zip(given, _corrected([against(*pair) for pair in given]), strict=True))


@lru_cache(maxsize=8)
def detectable(group: Group) -> tuple[float, ...]:
    """Return the smallest true differences in RMSE, in stars, that a group's test rows would show.

    One for each pair that is the paper's question; where there is none, for each line against the
    best one.
    """
    found = against_single(group) or against_best(group)
    return tuple(filter(None, (least(each.decoded) for each in found.values() if each)))


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
        given = tuple(run.predictions for run in line.runs if run.predictions is not None)
        if name is not None and given and not line.first.result.development:
            rows = settings.setdefault(_setting(line.first), {})
            sizes = tuple(run.trained_on for run in line.runs)
            rows.setdefault(name, TableRow(given, line.first.stands_in, sizes))
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


def verdict(found: Contrast | None) -> str:
    """Say what a difference in RMSE shows: `lower`, `higher`, `undecided` or `within noise`.

    For the first two the interval, the p after Holm's correction and the check must agree, see
    `Contrast.verdict`. `undecided` where the intervals do but the p does not. `no interval` where
    there are no ends, or no width between them though the predictions differ, as with a handful of
    users or rows; `equal` where nothing differs.
    """
    if found is None:
        return "not compared"
    given = [each["rmse"] for each in (found.differences, found.check) if each]
    if all(each.low == each.high == 0 for each in given):
        return "equal"
    if any(each.low is None or each.low == each.high for each in given):
        return "no interval"
    if found.p("rmse") is None:
        return "not tested"
    said = found.verdict()
    leans = {each.side for each in given} in ({1}, {-1})
    return "within noise" if said == "undecided" and not leans else said


def least(found: Contrast | None) -> float | None:
    """Return the smallest true difference in RMSE that would show, None where it is not known."""
    return found.differences["rmse"].detectable if found else None


def baseline_label(version: str, name: str) -> str:
    """Return a baseline's name, with its version where that changes what it predicts."""
    spoken = NAMES.get(name, name)
    once = name in UNVARIED or version == "prompt"
    return spoken if once else f"{spoken} ({FITTED.get(version, version)})"


def findings(group: Group) -> Iterator[str]:
    """Say how the best line's ratings stand to simple predictors on the same rows."""
    best = group.best
    if best is None:
        return
    # An average that another row's prompt shows is no predictor of this one's.
    verdicts = {
        key: _leaning(each and each.decoded)
        for (line, key), each in against_predictors(group).items()
        if line is best and key[1] in best.first.result.baselines.get(key[0], ())
    }
    by_verdict: dict[str, dict[str, None]] = {}
    for (version, name), said in verdicts.items():
        alike = {each for key, each in verdicts.items() if key[1] == name} == {said}
        label = NAMES.get(name, name) if alike else baseline_label(version, name)
        by_verdict.setdefault(said, {})[label] = None
    for said, text in (
        ("lower", "Its error is lower, beyond noise, than that of"),
        (
            "undecided, lower",
            "Lower by the interval, undecided by the corrected test, than that of",
        ),
        ("within noise", "Within noise of"),
        ("equal", "Exactly the error of"),
        (
            "undecided, higher",
            "Higher by the interval, undecided by the corrected test, than that of",
        ),
        ("higher", "Its error is higher, beyond noise, than that of"),
        ("no interval", "Too few users or rows for an interval against"),
        ("not tested", "Not tested against"),
        ("not compared", "Not compared with"),
    ):
        if said in by_verdict:
            yield f"{text}: {', '.join(by_verdict[said])}."


def _leaning(found: Contrast | None) -> str:
    """A verdict, with the side to which an undecided difference leans."""
    said = verdict(found)
    if found is None or said != "undecided":
        return said
    return f"{said}, {'lower' if found.differences['rmse'].value < 0 else 'higher'}"

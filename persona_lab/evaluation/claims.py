"""Rows of a table -> which claims of the paper they support, contradict or leave open. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from persona_lab.evaluation.contrast import (
    Contrast,
    Prediction,
    adjust,
    contrast,
    predicted,
    rows_key,
)
from persona_lab.evaluation.uncertainty import (
    LEVEL,
    Difference,
    Interval,
    share_interval,
    size_trend,
)

Judgement = Literal["supported", "contradicted", "undecided", "not testable"]

LEAST_URR = 0.0115
"""The lowest share of unrelated responses among the paper's rows of the small model."""


@dataclass(frozen=True)
class Claim:
    """One statement about rows of Table 1.

    Attributes:
        name: Short, unique.
        text: The statement.
        first: The row that it is about.
        others: The row that it is compared with, or several, whose mean error counts.
        says: Whether the first's error is said to be lower or higher.
    """

    name: str
    text: str
    first: str
    others: tuple[str, ...]
    says: Literal["lower", "higher"]

    @property
    def rows(self) -> tuple[str, ...]:
        """All rows that must be there to judge it."""
        return (self.first, *self.others)


def _claim(first: str, says: Literal["lower", "higher"], *others: str, text: str) -> Claim:
    sign = "<" if says == "lower" else ">"
    return Claim(f"{first} {sign} {', '.join(others)}", text, first, others, says)


CLAIMS = (
    _claim("r10", "higher", "r7", text="persona adapters err more than the larger single adapter"),
    _claim("r9", "lower", "r5", text="without M_l, they err less than the larger single adapter"),
    _claim("r9", "higher", "r6", text="without M_l, they err more than the smaller one"),
    _claim("r10", "lower", "r7", "r8", text="they err less than the mean of both single adapters"),
    _claim("r10", "lower", "r5", text="they err less than the larger single adapter without M_l"),
    _claim("r10", "lower", "r6", text="they err less than the smaller single adapter without M_l"),
    _claim("r10", "lower", "r9", text="M_l helps persona adapters"),
    _claim("r7", "lower", "r5", text="M_l helps the larger single adapter"),
    _claim("r6", "lower", "r8", text="M_l harms the smaller single adapter"),
    _claim("r7", "lower", "r4", text="fine-tuning helps the small model"),
    _claim("r3", "lower", "r4", text="M_l harms the frozen small model"),
    _claim("r7", "lower", "r1", text="the fine-tuned small model beats the large one"),
    _claim("r7", "lower", "r0", text="also where the large one is shown M_s alone"),
    _claim("r1", "lower", "r4", text="the frozen large model beats the frozen small one"),
    _claim("r0", "lower", "r1", text="M_l harms the large model"),
    _claim("r2", "higher", "r0", text="the large model errs more with M_l alone than with M_s"),
    _claim("r2", "higher", "r1", text="the large model errs more with M_l alone than with both"),
)
"""What the paper says of its Table 1 (sections 4 and 5), personas against single first."""

OURS = (
    _claim("r10", "lower", "random_ms_ml", text="personas err less than random groups of users"),
    _claim("r9", "lower", "random_ms", text="without M_l, too"),
)
"""What must hold for personas to be more than a division of the users; the paper does not ask."""

LARGE = ("r0", "r1", "r2")
SMALL = tuple(f"r{n}" for n in range(3, 11))


@dataclass(frozen=True, eq=False)
class TableRow:
    """A row of a table.

    Attributes:
        runs: The predictions of its runs, one per seed, as `contrast` takes them.
        stands_in: Whether another model plays the paper's.
    """

    runs: tuple[pd.DataFrame, ...]
    stands_in: bool = False


@dataclass(frozen=True)
class Judged:
    """A claim and what a table says of it.

    Attributes:
        name: The claim's.
        text: The claim's.
        prediction: What was scored; a claim about unrelated responses is about `decoded`.
        judgement: `supported` or `contradicted` only beyond noise, after Holm's correction over
            all contrasts that the table allows, and on both readings of decision 13.
        why: Why it is not testable; else empty.
        contrast: What it rests on, None where it is not testable or about unrelated responses.
        shares: Row -> share of unrelated responses, for claims about these.
        trend: What a claim about the size of personas rests on, see `size_trend`; its p is not
            corrected.
    """

    name: str
    text: str
    prediction: Prediction
    judgement: Judgement
    why: str = ""
    contrast: Contrast | None = None
    shares: Mapping[str, Interval] | None = None
    trend: Difference | None = None


def judge(table: Mapping[str, TableRow], prediction: Prediction) -> tuple[Judged, ...]:
    """Judge every claim by one table's rows.

    Args:
        table: Rows by name, `r0` to `r10` and `random_ms`, `random_ms_ml`; all of one setting,
            in which nothing differs but what Table 1 says. Rows may be missing.
        prediction: What to score.
    """
    claims = (*CLAIMS, *OURS)
    why = {claim.name: _untestable(claim.rows, table) for claim in claims}
    found = {
        claim.name: contrast(*(table[row].runs for row in claim.rows), prediction=prediction)
        for claim in claims
        if not why[claim.name]
    }
    adjusted = adjust({name: each for name, each in found.items() if each is not None})
    judged = []
    for claim in claims:
        rests_on = adjusted.get(claim.name)
        judgement: Judgement = "not testable"
        reason = why[claim.name] or "the rows have no test row in common that all answered"
        if rests_on is not None:
            judgement, reason = _judgement(claim, rests_on), ""
        judged.append(Judged(claim.name, claim.text, prediction, judgement, reason, rests_on))
    judged.append(_falls_with_size(table, prediction))
    if prediction == "decoded":
        judged += [_never_unrelated(table), _at_times_unrelated(table)]
    return tuple(judged)


def _untestable(rows: tuple[str, ...], table: Mapping[str, TableRow]) -> str:
    missing = [row for row in rows if row not in table]
    if missing:
        return f"{', '.join(missing)} not in the table"
    # Claims on ways to train and prompt can be asked of any model, those on a model cannot.
    played = [row for row in rows if row in LARGE and table[row].stands_in]
    return f"a stand-in plays LLaMA-3 in {', '.join(played)}" if played else ""


def _judgement(claim: Claim, found: Contrast) -> Judgement:
    verdict = found.verdict()
    if verdict == "undecided":
        return "undecided"
    return "supported" if verdict == claim.says else "contradicted"


def _falls_with_size(table: Mapping[str, TableRow], prediction: Prediction) -> Judged:
    name, text = "r10 falls with size", "the error falls with a persona's size"
    why = _untestable(("r10",), table)
    trends = [] if why else _size_trends(table["r10"], prediction)
    if not trends:
        reason = why or "its personas are of one size, or its runs of other test rows"
        return Judged(name, text, prediction, "not testable", reason)
    judgement: Judgement = "undecided"
    if all((trend.p or 0) <= 1 - LEVEL for trend in trends):
        if all(trend.high is not None and trend.high < 0 for trend in trends):
            judgement = "supported"
        if all(trend.low is not None and trend.low > 0 for trend in trends):
            judgement = "contradicted"
    return Judged(name, text, prediction, judgement, trend=trends[0])


def _size_trends(row: TableRow, prediction: Prediction) -> list[Difference]:
    """On the rows that all seeds answered and, where these are fewer, on all (decision 13)."""
    if len({rows_key(run) for run in row.runs}) > 1:
        return []
    runs = [run.sort_values(["user_id", "item_id"]) for run in row.runs]
    users, ratings, means = (
        runs[0][name].to_numpy() for name in ("user_id", "rating", "user_mean")
    )
    personas = np.stack([run["persona"].to_numpy() for run in runs])
    scored = predicted(runs, prediction)
    answered = ~np.isnan(scored).any(axis=0)
    given = [(answered, scored)] if answered.any() else []
    if not answered.all():
        given.append((np.full(len(users), True), np.where(np.isnan(scored), means, scored)))
    trends = [
        size_trend(users[rows], ratings[rows], each[:, rows], personas[:, rows])
        for rows, each in given
    ]
    return [trend for trend in trends if trend is not None]


def _never_unrelated(table: Mapping[str, TableRow]) -> Judged:
    judged, shares = _unrelated(
        "URR of r0, r1, r2 = 0", "the large model always rates", LARGE, table
    )
    if not shares:
        return judged
    if any(share.low for share in shares.values()):
        return _with(judged, "contradicted", shares)
    none = all(share.value == 0 for share in shares.values())
    return _with(judged, "supported" if none else "undecided", shares)


def _at_times_unrelated(table: Mapping[str, TableRow]) -> Judged:
    text = "the small model gives unrelated responses, fine-tuned or not"
    judged, shares = _unrelated("URR of r3 to r10 > 0", text, SMALL, table)
    if not shares:
        return judged
    if all(share.low for share in shares.values()):
        return _with(judged, "supported", shares)
    # None among n: 95% sure that the rate is below 1 - 0.05 ** (1 / n).
    bounds = {
        row: 1 - 0.05 ** (1 / sum(map(len, table[row].runs)))
        for row, share in shares.items()
        if share.value == 0
    }
    never = any(bound < LEAST_URR for bound in bounds.values())
    return _with(judged, "contradicted" if never else "undecided", shares)


def _unrelated(
    name: str, text: str, rows: tuple[str, ...], table: Mapping[str, TableRow]
) -> tuple[Judged, dict[str, Interval]]:
    why = _untestable(rows, table)
    judged = Judged(name, text, "decoded", "not testable", why)
    if why:
        return judged, {}
    return judged, {row: _share(table[row]) for row in rows}


def _share(row: TableRow) -> Interval:
    rows = pd.concat(row.runs)
    return share_interval(rows["user_id"], rows["prediction"].isna())


def _with(judged: Judged, judgement: Judgement, shares: Mapping[str, Interval]) -> Judged:
    return Judged(judged.name, judged.text, "decoded", judgement, shares=shares)

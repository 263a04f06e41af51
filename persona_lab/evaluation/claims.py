"""Rows of a table -> which claims of the paper they support, contradict or leave open. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
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
    varies,
)
from persona_lab.evaluation.uncertainty import (
    LEVEL,
    Difference,
    Interval,
    share_interval,
    size_trend,
)

Judgement = Literal["supported", "contradicted", "undecided", "not testable"]
Source = Literal["text", "table", "ours"]

LEAST_URR = 0.0115
"""The lowest share of unrelated responses among the paper's rows of the small model."""

ON_ALL = "not so on all rows, with the user's mean where a response has no rating"

FEW_PERSONAS = 4
"""A two-sided test over the orders of so many sizes has no p below 1/12."""


@dataclass(frozen=True)
class Claim:
    """One statement about rows of Table 1.

    Attributes:
        name: Short, unique.
        text: The statement.
        first: The row that it is about.
        others: The row that it is compared with, or several, whose mean error counts.
        says: Whether the first's error is said to be lower or higher.
        source: Where it stands: in the paper's `text`, in its `table` alone, or it is `ours`.
    """

    name: str
    text: str
    first: str
    others: tuple[str, ...]
    says: Literal["lower", "higher"]
    source: Source = "text"

    @property
    def rows(self) -> tuple[str, ...]:
        """All rows that must be there to judge it."""
        return (self.first, *self.others)


def _claim(
    first: str,
    says: Literal["lower", "higher"],
    *others: str,
    text: str,
    source: Source = "text",
) -> Claim:
    sign = "<" if says == "lower" else ">"
    return Claim(f"{first} {sign} {', '.join(others)}", text, first, others, says, source)


CLAIMS = (
    _claim(
        "r10", "lower", "r7", text="the thesis: an adapter per persona errs less than one for all"
    ),
    _claim(
        "r10",
        "higher",
        "r7",
        text="persona adapters err more than the larger single adapter",
        source="table",
    ),
    _claim(
        "r9",
        "lower",
        "r5",
        text="with M_s alone, persona adapters err less than the larger single adapter",
    ),
    _claim(
        "r9",
        "higher",
        "r6",
        text="with M_s alone, persona adapters err more than the smaller single adapter",
    ),
    _claim(
        "r10",
        "lower",
        "r7",
        "r8",
        text="persona adapters err less than the mean of both single adapters",
    ),
    _claim(
        "r10",
        "lower",
        "r5",
        text="persona adapters with M_l err less than the larger single adapter without",
        source="table",
    ),
    _claim(
        "r10",
        "lower",
        "r6",
        text="persona adapters with M_l err less than the smaller single adapter without",
        source="table",
    ),
    _claim("r10", "lower", "r9", text="M_l helps persona adapters"),
    _claim("r7", "lower", "r5", text="M_l helps the larger single adapter"),
    _claim("r6", "lower", "r8", text="M_l harms the smaller single adapter"),
    _claim("r7", "lower", "r4", text="fine-tuning helps the small model"),
    _claim("r3", "lower", "r4", text="M_l harms the frozen small model"),
    _claim("r7", "lower", "r1", text="the fine-tuned small model beats the large one"),
    _claim(
        "r7",
        "lower",
        "r0",
        text="the fine-tuned small model beats the large one that is shown M_s alone",
        source="table",
    ),
    _claim("r1", "lower", "r4", text="the frozen large model beats the frozen small one"),
    _claim("r0", "lower", "r1", text="M_l harms the large model"),
    _claim("r2", "higher", "r0", text="the large model errs more with M_l alone than with M_s"),
    _claim("r2", "higher", "r1", text="the large model errs more with M_l alone than with both"),
)
"""What the paper says of its Table 1 (sections 4 and 5), personas against single first.

The paper concludes the first and its table shows the second, which speaks against it.
"""

THESIS = CLAIMS[0].name

OURS = (
    _claim(
        "r10",
        "lower",
        "random_ms_ml",
        text="with both memories, personas err less than random groups of users",
        source="ours",
    ),
    _claim(
        "r9",
        "lower",
        "random_ms",
        text="with M_s alone, personas err less than random groups of users",
        source="ours",
    ),
)
"""What must hold for personas to be more than a division of the users; the paper does not ask."""

LARGE = ("r0", "r1", "r2")
SMALL = tuple(f"r{n}" for n in range(3, 11))
TRAINED = (*SMALL[2:], "random_ms_ml", "random_ms")


@dataclass(frozen=True, eq=False)
class TableRow:
    """A row of a table.

    Attributes:
        runs: The predictions of its runs, one per seed, as `contrast` takes them.
        stands_in: Whether another model plays the paper's.
        sizes: For each run, persona -> rows that its adapter was trained on; those of one adapter.
    """

    runs: tuple[pd.DataFrame, ...]
    stands_in: bool = False
    sizes: tuple[Mapping[int, int], ...] = ()


@dataclass(frozen=True)
class Judged:
    """A claim and what a table says of it.

    Attributes:
        name: The claim's.
        text: The claim's.
        prediction: What was scored; a claim about unrelated responses is about `decoded`.
        judgement: `supported` or `contradicted` only beyond noise, after Holm's correction over
            all contrasts that the table allows, and on both readings of decision 13, and only where
            trained rows have several seeds.
        why: Why it is not testable, or what keeps it undecided beside noise; else empty.
        source: Where the claim stands.
        contrast: What it rests on, None where it is not testable or about unrelated responses.
        shares: Row -> share of unrelated responses, for claims about these.
        trend: What a claim about the size of personas rests on, see `size_trend`; its p is not
            corrected.
        seeds: Of the row with the fewest; None where no rows are compared.
    """

    name: str
    text: str
    prediction: Prediction
    judgement: Judgement
    why: str = ""
    source: Source = "text"
    contrast: Contrast | None = None
    shares: Mapping[str, Interval] | None = None
    trend: Difference | None = None
    seeds: int | None = None


def judge(table: Mapping[str, TableRow], prediction: Prediction) -> tuple[Judged, ...]:
    """Judge every claim by one table's rows.

    Args:
        table: Rows by name, `r0` to `r10` and `random_ms`, `random_ms_ml`; all of one setting,
            in which nothing differs but what Table 1 says. Rows may be missing.
        prediction: What to score.
    """
    claims = (*CLAIMS, *OURS)
    why = {claim.rows: _untestable(claim.rows, table) for claim in claims}
    trained = varies((table[row].runs for row in TRAINED if row in table), prediction)
    found = {
        " ".join(rows): contrast(
            *(table[row].runs for row in rows),
            prediction=prediction,
            between=[trained if row in TRAINED else None for row in rows],
        )
        for rows, reason in why.items()
        if not reason
    }
    # Two claims on the same rows are one test.
    adjusted = adjust({name: each for name, each in found.items() if each is not None})
    judged = []
    for claim in claims:
        rests_on = adjusted.get(" ".join(claim.rows))
        judgement: Judgement = "not testable"
        reason = why[claim.rows] or "the rows have no test row in common that all answered"
        seeds = None
        if rests_on is not None:
            judgement, reason = _judgement(claim, rests_on)
            seeds = min(rests_on.n_seeds)
        judged.append(
            Judged(
                claim.name,
                claim.text,
                prediction,
                judgement,
                reason,
                claim.source,
                rests_on,
                seeds=seeds,
            )
        )
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


def _judgement(claim: Claim, found: Contrast) -> tuple[Judgement, str]:
    verdict = found.verdict()
    if verdict == "undecided":
        return "undecided", "" if found.check_agrees() else ON_ALL
    once = [
        row
        for row, n_seeds in zip(claim.rows, found.n_seeds, strict=True)
        if row in TRAINED and n_seeds < 2
    ]
    if once:
        return "undecided", f"{', '.join(once)} with one seed: another training may differ as much"
    return ("supported" if verdict == claim.says else "contradicted"), ""


def _falls_with_size(table: Mapping[str, TableRow], prediction: Prediction) -> Judged:
    name, text = "r10 falls with size", "the error falls with a persona's training rows"
    why = _untestable(("r10",), table)
    trends = [] if why else _size_trends(table["r10"], prediction)
    if not trends:
        reason = why or "its personas are of one size, or its runs of other test rows"
        return Judged(name, text, prediction, "not testable", reason)
    judgement: Judgement = "undecided"
    reason = ""
    if all((trend.p or 0) <= 1 - LEVEL for trend in trends):
        sides = {trend.side for trend in trends}
        judgement = "supported" if sides == {-1} else "contradicted" if sides == {1} else judgement
    elif min(map(len, table["r10"].sizes)) <= FEW_PERSONAS:
        reason = f"no order of {FEW_PERSONAS} sizes or fewer is rare enough"
    seeds = len(table["r10"].runs)
    return Judged(name, text, prediction, judgement, reason, trend=trends[0], seeds=seeds)


def _size_trends(row: TableRow, prediction: Prediction) -> list[Difference]:
    """On the rows that all seeds answered and, where these are fewer, on all (decision 13).

    Users whose persona has no adapter of its own are left out.
    """
    if len({rows_key(run) for run in row.runs}) > 1 or len(row.sizes) != len(row.runs):
        return []
    runs = [run.sort_values(["user_id", "item_id"]) for run in row.runs]
    users, ratings, means = (
        runs[0][name].to_numpy() for name in ("user_id", "rating", "user_mean")
    )
    personas = np.stack([run["persona"].to_numpy() for run in runs])
    scored = predicted(runs, prediction)
    known = [np.isin(each, [*sizes]) for each, sizes in zip(personas, row.sizes, strict=True)]
    trained = np.asarray(np.stack(known).all(axis=0))
    answered = np.asarray(~np.isnan(scored).any(axis=0))
    given = [(answered & trained, scored)] if (answered & trained).any() else []
    if trained.any() and not answered[trained].all():
        given.append((trained, np.where(np.isnan(scored), means, scored)))
    trends = [
        size_trend(users[rows], ratings[rows], each[:, rows], personas[:, rows], row.sizes)
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
    never = any(
        share.value == 0 and highest_share(table[row].runs[0]["user_id"].nunique()) < LEAST_URR
        for row, share in shares.items()
    )
    return _with(judged, "contradicted" if never else "undecided", shares)


def highest_share(n_users: int) -> float:
    """What a share of rows is below, 95% sure, where none of so many users had such a row.

    A user's rows are no independent trials, so users are counted: 1 - 0.05 ** (1 / n).
    """
    return 1 - 0.05 ** (1 / n_users)


def _unrelated(
    name: str, text: str, rows: tuple[str, ...], table: Mapping[str, TableRow]
) -> tuple[Judged, dict[str, Interval]]:
    why = _untestable(rows, table)
    played = [row for row in rows if row in SMALL and row in table and table[row].stands_in]
    if not why and played:
        why = f"a stand-in plays Phi-3 in {', '.join(played)}"
    judged = Judged(name, text, "decoded", "not testable", why)
    if why:
        return judged, {}
    return judged, {row: _share(table[row]) for row in rows}


def _share(row: TableRow) -> Interval:
    runs = [run.sort_values(["user_id", "item_id"]) for run in row.runs]
    return share_interval(runs[0]["user_id"], np.isnan(predicted(runs, "decoded")))


def _with(judged: Judged, judgement: Judgement, shares: Mapping[str, Interval]) -> Judged:
    return replace(judged, judgement=judgement, shares=shares)

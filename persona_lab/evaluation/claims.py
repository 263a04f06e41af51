"""Rows of a table -> which claims of the paper they support, contradict or leave open. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import pandas as pd

from persona_lab.evaluation.contrast import (
    Contrast,
    Prediction,
    Verdict,
    adjust,
    contrast,
    varies,
)
from persona_lab.evaluation.metrics import intervals
from persona_lab.evaluation.uncertainty import Interval

Source = Literal["text", "table", "ours"]

LEAST_URR = 0.0115
"""The lowest share of unrelated responses among the paper's rows of the small model."""

ON_ALL = "not so on all rows, with the user's mean where a response has no rating"

LARGE = ("r0", "r1", "r2")
SMALL = tuple(f"r{n}" for n in range(3, 11))
TRAINED = (*SMALL[2:], "random_ms_ml", "random_ms")


@dataclass(frozen=True)
class Claim:
    """One statement about rows of Table 1.

    Attributes:
        name: Short, unique. Of a comparison "r10 < r7, r8": the first row errs less (<) or more
            (>) than the other, or than the mean error of several others.
        source: Where it stands: in the paper's `text`, in its `table` alone, or it is `ours`.
    """

    name: str
    text: str
    source: Source = "text"

    @property
    def rows(self) -> tuple[str, ...]:
        """All rows that must be there to judge a comparison, the one that it is about first."""
        first, _, *others = self.name.replace(",", "").split()
        return (first, *others)

    @property
    def says(self) -> Verdict:
        """How the first row of a comparison is said to differ from the others."""
        return Verdict.LOWER if "<" in self.name else Verdict.HIGHER


CLAIMS = (
    Claim("r10 < r7", "the thesis: an adapter per persona errs less than one for all"),
    Claim("r10 > r7", "persona adapters err more than the larger single adapter", "table"),
    Claim("r9 < r5", "with M_s alone, persona adapters err less than the larger single adapter"),
    Claim("r9 > r6", "with M_s alone, persona adapters err more than the smaller single adapter"),
    Claim("r10 < r7, r8", "persona adapters err less than the mean of both single adapters"),
    Claim(
        "r10 < r5",
        "persona adapters with M_l err less than the larger single adapter without",
        "table",
    ),
    Claim(
        "r10 < r6",
        "persona adapters with M_l err less than the smaller single adapter without",
        "table",
    ),
    Claim("r10 < r9", "M_l helps persona adapters"),
    Claim("r7 < r5", "M_l helps the larger single adapter"),
    Claim("r6 < r8", "M_l harms the smaller single adapter"),
    Claim("r7 < r4", "fine-tuning helps the small model"),
    Claim("r3 < r4", "M_l harms the frozen small model"),
    Claim("r7 < r1", "the fine-tuned small model beats the large one"),
    Claim(
        "r7 < r0", "the fine-tuned small model beats the large one that is shown M_s alone", "table"
    ),
    Claim("r1 < r4", "the frozen large model beats the frozen small one"),
    Claim("r0 < r1", "M_l harms the large model"),
    Claim("r2 > r0", "the large model errs more with M_l alone than with M_s"),
    Claim("r2 > r1", "the large model errs more with M_l alone than with both"),
)
"""What the paper says of its Table 1 (sections 4 and 5), personas against single first.
The paper concludes the first and its table shows the second, which speaks against it."""

THESIS = CLAIMS[0].name

OURS = (
    Claim(
        "r10 < random_ms_ml",
        "with both memories, personas err less than random groups of users",
        "ours",
    ),
    Claim(
        "r9 < random_ms", "with M_s alone, personas err less than random groups of users", "ours"
    ),
)
"""What must hold for personas to be more than a division of the users; the paper does not ask."""

BY_SIZE = Claim("r10 falls with size", "the error falls with a persona's training rows")
CONFOUNDED = "personas differ in more than their training rows, and no order of four sizes is rare"
NEVER_UNRELATED = Claim("URR of r0, r1, r2 = 0", "the large model always rates")
AT_TIMES_UNRELATED = Claim(
    "URR of r3 to r10 > 0", "the small model gives unrelated responses, fine-tuned or not"
)


@dataclass(frozen=True, eq=False)
class TableRow:
    """A row of a table: predictions of its runs, one per seed, as `contrast` takes them.

    It `stands_in` where another model plays the paper's.
    """

    runs: tuple[pd.DataFrame, ...]
    stands_in: bool = False


@dataclass(frozen=True)
class Judged(Claim):
    """A claim and what a table says of it.

    Attributes:
        prediction: What was scored; a claim about unrelated responses is about `decoded`.
        judgement: `supported` or `contradicted` only beyond noise, after Holm's correction over
            all contrasts that the table allows, and on both readings of decision 13, and only where
            trained rows have several seeds; else `undecided` or `not testable`.
        why: Why it is not testable, or what keeps it undecided beside noise; else empty.
        contrast: What it rests on, None where it is not testable or about unrelated responses.
        shares: Row -> share of unrelated responses, for claims about these.
    """

    prediction: Prediction = "decoded"
    judgement: Verdict = Verdict.NOT_TESTABLE
    why: str = ""
    contrast: Contrast | None = None
    shares: Mapping[str, Interval] | None = None

    @property
    def seeds(self) -> int | None:
        """Seeds of the row with the fewest; None where no rows are compared."""
        return min(self.contrast.n_seeds) if self.contrast else None


def judge(table: Mapping[str, TableRow], prediction: Prediction) -> tuple[Judged, ...]:
    """Judge every claim by one table's rows.

    Args:
        table: Rows by name, `r0` to `r10` and `random_ms`, `random_ms_ml`; all of one setting,
            in which nothing differs but what Table 1 says. Rows may be missing.
        prediction: What to score.
    """
    claims = (*CLAIMS, *OURS)
    trained = varies((table[row].runs for row in TRAINED if row in table), prediction)
    # Claims on ways to train and prompt can be asked of any model, those on a model cannot.
    reasons = {claim.rows: _untestable(claim.rows, table, LARGE) for claim in claims}
    # Two claims on the same rows are one test.
    contrasts = {
        rows: contrast(
            *(table[row].runs for row in rows),
            prediction=prediction,
            between=[trained if row in TRAINED else None for row in rows],
        )
        for rows, reason in reasons.items()
        if not reason
    }
    adjusted = adjust({rows: difference for rows, difference in contrasts.items() if difference})
    judged, of_errors = [], partial(Judged, prediction=prediction)
    for claim in claims:
        difference = adjusted.get(claim.rows)
        judgement, why = _by_errors(claim, reasons[claim.rows], difference)
        judged.append(of_errors(**vars(claim), judgement=judgement, why=why, contrast=difference))
    judged.append(of_errors(**vars(BY_SIZE), why=CONFOUNDED))
    if prediction == "decoded":
        judged += [_by_responses(NEVER_UNRELATED, table), _by_responses(AT_TIMES_UNRELATED, table)]
    return tuple(judged)


def _untestable(rows: Sequence[str], table: Mapping[str, TableRow], *models: Sequence[str]) -> str:
    if missing := [row for row in rows if row not in table]:
        return f"{', '.join(missing)} not in the table"
    for model in models:
        if names := ", ".join(row for row in rows if row in model and table[row].stands_in):
            return f"a stand-in plays {'LLaMA-3' if model is LARGE else 'Phi-3'} in {names}"
    return ""


def _by_errors(claim: Claim, why: str, difference: Contrast | None) -> tuple[Verdict, str]:
    """The judgement and why; `why` is what leaves no difference to judge by."""
    if difference is None:
        why = why or "the rows have no test row in common that all answered"
        return Verdict.NOT_TESTABLE, why
    said = difference.verdict()
    if said not in (Verdict.LOWER, Verdict.HIGHER):
        sides = [reading.side for reading in difference.readings()]
        return Verdict.UNDECIDED, ON_ALL if sides[0] and sides[-1] != sides[0] else ""
    seeds = zip(claim.rows, difference.n_seeds, strict=True)
    if once := [row for row, n_seeds in seeds if row in TRAINED and n_seeds < 2]:
        why = f"{', '.join(once)} with one seed: another training may differ as much"
        return Verdict.UNDECIDED, why
    return Verdict.SUPPORTED if said == claim.says else Verdict.CONTRADICTED, ""


def _by_responses(claim: Claim, table: Mapping[str, TableRow]) -> Judged:
    rows = LARGE if claim is NEVER_UNRELATED else SMALL
    if why := _untestable(rows, table, LARGE, SMALL):
        return Judged(**vars(claim), why=why)
    shares = {row: Interval(**intervals(table[row].runs, "paper")["urr"]) for row in rows}
    lows = [bool(share.low) for share in shares.values()]
    nones = [row for row, share in shares.items() if share.value == 0]
    if claim is NEVER_UNRELATED:
        supported, contradicted = len(nones) == len(rows), any(lows)
    else:
        # A user's rows are no independent trials, so users are counted: where none of them had such
        # a response, the share is below this, 95% sure.
        below = [1 - 0.05 ** (1 / table[row].runs[0]["user_id"].nunique()) for row in nones]
        supported, contradicted = all(lows), any(share < LEAST_URR for share in below)
    judgement = Verdict.CONTRADICTED if contradicted else Verdict.UNDECIDED
    if supported:
        judgement = Verdict.SUPPORTED
    return Judged(**vars(claim), judgement=judgement, shares=shares)

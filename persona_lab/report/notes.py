"""Report -> what it shows in sentences, and what it cannot show. Pure."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from persona_lab.evaluation.claims import THESIS
from persona_lab.report import paper
from persona_lab.report.compare import (
    MAX_URR,
    Group,
    against_single,
    answers,
    claims,
    compared,
    detectable,
    findings,
    groups,
    verdict,
)
from persona_lab.report.runs import Report, Run
from persona_lab.report.tables import (
    changed_alike,
    difference,
    model,
    number,
    percent,
    plain,
    settings,
    too_small,
    where,
    with_interval,
)

QUESTION = "Do persona adapters make a small language model rate as its users do?"
READING = (
    "Brackets are 95% intervals over users (users drawn again 2,000 times). Where an adapter's row "
    "has several seeds, those of RMSE and MAE count the variance between seeds, pooled over all "
    "rows of its model, as if training varied alike in all of them; else they do not cover another "
    "seed. Rows without a rating in the response are left out of RMSE and MAE and counted in URR; "
    "n counts what is left. RMSE expected scores the mean of the model's probabilities of 1 to 5, "
    "scaled to add up to 1; digit mass is their sum before.",
    "A difference is called lower or higher where its interval excludes 0 and a test over users "
    "finds it at 5%, both on the rows that both answered and on all rows with the user's mean "
    "training rating for the others. The test's p, not the interval, is corrected (Holm) for the "
    "differences of the same table; those from simple predictors are one family in all tables of "
    "the same test rows. Where the intervals alone exclude 0 it is undecided, else within noise. "
    "The paper's claims are judged alike, but are another family, and ask for two seeds of what "
    "was trained: a difference may be lower among one and undecided among the other. Detectable is "
    "the smallest true difference that a test at 5%, not corrected, would show with 80% power on "
    "users like these.",
)
"""How to read the numbers of any report."""

FEW_USERS = 30
LITTLE_MASS = 0.5
_MOVIELENS = re.compile(r"ml[_-]|movielens", re.IGNORECASE)


def headlines(report: Report) -> tuple[str, ...]:
    """Return what the table shows, in sentences: persona against single first."""
    said = (sentence for group in groups(report) for sentence in _headlines(group))
    return tuple(plain(sentence) for sentence in said)


def _headlines(group: Group) -> Iterator[str]:
    n = sum(bool(each and each.decoded) for each in compared(group).values())
    corrected = f" (Holm's correction for {n} differences)" if n > 1 else ""
    for (line, other), found in against_single(group).items():
        if found:
            yield (
                f"RMSE of {line.label} minus that of {other.label}{where(group)}: "
                f"{difference(found.decoded)}, {verdict(found.decoded)}{corrected}."
            )
    best = group.best
    if best is not None:
        which = "Lowest RMSE" if len(group.lines) > 1 else "RMSE"
        rmse = with_interval(best.intervals["rmse"])
        yield f"{which}{where(group)}: {rmse}, {best.label} on {model(best.first)}."
        yield from findings(group)
    for each in claims(group):
        if each.name == THESIS and each.judgement != "not testable":
            why = f" ({each.why})" if each.why else ""
            yield f"The paper's thesis, {THESIS}{where(group)}: {each.judgement}{why}."
    judged = Counter(each.judgement for each in claims(group))
    if judged.total() > judged["not testable"]:
        counts = ", ".join(f"{n} {judgement}" for judgement, n in judged.most_common())
        yield (
            f"Of {judged.total()} claims about Table 1{where(group)}, for and against the thesis: "
            f"{counts}."
        )
    silent = [line for line in group.lines if not answers(line)]
    if silent:
        named = "; ".join(f"{line.label}: {percent(line.metrics['urr'])}" for line in silent)
        yield (
            f"Not ranked{where(group)}, as more than {MAX_URR:.0%} of the responses hold no "
            f"rating: {named}."
        )


def notes(report: Report) -> tuple[str, ...]:
    """Return how to read the numbers: conditions, and what they cannot show."""
    return tuple(plain(note) for note in _notes(report))


def _notes(report: Report) -> Iterator[str]:
    runs = report.runs
    if not runs:
        return
    yield (
        f"Setup: {_all(run.result.row.setup for run in runs)}. "
        f"Protocol: {_all(run.result.row.protocol for run in runs)}. "
        f"Users: {_all(_users(run) for run in runs)}, of "
        f"{_all(run.result.row.data for run in runs)}. "
        f"Decode: {_all(run.result.row.decode for run in runs)}."
    )
    if changed := settings(changed_alike(runs)):
        where = " in every run" if len(runs) > 1 else ""
        yield f"Changed from the defaults of the setup{where}: {changed}."
    little = [run.label for run in runs if run.result.metrics.get("digit_mass", 1.0) < LITTLE_MASS]
    if little:
        yield (
            f"The model puts less than half of its probability on the digits, so that expected "
            f"ratings say little: {'; '.join(little)}."
        )
    users = max(sum(p["n_users"] for p in run.result.per_persona) for run in runs)
    if 0 < users < FEW_USERS:
        yield f"Only {users} users were tested: the intervals are rough."
    if any(len(group.lines) > 1 for group in groups(report)):
        yield (
            "The row with the lowest RMSE is chosen on the same test ratings, so its numbers are "
            "flattered."
        )
    for group in groups(report):
        rows = f"test rows {group.name}" if group.name else "these test rows"
        if said := too_small(detectable(group), rows):
            yield said
        yield from _seeds(group)
    yield from _stand_ins(runs)
    if len(groups(report)) > 1:
        yield (
            f"The runs were tested on {len(groups(report))} sets of rows, named by letter: compare "
            "runs only within one, each with its own baselines."
        )
    yield from _cautions(runs)


def _seeds(group: Group) -> Iterator[str]:
    """Say how much training varies with its seed, which intervals count."""
    found = {line.first.result.row.model: line.between for line in group.lines if line.between}
    for name, between in found.items():
        if decoded := between.get("decoded"):
            yield (
                f"With another seed alone the RMSE of an adapter of {name}{where(group)} varies by "
                f"a standard deviation of {number(math.sqrt(decoded.rmse))}, estimated with "
                f"{decoded.freedom} degree{'s' * (decoded.freedom > 1)} of freedom."
            )


def _stand_ins(runs: Sequence[Run]) -> Iterator[str]:
    if any(run.stands_in for run in runs):
        yield "Stand-ins draw no conclusion about LLaMA-3 or Phi-3."
    for papers, field, doing in (
        (paper.DISTILLER, "distiller", "memories"),
        (paper.EMBEDDER, "embedder", "vectors"),
    ):
        used = [getattr(run.result.row, field) for run in runs]
        others = [name for name in used if name != papers[0]]
        if others:
            yield f"The {doing} are by {_all(others)}, a stand-in for the paper's {papers[1]}."
    if any(run.papers for run in runs):
        yield "The paper's numbers come from other test rows, which are not known."


def _cautions(runs: Sequence[Run]) -> Iterator[str]:
    for said, field, by_protocol in _LEAKS:
        showing = [run.label for run in runs if _effective(run, field, by_protocol) == "all"]
        if showing:
            yield f"Test ratings were seen: {said} ({'; '.join(showing)})."
    yield from _audits(runs)
    cut = [f"{run.label}: {run.result.truncated:,}" for run in runs if run.result.truncated]
    if cut:
        yield f"Test prompts cut to fit the model's context: {'; '.join(cut)}."
    if any(run.result.development for run in runs):
        yield (
            "Rows of development users, or held back from training, are for choosing settings: "
            "their numbers are not results, and no claim of the paper is judged on them."
        )
    if any(_MOVIELENS.match(run.result.row.data) for run in runs):
        yield (
            "MovieLens is public: models may know its ratings, or what is thought of its movies, "
            "from their pretraining; no audit of prompts can show that."
        )


def _users(run: Run) -> str:
    held_back = run.result.development and run.result.cohort != "dev"
    return run.result.cohort + " (rows held back from training)" * held_back


def _audits(runs: Sequence[Run]) -> Iterator[str]:
    """Say what the audits found: runs of one finding together."""
    found: dict[str, list[str]] = {}
    for run in runs:
        found.setdefault(_audited(run.result.audit), []).append(run.label)
    for said, labels in found.items():
        where = f" ({'; '.join(labels)})" if len(found) > 1 else ""
        yield f"Audit, for test ratings in what prompts are made of{where}: {said}."


def _audited(findings: Sequence[dict[str, Any]]) -> str:
    """What one audit found, and what it could not check."""
    if not findings:
        return "not made"
    leaks = [f"{each['place']} {each['what']} ({each['found']:,} of {each['checked']:,})"
             for each in findings if each["found"]]  # fmt: skip
    unchecked = [each for each in findings if each.get("note")]
    if not unchecked:
        return "; ".join(leaks) or "nothing"
    places = ", ".join(f"{each['place']} {each['what']}" for each in unchecked)
    why = "; ".join(dict.fromkeys(each["note"] for each in unchecked))
    return f"{'; '.join(leaks) or 'nothing in what was checked'}. Not checked: {places} ({why})"


# What may be given test ratings, the field that says so, and its value under protocol=paper.
_LEAKS = (
    ("the item mean in the prompt is over all ratings", "protocol.item_mean", "all"),
    ("traits are measured on all ratings", "protocol.traits", "all"),
    ("profiles and memories are distilled from all ratings", "distiller.scope", "training"),
)


def _effective(run: Run, field: str, by_protocol: str) -> Any:
    """A field's value in a run: as set by itself, else as its protocol has it."""
    row = run.result.row
    return row.changed.get(field, by_protocol if row.protocol == "paper" else None)


def _all(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values))

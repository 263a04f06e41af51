"""Report -> what it shows in sentences, and what it cannot show. Pure."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from persona_lab.evaluation import Judged, Verdict
from persona_lab.evaluation.claims import THESIS
from persona_lab.report import compare, paper
from persona_lab.report.cells import TEXTS, number, percent, plain, with_interval
from persona_lab.report.compare import MAX_URR, Group, against_single, claims, groups, verdict
from persona_lab.report.runs import Report, Run, changed_alike
from persona_lab.report.tables import PROMPTS_MEAN, difference, settings, too_small, where

QUESTION = "Do persona adapters make a small language model rate as its users do?"
FEW_USERS = 30
LITTLE_MASS = 0.5
PAPERS_MODELS = {"llm": "LLaMA-3", "slm": "Phi-3"}
LEADS = {
    Verdict.SUPPORTED: "Yes",
    Verdict.CONTRADICTED: "No",
    Verdict.LOWER: "Here, yes",
    Verdict.HIGHER: "Here, no",
}
MOVIELENS = re.compile(r"ml[_-]|movielens", re.IGNORECASE)
# What may be given test ratings, the field that says so, and its value under protocol=paper.
LEAKS = (
    ("the item mean in the prompt is over all ratings", "protocol.item_mean", "all"),
    ("traits are measured on all ratings", "protocol.traits", "all"),
    ("profiles and memories are distilled from all ratings", "distiller.scope", "training"),
)
# Of which choice, what it makes, and what the paper took: its name and how that is called.
MADE_BY = (
    ("distiller", "memories", paper.DISTILLER),
    ("embedder", "vectors", paper.EMBEDDER),
)


def answer(report: Report) -> tuple[str, ...]:
    """Return the question's answer, what it rests on, and what was tested."""
    if not report.runs:
        return ()
    group = max(groups(report), key=lambda group: (len(against_single(group)), len(group.lines)))
    lead, rows = _on_personas(group)
    basis = " ".join(filter(None, [rows, _on_the_best(group)]))
    run = group.runs[0]
    n_users = sum(scores["n_users"] for scores in run.result.per_persona)
    users = f" of {n_users:,} users" if n_users else ""
    tested = f"Tested on {run.result.n_test:,} ratings{users} of {run.result.row.data}."
    stand_ins = {run.result.row.role: run.result.row.model for run in group.runs if run.stands_in}
    if stand_ins:
        pairs = (f"{name} for {PAPERS_MODELS.get(role, role)}" for role, name in stand_ins.items())
        tested += f" Stand-ins for the paper's models: {', '.join(pairs)}."
    return tuple(map(plain, (lead, basis, tested)))


def _on_personas(group: Group) -> tuple[str, str]:
    """The answer, and the rows that it compares."""
    pairs = against_single(group)
    if not pairs:
        missing = "that takes a row with persona adapters and one with a single adapter"
        return f"Not tested: {missing}, alike in all else.", ""
    # The thesis is about the rows with both memories.
    thesis = _thesis(group)
    pair = next((pair for pair in pairs if thesis and pair[0].first.result.row.id == "r10"), None)
    line, other = pair or next(iter(pairs))
    rows = f"Compared are {line.label} and {other.label}{where(group)}."
    contrast = pairs[line, other].decoded
    if contrast is None:
        return "Not answered: the rows gave no ratings that can be compared.", rows
    lead = LEADS.get(thesis.judgement if thesis else verdict(contrast), "Not decided")
    change = f"{difference(contrast)} against a single adapter, {verdict(contrast)}"
    return f"{lead}: persona adapters change the RMSE by {change}.", rows


def _thesis(group: Group) -> Judged | None:
    thesis = next((claim for claim in claims(group) if claim.name == THESIS), None)
    return thesis if thesis and thesis.judgement != Verdict.NOT_TESTABLE else None


def _on_the_best(group: Group) -> str:
    best, prompts_mean = group.best, group.baselines.get(PROMPTS_MEAN)
    if best is None:
        return f"No row gave a rating for {1 - MAX_URR:.0%} of the test rows{where(group)}."
    which = "The best row" if len(group.lines) > 1 else "The row"
    said = f"{which}{where(group)}, {best.label}, has RMSE {with_interval(best.intervals['rmse'])}"
    both = compare.against_predictors(group).get((best, PROMPTS_MEAN))
    if prompts_mean and both and both.decoded:
        minus = f"{difference(both.decoded)}, {verdict(both.decoded)}"
        alone = number(prompts_mean["rmse"])
        said += f"; the item mean in its prompt alone has {alone} (a difference of {minus})"
    return f"{said}."


def findings(report: Report) -> tuple[str, ...]:
    """Return what else the tables show, in sentences."""
    return tuple(plain(said) for group in groups(report) for said in _findings(group))


def _findings(group: Group) -> Iterator[str]:
    said, place = TEXTS["findings"], where(group)
    n = sum(bool(both.decoded) for both in compare.compared(group).values())
    corrected = f" (Holm's correction for {n} differences)" if n > 1 else ""
    for (line, other), both in against_single(group).items():
        if both.decoded:
            yield said["difference"].format(
                line=line.label, other=other.label, where=place, corrected=corrected,
                difference=difference(both.decoded), verdict=verdict(both.decoded),
            )  # fmt: skip
    best = group.best
    # An average that another row's prompt shows is no predictor of this one's.
    verdicts = Counter(
        verdict(both.decoded)
        for (line, (version, name)), both in compare.against_predictors(group).items()
        if line is best and name in line.first.result.baselines.get(version, ())
    )
    if best and verdicts:
        counts = ", ".join(f"{word} for {n}" for word, n in verdicts.most_common())
        n = verdicts.total()
        yield said["predictors"].format(line=best.label, n=n, where=place, counts=counts)
    if thesis := _thesis(group):
        why, judgement = f" ({thesis.why})" if thesis.why else "", thesis.judgement
        yield said["thesis"].format(thesis=THESIS, where=place, judgement=judgement, why=why)
    judged = Counter(claim.judgement for claim in claims(group))
    if judged.total() > judged[Verdict.NOT_TESTABLE]:
        counts = ", ".join(f"{n} {judgement}" for judgement, n in judged.most_common())
        yield said["claims"].format(n=judged.total(), where=place, counts=counts)
    silent = [line for line in group.lines if not compare.answers(line)]
    if silent:
        shares = "; ".join(f"{line.label}: {percent(line.metrics['urr'])}" for line in silent)
        yield said["silent"].format(where=place, share=f"{MAX_URR:.0%}", lines=shares)


def limits(report: Report) -> tuple[str, ...]:
    """Return under which conditions the numbers stand, and what they cannot show."""
    if not report.runs:
        return ()
    return tuple(map(plain, (*_conditions(report), *_seen(report.runs))))


def _conditions(report: Report) -> Iterator[str]:
    said, runs, sets = TEXTS["limits"], report.runs, groups(report)
    rows = [run.result.row for run in runs]
    choices = {
        name: _all(getattr(row, name) for row in rows)
        for name in ("setup", "protocol", "data", "decode")
    }
    yield said["conditions"].format(users=_all(map(_users, runs)), **choices)
    if changed := settings(changed_alike(runs)):
        yield said["changed"].format(every=" in every run" * (len(runs) > 1), changed=changed)
    if little := [run for run in runs if run.result.metrics["digit_mass"] < LITTLE_MASS]:
        yield said["little_mass"].format(runs=_of(little, runs))
    users = max(sum(scores["n_users"] for scores in run.result.per_persona) for run in runs)
    if 0 < users < FEW_USERS:
        yield said["few_users"].format(n=users)
    if any(len(group.lines) > 1 for group in sets):
        yield said["chosen"]
    for group in sets:
        place = f"test rows {group.name}" if group.name else "these test rows"
        yield from filter(None, [too_small(compare.detectable(group), place)])
        between = {line.first.result.row.model: line.between for line in group.lines}
        for model, variances in between.items():
            if variance := variances.get("decoded"):
                yield said["seeds"].format(
                    model=model, where=where(group), deviation=number(math.sqrt(variance.rmse)),
                    freedom=variance.freedom, s="s" * (variance.freedom > 1),
                )  # fmt: skip
    if len(sets) > 1:
        yield said["sets"].format(n=len(sets))
    if any(run.stands_in for run in runs):
        yield said["stand_ins"]
    for field, made, (papers, name) in MADE_BY:
        if others := [by for row in rows if (by := getattr(row, field)) != papers]:
            yield said["made_by"].format(made=made, others=_all(others), papers=name)
    if any(run.papers for run in runs):
        yield said["papers"]


def _seen(runs: Sequence[Run]) -> Iterator[str]:
    """Say what models may have seen of the test ratings, and what they did not see of prompts."""
    said, rows = TEXTS["limits"], [run.result.row for run in runs]
    for what, field, by_protocol in LEAKS:
        defaults = {"paper": by_protocol}
        showing = [
            run
            for run, row in zip(runs, rows, strict=True)
            if row.changed.get(field, defaults.get(row.protocol)) == "all"
        ]
        if showing:
            yield said["leak"].format(what=what, runs=_of(showing, runs))
    audits: dict[str, list[str]] = {}
    for run in runs:
        audits.setdefault(_audited(run.result.audit), []).append(run.label)
    for found, labels in audits.items():
        of = f" ({'; '.join(labels)})" if len(audits) > 1 else ""
        yield said["audit"].format(of=of, found=found)
    cut = [f"{run.label}: {run.result.truncated:,}" for run in runs if run.result.truncated]
    if cut:
        yield said["cut"].format(runs="; ".join(cut))
    if any(run.result.development for run in runs):
        yield said["development"]
    if any(MOVIELENS.match(row.data) for row in rows):
        yield said["public"]


def _users(run: Run) -> str:
    held_back = run.result.development and run.result.cohort != "dev"
    return run.result.cohort + " (rows held back from training)" * held_back


def _audited(audit: Sequence[dict[str, Any]]) -> str:
    """What one audit found, and what it could not check."""
    if not audit:
        return "not made"
    places = [f"{finding['place']} {finding['what']}" for finding in audit]
    leaks = "; ".join(
        f"{place} ({finding['found']:,} of {finding['checked']:,})"
        for place, finding in zip(places, audit, strict=True)
        if finding["found"]
    )
    reasons = {p: f["note"] for p, f in zip(places, audit, strict=True) if f.get("note")}
    if not reasons:
        return leaks or "nothing"
    why = "; ".join(dict.fromkeys(reasons.values()))
    return f"{leaks or 'nothing in what was checked'}. Not checked: {', '.join(reasons)} ({why})"


def _all(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values))


def _of(some: Sequence[Run], runs: Sequence[Run]) -> str:
    return "every run" if 1 < len(some) == len(runs) else "; ".join(run.label for run in some)


def reading(report: Report) -> tuple[str, ...]:
    """Return how to read the numbers of any report."""
    scales = [run.result.scale.labels for run in report.runs]
    values = _all(f"{labels[0]} to {labels[-1]}" for labels in scales)
    return tuple(said.format(values=values) for said in TEXTS["reading"]) if scales else ()

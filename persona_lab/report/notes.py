"""Report -> what it shows in sentences, and what it cannot show. Pure."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from persona_lab.evaluation import Judged, Verdict
from persona_lab.evaluation.claims import THESIS
from persona_lab.report import paper
from persona_lab.report.cells import number, percent, plain, with_interval
from persona_lab.report.compare import (
    MAX_URR,
    Group,
    against_predictors,
    against_single,
    answers,
    claims,
    compared,
    detectable,
    groups,
    verdict,
)
from persona_lab.report.runs import Report, Run
from persona_lab.report.tables import (
    PROMPTS_MEAN,
    changed_alike,
    difference,
    settings,
    too_small,
    where,
)

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
    contrast = (both := pairs[line, other]) and both.decoded
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
    both = against_predictors(group).get((best, PROMPTS_MEAN))
    if prompts_mean and both and both.decoded:
        minus = f"{difference(both.decoded)}, {verdict(both.decoded)}"
        alone = number(prompts_mean["rmse"])
        said += f"; the item mean in its prompt alone has {alone} (a difference of {minus})"
    return f"{said}."


def findings(report: Report) -> tuple[str, ...]:
    """Return what else the tables show, in sentences."""
    return tuple(plain(said) for group in groups(report) for said in _findings(group))


def _findings(group: Group) -> Iterator[str]:
    n = sum(bool(both and both.decoded) for both in compared(group).values())
    corrected = f" (Holm's correction for {n} differences)" if n > 1 else ""
    for (line, other), both in against_single(group).items():
        if both and both.decoded:
            yield (
                f"RMSE of {line.label} minus that of {other.label}{where(group)}: "
                f"{difference(both.decoded)}, {verdict(both.decoded)}{corrected}."
            )
    best = group.best
    # An average that another row's prompt shows is no predictor of this one's.
    verdicts = Counter(
        verdict(both and both.decoded)
        for (line, (version, name)), both in against_predictors(group).items()
        if line is best and name in line.first.result.baselines.get(version, ())
    )
    if best and verdicts:
        counts = ", ".join(f"{word} for {n}" for word, n in verdicts.most_common())
        yield (
            f"The RMSE of {best.label} minus that of {verdicts.total()} simple predictors"
            f"{where(group)}: {counts}."
        )
    if thesis := _thesis(group):
        why = f" ({thesis.why})" if thesis.why else ""
        yield f"The paper's thesis, {THESIS}{where(group)}: {thesis.judgement}{why}."
    judged = Counter(claim.judgement for claim in claims(group))
    if judged.total() > judged[Verdict.NOT_TESTABLE]:
        counts = ", ".join(f"{n} {judgement}" for judgement, n in judged.most_common())
        yield (
            f"Of {judged.total()} claims about Table 1{where(group)}, for and against the thesis: "
            f"{counts}."
        )
    silent = [line for line in group.lines if not answers(line)]
    if silent:
        shares = "; ".join(f"{line.label}: {percent(line.metrics['urr'])}" for line in silent)
        yield (
            f"Not ranked{where(group)}, as more than {MAX_URR:.0%} of the responses hold no "
            f"rating: {shares}."
        )


def limits(report: Report) -> tuple[str, ...]:
    """Return under which conditions the numbers stand, and what they cannot show."""
    return tuple(map(plain, _limits(report))) if report.runs else ()


def _limits(report: Report) -> Iterator[str]:
    runs = report.runs
    rows = [run.result.row for run in runs]
    users = (
        run.result.cohort
        + " (rows held back from training)"
        * (run.result.development and run.result.cohort != "dev")
        for run in runs
    )
    yield (
        f"Setup: {_all(row.setup for row in rows)}. Protocol: {_all(row.protocol for row in rows)}."
        f" Users: {_all(users)}, of {_all(row.data for row in rows)}. "
        f"Decode: {_all(row.decode for row in rows)}."
    )
    if changed := settings(changed_alike(runs)):
        every = " in every run" if len(runs) > 1 else ""
        yield f"Changed from the defaults of the setup{every}: {changed}."
    if little := [run.label for run in runs if run.result.metrics["digit_mass"] < LITTLE_MASS]:
        yield (
            "The model puts less than half of its probability on the digits, so that expected "
            f"ratings say little: {_of(little, runs)}."
        )
    yield from _few(report)
    if any(run.stands_in for run in runs):
        yield "Stand-ins draw no conclusion about LLaMA-3 or Phi-3."
    for field, made, (papers, name) in MADE_BY:
        if others := [by for row in rows if (by := getattr(row, field)) != papers]:
            yield f"The {made} are by {_all(others)}, a stand-in for the paper's {name}."
    if any(run.papers for run in runs):
        yield "The paper's numbers come from other test rows, which are not known."
    yield from _seen(runs)


def _few(report: Report) -> Iterator[str]:
    """Say what is hard to tell with so few users and seeds."""
    sets = groups(report)
    users = max(sum(p["n_users"] for p in run.result.per_persona) for run in report.runs)
    if 0 < users < FEW_USERS:
        yield f"Only {users} users were tested: the intervals are rough."
    if any(len(group.lines) > 1 for group in sets):
        yield (
            "The row with the lowest RMSE is chosen on the same test ratings, so its numbers are "
            "flattered."
        )
    for group in sets:
        rows = f"test rows {group.name}" if group.name else "these test rows"
        if said := too_small(detectable(group), rows):
            yield said
        between = {line.first.result.row.model: line.between for line in group.lines}
        for name, variances in between.items():
            if variance := variances.get("decoded"):
                yield (
                    f"With another seed alone the RMSE of an adapter of {name}{where(group)} varies"
                    f" by a standard deviation of {number(math.sqrt(variance.rmse))}, estimated "
                    f"with {variance.freedom} degree{'s' * (variance.freedom > 1)} of freedom."
                )
    if len(sets) > 1:
        yield (
            f"The runs were tested on {len(sets)} sets of rows, named by letter: compare runs only "
            "within one, each with its own baselines."
        )


def _seen(runs: Sequence[Run]) -> Iterator[str]:
    """Say what models may have seen of the test ratings, and what they did not see of prompts."""
    for said, field, by_protocol in LEAKS:
        showing = [
            run.label
            for run in runs
            for default in [by_protocol if run.result.row.protocol == "paper" else None]
            if run.result.row.changed.get(field, default) == "all"
        ]
        if showing:
            yield f"Test ratings were seen: {said} ({_of(showing, runs)})."
    audits: dict[str, list[str]] = {}
    for run in runs:
        audits.setdefault(_audited(run.result.audit), []).append(run.label)
    for said, labels in audits.items():
        of = f" ({'; '.join(labels)})" if len(audits) > 1 else ""
        yield f"Audit, for test ratings in what prompts are made of{of}: {said}."
    cut = [f"{run.label}: {run.result.truncated:,}" for run in runs if run.result.truncated]
    if cut:
        yield f"Test prompts cut to fit the model's context: {'; '.join(cut)}."
    if any(run.result.development for run in runs):
        yield (
            "Rows of development users, or held back from training, are for choosing settings: "
            "their numbers are not results, and no claim of the paper is judged on them."
        )
    if any(MOVIELENS.match(run.result.row.data) for run in runs):
        yield (
            "MovieLens is public: models may know its ratings, or what is thought of its movies, "
            "from their pretraining; no audit of prompts can show that."
        )


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


def _of(labels: Sequence[str], runs: Sequence[Run]) -> str:
    return "every run" if 1 < len(labels) == len(runs) else "; ".join(labels)


def reading(report: Report) -> tuple[str, ...]:
    """Return how to read the numbers of any report."""
    if not report.runs:
        return ()
    scales = [run.result.scale.labels for run in report.runs]
    return (
        "RMSE and MAE are in stars, lower is better. r0 to r10 are the rows of the paper's "
        "Table 1. M_s is a user's profile, M_l are the memories recalled for the movie.",
        "Brackets are 95% intervals over users, drawn again 2,000 times. Where a model's rows have "
        "several seeds, those of RMSE and MAE count the variance between seeds, pooled over its "
        "trained rows as if it were alike in all; else they do not cover another seed.",
        "URR is the share of responses without a rating. These are left out of RMSE and MAE; n "
        "counts what is left.",
        "RMSE expected scores the mean of the model's probabilities of "
        f"{_all(f'{labels[0]} to {labels[-1]}' for labels in scales)}, scaled to add up to 1. "
        "Digit mass is their sum before.",
        "Lower or higher: the interval excludes 0 and a test over users finds the difference at "
        "5%, on the rows that both answered and on all rows with the user's mean training rating "
        "for the others. Undecided: only the intervals exclude 0. Within noise: they do not.",
        "The test's p, not the interval, is corrected (Holm) for the differences of one table. "
        "Those from simple predictors are one family in all tables of the same test rows.",
        "The paper's claims are judged alike, as another family, and ask for two seeds of what was "
        "trained: a difference may be lower and its claim undecided.",
        "Detectable is the smallest true difference that a test at 5%, not corrected, would show "
        "with 80% power on users like these.",
    )

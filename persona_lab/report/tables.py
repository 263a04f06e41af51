"""Report -> Table 1 and the comparisons of its rows, as every output format shows them. Pure."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from persona_lab.evaluation import Contrast, Judged, Verdict, off_diagonal
from persona_lab.report import paper
from persona_lab.report.cells import NONE, Table, filled, number, percent, table, with_interval
from persona_lab.report.compare import (
    FITTED,
    Comparison,
    Group,
    Pair,
    against_best,
    against_predictors,
    baseline_label,
    claims,
    compared,
    groups,
    judged_setting,
    least,
    spoken,
    unvaried,
    verdict,
)
from persona_lab.report.lines import Line, alone, trained
from persona_lab.report.runs import MEMORIES, Report, Run

CHOICES = ("setup", "data", "distiller", "embedder", "personas", "protocol", "decode", "peft")
SOURCES = {"text": "the paper", "table": "its table alone", "ours": "no paper: ours"}
PROMPTS_MEAN = ("prompt", "prompt_mean")
"""The average that the prompt shows: what a row has to beat."""


def difference(contrast: Contrast | None, metric: str = "rmse") -> str:
    """Return a difference with its interval."""
    return with_interval(contrast and vars(contrast.differences[metric]), "+")


def where(group: Group) -> str:
    """Return what names a group's test rows behind a title, nothing where there is one group."""
    return f", test rows {group.name}" if group.name else ""


def model(run: Run) -> str:
    """Return a run's model, marked where it stands in for the paper's."""
    return f"{run.result.row.model} (stand-in)" if run.stands_in else run.result.row.model


def short_table(report: Report) -> Table:
    """Return Table 1 as the first screen shows it: a line per row, below it the prompt's mean."""
    rows: list[dict[str, str]] = []
    strong: list[int] = []
    for group in groups(report):
        rows += [
            {
                "row": line.label,
                "test rows": group.name,
                "model": line.first.result.row.model,
                "RMSE [95%]": with_interval(line.intervals.get("rmse")),
                "MAE": number(line.metrics["mae"]),
                "URR": percent(line.metrics["urr"]),
                "paper": number(line.first.papers and line.first.papers.rmse),
            }
            for line in group.lines
        ]
        if scores := group.baselines.get(PROMPTS_MEAN):
            strong.append(len(rows))
            name = {"row": "item mean in the prompt, alone", "test rows": group.name}
            rows.append(name | {"RMSE [95%]": number(scores["rmse"]), "MAE": number(scores["mae"])})
    return _but_alike(table("Table 1", rows, strong=strong), ("test rows", "model"))


def main_table(report: Report) -> Table:
    """Return Table 1 in full: a row per configuration, its seeds together."""
    position = {run.name: i for i, run in enumerate(report.runs)}
    lines = [line for group in groups(report) for line in group.lines]
    lines.sort(key=lambda line: position[line.first.name])
    return _table_1("Table 1", report, lines)


def seeds_table(report: Report) -> Table:
    """Return Table 1 with a row per run; without rows where the main table has these already."""
    pooled = any(len(line.runs) > 1 for group in groups(report) for line in group.lines)
    return _table_1("Table 1 by seed", report, [alone(run) for run in report.runs if pooled])


def _table_1(title: str, report: Report, lines: Sequence[Line]) -> Table:
    group_of = {run.name: group.name for group in groups(report) for run in group.runs}
    common = changed_alike(report.runs)
    pooled = any(len(line.runs) > 1 for line in lines)
    optional = (*CHOICES, "seed", "users", "test rows", "changed")

    def cells(line: Line) -> dict[str, str]:
        run, row = line.first, line.first.result.row
        seeds = {"seeds": str(len(line.runs))} if pooled else {}
        deviation = " ± ".join(map(number, line.rmse_by_seed or ())) or NONE
        return {
            "row": row.id or NONE,
            "model": model(run),
            "adapter": row.adapter if trained(run) else NONE,
            "memory": MEMORIES.get(row.memory, row.memory),
            **{choice: str(getattr(row, choice)) for choice in CHOICES},
            **({} if pooled else {"seed": str(row.seed)}),
            "users": run.result.cohort,
            "test rows": group_of[run.name],
            "changed": settings(row.changed, common) or NONE,
            **seeds,
            "RMSE [95%]": with_interval(line.intervals.get("rmse")),
            **({"RMSE by seed: mean ± SD": deviation} if pooled else {}),
            "MAE [95%]": with_interval(line.intervals.get("mae")),
            "URR [95%]": with_interval(line.intervals.get("urr"), spoken=percent),
            "n": _answered(line),
            "RMSE expected [95%]": with_interval(line.intervals.get("rmse_expected")),
            "digit mass": number(line.metrics.get("digit_mass")),
            f"{paper.HEAD}: RMSE / MAE / URR": _papers(run),
        }

    note = (
        "A row of several seeds counts its test rows under each of them, with intervals over users "
        "and seeds; mean ± SD is of the seeds' own RMSE."
    )
    return _but_alike(table(title, map(cells, lines), note if pooled else ""), optional)


def _but_alike(shown: Table, optional: Iterable[str]) -> Table:
    """Leave out optional columns in which no two rows differ."""
    known = shown.frame.drop(index=[*shown.strong])
    alike = [name for name in optional if name in known and known[name].nunique() <= 1]
    return replace(shown, frame=shown.frame.drop(columns=alike))


def _answered(line: Line) -> str:
    """The rows behind RMSE and MAE, and out of how many where some had no rating."""
    n, seeds = line.first.result.n_test, len(line.runs)
    every = f"{seeds} × {n:,}" if seeds > 1 else f"{n:,}"
    return f"{seeds * n - line.n_unrelated:,} of {every}" if line.n_unrelated else every


def _papers(run: Run) -> str:
    numbers = run.papers
    if numbers is None:
        return NONE
    return f"{numbers.rmse:.3f} / {numbers.mae:.3f} / {numbers.urr_percent:.2f}%"


def settings(changed: Mapping[str, Any], but: Iterable[str] = ()) -> str:
    """Return changed settings in one line, without those named."""
    names = sorted(changed.keys() - {*but})
    values = {name: changed[name] for name in names}
    spoken = {name: v if isinstance(v, str) else json.dumps(v) for name, v in values.items()}
    return ", ".join(f"{name}={value}" for name, value in spoken.items())


def changed_alike(runs: Sequence[Run]) -> dict[str, Any]:
    """Return what every run changed alike."""
    first, *others = [run.result.row.changed for run in runs] or [{}]
    absent = object()
    return {
        name: value
        for name, value in first.items()
        if all(changed.get(name, absent) == value for changed in others)
    }


def differences_table(title: str, pairs: Mapping[Pair, Comparison | None], group: Group) -> Table:
    """Return the first line of each pair minus its other one."""
    checked = "RMSE on all rows, unrelated as the user's mean"

    def cells(pair: Pair, both: Comparison | None) -> dict[str, str]:
        decoded, expected = both and both.decoded, both and both.expected
        check = decoded and decoded.check and vars(decoded.check["rmse"])
        return {
            "row": pair[0].label,
            "minus": pair[1].label,
            "RMSE [95%]": difference(decoded),
            "difference": verdict(decoded),
            "MAE [95%]": difference(decoded, "mae"),
            "on n": f"{decoded.n:,}" if decoded else NONE,
            checked: with_interval(check, "+"),
            "detectable from": number(least(decoded)),
            "RMSE expected [95%]": difference(expected),
            "difference expected": verdict(expected),
        }

    decoded = [both and both.decoded for both in pairs.values()]
    note = f"{corrected(decoded, 'differences of this table')} {too_small(map(least, decoded))}"
    rows = [cells(pair, both) for pair, both in pairs.items()]
    shown = table(f"{title}{where(group)}", rows, note)
    if rows and not any(contrast and contrast.check for contrast in decoded):
        return replace(shown, frame=shown.frame.drop(columns=checked))
    return shown


def corrected(contrasts: Iterable[Contrast | None], what: str) -> str:
    """Say for how many differences p was corrected, nothing where there is but one."""
    n = sum(contrast is not None for contrast in contrasts)
    return f"Lower and higher are said after Holm's correction for {n:,} {what}." if n > 1 else ""


def too_small(detectable: Iterable[float | None], rows: str = "these test rows") -> str:
    """Say which differences in RMSE are easily missed, nothing where no size is known.

    Args:
        detectable: Of each pair that is compared, see `evaluation.Difference`.
        rows: What they are compared on.
    """
    sizes = [number(size) for size in sorted(filter(None, detectable))]
    if not sizes:
        return ""
    most = f" ({sizes[-1]} for some pairs)" if sizes[-1] != sizes[0] else ""
    return (
        f"Differences in RMSE below {sizes[0]}{most} cannot reliably be told apart on {rows}: a "
        "true one of that size shows four times in five, a smaller one less often."
    )


def claims_table(group: Group) -> Table:
    """Return what the paper says of its Table 1 and whether a group's rows bear it out."""
    setting = judged_setting(group)

    def cells(claim: Judged) -> dict[str, str]:
        why = f": {claim.why}" if claim.why else ""
        return {
            "claim": claim.text,
            "rows": claim.name,
            "judgement": f"{claim.judgement}{why}",
            "RMSE [95%]": _rests_on(claim),
            "p after Holm": _p_after_holm(claim),
            "MAE [95%]": difference(claim.contrast, "mae"),
            "seeds": NONE if claim.seeds is None else str(claim.seeds),
            "detectable from": number(least(claim.contrast)),
            "stands in": SOURCES[claim.source],
        }

    judged = sorted(claims(group), key=lambda claim: claim.judgement == Verdict.NOT_TESTABLE)
    models = dict.fromkeys(model(line.first) for line in group.lines)
    return table(
        f"What the paper claims{where(group)}{f', judged by {setting}' if setting else ''}",
        map(cells, judged),
        f"Asked of {', '.join(models)}, not of the paper's own runs.",
    )


def _rests_on(claim: Judged) -> str:
    if claim.shares:
        shares = {row: vars(share) for row, share in claim.shares.items()}
        return "; ".join(f"{r} {with_interval(s, spoken=percent)}" for r, s in shares.items())
    return difference(claim.contrast)


def _p_after_holm(claim: Judged) -> str:
    return number(claim.contrast.adjusted.get("rmse")) if claim.contrast else NONE


def against_predictors_table(group: Group) -> Table:
    """Return every line minus the main simple predictors: as decoded, then as expected."""
    keys, pairs = group.main, against_predictors(group)

    def cells(line: Line, kind: str) -> dict[str, str]:
        contrasts = {key: (both := pairs[line, key]) and getattr(both, kind) for key in keys}
        minus = {f"minus {baseline_label(*key)} [95%]": _judged(contrasts[key]) for key in keys}
        return {"row": line.label, "rating": kind, **minus}

    decoded = [line for line in group.lines if line.first.result.row.decode != "expected"]
    rows = [cells(line, "decoded") for line in decoded if keys]
    rows += [cells(line, "expected") for line in group.lines if keys]
    return table(f"Rows against simple predictors{where(group)}", rows, _predictors_note(group))


def _judged(contrast: Contrast | None) -> str:
    return f"{difference(contrast)} {verdict(contrast)}" if contrast else NONE


def _predictors_note(group: Group) -> str:
    """Say what p is corrected for: both tables of simple predictors are one family."""
    pairs = against_predictors(group).values()
    decoded = [both and both.decoded for both in pairs]
    expected = [both and both.expected for both in pairs]
    what = "differences from simple predictors on these test rows"
    notes = [corrected(expected, what), too_small(map(least, decoded))]
    if sizes := too_small(map(least, expected)):
        notes.append(f"Of expected ratings: {sizes[0].lower()}{sizes[1:]}")
    return " ".join(notes)


def predictors_table(group: Group) -> Table:
    """Return the simple predictors on a group's test rows, and its best row minus each."""
    best, pairs = group.best, against_predictors(group)
    ids = [line.first.result.row.id for line in group.lines]
    own = best and best.first.result.row.id
    name = own if own and ids.count(own) == 1 else best and best.label

    def cells(version: str, predictor: str) -> dict[str, str]:
        scores = group.baselines[version, predictor]
        both = pairs[best, (version, predictor)] if best else None
        minus = {f"{name} minus this [95%]": _judged(both and both.decoded)}
        if best and best.first.result.row.decode == "expected":
            minus = {}
        minus[f"{name} expected minus this [95%]"] = _judged(both and both.expected)
        return {
            "predictor": spoken(predictor),
            "fitted on": NONE if unvaried(predictor) else FITTED.get(version, version),
            "RMSE / MAE": errors(scores),
            **(minus if best else {}),
            "rounded: RMSE / MAE": errors(scores, "_rounded"),
            "unseen rows": f"{scores.get('fallback', 0):,}",
        }

    shown = group.predictors
    return table(
        f"Simple predictors on the same test rows{where(group)}",
        [cells(*key) for key in shown],
        _predictors_note(group) if best else "",
        [i for i, (version, _) in enumerate(shown) if version == "prompt"],
    )


def errors(scores: Mapping[str, Any], variant: str = "") -> str:
    """Return `RMSE / MAE`, of a variant where one is named."""
    return " / ".join(number(scores.get(f"{metric}{variant}")) for metric in ("rmse", "mae"))


def matrix_table(run: Run) -> Table:
    """Return the error of each of a run's adapters on the users of each; no rows without a matrix.

    The difference to the users' own adapter is of the expected ratings, and so is the error.
    """
    rows: dict[str, dict[str, str]] = {}
    for cell in run.result.matrix:
        users = "without an adapter" if cell["users"] is None else f"of {cell['users']}"
        error = number(cell["rmse_expected"])
        if cell["difference"] is not None:
            error += f", {with_interval(cell['difference']['rmse'], '+')}"
        row = rows.setdefault(cell["adapter"], {"adapter": cell["adapter"]})
        row[f"users {users} ({cell['n_users']:,})"] = error
    verdicts = [verdict(contrast) for contrast in off_diagonal(run.result.matrix)]
    higher, lower = (verdicts.count(side) for side in (Verdict.HIGHER, Verdict.LOWER))
    note = (
        "A column is of the same users: on the diagonal their own adapter rates them, off it "
        "another one, with its error minus their own one's [95%]; adapters fit their users where "
        f"the diagonal is lowest. Beyond noise, after Holm's correction, {higher} of "
        f"{len(verdicts)} cells off the diagonal are higher than the diagonal's, {lower} lower."
    )
    title = f"RMSE expected of every adapter on the users of each: {run.label}"
    return table(title, rows.values(), note)


def leading(report: Report) -> list[Table]:
    """Return Table 1, claims, differences and simple predictors, without the empty tables."""
    tables = [main_table(report)] if report.runs else []
    for group in groups(report):
        tables += [
            claims_table(group),
            differences_table("Persona adapters against others", compared(group), group),
            against_predictors_table(group),
            predictors_table(group),
            differences_table("Rows against the best one", against_best(group), group),
        ]
    return filled([*tables, *map(matrix_table, report.runs)])

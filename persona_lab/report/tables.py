"""Report -> Table 1 and the comparisons of its rows, as every output format shows them. Pure."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from persona_lab.evaluation import Contrast, Judged, Verdict, off_diagonal
from persona_lab.report import compare, paper
from persona_lab.report.cells import NONE, TEXTS, Table, number, percent, table, with_interval
from persona_lab.report.compare import Comparison, Group, Pair, groups, least, verdict
from persona_lab.report.lines import KINDS, Line, alone
from persona_lab.report.runs import MEMORIES, Report, Run, changed_alike

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

    def cells(line: Line) -> dict[str, str]:
        run, row, n_seeds = line.first, line.first.result.row, len(line.runs)
        n = run.result.n_test
        every = f"{n_seeds} × {n:,}" if n_seeds > 1 else f"{n:,}"
        answered = f"{n_seeds * n - line.n_unrelated:,} of " if line.n_unrelated else ""
        deviation = " ± ".join(map(number, line.rmse_by_seed or ())) or NONE
        papers = run.papers
        errors = papers and f"{papers.rmse:.3f} / {papers.mae:.3f} / {papers.urr_percent:.2f}%"
        return {
            "row": row.id or NONE,
            "model": f"{row.model} (stand-in)" if run.stands_in else row.model,
            "adapter": row.adapter if run.result.adapters else NONE,
            "memory": MEMORIES.get(row.memory, row.memory),
            **{choice: str(getattr(row, choice)) for choice in CHOICES},
            **({} if pooled else {"seed": str(row.seed)}),
            "users": run.result.cohort,
            "test rows": group_of[run.name],
            "changed": settings(row.changed, common) or NONE,
            **({"seeds": str(n_seeds)} if pooled else {}),
            "RMSE [95%]": with_interval(line.intervals.get("rmse")),
            **({"RMSE by seed: mean ± SD": deviation} if pooled else {}),
            "MAE [95%]": with_interval(line.intervals.get("mae")),
            "URR [95%]": with_interval(line.intervals.get("urr"), spoken=percent),
            "n": f"{answered}{every}",
            "RMSE expected [95%]": with_interval(line.intervals.get("rmse_expected")),
            "digit mass": number(line.metrics["digit_mass"]),
            f"{paper.HEAD}: RMSE / MAE / URR": errors or NONE,
        }

    shown = table(title, map(cells, lines), TEXTS["tables"]["seeds"] if pooled else "")
    return _but_alike(shown, (*CHOICES, "seed", "users", "test rows", "changed"))


def _but_alike(shown: Table, optional: Iterable[str]) -> Table:
    """Leave out optional columns in which no two rows differ."""
    known = shown.frame.drop(index=[*shown.strong])
    alike = [name for name in optional if name in known and known[name].nunique() <= 1]
    return replace(shown, frame=shown.frame.drop(columns=alike))


def settings(changed: Mapping[str, Any], but: Iterable[str] = ()) -> str:
    """Return changed settings in one line, without those named."""
    values = ((name, changed[name]) for name in sorted(changed.keys() - {*but}))
    return ", ".join(
        f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in values
    )


def differences_table(title: str, pairs: Mapping[Pair, Comparison], group: Group) -> Table:
    """Return the first line of each pair minus its other one."""
    checked = any(both.decoded and both.decoded.check for both in pairs.values())

    def cells(pair: Pair, both: Comparison) -> dict[str, str]:
        decoded, expected = both
        check = with_interval(decoded and decoded.check and vars(decoded.check["rmse"]), "+")
        return {
            "row": pair[0].label,
            "minus": pair[1].label,
            "RMSE [95%]": difference(decoded),
            "difference": verdict(decoded),
            "MAE [95%]": difference(decoded, "mae"),
            "on n": f"{decoded.n:,}" if decoded else NONE,
            **({"RMSE on all rows, unrelated as the user's mean": check} if checked else {}),
            "detectable from": number(least(decoded)),
            "RMSE expected [95%]": difference(expected),
            "difference expected": verdict(expected),
        }

    decoded = [both.decoded for both in pairs.values()]
    note = f"{_corrected(decoded, 'differences of this table')} {too_small(map(least, decoded))}"
    return table(f"{title}{where(group)}", [cells(*pair) for pair in pairs.items()], note)


def _corrected(contrasts: Iterable[Contrast | None], what: str) -> str:
    """Say for how many differences p was corrected, nothing where there is but one."""
    n = sum(contrast is not None for contrast in contrasts)
    return f"Lower and higher are said after Holm's correction for {n:,} {what}." if n > 1 else ""


def too_small(detectable: Iterable[float | None], rows: str = "these test rows") -> str:
    """Say which differences in RMSE are easily missed, by what each pair would show on rows."""
    sizes = [number(size) for size in sorted(filter(None, detectable))]
    if not sizes:
        return ""
    most = f" ({sizes[-1]} for some pairs)" if sizes[-1] != sizes[0] else ""
    return TEXTS["limits"]["too_small"].format(size=f"{sizes[0]}{most}", rows=rows)


def claims_table(group: Group) -> Table:
    """Return what the paper says of its Table 1 and whether a group's rows bear it out."""

    def cells(claim: Judged) -> dict[str, str]:
        contrast, shares = claim.contrast, (claim.shares or {}).items()
        unrelated = "; ".join(f"{r} {with_interval(vars(s), spoken=percent)}" for r, s in shares)
        return {
            "claim": claim.text,
            "rows": claim.name,
            "judgement": f"{claim.judgement}{': ' if claim.why else ''}{claim.why}",
            "RMSE [95%]": unrelated or difference(contrast),
            "p after Holm": number(contrast.adjusted.get("rmse") if contrast else None),
            "MAE [95%]": difference(contrast, "mae"),
            "seeds": NONE if claim.seeds is None else str(claim.seeds),
            "detectable from": number(least(contrast)),
            "stands in": SOURCES[claim.source],
        }

    setting = compare.judged_setting(group)
    judged = sorted(
        compare.claims(group), key=lambda claim: claim.judgement == Verdict.NOT_TESTABLE
    )
    models = dict.fromkeys(
        run.result.row.model + " (stand-in)" * run.stands_in for run in group.runs
    )
    return table(
        f"What the paper claims{where(group)}{f', judged by {setting}' if setting else ''}",
        map(cells, judged),
        f"Asked of {', '.join(models)}, not of the paper's own runs.",
    )


def against_predictors_table(group: Group) -> Table:
    """Return every line minus the main simple predictors: as decoded, then as expected."""
    pairs = compare.against_predictors(group)
    decoded = [line for line in group.lines if line.first.result.row.decode != "expected"]
    rows = [
        {"row": line.label, "rating": kind}
        | {
            f"minus {compare.baseline_label(*key)} [95%]": _judged(pairs[line, key], kind)
            for key in group.main
        }
        for kind, lines in (("decoded", decoded), ("expected", group.lines))
        for line in lines
        if group.main
    ]
    return table(f"Rows against simple predictors{where(group)}", rows, _predictors_note(group))


def _judged(both: Comparison, kind: str) -> str:
    contrast = getattr(both, kind)
    return f"{difference(contrast)} {verdict(contrast)}" if contrast else NONE


def _predictors_note(group: Group) -> str:
    """Say what p is corrected for: both tables of simple predictors are one family."""
    pairs = compare.against_predictors(group).values()
    decoded, expected = ([getattr(both, kind) for both in pairs] for kind in KINDS)
    what = "differences from simple predictors on these test rows"
    notes = [_corrected(expected, what), too_small(map(least, decoded))]
    if sizes := too_small(map(least, expected)):
        notes.append(f"Of expected ratings: {sizes[0].lower()}{sizes[1:]}")
    return " ".join(notes)


def predictors_table(group: Group) -> Table:
    """Return the simple predictors on a group's test rows, and its best row minus each."""
    best, pairs = group.best, compare.against_predictors(group)
    minus: dict[str, str] = {}
    if best:
        ids = [line.first.result.row.id for line in group.lines]
        own = best.first.result.row
        name = own.id if own.id and ids.count(own.id) == 1 else best.label
        minus = {"decoded": f"{name} minus this [95%]"} if own.decode != "expected" else {}
        minus["expected"] = f"{name} expected minus this [95%]"

    def cells(key: tuple[str, str]) -> dict[str, str]:
        (version, predictor), scores = key, group.baselines[key]
        fitted = NONE if compare.unvaried(predictor) else compare.FITTED.get(version, version)
        return {
            "predictor": compare.spoken(predictor),
            "fitted on": fitted,
            "RMSE / MAE": errors(scores),
            **{head: _judged(pairs[best, key], kind) for kind, head in minus.items() if best},
            "rounded: RMSE / MAE": errors(scores, "_rounded"),
            "unseen rows": f"{scores.get('fallback', 0):,}",
        }

    return table(
        f"Simple predictors on the same test rows{where(group)}",
        map(cells, group.predictors),
        _predictors_note(group) if best else "",
        [i for i, (version, _) in enumerate(group.predictors) if version == "prompt"],
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
        own = cell["difference"]
        minus = f", {with_interval(own['rmse'], '+')}" if own else ""
        row = rows.setdefault(cell["adapter"], {"adapter": cell["adapter"]})
        row[f"users {users} ({cell['n_users']:,})"] = f"{number(cell['rmse_expected'])}{minus}"
    verdicts = [verdict(contrast) for contrast in off_diagonal(run.result.matrix)]
    higher, lower = (verdicts.count(side) for side in (Verdict.HIGHER, Verdict.LOWER))
    return table(
        f"RMSE expected of every adapter on the users of each: {run.label}",
        rows.values(),
        TEXTS["tables"]["matrix"].format(higher=higher, lower=lower, n=len(verdicts)),
    )


def leading(report: Report) -> list[Table]:
    """Return Table 1, claims, differences and simple predictors, without the empty tables."""
    tables = [main_table(report)] if report.runs else []
    for group in groups(report):
        tables += [
            claims_table(group),
            differences_table("Persona adapters against others", compare.compared(group), group),
            against_predictors_table(group),
            predictors_table(group),
            differences_table("Rows against the best one", compare.against_best(group), group),
        ]
    return [shown for shown in (*tables, *map(matrix_table, report.runs)) if len(shown.frame)]

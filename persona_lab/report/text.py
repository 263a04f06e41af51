"""Report -> Markdown, LaTeX, CSV and a terminal's table. Pure, but for `print_table`."""

import html
import json
import re
from collections.abc import Iterator
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from persona_lab.report.cells import Table, plain
from persona_lab.report.compare import groups
from persona_lab.report.details import details, failure_table
from persona_lab.report.lines import Line, alone
from persona_lab.report.notes import QUESTION, answer, findings, limits, reading
from persona_lab.report.runs import Report
from persona_lab.report.tables import CHOICES, leading, main_table, predictors_table, short_table

ERRORS = ("rmse", "mae", "rmse_expected", "mae_expected")
PIPED_WIDTH = 240  # a log has no width: rather long lines than cells broken up


def markdown(report: Report) -> str:
    """Return the report as Markdown."""
    main, others = leading(report)[:1], leading(report)[1:]
    failures = [failure_table(report)] if report.failures else []
    sections = {
        **{shown.title: markdown_table(shown) for shown in (*failures, *main)},
        **{
            head: "\n".join(f"- {_escaped(sentence)}" for sentence in sentences)
            for head, sentences in spoken(report).items()
        },
        **{shown.title: markdown_table(shown) for shown in (*others, *details(report))},
    }
    parts = [f"## {_escaped(head)}\n\n{body}" for head, body in sections.items()]
    return "\n\n".join([f"# {QUESTION}", *map(_escaped, answer(report)), *parts]) + "\n"


def spoken(report: Report) -> dict[str, tuple[str, ...]]:
    """Return heading -> the sentences below it: findings, limits and how to read the numbers."""
    sentences = {
        "What the rows show": findings(report),
        "What these numbers cannot show": limits(report),
        "How to read the numbers": reading(report),
    }
    return {head: said for head, said in sentences.items() if said}


def markdown_table(shown: Table) -> str:
    """Return a table as Markdown, its note below."""
    rule = ["---:" if numeric else "---" for numeric in shown.numeric]
    rows = [list(map(_escaped, row)) for row in (shown.heads, *shown.records())]
    for i in shown.strong:
        rows[i + 1][0] = f"**{rows[i + 1][0]}**"
    lines = [f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:])]
    return "\n".join([*lines, *(["", _escaped(shown.note)] if shown.note else [])])


def _escaped(text: str) -> str:
    """Keep text from becoming a table's border, a tag or a link."""
    return re.sub(r"([\\|\[\]`])", r"\\\1", html.escape(text, quote=False))


def latex(report: Report) -> str:
    """Return Table 1 as a LaTeX table for booktabs; what it shows stands in comments above it."""
    shown = main_table(report)
    style = shown.frame.style.format(escape="latex").format_index(escape="latex", axis=1)
    written = style.hide(axis="index").to_latex(
        hrules=True,
        column_format="".join("r" if numeric else "l" for numeric in shown.numeric),
        caption="Table 1, with 95\\% intervals in brackets.",
    )
    # pdfLaTeX knows no true minus; M_s is a symbol.
    written = re.sub(r"\bM\\_([sl])\b", r"$M_\1$", written.replace("−", "$-$"))
    said = (*answer(report), *findings(report), shown.note, *limits(report), *reading(report))
    comments = ("needs \\usepackage{booktabs}", *filter(None, said))
    return "\n".join([*(f"% {sentence}" for sentence in comments), written])


def csv_text(report: Report) -> str:
    """Return the table as CSV in full precision: a line per run and per baseline.

    Before the runs of several seeds stands a `row` of all of them, behind a run that crossed its
    adapters a `matrix` line per adapter and group of users.
    """
    records: list[dict[str, Any]] = []
    for group in groups(report):
        for line in group.lines:
            records += _records(line, group.name)
        records += [
            {"kind": "baseline", "test_rows": group.name, "model": name, "fitted_on": version}
            | {metric: scores.get(metric) for metric in ("rmse", "mae")}
            for (version, name), scores in group.baselines.items()
        ]
    records += [
        {"kind": failure.state, "folder": failure.name, "error": plain(failure.error)}
        for failure in report.failures
    ]
    inert = [{head: _inert(value) for head, value in record.items()} for record in records]
    return pd.DataFrame(inert, dtype=object).to_csv(index=False, lineterminator="\n")


def _records(line: Line, group: str) -> Iterator[dict[str, Any]]:
    if len(line.runs) > 1:
        mean, deviation = line.rmse_by_seed or (None, None)
        spread = {"seeds": len(line.runs), "rmse_seed_mean": mean, "rmse_seed_sd": deviation}
        yield _record(line, group) | {"kind": "row", "seed": None, "folder": None} | spread
    for run in line.runs:
        yield _record(alone(run), group)
        for cell in run.result.matrix:
            taken = ("adapter", "users", *ERRORS, "digit_mass", "urr", "n_test", "n_unrelated")
            record = {"kind": "matrix", "test_rows": group, "id": run.result.row.id}
            yield record | {name: cell[name] for name in taken} | {"folder": run.name}


def _record(line: Line, group: str) -> dict[str, Any]:
    run, row = line.first, line.first.result.row
    names = ("id", "role", "model", "adapter", "memory", *CHOICES, "seed")
    record: dict[str, Any] = {"kind": "run", "test_rows": group}
    record |= {name: getattr(row, name) for name in names}
    record["changed"] = json.dumps(row.changed, sort_keys=True) if row.changed else None
    record |= {"stand_in": run.stands_in, "cohort": run.result.cohort, "fitted_on": None}
    for metric in (*ERRORS, "digit_mass", "urr"):
        record[metric] = line.metrics[metric]
        if metric != "digit_mass":
            ends = line.intervals.get(metric, {})
            record |= {f"{metric}_{end}": ends.get(end) for end in ("low", "high")}
    record |= {"n_test": len(line.runs) * run.result.n_test, "n_unrelated": line.n_unrelated}
    papers = run.papers._asdict() if run.papers else {}
    record |= {f"paper_{metric}": value for metric, value in papers.items()}
    return record | {"folder": run.name}


def _inert(value: object) -> object:
    """Keep a spreadsheet from running a cell's text as a formula."""
    formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    return f"'{value}" if formula else value


def print_table(report: Report, console: Console | None = None) -> None:
    """Print the answer, Table 1, what limits it, the simple predictors and the failures."""
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, PIPED_WIDTH)
    for sentence in answer(report):
        console.print(Text(sentence))
    if report.runs:
        full = _drawn(main_table(report))
        unbounded = console.options.update(max_width=10_000)
        fits = console.measure(full, options=unbounded).maximum <= console.width
        console.print("", full if fits else _drawn(short_table(report)), "")
    for sentence in findings(report):
        console.print(Text(f"• {sentence}"))
    for sentence in limits(report):
        console.print(Text(f"• {sentence}", style="dim"))
    failures = [failure_table(report)] if report.failures else []
    for shown in (*map(predictors_table, groups(report)), *failures):
        console.print("", _drawn(shown))


def _drawn(shown: Table) -> RichTable:
    drawn = RichTable(
        title=Text(shown.title), title_justify="left", box=box.SIMPLE_HEAD, show_edge=False,
        padding=(0, 1, 0, 0), caption=Text(shown.note) if shown.note else None,
        caption_justify="left",
    )  # fmt: skip
    for head, numeric in zip(shown.heads, shown.numeric, strict=True):
        drawn.add_column(Text(head), justify="right" if numeric else "left", overflow="fold")
    for i, row in enumerate(shown.records()):
        drawn.add_row(*map(Text, row), style="bold" if i in shown.strong else "")
    return drawn

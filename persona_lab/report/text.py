"""Report -> Markdown, CSV and a terminal's table. Pure, but for `print_table`."""

import csv
import html
import io
import json
import re
from collections.abc import Iterator
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from persona_lab.report.compare import groups
from persona_lab.report.lines import Line, alone
from persona_lab.report.notes import QUESTION, READING, headlines, notes
from persona_lab.report.runs import Report
from persona_lab.report.tables import (
    CHOICES,
    Table,
    baseline_table,
    details,
    failure_table,
    leading,
    main_table,
    plain,
)

ERRORS = ("rmse", "mae", "rmse_expected", "mae_expected")
PIPED_WIDTH = 240  # a log has no width: rather long lines than cells broken up
NARROW = 170  # columns of a terminal that has no room for intervals; the files have them
LONGEST_WORD = 15  # longer ones may be broken where a terminal is narrow


def markdown(report: Report) -> str:
    """Return the report as Markdown."""
    parts = [f"# {QUESTION}"]
    failures = failure_table(report)
    tables = (*leading(report), *([failures] if failures.rows else ()), *details(report))
    for i, table in enumerate(tables):
        parts += [f"## {_escaped(table.title)}", markdown_table(table)]
        if i == 0 and report.runs:
            said = (headlines(report), (*notes(report), *READING))
            parts += ["\n".join(f"- {_escaped(each)}" for each in part) for part in said]
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown_table(table: Table) -> str:
    """Return a table as Markdown, its note below."""
    lines = [[column.head for column in table.columns]]
    lines += [
        [f"**{cell}**" if i in table.strong and j == 0 else cell for j, cell in enumerate(row)]
        for i, row in enumerate(table.rows)
    ]
    rule = ["---:" if column.numeric else "---" for column in table.columns]
    drawn = ["| " + " | ".join(map(_escaped, line)) + " |" for line in lines]
    note = ("", _escaped(table.note)) if table.note else ()
    return "\n".join([drawn[0], "| " + " | ".join(rule) + " |", *drawn[1:], *note])


def _escaped(text: str) -> str:
    """Keep text from becoming a table's border, a tag or a link."""
    safe = html.escape(text, quote=False)
    for mark in ("\\", "|", "[", "]", "`"):
        safe = safe.replace(mark, f"\\{mark}")
    return safe


def latex(report: Report) -> str:
    """Return Table 1 as a LaTeX table for booktabs."""
    table = main_table(report)
    lines = [[column.head for column in table.columns], *table.rows]
    rows = [" & ".join(map(_tex, line)) + r" \\" for line in lines]
    sides = "".join("r" if column.numeric else "l" for column in table.columns)
    caption = (*headlines(report), *filter(None, [table.note]), *notes(report), *READING)
    said = " ".join(map(_tex, caption))
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            r"\begin{table}",
            rf"\begin{{tabular}}{{{sides}}}",
            r"\toprule",
            rows[0],
            r"\midrule",
            *rows[1:],
            r"\bottomrule",
            r"\end{tabular}",
            rf"\caption{{{said}}}",
            r"\end{table}",
            "",
        ]
    )


_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "−": "$-$",
    "·": r"$\cdot$",
    "×": r"$\times$",
    "±": r"$\pm$",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
}


def _tex(text: str) -> str:
    """Keep text from becoming a command, and M_s a formula."""
    spoken = re.sub(r"M_([sl])", r"M-\1", text)
    found = "".join(_TEX.get(mark, mark) for mark in spoken)
    return re.sub(r"M-([sl])\b", r"$M_\1$", found)


def csv_text(report: Report) -> str:
    """Return the table as CSV in full precision: a line per run and per baseline.

    Before the runs of several seeds stands a `row` of all of them, behind a run that crossed its
    adapters a `matrix` line per adapter and group of users.
    """
    lines = [
        line
        for group in groups(report)
        for line in (
            *(each for line in group.lines for each in _table_lines(line, group.name)),
            *(
                {"kind": "baseline", "test_rows": group.name, "model": name, "fitted_on": version}
                | {key: errors.get(key) for key in ("rmse", "mae")}
                for (version, name), errors in group.baselines.items()
            ),
        )
    ]
    lines += [
        {"kind": failure.state, "folder": failure.name, "error": plain(failure.error)}
        for failure in report.failures
    ]
    heads = list(dict.fromkeys(key for line in lines for key in line))
    out = io.StringIO()
    writer = csv.DictWriter(out, heads, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _inert(value) for key, value in line.items()} for line in lines)
    return out.getvalue()


def _table_lines(line: Line, group: str) -> Iterator[dict[str, Any]]:
    if len(line.runs) > 1:
        mean, deviation = line.rmse_by_seed or (None, None)
        spread = {"seeds": len(line.runs), "rmse_seed_mean": mean, "rmse_seed_sd": deviation}
        yield _table_line(line, group) | {"kind": "row", "seed": None, "folder": None} | spread
    for run in line.runs:
        yield _table_line(alone(run), group)
        for cell in run.result.matrix:
            taken = ("adapter", "users", *ERRORS, "digit_mass", "urr", "n_test", "n_unrelated")
            given = {"kind": "matrix", "test_rows": group, "id": run.result.row.id}
            yield given | {name: cell[name] for name in taken} | {"folder": run.name}


def _table_line(line: Line, group: str) -> dict[str, Any]:
    run, row, n_test = line.first, line.first.result.row, line.first.result.n_test
    found: dict[str, Any] = {"kind": "run", "test_rows": group}
    found |= {"id": row.id, "role": row.role, "model": row.model}
    found |= {name: getattr(row, name) for name in ("adapter", "memory", *CHOICES, "seed")}
    found |= {"changed": json.dumps(row.changed, sort_keys=True) if row.changed else None}
    found |= {"stand_in": run.stands_in, "cohort": run.result.cohort, "fitted_on": None}
    for metric in ERRORS:
        interval = line.intervals.get(metric, {})
        found |= {metric: line.metrics[metric]}
        found |= {f"{metric}_{end}": interval.get(end) for end in ("low", "high")}
    found |= {"digit_mass": line.metrics.get("digit_mass")}
    found |= {"urr": line.metrics["urr"]}
    found |= {f"urr_{end}": line.intervals.get("urr", {}).get(end) for end in ("low", "high")}
    found |= {"n_test": len(line.runs) * n_test, "n_unrelated": line.n_unrelated}
    if run.papers:
        found |= {f"paper_{key}": value for key, value in run.papers._asdict().items()}
    return found | {"folder": run.name}


def _inert(value: object) -> object:
    """Keep a spreadsheet from running a cell's text as a formula."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r", "\n"):
        return f"'{value}"
    return value


def print_table(report: Report, console: Console | None = None) -> None:
    """Print the table, what it shows the simple predictors and the failures."""
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, PIPED_WIDTH)
    if report.runs:
        console.print(_drawn(main_table(report), console.width), "")
    for sentence in headlines(report):
        console.print(Text(f"• {sentence}"))
    for note in (*notes(report), *(READING if report.runs else ())):
        console.print(Text(f"• {note}", style="dim"))
    for group in groups(report):
        console.print("", _drawn(baseline_table(group), console.width))
    if report.failures:
        console.print("", _drawn(failure_table(report), console.width))


def _drawn(table: Table, width: int) -> RichTable:
    def text(cell: str) -> Text:
        return Text(re.sub(r" \[[^]]*\]", "", cell) if width < NARROW else cell)

    heads = tuple(column.head for column in table.columns)
    lines = [[text(cell) for cell in line] for line in (heads, *table.rows)]
    padding = 1 if width >= NARROW else 0
    widths = _widths(lines, width - len(heads) * (1 + padding))
    drawn = RichTable(
        title=Text(table.title), title_justify="left", box=box.SIMPLE_HEAD, show_edge=False,
        padding=(0, padding, 0, 0), caption=Text(table.note) if table.note else None,
        caption_justify="left",
    )  # fmt: skip
    for column, head, wide in zip(table.columns, lines[0], widths, strict=True):
        side = "right" if column.numeric else "left"
        drawn.add_column(head, justify=side, overflow="fold", width=wide)
    for i, line in enumerate(lines[1:]):
        drawn.add_row(*line, style="bold" if i in table.strong else "")
    return drawn


def _widths(lines: list[list[Text]], room: int) -> list[int | None]:
    """Give each column its longest word, then the spare room from left to right, heads last.

    Left to itself, rich breaks words in narrow columns while wide ones have room; where words do
    not fit anyway, it decides (None).
    """
    columns = list(zip(*lines, strict=True))
    words = [max(len(word) for cell in column for word in cell.plain.split()) for column in columns]
    widths = [min(longest, LONGEST_WORD) for longest in words]
    spare = room - sum(widths)
    if spare < 0:
        return [None] * len(columns)
    for first in (1, 0):
        for i, column in enumerate(columns):
            longest = max((len(cell.plain) for cell in column[first:]), default=0)
            more = min(max(longest - widths[i], 0), spare)
            widths[i], spare = widths[i] + more, spare - more
    return [*widths]

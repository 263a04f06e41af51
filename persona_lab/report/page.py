"""Report -> one HTML file that needs nothing else: no network, no script. Pure.

Every text is escaped by Jinja; the content security policy would stop what slipped through.
"""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from persona_lab.report import figure
from persona_lab.report.runs import Report
from persona_lab.report.tables import (
    QUESTION,
    Table,
    all_tables,
    failure_table,
    headlines,
    notes,
)

OPEN = ("Table 1", "One adapter per persona", "Simple predictors", "Runs against")
"""Starts of the titles of tables that are shown unfolded."""


def html(report: Report) -> str:
    """Return the report as an HTML document."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    failures = failure_table(report)
    tables = [table for table in all_tables(report) if table != failures]

    def shown(table: Table) -> bool:
        return table.title.startswith(OPEN)

    return environment.get_template("page.html").render(
        question=QUESTION,
        headlines=headlines(report),
        notes=notes(report),
        failures=failures if failures.rows else None,
        main=[table for table in tables if shown(table)],
        folded=[table for table in tables if not shown(table)],
        # Our own drawing; matplotlib escapes the labels in it.
        plot=Markup(figure.inline_svg(report)) if report.runs else None,
    )

"""Report and drawings -> one HTML file that needs nothing else: no network, no script. Pure.

Every text is escaped by Jinja; the content security policy would stop what slipped through.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from persona_lab.report.figures import Drawing, inline_svg
from persona_lab.report.notes import QUESTION, READING, headlines, notes
from persona_lab.report.runs import Report, Run
from persona_lab.report.tables import NONE, details, failure_table, leading, number, visible


@dataclass(frozen=True)
class Answer:
    """A test row as the page shows it: what was asked, what came, what was true."""

    asked: str
    prompt: str
    response: str
    read: str


def html(report: Report, drawings: Sequence[Drawing]) -> str:
    """Return the report as an HTML document."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    failures = failure_table(report)
    # Our own drawings; matplotlib escapes the labels in them.
    figures = [(Markup(inline_svg(drawing)), drawing) for drawing in drawings]
    return environment.get_template("page.html").render(
        question=QUESTION,
        headlines=headlines(report),
        notes=notes(report),
        reading=READING if report.runs else (),
        failures=failures if failures.rows else None,
        leading=leading(report),
        details=details(report),
        figures=figures,
        wordless=bool(drawings) and not any(drawn.name.startswith("words") for drawn in drawings),
        examples=[(visible(run.label), list(_answers(run))) for run in report.runs if run.examples],
    )


def _answers(run: Run) -> Iterator[Answer]:
    if run.predictions is None:
        return
    rows = run.predictions.set_index(["user_id", "item_id"])
    for each in run.examples:
        row = rows.loc[(each["user_id"], each["item_id"])]
        read = NONE if pd.isna(row["prediction"]) else f"{row['prediction']:g}"
        yield Answer(
            asked=visible(f"user {each['user_id']}: {each['title']}"),
            prompt=visible(each["prompt"]),
            response=visible(row["response"]),
            read=(
                f"read as {read}; expected {number(row['expected_rating'])}; "
                f"rated {row['rating']:g} by the user"
            ),
        )

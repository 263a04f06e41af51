"""Report and drawings -> one HTML file that needs nothing else: no network, no script. Pure.

Every text is escaped by Jinja; the content security policy would stop what slipped through.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from persona_lab.report.cells import NONE, number
from persona_lab.report.details import details, failure_table
from persona_lab.report.figures import Drawing, inline_svg
from persona_lab.report.notes import QUESTION, answer
from persona_lab.report.runs import Report, Run
from persona_lab.report.tables import leading, short_table
from persona_lab.report.text import spoken


def html(report: Report, drawings: Sequence[Drawing]) -> str:
    """Return the report as an HTML document."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    wordless = not any(drawing.name.startswith("words") for drawing in drawings)
    return environment.get_template("page.html").render(
        question=QUESTION,
        answer=answer(report),
        failures=failure_table(report) if report.failures else None,
        main=short_table(report) if report.runs else None,
        spoken=spoken(report),
        # Our own drawings; matplotlib escapes the labels in them.
        figures=[(Markup(inline_svg(drawing)), drawing.caption) for drawing in drawings],
        wordless=wordless and any(run.personas for run in report.runs),
        sections={"Tables": leading(report), "Details": details(report)},
        examples=[(visible(run.label), list(_answers(run))) for run in report.runs if run.examples],
    )


def _answers(run: Run) -> Iterator[dict[str, str]]:
    """What was asked of a few test rows, what came, what was true."""
    if run.predictions is None:
        return
    rows = run.predictions.set_index(["user_id", "item_id"])
    for example in run.examples:
        row = rows.loc[(example["user_id"], example["item_id"])]
        read = NONE if pd.isna(row["prediction"]) else f"{row['prediction']:g}"
        yield {
            "asked": visible(f"user {example['user_id']}: {example['title']}"),
            "prompt": visible(example["prompt"]),
            "response": visible(row["response"]),
            "read": f"read as {read}; expected {number(row['expected_rating'])}; "
            f"rated {row['rating']:g} by the user",
        }


def visible(text: object) -> str:
    """Return text with its line breaks, every other control character shown as its code."""
    return "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in str(text))

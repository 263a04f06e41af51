"""Run folders -> Table 1 with our numbers beside the paper's, for terminal, web and print.

Needs nothing but run folders, and for one figure a tagger. `write` touches disk.
"""

import logging
from pathlib import Path

from persona_lab.errors import UserError
from persona_lab.report import figures, page, text
from persona_lab.report.runs import Failure, Report, Run, build
from persona_lab.report.text import print_table
from persona_lab.report.words import tagger
from persona_lab.sources import Sources

_log = logging.getLogger(__name__)

__all__ = ["Failure", "Report", "Run", "build", "print_table", "write"]


def write(report: Report, folder: Path, sources: Sources) -> list[Path]:
    """Write report.html, table1.md, table1.csv, table1.tex and figures/; return their paths.

    Args:
        report: The runs.
        folder: Made where it is not there.
        sources: Have the tagger of the personas' distinct words; where it or spaCy is not to be
            had, that figure is left out, and the report says how to get it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    words = None
    try:
        if any(run.personas for run in report.runs):
            words = tagger(sources)
    except UserError as error:
        _log.warning("no figure of the personas' words: %s", error)
    drawings = figures.draw(report, words)
    texts = {
        "report.html": page.html(report, drawings),
        "table1.md": text.markdown(report),
        "table1.csv": text.csv_text(report),
        "table1.tex": text.latex(report),
    }
    for name, content in texts.items():
        (folder / name).write_text(content, encoding="utf-8")
    return [folder / name for name in texts] + figures.save(drawings, folder / "figures")

"""Run folders -> Table 1 with our numbers beside the paper's, for terminal, web and print.

Needs nothing but run folders. `write` touches disk, nothing the network.
"""

from pathlib import Path

from persona_lab.report import figures, page, text
from persona_lab.report.runs import Failure, Report, Run, build
from persona_lab.report.text import print_table
from persona_lab.report.words import Tagger, tagger

__all__ = ["Failure", "Report", "Run", "Tagger", "build", "print_table", "tagger", "write"]


def write(report: Report, folder: Path, words: Tagger | None = None) -> list[Path]:
    """Write report.html, table1.md, table1.csv, table1.tex and figures/; return their paths.

    Args:
        report: The runs.
        folder: Made where it is not there.
        words: Finds the nouns and adjectives of the personas' profiles; without it the figure of
            their distinct words is left out, and the report says so.
    """
    folder.mkdir(parents=True, exist_ok=True)
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

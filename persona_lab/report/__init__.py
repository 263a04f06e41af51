"""Run folders -> the paper's Table 1 with our numbers: terminal, Markdown, CSV, HTML, figure.

Needs nothing but run folders. `write` touches disk, nothing the network.
"""

from pathlib import Path

from persona_lab.report import figure, page, text
from persona_lab.report.runs import Failure, Report, Run, build
from persona_lab.report.text import print_table

__all__ = ["Failure", "Report", "Run", "build", "print_table", "write"]


def write(report: Report, folder: Path) -> list[Path]:
    """Write table1.md, table1.csv, report.html and, if any run finished, table1.png and .pdf.

    Returns:
        The paths, report.html first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "report.html": page.html(report),
        "table1.md": text.markdown(report),
        "table1.csv": text.csv_text(report),
    }
    for name, content in texts.items():
        (folder / name).write_text(content, encoding="utf-8")
    drawn = figure.save(report, folder) if report.runs else []
    return [folder / name for name in texts] + drawn

"""Report -> a forest plot: RMSE with intervals, the paper's values and the simple predictors.

One panel per group of runs with the same test rows, on one scale. Pure but for `save`.
"""

import io
import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.typing import RcKeyType

from persona_lab.report import paper
from persona_lab.report.compare import Group, baseline_label, groups
from persona_lab.report.runs import Report, Run
from persona_lab.report.tables import plain

INK, MUTED, OURS, PAPERS = "#1f2328", "#6a737d", "#2f6fb3", "#b35c1e"
VARIABLES = {INK: "--ink", MUTED: "--muted", OURS: "--ours", PAPERS: "--papers"}
LONGEST_LABEL = 48

STYLE: dict[RcKeyType, Any] = {
    "svg.fonttype": "none",  # text stays text: readable, and in the page's own font
    "svg.hashsalt": "persona_lab",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
}


def save(report: Report, folder: Path) -> list[Path]:
    """Write table1.png and table1.pdf into a folder and return their paths."""
    paths = [folder / "table1.png", folder / "table1.pdf"]
    with mpl.rc_context(STYLE):
        drawn = _draw(report)
        drawn.savefig(paths[0], dpi=200)
        drawn.savefig(paths[1], metadata={"CreationDate": None})
    return paths


def inline_svg(report: Report) -> str:
    """Return the plot as an `<svg>` whose colours are the page's CSS variables."""
    out = io.StringIO()
    with mpl.rc_context(STYLE):
        none = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        _draw(report).savefig(out, format="svg", transparent=True, metadata=none)
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return re.sub(r"<svg ", '<svg role="img" aria-label="RMSE of every row" ', svg, count=1)


def _draw(report: Report) -> Figure:
    found = groups(report)
    heights = [len(group.runs) + len(_labelled(group)) + 1 for group in found]
    drawn = Figure(figsize=(8, 0.9 + 0.27 * sum(heights)), layout="constrained")
    panels = drawn.subplots(
        len(found), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
    )[:, 0]
    for axes, group in zip(panels, found, strict=True):
        _panel(axes, group)
        if group.name:
            axes.set_title(f"test rows {group.name}", loc="left", fontsize=9)
    panels[-1].set_xlabel("RMSE in stars, lower is better; bars are 95% over users")
    drawn.legend(handles=_keys(), loc="outside upper left", ncols=4, frameon=False)
    return drawn


def _panel(axes: Axes, group: Group) -> None:
    labels = [_short(run.label) for run in group.runs] + list(_labelled(group))
    for y, run in enumerate(group.runs):
        _row(axes, y, run)
    values = list(_labelled(group).values())
    ys = range(len(group.runs), len(labels))
    axes.plot(values, list(ys), "s", color=MUTED, markersize=4, linestyle="none")
    shown = group.baselines.get(("prompt", "prompt_mean"))
    if shown:
        axes.axvline(shown["rmse"], color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
    axes.axhline(len(group.runs) - 0.5, color=MUTED, linewidth=0.4)
    for text in axes.set_yticks(range(len(labels)), labels):
        text.label1.set_parse_math(False)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(labels) - 0.4, -0.6)


def _row(axes: Axes, y: int, run: Run) -> None:
    for metric, shift, filled in (("rmse", -0.12, True), ("rmse_expected", 0.16, False)):
        found = run.result.intervals.get(metric)
        if found is None:
            continue
        if found["low"] is not None:
            ends = [found["low"], found["high"]]
            axes.plot(ends, [y + shift] * 2, color=OURS, linewidth=1.6 if filled else 0.8)
        face = OURS if filled else "none"
        axes.plot(found["value"], y + shift, "o", color=OURS, markerfacecolor=face, markersize=4.5)
    numbers = run.papers
    if numbers:
        axes.plot(numbers.rmse, y, "D", color=PAPERS, markersize=4)


def _labelled(group: Group) -> dict[str, float]:
    """Name the baselines to draw: those that predict the same in every version once."""
    return {
        _short(baseline_label(version, name)): errors["rmse"]
        for (version, name), errors in group.baselines.items()
    }


def _short(text: str) -> str:
    text = plain(text)
    return text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 1]}…"


def _keys() -> list[Line2D]:
    def key(marker: str, colour: str, text: str, face: str | None = None) -> Line2D:
        face = face or colour
        return Line2D(
            [], [], marker=marker, color=colour, markerfacecolor=face, linestyle="none",
            markersize=5, label=text,
        )  # fmt: skip

    return [
        key("o", OURS, "RMSE"),
        key("o", OURS, "RMSE expected", "none"),
        key("D", PAPERS, paper.HEAD),
        key("s", MUTED, "simple predictor"),
    ]

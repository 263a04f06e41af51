"""Report -> its figures: errors, training sizes, reliability, personas and their words.

One colour scale for page and print: the page turns the colours into its CSS variables. Pure but
for `save`.
"""

import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.typing import RcKeyType

from persona_lab.report.cells import TEXTS, plain
from persona_lab.report.compare import Group, baseline_label, groups
from persona_lab.report.runs import Report, Run
from persona_lab.report.runs import label as label_of
from persona_lab.report.tables import PROMPTS_MEAN
from persona_lab.report.words import Tagger, distinct_words

INK, MUTED, OURS, PAPERS = "#1f2328", "#6a737d", "#2f6fb3", "#b35c1e"
VARIABLES = {INK: "--ink", MUTED: "--muted", OURS: "--ours", PAPERS: "--papers"}
MARKERS = "osD^vP*X"
COLOURS = (OURS, PAPERS, INK, MUTED)
DASHED = (0, (4, 3))
ROWS = ("adapter.rows_per_user", "adapter.max_rows")
"""Settings that change how many rows an adapter trains on, and nothing else."""

MARKS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("RMSE", {"marker": "o", "color": OURS}),
    ("RMSE expected", {"marker": "o", "color": OURS, "markerfacecolor": "none"}),
    ("the paper's", {"marker": "D", "color": PAPERS}),
    ("simple predictor", {"marker": "s", "color": MUTED}),
)
STYLE: dict[RcKeyType, Any] = {
    "svg.fonttype": "none",  # text stays text: readable, and in the page's own font
    "svg.hashsalt": "persona_lab",
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # text of runs is never read as mathematics
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


class Drawing(NamedTuple):
    """A figure: the name of its files, and what it shows in a few sentences."""

    name: str
    caption: str
    figure: Figure


def draw(report: Report, tagger: Tagger | None) -> tuple[Drawing, ...]:
    """Draw every figure that the report's runs have numbers for; no words without a tagger."""
    with mpl.rc_context(STYLE):
        return tuple(_drawings(report, tagger))


def save(drawings: Sequence[Drawing], folder: Path) -> list[Path]:
    """Write each drawing as PNG and PDF into a folder and return their paths."""
    folder.mkdir(exist_ok=True)
    paths = []
    with mpl.rc_context(STYLE):
        for name, _, figure in drawings:
            paths += [folder / f"{name}.png", folder / f"{name}.pdf"]
            figure.savefig(paths[-2], dpi=200)
            figure.savefig(paths[-1], metadata={"CreationDate": None})
    return paths


def inline_svg(drawing: Drawing) -> str:
    """Return a drawing as an `<svg>` whose colours are the page's CSS variables."""
    out = io.StringIO()
    # Ids are made of the salt: those of two drawings in one page must not meet.
    style: dict[RcKeyType, Any] = {**STYLE, "svg.hashsalt": drawing.name}
    with mpl.rc_context(style):
        none = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        drawing.figure.savefig(out, format="svg", transparent=True, metadata=none)
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    # Matplotlib numbers its groups from 1 in every drawing.
    svg = re.sub(r'<g id="(?=[\w.]+_\d+")', f'<g id="{drawing.name}_', svg)
    return re.sub(r"<svg ", '<svg role="img" ', svg, count=1)


def _drawings(report: Report, tagger: Tagger | None) -> Iterator[Drawing]:
    said = TEXTS["captions"]
    if report.runs:
        yield Drawing("intervals", said["intervals"], _intervals(report))
    sizes = _sizes(report)
    if len(sizes):
        yield Drawing("training_size", said["training_size"], _training_size(sizes))
    forecasting = [run for run in report.runs if run.result.beyond]
    if forecasting:
        yield Drawing("reliability", said["reliability"], _reliability(forecasting))
    # Runs share personas: the first run of each set stands for it.
    partitions: dict[str, tuple[str, dict[str, Any]]] = {}
    for run in report.runs:
        if run.personas is not None:
            key = run.result.keys.get("personas", run.name)
            partitions.setdefault(key, (run.label, run.personas))
    for number, (label, personas) in enumerate(partitions.values(), 1):
        suffix = "" if number == 1 else f"_{number}"
        caption = said["personas"].format(share=f"{sum(personas['explained']):.0%}", run=label)
        yield Drawing(f"personas{suffix}", caption, _personas(personas))
        if tagger is not None and len({user["persona"] for user in personas["users"]}) > 1:
            caption = said["words"].format(run=label)
            yield Drawing(f"words{suffix}", caption, _words(personas, tagger))


def _intervals(report: Report) -> Figure:
    sets = groups(report)
    heights = [len(group.lines) + len(group.main) + 1 for group in sets]
    drawn = Figure(figsize=(6.4, 0.9 + 0.26 * sum(heights)), layout="constrained")
    panels = drawn.subplots(
        len(sets), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
    )[:, 0]
    for axes, group in zip(panels, sets, strict=True):
        _panel(axes, group)
        if group.name:
            axes.set_title(f"test rows {group.name}")
    panels[-1].set_xlabel("RMSE in stars, lower is better")
    keys = [Line2D([], [], label=name, linestyle="none", markersize=5, **m) for name, m in MARKS]
    drawn.legend(handles=keys, loc="outside upper left", ncols=4, columnspacing=1, handletextpad=0)
    return drawn


def _panel(axes: Axes, group: Group) -> None:
    for y, line in enumerate(group.lines):
        for metric, shift, filled in (("rmse", -0.12, True), ("rmse_expected", 0.16, False)):
            ends = line.intervals.get(metric)
            if ends is None:
                continue
            if ends["low"] is not None:
                span, width = [ends["low"], ends["high"]], 1.6 if filled else 0.8
                axes.plot(span, [y + shift] * 2, color=OURS, linewidth=width)
            face = OURS if filled else "none"
            axes.plot(ends["value"], y + shift, "o", color=OURS, mfc=face, markersize=4.5)
        if line.first.papers:
            axes.plot(line.first.papers.rmse, y, "D", color=PAPERS, markersize=4)
    simple = [group.baselines[key]["rmse"] for key in group.main]
    ys = range(len(group.lines), len(group.lines) + len(simple))
    axes.plot(simple, [*ys], "s", color=MUTED, markersize=4, linestyle="none")
    if shown := group.baselines.get(PROMPTS_MEAN):
        axes.axvline(shown["rmse"], color=MUTED, linewidth=0.9, linestyle=DASHED, zorder=0)
    axes.axhline(len(group.lines) - 0.5, color=MUTED, linewidth=0.4)
    names = (*(line.label for line in group.lines), *(baseline_label(*key) for key in group.main))
    axes.set_yticks(range(len(names)), [*map(_short, names)], fontsize=8.5)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.spines["left"].set_visible(False)


def _sizes(report: Report) -> pd.DataFrame:
    """Training rows `n`, `rmse` and `mae` of those whom it rates, of every adapter; with a `label`.

    Runs that differ in their training rows alone are `connected`, adapter by adapter. Seeds stay
    apart: each clusters the users anew, so that their personas are others.
    """
    points = []
    for group in groups(report):
        for run in group.runs:
            row = run.result.row
            changed = {name: row.changed[name] for name in row.changed.keys() - {*ROWS}}
            same = [asdict(row) | {"changed": changed}, run.result.keys.get("personas")]
            alike = json.dumps([group.name, run.result.cohort, *same], sort_keys=True)
            for name, adapter in run.result.adapters.items():
                if scores := run.result.scores_of(name):
                    curve = f"{name.replace('_', ' ')}, {label_of(row)} · seed {row.seed}"
                    errors = (adapter["n_rows"], scores["rmse"], scores["mae"])
                    points.append((alike, run.label, curve, *errors))
    frame = pd.DataFrame(points, columns=["alike", "run", "curve", "n", "rmse", "mae"])
    sizes = frame.groupby(["alike", "run"], sort=False)["n"].agg(tuple)
    frame["connected"] = frame["alike"].map(sizes.groupby("alike").nunique().gt(1))
    frame["label"] = frame["curve"].where(frame["connected"], frame["run"])
    return frame


def _training_size(sizes: pd.DataFrame) -> Figure:
    series = list(sizes.groupby(["alike", "label", "connected"], sort=False))
    drawn = Figure(figsize=(8, 3.2 + 0.1 * len(series)), layout="constrained")
    panels = drawn.subplots(1, 2)
    for axes, metric in zip(panels, ("rmse", "mae"), strict=True):
        for i, ((_, label, connected), points) in enumerate(series):
            known = points.astype({metric: float}).dropna(subset=metric).sort_values(["n", metric])
            if len(known):
                colour = COLOURS[i % len(COLOURS)]
                axes.plot(
                    known["n"], known[metric], marker=MARKERS[i % len(MARKERS)],
                    linestyle="-" if connected else "none", linewidth=1.2, markersize=5,
                    color=colour, markerfacecolor=colour if i < len(MARKERS) else "none",
                    label=_short(str(label)),
                )  # fmt: skip
        axes.set(xlabel="training rows", ylabel=f"{metric.upper()} in stars")
    handles, labels = panels[0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8)
    return drawn


def _reliability(runs: Sequence[Run]) -> Figure:
    drawn, panels = _grid(len(runs), 2.1, 2.2)
    for axes, run in zip(panels, runs, strict=True):
        bins = run.result.beyond["reliability"]
        confidence, right = ([b[name] for b in bins] for name in ("confidence", "accuracy"))
        sizes = [6 + 60 * b["n"] / run.result.n_test for b in bins]
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=DASHED)
        axes.plot(confidence, right, color=OURS, linewidth=1)
        axes.scatter(confidence, right, s=sizes, color=OURS)
        axes.set_title(_short(run.label, 30), fontsize=7.5)
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    drawn.supxlabel("probability of the likeliest rating", fontsize=9)
    drawn.supylabel("share that was right", fontsize=9)
    return drawn


def _grid(n: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of n panels, four in a row."""
    columns, rows = min(4, n), -(-n // 4)
    drawn = Figure(figsize=(width * columns + 0.6, height * rows + 0.3), layout="constrained")
    panels = [drawn.add_subplot(rows, columns, i + 1) for i in range(n)]
    return drawn, panels


def _personas(personas: dict[str, Any]) -> Figure:
    """The map of users and, where several numbers of personas were tried, the elbow."""
    users, curve = pd.DataFrame(personas["users"]), pd.DataFrame(personas["curve"])
    metrics = [] if curve.empty else ["inertia", "silhouette"]
    drawn = Figure(figsize=(10 if metrics else 5, 3.4), layout="constrained")
    axes, *elbow = drawn.subplots(1, 1 + len(metrics), squeeze=False)[0]
    for i in sorted({user["persona"] for user in personas["users"]}):
        members = users[users["persona"] == i]
        axes.plot(
            members["x"], members["y"], MARKERS[i % len(MARKERS)],
            color=COLOURS[i % len(COLOURS)], markersize=5, alpha=0.8, linestyle="none",
            label=f"persona {i} ({len(members)})",
        )  # fmt: skip
    shares = [f"component {i} ({share:.0%})" for i, share in enumerate(personas["explained"], 1)]
    axes.set(xlabel=shares[0], ylabel=shares[1])
    drawn.legend(loc="outside lower left", ncols=4)
    for axes, metric in zip(elbow, metrics, strict=True):
        known = curve.dropna(subset=metric)
        if len(known):
            axes.plot(known["k"], known[metric], "o-", color=OURS, markersize=4, linewidth=1)
        axes.axvline(users["persona"].nunique(), color=MUTED, linewidth=0.9, linestyle=DASHED)
        axes.set(xlabel="number of personas", ylabel=metric)
        axes.xaxis.get_major_locator().set_params(integer=True)
    return drawn


def _words(personas: dict[str, Any], tagger: Tagger) -> Figure:
    users = pd.DataFrame(personas["users"])
    users["words"] = tagger(list(users["profile"]))
    words_of = {int(i): list(own) for i, own in users.groupby(users["persona"])["words"]}
    distinct = distinct_words(words_of)
    drawn, panels = _grid(len(distinct), 2.4, 2.4)
    for axes, (persona, words) in zip(panels, distinct.items(), strict=True):
        axes.barh([plain(word) for word, _ in words], [z for _, z in words], color=OURS)
        axes.invert_yaxis()
        axes.set(title=f"persona {persona}", xlabel="z")
        axes.tick_params(axis="y", length=0)
    return drawn


def _short(text: str, longest: int = 48) -> str:
    text = plain(text)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"

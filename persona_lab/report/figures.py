"""Report -> its figures: errors, training sizes, reliability, personas and their words.

One colour scale for page and print: the page turns the colours into its CSS variables. Pure but
for `save`.
"""

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.typing import RcKeyType

from persona_lab.report.cells import plain
from persona_lab.report.compare import Group, baseline_label, groups
from persona_lab.report.lines import Line
from persona_lab.report.runs import Report, Run
from persona_lab.report.runs import label as label_of
from persona_lab.report.tables import PROMPTS_MEAN
from persona_lab.report.words import Tagger, distinct_words

INK, MUTED, OURS, PAPERS = "#1f2328", "#6a737d", "#2f6fb3", "#b35c1e"
VARIABLES = {INK: "--ink", MUTED: "--muted", OURS: "--ours", PAPERS: "--papers"}
MARKERS = "osD^vP*X"
COLOURS = (OURS, PAPERS, INK, MUTED)
LONGEST_LABEL = 48
DASHED = (0, (4, 3))
ROWS = ("adapter.rows_per_user", "adapter.max_rows")
"""Settings that change how many rows an adapter trains on, and nothing else."""

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


@dataclass(frozen=True)
class Drawing:
    """A figure.

    Attributes:
        name: Of its files.
        caption: What it shows, in a few sentences.
        figure: Drawn.
    """

    name: str
    caption: str
    figure: Figure


def draw(report: Report, tagger: Tagger | None) -> tuple[Drawing, ...]:
    """Draw every figure that the report's runs have numbers for.

    Args:
        report: The runs.
        tagger: Finds nouns and adjectives; None leaves out the personas' words.
    """
    with mpl.rc_context(STYLE):
        return tuple(_drawings(report, tagger))


def save(drawings: Sequence[Drawing], folder: Path) -> list[Path]:
    """Write each drawing as PNG and PDF into a folder and return their paths."""
    folder.mkdir(exist_ok=True)
    paths = []
    with mpl.rc_context(STYLE):
        for drawing in drawings:
            paths += [folder / f"{drawing.name}.png", folder / f"{drawing.name}.pdf"]
            drawing.figure.savefig(paths[-2], dpi=200)
            drawing.figure.savefig(paths[-1], metadata={"CreationDate": None})
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
    if not report.runs:
        return
    yield Drawing(
        "intervals",
        "Each row's RMSE with its 95% interval, beside simple predictors on the same test rows. "
        "The dashed line is the item mean that the prompt shows: what a row has to beat.",
        _intervals(report),
    )
    if series := _series(report):
        yield Drawing(
            "training_size",
            "Error against the number of training rows (the paper's Figure 3): of each adapter, on "
            "the test rows of the users that it rates. A line connects runs that differ in nothing "
            "else. Different personas are different test users, some harder to predict than "
            "others: only a persona's own points can be compared, not the heights of two personas.",
            _training_size(series),
        )
    forecasting = [run for run in report.runs if run.result.beyond]
    if forecasting:
        yield Drawing(
            "reliability",
            "How often the likeliest rating was right, by the probability that the model gave it; "
            "on the line, probabilities are right. The mean gap is the calibration error (ECE).",
            _reliability(forecasting),
        )
    # Runs share personas: the first run of each set stands for it.
    partitions: dict[str, tuple[Run, dict[str, Any]]] = {}
    for run in report.runs:
        if run.personas is not None:
            key = run.result.keys.get("personas", run.name)
            partitions.setdefault(key, (run, run.personas))
    for number, (run, personas) in enumerate(partitions.values(), 1):
        suffix = "" if number == 1 else f"_{number}"
        yield Drawing(
            f"personas{suffix}",
            "Map of the users' profiles by persona: the first two principal components, "
            f"{sum(personas['explained']):.0%} of the variance. Beside it inertia and silhouette "
            f"of k-means by the number of personas, where these were tried ({run.label}).",
            _personas(personas),
        )
        if tagger is not None and len({user["persona"] for user in personas["users"]}) > 1:
            yield Drawing(
                f"words{suffix}",
                "Nouns and adjectives that set each persona's profiles apart from all others "
                f"(the paper's Figure 2), by the z-score of their log-odds ({run.label}).",
                _words(personas, tagger),
            )


def _intervals(report: Report) -> Figure:
    sets = groups(report)
    heights = [len(group.lines) + len(_simple(group)) + 1 for group in sets]
    drawn = Figure(figsize=(6.4, 0.9 + 0.26 * sum(heights)), layout="constrained")
    panels = drawn.subplots(
        len(sets), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
    )[:, 0]
    for axes, group in zip(panels, sets, strict=True):
        _panel(axes, group)
        if group.name:
            axes.set_title(f"test rows {group.name}")
    panels[-1].set_xlabel("RMSE in stars, lower is better")
    keys = [
        Line2D([], [], marker=marker, color=colour, markerfacecolor=face, linestyle="none",
               markersize=5, label=label)
        for marker, colour, face, label in (
            ("o", OURS, OURS, "RMSE"),
            ("o", OURS, "none", "RMSE expected"),
            ("D", PAPERS, PAPERS, "the paper's"),
            ("s", MUTED, MUTED, "simple predictor"),
        )
    ]  # fmt: skip
    drawn.legend(handles=keys, loc="outside upper left", ncols=4, columnspacing=1, handletextpad=0)
    return drawn


def _simple(group: Group) -> dict[str, float]:
    """Label -> RMSE of the simple predictors that every row is compared with."""
    return {_short(baseline_label(*key)): group.baselines[key]["rmse"] for key in group.main}


def _panel(axes: Axes, group: Group) -> None:
    simple = _simple(group)
    for y, line in enumerate(group.lines):
        _row(axes, y, line)
    ys = range(len(group.lines), len(group.lines) + len(simple))
    axes.plot([*simple.values()], [*ys], "s", color=MUTED, markersize=4, linestyle="none")
    if shown := group.baselines.get(PROMPTS_MEAN):
        axes.axvline(shown["rmse"], color=MUTED, linewidth=0.9, linestyle=DASHED, zorder=0)
    axes.axhline(len(group.lines) - 0.5, color=MUTED, linewidth=0.4)
    labels = [*(_short(line.label) for line in group.lines), *simple]
    axes.set_yticks(range(len(labels)), labels, fontsize=8.5)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.spines["left"].set_visible(False)


def _row(axes: Axes, y: int, line: Line) -> None:
    for metric, shift, filled in (("rmse", -0.12, True), ("rmse_expected", 0.16, False)):
        ends = line.intervals.get(metric)
        if ends is None:
            continue
        if ends["low"] is not None:
            width = 1.6 if filled else 0.8
            axes.plot([ends["low"], ends["high"]], [y + shift] * 2, color=OURS, linewidth=width)
        face = OURS if filled else "none"
        axes.plot(ends["value"], y + shift, "o", color=OURS, markerfacecolor=face, markersize=4.5)
    if line.first.papers:
        axes.plot(line.first.papers.rmse, y, "D", color=PAPERS, markersize=4)


Points = list[tuple[int, Mapping[str, Any]]]
"""Training rows of an adapter, and the errors of those whom it rates."""


def _series(report: Report) -> dict[tuple[str, bool], Points]:
    """(label, whether its points are connected) -> points.

    Runs that differ in their training rows alone are connected, adapter by adapter. Seeds stay
    apart: each clusters the users anew, so that their personas are others.
    """
    alike: dict[str, list[Run]] = {}
    for group in groups(report):
        for run in group.runs:
            if _sizes(run):
                row = run.result.row
                changed = {name: row.changed[name] for name in row.changed.keys() - {*ROWS}}
                same = [asdict(row) | {"changed": changed}, run.result.keys.get("personas")]
                key = json.dumps([group.name, run.result.cohort, *same], sort_keys=True)
                alike.setdefault(key, []).append(run)
    series: dict[tuple[str, bool], Points] = {}
    for runs in alike.values():
        row = runs[0].result.row
        setting = f"{label_of(row)} · seed {row.seed}"
        connected = len({tuple(n for _, n, _ in _sizes(run)) for run in runs}) > 1
        for run in runs:
            for adapter, n_rows, scores in _sizes(run):
                label = f"{adapter}, {setting}" if connected else run.label
                series.setdefault((label, connected), []).append((n_rows, scores))
    return series


def _sizes(run: Run) -> list[tuple[str, int, Mapping[str, Any]]]:
    """Name, training rows and errors of those whom it rates, of each adapter that has all three.

    A persona's adapter rates that persona, a single one everybody.
    """
    return [
        (name.replace("_", " "), adapter["n_rows"], scores)
        for name, adapter in run.result.adapters.items()
        if (scores := run.result.scores_of(name))
    ]


def _training_size(series: Mapping[tuple[str, bool], Points]) -> Figure:
    drawn = Figure(figsize=(8, 3.2 + 0.1 * len(series)), layout="constrained")
    panels = drawn.subplots(1, 2)
    for axes, metric in zip(panels, ("rmse", "mae"), strict=True):
        for i, ((label, connected), points) in enumerate(series.items()):
            known = [(n, scores[metric]) for n, scores in points if scores[metric] is not None]
            if known:
                colour = COLOURS[i % len(COLOURS)]
                axes.plot(
                    *zip(*sorted(known), strict=True), marker=MARKERS[i % len(MARKERS)],
                    linestyle="-" if connected else "none", linewidth=1.2, markersize=5,
                    color=colour, markerfacecolor=colour if i < len(MARKERS) else "none",
                    label=_short(label),
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
    users = pd.DataFrame(personas["users"])
    drawn = Figure(figsize=(10 if personas["curve"] else 5, 3.4), layout="constrained")
    metrics = ("inertia", "silhouette") if personas["curve"] else ()
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
        points = [(tried["k"], tried[metric]) for tried in personas["curve"]]
        known = [(k, value) for k, value in points if value is not None]
        if known:
            axes.plot(*zip(*known, strict=True), "o-", color=OURS, markersize=4, linewidth=1)
        axes.axvline(users["persona"].nunique(), color=MUTED, linewidth=0.9, linestyle=DASHED)
        axes.set(xlabel="number of personas", ylabel=metric)
        axes.xaxis.get_major_locator().set_params(integer=True)
    return drawn


def _words(personas: dict[str, Any], tagger: Tagger) -> Figure:
    words_of: dict[int, list[list[str]]] = {}
    tagged = tagger([user["profile"] for user in personas["users"]])
    for user, words in zip(personas["users"], tagged, strict=True):
        words_of.setdefault(user["persona"], []).append(words)
    distinct = sorted(distinct_words(words_of).items())
    drawn, panels = _grid(len(distinct), 2.4, 2.4)
    for axes, (persona, words) in zip(panels, distinct, strict=True):
        axes.barh([plain(word) for word, _ in words], [z for _, z in words], color=OURS)
        axes.invert_yaxis()
        axes.set(title=f"persona {persona}", xlabel="z")
        axes.tick_params(axis="y", length=0)
    return drawn


def _short(text: str, longest: int = LONGEST_LABEL) -> str:
    text = plain(text)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"

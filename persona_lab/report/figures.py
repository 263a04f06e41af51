"""Report -> its figures: intervals, reliability, training sizes, personas and their words.

One colour scale for page and print: the page turns the colours into its CSS variables. Pure but
for `save`.
"""

import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.typing import RcKeyType

from persona_lab.report import paper
from persona_lab.report.compare import Group, baseline_label, groups
from persona_lab.report.lines import Line
from persona_lab.report.runs import MEMORIES, Report, Run, told_apart
from persona_lab.report.tables import plain
from persona_lab.report.words import Tagger, distinct_words

INK, MUTED, OURS, PAPERS = "#1f2328", "#6a737d", "#2f6fb3", "#b35c1e"
VARIABLES = {INK: "--ink", MUTED: "--muted", OURS: "--ours", PAPERS: "--papers"}
MARKERS = "osD^vP*X"
COLOURS = (OURS, PAPERS, INK, MUTED)
LONGEST_LABEL = 48
ROWS = ("adapter.rows_per_user", "adapter.max_rows")
"""Settings that change how many rows an adapter trains on, and nothing else."""
OTHER_USERS = (
    "Different personas are different test users, some harder to predict than others: only a "
    "persona's own points can be compared, not the heights of two personas."
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


@dataclass(frozen=True)
class Drawing:
    """A figure.

    Attributes:
        name: Of its files.
        caption: What it shows, in a sentence.
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
        "RMSE of every row of Table 1 with 95% intervals, the paper's values, and the simple "
        "predictors on the same test rows; the dashed line is the item mean that the prompt shows.",
        _intervals(report),
    )
    forecasting = [run for run in report.runs if run.result.beyond]
    if forecasting:
        yield Drawing(
            "reliability",
            "How often the likeliest rating was right, by the probability that the model gave it; "
            "on the line, probabilities are right. The mean gap is the calibration error (ECE).",
            _reliability(forecasting),
        )
    curves, others = _curves(report)
    if others:
        yield Drawing(
            "training_size",
            "Error against the number of training rows (the paper's Figure 3): of each adapter, on "
            f"the test rows of the users that it rates. {OTHER_USERS}",
            _training_size(others),
        )
    for number, (title, runs) in enumerate(curves.items(), 1):
        yield Drawing(
            "learning_curve" if number == 1 else f"learning_curve_{number}",
            "Error against the number of training rows: a line per adapter, from runs that differ "
            f"in nothing else ({title}). {OTHER_USERS}",
            _learning_curve(runs),
        )
    for number, run in enumerate(_partitions(report), 1):
        assert run.personas is not None
        suffix = "" if number == 1 else f"_{number}"
        if run.personas["curve"]:
            yield Drawing(
                f"elbow{suffix}",
                f"Inertia and silhouette of k-means by the number of personas ({run.label}).",
                _elbow(run.personas),
            )
        yield Drawing(
            f"personas{suffix}",
            f"Map of the users' profiles by persona: the first two principal components, "
            f"{sum(run.personas['explained']):.0%} of the variance ({run.label}).",
            _map(run.personas),
        )
        if tagger is not None and len({user["persona"] for user in run.personas["users"]}) > 1:
            yield Drawing(
                f"words{suffix}",
                "Nouns and adjectives that set each persona's profiles apart from all others "
                f"(the paper's Figure 2), by the z-score of their log-odds ({run.label}).",
                _words(run.personas, tagger),
            )


def _partitions(report: Report) -> list[Run]:
    """The first run of each set of personas."""
    found = {}
    for run in report.runs:
        if run.personas is not None:
            found.setdefault(run.result.keys.get("personas", run.name), run)
    return list(found.values())


def _reliability(runs: Sequence[Run]) -> Figure:
    columns = min(4, len(runs))
    rows = -(-len(runs) // columns)
    drawn = Figure(figsize=(2.1 * columns + 0.6, 2.2 * rows + 0.3), layout="constrained")
    panels = drawn.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, run in zip(panels, runs, strict=False):
        bins = run.result.beyond["reliability"]
        given, right = ([each[name] for each in bins] for name in ("confidence", "accuracy"))
        sizes = [6 + 60 * each["n"] / run.result.n_test for each in bins]
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.plot(given, right, color=OURS, linewidth=1)
        axes.scatter(given, right, s=sizes, color=OURS)
        axes.set_title(_short(run.label, 30), fontsize=7.5)
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    for axes in panels[len(runs) :]:
        axes.set_visible(False)
    drawn.supxlabel("probability of the likeliest rating", fontsize=9)
    drawn.supylabel("share that was right", fontsize=9)
    return drawn


def _training_size(runs: Sequence[Run]) -> Figure:
    drawn = Figure(figsize=(8, 3.4), layout="constrained")
    panels = drawn.subplots(1, 2)
    for axes, metric in zip(panels, ("rmse", "mae"), strict=True):
        for number, run in enumerate(runs):
            found = [(n, scores[metric]) for _, n, scores in _sizes(run)]
            points = [(n, error) for n, error in found if error is not None]
            if points:
                marker, filled = MARKERS[number % len(MARKERS)], number < len(MARKERS)
                sizes, errors = zip(*sorted(points), strict=True)
                axes.plot(
                    sizes, errors, marker, color=OURS, markersize=5, label=_short(run.label),
                    markerfacecolor=OURS if filled else "none",
                )  # fmt: skip
        axes.set(xlabel="training rows", ylabel=f"{metric.upper()} in stars")
    handles, labels = panels[0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8)
    return drawn


def _curves(report: Report) -> tuple[dict[str, list[Run]], list[Run]]:
    """Runs with adapters: title -> those that differ in their training rows alone; and the rest.

    Seeds stay apart: each clusters the users anew, so that their personas are others.
    """
    alike: dict[str, list[Run]] = {}
    for group in groups(report):
        for run in group.runs:
            if any(_sizes(run)):
                row = run.result.row
                changed = {name: row.changed[name] for name in row.changed.keys() - {*ROWS}}
                same = [asdict(row) | {"changed": changed}, run.result.keys.get("personas")]
                key = json.dumps([group.name, run.result.cohort, *same], sort_keys=True)
                alike.setdefault(key, []).append(run)
    several = [runs for runs in alike.values() if len({*map(_trained, runs)}) > 1]
    named = told_apart([(_curve_title(runs[0]), runs[0].name) for runs in several])
    drawn = {run.name for runs in several for run in runs}
    others = [run for run in report.runs if any(_sizes(run)) and run.name not in drawn]
    return dict(zip(named, several, strict=True)), others


def _curve_title(run: Run) -> str:
    row = run.result.row
    adapter, memory = row.adapter, MEMORIES.get(row.memory, row.memory)
    return " · ".join(filter(None, [row.id, adapter, memory, f"seed {row.seed}"]))


def _trained(run: Run) -> tuple[int, ...]:
    return tuple(each["n_rows"] for each in run.result.adapters.values())


def _learning_curve(runs: Sequence[Run]) -> Figure:
    """A row of panels in which the points of an adapter are connected, over its runs."""
    points: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for run in runs:
        for name, size, scores in _sizes(run):
            points.setdefault(name, []).append((size, scores))
    drawn = Figure(figsize=(8, 3.4), layout="constrained")
    panels = drawn.subplots(1, 2)
    for axes, metric in zip(panels, ("rmse", "mae"), strict=True):
        for i, name in enumerate(points):
            found = [
                (n, scores[metric]) for n, scores in points[name] if scores[metric] is not None
            ]
            axes.plot(
                *zip(*sorted(found), strict=True), marker=MARKERS[i % len(MARKERS)], markersize=5,
                color=COLOURS[i % len(COLOURS)], linewidth=1.2, label=_spoken(name),
            )  # fmt: skip
        axes.set(xlabel="training rows", ylabel=f"{metric.upper()} in stars")
    handles, labels = panels[0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    return drawn


def _spoken(adapter: str) -> str:
    return _short(adapter.replace("_", " "), 24)


def _sizes(run: Run) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Name, training rows and errors of those whom it rates, of each adapter that has all three.

    A persona's adapter rates that persona, a single one everybody.
    """
    for name, adapter in run.result.adapters.items():
        scores = run.result.scores_of(name)
        if scores is not None:
            yield name, adapter["n_rows"], scores


def _elbow(personas: dict[str, Any]) -> Figure:
    curve, chosen = personas["curve"], len({user["persona"] for user in personas["users"]})
    drawn = Figure(figsize=(7, 2.6), layout="constrained")
    for axes, metric in zip(drawn.subplots(1, 2), ("inertia", "silhouette"), strict=True):
        points = [(each["k"], each[metric]) for each in curve if each[metric] is not None]
        if points:
            axes.plot(*zip(*points, strict=True), "o-", color=OURS, markersize=4, linewidth=1)
        axes.axvline(chosen, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
        axes.set(xlabel="number of personas", ylabel=metric)
        axes.xaxis.get_major_locator().set_params(integer=True)
    return drawn


def _map(personas: dict[str, Any]) -> Figure:
    drawn = Figure(figsize=(5.4, 4), layout="constrained")
    axes = drawn.subplots()
    for persona in sorted({user["persona"] for user in personas["users"]}):
        users = [user for user in personas["users"] if user["persona"] == persona]
        axes.plot(
            [user["x"] for user in users], [user["y"] for user in users],
            MARKERS[persona % len(MARKERS)], color=COLOURS[persona % len(COLOURS)],
            markersize=5, alpha=0.8, linestyle="none", label=f"persona {persona} ({len(users)})",
        )  # fmt: skip
    shares = [f"component {i} ({share:.0%})" for i, share in enumerate(personas["explained"], 1)]
    axes.set(**dict(zip(("xlabel", "ylabel"), shares, strict=True)))
    drawn.legend(loc="outside right upper")
    return drawn


def _words(personas: dict[str, Any], tagger: Tagger) -> Figure:
    tagged = tagger([user["profile"] for user in personas["users"]])
    words_of: dict[int, list[list[str]]] = {}
    for user, words in zip(personas["users"], tagged, strict=True):
        words_of.setdefault(user["persona"], []).append(words)
    found = sorted(distinct_words(words_of).items())
    columns = min(4, len(found))
    rows = -(-len(found) // columns)
    drawn = Figure(figsize=(2.4 * columns, 2.4 * rows), layout="constrained")
    panels = drawn.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(found) :]:
        axes.set_visible(False)
    for axes, (persona, words) in zip(panels, found, strict=False):
        axes.barh([plain(word) for word, _ in words], [z for _, z in words], color=OURS)
        axes.invert_yaxis()
        axes.set(title=f"persona {persona}", xlabel="z")
        axes.tick_params(axis="y", length=0)
    return drawn


def _intervals(report: Report) -> Figure:
    found = groups(report)
    heights = [len(group.lines) + len(_labelled(group)) + 1 for group in found]
    drawn = Figure(figsize=(8, 0.9 + 0.27 * sum(heights)), layout="constrained")
    panels = drawn.subplots(
        len(found), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
    )[:, 0]
    for axes, group in zip(panels, found, strict=True):
        _panel(axes, group)
        if group.name:
            axes.set_title(f"test rows {group.name}")
    for axes in panels:
        axes.spines["left"].set_visible(False)
    panels[-1].set_xlabel("RMSE in stars, lower is better; bars are 95% intervals")
    drawn.legend(handles=_keys(), loc="outside upper left", ncols=4)
    return drawn


def _panel(axes: Axes, group: Group) -> None:
    labels = [_short(line.label) for line in group.lines] + list(_labelled(group))
    for y, line in enumerate(group.lines):
        _row(axes, y, line)
    values = list(_labelled(group).values())
    ys = range(len(group.lines), len(labels))
    axes.plot(values, list(ys), "s", color=MUTED, markersize=4, linestyle="none")
    shown = group.baselines.get(("prompt", "prompt_mean"))
    if shown:
        axes.axvline(shown["rmse"], color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
    axes.axhline(len(group.lines) - 0.5, color=MUTED, linewidth=0.4)
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(labels) - 0.4, -0.6)


def _row(axes: Axes, y: int, line: Line) -> None:
    for metric, shift, filled in (("rmse", -0.12, True), ("rmse_expected", 0.16, False)):
        found = line.intervals.get(metric)
        if found is None:
            continue
        if found["low"] is not None:
            ends = [found["low"], found["high"]]
            axes.plot(ends, [y + shift] * 2, color=OURS, linewidth=1.6 if filled else 0.8)
        face = OURS if filled else "none"
        axes.plot(found["value"], y + shift, "o", color=OURS, markerfacecolor=face, markersize=4.5)
    numbers = line.first.papers
    if numbers:
        axes.plot(numbers.rmse, y, "D", color=PAPERS, markersize=4)


def _labelled(group: Group) -> dict[str, float]:
    """Name the baselines to draw: those that predict the same in every version once."""
    return {
        _short(baseline_label(version, name)): errors["rmse"]
        for (version, name), errors in group.baselines.items()
    }


def _short(text: str, longest: int = LONGEST_LABEL) -> str:
    text = plain(text)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


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

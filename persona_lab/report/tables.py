"""Report -> tables of plain text, which every output format shows alike. Pure.

All text from run folders passes through `plain`, so that no later step meets a control character.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeVar

from persona_lab.evaluation import Contrast, Judged, Verdict, off_diagonal
from persona_lab.report import paper
from persona_lab.report.compare import (
    FITTED,
    Comparison,
    Group,
    Pair,
    Predictor,
    against_best,
    against_predictors,
    baseline_label,
    claims,
    compared,
    groups,
    judged_setting,
    least,
    spoken,
    unvaried,
    verdict,
)
from persona_lab.report.lines import Line, alone
from persona_lab.report.runs import MEMORIES, Report, Run

NONE = "–"
CHOICES = ("setup", "data", "distiller", "embedder", "personas", "protocol", "decode", "peft")
SHOWN_RESPONSES = 5
POOLED = (
    "A row of several seeds counts its test rows under each of them, with intervals over users and "
    "seeds; mean ± SD is of the seeds' own RMSE."
)
OF_PROBABILITIES = (
    "Errors, scores and distances are better where lower, rank correlations where higher. "
    "Probabilities say more than how often each rating is given only where their score is below "
    "that of the training ratings' histogram; a rank correlation that does not exceed the average "
    "in the prompt may be read off it. Intervals are over users."
)

T = TypeVar("T")


class Column(NamedTuple):
    """A column's head and whether it holds numbers."""

    head: str
    numeric: bool = False


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        title: Its heading.
        columns: Heads.
        rows: Cells, one tuple per row.
        strong: Indices of the rows to set off.
        note: How to read it, where that is not plain.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    strong: frozenset[int] = frozenset()
    note: str = ""


Cells = dict[Column, Callable[[T], str]]
_Beyond = tuple[str, Mapping[str, Any]]
"""A label and what `beyond` says under it, or a part of that."""


def _table(
    title: str,
    cells: Cells[T],
    items: Iterable[T],
    strong: Iterable[int] = (),
    note: str = "",
) -> Table:
    columns = tuple(Column(plain(head), numeric) for head, numeric in cells)
    rows = tuple(tuple(plain(cell(item)) for cell in cells.values()) for item in items)
    return Table(plain(title), columns, rows, frozenset(strong), plain(note))


def plain(text: object) -> str:
    """Return text on one line without control characters (terminals obey them)."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def visible(text: object) -> str:
    """Return text with its line breaks, every other control character shown as its code."""
    return "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in str(text))


def number(value: float | None, sign: str = "") -> str:
    """Return a number with three decimals and a true minus, a dash for None."""
    return NONE if value is None else f"{value:{sign}.3f}".replace("-", "−")


def with_interval(
    interval: Mapping[str, Any] | None,
    sign: str = "",
    spoken: Callable[[float | None, str], str] = number,
) -> str:
    """Return `value [low, high]`, the value alone where there are no ends or nothing between."""
    if interval is None:
        return NONE
    value, low, high = (spoken(interval[name], sign) for name in ("value", "low", "high"))
    if interval["low"] is None or interval["low"] == interval["high"]:
        return value
    return f"{value} [{low}, {high}]"


def difference(found: Contrast | None, metric: str = "rmse") -> str:
    """Return a difference with its interval."""
    return with_interval(found and vars(found.differences[metric]), "+")


def too_small(detectable: Iterable[float | None], rows: str = "these test rows") -> str:
    """Say which differences in RMSE are easily missed, nothing where no size is known.

    Args:
        detectable: Of each pair that is compared, see `evaluation.Difference`.
        rows: What they are compared on.
    """
    sizes = [number(each) for each in sorted(each for each in detectable if each)]
    if not sizes:
        return ""
    most = f" ({sizes[-1]} for some pairs)" if sizes[-1] != sizes[0] else ""
    return (
        f"Differences in RMSE below {sizes[0]}{most} cannot reliably be told apart on {rows}: a "
        "true one of that size shows four times in five, a smaller one less often."
    )


def model(run: Run) -> str:
    """Return a run's model, marked where it stands in for the paper's."""
    return f"{run.result.row.model} (stand-in)" if run.stands_in else run.result.row.model


def main_table(report: Report) -> Table:
    """Return the paper's Table 1 with our numbers: a row per configuration, its seeds together."""
    place = {run.name: i for i, run in enumerate(report.runs)}
    shown = [line for group in groups(report) for line in group.lines]
    return _table_1("Table 1", report, sorted(shown, key=lambda line: place[line.first.name]))


def by_seed_table(report: Report) -> Table:
    """Return Table 1 with a row per run; without rows where the main table has these already."""
    pooled = any(len(line.runs) > 1 for group in groups(report) for line in group.lines)
    return _table_1("Table 1 by seed", report, [alone(run) for run in report.runs if pooled])


def _table_1(title: str, report: Report, shown: Sequence[Line]) -> Table:
    found = groups(report)
    name_of = {run.name: group.name for group in found for run in group.runs}
    pooled = any(len(line.runs) > 1 for line in shown)
    cells: Cells[Line] = {
        Column("row"): lambda line: line.first.result.row.id or NONE,
        Column("model"): lambda line: model(line.first),
        Column("adapter"): lambda line: NONE if line.adapter == "none" else line.adapter,
        Column("memory"): lambda line: _memory(line.first.result.row.memory),
    }
    for choice in CHOICES if pooled else (*CHOICES, "seed"):
        if len({getattr(run.result.row, choice) for run in report.runs}) > 1:
            cells[Column(choice)] = lambda line, choice=choice: str(
                getattr(line.first.result.row, choice)
            )
    if len({run.result.cohort for run in report.runs}) > 1:
        cells[Column("users")] = lambda line: line.first.result.cohort
    if len(found) > 1:
        cells[Column("test rows")] = lambda line: name_of[line.first.name]
    common = changed_alike(report.runs)
    if any(run.result.row.changed.keys() - common for run in report.runs):
        cells[Column("changed")] = lambda line: _changed(line.first, common)
    if pooled:
        cells[Column("seeds", True)] = lambda line: str(len(line.runs))
    cells[Column("RMSE [95%]", True)] = lambda line: with_interval(line.intervals.get("rmse"))
    if pooled:
        cells[Column("RMSE by seed: mean ± SD", True)] = _by_seed
    cells |= {
        Column("MAE [95%]", True): lambda line: with_interval(line.intervals.get("mae")),
        Column("URR [95%]", True): lambda line: with_interval(
            line.intervals.get("urr"), spoken=percent
        ),
        Column("n", True): _answered,
        Column("RMSE expected [95%]", True): lambda line: with_interval(
            line.intervals.get("rmse_expected")
        ),
        Column("digit mass", True): lambda line: number(line.metrics.get("digit_mass")),
        Column(f"{paper.HEAD}: RMSE / MAE / URR", True): lambda line: _papers(line.first),
    }
    return _table(title, cells, shown, note=POOLED if pooled else "")


def _memory(memory: str) -> str:
    return MEMORIES.get(memory, memory)


def _by_seed(line: Line) -> str:
    return NONE if line.rmse_by_seed is None else " ± ".join(map(number, line.rmse_by_seed))


def percent(share: float | None, sign: str = "") -> str:
    """Return a share in percent, a dash for None."""
    return NONE if share is None else f"{100 * share:{sign}.2f}%"


def _answered(line: Line) -> str:
    """The rows behind RMSE and MAE, and out of how many where some had no rating."""
    n, seeds = line.first.result.n_test, len(line.runs)
    every = f"{seeds} × {n:,}" if seeds > 1 else f"{n:,}"
    return f"{seeds * n - line.n_unrelated:,} of {every}" if line.n_unrelated else every


def _papers(run: Run) -> str:
    numbers = run.papers
    if numbers is None:
        return NONE
    return f"{numbers.rmse:.3f} / {numbers.mae:.3f} / {numbers.urr_percent:.2f}%"


def _changed(run: Run, but: Iterable[str] = ()) -> str:
    return settings(run.result.row.changed, but) or NONE


def settings(changed: dict[str, Any], but: Iterable[str] = ()) -> str:
    """Return changed settings in one line, without those named."""
    shown = sorted(changed.keys() - {*but})
    return ", ".join(f"{name}={_value(changed[name])}" for name in shown)


def changed_alike(runs: Sequence[Run]) -> dict[str, Any]:
    """Return what every run changed alike."""
    first, *others = [run.result.row.changed for run in runs] or [{}]
    absent = object()
    return {
        name: value
        for name, value in first.items()
        if all(changed.get(name, absent) == value for changed in others)
    }


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def predictors_table(group: Group, kind: Literal["decoded", "expected"]) -> Table:
    """Return every row of Table 1 minus the main simple predictors; no rows without these.

    Args:
        group: The runs.
        kind: The ratings to compare. Where every row's decoding is of expected ratings there is
            but that one table.
    """
    keys = group.main
    found = against_predictors(group)
    decoded = [line for line in group.lines if line.first.result.row.decode != "expected"]
    lines = group.lines if keys and (decoded or kind == "expected") else ()

    def cell(line: Line, key: Predictor) -> str:
        each = found[line, key]
        return _with_verdict(each and getattr(each, kind))

    cells: Cells[Line] = {Column("row"): lambda line: line.label}
    for key in keys:
        cells[Column(f"minus {baseline_label(*key)} [95%]", True)] = lambda line, key=key: cell(
            line, key
        )
    suffix = ", expected ratings" if kind == "expected" else ""
    title = f"Every row against simple predictors{suffix}{where(group)}"
    return _table(title, cells, lines, note=_predictors_note(group, kind))


def _with_verdict(found: Contrast | None) -> str:
    return f"{difference(found)} {verdict(found)}" if found else NONE


def _predictors_note(group: Group, kind: Literal["decoded", "expected"]) -> str:
    """Say what the p of comparisons with simple predictors are corrected for.

    Tables of these, of all rows and of the best one, are one family.
    """
    found = against_predictors(group)
    contrasts = [each and getattr(each, kind) for each in found.values()]
    what = "differences from simple predictors on these test rows"
    return " ".join(filter(None, [correction(contrasts, what), smallest(contrasts)]))


def correction(found: Iterable[Contrast | None], what: str) -> str:
    """Say for how many differences p was corrected, nothing where there is but one."""
    n = sum(each is not None for each in found)
    return f"Lower and higher are said after Holm's correction for {n:,} {what}." if n > 1 else ""


def smallest(found: Iterable[Contrast | None]) -> str:
    """Say which differences in RMSE are easily missed."""
    return too_small(map(least, found))


def baseline_table(group: Group) -> Table:
    """Return the simple predictors on a group's test rows, and its best row minus each."""
    best, found = group.best, against_predictors(group)

    def minus(kind: str) -> Callable[[Predictor], str]:
        def cell(key: Predictor) -> str:
            each = found[best, key] if best else None
            return _with_verdict(each and getattr(each, kind))

        return cell

    def errors(*metrics: str) -> Callable[[Predictor], str]:
        return lambda key: " / ".join(number(group.baselines[key].get(m)) for m in metrics)

    cells: Cells[Predictor] = {
        Column("predictor"): lambda key: spoken(key[1]),
        Column("fitted on"): lambda key: NONE if unvaried(key[1]) else FITTED.get(key[0], key[0]),
        Column("RMSE / MAE", True): errors("rmse", "mae"),
    }
    if best is not None:
        named = _told(best, group)
        if best.first.result.row.decode != "expected":
            cells[Column(f"{named} minus this [95%]", True)] = minus("decoded")
        cells[Column(f"{named} expected minus this [95%]", True)] = minus("expected")
    cells |= {
        Column("rounded: RMSE / MAE", True): errors("rmse_rounded", "mae_rounded"),
        Column("unseen rows", True): lambda key: f"{group.baselines[key].get('fallback', 0):,}",
    }
    shown = group.predictors
    strong = [i for i, (version, _) in enumerate(shown) if version == "prompt"]
    title = f"Simple predictors on the same test rows{where(group)}"
    note = _predictors_note(group, "decoded") if best else ""
    return _table(title, cells, shown, strong, note)


def _told(line: Line, group: Group) -> str:
    """A line's row of Table 1 where no other line of the group has it, else its label."""
    row = line.first.result.row.id
    alike = sum(each.first.result.row.id == row for each in group.lines)
    return row if row and alike == 1 else line.label


def where(group: Group) -> str:
    """Return what names a group's test rows behind a title, nothing where there is one group."""
    return f", test rows {group.name}" if group.name else ""


def contrast_table(group: Group) -> Table:
    """Return the lines of an adapter per persona minus those that differ in the adapter alone."""
    return _differences(f"One adapter per persona against others{where(group)}", compared(group))


def claims_table(group: Group, testable: bool = True) -> Table:
    """Return what the paper says of its Table 1 and whether a group's rows bear it out.

    Args:
        group: The runs.
        testable: Whether to return the claims that they can test, or those that they cannot.
    """
    judged = [each for each in claims(group) if (each.judgement != "not testable") == testable]
    setting = judged_setting(group)
    behind = f"{where(group)}{f', judged by {setting}' if setting else ''}"
    if not testable:
        missing: Cells[Judged] = {
            Column("claim"): lambda each: each.text,
            Column("rows"): lambda each: each.name,
            Column("why"): lambda each: each.why,
        }
        return _table(f"Claims that cannot be tested{behind}", missing, judged)
    cells: Cells[Judged] = {
        Column("claim"): lambda each: each.text,
        Column("stands in"): lambda each: _SOURCES[each.source],
        Column("rows"): lambda each: each.name,
        Column("judgement"): lambda each: (
            f"{each.judgement}: {each.why}" if each.why else each.judgement
        ),
        Column("RMSE [95%]", True): _rests_on,
        Column("p after Holm", True): _p_after_holm,
        Column("MAE [95%]", True): lambda each: difference(each.contrast, "mae"),
        Column("seeds", True): lambda each: NONE if each.seeds is None else str(each.seeds),
        Column("detectable from", True): lambda each: number(least(each.contrast)),
    }
    played = dict.fromkeys(model(line.first) for line in group.lines)
    note = f"Asked of {', '.join(played)}, not of the paper's own runs."
    return _table(f"What the paper claims{behind}", cells, judged, note=note)


_SOURCES = {"text": "the paper", "table": "its table alone", "ours": "no paper: ours"}


def _rests_on(judged: Judged) -> str:
    if judged.shares:
        return "; ".join(
            f"{row} {with_interval(vars(share), spoken=percent)}"
            for row, share in judged.shares.items()
        )
    return difference(judged.contrast)


def _p_after_holm(judged: Judged) -> str:
    return number(judged.contrast.adjusted.get("rmse")) if judged.contrast else NONE


def between_rows(group: Group) -> Table:
    """Return each row of a group minus its best one."""
    title = f"Rows against the one with the lowest RMSE{where(group)}"
    return _differences(title, against_best(group))


def _differences(title: str, found: Mapping[Pair, Comparison | None]) -> Table:
    decoded = {pair: each and each.decoded for pair, each in found.items()}
    expected = {pair: each and each.expected for pair, each in found.items()}

    def of(kind: Mapping[Pair, Contrast | None], metric: str = "rmse") -> Callable[[Pair], str]:
        return lambda pair: difference(kind[pair], metric)

    def checked(pair: Pair) -> str:
        each = decoded[pair]
        return with_interval(each and each.check and vars(each.check["rmse"]), "+")

    cells: Cells[Pair] = {
        Column("row"): lambda pair: pair[0].label,
        Column("minus"): lambda pair: pair[1].label,
        Column("RMSE [95%]", True): of(decoded),
        Column("difference"): lambda pair: verdict(decoded[pair]),
        Column("MAE [95%]", True): of(decoded, "mae"),
        Column("on n", True): lambda pair: f"{each.n:,}" if (each := decoded[pair]) else NONE,
    }
    if any(each and each.check for each in decoded.values()):
        cells[Column("RMSE on all rows, unrelated as the user's mean", True)] = checked
    cells |= {
        Column("detectable from", True): lambda pair: number(least(decoded[pair])),
        Column("RMSE expected [95%]", True): of(expected),
        Column("difference expected"): lambda pair: verdict(expected[pair]),
    }
    shown = [*decoded.values()]
    note = f"{correction(shown, 'differences of this table')} {smallest(shown)}"
    return _table(title, cells, found, note=note)


def matrix_table(run: Run) -> Table:
    """Return the error of each of a run's adapters on the users of each; no rows without a matrix.

    The difference to the users' own adapter is of the expected ratings, and so is the error.
    """
    found = {(each["adapter"], each["users"]): each for each in run.result.matrix}
    cells: Cells[str] = {Column("adapter"): str}
    for users, n in {users: each["n_users"] for (_, users), each in found.items()}.items():
        head = "users without an adapter" if users is None else f"users of {users}"
        cells[Column(f"{head} ({n:,})", True)] = lambda adapter, users=users: _crossed(
            found[adapter, users]
        )
    title = f"RMSE expected of every adapter on the users of each: {run.label}"
    return _table(title, cells, dict.fromkeys(adapter for adapter, _ in found), note=_diagonal(run))


def _crossed(cell: dict[str, Any]) -> str:
    error = number(cell["rmse_expected"])
    if cell["difference"] is None:
        return error
    return f"{error}, {with_interval(cell['difference']['rmse'], '+')}"


def _diagonal(run: Run) -> str:
    said = [verdict(each) for each in off_diagonal(run.result.matrix)]
    return (
        "A column is of the same users: on the diagonal their own adapter rates them, off it "
        "another one, with its error minus their own one's [95%]; adapters fit their users where "
        "the diagonal is lowest. Beyond noise, after Holm's correction, "
        f"{said.count(Verdict.HIGHER)} of {len(said)} cells off the diagonal are higher than the "
        f"diagonal's, {said.count(Verdict.LOWER)} lower."
    )


def slices_table(report: Report) -> Table:
    """Return every run's errors on parts of the test rows: one part's runs below each other."""
    parts = [(run, part) for run in report.runs for part in run.result.beyond.get("slices", ())]
    order = list(dict.fromkeys(_part(part) for _, part in parts))

    def errors(suffix: str = "") -> Callable[[tuple[Run, dict[str, Any]]], str]:
        return lambda item: " / ".join(number(item[1][f"{m}{suffix}"]) for m in ("rmse", "mae"))

    cells: Cells[tuple[Run, dict[str, Any]]] = {
        Column("test rows of"): lambda item: _part(item[1]),
        Column("run"): lambda item: item[0].label,
        Column("users", True): lambda item: f"{item[1]['n_users']:,}",
        Column("rows", True): lambda item: f"{item[1]['n']:,}",
        Column("without a rating", True): lambda item: f"{item[1]['n_unrelated']:,}",
        Column("RMSE / MAE", True): errors(),
        Column("RMSE / MAE expected", True): errors("_expected"),
    }
    title = "By persona, activity, history and popularity"
    return _table(title, cells, sorted(parts, key=lambda item: order.index(_part(item[1]))))


def _part(part: dict[str, Any]) -> str:
    return f"{part['slice']} {part['value']}"


def beyond_table(report: Report) -> Table:
    """Return what an error does not show: of the probabilities, the ranks and the histograms.

    Below the runs stands what simple predictors reach on the same rows.
    """

    def plainly(*path: str) -> Callable[[_Beyond], str]:
        def cell(item: _Beyond) -> str:
            found: Any = item[1]
            for name in path:
                found = None if found is None else found.get(name)
            return number(found)

        return cell

    def score(item: _Beyond) -> str:
        return with_interval(item[1].get("rps_interval", {"value": item[1].get("rps")} | bare))

    def ranks(item: _Beyond) -> str:
        return with_interval(bare | item[1].get("spearman", {"value": None}))

    def users(item: _Beyond) -> str:
        return f"{item[1]['spearman']['n_users']:,}" if "spearman" in item[1] else NONE

    bare = {"low": None, "high": None}  # results of earlier versions have no ends
    cells: Cells[_Beyond] = {
        Column("run"): lambda item: item[0],
        Column("calibration error (ECE)", True): plainly("ece"),
        Column("ranked probability score [95%]", True): score,
        Column("rank correlation within users [95%]", True): ranks,
        Column("of users", True): users,
        Column("histograms' distance in stars", True): plainly("wasserstein", "decoded"),
        Column("histograms' distance expected", True): plainly("wasserstein", "expected"),
        Column("users' mean RMSE expected", True): plainly("macro", "rmse"),
        Column("users' mean MAE expected", True): plainly("macro", "mae"),
    }
    runs = [(run.label, run.result.beyond) for run in report.runs if run.result.beyond]
    references = _references(report)
    strong = range(len(runs), len(runs) + len(references))
    note = OF_PROBABILITIES if references else ""
    return _table("Calibration, ranks and histograms", cells, [*runs, *references], strong, note)


def _references(report: Report) -> list[_Beyond]:
    """What simple predictors reach, each once; one that is another in a later run with that run."""
    found: dict[str, Mapping[str, Any]] = {}
    for group in groups(report):
        for run in group.runs:
            for name, reached in _reached(run):
                label = f"reference: {name}{where(group)}"
                if found.setdefault(label, reached) != reached and reached not in found.values():
                    found[f"{label}, in {run.label}"] = reached
    return [*found.items()]


def _reached(run: Run) -> Iterator[_Beyond]:
    given = run.result.beyond.get("references")
    if given:
        yield "histogram of the training ratings, for every row", {"rps_interval": given["rps"]}
        for name, ranks in given["spearman"].items():
            version, _, predictor = name.partition("/")
            yield baseline_label(version, predictor), {"spearman": ranks}


def responses_table(report: Report) -> Table:
    """Return the most frequent responses without a rating, each with a row that got it."""
    items = [
        (run, each)
        for run in report.runs
        for each in run.result.beyond.get("responses", ())[:SHOWN_RESPONSES]
    ]
    cells: Cells[tuple[Run, dict[str, Any]]] = {
        Column("run"): lambda item: item[0].label,
        Column("response"): lambda item: json.dumps(item[1]["response"], ensure_ascii=False),
        Column("rows", True): lambda item: f"{item[1]['n']:,}",
        Column("for instance"): lambda item: (
            f"user {item[1]['user_id']}, movie {item[1]['item_id']}"
        ),
    }
    return _table("The most frequent responses without a rating", cells, items)


def unrelated_table(report: Report) -> Table:
    """Return what RMSE and MAE would be if unrelated responses counted (decision 13)."""
    cells: Cells[Run] = {
        Column("run"): lambda run: run.label,
        Column("without a rating", True): lambda run: f"{run.result.n_unrelated:,}",
    }
    for variant, head in (
        ("", "left out"),
        ("_user_mean", "as the user's mean"),
        ("_midpoint", "as 3"),
        ("_worst", "as the farthest rating"),
    ):
        cells[Column(f"{head}: RMSE / MAE", True)] = lambda run, v=variant: " / ".join(
            number(run.result.metrics.get(f"{metric}{v}")) for metric in ("rmse", "mae")
        )
    runs = [run for run in report.runs if run.result.n_unrelated]
    return _table("If responses without a rating counted", cells, runs)


def time_table(report: Report) -> Table:
    """Return seconds and rows per second of each stage, and what each run cost."""
    stages = list(dict.fromkeys(stage for run in report.runs for stage in run.result.timing))
    costs = list(dict.fromkeys(name for run in report.runs for name in run.result.cost))

    def seconds(stage: str) -> Callable[[Run], str]:
        def cell(run: Run) -> str:
            timing = run.result.timing.get(stage)
            if timing is None:
                return NONE
            rate = timing.get("rows_per_second")
            took = f"{timing['seconds']:,.1f} s"
            return took if rate is None else f"{took} ({rate:,.1f} rows/s)"

        return cell

    cells: Cells[Run] = {Column("run"): lambda run: run.label}
    cells |= {Column(stage, True): seconds(stage) for stage in stages}
    cells[Column("total", True)] = lambda run: (
        f"{sum(t['seconds'] or 0 for t in run.result.timing.values()):,.1f} s"
    )
    for name in costs:
        cells[Column(name, True)] = lambda run, name=name: (
            f"{round(run.result.cost.get(name, 0), 4):,}"
        )
    cells[Column("row reused")] = lambda run: "yes" if run.result.reused else "no"
    return _table("Time and cost", cells, report.runs)


def settings_table(report: Report) -> Table:
    """Return every run's choices and what it changed from the defaults."""
    cells: Cells[Run] = {
        Column("folder"): lambda run: run.name,
        Column("run"): lambda run: run.label,
    }
    for choice in ("role", "model", *CHOICES, "seed"):
        cells[Column(choice)] = lambda run, choice=choice: str(getattr(run.result.row, choice))
    cells[Column("users")] = lambda run: run.result.cohort
    cells[Column("changed from the defaults")] = _changed
    return _table("Settings", cells, report.runs)


def provenance_table(report: Report, title: str, field: str) -> Table:
    """Return `versions` or `keys` of all runs."""
    return _by_runs(
        report,
        title,
        (Column("name"), Column("value")),
        lambda run: ((name, str(value)) for name, value in getattr(run.result, field).items()),
    )


def written_table(report: Report) -> Table:
    """Return what was left out, written and dropped before a model saw it, and learned from."""

    def counts(run: Run) -> Iterator[tuple[str, ...]]:
        result = run.result
        trained = {name: each["n_rows"] for name, each in result.adapters.items()}
        for what, found in (
            ("lines of the ratings left out", result.skipped),
            ("memories", result.distillation),
            ("training rows of an adapter", trained),
            ("cut from test prompts", result.cuts),
        ):
            for name, n in found.items():
                yield what, name.replace("_", " "), f"{n:,}"

    columns = (Column("what"), Column("name"), Column("number", True))
    return _by_runs(report, "Left out, written, dropped, trained on", columns, counts)


def audit_table(report: Report) -> Table:
    """Return where test ratings, and answers to training rows, were looked for and found."""

    def found_in(run: Run) -> Iterator[tuple[str, ...]]:
        for each in run.result.audit:
            note = each.get("note", "")  # an audit of before has none
            examples = note or "; ".join(each["examples"]) or NONE
            counts = (f"{each['checked']:,}", NONE if note else f"{each['found']:,}")
            yield each["place"], each["what"], *counts, examples

    numbers = (Column("checked", True), Column("found", True))
    columns = (Column("place"), Column("looked for: what"), *numbers, Column("for instance"))
    found = _by_runs(report, "Audit: test ratings in what prompts are made of", columns, found_in)
    strong = frozenset(i for i, row in enumerate(found.rows) if row[3] not in ("0", NONE))
    return replace(found, strong=strong)


def _by_runs(
    report: Report,
    title: str,
    columns: tuple[Column, ...],
    rows_of: Callable[[Run], Iterable[tuple[str, ...]]],
) -> Table:
    """One row for each distinct one that runs have, with those runs; by its first cell."""
    having: dict[tuple[str, ...], list[str]] = {}
    for run in report.runs:
        for row in rows_of(run):
            having.setdefault(row, []).append(run.label)
    order = list(dict.fromkeys(row[0] for row in having))
    cells: Cells[tuple[str, ...]] = {
        column: lambda row, i=i: row[i] for i, column in enumerate(columns)
    }
    n = len(report.runs)
    cells[Column("runs")] = lambda row: (
        "every run" if len(having[row]) == n else "; ".join(having[row])
    )
    return _table(title, cells, sorted(having, key=lambda row: order.index(row[0])))


def failure_table(report: Report) -> Table:
    """Return the runs without a result."""
    cells: Cells[Any] = {
        Column("run"): lambda failure: failure.name,
        Column("state"): lambda failure: failure.state,
        Column("error"): lambda failure: failure.error or NONE,
        Column("overrides"): lambda failure: " ".join(failure.overrides) or NONE,
    }
    total = len(report.runs) + len(report.failures)
    title = f"{len(report.failures)} of {total} runs failed or did not finish"
    return _table(title, cells, report.failures)


def leading(report: Report) -> tuple[Table, ...]:
    """Return the tables that answer the question, the main one first, without the empty ones."""
    tables = [main_table(report)]
    for group in groups(report):
        tables += [contrast_table(group), claims_table(group)]
        tables += [predictors_table(group, "decoded"), predictors_table(group, "expected")]
        tables.append(baseline_table(group))
    tables += map(matrix_table, report.runs)
    return tuple(table for table in tables if table.rows)


def details(report: Report) -> tuple[Table, ...]:
    """Return all other tables but that of failures, without the empty ones."""
    tables = [
        by_seed_table(report),
        *(between_rows(group) for group in groups(report)),
        *(claims_table(group, testable=False) for group in groups(report)),
        beyond_table(report),
        slices_table(report),
        unrelated_table(report),
        responses_table(report),
        audit_table(report),
        time_table(report),
        settings_table(report),
        written_table(report),
        provenance_table(report, "Versions", "versions"),
        provenance_table(report, "Keys in the store", "keys"),
    ]
    return tuple(table for table in tables if table.rows)

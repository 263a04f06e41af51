"""Report -> tables of plain text, which every output format shows alike. Pure.

All text from run folders passes through `plain`, so that no later step meets a control character.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

from persona_lab.evaluation import Judged
from persona_lab.report import paper
from persona_lab.report.compare import (
    FITTED,
    NAMES,
    UNVARIED,
    Difference,
    Group,
    against,
    against_baseline,
    against_best,
    both_readings,
    claims,
    contrasts,
    groups,
    judged_setting,
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
_Compared = tuple[Line, Line, Difference | None]


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


def with_interval(interval: Mapping[str, Any] | None, sign: str = "") -> str:
    """Return `value [low, high]`, the value alone where there are no ends or nothing between."""
    if interval is None:
        return NONE
    if interval["low"] is None or interval["low"] == interval["high"]:
        return number(interval["value"], sign)
    ends = f"[{number(interval['low'], sign)}, {number(interval['high'], sign)}]"
    return f"{number(interval['value'], sign)} {ends}"


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
        Column("MAE", True): lambda line: number(line.metrics["mae"]),
        Column("URR", True): lambda line: percent(line.metrics["urr"]),
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


def percent(share: float | None) -> str:
    """Return a share in percent, a dash for None."""
    return NONE if share is None else f"{100 * share:.2f}%"


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


def baseline_table(group: Group) -> Table:
    """Return the simple predictors on a group's test rows, and its best run minus each."""
    best = group.best

    def compared(best: Run, prediction: str) -> Callable[[tuple[str, str]], str]:
        def cell(key: tuple[str, str]) -> str:
            record = against_baseline(best, *key, prediction)
            if record is None:
                return NONE
            said = verdict(*both_readings(record))
            return f"{with_interval(record['rmse'], '+')} {said}"

        return cell

    def errors(*metrics: str) -> Callable[[tuple[str, str]], str]:
        return lambda key: " / ".join(number(group.baselines[key].get(m)) for m in metrics)

    cells: Cells[tuple[str, str]] = {
        Column("predictor"): lambda key: NAMES.get(key[1], key[1]),
        Column("fitted on"): lambda key: NONE if key[1] in UNVARIED else FITTED.get(key[0], key[0]),
        Column("RMSE / MAE", True): errors("rmse", "mae"),
    }
    if best is not None:
        best_id = best.result.row.id or best.name
        if any(best in line.runs and len(line.runs) > 1 for line in group.lines):
            best_id += f", seed {best.result.row.seed}"
        if best.result.row.decode != "expected":
            cells[Column(f"{best_id} minus this [95%]", True)] = compared(best, "decoded")
        cells[Column(f"{best_id} expected minus this [95%]", True)] = compared(best, "expected")
    cells |= {
        Column("rounded: RMSE / MAE", True): errors("rmse_rounded", "mae_rounded"),
        Column("unseen rows", True): lambda key: f"{group.baselines[key].get('fallback', 0):,}",
    }
    shown = [key for key in group.baselines if key[1] not in UNVARIED or key[0] != "cohort"]
    strong = [i for i, (version, _) in enumerate(shown) if version == "prompt"]
    title = f"Simple predictors on the same test rows{where(group)}"
    return _table(title, cells, shown, strong, too_small(_told_from_best(group)))


def _told_from_best(group: Group) -> Iterator[float | None]:
    """Smallest difference that would show between the best run and each simple predictor."""
    if (best := group.best) is not None:
        prediction = "expected" if best.result.row.decode == "expected" else "decoded"
        for record in best.result.comparisons:
            if record["prediction"] == prediction:
                yield record["rmse"].get("detectable")


def where(group: Group) -> str:
    """Return what names a group's test rows behind a title, nothing where there is one group."""
    return f", test rows {group.name}" if group.name else ""


def contrast_table(group: Group) -> Table:
    """Return the lines of an adapter per persona minus those that differ in the adapter alone."""
    return _differences(f"One adapter per persona against others{where(group)}", contrasts(group))


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
        Column("MAE [95%]", True): lambda each: with_interval(_difference(each, "mae"), "+"),
        Column("seeds", True): lambda each: NONE if each.seeds is None else str(each.seeds),
        Column("detectable from", True): lambda each: number(_detectable(each)),
    }
    played = dict.fromkeys(model(line.first) for line in group.lines)
    note = f"Asked of {', '.join(played)}, not of the paper's own runs."
    return _table(f"What the paper claims{behind}", cells, judged, note=note)


_SOURCES = {"text": "the paper", "table": "its table alone", "ours": "no paper: ours"}


def _rests_on(judged: Judged) -> str:
    if judged.trend:
        return f"{with_interval(vars(judged.trend), '+')} per doubling of training rows"
    if judged.shares:
        return "; ".join(f"{row} {_share(vars(share))}" for row, share in judged.shares.items())
    return with_interval(_difference(judged, "rmse"), "+")


def _share(share: Mapping[str, Any]) -> str:
    """A share of unrelated responses in per cent, with its interval where there is one."""
    if share["low"] is None or share["low"] == share["high"]:
        return percent(share["value"])
    return f"{percent(share['value'])} [{percent(share['low'])}, {percent(share['high'])}]"


def _difference(judged: Judged, metric: str) -> Mapping[str, Any] | None:
    return vars(judged.contrast.differences[metric]) if judged.contrast else None


def _p_after_holm(judged: Judged) -> str:
    if judged.trend:
        return f"{number(judged.trend.p)}, not corrected"
    return number(judged.contrast.adjusted.get("rmse")) if judged.contrast else NONE


def _detectable(judged: Judged) -> float | None:
    return judged.contrast.differences["rmse"].detectable if judged.contrast else None


def between_rows(group: Group) -> Table:
    """Return each run of a group minus its best run."""
    title = f"Runs against the one with the lowest RMSE{where(group)}"
    return _differences(title, against_best(group))


def _differences(title: str, pairs: Iterable[tuple[Line, Line]]) -> Table:
    found = [(line, other, against(line, other)) for line, other in pairs]

    def shown(cell: Callable[[Difference], str]) -> Callable[[_Compared], str]:
        return lambda item: NONE if item[2] is None else cell(item[2])

    cells: Cells[_Compared] = {
        Column("run"): lambda item: item[0].label,
        Column("minus"): lambda item: item[1].label,
        Column("RMSE [95%]", True): shown(lambda each: with_interval(each.decoded, "+")),
        Column("on n", True): shown(lambda each: f"{each.n:,}"),
        Column("all rows, unrelated as the user's mean", True): shown(
            lambda each: with_interval(each.check, "+")
        ),
        Column("difference"): lambda item: item[2].verdict if item[2] else verdict(),
        Column("detectable from", True): shown(lambda each: number(each.detectable)),
        Column("RMSE expected [95%]", True): shown(lambda each: with_interval(each.expected, "+")),
        Column("difference expected"): lambda item: verdict(item[2] and item[2].expected),
    }
    note = too_small(each.detectable for _, _, each in found if each)
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
    said = [verdict(each["difference"]["rmse"]) for each in run.result.matrix if each["difference"]]
    return (
        "A column is of the same users: on the diagonal their own adapter rates them, off it "
        "another one, with its error minus their own one's [95%]; adapters fit their users where "
        "the diagonal is lowest. Beyond noise, "
        f"{said.count('higher')} of {len(said)} cells off the diagonal are higher than the "
        f"diagonal's, {said.count('lower')} lower."
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
    """Return what an error does not show: of the probabilities, the ranks and the histograms."""

    def value(*path: str) -> Callable[[Run], str]:
        def cell(run: Run) -> str:
            found: Any = run.result.beyond
            for name in path:
                found = found[name]
            return number(found)

        return cell

    cells: Cells[Run] = {
        Column("run"): lambda run: run.label,
        Column("calibration error (ECE)", True): value("ece"),
        Column("ranked probability score", True): value("rps"),
        Column("rank correlation within users", True): value("spearman", "value"),
        Column("of users", True): lambda run: f"{run.result.beyond['spearman']['n_users']:,}",
        Column("histograms' distance in stars", True): value("wasserstein", "decoded"),
        Column("histograms' distance expected", True): value("wasserstein", "expected"),
        Column("users' mean RMSE expected", True): value("macro", "rmse"),
        Column("users' mean MAE expected", True): value("macro", "mae"),
    }
    runs = [run for run in report.runs if run.result.beyond]
    return _table("Calibration, ranks and histograms", cells, runs)


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
        tables += [contrast_table(group), claims_table(group), baseline_table(group)]
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

"""Report -> tables and notes of plain text, which every output format shows alike. Pure.

All text from run folders passes through `plain`, so that no later step meets a control character.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from persona_lab.evaluation import Judged
from persona_lab.report import paper
from persona_lab.report.compare import (
    FITTED,
    MAX_URR,
    NAMES,
    UNVARIED,
    Difference,
    Group,
    against_baseline,
    against_run,
    answers,
    both_readings,
    claims,
    contrasts,
    findings,
    groups,
    verdict,
)
from persona_lab.report.runs import MEMORIES, Report, Run

QUESTION = "Do persona adapters make a small language model rate as its users do?"
NONE = "–"
CHOICES = ("setup", "data", "distiller", "embedder", "personas", "protocol", "decode", "peft")
FEW_USERS = 30
LITTLE_MASS = 0.5

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
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    strong: frozenset[int] = frozenset()


Cells = dict[Column, Callable[[T], str]]
_Compared = tuple[Run, Run, Difference | None]


def _table(title: str, cells: Cells[T], items: Iterable[T], strong: Iterable[int] = ()) -> Table:
    columns = tuple(Column(plain(head), numeric) for head, numeric in cells)
    rows = tuple(tuple(plain(cell(item)) for cell in cells.values()) for item in items)
    return Table(plain(title), columns, rows, frozenset(strong))


def plain(text: object) -> str:
    """Return text on one line without control characters (terminals obey them)."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def visible(text: object) -> str:
    """Return text with its line breaks, every other control character shown as its code."""
    return "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in str(text))


def number(value: float | None, sign: str = "") -> str:
    """Return a number with three decimals and a true minus, a dash for None."""
    return NONE if value is None else f"{value:{sign}.3f}".replace("-", "−")


def with_interval(interval: dict[str, Any] | None, sign: str = "") -> str:
    """Return `value [low, high]`, the value alone where there are no ends or nothing between."""
    if interval is None:
        return NONE
    if interval["low"] is None or interval["low"] == interval["high"]:
        return number(interval["value"], sign)
    ends = f"[{number(interval['low'], sign)}, {number(interval['high'], sign)}]"
    return f"{number(interval['value'], sign)} {ends}"


def model(run: Run) -> str:
    """Return a run's model, marked where it stands in for the paper's."""
    return f"{run.result.row.model} (stand-in)" if run.stands_in else run.result.row.model


def main_table(report: Report) -> Table:
    """Return the paper's Table 1 with our numbers: a row per run."""
    found = groups(report)
    name_of = {run.name: group.name for group in found for run in group.runs}
    cells: Cells[Run] = {
        Column("row"): lambda run: run.result.row.id or NONE,
        Column("model"): model,
        Column("adapter"): lambda run: _dash(run.result.row.adapter),
        Column("memory"): lambda run: MEMORIES.get(run.result.row.memory, run.result.row.memory),
    }
    for choice in (*CHOICES, "seed"):
        if len({getattr(run.result.row, choice) for run in report.runs}) > 1:
            cells[Column(choice)] = lambda run, choice=choice: str(getattr(run.result.row, choice))
    if len({run.result.cohort for run in report.runs}) > 1:
        cells[Column("users")] = lambda run: run.result.cohort
    if len(found) > 1:
        cells[Column("test rows")] = lambda run: name_of[run.name]
    common = _common(report.runs)
    if any(run.result.row.changed.keys() - common for run in report.runs):
        cells[Column("changed")] = lambda run: _changed(run, common)
    cells |= {
        Column("RMSE [95%]", True): lambda run: with_interval(run.result.intervals.get("rmse")),
        Column("MAE", True): lambda run: number(run.result.metrics["mae"]),
        Column("URR", True): lambda run: _percent(run.result.metrics["urr"]),
        Column("n", True): _answered,
        Column("RMSE expected [95%]", True): lambda run: with_interval(
            run.result.intervals.get("rmse_expected")
        ),
        Column("digit mass", True): lambda run: number(run.result.metrics.get("digit_mass")),
        Column(f"{paper.HEAD}: RMSE / MAE / URR", True): _papers,
    }
    return _table("Table 1", cells, report.runs)


def _dash(adapter: str) -> str:
    return NONE if adapter == "none" else adapter


def _percent(share: float | None) -> str:
    return NONE if share is None else f"{100 * share:.2f}%"


def _answered(run: Run) -> str:
    """The rows behind RMSE and MAE, and out of how many where some had no rating."""
    n, unrelated = run.result.n_test, run.result.n_unrelated
    return f"{n - unrelated:,} of {n:,}" if unrelated else f"{n:,}"


def _papers(run: Run) -> str:
    numbers = run.papers
    if numbers is None:
        return NONE
    return f"{numbers.rmse:.3f} / {numbers.mae:.3f} / {numbers.urr_percent:.2f}%"


def _changed(run: Run, but: Iterable[str] = ()) -> str:
    return _settings(run.result.row.changed, but) or NONE


def _settings(changed: dict[str, Any], but: Iterable[str] = ()) -> str:
    shown = sorted(changed.keys() - {*but})
    return ", ".join(f"{name}={_value(changed[name])}" for name in shown)


def _common(runs: Sequence[Run]) -> dict[str, Any]:
    """What every run changed alike."""
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
        if best.result.row.decode != "expected":
            cells[Column(f"{best_id} minus this [95%]", True)] = compared(best, "decoded")
        cells[Column(f"{best_id} expected minus this [95%]", True)] = compared(best, "expected")
    cells |= {
        Column("rounded: RMSE / MAE", True): errors("rmse_rounded", "mae_rounded"),
        Column("unseen rows", True): lambda key: f"{group.baselines[key].get('fallback', 0):,}",
    }
    shown = [key for key in group.baselines if key[1] not in UNVARIED or key[0] != "cohort"]
    strong = [i for i, (version, _) in enumerate(shown) if version == "prompt"]
    title = f"Simple predictors on the same test rows{_where(group)}"
    return _table(title, cells, shown, strong)


def _where(group: Group) -> str:
    return f", test rows {group.name}" if group.name else ""


def contrast_table(group: Group) -> Table:
    """Return the runs of an adapter per persona minus those that differ in the adapter alone."""
    return _differences(f"One adapter per persona against others{_where(group)}", contrasts(group))


def claims_table(group: Group) -> Table:
    """Return what the paper says of its Table 1 and whether a group's rows bear it out."""
    cells: Cells[Judged] = {
        Column("claim"): lambda each: each.text,
        Column("rows"): lambda each: each.name,
        Column("judgement"): lambda each: each.judgement,
        Column("RMSE [95%]", True): lambda each: (
            with_interval(vars(each.contrast.differences["rmse"]), "+") if each.contrast else NONE
        ),
        Column("p after Holm", True): lambda each: (
            number(each.contrast.adjusted.get("rmse")) if each.contrast else NONE
        ),
        Column("why"): lambda each: each.why or NONE,
    }
    return _table(f"What the paper claims{_where(group)}", cells, claims(group))


def between_rows(group: Group) -> Table:
    """Return each run of a group minus its best run."""
    best = group.best
    pairs = [] if best is None else [(run, best) for run in group.runs if run is not best]
    return _differences(f"Runs against the one with the lowest RMSE{_where(group)}", pairs)


def _differences(title: str, pairs: Iterable[tuple[Run, Run]]) -> Table:
    found = [(run, other, against_run(run, other)) for run, other in pairs]

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
        Column("RMSE expected [95%]", True): shown(lambda each: with_interval(each.expected, "+")),
        Column("difference expected"): lambda item: verdict(item[2] and item[2].expected),
    }
    return _table(title, cells, found)


def persona_table(report: Report) -> Table:
    """Return every run's scores by persona."""
    pairs = [(run, scores) for run in report.runs for scores in run.result.per_persona]

    def score(metric: str) -> Callable[[tuple[Run, dict[str, Any]]], str]:
        return lambda pair: number(pair[1].get(metric))

    cells: Cells[tuple[Run, dict[str, Any]]] = {
        Column("run"): lambda pair: pair[0].label,
        Column("persona", True): lambda pair: str(pair[1]["persona"]),
        Column("users", True): lambda pair: f"{pair[1]['n_users']:,}",
        Column("rows", True): lambda pair: f"{pair[1]['n_test']:,}",
        Column("RMSE", True): score("rmse"),
        Column("MAE", True): score("mae"),
        Column("URR", True): lambda pair: _percent(pair[1].get("urr")),
        Column("RMSE expected", True): score("rmse_expected"),
    }
    return _table("By persona", cells, pairs)


def unrelated_table(report: Report) -> Table:
    """Return what RMSE and MAE would be if unrelated responses counted (decision 13)."""
    cells: Cells[Run] = {
        Column("run"): lambda run: run.label,
        Column("without a rating", True): lambda run: f"{run.result.n_unrelated:,}",
        Column("the most frequent"): _most_frequent,
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
    return _table("Responses without a rating", cells, runs)


def _most_frequent(run: Run) -> str:
    if run.predictions is None:
        return NONE
    silent = run.predictions.loc[run.predictions["prediction"].isna(), "response"]
    found = silent.value_counts(sort=True).head(3)
    return "; ".join(f"{json.dumps(text, ensure_ascii=False)} {n:,}" for text, n in found.items())


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
    """Return `versions` or `keys`: one row per distinct value, with the runs that have it."""
    values: dict[tuple[str, str], list[str]] = {}
    for run in report.runs:
        for name, value in getattr(run.result, field).items():
            values.setdefault((name, str(value)), []).append(run.name)
    cells: Cells[tuple[tuple[str, str], list[str]]] = {
        Column("name"): lambda item: item[0][0],
        Column("value"): lambda item: item[0][1],
        Column("runs"): lambda item: _where_from(item[1], report),
    }
    return _table(title, cells, sorted(values.items(), key=lambda item: item[0][0]))


def _where_from(runs: list[str], report: Report) -> str:
    return "every run" if len(runs) == len(report.runs) else ", ".join(runs)


def written_table(report: Report) -> Table:
    """Return what was left out, written and dropped before a model saw it, and learned from.

    One row per distinct count, with the runs that have it.
    """
    values: dict[tuple[str, str, str], list[str]] = {}
    for run in report.runs:
        result = run.result
        trained = ((name, each["n_rows"]) for name, each in result.adapters.items())
        for what, counts in (
            ("lines of the ratings left out", result.skipped.items()),
            ("memories", result.distillation.items()),
            ("training rows of an adapter", trained),
            ("cut from test prompts", result.cuts.items()),
        ):
            for name, n in counts:
                values.setdefault((what, name, f"{n:,}"), []).append(run.label)
    cells: Cells[tuple[tuple[str, str, str], list[str]]] = {
        Column("what"): lambda item: item[0][0],
        Column("name"): lambda item: item[0][1].replace("_", " "),
        Column("number", True): lambda item: item[0][2],
        Column("runs"): lambda item: _where_from(item[1], report),
    }
    order = list(dict.fromkeys(what for what, _, _ in values))
    items = sorted(values.items(), key=lambda item: order.index(item[0][0]))
    return _table("Left out, written, dropped, trained on", cells, items)


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


def headlines(report: Report) -> tuple[str, ...]:
    """Return what the table shows, in sentences: persona against single first."""
    said = (sentence for group in groups(report) for sentence in _headlines(group))
    return tuple(plain(sentence) for sentence in said)


def _headlines(group: Group) -> Iterator[str]:
    for run, other in contrasts(group):
        found = against_run(run, other)
        if found and other.result.row.adapter.startswith("single"):
            yield (
                f"RMSE of {run.label} minus that of {other.label}{_where(group)}: "
                f"{with_interval(found.decoded, '+')}, {found.verdict}."
            )
    best = group.best
    if best is not None:
        which = "Lowest RMSE" if len(group.runs) > 1 else "RMSE"
        rmse = with_interval(best.result.intervals["rmse"])
        yield f"{which}{_where(group)}: {rmse}, {best.label} on {model(best)}."
        yield from findings(best, list(group.baselines))
    judged = Counter(each.judgement for each in claims(group))
    if judged.total() > judged["not testable"]:
        counts = ", ".join(f"{n} {judgement}" for judgement, n in judged.most_common())
        yield f"Of {judged.total()} claims about Table 1{_where(group)}: {counts}."
    silent = [run for run in group.runs if not answers(run)]
    if silent:
        named = "; ".join(f"{run.label}: {_percent(run.result.metrics['urr'])}" for run in silent)
        yield (
            f"Not ranked{_where(group)}, as more than {MAX_URR:.0%} of the responses hold no "
            f"rating: {named}."
        )


def notes(report: Report) -> tuple[str, ...]:
    """Return how to read the numbers: conditions, and what they cannot show."""
    return tuple(plain(note) for note in _notes(report))


def _notes(report: Report) -> Iterator[str]:
    runs = report.runs
    if not runs:
        return
    yield (
        f"Protocol: {_all(run.result.row.protocol for run in runs)}. "
        f"Users: {_all(run.result.cohort for run in runs)}, of "
        f"{_all(run.result.row.data for run in runs)}. "
        f"Decode: {_all(run.result.row.decode for run in runs)}."
    )
    if changed := _settings(_common(runs)):
        where = " in every run" if len(runs) > 1 else ""
        yield f"Changed from the defaults of the setup{where}: {changed}."
    yield (
        "Brackets are 95% intervals over users (users drawn again 2,000 times); they do not cover "
        "another training seed. Rows without a rating in the response are left out of RMSE and "
        "MAE and counted in URR; n counts what is left. RMSE expected scores the mean of the "
        "model's probabilities of 1 to 5, scaled to add up to 1; digit mass is their sum before."
    )
    yield (
        "A difference is called lower or higher where its interval excludes 0, on the rows that "
        "both answered and on all rows with the user's mean training rating for the others; no "
        "correction for the number of comparisons is made."
    )
    little = [run.label for run in runs if run.result.metrics.get("digit_mass", 1.0) < LITTLE_MASS]
    if little:
        yield (
            f"The model puts less than half of its probability on the digits, so that expected "
            f"ratings say little: {'; '.join(little)}."
        )
    users = max(sum(p["n_users"] for p in run.result.per_persona) for run in runs)
    if 0 < users < FEW_USERS:
        yield f"Only {users} users were tested: the intervals are rough."
    if any(len(group.runs) > 1 for group in groups(report)):
        yield (
            "The best of several runs is chosen on the same test rows, so its numbers are "
            "flattered."
        )
    yield from _stand_ins(runs)
    if len(groups(report)) > 1:
        yield (
            f"The runs come from {len(groups(report))} splits (other users, test rows or item "
            "means), named by letter: compare runs only within one, each with its own baselines."
        )
    yield from _cautions(runs)


def _stand_ins(runs: Sequence[Run]) -> Iterator[str]:
    if any(run.stands_in for run in runs):
        yield "Stand-ins draw no conclusion about LLaMA-3 or Phi-3."
    for papers, field, doing in (
        (paper.DISTILLER, "distiller", "memories"),
        (paper.EMBEDDER, "embedder", "vectors"),
    ):
        used = [getattr(run.result.row, field) for run in runs]
        others = [name for name in used if name != papers[0]]
        if others:
            yield f"The {doing} are by {_all(others)}, a stand-in for the paper's {papers[1]}."
    if any(run.papers for run in runs):
        yield "The paper's numbers come from other test rows, which are not known."


def _cautions(runs: Sequence[Run]) -> Iterator[str]:
    for said, field, by_protocol in _LEAKS:
        showing = [run.label for run in runs if _effective(run, field, by_protocol) == "all"]
        if showing:
            yield f"Test ratings were seen: {said} ({'; '.join(showing)})."
    yield from _audits(runs)
    cut = [f"{run.label}: {run.result.truncated:,}" for run in runs if run.result.truncated]
    if cut:
        yield f"Test prompts cut to fit the model's context: {'; '.join(cut)}."
    if any(run.result.cohort == "dev" for run in runs):
        yield "Development users are for choosing settings; their numbers are not results."


def _audits(runs: Sequence[Run]) -> Iterator[str]:
    """Say what the audits found: runs of one finding together."""
    found: dict[str, list[str]] = {}
    for run in runs:
        leaks = [each for each in run.result.audit if each["found"]]
        said = [f"{each['place']} {each['what']} ({each['found']:,} of {each['checked']:,})"
                for each in leaks]  # fmt: skip
        clean = "nothing" if run.result.audit else "not made"
        found.setdefault("; ".join(said) or clean, []).append(run.label)
    for said, labels in found.items():
        where = f" ({'; '.join(labels)})" if len(found) > 1 else ""
        yield f"Audit, for test ratings in what prompts are made of{where}: {said}."


# What may be given test ratings, the field that says so, and its value under protocol=paper.
_LEAKS = (
    ("the item mean in the prompt is over all ratings", "protocol.item_mean", "all"),
    ("traits are measured on all ratings", "protocol.traits", "all"),
    ("profiles and memories are distilled from all ratings", "distiller.scope", "training"),
)


def _effective(run: Run, field: str, by_protocol: str) -> Any:
    """A field's value in a run: as set by itself, else as its protocol has it."""
    row = run.result.row
    return row.changed.get(field, by_protocol if row.protocol == "paper" else None)


def _all(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values))


def all_tables(report: Report) -> tuple[Table, ...]:
    """Return every table of a report, the main one first, without the empty ones."""
    tables = [main_table(report)]
    for group in groups(report):
        tables += [
            contrast_table(group),
            claims_table(group),
            baseline_table(group),
            between_rows(group),
        ]
    tables += [
        failure_table(report),
        unrelated_table(report),
        persona_table(report),
        written_table(report),
        time_table(report),
        settings_table(report),
        provenance_table(report, "Versions", "versions"),
        provenance_table(report, "Keys in the store", "keys"),
    ]
    return tuple(table for table in tables if table.rows)

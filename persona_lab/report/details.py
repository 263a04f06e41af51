"""Report -> the tables behind Table 1: what an error hides, and how the runs were made. Pure."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from persona_lab.report.cells import NONE, TEXTS, Table, number, table, with_interval
from persona_lab.report.compare import baseline_label, groups
from persona_lab.report.runs import Report, Run
from persona_lab.report.tables import CHOICES, errors, seeds_table, where

SHOWN_RESPONSES = 5


def details(report: Report) -> list[Table]:
    """Return the tables of what an error hides and how the runs were made, but empty ones."""
    tables = (seeds_table, slices_table, beyond_table, unrelated_table, responses_table)
    made = [*(build(report) for build in tables), *facts_tables(report)]
    return [shown for shown in made if len(shown.frame)]


def slices_table(report: Report) -> Table:
    """Return every run's errors on parts of the test rows: one part's runs below each other."""
    rows = [
        {
            "test rows of": f"{part['slice']} {part['value']}",
            "run": run.label,
            "users": f"{part['n_users']:,}",
            "rows": f"{part['n']:,}",
            "without a rating": f"{part['n_unrelated']:,}",
            "RMSE / MAE": errors(part),
            "RMSE / MAE expected": errors(part, "_expected"),
        }
        for run in report.runs
        for part in run.result.beyond.get("slices", ())
    ]
    order = list(dict.fromkeys(row["test rows of"] for row in rows))
    rows.sort(key=lambda row: order.index(row["test rows of"]))
    return table("By persona, activity, history and popularity", rows)


def beyond_table(report: Report) -> Table:
    """Return what an error does not show: of the probabilities, the ranks and the histograms.

    Below the runs stands what simple predictors reach on the same rows.
    """

    def cells(label: str, beyond: Mapping[str, Any]) -> dict[str, str]:
        distances, macro = beyond.get("wasserstein") or {}, beyond.get("macro") or {}
        ranks = beyond.get("spearman")
        return {
            "run": label,
            "calibration error (ECE)": number(beyond.get("ece")),
            "ranked probability score [95%]": with_interval(beyond.get("rps_interval")),
            "rank correlation within users [95%]": with_interval(ranks),
            "of users": f"{ranks['n_users']:,}" if ranks else NONE,
            "histograms' distance in stars": number(distances.get("decoded")),
            "histograms' distance expected": number(distances.get("expected")),
            "users' mean RMSE expected": number(macro.get("rmse")),
            "users' mean MAE expected": number(macro.get("mae")),
        }

    rows = [(run.label, run.result.beyond) for run in report.runs if run.result.beyond]
    references = _references(report)
    return table(
        "Calibration, ranks and histograms",
        [cells(*item) for item in (*rows, *references.items())],
        TEXTS["tables"]["beyond"] if references else "",
        range(len(rows), len(rows) + len(references)),
    )


def _references(report: Report) -> dict[str, Mapping[str, Any]]:
    """What simple predictors reach, each once; one that is another in a later run with that run."""
    references: dict[str, Mapping[str, Any]] = {}
    for group in groups(report):
        for run in group.runs:
            reached: dict[str, Mapping[str, Any]] = {}
            if recorded := run.result.beyond.get("references"):
                scores = {"rps_interval": recorded["rps"]}
                reached["histogram of the training ratings, for every row"] = scores
                for key, ranks in recorded["spearman"].items():
                    reached[baseline_label(*key.split("/", 1))] = {"spearman": ranks}
            for name, scores in reached.items():
                label = f"reference: {name}{where(group)}"
                known = references.setdefault(label, scores) == scores
                if not known and scores not in references.values():
                    references[f"{label}, in {run.label}"] = scores
    return references


def unrelated_table(report: Report) -> Table:
    """Return what RMSE and MAE would be if unrelated responses counted (decision 13)."""
    runs = [run for run in report.runs if run.result.n_unrelated]
    middle = " or ".join(dict.fromkeys(f"{run.result.scale.middle:g}" for run in runs))
    readings = {
        "left out": "",
        "as the user's mean": "_user_mean",
        f"as {middle}": "_midpoint",
        "as the farthest rating": "_worst",
    }
    rows = [
        {"run": run.label, "without a rating": f"{run.result.n_unrelated:,}"}
        | {
            f"{reading}: RMSE / MAE": errors(run.result.metrics, variant)
            for reading, variant in readings.items()
        }
        for run in runs
    ]
    return table("If responses without a rating counted", rows)


def responses_table(report: Report) -> Table:
    """Return the most frequent responses without a rating, each with a row that got it."""
    rows = [
        {
            "run": run.label,
            "response": json.dumps(response["response"], ensure_ascii=False),
            "rows": f"{response['n']:,}",
            "for instance": f"user {response['user_id']}, movie {response['item_id']}",
        }
        for run in report.runs
        for response in run.result.beyond.get("responses", ())[:SHOWN_RESPONSES]
    ]
    return table("The most frequent responses without a rating", rows)


def facts_tables(report: Report) -> list[Table]:
    """Return every fact of the runs: those that all share, then those in which they differ."""
    if not report.runs:
        return []
    # The facts of a kind stand together; None where a run has no such fact.
    facts = [{(kind, name): text for kind, name, text in _facts(run)} for run in report.runs]
    names = list(dict.fromkeys(name for of_run in facts for name in of_run))
    kinds = list(dict.fromkeys(kind for kind, _ in names))
    names.sort(key=lambda name: kinds.index(name[0]))
    shared, differing = [], []
    for kind, name in names:
        fact = {"of": kind, "fact": name}
        texts = [of_run.get((kind, name)) for of_run in facts]
        if len({*texts}) == 1:
            shared.append(fact | {"value": texts[0]})
        else:
            runs = zip(report.runs, texts, strict=True)
            differing.append(fact | {run.label: text for run, text in runs})
    return [table("Facts of every run", shared), table("Facts by run", differing)]


def _facts(run: Run) -> Iterator[tuple[str, str, str]]:
    """Settings, audit, training, memories, time, cost, versions and keys: kind, name and text."""
    result, row = run.result, run.result.row
    yield "setting", "folder", run.name
    for choice in ("role", "model", "adapter", "memory", *CHOICES, "seed"):
        yield "setting", choice, str(getattr(row, choice))
    yield "setting", "users", result.cohort
    for name, value in sorted(row.changed.items()):
        yield "changed setting", name, value if isinstance(value, str) else json.dumps(value)
    for finding in result.audit:
        yield "audit", f"{finding['place']} {finding['what']}", _audited(finding)
    for kind, counts in (
        ("lines of the ratings left out", result.skipped),
        ("memories", result.distillation),
        ("training rows", {name: summary["n_rows"] for name, summary in result.adapters.items()}),
        ("cut from test prompts", result.cuts),
    ):
        for name, n in counts.items():
            yield kind, name.replace("_", " "), f"{n:,}"
    for stage, timing in result.timing.items():
        rate = timing.get("rows_per_second")
        behind = "" if rate is None else f" ({rate:,.1f} rows/s)"
        yield "time", stage, f"{timing['seconds']:,.1f} s{behind}"
    total = sum(timing["seconds"] or 0 for timing in result.timing.values())
    yield "time", "total", f"{total:,.1f} s"
    yield "time", "row reused", "yes" if result.reused else "no"
    for name, amount in result.cost.items():
        yield "cost", name, f"{round(amount, 4):,}"
    for kind, texts in (("version", result.versions), ("key in the cache", result.keys)):
        for name, text in texts.items():
            yield kind, name, str(text)


def _audited(finding: dict[str, Any]) -> str:
    checked = f"{finding['checked']:,}"
    if note := finding.get("note"):
        return f"not checked ({checked}): {note}"
    examples = "; ".join(finding["examples"])
    return f"{finding['found']:,} found of {checked}{f': {examples}' if examples else ''}"


def failure_table(report: Report) -> Table:
    """Return the runs without a result."""
    rows = [
        {
            "run": failure.name,
            "state": failure.state,
            "error": failure.error or NONE,
            "overrides": " ".join(failure.overrides) or NONE,
        }
        for failure in report.failures
    ]
    total = len(report.runs) + len(report.failures)
    return table(f"{len(report.failures)} of {total} runs failed or did not finish", rows)

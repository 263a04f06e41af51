from dataclasses import replace

from persona_lab.report import build
from persona_lab.report.cells import NONE, with_interval
from persona_lab.report.details import (
    beyond_table,
    details,
    facts_tables,
    failure_table,
    responses_table,
    slices_table,
    unrelated_table,
)
from persona_lab.report.notes import answer, findings, limits, reading
from persona_lab.report.tables import leading

from .conftest import BEYOND, cells


def facts_of(report):
    """(of, fact) -> its cells: the one of every run, or those of each run."""
    rows = [row for table in facts_tables(report) for row in table.records()]
    return {row[:2]: row[2:] for row in rows}


def test_unrelated_responses_are_shown_in_every_reading(table_1):
    table = unrelated_table(build(table_1.folder))
    assert len(table.records()) == 1
    assert table.records()[0][1] == "12"


def test_facts_that_all_runs_share_are_said_once_and_the_others_run_by_run(sweep):
    facts = {
        "skipped": {"rating out of range": 3},
        "distillation": {"profile_sentences_dropped": 2},
        "adapters": {"persona_0": {"n_rows": 1200}},
    }
    sweep.add("a", changed={"memory.top_k": 3}, facts=facts)
    sweep.add("b", facts=facts | {"adapters": {}})
    report = build(sweep.folder)
    shared, differing = facts_tables(report)
    assert [*differing.frame] == ["of", "fact", *(run.label for run in report.runs)]
    assert [*shared.frame] == ["of", "fact", "value"]
    shown = facts_of(report)
    assert shown["lines of the ratings left out", "rating out of range"] == ("3",)
    assert shown["memories", "profile sentences dropped"] == ("2",)
    assert shown["training rows", "persona 0"] == ("1,200", NONE)
    assert shown["changed setting", "memory.top_k"] == ("3", NONE)
    assert shown["setting", "folder"] == ("a", "b")
    assert shown["setting", "model"] == ("smollm2",)
    assert shown["time", "predictions"] == ("61.5 s (10.4 rows/s)",)
    assert shown["time", "total"] == ("61.9 s",)
    assert shown["cost", "tokens"] == ("123,456",)
    assert shown["version", "torch"] == ("2.13.0",)
    assert shown["key in the cache", "predictions"] == ("a", "b")


def test_what_one_error_hides_is_shown(sweep):
    sweep.add("a", id="r9", facts={"beyond": BEYOND})
    sweep.add("b", id="r10", facts={"beyond": BEYOND})
    sweep.add("old", facts={"beyond": {}})
    report = build(sweep.folder)
    numbers = ("0.250", "0.125", NONE, "0", "1.500", "0.500", "1.250", "0.750")
    assert [row[1:] for row in beyond_table(report).records()] == [numbers] * 2
    parts = slices_table(report)
    assert cells(parts, "test rows of") == [*["history low"] * 2, *["history high"] * 2]
    assert parts.records()[0][2:] == ("20", "320", "3", "1.500 / 1.000", f"1.250 / {NONE}")
    said = responses_table(report)
    assert len(said.records()) == 2 * 5
    assert said.records()[0][1:] == (r'"\"\n"', "1,200", "user 7, movie 9")


def test_what_has_no_scale_stands_beside_what_simple_predictors_reach(sweep):
    results = [sweep.add("a", id="r9"), sweep.add("b", id="r10"), sweep.add("c", split_seed=1)]
    table = beyond_table(build(sweep.folder))
    score, ranks = (
        f"{name} [95%]" for name in ("ranked probability score", "rank correlation within users")
    )
    found = [each.beyond for each in results]
    assert cells(table, score)[:3] == [with_interval(each["rps_interval"]) for each in found]
    assert cells(table, ranks)[:3] == [with_interval(each["spearman"]) for each in found]
    names = ("histogram of the training ratings, for every row", "item mean that the prompt shows",
             "user + item bias (all but the test rows)",
             "user + item bias (the users' training rows)")  # fmt: skip
    assert cells(table, "run")[3:] == [
        f"reference: {name}, test rows {letter}" for letter in "AB" for name in names
    ]
    assert table.strong == {*range(3, 11)}
    first, second, *_ = table.records()[3:]
    reached = found[0]["references"]
    assert first[2:4] == (with_interval(reached["rps"]), NONE)
    ranked = reached["spearman"]["prompt/prompt_mean"]
    assert second[1:5] == (NONE, NONE, with_interval(ranked), str(ranked["n_users"]))
    assert "histogram" in table.note


def test_another_average_in_a_later_runs_prompt_is_another_reference(sweep):
    sweep.add("a", id="r9")
    other = sweep.add("b", id="r10")
    reached = other.beyond["references"]
    ranks = reached["spearman"] | {"prompt/prompt_mean": reached["spearman"]["all/user_item_bias"]
                                   | {"value": 0.125}}  # fmt: skip
    changed = other.beyond | {"references": reached | {"spearman": ranks}}
    replace(other, beyond=changed).save(sweep.folder / "b")
    labels = cells(beyond_table(build(sweep.folder)), "run")
    named = "reference: item mean that the prompt shows"
    assert [each for each in labels if each.startswith(named)] == [
        named, f"{named}, in r10 · no adapter · M_s",
    ]  # fmt: skip


def test_the_audit_says_what_was_found_and_calls_nothing_clean_that_was_not_checked(sweep):
    def finding(place, found, note=""):
        named = [f"user {n}" for n in range(found)]
        return {"place": place, "what": "changes", "checked": 1200, "found": found,
                "examples": named, "note": note}  # fmt: skip

    audit = [finding("profile", 0), finding("memory", 0, note="not made again")]
    sweep.add("a", id="r9", facts={"audit": [finding("trait", 0), *audit]})
    sweep.add("b", id="r10", facts={"audit": [finding("trait", 2), *audit]})
    shown = facts_of(build(sweep.folder))
    leak = "2 found of 1,200: user 0; user 1"
    assert shown["audit", "trait changes"] == ("0 found of 1,200", leak)
    assert shown["audit", "profile changes"] == ("0 found of 1,200",)
    assert shown["audit", "memory changes"] == ("not checked (1,200): not made again",)


def test_failures_alone_make_a_report(sweep):
    sweep.fail("a", error="ValueError: two\nlines\x1b[31m")
    report = build(sweep.folder)
    assert answer(report) == findings(report) == limits(report) == reading(report) == ()
    assert leading(report) == details(report) == []
    assert failure_table(report).records() == [
        ("a", "failed", "ValueError: two lines [31m", "adapter=persona")
    ]

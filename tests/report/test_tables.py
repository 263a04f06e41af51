from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persona_lab.report import build
from persona_lab.report.compare import groups
from persona_lab.report.tables import (
    NONE,
    all_tables,
    baseline_table,
    between_rows,
    claims_table,
    failure_table,
    headlines,
    main_table,
    notes,
    number,
    plain,
    unrelated_table,
    with_interval,
    written_table,
)


def cells(table, column):
    i = [c.head for c in table.columns].index(column)
    return [row[i] for row in table.rows]


def test_table_1_has_eleven_rows_with_ours_beside_the_papers(table_1):
    report = build(table_1.folder)
    table = main_table(report)
    assert cells(table, "row") == [f"r{i}" for i in range(11)]
    assert cells(table, "model")[0] == "gemma3 (stand-in)"
    assert cells(table, "adapter")[4:6] == [NONE, "single_max"]
    assert cells(table, "memory")[:3] == ["M_s", "M_s + M_l", "M_l"]
    papers = cells(table, "paper (ML-1M, LLaMA-3/Phi-3): RMSE / MAE / URR")
    assert papers[3] == "1.203 / 0.863 / 4.23%"
    assert papers[10] == "1.171 / 0.881 / 1.77%"
    rmse = report.runs[3].result.metrics["rmse"]
    assert cells(table, "RMSE [95%]")[3].startswith(f"{rmse:.3f} [")
    assert cells(table, "n")[3] == "628 of 640"
    assert cells(table, "URR")[3] == "1.88%"
    assert not {"seed", "decode", "test rows", "changed"} & {c.head for c in table.columns}


def test_only_what_differs_between_rows_gets_a_column(sweep):
    sweep.add("a", id="r9", seed=0)
    sweep.add("b", id="r9", seed=1)
    assert cells(main_table(build(sweep.folder)), "seed") == ["0", "1"]


def test_rows_that_look_the_same_show_what_they_changed(sweep):
    sweep.add("a", changed={})
    sweep.add("b", changed={"personas.n_personas": 8})
    report = build(sweep.folder)
    assert cells(main_table(report), "changed") == [NONE, "personas.n_personas=8"]


def test_expected_decode_shows_no_urr(sweep):
    sweep.add("a", decode="expected")
    assert cells(main_table(build(sweep.folder)), "URR") == [NONE]


def test_a_row_outside_table_1_has_no_numbers_of_the_paper(sweep):
    sweep.add("mine", adapter="per_user")
    assert main_table(build(sweep.folder)).rows[0][-1] == NONE


def test_the_prompts_mean_stands_first_and_set_off(table_1):
    (group,) = groups(build(table_1.folder))
    table = baseline_table(group)
    assert table.rows[0][:2] == ("item mean that the prompt shows", NONE)
    assert table.strong == {0}
    once, fitted = cells(table, "fitted on"), ["all but the test rows", "the users' training rows"]
    assert once == [NONE, fitted[0], NONE, NONE, *[fitted[0]] * 4, *[fitted[1]] * 5]
    assert all(cell.split()[-1] == "lower" for cell in cells(table, table.columns[3].head))


def test_other_runs_are_compared_with_the_best(table_1):
    (group,) = groups(build(table_1.folder))
    table = between_rows(group)
    assert len(table.rows) == 10
    assert cells(table, "difference")[0] == "higher"


def test_claims_are_judged_by_the_rows_and_stand_ins_test_none_about_llama(table_1):
    report = build(table_1.folder)
    (group,) = groups(report)
    found = {row[1]: row[2:] for row in claims_table(group).rows}
    # Its interval excludes 0; among so many claims that is not enough.
    assert found["r10 < r9"][:2] == ("undecided", "−0.067 [−0.124, −0.010]")
    assert found["r7 < r1"][0] == "not testable"
    assert "stand-in plays LLaMA-3" in found["r7 < r1"][3]
    assert any("claims about Table 1" in sentence for sentence in headlines(report))


def test_a_table_without_the_papers_rows_has_no_claims(sweep):
    sweep.add("mine", adapter="per_user")
    (group,) = groups(build(sweep.folder))
    assert claims_table(group).rows == ()


def test_unrelated_responses_are_shown_in_every_reading(table_1):
    table = unrelated_table(build(table_1.folder))
    assert len(table.rows) == 1
    assert table.rows[0][1] == "12"


def test_headlines_lead_with_persona_against_single(table_1):
    said = headlines(build(table_1.folder))
    starts = [sentence.split(":")[0] for sentence in said]
    assert starts[0] == "RMSE of r9 · persona · M_s minus that of r5 · single_max · M_s"
    assert "r10 · persona · M_s + M_l on smollm2 (stand-in)" in said[4]
    assert "item mean that the prompt shows" in said[5]


def test_no_headline_crowns_a_run_without_ratings(sweep):
    sweep.add("silent", id="r2", noise=0.1, unrelated=634)
    (said,) = headlines(build(sweep.folder))
    assert said.startswith("Not ranked")
    assert "r2 · no adapter · M_s: 99.06%" in said


def test_a_row_with_another_prompt_is_none_of_the_papers(sweep):
    sweep.add("a", id="r9", changed={"prompt": "movie_only"})
    sweep.add("b", id="r9", changed={"data.n_users": 9})
    found = main_table(build(sweep.folder))
    assert cells(found, "paper (ML-1M, LLaMA-3/Phi-3): RMSE / MAE / URR")[0] == NONE
    assert found.rows[1][-1].startswith("1.292")
    assert cells(found, "changed") == ["prompt=movie_only", "data.n_users=9"]


def test_what_all_runs_changed_is_a_note(sweep):
    sweep.add("a", changed={"data.n_users": 9})
    report = build(sweep.folder)
    assert "changed" not in {column.head for column in main_table(report).columns}
    assert any(
        "Changed from the defaults of the setup: data.n_users=9." in n for n in notes(report)
    )


def test_what_was_left_out_and_trained_on_is_counted(sweep):
    facts = {
        "skipped": {"rating out of range": 3},
        "distillation": {"profile_sentences_dropped": 2},
        "adapters": {"persona_0": {"n_rows": 1200}},
    }
    sweep.add("a", facts=facts)
    sweep.add("b", facts=facts | {"adapters": {}})
    found = {row[1]: row[2:] for row in written_table(build(sweep.folder)).rows}
    assert found["rating out of range"] == ("3", "every run")
    assert found["profile sentences dropped"] == ("2", "every run")
    assert found["persona 0"] == ("1,200", "a · no adapter · M_s")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"cohort": "dev"}, "Development users"),
        ({"protocol": "paper"}, "seen: the item mean in the prompt is over all ratings"),
        ({"changed": {"distiller.scope": "all"}}, "seen: profiles and memories are distilled"),
        ({"changed": {"protocol.traits": "all"}}, "seen: traits are measured on all ratings"),
        ({"n_users": 5}, "Only 5 users"),
        ({"model": "smollm2"}, "no conclusion about LLaMA-3 or Phi-3"),
        ({"setup": "paper", "model": "phi3"}, "by statistical, a stand-in for the paper's GPT-4o"),
        ({"setup": "paper", "model": "phi3"}, "by minilm, a stand-in for the paper's text-embed"),
        ({"setup": "paper", "id": "r9"}, "come from other test rows"),
        ({"digit_mass": 0.1}, "less than half of its probability on the digits"),
    ],
)
def test_notes_say_what_the_numbers_cannot_show(sweep, fields, said):
    sweep.add("run", **fields)
    assert any(said in note for note in notes(build(sweep.folder)))


def test_notes_of_a_plain_run_claim_nothing_more(sweep):
    sweep.add("run", setup="paper", model="phi3", distiller="openai", embedder="ada002")
    found = " ".join(notes(build(sweep.folder)))
    assert "Protocol: strict. Users: reported, of ml_100k. Decode: paper." in found
    for said in ("Development", "stand-in", "Only", "splits", "flattered", "cut"):
        assert said not in found


def test_cut_prompts_and_several_splits_are_said(sweep):
    sweep.add("a")
    sweep.add("b", split_seed=1)
    report = build(sweep.folder)
    cut = replace(report.runs[0], result=replace(report.runs[0].result, truncated=1200))
    found = notes(replace(report, runs=(cut, report.runs[1])))
    assert any("cut to fit" in note and "1,200" in note for note in found)
    assert any("2 splits" in note for note in found)
    assert cells(main_table(report), "test rows") == ["A", "B"]


def test_failures_alone_make_a_report(sweep):
    sweep.fail("a", error="ValueError: two\nlines\x1b[31m")
    report = build(sweep.folder)
    assert headlines(report) == notes(report) == ()
    (table,) = all_tables(report)
    assert table == failure_table(report)
    assert table.rows == (("a", "failed", "ValueError: two lines [31m", "adapter=persona"),)


def test_numbers():
    assert number(-0.0123, "+") == "−0.012"
    assert number(None) == NONE
    assert with_interval({"value": 1.0, "low": -0.5, "high": 2.0}) == "1.000 [−0.500, 2.000]"
    assert with_interval({"value": 1.0, "low": None, "high": None}) == "1.000"
    assert with_interval({"value": 3.0, "low": 3.0, "high": 3.0}) == "3.000"


@given(st.text())
def test_plain_text_is_one_printable_line(text):
    assert plain(text).isprintable()
    assert plain(plain(text)) == plain(text)


def test_notes_go_by_the_fields_and_not_by_the_protocols_name(sweep):
    mended = {"protocol.item_mean": "outside_cohort", "protocol.traits": "training"}
    sweep.add("run", protocol="paper", changed=mended)
    assert not any("Test ratings were seen" in note for note in notes(build(sweep.folder)))

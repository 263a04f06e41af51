from dataclasses import replace

import pytest

from persona_lab.report import build
from persona_lab.report.compare import compared, detectable, groups
from persona_lab.report.notes import answer, findings, limits, reading
from persona_lab.report.tables import differences_table, main_table

from .conftest import cells


def test_the_answer_is_of_the_thesis_its_rows_the_best_row_and_what_was_tested(table_1):
    lead, basis, tested = answer(build(table_1.folder))
    assert lead.startswith("Not decided: persona adapters change the RMSE by ")
    assert "Compared are r10 · persona · M_s + M_l and r7 · single_max · M_s + M_l." in basis
    assert "The best row, r10 · persona · M_s + M_l, has RMSE " in basis
    assert "the item mean in its prompt alone has " in basis
    assert tested.startswith("Tested on 640 ratings of 40 users of ml_100k.")
    assert tested.endswith("gemma3 for LLaMA-3, smollm2 for Phi-3.")


@pytest.mark.parametrize(("noise", "lead"), [(0.2, "Here, yes"), (2.0, "Here, no")])
def test_an_answer_from_other_rows_than_the_thesis_is_of_these_rows(sweep, noise, lead):
    sweep.add("a", id="r9", adapter="persona", noise=noise)
    sweep.add("b", id="r5", adapter="single_max", noise=0.9)
    assert answer(build(sweep.folder))[0].startswith(f"{lead}: persona adapters change")


def test_without_a_single_adapter_the_question_is_not_tested(sweep):
    sweep.add("a", id="r9", adapter="persona")
    assert answer(build(sweep.folder))[0].startswith("Not tested: that takes a row with")


def test_the_best_row_is_counted_against_the_simple_predictors(table_1):
    said = " ".join(findings(build(table_1.folder)))
    assert "The RMSE of r10 · persona · M_s + M_l minus that of 14 simple predictors: lower" in said
    assert "The paper's thesis, r10 < r7: undecided" in said


def test_the_seeds_of_a_row_have_one_headline(sweep):
    for name, row, seed in (("a", "r9", 0), ("b", "r9", 1), ("c", "r5", 0), ("d", "r5", 1)):
        sweep.add(name, id=row, adapter="persona" if row == "r9" else "single_max", seed=seed)
    said = [each for each in findings(build(sweep.folder)) if each.startswith("RMSE of ")]
    assert len(said) == 1
    named = "RMSE of r9 · persona · M_s · 2 seeds minus that of r5 · single_max · M_s · 2 seeds: "
    assert said[0].startswith(named)


def test_the_lowest_rmse_is_of_a_row_and_its_verdicts_are_those_of_the_tables(sweep):
    sweep.add("a", id="r9", adapter="persona", seed=0, noise=0.2)
    sweep.add("b", id="r9", adapter="persona", seed=1, noise=1.6)
    sweep.add("c", id="r5", adapter="single_max", noise=0.85)
    sweep.add("d", id="r6", adapter="single_min", noise=0.9)
    report = build(sweep.folder)
    (group,) = groups(report)
    assert "The best row, r5 · single_max · M_s, has RMSE " in answer(report)[1]
    shown = differences_table("", compared(group), group)
    verdicts = cells(shown, "difference")
    for row, said, word in zip(shown.records(), findings(report), verdicts, strict=False):
        assert said.startswith(f"RMSE of {row[0]} minus that of {row[1]}: {row[2]}, {word}")
        assert said.endswith(" (Holm's correction for 2 differences).")
    assert any("The row with the lowest RMSE is chosen" in note for note in limits(report))


def test_the_seeds_of_one_row_are_no_choice_of_the_best(sweep):
    for seed in (0, 1):
        sweep.add(f"{seed}", id="r9", seed=seed)
    report = build(sweep.folder)
    assert not any("flattered" in each for each in limits(report))
    assert answer(report)[1].startswith("The row, r9 · no adapter · M_s · 2 seeds, has RMSE ")


def test_how_much_seeds_vary_is_said_with_its_degrees_of_freedom(sweep):
    results = [sweep.add(f"{i}", id="r9", adapter="persona", seed=i, noise=0.4 + i) for i in (0, 1)]
    first, second = (result.metrics["rmse"] for result in results)
    said = (
        f"varies by a standard deviation of {abs(first - second) / 2**0.5:.3f}, estimated with 1 "
    )
    assert any(said in each for each in limits(build(sweep.folder)))
    sweep.add("2", id="r9", adapter="persona", seed=2)
    assert any("with 2 degrees of freedom" in each for each in limits(build(sweep.folder)))


def test_reading_names_both_families_of_comparisons_and_the_scale(sweep):
    sweep.add("a")
    said = " ".join(reading(build(sweep.folder)))
    for part in ("Holm", "are one family", "claims are judged alike", "Undecided", "of 1 to 5"):
        assert part in said


def test_what_is_too_small_to_show_is_said_for_each_set_of_test_rows(sweep):
    sweep.add("a", id="r9", adapter="persona")
    sweep.add("b", id="r5", adapter="single_max")
    report = build(sweep.folder)
    (size,) = detectable(groups(report)[0])
    (said,) = [each for each in limits(report) if "told apart" in each]
    assert said.startswith(
        f"Differences in RMSE below {size:.3f} cannot reliably be told apart on these test rows: "
    )
    for name, row, adapter in (("c", "r9", "persona"), ("d", "r5", "single_max")):
        sweep.add(name, id=row, adapter=adapter, split_seed=1)
    said = [each for each in limits(build(sweep.folder)) if "told apart" in each]
    assert [each.split(" on ")[1].split(":")[0] for each in said] == ["test rows A", "test rows B"]


def test_no_headline_crowns_a_run_without_ratings(sweep):
    sweep.add("silent", id="r2", noise=0.1, unrelated=634)
    report = build(sweep.folder)
    (said,) = findings(report)
    assert said.startswith("Not ranked")
    assert "r2 · no adapter · M_s: 99.06%" in said
    assert answer(report)[1] == "No row gave a rating for 95% of the test rows."


def test_what_all_runs_changed_is_a_note(sweep):
    sweep.add("a", changed={"data.n_users": 9})
    report = build(sweep.folder)
    assert "changed" not in main_table(report).frame
    assert any(
        "Changed from the defaults of the setup: data.n_users=9." in n for n in limits(report)
    )


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"cohort": "dev"}, "Users: dev, of ml_100k."),
        ({"cohort": "dev"}, "Rows of development users"),
        ({"facts": {"development": True}}, "Users: reported (rows held back from training), of"),
        ({"facts": {"development": True}}, "or held back from training, are for choosing settings"),
        ({"data": "ml_1m"}, "MovieLens is public: models may know its ratings"),
        ({"protocol": "paper"}, "seen: the item mean in the prompt is over all ratings"),
        ({"changed": {"distiller.scope": "all"}}, "seen: profiles and memories are distilled"),
        ({"changed": {"protocol.traits": "all"}}, "seen: traits are measured on all ratings"),
        ({"n_users": 5}, "Only 5 users"),
        ({"setup": "embedded", "model": "phi3"}, "Setup: embedded. Protocol: strict."),
        ({"model": "smollm2"}, "no conclusion about LLaMA-3 or Phi-3"),
        ({"setup": "paper", "model": "phi3"}, "by statistical, a stand-in for the paper's GPT-4o"),
        ({"setup": "paper", "model": "phi3"}, "by minilm, a stand-in for the paper's text-embed"),
        ({"setup": "paper", "id": "r9"}, "come from other test rows"),
        ({"digit_mass": 0.1}, "less than half of its probability on the digits"),
    ],
)
def test_notes_say_what_the_numbers_cannot_show(sweep, fields, said):
    sweep.add("run", **fields)
    assert any(said in note for note in limits(build(sweep.folder)))


def test_notes_of_a_plain_run_claim_nothing_more(sweep):
    sweep.add("run", setup="paper", model="phi3", distiller="openai", embedder="ada002")
    found = " ".join(limits(build(sweep.folder)))
    assert "Protocol: strict. Users: reported, of ml_100k. Decode: paper." in found
    for said in ("development", "stand-in", "Only", "sets of rows", "flattered", "cut", "told"):
        assert said not in found


def test_made_up_ratings_are_in_no_pretraining(sweep):
    sweep.add("run", data="synthetic")
    assert not any("pretraining" in note for note in limits(build(sweep.folder)))


def test_cut_prompts_and_several_sets_of_rows_are_said(sweep):
    sweep.add("a")
    sweep.add("b", split_seed=1)
    report = build(sweep.folder)
    cut = replace(report.runs[0], result=replace(report.runs[0].result, truncated=1200))
    found = limits(replace(report, runs=(cut, report.runs[1])))
    assert any("cut to fit" in note and "1,200" in note for note in found)
    assert any("2 sets of rows" in note for note in found)
    assert cells(main_table(report), "test rows") == ["A", "B"]


def finding(place, checked=9, found=0, note=""):
    what = "changes with the test ratings"
    return {"place": place, "what": what, "checked": checked, "found": found, "note": note}


@pytest.mark.parametrize(
    ("findings", "said"),
    [
        ([], "not made."),
        ([finding("trait"), finding("retrieval", checked=0)], "nothing."),
        ([finding("trait", found=2)], "trait changes with the test ratings (2 of 9)."),
        (
            [finding("trait"), finding("profile", 0, note="why"), finding("memory", 0, note="why")],
            "nothing in what was checked. Not checked: profile changes with the test ratings, "
            "memory changes with the test ratings (why).",
        ),
        (
            [finding("trait", found=2), finding("memory", 0, note="why")],
            "trait changes with the test ratings (2 of 9). Not checked: memory changes with the "
            "test ratings (why).",
        ),
    ],
)
def test_the_audit_says_nothing_only_of_what_it_checked(sweep, findings, said):
    sweep.add("a", facts={"audit": findings})
    (note,) = [each for each in limits(build(sweep.folder)) if each.startswith("Audit")]
    assert note == f"Audit, for test ratings in what prompts are made of: {said}"


def test_notes_go_by_the_fields_and_not_by_the_protocols_name(sweep):
    mended = {"protocol.item_mean": "outside_cohort", "protocol.traits": "training"}
    sweep.add("run", protocol="paper", changed=mended)
    assert not any("Test ratings were seen" in note for note in limits(build(sweep.folder)))

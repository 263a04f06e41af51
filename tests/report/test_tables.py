from dataclasses import replace

import numpy as np

from persona_lab.report import build
from persona_lab.report.cells import NONE, number, with_interval
from persona_lab.report.compare import (
    against_best,
    against_predictors,
    compared,
    groups,
    verdict,
)
from persona_lab.report.notes import findings
from persona_lab.report.tables import (
    against_predictors_table,
    claims_table,
    differences_table,
    leading,
    main_table,
    matrix_table,
    predictors_table,
    seeds_table,
    short_table,
)

from .conftest import MATRIX, cells, crossed


def contrast_table(group):
    return differences_table("Personas", compared(group), group)


def test_the_first_screen_has_a_line_per_row_and_the_prompts_mean(table_1):
    report = build(table_1.folder)
    table = short_table(report)
    (group,) = groups(report)
    labels = [line.label for line in group.lines]
    assert cells(table, "row") == [*labels, "item mean in the prompt, alone"]
    assert cells(table, "model") == ["gemma3"] * 3 + ["smollm2"] * 8 + [NONE]
    assert cells(table, "RMSE [95%]")[3] == cells(main_table(report), "RMSE [95%]")[3]
    mean = group.baselines["prompt", "prompt_mean"]
    assert cells(table, "RMSE [95%]")[-1] == number(mean["rmse"])
    assert cells(table, "paper")[10] == "1.171"
    assert table.strong == {11}
    assert "test rows" not in table.frame


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
    mae, urr = (report.runs[3].result.intervals[name] for name in ("mae", "urr"))
    assert cells(table, "MAE [95%]")[3] == with_interval(mae)
    ends = f"{100 * urr['low']:.2f}%, {100 * urr['high']:.2f}%"
    assert cells(table, "URR [95%]")[3] == f"1.88% [{ends}]"
    assert cells(table, "URR [95%]")[4] == "0.00%"
    assert not {"seed", "decode", "test rows", "changed"} & {*table.frame}


def test_only_what_differs_between_rows_gets_a_column(sweep):
    sweep.add("a", id="r9", seed=0)
    sweep.add("b", id="r10", seed=1)
    report = build(sweep.folder)
    table = main_table(report)
    assert cells(table, "seed") == ["0", "1"]
    assert not any(head.startswith(("seeds", "RMSE by")) for head in table.frame)
    assert (table.note, seeds_table(report).records()) == ("", [])


def test_a_row_holds_all_seeds_of_its_configuration_and_each_is_shown_below(sweep):
    results = [sweep.add(name, id="r9", seed=i, unrelated=5 * i) for i, name in enumerate("abc")]
    alone = sweep.add("d", id="r10")
    report = build(sweep.folder)
    table = main_table(report)
    assert cells(table, "row") == ["r9", "r10"]
    assert cells(table, "seeds") == ["3", "1"]
    assert "seed" not in {*table.frame}
    assert cells(table, "n") == ["1,905 of 3 × 640", "640"]
    pooled, none = cells(table, "URR [95%]")
    assert (pooled.split(" [")[0], none) == (f"{100 * 15 / 1920:.2f}%", "0.00%")
    own = [result.metrics["rmse"] for result in results]
    mean, deviation = sum(own) / 3, float(np.std(own, ddof=1))
    assert cells(table, "RMSE by seed: mean ± SD") == [f"{mean:.3f} ± {deviation:.3f}", NONE]
    assert cells(table, "RMSE [95%]")[1] == with_interval(alone.intervals["rmse"])
    assert "over users and seeds" in table.note
    seeds = seeds_table(report)
    assert cells(seeds, "seed") == ["0", "1", "2", "0"]
    shown = [with_interval(each.intervals["rmse"]) for each in (*results, alone)]
    assert cells(seeds, "RMSE [95%]") == shown
    (group,) = groups(report)
    named = group.best.first.result.row.id
    assert [*predictors_table(group).frame][3] == f"{named} minus this [95%]"


def test_the_best_row_is_named_by_more_than_its_number_where_that_does_not_tell(sweep):
    for k in (2, 4):
        sweep.add(f"k{k}", id="r9", changed={"personas.n_personas": k})
    (group,) = groups(build(sweep.folder))
    assert [*predictors_table(group).frame][3] == f"{group.best.label} minus this [95%]"


def test_seeds_on_other_test_rows_are_not_put_together(sweep):
    sweep.add("a", id="r9", seed=0)
    sweep.add("b", id="r9", seed=1, split_seed=1)
    table = main_table(build(sweep.folder))
    assert (cells(table, "seed"), cells(table, "test rows")) == (["0", "1"], ["A", "B"])


def test_rows_that_look_the_same_show_what_they_changed(sweep):
    sweep.add("a", changed={})
    sweep.add("b", changed={"personas.n_personas": 8})
    report = build(sweep.folder)
    assert cells(main_table(report), "changed") == [NONE, "personas.n_personas=8"]


def test_expected_decode_shows_no_urr(sweep):
    sweep.add("a", decode="expected")
    assert cells(main_table(build(sweep.folder)), "URR [95%]") == [NONE]


def test_a_row_outside_table_1_has_no_numbers_of_the_paper(sweep):
    sweep.add("mine", adapter="per_user")
    assert main_table(build(sweep.folder)).records()[0][-1] == NONE


def test_the_prompts_mean_stands_first_and_set_off(table_1):
    (group,) = groups(build(table_1.folder))
    table = predictors_table(group)
    assert table.records()[0][:2] == ("item mean that the prompt shows", NONE)
    assert table.records()[1][:2] == ("item mean that the prompt shows + user's offset", NONE)
    assert table.strong == {0, 1}
    once, fitted = cells(table, "fitted on"), ["all but the test rows", "the users' training rows"]
    assert once == [NONE, NONE, fitted[0], NONE, NONE, *[fitted[0]] * 4, *[fitted[1]] * 5]
    assert all(cell.split()[-1] == "lower" for cell in cells(table, [*table.frame][3]))


def test_every_row_is_compared_with_the_main_simple_predictors(table_1):
    report = build(table_1.folder)
    (group,) = groups(report)
    table, best_row = against_predictors_table(group), predictors_table(group)
    assert [shown.title for shown in leading(report)].count(table.title) == 1
    assert [*table.frame] == [
        "row",
        "rating",
        "minus item mean that the prompt shows [95%]",
        "minus item mean that the prompt shows + user's offset [95%]",
        "minus always 4 [95%]",
        "minus user mean [95%]",
        "minus user + item bias (all but the test rows) [95%]",
        "minus user + item bias (the users' training rows) [95%]",
    ]
    pairs = against_predictors(group)
    n = 11 * 6 + len(group.predictors) - 6
    assert f"after Holm's correction for {n} differences from simple" in table.note
    for kind, suffix in (("decoded", ""), ("expected", " expected")):
        rows = [row for row in table.records() if row[1] == kind]
        assert [row[0] for row in rows] == [line.label for line in group.lines]
        contrast = getattr(pairs[group.lines[3], ("all", "always_4")], kind)
        ends = with_interval(vars(contrast.differences["rmse"]), "+")
        assert rows[3][4] == f"{ends} {verdict(contrast)}"
        # A pair says the same in the table of the best row.
        again = dict(
            zip(group.predictors, cells(best_row, f"r10{suffix} minus this [95%]"), strict=True)
        )
        assert [again[key] for key in group.main] == [*rows[group.lines.index(group.best)][2:]]


def test_where_ratings_are_expected_rows_are_compared_once(sweep):
    sweep.add("a", decode="expected")
    (group,) = groups(build(sweep.folder))
    assert cells(against_predictors_table(group), "rating") == ["expected"]
    sweep.add("b")
    (group,) = groups(build(sweep.folder))
    assert cells(against_predictors_table(group), "rating") == ["decoded", *["expected"] * 2]


def test_a_report_without_baselines_has_no_table_of_them(sweep):
    result = sweep.add("a")
    replace(result, baselines={}).save(sweep.folder / "a")
    report = build(sweep.folder)
    assert not [each for each in leading(report) if "simple" in each.title.lower()]


def test_differences_are_of_mae_too_and_of_all_rows_only_where_some_were_not_answered(sweep):
    sweep.add("a", id="r9", adapter="persona")
    sweep.add("b", id="r5", adapter="single_max")
    (group,) = groups(build(sweep.folder))
    table = contrast_table(group)
    (found,) = compared(group).values()
    mae = with_interval(vars(found.decoded.differences["mae"]), "+")
    assert cells(table, "MAE [95%]") == [mae]
    assert not any("user's mean" in head for head in table.frame)
    assert "Holm" not in table.note
    sweep.add("c", id="r6", adapter="single_min", unrelated=5)
    (group,) = groups(build(sweep.folder))
    table = contrast_table(group)
    without, with_some = cells(table, "RMSE on all rows, unrelated as the user's mean")
    assert without == NONE
    assert with_some.endswith("]")
    assert "Lower and higher are said after Holm's correction for 2 differences" in table.note


def test_other_rows_are_compared_with_the_best(table_1):
    (group,) = groups(build(table_1.folder))
    table = differences_table("Best", against_best(group), group)
    assert len(table.records()) == 10
    assert cells(table, "difference")[0] == "higher"


def judged(group):
    """Rows of the claim -> its judgement, RMSE, p, MAE, seeds, detectable, source."""
    return {row[1]: row[2:] for row in claims_table(group).records()}


def test_claims_are_judged_by_the_rows_and_stand_ins_test_none_about_llama(table_1):
    report = build(table_1.folder)
    (group,) = groups(report)
    claims = judged(group)
    # Its interval excludes 0; among so many claims that is not enough.
    assert claims["r10 < r9"][:2] == ("undecided", "−0.067 [−0.124, −0.010]")
    sources = cells(claims_table(group), "stands in")
    assert sources[:2] == ["the paper", "its table alone"]
    assert claims_table(group).note.startswith("Asked of ")
    assert claims["r7 < r1"][0].startswith("not testable: a stand-in plays LLaMA-3")
    testable = [not row[0].startswith("not testable") for row in claims.values()]
    assert testable == sorted(testable, reverse=True)
    assert any("claims about Table 1" in sentence for sentence in findings(report))


def test_claims_on_one_seed_are_undecided_and_of_several_settings_name_theirs(sweep):
    sweep.add("a", id="r9", adapter="persona", memory="ms", noise=0.2)
    sweep.add("b", id="r5", adapter="single_max", memory="ms", noise=2.0)
    sweep.add("c", id="r9", adapter="persona", memory="ms", changed={"personas.n_personas": 8})
    (group,) = groups(build(sweep.folder))
    table = claims_table(group)
    assert judged(group)["r9 < r5"][0].startswith("undecided: r9, r5 with one seed")
    assert table.title.endswith("judged by personas.n_personas=as in the setup")


def test_tables_of_differences_say_what_is_too_small_to_show(table_1):
    report = build(table_1.folder)
    (group,) = groups(report)
    for table in (contrast_table(group), differences_table("Best", against_best(group), group)):
        sizes = sorted(cell for cell in cells(table, "detectable from") if cell != NONE)
        said = f"below {sizes[0]} ({sizes[-1]} for some pairs) cannot reliably be told apart on"
        assert said in table.note
    table = against_predictors_table(group)
    for kind in ("decoded", "expected"):
        pairs = against_predictors(group).values()
        sizes = [getattr(both, kind).differences["rmse"].detectable for both in pairs]
        assert f"below {min(sizes):.3f} (" in table.note
    assert predictors_table(group).note == table.note


def test_a_matrix_shows_each_adapter_on_the_users_of_each(sweep):
    base = [crossed("persona_0", None, 2.0), crossed("persona_1", None, 2.0)]
    sweep.add("a", id="r9", facts={"matrix": MATRIX + base})
    sweep.add("b", id="r10")
    report = build(sweep.folder)
    table = matrix_table(report.runs[0])
    assert [*table.frame] == [
        "adapter", "users of persona_0 (20)", "users of persona_1 (20)",
        "users without an adapter (20)",
    ]  # fmt: skip
    assert table.records() == [
        ("persona_0", "1.000", "1.500, +0.250 [+0.125, +0.375]", "2.000"),
        ("persona_1", "1.125, +0.125 [−0.500, +0.750]", "1.250", "2.000"),
    ]
    assert "on the diagonal their own adapter" in table.note
    assert "1 of 2 cells off the diagonal are higher than the diagonal's, 0 lower" in table.note
    shown = [each.title for each in leading(report) if "every adapter" in each.title]
    assert shown == ["RMSE expected of every adapter on the users of each: r9 · no adapter · M_s"]


def test_a_table_without_the_papers_rows_has_no_claims(sweep):
    sweep.add("mine", adapter="per_user")
    (group,) = groups(build(sweep.folder))
    assert claims_table(group).records() == []


def test_a_row_with_another_prompt_is_none_of_the_papers(sweep):
    sweep.add("a", id="r9", changed={"prompt": "movie_only"})
    sweep.add("b", id="r9", changed={"data.n_users": 9})
    found = main_table(build(sweep.folder))
    assert cells(found, "paper (ML-1M, LLaMA-3/Phi-3): RMSE / MAE / URR")[0] == NONE
    assert found.records()[1][-1].startswith("1.292")
    assert cells(found, "changed") == ["prompt=movie_only", "data.n_users=9"]

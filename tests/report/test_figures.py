from dataclasses import replace

import pytest

from persona_lab.report import build
from persona_lab.report.compare import groups
from persona_lab.report.figures import VARIABLES, draw, inline_svg, save

from .conftest import trained


def tag(texts):
    """Every word is a noun."""
    return [text.split() for text in texts]


def svg_of(report, name, tagger=None):
    (drawing,) = [each for each in draw(report, tagger) if each.name == name]
    return inline_svg(drawing)


def test_the_plot_names_rows_and_baselines_in_the_pages_colours(table_1):
    svg = svg_of(build(table_1.folder), "intervals")
    assert svg.startswith("<svg ")
    for said in (
        "r10 · persona · M_s + M_l",
        "user + item bias (all but the test rows)",
        "always 4",
    ):
        assert said in svg
    for colour, variable in VARIABLES.items():
        assert colour not in svg
        assert f"var({variable})" in svg


def test_the_seeds_of_a_row_are_drawn_together(sweep):
    sweep.add("a", id="r9", seed=0)
    sweep.add("b", id="r9", seed=1)
    report = build(sweep.folder)
    (line,) = groups(report)[0].lines
    (drawing,) = [each for each in draw(report, None) if each.name == "intervals"]
    points = [(*each.get_xdata(), *each.get_ydata()) for each in drawing.figure.axes[0].lines]
    assert (line.metrics["rmse"], -0.12) in points
    assert drawing.figure.axes[0].get_yticklabels()[0].get_text().endswith("2 seeds")


def test_the_same_report_draws_the_same_plots(table_1):
    report = build(table_1.folder)
    first, second = draw(report, tag), draw(report, tag)
    assert [each.name for each in first] == [
        "intervals", "training_size", "reliability", "personas", "words",
    ]  # fmt: skip
    assert [*map(inline_svg, first)] == [*map(inline_svg, second)]


def test_text_of_runs_is_never_read_as_mathematics(sweep):
    sweep.add("run", adapter="$\\frac{$ <b>")
    svg = svg_of(build(sweep.folder), "intervals")
    assert "$\\frac{$ &lt;b&gt;" in svg


def test_words_are_drawn_only_with_a_tagger_and_set_personas_apart(table_1):
    report = build(table_1.folder)
    assert "words" not in {each.name for each in draw(report, None)}
    svg = svg_of(report, "words", tag)
    assert ">m1<" in svg
    assert "movie" not in svg


def test_training_sizes_are_those_of_the_adapters(table_1):
    report = build(table_1.folder)
    rmse = training_size(report).figure.axes[0]
    sizes = {tuple(line.get_xdata()) for line in rmse.lines}
    assert sizes == {(100, 110, 120, 130), (120,)}
    r9 = next(run for run in report.runs if run.result.row.id == "r9")
    expected = [scores["rmse"] for scores in r9.result.per_persona]
    assert expected in [list(line.get_ydata()) for line in rmse.lines]


def test_the_reliability_plot_shows_how_often_the_likeliest_rating_was_right(sweep):
    result = sweep.add("run", n_users=1)
    (drawing,) = [each for each in draw(build(sweep.folder), None) if each.name == "reliability"]
    given, right = drawing.figure.axes[0].lines[1].get_data()
    (only,) = result.beyond["reliability"]
    assert (*given, *right) == pytest.approx((0.2, only["accuracy"]))


def test_pictures_and_prints_are_written(sweep, tmp_path):
    sweep.add("one", n_users=1)
    sweep.add("other", split_seed=1)
    paths = save(draw(build(sweep.folder), None), tmp_path / "figures")
    assert {path.suffix for path in paths} == {".png", ".pdf"}
    for path in paths:
        assert path.read_bytes().startswith(b"\x89PNG" if path.suffix == ".png" else b"%PDF")


def curve_runs(sweep, *sizes, prefix="", **fields):
    for n in sizes:
        changed = {"adapter.rows_per_user": n} if n else {}
        adapters = trained("persona", [(n or 80) * (10 + i) for i in range(4)])
        name = f"{prefix}rows={n}"
        sweep.add(name, id="r9", adapter="persona", changed=changed,
                  facts={"adapters": adapters}, **fields)  # fmt: skip


def training_size(report):
    (drawing,) = [each for each in draw(report, None) if each.name == "training_size"]
    return drawing


def lines_of(report, panel=0):
    return {line.get_label(): line for line in training_size(report).figure.axes[panel].lines}


def test_the_points_of_a_persona_are_connected_over_runs_that_differ_in_rows_alone(sweep):
    curve_runs(sweep, 20, 5, 10)
    report = build(sweep.folder)
    lines = lines_of(report)
    assert [*lines] == [f"persona {n}, r9 · persona · M_s · seed 0" for n in range(4)]
    first, second, *_ = lines.values()
    assert [list(line.get_xdata()) for line in (first, second)] == [[50, 100, 200], [55, 110, 220]]
    assert len({(line.get_color(), line.get_marker()) for line in lines.values()}) == 4
    assert {line.get_linestyle() for line in lines.values()} == {"-"}
    by_size = {run.result.row.changed["adapter.rows_per_user"]: run for run in report.runs}
    expected = [by_size[n].result.per_persona[0]["mae"] for n in (5, 10, 20)]
    assert list(next(iter(lines_of(report, panel=1).values())).get_ydata()) == expected
    assert "not the heights of two personas" in training_size(report).caption


def test_runs_that_differ_in_more_than_rows_are_on_no_common_curve(sweep):
    """Another seed clusters anew; one run alone is drawn as points."""
    curve_runs(sweep, 5, 10, seed=0)
    curve_runs(sweep, 5, None, prefix="b", seed=1)
    curve_runs(sweep, 5, prefix="c", memory="ms_ml")
    curve_runs(sweep, 10, prefix="d", split_seed=1, memory="ms_ml")
    lines = lines_of(build(sweep.folder))
    curves = [label for label, line in lines.items() if line.get_linestyle() == "-"]
    assert [label[-6:] for label in curves] == ["seed 0"] * 4 + ["seed 1"] * 4
    assert len(lines) == 8 + 2


def test_a_single_adapter_has_a_curve_of_everybodys_error(sweep):
    results = {
        n: sweep.add(f"{n}", adapter="single_full", changed={"adapter.max_rows": n},
                     facts={"adapters": trained("single_full", [n])})
        for n in (100, 50)
    }  # fmt: skip
    (line,) = lines_of(build(sweep.folder)).values()
    assert list(line.get_xdata()) == [50, 100]
    assert list(line.get_ydata()) == [results[n].metrics["rmse"] for n in (50, 100)]


def test_a_persona_without_an_error_has_no_point(sweep):
    curve_runs(sweep, 5, 10)
    for run in build(sweep.folder).runs:
        first, *others = run.result.per_persona
        scores = [first | {"rmse": None, "mae": None}, *others]
        replace(run.result, per_persona=scores).save(sweep.folder / run.name)
    labels = [*lines_of(build(sweep.folder))]
    assert [label.split(",")[0] for label in labels] == ["persona 1", "persona 2", "persona 3"]

from persona_lab.report import build
from persona_lab.report.figure import VARIABLES, inline_svg, save


def test_the_plot_names_rows_and_baselines_in_the_pages_colours(table_1):
    svg = inline_svg(build(table_1.folder))
    assert svg.startswith("<svg ")
    for said in ("r10 · persona · M_s + M_l", "user + item bias (all)", "always 4"):
        assert said in svg
    for colour, variable in VARIABLES.items():
        assert colour not in svg
        assert f"var({variable})" in svg


def test_the_same_report_draws_the_same_plot(table_1):
    report = build(table_1.folder)
    assert inline_svg(report) == inline_svg(report)


def test_text_of_runs_is_never_read_as_mathematics(sweep):
    sweep.add("run", adapter="$\\frac{$ <b>")
    svg = inline_svg(build(sweep.folder))
    assert "$\\frac{$ &lt;b&gt;" in svg


def test_picture_and_print_are_written(sweep, tmp_path):
    sweep.add("one", n_users=1)
    sweep.add("other", split_seed=1)
    png, pdf = save(build(sweep.folder), tmp_path)
    assert png.read_bytes().startswith(b"\x89PNG")
    assert pdf.read_bytes().startswith(b"%PDF")

import csv
import io
import re

import pytest
from rich.console import Console

from persona_lab.report import build, print_table
from persona_lab.report.tables import main_table
from persona_lab.report.text import csv_text, latex, markdown

from .conftest import HOSTILE, MATRIX, cells

MIXED = '=cmd|"/c calc"!A1 <script>alert(1)</script> [x](http://bad) `y`'


def test_markdown_tables_keep_their_shape_whatever_the_text(sweep):
    sweep.add("fine", id="r9")
    sweep.add("hostile", adapter=MIXED)
    sweep.fail("broken", error=MIXED)
    lines = markdown(build(sweep.folder)).splitlines()
    table, widths = [], set()
    for line in [*lines, ""]:
        if line.startswith("|"):
            table.append(line.replace("\\|", "").count("|"))
        elif table:
            widths.add(len(set(table)))
            table = []
    assert widths == {1}
    text = "\n".join(lines)
    assert "<script" not in text
    assert "\\[x\\](http://bad)" in text
    assert "**item mean that the prompt shows**" in text


def test_csv_has_full_precision_and_no_formula(sweep):
    changed = {"data.n_users": 9}
    result = sweep.add("run", id="r10", adapter=MIXED, changed=changed, unrelated=60)
    sweep.fail("broken", error="-1+1")
    rows = list(csv.DictReader(io.StringIO(csv_text(build(sweep.folder)))))
    run = rows[0]
    assert float(run["rmse"]) == result.metrics["rmse"]
    assert float(run["rmse_expected_low"]) == result.intervals["rmse_expected"]["low"]
    ends = [float(run[f"urr_{end}"]) for end in ("low", "high")]
    assert ends == [result.intervals["urr"][end] for end in ("low", "high")]
    assert ends[0] < float(run["urr"]) < ends[1]
    assert (run["paper_rmse"], run["stand_in"]) == ("1.171", "True")
    assert run["adapter"] == f"'{MIXED}"
    assert (run["changed"], run["distiller"]) == ('{"data.n_users": 9}', "statistical")
    assert (run["embedder"], run["personas"], run["digit_mass"][:3]) == ("minilm", "kmeans", "0.9")
    assert next(row["model"] for row in rows if row["kind"] == "baseline") == "prompt_mean"
    assert rows[-1]["error"] == "'-1+1"
    negative = [cell for row in rows for cell in row.values() if cell and cell[0] in "=+@-"]
    assert all(float(cell) < 0 for cell in negative)


def test_no_cell_of_the_csv_that_holds_text_is_a_formula(sweep):
    formulas = [text for text in HOSTILE if text[0] in "=+-@\t"]
    for i, text in enumerate(formulas):
        sweep.add(f"{i}", adapter=text, model=text, changed={text: text}, n_users=2)
    for i, text in enumerate(HOSTILE):
        sweep.fail(f"broken{i}", error=text)
    lines = list(csv.DictReader(io.StringIO(csv_text(build(sweep.folder)))))
    for line in lines:
        for name in ("model", "adapter", "changed", "error", "folder"):
            assert (line[name] or "x")[0] not in "=+-@\t\r\n"
    adapters = {line["adapter"] for line in lines if line["kind"] == "run"}
    assert adapters == {f"'{text}" for text in formulas}


def test_every_form_of_table_1_has_the_seeds_of_a_row_together(sweep):
    results = [sweep.add(name, id="r9", seed=i, unrelated=9 * i) for i, name in enumerate("ab")]
    sweep.add("c", id="r10")
    report = build(sweep.folder)
    rows = list(csv.DictReader(io.StringIO(csv_text(report))))
    kinds = [row["kind"] for row in rows if row["kind"] != "baseline"]
    assert kinds == ["row", "run", "run", "run"]
    pooled, *seeds = rows[:3]
    table = main_table(report)
    shown = f"{float(pooled['rmse']):.3f} [{float(pooled['rmse_low']):.3f}, "
    shown += f"{float(pooled['rmse_high']):.3f}]"
    assert cells(table, "RMSE [95%]")[0] == shown
    spread = f"{float(pooled['rmse_seed_mean']):.3f} ± {float(pooled['rmse_seed_sd']):.3f}"
    assert cells(table, "RMSE by seed: mean ± SD") == [spread, "–"]
    assert (pooled["seeds"], pooled["n_test"], pooled["n_unrelated"]) == ("2", "1280", "9")
    assert (pooled["seed"], pooled["folder"], seeds[0]["seeds"]) == ("", "", "")
    assert [float(each["rmse"]) for each in seeds] == [each.metrics["rmse"] for each in results]
    assert [each["seed"] for each in seeds] == ["0", "1"]
    for text, escaped in (
        (markdown(report), shown.replace("[", "\\[").replace("]", "\\]")),
        (latex(report), shown),
        (printed(report, 260), shown),
    ):
        assert escaped in text
    assert spread in latex(report)
    assert "1,271 of 2 × 640" in latex(report)


def test_the_matrix_stands_behind_its_run_in_full_precision(sweep):
    sweep.add("a", id="r9", adapter="persona", facts={"matrix": MATRIX})
    report = build(sweep.folder)
    rows = list(csv.DictReader(io.StringIO(csv_text(report))))
    assert [row["kind"] for row in rows[:6]] == ["run", *["matrix"] * 4, "baseline"]
    names = ("adapter", "users", "rmse", "rmse_expected", "urr", "n_test", "folder")
    assert [rows[2][name] for name in names] == [
        "persona_0", "persona_1", "2.5", "1.5", "0.25", "320", "a",
    ]  # fmt: skip
    text = markdown(report)
    assert r"| persona_0 | 1.000 | 1.500, +0.250 \[+0.125, +0.375\] |" in text
    assert "on the diagonal their own adapter" in text


def printed(report, width, terminal=True) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=terminal, color_system=None)
    print_table(report, console)
    return out.getvalue()


def test_a_wide_terminal_shows_intervals_baselines_and_failures(table_1):
    report = build(table_1.folder)
    text = printed(report, 240)
    rmse = report.runs[10].result.intervals["rmse"]
    assert f"{rmse['value']:.3f} [{rmse['low']:.3f}, {rmse['high']:.3f}]" in text
    for said in (
        "1.171 / 0.881 / 1.77%",
        "user + item bias",
        "1 of 12 runs failed",
        "stand-in",
    ):
        assert said in text


@pytest.mark.parametrize("width", [60, 80, 100])
def test_a_narrow_terminal_shows_the_short_table_whole(table_1, width):
    lines = printed(build(table_1.folder), width).splitlines()
    assert max(map(len, lines)) <= width
    squeezed = "".join("".join(lines).split())
    assert "…" not in squeezed
    for said in ("URR", "1.88%", "RMSE[95%]"):
        assert said in squeezed


def test_a_log_gets_whole_lines(table_1):
    text = printed(build(table_1.folder), 80, terminal=False)
    assert "1.171 / 0.881 / 1.77%" in text


def test_no_text_of_a_run_is_markup_or_a_control_sequence(sweep):
    sweep.fail("a", error="[bold]x[/bold] \x1b]0;title\x07 [/oops]")
    text = printed(build(sweep.folder), 180)
    assert "[bold]x[/bold]" in text
    assert "\x07" not in text
    assert "\x1b]" not in text


def test_latex_is_a_table_in_which_text_is_no_command(sweep):
    sweep.add("run", id="r10", memory="ms_ml", adapter="\\input{x}_$%&#^~")
    text = latex(build(sweep.folder))
    assert "$M_s$ + $M_l$" in text
    assert r"\textbackslash input\{x\}\_\$\%\&\#\textasciicircum \textasciitilde " in text
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    head, row = [line for line in lines if line.endswith(r"\\")]
    assert len(re.findall(r"(?<!\\)&", head)) == len(re.findall(r"(?<!\\)&", row)) > 8
    written = "\n".join(lines)
    assert written.count(r"\begin{") == written.count(r"\end{") == 2
    assert "−" not in written

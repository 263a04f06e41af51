from persona_lab.report.__main__ import main

from .conftest import PERSONAS


def test_the_door_prints_the_table_and_writes_it_again(sweep, capsys):
    sweep.add("run", id="r9")
    assert main([str(sweep.folder)]) == 0
    printed = capsys.readouterr().out
    assert "Table 1" in printed
    for name in ("report.html", "table1.md", "table1.csv", "table1.tex", "figures/intervals.pdf"):
        assert str(sweep.folder / name) in printed
        assert (sweep.folder / name).stat().st_size > 0
    first = (sweep.folder / "report.html").read_bytes()
    assert main([str(sweep.folder)]) == 0
    assert (sweep.folder / "report.html").read_bytes() == first


def test_several_folders_need_a_place_to_write(sweep, tmp_path, capsys):
    sweep.add("a/run")
    sweep.add("b/run", seed=1)
    folders = [str(sweep.folder / "a"), str(sweep.folder / "b")]
    assert main(folders) == 1
    assert "--into" in capsys.readouterr().err
    assert main([*folders, "--into", str(tmp_path / "both")]) == 0
    assert (tmp_path / "both" / "report.html").exists()
    assert not (sweep.folder / "a" / "report.html").exists()


def test_no_runs_is_one_line_and_exit_code_1(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("no runs in ")
    assert error.count("\n") == 1


def test_without_the_tagger_the_rest_is_written_and_the_reason_said(sweep, caplog):
    sweep.add("run", id="r9")
    sweep.beside("run", "personas", PERSONAS)
    assert main([str(sweep.folder)]) == 0
    assert "no figure of the personas' words: spaCy is not installed" in caplog.text
    assert not (sweep.folder / "figures" / "words.png").exists()
    assert (
        "distinct words (Figure 2) are left out: pip install"
        in (sweep.folder / "report.html").read_text()
    )

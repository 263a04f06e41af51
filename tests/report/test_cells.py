from hypothesis import given
from hypothesis import strategies as st

from persona_lab.report.cells import NONE, number, plain, table, with_interval


def test_numbers():
    assert number(-0.0123, "+") == "−0.012"
    assert number(None) == NONE
    assert with_interval({"value": 1.0, "low": -0.5, "high": 2.0}) == "1.000 [−0.500, 2.000]"
    assert with_interval({"value": 1.0, "low": None, "high": None}) == "1.000"
    assert with_interval({"value": 3.0, "low": 3.0, "high": 3.0}) == "3.000"
    assert with_interval({"value": None}) == NONE


@given(st.text())
def test_plain_text_is_one_printable_line(text):
    assert plain(text).isprintable()
    assert plain(plain(text)) == plain(text)


def test_a_cell_that_a_row_lacks_is_a_dash_and_numbers_stand_on_the_right():
    shown = table("A\nB", [{"run": "x\x1b", "n": "1,200"}, {"run": "2 y", "RMSE": "−0.1 [−1, 0]"}])
    assert shown.title == "A B"
    assert shown.records() == [("x", "1,200", NONE), ("2 y", NONE, "−0.1 [−1, 0]")]
    assert shown.numeric == [False, True, True]

"""Text of tables: a DataFrame of cells with its title and note, and how numbers are written. Pure.

All text from run folders passes through `plain`, so that no later step meets a control character.
"""

import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

NONE = "–"
TEXTS = tomllib.loads(Path(__file__).with_name("texts.toml").read_text(encoding="utf-8"))
"""The report's longer texts."""


@dataclass(frozen=True, eq=False)
class Table:
    """A table of text.

    Attributes:
        title: Its heading.
        frame: The cells, all of them text, in columns by their heads.
        note: How to read it, where that is not plain.
        strong: Positions of the rows to set off.
    """

    title: str
    frame: pd.DataFrame
    note: str = ""
    strong: frozenset[int] = frozenset()

    @property
    def heads(self) -> list[str]:
        """The columns' heads."""
        return [str(head) for head in self.frame]

    @property
    def numeric(self) -> list[bool]:
        """Whether each column holds numbers, which stand on its right."""
        columns = [column for _, column in self.frame.items()]
        return [bool(column.str.match(rf"[+−]?\d|{NONE}").all()) for column in columns]

    def records(self) -> list[tuple[str, ...]]:
        """Its rows."""
        return list(self.frame.itertuples(index=False, name=None))


def table(
    title: str, rows: Iterable[Mapping[Any, str]], note: str = "", strong: Iterable[int] = ()
) -> Table:
    """Return a table of rows that map heads to cells; a cell that a row lacks is a dash."""
    frame = pd.DataFrame(list(rows), dtype=object).fillna(NONE).map(plain)
    return Table(plain(title), frame.rename(columns=plain), plain(note), frozenset(strong))


def plain(text: object) -> str:
    """Return text on one line without control characters (terminals obey them)."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def number(value: float | None, sign: str = "") -> str:
    """Return a number with three decimals and a true minus, a dash for None."""
    return NONE if value is None else f"{value:{sign}.3f}".replace("-", "−")


def percent(share: float | None, sign: str = "") -> str:
    """Return a share in percent, a dash for None."""
    return NONE if share is None else f"{100 * share:{sign}.2f}%"


def with_interval(
    interval: Mapping[str, Any] | None,
    sign: str = "",
    spoken: Callable[[float | None, str], str] = number,
) -> str:
    """Return `value [low, high]`, the value alone where there are no ends or nothing between."""
    if interval is None:
        return NONE
    value, low, high = (spoken(interval.get(name), sign) for name in ("value", "low", "high"))
    ends = interval.get("low") is not None and interval["low"] != interval["high"]
    return f"{value} [{low}, {high}]" if ends else value

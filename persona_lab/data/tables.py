"""Delimited text files in, tables whose every line was checked out. Reads disk.

No check is a loop over lines: a million ratings take a second. A bad line is an error that names
it or, where the user asked for that, is left out and counted.
"""

import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd
import pyarrow as pa
from pyarrow import csv

from persona_lab.data.ratings import Invalid
from persona_lab.errors import UserError

_DROP = "use data.invalid=drop to skip such lines"
_MEND = "set data.path to a folder or zip with the files of one MovieLens data set"
# Arrow's reader takes one byte as separator, and MovieLens-1M's has two; no text has this one.
_UNIT_SEPARATOR = "\x1f"
_NO_LETTER = "\N{REPLACEMENT CHARACTER}"


@dataclass
class Table:
    """The lines of a file that passed the checks so far.

    Attributes:
        name: Name of the file, for messages.
        encoding: What its text was read in.
        rows: The cells, text until converted, indexed by line number from 1.
        invalid: Whether a bad line is an error or is left out and counted.
        skipped: Lines left out, by "<file>: <problem>".
    """

    name: str
    encoding: str
    rows: pd.DataFrame
    invalid: Invalid
    skipped: Counter[str]

    def reject(self, bad: pd.Series, column: str, problem: str, mend: str = _DROP) -> None:
        """Leave bad lines out and count them; UserError where they may not be, or none is left.

        Args:
            bad: Truth per row.
            column: The cell to show.
            problem: What is wrong with it, to be read after its name and value.
            mend: The way out.
        """
        if not bad.any():
            return
        lines = self.rows.index[bad]
        if self.invalid == "error":
            cell = f"{column} {_shown(self.rows[column][lines[0]])} {problem}"
            raise _bad_lines(self.name, lines.tolist(), cell, mend)
        self.skipped[f"{self.name}: {column} {problem}"] += len(lines)
        self.rows = self.rows[~bad]
        if self.rows.empty:
            raise UserError(f"{self.name} has no valid line", "check that it is the right file")

    def to_integers(self, *columns: str) -> None:
        """Convert columns to int64; what is not digits alone is a bad line."""
        for column in columns:
            plain = self.rows[column].str.fullmatch("[0-9]{1,18}")
            self.reject(~plain, column, "is not a plain whole number")
            # By way of Arrow's integers: fifty times faster than from text at once.
            numbers = self.rows[column].astype("int64[pyarrow]").astype("int64")
            self.rows = self.rows.assign(**{column: numbers})

    def check_encoding(self, column: str) -> None:
        """Refuse text that was written in another encoding than it was read in."""
        texts = self.rows[column]
        bad = texts.str.contains(_NO_LETTER)
        if self.encoding != "UTF-8":
            # Every byte is a letter of ISO-8859-1, but hardly any text in it is also valid UTF-8.
            utf_8 = texts.map(lambda text: text.encode(self.encoding).decode(errors="replace"))
            bad = (utf_8 != texts) & ~utf_8.str.contains(_NO_LETTER)
        mend = f"convert {self.name} to {self.encoding}, or {_DROP}"
        self.reject(bad, column, f"is not {self.encoding}", mend)


def read_table(
    path: Path,
    name: str,
    columns: Sequence[str],
    *,
    separator: str,
    encoding: str,
    invalid: Invalid,
    header: bool = False,
) -> Table:
    """Read a delimited file without quoting, with any line ends.

    Args:
        path: Folder or zip that the file is in.
        name: Its base name.
        columns: Names of its fields or, with a header, the names that the header must have.
        separator: Text between fields.
        encoding: What its text is written in; anything but ASCII is checked by `check_encoding`.
        invalid: As in `Table`.
        header: Whether the first line names the fields, each as "name:type".

    Raises:
        UserError: The file is missing or empty, its header lacks a column, or a line has too few
            or too many fields.
    """
    content = _content(path, name).rstrip(b"\r\n")
    if not content.isascii():
        content = content.decode(encoding, errors="replace").encode()
    if content and header:
        needed, first = columns, content.partition(b"\n")[0].decode().rstrip("\r")
        columns = [cell.partition(":")[0] for cell in first.split(separator)]
        if missing := [column for column in needed if column not in columns]:
            raise UserError(
                f"{name} line 1: the header {_shown(first)} has no {', '.join(missing)}",
                f"begin the file with a line of {separator.join(needed)}",
            )
    if not content or (header and b"\n" not in content):
        raise UserError(f"{name} is empty", f"expected lines of {separator.join(columns)}")
    ragged: list[csv.InvalidRow] = []
    arrow = csv.read_csv(
        pa.BufferReader(content.replace(separator.encode(), _UNIT_SEPARATOR.encode())),
        # One thread, or the numbers of bad lines are not known.
        csv.ReadOptions(use_threads=False, column_names=list(columns), skip_rows=int(header)),
        csv.ParseOptions(
            delimiter=_UNIT_SEPARATOR,
            quote_char=False,
            ignore_empty_lines=False,
            invalid_row_handler=lambda row: ragged.append(row) or "skip",
        ),
        csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string())),
    )
    ragged_lines = [row.number for row in ragged]
    if ragged and (invalid == "error" or arrow.num_rows == 0):
        text = _shown(ragged[0].text.replace(_UNIT_SEPARATOR, separator))
        what = f"{text} has {ragged[0].actual_columns} fields, not the {len(columns)} of "
        raise _bad_lines(name, ragged_lines, what + separator.join(columns), _DROP)
    last = int(header) + arrow.num_rows + len(ragged)
    lines = pd.RangeIndex(1 + int(header), last + 1).difference(ragged_lines)
    counts = {f"{name}: wrong number of fields": len(ragged)} if ragged else {}
    return Table(name, encoding, arrow.to_pandas().set_index(lines), invalid, Counter(counts))


def members(path: Path) -> list[str]:
    """Names of all files in a folder or zip archive; UserError where it is neither."""
    try:
        if path.is_dir():
            return [file.name for file in path.iterdir() if file.is_file()]
        with zipfile.ZipFile(path) as archive:
            return [info.filename for info in archive.infolist() if not info.is_dir()]
    except (OSError, zipfile.BadZipFile) as error:
        what = f"{path} is neither a folder nor a zip archive that can be read: {error}"
        raise UserError(what, _MEND) from error


def _content(path: Path, name: str) -> bytes:
    chosen = [member for member in members(path) if PurePosixPath(member).name == name]
    if len(chosen) != 1:
        raise UserError(f"{path} has {len(chosen)} files named {name}, not 1", _MEND)
    try:
        if path.is_dir():
            return (path / name).read_bytes()
        with zipfile.ZipFile(path) as archive:
            return archive.read(chosen[0])
    except (OSError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{name} in {path}: {error}", "get a whole copy of it") from error


def _bad_lines(name: str, lines: Sequence[int], what: str, mend: str) -> UserError:
    more = f", and {len(lines) - 1:,} more such lines" if len(lines) > 1 else ""
    return UserError(f"{name} line {lines[0]}: {what}{more}", mend)


def _shown(value: object) -> str:
    text = str(value)
    if text.isalnum():
        return text
    return repr(text if len(text) <= 60 else f"{text[:57]}...")

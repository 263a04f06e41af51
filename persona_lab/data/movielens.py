"""MovieLens files in, ratings out: every line checked, bad ones named. Reads disk.

The data: F. M. Harper and J. A. Konstan, The MovieLens Datasets, ACM TiiS 5(4), 2015. Free for
research; not to be redistributed.
"""

import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import compress
from pathlib import Path

import pandas as pd
import pyarrow as pa
from pyarrow import csv

from persona_lab.component import component
from persona_lab.data.ratings import Invalid, Ratings
from persona_lab.data.scale import Scale
from persona_lab.errors import UserError

_RATING = ("user_id", "item_id", "rating", "timestamp")
# Title, year, and the mark of a release on video that one title has after its year.
_TITLE = r"^(?P<title>.*?) *\((?P<year>[0-9]{4})\)(?: \(V\))?$"

# In the order of u.item's flags.
_GENRES = (
    "unknown|Action|Adventure|Animation|Children's|Comedy|Crime|Documentary|Drama|Fantasy|"
    "Film-Noir|Horror|Musical|Mystery|Romance|Sci-Fi|Thriller|War|Western"
)
# MovieLens-1M's codes for ages, and for occupations from 0.
_AGES = {"1": "under 18", "18": "18-24", "25": "25-34", "35": "35-44", "45": "45-49"}
_AGES |= {"50": "50-55", "56": "56 or over"}
_OCCUPATIONS = (
    "other|academic or educator|artist|clerical or admin|student|customer service|doctor or "
    "health care|executive|farmer|homemaker|K-12 student|lawyer|programmer|retired|sales or "
    "marketing|scientist|self-employed|technician or engineer|craftsman|unemployed|writer"
)
_DROP = "use data.invalid=drop to skip such lines"
_MEND = "set data.path to a folder or zip with the files of one MovieLens data set"
# Arrow's reader takes one byte as separator, and MovieLens-1M's has two; no text has this one.
_UNIT_SEPARATOR = "\x1f"
_NO_LETTER = "\N{REPLACEMENT CHARACTER}"


@dataclass
class _Table:
    """The lines of a file that passed the checks so far: text until converted, by line number.

    No check is a loop over lines: a million ratings take a second. A bad line is an error that
    names it or, where the user asked for that, is left out and counted by "<file>: <problem>".
    """

    name: str
    encoding: str
    rows: pd.DataFrame
    invalid: Invalid
    skipped: Counter[str]

    def reject(self, bad: pd.Series, column: str, problem: str, mend: str = _DROP) -> None:
        """Leave bad lines out, or say what is wrong with the first one's cell."""
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
            utf_8 = texts.str.encode(self.encoding).str.decode("UTF-8", errors="replace")
            bad = (utf_8 != texts) & ~utf_8.str.contains(_NO_LETTER)
        mend = f"convert {self.name} to {self.encoding}, or {_DROP}"
        self.reject(bad, column, f"is not {self.encoding}", mend)


@component
class MovieLens100K:
    """MovieLens-100K: RecBole's `ml-100k.inter` or GroupLens's `u.data` with their companions."""

    def read(self, path: Path | None, invalid: Invalid, scale: Scale) -> Ratings:
        """Read the data set from a folder or zip (see `Reader`)."""
        path = _given(path, "u.data, u.item and u.user")
        recbole = any(file.name == "ml-100k.inter" for file in _files(path))
        return (_recbole if recbole else _grouplens)(path, invalid, scale)


@component
class MovieLens1M:
    """MovieLens-1M: GroupLens's `ratings.dat`, `movies.dat` and `users.dat`."""

    def read(self, path: Path | None, invalid: Invalid, scale: Scale) -> Ratings:
        """Read the data set from a folder or zip (see `Reader`)."""
        path = _given(path, "ratings.dat, movies.dat and users.dat")
        table = partial(_read, path, separator="::", encoding="ISO-8859-1", invalid=invalid)
        movies = table("movies.dat", ("item_id", "title", "genres"))
        users = table("users.dat", ("user_id", "gender", "age", "occupation", "zip_code"))
        occupations = {str(code): name for code, name in enumerate(_OCCUPATIONS.split("|"))}
        users.rows = users.rows.replace({"age": _AGES, "occupation": occupations})
        return _joined(table("ratings.dat", _RATING), movies, users, scale)


def _given(path: Path | None, expected: str) -> Path:
    if path is None:
        what = "this data is read from files, and no path was given"
        raise UserError(what, f"set data.path to a folder or zip with {expected}")
    return path


def _recbole(path: Path, invalid: Invalid, scale: Scale) -> Ratings:
    table = partial(_read, path, separator="\t", encoding="UTF-8", invalid=invalid, header=True)
    movies = table("ml-100k.item", ("item_id", "movie_title", "release_year", "class"))
    # The files spell their one unknown title and year in their own way.
    title = movies.rows["movie_title"].replace("unkonwn", "unknown")
    year = " (" + movies.rows["release_year"] + ")"
    movies.rows = movies.rows.assign(
        title=title + year.replace([" (unkonwn)", " ()"], ""),
        genres=movies.rows["class"].str.replace(" ", "|"),
    )
    users = table("ml-100k.user", ("user_id", "age", "gender", "occupation"))
    return _joined(table("ml-100k.inter", _RATING), movies, users, scale)


def _grouplens(path: Path, invalid: Invalid, scale: Scale) -> Ratings:
    table = partial(_read, path, separator="|", encoding="ISO-8859-1", invalid=invalid)
    genres = _GENRES.split("|")
    movies = table("u.item", ("item_id", "title", "release_date", "video_date", "url", *genres))
    for genre in genres:
        movies.reject(~movies.rows[genre].isin(["0", "1"]), genre, "is not 0 or 1")
    flags = (movies.rows[genres] == "1").to_numpy()
    movies.rows = movies.rows.assign(genres=["|".join(compress(genres, row)) for row in flags])
    users = table("u.user", ("user_id", "age", "gender", "occupation", "zip_code"))
    return _joined(table("u.data", _RATING, separator="\t"), movies, users, scale)


def _joined(ratings: _Table, movies: _Table, users: _Table, scale: Scale) -> Ratings:
    """Check the three tables, each by itself and against the others."""
    for table, key in ((movies, "item_id"), (users, "user_id")):
        table.to_integers(key)
        table.reject(table.rows[key].duplicated(), key, "is on an earlier line already")
    movies.check_encoding("title")
    movies.reject(movies.rows["title"].str.strip() == "", "title", "is missing")
    ratings.to_integers(*_RATING)
    on_scale = ratings.rows["rating"].isin(scale.values)
    ratings.reject(~on_scale, "rating", f"is not one of {scale.listed}")
    known = ratings.rows["item_id"].isin(movies.rows["item_id"])
    ratings.reject(~known, "item_id", f"is not in {movies.name}")
    again = ratings.rows.duplicated(["user_id", "item_id"])
    ratings.reject(again, "item_id", "was rated by this user on an earlier line already")

    frame = ratings.rows[list(_RATING)].reset_index(drop=True)
    title = movies.rows["title"].str.extract(_TITLE)
    catalogue = movies.rows[["item_id"]].assign(
        title=title["title"].fillna(movies.rows["title"]),
        year=title["year"].astype("Int64"),
        genres=movies.rows["genres"],
    )
    # Everyone who is listed or has rated; "" where nothing is known.
    known = users.rows.set_index("user_id")[["age", "gender", "occupation"]]
    everyone = known.index.union(frame["user_id"].unique()).rename("user_id")
    return Ratings(
        frame,
        catalogue.sort_values("item_id", ignore_index=True),
        known.reindex(everyone, fill_value="").reset_index(),
        dict(movies.skipped + users.skipped + ratings.skipped),
        scale,
    )


def _read(
    path: Path,
    name: str,
    columns: Sequence[str],
    *,
    separator: str,
    encoding: str,
    invalid: Invalid,
    header: bool = False,
) -> _Table:
    """Read a delimited file without quoting, with any line ends.

    With a header, whose cells are each "name:type", the columns are those that it must have.
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
    return _Table(name, encoding, arrow.to_pandas().set_index(lines), invalid, Counter(counts))


def _files(path: Path) -> list[Path | zipfile.Path]:
    try:
        if path.is_dir():
            return [file for file in path.iterdir() if file.is_file()]
        archive = zipfile.ZipFile(path)
        return [zipfile.Path(archive, info.filename) for info in archive.infolist()]
    except (OSError, zipfile.BadZipFile) as error:
        what = f"{path} is neither a folder nor a zip archive that can be read: {error}"
        raise UserError(what, _MEND) from error


def _content(path: Path, name: str) -> bytes:
    files = [file for file in _files(path) if file.name == name and file.is_file()]
    if len(files) != 1:
        raise UserError(f"{path} has {len(files)} files named {name}, not 1", _MEND)
    try:
        return files[0].read_bytes()
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

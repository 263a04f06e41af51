"""Movies in, what else is known of them out: summary, cast and director."""

import csv
import io
import logging
from pathlib import Path
from typing import Protocol, runtime_checkable

import pandas as pd

from persona_lab.cache import content_hash
from persona_lab.component import component, neutral
from persona_lab.data.cost import Cost
from persona_lab.errors import UserError
from persona_lab.sources import Sources

_log = logging.getLogger(__name__)

_TEXTS = ["summary", "cast", "director"]
_MEND = "give a CSV file with the columns movie_id, summary, cast and director"


@runtime_checkable
class MovieInfo(Protocol):
    """A source of texts about movies."""

    def read(self, movies: pd.DataFrame, sources: Sources) -> tuple[pd.DataFrame, Cost]:
        """Texts for movies (item_id, title, year, genres), and what asking for them came to.

        Returns:
            One row per movie, in the same order: item_id, summary, cast, director, "" where
            unknown; several people are separated by ", ". The cost is that of the replies that
            the texts were made from, whenever they were paid for.
        """
        ...

    def fingerprint(self, sources: Sources) -> str:
        """Hash of all that the texts depend on."""
        ...


@component
class NoMovieInfo:
    """Title, year and genres are all that is known."""

    def read(self, movies: pd.DataFrame, sources: Sources) -> tuple[pd.DataFrame, Cost]:
        """Empty texts (see `MovieInfo`)."""
        return movies[["item_id"]].assign(**dict.fromkeys(_TEXTS, "")), Cost()

    def fingerprint(self, sources: Sources) -> str:
        """A constant."""
        return "none"


@component
class CsvMovieInfo:
    """A CSV file in UTF-8 with the columns movie_id, summary, cast and director.

    Several people in a cell are separated by `|`. Where the file has a column `title`, it must be
    that of the same data set: movie ids mean other movies in another one.

    Attributes:
        path: The file.
    """

    path: str | None = neutral()

    def read(self, movies: pd.DataFrame, sources: Sources) -> tuple[pd.DataFrame, Cost]:
        """Texts from the file (see `MovieInfo`).

        Raises:
            UserError: The file is missing or not as expected, or is about other movies.
        """
        info = pd.DataFrame(_rows(self._file()), dtype="str")
        info["item_id"] = info.pop("movie_id").astype("int64")
        if "title" in info:
            _check_titles(info, movies)
        texts = info.set_index("item_id")[_TEXTS].reindex(movies["item_id"], fill_value="")
        unused = len(info) - info["item_id"].isin(movies["item_id"]).sum()
        _log.info(
            "movie_info: %d of %d movies have a summary; %d rows are about no movie of the data",
            *((texts["summary"] != "").sum(), len(movies), unused),
        )
        people = {name: texts[name].str.replace("|", ", ") for name in ("cast", "director")}
        return texts.assign(**people).reset_index(), Cost()

    def fingerprint(self, sources: Sources) -> str:
        """Hash of the file's content."""
        return content_hash(self._file())

    def _file(self) -> Path:
        file = None if self.path is None else Path(self.path).expanduser()
        if file is None or not file.is_file():
            raise UserError(
                f"movie_info.path is {self.path}, which is not a file",
                "set movie_info.path to a CSV file with movie_id, summary, cast and director",
            )
        return file


def _rows(file: Path) -> list[dict[str, str]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = file.read_bytes()[: error.start].count(b"\n") + 1
        what = f"{file.name} line {line}: byte {error.object[error.start]:#x} is not UTF-8"
        raise UserError(what, f"convert {file.name} to UTF-8") from error
    reader = csv.DictReader(io.StringIO(text, newline=""), restkey="", strict=True)
    columns = reader.fieldnames or ()
    if missing := {"movie_id", *_TEXTS} - set(columns):
        raise UserError(f"{file.name} has no column {', '.join(sorted(missing))}", _MEND)
    rows: dict[str, dict[str, str]] = {}
    try:
        for row in reader:
            where, movie = f"{file.name} line {reader.line_num}", row["movie_id"]
            if "" in row or None in row.values():
                raise UserError(f"{where}: not {len(columns)} fields", _MEND)
            if not (movie.isascii() and movie.isdigit()):
                raise UserError(f"{where}: movie_id {movie!r} is not a plain whole number", _MEND)
            if movie in rows:
                raise UserError(f"{where}: movie_id {movie} comes twice", "leave one of them out")
            rows[movie] = row
    except csv.Error as error:
        raise UserError(f"{file.name} line {reader.line_num + 1}: {error}", _MEND) from error
    if not rows:
        raise UserError(f"{file.name} has no rows", _MEND)
    return list(rows.values())


def _check_titles(info: pd.DataFrame, movies: pd.DataFrame) -> None:
    """Refuse a file about other movies; single titles may be written otherwise."""
    pairs = info.loc[info["title"] != "", ["item_id", "title"]].merge(
        movies, on="item_id", suffixes=("", "_here")
    )
    titles = zip(pairs["title"].str.casefold(), pairs["title_here"].str.casefold(), strict=True)
    odd = pairs[[not theirs.startswith(ours) for theirs, ours in titles]]
    if len(odd) > len(pairs) / 2:
        first = odd.iloc[0]
        raise UserError(
            f"movie_info is about other movies: {len(odd):,} of {len(pairs):,} titles differ "
            f"(movie {first['item_id']} is {first['title']!r} there, {first['title_here']!r} in "
            "the data)",
            "give the file that was made for this data set",
        )

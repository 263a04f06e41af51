"""MovieLens files in, ratings out. Reads disk.

The data: F. M. Harper and J. A. Konstan, The MovieLens Datasets, ACM TiiS 5(4), 2015. Free for
research; not to be redistributed.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import compress
from pathlib import Path

import pandas as pd

from persona_lab.component import component
from persona_lab.data.ratings import Invalid, Ratings
from persona_lab.data.scale import Scale
from persona_lab.data.tables import Files, Table, read_table
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
_AGES = {
    "1": "under 18",
    "18": "18-24",
    "25": "25-34",
    "35": "35-44",
    "45": "45-49",
    "50": "50-55",
    "56": "56 or over",
}
_OCCUPATIONS = (
    "other|academic or educator|artist|clerical or admin|student|customer service|doctor or "
    "health care|executive|farmer|homemaker|K-12 student|lawyer|programmer|retired|sales or "
    "marketing|scientist|self-employed|technician or engineer|craftsman|unemployed|writer"
)


@component
class MovieLens100K:
    """MovieLens-100K: RecBole's `ml-100k.inter` or GroupLens's `u.data` with their companions."""

    def read(self, path: Path | None, invalid: Invalid, scale: Scale) -> Ratings:
        """Read the data set from a folder or zip (see `Reader`)."""
        files = _files(path, "u.data, u.item and u.user")
        if "ml-100k.inter" in files.names():
            return _read_recbole(files, invalid, scale)
        return _read_grouplens_100k(files, invalid, scale)


@component
class MovieLens1M:
    """MovieLens-1M: GroupLens's `ratings.dat`, `movies.dat` and `users.dat`."""

    def read(self, path: Path | None, invalid: Invalid, scale: Scale) -> Ratings:
        """Read the data set from a folder or zip (see `Reader`)."""
        files = _files(path, "ratings.dat, movies.dat and users.dat")

        def table(name: str, columns: Sequence[str]) -> Table:
            return read_table(
                *(files, name, columns), separator="::", encoding="ISO-8859-1", invalid=invalid
            )

        movies = table("movies.dat", ("item_id", "title", "genres"))
        users = table("users.dat", ("user_id", "gender", "age", "occupation", "zip_code"))
        occupations = {str(code): name for code, name in enumerate(_OCCUPATIONS.split("|"))}
        users.rows = users.rows.assign(
            age=users.rows["age"].replace(_AGES),
            occupation=users.rows["occupation"].replace(occupations),
        )
        return _joined(table("ratings.dat", _RATING), movies, users, "ISO-8859-1", scale)


def _files(path: Path | None, expected: str) -> Files:
    if path is None:
        raise UserError(
            "this data is read from files, and no path was given",
            f"set data.path to a folder or zip with {expected}",
        )
    return Files(path)


def _read_recbole(files: Files, invalid: Invalid, scale: Scale) -> Ratings:
    def table(kind: str, columns: Sequence[str]) -> Table:
        return read_table(
            *(files, f"ml-100k.{kind}", columns),
            separator="\t",
            encoding="UTF-8",
            invalid=invalid,
            header=True,
        )

    movies = table("item", ("item_id", "movie_title", "release_year", "class"))
    # The files spell their one unknown title and year in their own way.
    title = movies.rows["movie_title"].replace("unkonwn", "unknown")
    year = " (" + movies.rows["release_year"] + ")"
    movies.rows = movies.rows.assign(
        title=title + year.replace([" (unkonwn)", " ()"], ""),
        genres=movies.rows["class"].str.replace(" ", "|"),
    )
    users = table("user", ("user_id", "age", "gender", "occupation"))
    return _joined(table("inter", _RATING), movies, users, "UTF-8", scale)


def _read_grouplens_100k(files: Files, invalid: Invalid, scale: Scale) -> Ratings:
    def table(name: str, columns: Sequence[str], separator: str) -> Table:
        return read_table(
            *(files, name, columns), separator=separator, encoding="ISO-8859-1", invalid=invalid
        )

    genres = _GENRES.split("|")
    movies = table(
        "u.item", ("item_id", "title", "release_date", "video_date", "url", *genres), "|"
    )
    for genre in genres:
        movies.reject(~movies.rows[genre].isin(["0", "1"]), genre, "is not 0 or 1")
    flags = (movies.rows[genres] == "1").to_numpy()
    movies.rows = movies.rows.assign(genres=["|".join(compress(genres, row)) for row in flags])
    users = table("u.user", ("user_id", "age", "gender", "occupation", "zip_code"), "|")
    return _joined(table("u.data", _RATING, "\t"), movies, users, "ISO-8859-1", scale)


def _joined(ratings: Table, movies: Table, users: Table, encoding: str, scale: Scale) -> Ratings:
    """Check the three tables, each by itself and against the others."""
    movies.to_integers("item_id")
    movies.reject(movies.rows["item_id"].duplicated(), "item_id", "is on an earlier line already")
    movies.check_encoding("title", encoding)
    movies.reject(movies.rows["title"].str.strip() == "", "title", "is missing")

    users.to_integers("user_id")
    users.reject(users.rows["user_id"].duplicated(), "user_id", "is on an earlier line already")

    ratings.to_integers(*_RATING)
    on_scale = ratings.rows["rating"].isin(scale.values)
    ratings.reject(~on_scale, "rating", f"is not one of {scale.listed}")
    known = ratings.rows["item_id"].isin(movies.rows["item_id"])
    ratings.reject(~known, "item_id", f"is not in {movies.name}")
    again = ratings.rows.duplicated(["user_id", "item_id"])
    ratings.reject(again, "item_id", "was rated by this user on an earlier line already")

    frame = ratings.rows[list(_RATING)].reset_index(drop=True)
    return Ratings(
        frame,
        _catalogue(movies.rows),
        _demographics(users.rows, frame["user_id"]),
        dict(sum((table.skipped for table in (movies, users, ratings)), Counter())),
        scale,
    )


def _catalogue(rows: pd.DataFrame) -> pd.DataFrame:
    parts = rows["title"].str.extract(_TITLE)
    movies = pd.DataFrame(
        {
            "item_id": rows["item_id"],
            "title": parts["title"].fillna(rows["title"]),
            "year": parts["year"].astype("Int64"),
            "genres": rows["genres"],
        }
    )
    return movies.sort_values("item_id", ignore_index=True)


def _demographics(rows: pd.DataFrame, raters: pd.Series) -> pd.DataFrame:
    """One row per user who is listed or has rated; "" where nothing is known."""
    known = rows.set_index("user_id")[["age", "gender", "occupation"]]
    everyone = known.index.union(raters.unique()).rename("user_id")
    return known.reindex(everyone, fill_value="").reset_index()

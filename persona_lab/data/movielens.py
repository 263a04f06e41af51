"""MovieLens files in, ratings out. Reads disk.

The data: F. M. Harper and J. A. Konstan, The MovieLens Datasets, ACM TiiS 5(4), 2015. Free for
research; not to be redistributed.
"""

from functools import partial
from itertools import compress
from pathlib import Path, PurePosixPath

from persona_lab.component import component
from persona_lab.data.ratings import Invalid, Ratings
from persona_lab.data.scale import Scale
from persona_lab.data.tables import Table, members, read_table
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


@component
class MovieLens100K:
    """MovieLens-100K: RecBole's `ml-100k.inter` or GroupLens's `u.data` with their companions."""

    def read(self, path: Path | None, invalid: Invalid, scale: Scale) -> Ratings:
        """Read the data set from a folder or zip (see `Reader`)."""
        path = _given(path, "u.data, u.item and u.user")
        recbole = any(PurePosixPath(name).name == "ml-100k.inter" for name in members(path))
        return (_recbole if recbole else _grouplens)(path, invalid, scale)


@component
class MovieLens1M:
    """MovieLens-1M: GroupLens's `ratings.dat`, `movies.dat` and `users.dat`."""

    def read(self, path: Path | None, invalid: Invalid, scale: Scale) -> Ratings:
        """Read the data set from a folder or zip (see `Reader`)."""
        path = _given(path, "ratings.dat, movies.dat and users.dat")
        table = partial(read_table, path, separator="::", encoding="ISO-8859-1", invalid=invalid)
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
    options = {"separator": "\t", "encoding": "UTF-8", "invalid": invalid, "header": True}
    table = partial(read_table, path, **options)
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
    table = partial(read_table, path, separator="|", encoding="ISO-8859-1", invalid=invalid)
    genres = _GENRES.split("|")
    movies = table("u.item", ("item_id", "title", "release_date", "video_date", "url", *genres))
    for genre in genres:
        movies.reject(~movies.rows[genre].isin(["0", "1"]), genre, "is not 0 or 1")
    flags = (movies.rows[genres] == "1").to_numpy()
    movies.rows = movies.rows.assign(genres=["|".join(compress(genres, row)) for row in flags])
    users = table("u.user", ("user_id", "age", "gender", "occupation", "zip_code"))
    return _joined(table("u.data", _RATING, separator="\t"), movies, users, scale)


def _joined(ratings: Table, movies: Table, users: Table, scale: Scale) -> Ratings:
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

"""The readers on toy files: what they return, and what each kind of bad line leads to."""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from configured import configured
from hypothesis import given, settings
from hypothesis import strategies as st

from persona_lab.data import MovieLens1M, MovieLens100K
from persona_lab.errors import UserError

FIVE = configured("data/scale=five_stars")
RATINGS = ["1::10::5::100", "1::20::3::90", "2::10::1::80", "2::20::4::85"]
MOVIES = ["10::Café Noir (1942)::Film-Noir|Drama", "20::Quiet Harbor, The (1999)::Children's"]
USERS = ["1::F::1::10::48067", "2::M::56::16::70072"]

MovieLensFolder = Callable[..., Path]


@pytest.fixture
def ml_1m(tmp_path: Path) -> MovieLensFolder:
    """Write MovieLens-1M's three files, each as given or as the toy has it."""

    def write(**files: bytes | list[str]) -> Path:
        for name, default in (("ratings", RATINGS), ("movies", MOVIES), ("users", USERS)):
            content = files.get(name, default)
            if isinstance(content, list):
                content = "".join(f"{line}\n" for line in content).encode("iso-8859-1")
            (tmp_path / f"{name}.dat").write_bytes(content)
        return tmp_path

    return write


def zipped(folder: Path, archive: Path, inside: str = "ml/") -> Path:
    with zipfile.ZipFile(archive, "w") as out:
        for file in folder.iterdir():
            if file != archive:
                out.write(file, inside + file.name)
    return archive


def test_ml_1m(ml_1m: MovieLensFolder) -> None:
    read = MovieLens1M().read(ml_1m(), "error", FIVE)
    assert read.frame.to_numpy().tolist() == [
        *([1, 10, 5, 100], [1, 20, 3, 90], [2, 10, 1, 80], [2, 20, 4, 85])
    ]
    assert list(read.frame.columns) == ["user_id", "item_id", "rating", "timestamp"]
    assert set(read.frame.dtypes) == {np.dtype("int64")}
    assert read.movies.to_numpy().tolist() == [
        [10, "Café Noir", 1942, "Film-Noir|Drama"],
        [20, "Quiet Harbor, The", 1999, "Children's"],
    ]
    assert read.users.to_numpy().tolist() == [
        [1, "under 18", "F", "K-12 student"],
        [2, "56 or over", "M", "self-employed"],
    ]
    assert read.skipped == {}


def test_a_zip_reads_as_its_folder(ml_1m: MovieLensFolder) -> None:
    folder = ml_1m()
    archive = zipped(folder, folder / "ml-1m.zip")
    expected, read = (MovieLens1M().read(path, "error", FIVE) for path in (folder, archive))
    pd.testing.assert_frame_equal(read.frame, expected.frame)
    pd.testing.assert_frame_equal(read.movies, expected.movies)
    pd.testing.assert_frame_equal(read.users, expected.users)


@pytest.mark.parametrize("end", ["\r\n", "\n", "\r\n\r\n"])
def test_line_ends_are_accepted(ml_1m: MovieLensFolder, end: str) -> None:
    folder = ml_1m(ratings=("\r\n".join(RATINGS) + end).encode())
    assert MovieLens1M().read(folder, "error", FIVE).frame["timestamp"].tolist() == [
        100,
        90,
        80,
        85,
    ]


BAD_LINES = [
    ("1::20::6::90", "rating 6 is not one of 1, 2, 3, 4, 5"),
    ("1::20::0::90", "rating 0 is not one of 1, 2, 3, 4, 5"),
    ("1::20::3.5::90", "rating '3.5' is not a plain whole number"),
    ("1::20::-1::90", "rating '-1' is not a plain whole number"),
    ("1::20::good::90", "rating good is not a plain whole number"),
    ("1::20::::90", "rating '' is not a plain whole number"),
    ("1::20::٣::90".encode().decode("iso-8859-1"), "rating 'Ù£' is not a plain whole number"),
    ("1::20::3::noon", "timestamp noon is not a plain whole number"),
    ("one::20::3::90", "user_id one is not a plain whole number"),
    ("1::99::3::90", "item_id 99 is not in movies.dat"),
    ("1::10::3::90", "item_id 10 was rated by this user on an earlier line already"),
    ("1::20::3", "wrong number of fields"),
    ("1::20::3::90::7", "wrong number of fields"),
    ("", "user_id '' is not a plain whole number"),
]


@pytest.mark.parametrize(("line", "problem"), BAD_LINES)
def test_a_bad_line_is_named_or_counted(ml_1m: MovieLensFolder, line: str, problem: str) -> None:
    folder = ml_1m(ratings=[RATINGS[0], line, *RATINGS[2:]])
    with pytest.raises(UserError) as caught:
        MovieLens1M().read(folder, "error", FIVE)
    assert str(caught.value).startswith("ratings.dat line 2: ")
    assert str(caught.value).endswith("(use data.invalid=drop to skip such lines)")
    if problem == "wrong number of fields":
        assert f"{line!r} has {line.count('::') + 1} fields, not the 4 of" in str(caught.value)
    else:
        assert f": {problem} (" in str(caught.value)

    read = MovieLens1M().read(folder, "drop", FIVE)
    assert read.frame["timestamp"].tolist() == [100, 80, 85]
    assert sum(read.skipped.values()) == 1
    assert next(iter(read.skipped)).startswith("ratings.dat: ")


def test_problems_are_counted_by_kind(ml_1m: MovieLensFolder) -> None:
    bad = ["1::20::6::90", "1::20::7::90", "1::20", "x::10::1::1"]
    read = MovieLens1M().read(ml_1m(ratings=[*RATINGS, *bad]), "drop", FIVE)
    assert len(read.frame) == 4
    assert read.skipped == {
        "ratings.dat: wrong number of fields": 1,
        "ratings.dat: user_id is not a plain whole number": 1,
        "ratings.dat: rating is not one of 1, 2, 3, 4, 5": 2,
    }
    folder = ml_1m(ratings=[*RATINGS, "3::10::1::1", bad[1], bad[0]])
    with pytest.raises(UserError, match=r"line 6: rating 7 .*, and 1 more such lines \(use"):
        MovieLens1M().read(folder, "error", FIVE)


def test_of_a_repeated_pair_the_first_line_stays(ml_1m: MovieLensFolder) -> None:
    read = MovieLens1M().read(ml_1m(ratings=[*RATINGS, "1::10::2::999"]), "drop", FIVE)
    assert read.frame.query("user_id == 1 and item_id == 10")["rating"].tolist() == [5]


def test_a_dropped_movie_drops_its_ratings_with_a_count(ml_1m: MovieLensFolder) -> None:
    read = MovieLens1M().read(ml_1m(movies=[MOVIES[0], "20::::Drama"]), "drop", FIVE)
    assert read.frame["item_id"].unique().tolist() == [10]
    assert read.skipped == {
        "movies.dat: title is missing": 1,
        "ratings.dat: item_id is not in movies.dat": 2,
    }


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"movies": "\n".join(MOVIES).encode()}, "movies.dat line 1: title .* is not ISO-8859-1"),
        ({"movies": [*MOVIES, MOVIES[0]]}, "movies.dat line 3: item_id 10 is on an earlier line"),
        ({"users": [*USERS, USERS[0]]}, "users.dat line 3: user_id 1 is on an earlier line"),
        ({"ratings": b""}, "ratings.dat is empty"),
        ({"ratings": b"\r\n\n"}, "ratings.dat is empty"),
        ({"ratings": "\n".join(RATINGS).encode("utf-16")}, "ratings.dat line 1: .* has 1 fields"),
    ],
)
def test_a_bad_file_is_named(
    ml_1m: MovieLensFolder, files: dict[str, bytes | list[str]], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        MovieLens1M().read(ml_1m(**files), "error", FIVE)


def test_dropping_every_line_is_an_error(ml_1m: MovieLensFolder) -> None:
    with pytest.raises(UserError, match=r"ratings\.dat has no valid line"):
        MovieLens1M().read(ml_1m(ratings=["1::10::9::1", "2::10::9::1"]), "drop", FIVE)
    with pytest.raises(UserError, match="'1::10' has 2 fields"):
        MovieLens1M().read(ml_1m(ratings=["1::10", "2::10"]), "drop", FIVE)


def test_a_missing_file_is_named(ml_1m: MovieLensFolder, tmp_path: Path) -> None:
    folder = ml_1m()
    (folder / "users.dat").unlink()
    with pytest.raises(UserError, match=r"has 0 files named users.dat.*data\.path"):
        MovieLens1M().read(folder, "error", FIVE)
    with pytest.raises(UserError, match="neither a folder nor a zip"):
        MovieLens1M().read(folder / "ratings.dat", "error", FIVE)
    with pytest.raises(UserError, match=r"set data\.path"):
        MovieLens1M().read(None, "error", FIVE)


def test_a_damaged_zip_is_named(ml_1m: MovieLensFolder) -> None:
    folder = ml_1m()
    archive = zipped(folder, folder / "ml-1m.zip")
    content = archive.read_bytes()
    archive.write_bytes(content.replace(b"1::10::5::100", b"1::10::1::100"))
    with pytest.raises(UserError, match=r"ratings\.dat in .*CRC.*whole copy"):
        MovieLens1M().read(archive, "error", FIVE)
    archive.write_bytes(content[:-30])
    with pytest.raises(UserError, match="neither a folder nor a zip"):
        MovieLens1M().read(archive, "error", FIVE)


def test_a_user_without_demographics_is_kept(ml_1m: MovieLensFolder) -> None:
    read = MovieLens1M().read(ml_1m(ratings=[*RATINGS, "3::10::4::1"]), "error", FIVE)
    assert read.users.to_numpy().tolist()[-1] == [3, "", "", ""]


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(*[st.sampled_from(["1", "3", "9", "", "x", "-2", "1.0"])] * 2), min_size=1)
)
def test_every_line_is_read_or_counted(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("ml")
    rows = [f"{number + 5}::10::{rating}::{time}" for number, (rating, time) in enumerate(cells)]
    # One good line, for a file without any is an error.
    for name, lines in (("ratings", ["1::10::5::1", *rows]), ("movies", MOVIES), ("users", USERS)):
        (folder / f"{name}.dat").write_bytes("\n".join(lines).encode("iso-8859-1"))
    read = MovieLens1M().read(folder, "drop", FIVE)
    good = [rating in ("1", "3") and time in ("1", "3", "9") for rating, time in cells]
    assert read.frame["user_id"].tolist() == [
        1,
        *(n + 5 for n, is_good in enumerate(good) if is_good),
    ]
    assert sum(read.skipped.values()) == good.count(False)


RECBOLE = {
    "ml-100k.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    "1\t1\t5\t100\n1\t267\t3\t90\n2\t1412\t1\t80\n",
    "ml-100k.item": "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    "1\tCafé Story\t1995\tAnimation Children's Sci-Fi\n267\tunkonwn\tunkonwn\tunknown\n"
    "1412\tLand III: The Time (1995)\tV\tFilm-Noir\n",
    "ml-100k.user": "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
    "1\t24\tM\ttechnician\t85711\n2\t53\tF\tother\t94043\n",
}
NO_FLAGS = ["0"] * 19


def flags(*positions: int) -> str:
    return "|".join("1" if number in positions else flag for number, flag in enumerate(NO_FLAGS))


GROUPLENS = {
    "u.data": "1\t1\t5\t100\n1\t267\t3\t90\n2\t1412\t1\t80\n",
    "u.item": f"1|Café Story (1995)|01-Jan-1995||http://x|{flags(3, 4, 15)}\n"
    f"267|unknown||||{flags(0)}\n"
    f"1412|Land III: The Time (1995) (V)|01-Jan-1995||http://x|{flags(10)}\n",
    "u.user": "1|24|M|technician|85711\n2|53|F|other|94043\n",
}


@pytest.mark.parametrize(("files", "encoding"), [(RECBOLE, "utf-8"), (GROUPLENS, "iso-8859-1")])
def test_both_layouts_of_ml_100k_are_one_data_set(
    tmp_path: Path, files: dict[str, str], encoding: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding=encoding)
    read = MovieLens100K().read(tmp_path, "error", FIVE)
    assert read.frame.to_numpy().tolist() == [[1, 1, 5, 100], [1, 267, 3, 90], [2, 1412, 1, 80]]
    assert read.movies.fillna({"year": 0}).to_numpy().tolist() == [
        [1, "Café Story", 1995, "Animation|Children's|Sci-Fi"],
        [267, "unknown", 0, "unknown"],
        [1412, "Land III: The Time", 1995, "Film-Noir"],
    ]
    assert read.users.to_numpy().tolist() == [[1, "24", "M", "technician"], [2, "53", "F", "other"]]


@pytest.mark.parametrize(
    ("layout", "name", "old", "new", "message"),
    [
        (RECBOLE, "ml-100k.inter", "rating:", "score:", "line 1: the header .* has no rating"),
        (RECBOLE, "ml-100k.inter", "\t3\t90", "\t3", "line 3: .* has 3 fields, not the 4"),
        (
            RECBOLE,
            "ml-100k.inter",
            "\t3\t90",
            "\t8\t90",
            "line 3: rating 8 is not one of 1, 2",
        ),
        (RECBOLE, "ml-100k.item", "Animation ", "Animation\t", "line 2: .* has 5 fields"),
        (GROUPLENS, "u.item", "|0|", "|2|", "line 1: unknown 2 is not 0 or 1"),
        (GROUPLENS, "u.data", "\t1\t80", "\tgood\t80", "line 3: rating good is not a plain"),
    ],
)
def test_bad_lines_of_ml_100k(
    tmp_path: Path, layout: dict[str, str], name: str, old: str, new: str, message: str
) -> None:
    assert old in layout[name]
    for file, text in {**layout, name: layout[name].replace(old, new, 1)}.items():
        (tmp_path / file).write_text(text, encoding="utf-8" if layout is RECBOLE else "iso-8859-1")
    with pytest.raises(UserError, match=f"{name} {message}"):
        MovieLens100K().read(tmp_path, "error", FIVE)


def test_recbole_text_that_is_not_utf_8(tmp_path: Path) -> None:
    for name, text in RECBOLE.items():
        (tmp_path / name).write_text(text, encoding="iso-8859-1")
    with pytest.raises(UserError, match=r"ml-100k\.item line 2: title .* is not UTF-8"):
        MovieLens100K().read(tmp_path, "error", FIVE)


def test_line_numbers_of_a_large_file(ml_1m: MovieLensFolder) -> None:
    # Several blocks of the CSV reader, with bad lines in more than one of them.
    rows = [f"{user}::10::3::{user}" for user in range(1, 200_001)]
    for line, text in ((5, "short"), (120_000, "1"), (199_999, "199999::10::77::1")):
        rows[line - 1] = text
    folder = ml_1m(ratings=rows)
    with pytest.raises(UserError, match="line 5: short has 1 fields"):
        MovieLens1M().read(folder, "error", FIVE)
    rows[4], rows[119_999] = "300000::10::1::1", "300001::10::1::1"
    with pytest.raises(UserError, match="line 199999: rating 77"):
        MovieLens1M().read(ml_1m(ratings=rows), "error", FIVE)


def test_the_real_ml_100k() -> None:
    wheels = Path(os.environ.get("PERSONA_LAB_WHEELS", "no folder"))
    wheel = next(wheels.glob("recbole-1.2.1-*.whl"), None)
    if wheel is None:
        pytest.skip("MovieLens-100K: no recbole-1.2.1 wheel in PERSONA_LAB_WHEELS")
    read = MovieLens100K().read(wheel, "error", FIVE)
    assert (len(read.frame), len(read.users), len(read.movies)) == (100_000, 943, 1_682)
    assert read.movies["year"].isna().sum() == 1
    assert read.frame["rating"].value_counts().sort_index().tolist() == [
        *(6_110, 11_370, 27_145, 34_174, 21_201)
    ]


def test_the_real_ml_1m() -> None:
    archive = Path(os.environ.get("PERSONA_LAB_TEST_DATA", "no folder")) / "ml-1m.zip"
    if not archive.is_file():
        pytest.skip("MovieLens-1M: no ml-1m.zip in PERSONA_LAB_TEST_DATA")
    read = MovieLens1M().read(archive, "error", FIVE)
    assert (len(read.frame), len(read.users), len(read.movies)) == (1_000_209, 6_040, 3_883)
    assert read.frame["user_id"].nunique() == 6_040
    assert read.frame["item_id"].nunique() == 3_706
    assert read.movies["year"].notna().all()
    assert read.movies["title"].str.contains("Misérables, Les").any()

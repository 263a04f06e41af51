"""Texts about movies: matched by id, with bad files and files about other movies refused."""

import os
from pathlib import Path

import pandas as pd
import pytest
from configured import configured

from persona_lab.data import Cost, CsvMovieInfo, MovieLens1M, NoMovieInfo
from persona_lab.errors import UserError
from persona_lab.sources import Sources

# Where nothing is: what is tested here reads no asset.
NO_ASSETS = Sources(Path("nowhere"))
MOVIES = pd.DataFrame(
    {
        "item_id": [10, 20, 30],
        "title": ["Café Noir", "Quiet Harbor, The", "Iron Parade"],
        "year": pd.array([1942, 1999, None], dtype="Int64"),
        "genres": ["Film-Noir", "Drama", "War"],
    }
)
HEADER = "movie_id,title,summary,director,cast\n"
ROW = '20,"Quiet Harbor, The (1999)","A ""quiet"" harbor.\nBoats.",Ann Lee,Bo Ek|Cy Fox\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "info.csv"


def test_no_info() -> None:
    info, cost = NoMovieInfo().read(MOVIES, NO_ASSETS)
    assert cost == Cost()
    assert list(info.columns) == ["item_id", "summary", "cast", "director"]
    assert info.to_numpy().tolist() == [[10, "", "", ""], [20, "", "", ""], [30, "", "", ""]]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_csv(file: Path, encoding: str) -> None:
    file.write_text(f"{HEADER}10,,Nuit.,Zoé Roy,\n{ROW}99,Else,Unused.,,\n", encoding=encoding)
    info, cost = CsvMovieInfo(str(file)).read(MOVIES, NO_ASSETS)
    assert cost == Cost()
    assert list(info.columns) == ["item_id", "summary", "cast", "director"]
    assert info.to_numpy().tolist() == [
        [10, "Nuit.", "", "Zoé Roy"],
        [20, 'A "quiet" harbor.\nBoats.', "Bo Ek, Cy Fox", "Ann Lee"],
        [30, "", "", ""],
    ]


def test_a_title_is_not_needed(file: Path) -> None:
    file.write_text("movie_id,summary,director,cast\n10,Night.,,\n")
    info, _ = CsvMovieInfo(str(file)).read(MOVIES, NO_ASSETS)
    assert info["summary"].tolist() == ["Night.", "", ""]


def test_a_file_about_other_movies_is_refused(file: Path) -> None:
    file.write_text(f"{HEADER}{ROW}10,Toy Boat (1990),x,,\n30,Mule (1991),x,,\n")
    with pytest.raises(UserError, match=r"2 of 3 titles differ \(movie 10 is 'Toy Boat \(1990\)'"):
        CsvMovieInfo(str(file)).read(MOVIES, NO_ASSETS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no column cast, director, movie_id, summary"),
        (HEADER.encode(), "has no rows"),
        (b"movie_id,title,summary\n10,a,b\n", "has no column cast, director"),
        (f"{HEADER}10,a,b,c\n".encode(), "line 2: not 5 fields"),
        (f"{HEADER}10,a,b,c,d,e\n".encode(), "line 2: not 5 fields"),
        (f"{HEADER}ten,a,b,c,d\n".encode(), "line 2: movie_id 'ten' is not a plain whole number"),
        (f"{HEADER}{ROW}{ROW}".encode(), "line 5: movie_id 20 comes twice"),
        (f'{HEADER}10,a,"b,c,d\n'.encode(), "line 2: unexpected end of data"),
        (f"{HEADER}10,Café,b,c,d\n".encode("iso-8859-1"), "line 2: byte 0xe9 is not UTF-8"),
    ],
)
def test_a_bad_file_is_named(file: Path, content: bytes, message: str) -> None:
    file.write_bytes(content)
    with pytest.raises(UserError, match=rf"^info\.csv {message}"):
        CsvMovieInfo(str(file)).read(MOVIES, NO_ASSETS)


@pytest.mark.parametrize("path", [None, "nowhere.csv"])
def test_a_missing_file_is_named(path: str | None) -> None:
    for use in (
        lambda info: info.read(MOVIES, NO_ASSETS),
        lambda info: info.fingerprint(NO_ASSETS),
    ):
        with pytest.raises(UserError, match=rf"^movie_info\.path is {path}, which is not a file"):
            use(CsvMovieInfo(path))


def test_fingerprint_follows_the_content(file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.csv"
    for place in (file, copy):
        place.write_text(HEADER + ROW)
    first = CsvMovieInfo(str(file)).fingerprint(NO_ASSETS)
    assert (
        first
        == CsvMovieInfo(str(copy)).fingerprint(NO_ASSETS)
        != NoMovieInfo().fingerprint(NO_ASSETS)
    )
    copy.write_text(f"{HEADER}{ROW}10,,x,,\n")
    assert first != CsvMovieInfo(str(copy)).fingerprint(NO_ASSETS)


def test_the_real_ml_1m() -> None:
    folder = Path(os.environ.get("PERSONA_LAB_TEST_DATA", "no folder"))
    if not (folder / "movie_info_ml_1m.csv").is_file():
        pytest.skip("movie_info: no movie_info_ml_1m.csv in PERSONA_LAB_TEST_DATA")
    movies = (
        MovieLens1M()
        .read(folder / "ml-1m.zip", "error", configured("data/scale=five_stars"))
        .movies
    )
    info, _ = CsvMovieInfo(str(folder / "movie_info_ml_1m.csv")).read(movies, NO_ASSETS)
    assert (info["summary"] != "").sum() == 3_883
    with pytest.raises(UserError, match="about other movies"):
        CsvMovieInfo(str(folder / "movie_info_ml_100k.csv")).read(movies, NO_ASSETS)

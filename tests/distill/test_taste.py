"""What catalogues' columns hold, and what ratings show as facts."""

from typing import Any

import pandas as pd
import pytest
from configured import configured

from persona_lab.distill.taste import Movies, Taste, split_genres, split_names

FIVE = configured("data/scale=five_stars")


@pytest.mark.parametrize(
    ("genres", "named"),
    [
        ("Comedy|Crime|Comedy", ("Comedy", "Crime")),
        ("unknown", ()),
        ("", ()),
        ("(no genres listed)", ()),
    ],
)
def test_split_genres(genres: str, named: tuple[str, ...]) -> None:
    assert split_genres(genres) == named


@pytest.mark.parametrize(
    ("names", "people"),
    [
        ("", ()),
        ("Joel Coen, Ethan Coen", ("Joel Coen", "Ethan Coen")),
        ("Tom Hanks|Tim Allen|Tom Hanks", ("Tom Hanks", "Tim Allen")),
        ("Robert Downey, Jr., Jude Law", ("Robert Downey Jr.", "Jude Law")),
    ],
)
def test_split_names(names: str, people: tuple[str, ...]) -> None:
    assert split_names(names) == people


def taste(rows: list[dict[str, Any]]) -> Taste:
    plain = {"title": "Toy", "year": None, "mean": None, "genres": "", "director": "", "cast": ""}
    frame = pd.DataFrame([{"item_id": n, **plain, **row} for n, row in enumerate(rows)])
    movies = Movies(frame, FIVE)
    known = Taste(movies)
    for movie in movies.rated:
        known.add(movie)
    return known


def test_groups_are_drawn_towards_the_mean() -> None:
    facts = taste(
        [{"rating": 5, "genres": "War"}] * 4 + [{"rating": 3, "genres": "Drama"}] * 12
    ).facts()
    # The mean is 3.5: (4 x 5 - 4 x 3.5) / (4 + 4) and (12 x 3 - 12 x 3.5) / (12 + 4).
    assert [(group["genre"], group["effect"]) for group in facts["liked"]] == [("War", 0.75)]
    assert [(group["genre"], group["effect"]) for group in facts["disliked"]] == [("Drama", -0.375)]
    assert facts["liked"][0]["mean"] == 5
    assert [group["share"] for group in facts["watched"]] == [0.75, 0.25]


def test_bands_and_agreement() -> None:
    rows = [{"rating": 5, "mean": 4.2}] * 10 + [{"rating": 2, "mean": 2.9}] * 10
    facts = taste(rows).facts()
    assert facts["bands"] == [
        {"average": {"start": 4.0}, "mean": 5},
        {"average": {"stop": 3.0}, "mean": 2},
    ]
    # 3 points of rating for three bands of half a point.
    assert facts["agreement"] == 2
    assert facts["even"] == pytest.approx((0.8 - 0.9) / 2)


def test_what_is_not_known_is_no_fact() -> None:
    facts = taste([{"rating": 4}]).facts()
    assert facts == {"n": 1, "usual": 4, "single": "4"}
    assert "lead" not in taste([{"rating": 4}] * 9).facts()

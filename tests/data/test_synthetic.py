"""Synthetic ratings have the shape asked for and the personas that were planted."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from configured import configured
from hypothesis import given, settings
from hypothesis import strategies as st

from persona_lab.data import Ratings, Scale, Synthetic
from persona_lab.data import synthetic as module
from persona_lab.errors import UserError

FIVE = configured("data/scale=five_stars")
OPPOSED = Synthetic(200, 80, 2, (20, 40), 1.0, seed=0)


def means(ratings: Ratings) -> pd.DataFrame:
    """Average rating of each movie (row) by each planted persona (column)."""
    rows = ratings.frame.merge(ratings.users, on="user_id")
    return rows.pivot_table(index="item_id", columns="planted", values="rating").dropna()


@settings(deadline=None)
@given(
    st.integers(1, 30),
    st.integers(6, 40),
    st.integers(1, 3),
    st.tuples(st.integers(1, 6), st.integers(1, 6)).map(sorted),
)
def test_shape(n_users: int, n_items: int, n_personas: int, rated: list[int]) -> None:
    made = Synthetic(n_users, n_items, min(n_personas, n_users), rated, 1.0, 0).read(
        None, "error", FIVE
    )
    frame = made.frame
    assert frame.groupby("user_id").size().between(rated[0], rated[1]).all()
    assert not frame.duplicated(["user_id", "item_id"]).any()
    assert frame["rating"].between(1, 5).all()
    assert set(frame.dtypes.astype(str)) == {"int64"}
    assert set(frame["item_id"]) <= set(made.movies["item_id"])
    assert made.users["user_id"].tolist() == list(range(1, n_users + 1))
    assert frame["user_id"].nunique() == n_users
    assert frame.groupby("user_id")["timestamp"].diff().dropna().gt(0).all()
    assert made.movies["title"].is_unique


def test_personas_oppose_each_other_movie_by_movie() -> None:
    by_movie = means(OPPOSED.read(None, "error", FIVE))
    assert (by_movie - 3).prod(axis=1).lt(0).mean() > 0.95
    assert (by_movie["0"] - by_movie["1"]).abs().mean() > 2


def test_without_opposition_nothing_tells_them_apart() -> None:
    by_movie = means(replace(OPPOSED, opposition=0.0).read(None, "error", FIVE))
    assert (by_movie["0"] - by_movie["1"]).abs().mean() < 0.4
    # The shared taste is as strong as an own one would be.
    assert by_movie.to_numpy().std() > 1


def test_the_taste_can_be_read_from_the_genres() -> None:
    made = OPPOSED.read(None, "error", FIVE)
    rows = made.frame.merge(made.users, on="user_id").merge(made.movies, on="item_id")
    by_genres = rows.groupby(["planted", "genres"])["rating"].mean()
    assert ((by_genres > 3.8) | (by_genres < 2.2)).all()


def test_ratings_are_drawn_on_the_scale() -> None:
    halves = Scale([n / 2 for n in range(1, 11)], [f"gave {n / 2:g}" for n in range(1, 11)])
    made = OPPOSED.read(None, "error", halves)
    assert made.scale == halves
    assert sorted(made.frame["rating"].unique()) == list(halves.values)
    five = OPPOSED.read(None, "error", FIVE).frame["rating"]
    # From 0.5 to 5, a rating point is 9/8 as large as from 1 to 5.
    expected = 2.75 + (five - 3) * 9 / 8
    assert (made.frame["rating"] - expected).abs().mean() < 0.4


@pytest.mark.parametrize("n_personas", [2, 3, 4, 8])
def test_personas_differ_from_one_another(n_personas: int) -> None:
    tastes = (
        means(
            replace(OPPOSED, n_personas=n_personas, n_users=100 * n_personas).read(
                None, "error", FIVE
            )
        )
        > 3
    )
    assert tastes.T.drop_duplicates().shape[0] == n_personas


def test_a_seed_is_a_data_set() -> None:
    first, again, other = (
        replace(OPPOSED, seed=seed).read(None, "error", FIVE).frame for seed in (0, 0, 1)
    )
    pd.testing.assert_frame_equal(first, again)
    assert not first.head(100).equals(other.head(100))


def test_many_users_are_made_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_KEYS_AT_ONCE", 1000)
    frame = OPPOSED.read(None, "error", FIVE).frame
    assert frame["user_id"].unique().tolist() == list(range(1, 201))
    assert frame.groupby("user_id").size().between(20, 40).all()


def test_more_movies_than_names() -> None:
    made = replace(OPPOSED, n_items=3000).read(None, "error", FIVE)
    assert made.movies["title"].is_unique
    assert made.movies["title"].str.endswith(" 2").any()


@pytest.mark.parametrize(
    ("field", "value"), [("n_items", 39), ("n_personas", 201), ("ratings_per_user", (40, 20))]
)
def test_impossible_values_are_named(field: str, value: object) -> None:
    with pytest.raises(UserError, match=rf"^data\.reader\.{field} is "):
        replace(OPPOSED, **{field: value})


def test_a_path_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.path is ratings"):
        OPPOSED.read(Path("ratings"), "error", FIVE)


def test_early_and_late_ratings_are_of_equally_popular_movies() -> None:
    frame = replace(OPPOSED, n_users=1000).read(None, "error", FIVE).frame
    popularity = frame["item_id"].map(frame["item_id"].value_counts())
    early = frame.groupby("user_id").cumcount() < 10
    assert popularity[early].mean() == pytest.approx(popularity[~early].mean(), rel=0.02)

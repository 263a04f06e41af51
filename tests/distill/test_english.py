"""The words: genres, people, lists and amounts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from persona_lab.distill.english import (
    Voice,
    amount,
    kind,
    listed,
    movie_phrase,
    movies_phrase,
    percent,
    split_genres,
    split_names,
    with_article,
)


@pytest.mark.parametrize(
    ("genres", "one", "many"),
    [
        ("Drama", "drama", "dramas"),
        ("Action", "action movie", "action movies"),
        ("Crime|Drama", "crime drama", "crime dramas"),
        ("Comedy|Romance", "romantic comedy", "romantic comedies"),
        ("Comedy|Drama", "comic drama", "comic dramas"),
        ("Action|Adventure", "action and adventure movie", "action and adventure movies"),
        ("Animation|Children's", "animated children's movie", "animated children's movies"),
        ("Documentary", "documentary", "documentaries"),
        ("Film-Noir", "film noir", "film noirs"),
        ("Anime|Drama", "anime drama", "anime dramas"),
    ],
)
def test_movies_of_genres(genres: str, one: str, many: str) -> None:
    assert movie_phrase(split_genres(genres)) == one
    assert movies_phrase(split_genres(genres)) == many


@pytest.mark.parametrize(
    ("genres", "phrase"),
    [
        ("", "movie"),
        ("unknown", "movie"),
        ("(no genres listed)", "movie"),
        ("Action|Adventure|Sci-Fi", "action, adventure and sci-fi movie"),
        ("Comedy|Crime|Mystery|Thriller", "mix of comedy, crime, mystery and thriller"),
        ("Animation|Children's|Comedy|Musical", "animated children's comic musical"),
    ],
)
def test_movie_phrase(genres: str, phrase: str) -> None:
    assert movie_phrase(split_genres(genres)) == phrase


def test_kind_of_an_unknown_genre() -> None:
    assert (kind("Sci-Fi"), kind("Anime")) == ("sci-fi", "anime movies")


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


@pytest.mark.parametrize(
    ("parts", "text"),
    [([], ""), (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")],
)
def test_listed(parts: list[str], text: str) -> None:
    assert listed(parts) == text


def test_articles_shares_and_amounts() -> None:
    assert with_article("action movie") == "an action movie"
    assert with_article("drama") == "a drama"
    assert [percent(share) for share in (0.004, 0.014, 1.0)] == ["under 1%", "1%", "100%"]
    assert amount(-0.2) == "about a quarter of a point"
    assert amount(0.5) == "about half a point"
    assert amount(1.34) == "1.3 points"


@given(st.integers(0, 9), st.integers(0, 10**9), st.lists(st.text(), min_size=1, max_size=5))
def test_turns_go_through_all_options(seed: int, user_id: int, options: list[str]) -> None:
    voice = Voice(seed, user_id)
    turns = [voice.pick("place", options, turn) for turn in range(len(options))]
    assert sorted(turns) == sorted(options)
    assert voice.pick("place", options) == turns[0]


def test_users_and_places_are_worded_differently() -> None:
    options = ["a", "b", "c"]
    assert {Voice(0, user).pick("place", options) for user in range(20)} == set(options)
    assert {Voice(0, 1).pick(str(place), options) for place in range(20)} == set(options)

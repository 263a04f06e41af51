"""Facts in words: forms, wordings, levels, lists and movies of genres."""

from dataclasses import replace

import pytest
from configured import configured
from hypothesis import given
from hypothesis import strategies as st

from persona_lab.distill.phrases import Facts, Forms, Phrases, Writer, listed, voice

PHRASES: Phrases = configured("distiller=statistical").phrases
WRITER = Writer(PHRASES)


@pytest.mark.parametrize(
    ("genres", "one", "many"),
    [
        ("Drama", "drama", "dramas"),
        ("Action", "action movie", "action movies"),
        ("Crime|Drama", "crime drama", "crime dramas"),
        ("Comedy|Romance", "romantic comedy", "romantic comedies"),
        ("Comedy|Drama", "comic drama", "comic dramas"),
        ("Action|Adventure", "action adventure movie", "action adventure movies"),
        ("Animation|Children's", "animated children's movie", "animated children's movies"),
        ("Documentary", "documentary", "documentaries"),
        ("Film-Noir", "film noir", "film noirs"),
        ("Anime|Drama", "anime drama", "anime dramas"),
    ],
)
def test_movies_of_genres(genres: str, one: str, many: str) -> None:
    pair = tuple(genres.split("|"))
    assert put("{pair:one}, {pair:many}", {"pair": pair}) == f"{one}, {many}"


@pytest.mark.parametrize(
    ("genres", "phrase"),
    [
        ((), "a movie"),
        (("Action", "Adventure", "Sci-Fi"), "a mix of action, adventure and sci-fi"),
        (("Animation", "Musical"), "an animated musical"),
    ],
)
def test_a_movie_with_its_article(genres: tuple[str, ...], phrase: str) -> None:
    movie = WRITER.part("movie", {"genres": genres})
    assert put("{movie:a}", {"movie": movie}) == phrase


def put(forms: Forms, facts: Facts) -> str:
    return WRITER.say(WRITER.sentence(forms), facts, voice(0, 1))


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"both": 1.0, "one": "x"}, "1.0 and x"),
        ({"one": "x"}, "only x"),
        ({}, ""),
    ],
)
def test_the_first_form_whose_facts_are_known_is_said(facts: Facts, text: str) -> None:
    assert put(["{both:.1f} and {one}", "only {one}"], facts) == text


@pytest.mark.parametrize(
    ("wording", "facts", "text"),
    [
        ("{lead:side}", {"lead": -0.1}, "below"),
        ("{lead:side}", {"lead": 0.1}, "above"),
        ("{g:rater}", {"g": -0.6}, "a strict rater"),
        ("{g:rater}", {"g": 7}, "a very generous rater"),
        ("{genre:kind}, {genre:offer}", {"genre": "Sci-Fi"}, "sci-fi, visions of the future"),
        ("{genre:kind}", {"genre": "Anime"}, "anime movies"),
        ("{label:a} {label:A}", {"label": "8"}, "an 8 An 8"),
        ("{group.mean:.1f}", {"group": {"mean": 2}}, "2.0"),
        ("{names}", {"names": ["Ann", "Bo", "Cy"]}, "Ann, Bo and Cy"),
        ("{end:band}", {"end": {"stop": 3.0}}, "below 3.0"),
        (
            "{seen:often or}",
            {"seen": [{"genre": "War", "share": 0.5}, {"genre": "Crime", "share": 0.25}]},
            "war movies (50% of my movies) or crime (25%)",
        ),
    ],
)
def test_how_facts_are_put(wording: str, facts: Facts, text: str) -> None:
    assert put(wording, facts) == text


@pytest.mark.parametrize(
    ("parts", "text"),
    [([], ""), (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")],
)
def test_listed(parts: list[str], text: str) -> None:
    assert listed(parts) == text


def test_a_long_profile_goes_without_its_expendable_themes() -> None:
    profile = {"one": ["{n} a b"], "two": ["{n} c d"], "three": ["{n} e f"]}
    facts = {"n": "now"}
    for most, text in ((9, "now a b now c d now e f"), (8, "now a b now e f"), (5, "now e f")):
        phrases = replace(PHRASES, profile=profile, expendable=["two", "one"], most_words=most)
        assert Writer(phrases).profile(facts, voice(0, 1)) == text


@given(st.integers(0, 9), st.integers(0, 10**9), st.integers(1, 5))
def test_turns_go_through_all_wordings(seed: int, user_id: int, n: int) -> None:
    form, own = WRITER.sentence(" | ".join("abcde"[:n])), voice(seed, user_id)
    said = [WRITER.say(form, {}, own, turn) for turn in range(n)]
    assert sorted(said) == list("abcde"[:n])
    assert WRITER.say(form, {}, own) == said[0]


def test_users_and_sentences_are_worded_differently() -> None:
    sentences = [WRITER.sentence(f"a{n} | b{n} | c{n}") for n in range(20)]
    assert {WRITER.say(sentences[0], {}, voice(0, user))[0] for user in range(20)} == {*"abc"}
    assert {WRITER.say(sentence, {}, voice(0, 1))[0] for sentence in sentences} == {*"abc"}

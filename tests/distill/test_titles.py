"""The title check: what counts as naming a movie, and what is then left out."""

import re
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from persona_lab.distill.titles import Titles, aliases, natural_title

CATALOGUE = {
    1: ("Big Lebowski, The", 1998),
    2: ("Heat", 1995),
    3: ("Seven (Se7en)", 1995),
    4: ("Dr. Strangelove or: How I Learned to Stop Worrying", 1963),
    5: ("Enfer, L'", 1994),
    6: ("Sabrina", 1954),
    7: ("Sabrina", 1995),
    8: ("Airplane!", 1980),
    9: ("First Contact", None),
    10: ("Star Trek: First Contact", 1996),
    11: ("Schindler's List", 1993),
    12: ("GoldenEye", 1995),
    13: ("Godfather, The", 1972),
    14: ("Godfather: Part II, The", 1974),
    15: ("???", 1990),
    16: ("The Quiet Man", 1952),
    17: ("1984", 1984),
}


def titles() -> Titles:
    frame = pd.DataFrame(
        [(item, title, year) for item, (title, year) in CATALOGUE.items()],
        columns=["item_id", "title", "year"],
    ).astype({"year": "Int64"})
    return Titles.of(frame)


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("I liked The Big Lebowski.", [{1}]),
        ("I liked Big Lebowski, The.", [{1}]),
        ("I liked the big lebowski.", []),
        ("The Big Lebowskis are a family.", []),
        ("The Quiet Man and Quiet Man, The", [{16}, {16}]),
        ("The Heat of the day, Heat and heat", []),
        ('I liked "Heat".', [{2}]),
        ("I liked “Heat,” a thriller.", [{2}]),
        ("I liked *Heat* too.", [{2}]),
        ("I liked Heat (1995).", [{2}]),
        ("I liked Heat, 1995.", [{2}]),
        ("I liked Heat (1996).", []),
        ("Overheat (1995)", []),
        ("I saw Se7en and Seven.", [{3}]),
        ("I saw Seven (Se7en).", [{3}]),
        ("I have rated 1984 movies.", []),
        ("Dr. Strangelove or: How I Learned to Stop Worrying", [{4}]),
        ("L'Enfer, L’Enfer and Enfer, L'", [{5}, {5}, {5}]),
        ("“Sabrina” is charming.", [{6, 7}]),
        ("Sabrina (1995) is not Sabrina (1954).", [{7}, {6}]),
        ("Airplane! was fun.", [{8}]),
        ("First Contact was fun.", [{9}]),
        ("Star Trek: First Contact was fun.", [{10}]),
        ("Schindler’s List and Schindler's List", [{11}, {11}]),
        ("GoldenEye is a name.", [{12}]),
        ("The Godfather: Part II beats The Godfather.", [{14}, {13}]),
        ("What??? No.", []),
    ],
)
def test_mentions(text: str, items: list[set[int]]) -> None:
    assert [set(mention.items) for mention in titles().mentions(text)] == items


def test_mentions_say_where() -> None:
    text = "I liked L’Enfer a lot."
    (mention,) = titles().mentions(text)
    assert text[mention.start : mention.stop] == "L’Enfer"


@pytest.mark.parametrize(
    ("title", "natural"),
    [
        ("Big Lebowski, The", "The Big Lebowski"),
        ("Seventh Seal, The (Sjunde inseglet, Det)", "The Seventh Seal"),
        ("Mrs. Brown (Her Majesty, Mrs. Brown)", "Mrs. Brown"),
        ("Enfer, L'", "L'Enfer"),
        ("Corrina, Corrina", "Corrina, Corrina"),
        ("(500) Days", "(500) Days"),
    ],
)
def test_natural_title(title: str, natural: str) -> None:
    assert natural_title(title) == natural


def test_aliases_know_the_other_name_and_both_places_of_the_article() -> None:
    assert aliases("Seventh Seal, The (Sjunde inseglet, Det)") == {
        "Seventh Seal, The (Sjunde inseglet, Det)",
        "Seventh Seal, The",
        "The Seventh Seal",
        "Sjunde inseglet, Det",
        "Det Sjunde inseglet",
    }


def test_sentences_are_left_out_whole() -> None:
    text = "I like noir. I gave The Big Lebowski a 5! Is there more? “Heat” too."
    assert titles().drop_sentences(text, {1, 2}) == ("I like noir. Is there more?", 2)
    assert titles().drop_sentences(text, {1}) == ("I like noir. Is there more? “Heat” too.", 1)
    assert titles().drop_sentences(text, {12}) == (text, 0)


def test_full_stops_in_titles_and_names_end_no_sentence() -> None:
    text = (
        "I rated Dr. Strangelove or: How I Learned to Stop Worrying as 5. "
        "Samuel L. Jackson and Mr. Fox are better than in The Godfather. I mean it."
    )
    kept, dropped = titles().drop_sentences(text, {4, 13}, own=4)
    assert dropped == 1
    assert kept == "I rated Dr. Strangelove or: How I Learned to Stop Worrying as 5. I mean it."


def test_the_own_title_may_stand() -> None:
    text = "I rated Sabrina (1995) as 4. Sabrina (1954) was better."
    assert titles().drop_sentences(text, {6, 7}, own=7) == ("I rated Sabrina (1995) as 4.", 1)


sentences = st.lists(
    st.sampled_from(
        [
            "I like noir.",
            "Give me more!",
            "He said “wait.”",
            "Heat is on.",
            "So,\nwhat?",
            "A 5 from me.",
            "",
        ]
    ),
    max_size=5,
)
ways = st.sampled_from(
    sorted(
        (alias, item)
        for item, (title, year) in CATALOGUE.items()
        if title != "???"
        for name in aliases(title)
        for alias in ([f"“{name}”"] + ([f"{name} ({year})"] if year else []))
    )
)


@given(sentences, ways, sentences)
def test_a_named_movie_is_never_left_and_nothing_else_is_lost(
    before: list[str], way: tuple[str, int], after: list[str]
) -> None:
    name, item = way
    history = set(CATALOGUE)
    naming = f"I gave {name} a 4."
    kept, dropped = titles().drop_sentences(" ".join([*before, naming, *after]), history)
    assert dropped == 1
    assert kept.split() == " ".join([*before, *after]).split()
    assert titles().drop_sentences(kept, history) == (kept, 0)
    others = history - set().union(*(m.items for m in titles().mentions(naming)))
    assert titles().drop_sentences(naming, others) == (naming, 0)
    assert titles().drop_sentences(naming, history, own=item) == (naming, 0)


@given(st.text(alphabet="TheatSevn '’\"“(1995).!\n, ?", max_size=80))
def test_any_text_ends_without_a_mention(text: str) -> None:
    kept, dropped = titles().drop_sentences(text, set(CATALOGUE))
    assert titles().mentions(kept) == []
    assert (kept == text) == (dropped == 0)


class TryingAll(Titles):
    """Looks for every title in every text."""

    def _possible(self, text: str) -> list[Any]:
        return [
            alias
            for seconds in self.by_words.values()
            for aliases in seconds.values()
            for alias in aliases
        ]


pieces = st.sampled_from(
    sorted(
        {
            piece
            for title, _ in CATALOGUE.values()
            for way in aliases(title)
            for piece in (way, *way.split(), *re.findall("[A-Za-z0-9]+", way))
        }
    )
) | st.sampled_from([" ", " ", "_", ". ", "“", "”", "’s ", " (1995)", ", 1984", "x", "É", "\n"])


@given(
    st.lists(pieces, max_size=15).map("".join),
    st.sets(st.sampled_from(sorted(CATALOGUE))),
    st.none() | st.sampled_from(sorted(CATALOGUE)),
)
def test_two_words_find_what_trying_every_title_finds(
    text: str, history: set[int], own: int | None
) -> None:
    quick = titles()
    slow = TryingAll(quick.by_words, quick.words)
    assert quick.mentions(text) == slow.mentions(text)
    assert quick.drop_sentences(text, history, own) == slow.drop_sentences(text, history, own)


def test_a_catalogue_without_titles_names_nothing() -> None:
    nothing = Titles.of(pd.DataFrame({"item_id": [1], "title": ["???"], "year": [1990]}))
    assert nothing.mentions("I gave ??? (1990) a 4.") == []

"""The LLM-free distiller: what it says is true, causal, and reads well in every corner."""

import hashlib
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from configured import configured
from hypothesis import given, settings
from hypothesis import strategies as st

from persona_lab.data import Scale
from persona_lab.distill import History, Memories, UserMemories
from persona_lab.sources import Sources

# Where nothing is: what is tested here reads no asset.
NO_ASSETS = Sources(Path("nowhere"))
Rows = list[dict[str, Any]]
FIVE: Scale = configured("data/scale=five_stars")

GENRES = ("Drama", "Comedy|Romance", "Horror|Thriller", "unknown", "", "Film-Noir", "Anime|War")
movies = st.fixed_dictionaries(
    {
        "rating": st.integers(1, 5),
        "year": st.none() | st.integers(1920, 2005),
        "genres": st.sampled_from(GENRES),
        "director": st.sampled_from(["", "Ann Ash", "Bo Bell, Cy Cole"]),
        "cast": st.sampled_from(["", "Di Dale, Ed Eck, Flo Fry, Guy Gold"]),
        "mean": st.just(float("nan")) | st.floats(1, 5),
    }
)
histories = st.lists(movies, min_size=1, max_size=45)


def make_history(rows: Rows, user_id: int = 1, scale: Scale = FIVE) -> History:
    """A history of the movies given; what a row leaves out is unknown."""
    frame = pd.DataFrame(
        [
            {
                "item_id": n + 1,
                "rating": 3,
                "timestamp": 1000 + n,
                "position": n,
                "title": f"Toy Movie {n + 1}",
                "year": None,
                "genres": "",
                "summary": "",
                "cast": "",
                "director": "",
                "mean": float("nan"),
            }
            | row
            for n, row in enumerate(rows)
        ]
    )
    text = dict.fromkeys(["title", "genres", "summary", "cast", "director"], "str")
    return History(user_id, frame.astype(text | {"year": "Int64", "mean": "float64"}), scale)


def distil(history: History, seed: int = 0, batch_size: int = 10) -> UserMemories:
    distiller = configured("distiller=statistical", batch_size=batch_size)
    (memories,) = distiller.distill([history], seed, NO_ASSETS)
    return memories


def fan(n: int = 40) -> Rows:
    """Crime dramas of the 1970s get 5s, comedies of the 1990s 2s; others give 3.5 to all."""
    crime = {"rating": 5, "year": 1975, "genres": "Crime|Drama", "mean": 3.5, "director": "Ann Ash"}
    comedy = {"rating": 2, "year": 1995, "genres": "Comedy", "mean": 3.5, "director": "Bo Bell"}
    return [crime if row % 2 else comedy for row in range(n)]


def test_profile_says_what_the_ratings_show() -> None:
    profile = distil(make_history(fan())).profile
    for fact in (
        "fair-minded rater",
        "crime (5.0 over 20",
        "drama (5.0 over 20",
        "comedy (2.0 over 20 movies)",
        "By decade I average 5.0 for movies from the 1970s and 2.0 for the 1990s.",
        "Among directors I rate Ann Ash (5.0) high and Bo Bell (2.0) low.",
        "my ratings are level with the averages that others give (+0.00)",
        "(+1.5)",
        "harshest on comedy (-1.5)",
        "(100% of such movies)",
        "Over 40 movies my average rating is 3.5, and what I give most often is a 5 and a 2.",
        "I give a 5 to 50% of movies and a 2 to 50%, but never a 4, a 3 or a 1.",
        "standard deviation of 1.5",
    ):
        assert fact in profile


def test_profile_compares_with_the_averages_in_bands() -> None:
    rows = [{"rating": 5, "mean": 4.2}] * 4 + [{"rating": 4, "mean": 3.6}] * 4
    rows += [{"rating": 2, "mean": 2.9}] * 4
    profile = distil(make_history(rows)).profile
    # (4 x 0.8 + 4 x 0.4 - 4 x 0.9) / 12 = 0.1
    assert "my ratings are level with the averages" in profile
    assert (
        "A movie with an average of 4.0 or more gets 5.0 from me, one of 3.5 to 4.0 gets 4.0 and "
        "one below 3.0 gets 2.0." in profile
    )


@pytest.mark.parametrize(
    ("rating", "words"),
    [
        (5, "I tend to rate 1.00 points above the average that others give."),
        (3, "I tend to rate 1.00 points below the average that others give."),
    ],
)
def test_profile_says_how_generous_the_user_is(rating: int, words: str) -> None:
    profile = distil(make_history([{"rating": rating, "mean": 4.0}] * 8)).profile
    assert words in profile
    assert ("very generous" if rating == 5 else "very strict") in profile


def test_profile_says_what_has_changed() -> None:
    rows = [{"rating": 4, "genres": "Drama"}] * 24 + [{"rating": 2, "genres": "War"}] * 12
    profile = distil(make_history(rows)).profile
    assert "stricter: my last 12 ratings are 2.0 on average, against 4.0 before." in profile
    assert "turning towards war movies and away from drama" in profile
    steady = distil(make_history([{"rating": 4}, {"rating": 3}] * 18)).profile
    assert "My taste and my ratings have changed little over time: my last 12" in steady


def mixed() -> Rows:
    """A hundred movies of all kinds."""
    return [
        {
            "rating": 1 + (row * 7) % 5,
            "year": 1950 + row % 50,
            "genres": ("Crime|Drama", "Comedy|Romance", "Action|War", "Horror", "Sci-Fi")[row % 5],
            "director": f"Director {row % 9}",
            "cast": f"Actor {row % 7}, Actor {row % 11}",
            "mean": 2.5 + row % 4 / 2,
        }
        for row in range(100)
    ]


def test_length_of_a_profile() -> None:
    memories = distil(make_history(mixed()))
    assert 180 <= len(memories.profile.split()) <= 400
    assert len(memories.snapshots) == 10
    assert memories.snapshots[-1] == memories.profile
    assert len(memories.snapshots[0].split()) < len(memories.profile.split())


def test_interactions_give_reasons_from_the_taste_so_far() -> None:
    texts = distil(make_history(fan())).interactions
    assert re.match(
        r"I rated Toy Movie 40 \(1975\) as 5 because .*crime drama by Ann Ash.* 5\.0", texts[39]
    )
    assert re.match(
        r"I rated Toy Movie 39 \(1995\) as 2 because .*comedy by Bo Bell.* 2\.0", texts[38]
    )
    assert "3.5" in texts[39]
    # Nothing is known before the first rating.
    assert re.fullmatch(
        r"I rated Toy Movie 1 \(1995\) as 2 because [^.,]*comedy by Bo Bell[^.,]*\. .*3\.5.*",
        texts[0],
    )


def test_a_rating_against_the_taste_is_set_against_it() -> None:
    rows: Rows = [
        *fan(),
        {"rating": 1, "year": 1976, "genres": "Crime|Drama", "director": "Ann Ash"},
    ]
    text = distil(make_history(rows)).interactions[-1]
    assert "although I average 5.0 for" in text


def test_titles_read_naturally() -> None:
    rows: Rows = [{"title": "Postino, Il (The Postman)", "year": 1994, "rating": 4}]
    (text,) = distil(make_history(rows)).interactions
    assert text.startswith("I rated Il Postino (1994) as 4 because ")


@settings(max_examples=40)
@given(histories, st.integers(1, 12), st.data())
def test_texts_know_only_what_came_before(rows: Rows, batch_size: int, data: st.DataObject) -> None:
    whole = distil(make_history(rows), batch_size=batch_size)
    cut = data.draw(st.integers(1, len(rows)))
    part = distil(make_history(rows[:cut]), batch_size=batch_size)
    assert part.interactions == whole.interactions[:cut]
    full_batches = cut // batch_size
    assert part.snapshots[:full_batches] == whole.snapshots[:full_batches]
    assert part.profile == part.snapshots[-1]
    assert len(part.snapshots) == -(-cut // batch_size)


@settings(max_examples=40)
@given(histories)
def test_a_later_rating_is_in_no_earlier_text(rows: Rows) -> None:
    other = [*rows[:-1], rows[-1] | {"rating": 6 - rows[-1]["rating"]}]
    before, after = (distil(make_history(each)).interactions[:-1] for each in (rows, other))
    assert before == after


@settings(max_examples=40)
@given(histories, st.integers(0, 5))
def test_every_text_reads_well(rows: Rows, seed: int) -> None:
    memories = distil(make_history(rows), seed)
    for text in (memories.profile, *memories.snapshots, *memories.interactions):
        assert (
            re.search(r"nan|None|<NA>|\[|\]|\{|\}|  |\(\)| [,.]|\.\.|,,|\ba [aeio]", text) is None
        )
        assert text[0].isupper()
        assert text.endswith(".")
        sentences = re.split(r"(?<=[.]) ", text)
        assert len(sentences) == len(set(sentences))
    for n, text in enumerate(memories.interactions):
        assert re.match(
            rf"I rated Toy Movie {n + 1}( \(\d+\))? as {rows[n]['rating']} because ", text
        )
    assert "Toy Movie" not in memories.profile
    assert len(memories.profile.split()) <= 400


@settings(max_examples=40)
@given(histories)
def test_liked_and_disliked_do_not_meet(rows: Rows) -> None:
    profile = distil(make_history(rows)).profile
    starts = {
        "high": r"(?:What suits me best is|I am happiest with|My higher ratings go to)",
        "low": r"(?:What suits me least is|I am least happy with|My lower ratings go to)",
    }
    found = {
        end: set(re.findall(r"(?:^|, | and )?([\w' -]+?) \(\d", sentence.group(1)))
        for end, start in starts.items()
        if (sentence := re.search(rf"{start} (.*?\))\.", profile))
    }
    assert found.get("high", set()).isdisjoint(found.get("low", set()))


@pytest.mark.parametrize(
    ("rows", "profile"),
    [
        ([{"rating": 2}], "So far I have rated a single movie, and I gave it a 2."),
        (
            [{"rating": 4, "genres": "Drama"}, {"rating": 5, "genres": "Drama|War"}],
            "So far I have rated 2 movies, with drama and war movies among them. "
            "My ratings were 4 and 5, which is 4.5 on average.",
        ),
        (
            [{"rating": 4}] * 8,
            "I am a generous rater without a clear favourite among the genres. "
            "I have given every one of the 8 movies I have rated a 4.",
        ),
    ],
)
def test_short_and_bare_histories(rows: Rows, profile: str) -> None:
    assert distil(make_history(rows)).profile == profile


def test_one_bare_row() -> None:
    (text,) = distil(make_history([{"rating": 1}])).interactions
    assert re.fullmatch(r"I rated Toy Movie 1 as 1 because [^.]*movie[^.]*\.", text)


def test_wording_depends_on_seed_and_user_alone() -> None:
    def texts(user_id: int, seed: int) -> Sequence[str]:
        memories = distil(make_history(fan(), user_id), seed)
        return [memories.profile, *memories.interactions]

    assert texts(1, 0) == texts(1, 0)
    assert texts(1, 0) != texts(2, 0)
    assert texts(1, 0) != texts(1, 1)
    histories = [make_history(fan(), 2), make_history(fan(), 1)]
    both = configured("distiller=statistical").distill(histories, 0, NO_ASSETS)
    assert [each.interactions for each in both] == [texts(2, 0)[1:], texts(1, 0)[1:]]


def test_ratings_of_any_scale() -> None:
    values = [step / 2 for step in range(1, 11)]
    halves = Scale(values, [f"would give it {value}" for value in values])
    rows = fan() + [{"rating": 3.5, "year": 1990, "genres": "War", "mean": 4.0}] * 4
    memories = distil(make_history(rows, scale=halves))
    assert memories.interactions[-1].startswith("I rated Toy Movie 44 (1990) as 3.5 because ")
    for fact in ("a 3.5 to 9%", "comedy (2.0 over 20 movies)", "A 5 from me"):
        assert fact in memories.profile


def test_neighbouring_texts_are_worded_differently() -> None:
    rows: Rows = [{"rating": 5, "genres": "Drama", "mean": 3.0}] * 12
    texts = distil(make_history(rows)).interactions
    reasons = [re.sub(r"Toy Movie \d+", "it", text) for text in texts]
    assert all(one != next_one for one, next_one in itertools.pairwise(reasons))


def test_texts_change_with_the_version_only() -> None:
    # When this fails because texts have changed: raise Memories.VERSION and put the new hash here.
    memories = distil(make_history(mixed()))
    content = "\n".join([*memories.snapshots, *memories.interactions])
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    assert (Memories.VERSION, digest) == (4, "b4220f7636133b8a")

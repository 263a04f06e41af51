"""The stage: complete, aligned, checked for titles, and read back as it was written."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from configured import configured
from pydantic import ValidationError

from persona_lab.cache import read, write
from persona_lab.data import Cost, NoMovieInfo, Protocol, Ratings, Scale, Split, Synthetic
from persona_lab.distill import History, Memories, UserMemories, distil, traits
from persona_lab.distill.histories import Scope
from persona_lab.distill.titles import Titles
from persona_lab.sources import Sources

# Where nothing is: what is tested here reads no asset.
NO_ASSETS = Sources(Path("nowhere"))
Toy = tuple[Ratings, Split]
STATISTICAL = configured("distiller=statistical")


@dataclass(frozen=True)
class Gossip:
    """Names the first movie of the history in every text; leaves out what it is told to."""

    name: str = "gossip"
    batch_size: int = 10
    scope: Scope = "training"
    leaves_out: str = ""

    def distill(
        self, histories: Iterable[History], seed: int, sources: Sources
    ) -> Iterator[UserMemories]:
        for history in histories:
            if self.leaves_out == "user":
                continue
            first = f"{history.rows['title'].iloc[0]} ({history.rows['year'].iloc[0]})"
            texts = [
                f"It is no {first}. I rated {title} ({year}) as {rating} because I like it."
                for title, year, rating in zip(
                    *(history.rows[name] for name in ("title", "year", "rating")), strict=True
                )
            ]
            texts[1] = f"I rated it as {history.rows['rating'].iloc[1]}, below {first}."
            batches = -(-len(texts) // self.batch_size)
            yield UserMemories(
                history.user_id,
                f"I love {first}. I am easy to please.",
                [f"I love {first}."] * batches,
                texts[:-1] if self.leaves_out == "row" else texts,
                [f"{batch}" for batch in range(1 if self.leaves_out == "insight" else batches)],
                counts={"asked_again": 1},
                cost=Cost(calls=2, tokens_in=30, tokens_out=4, money=0.25),
            )

    def fingerprint(self, sources: Sources) -> str:
        return "gossip"

    def estimate(self, sizes: Sequence[int], scale: Scale) -> Cost:
        return Cost()


def test_all_users_and_training_rows_are_there(toy: Toy, strict: Protocol) -> None:
    ratings, split = toy
    memories = distil(
        replace(STATISTICAL, batch_size=7), split, ratings, strict, seed=0, sources=NO_ASSETS
    )
    assert memories.profiles["user_id"].tolist() == split.users["user_id"].tolist()
    columns = ["user_id", "item_id", "rating", "timestamp", "position"]
    pd.testing.assert_frame_equal(memories.interactions[columns], split.train[columns])
    assert (memories.interactions["batch"] == memories.interactions["position"] // 7).all()
    last = memories.snapshots.groupby("user_id").last()
    assert last["profile"].tolist() == memories.profiles["profile"].tolist()
    by_user = memories.interactions.groupby("user_id")["batch"].max()
    assert last["batch"].tolist() == by_user.tolist()


def test_texts_belong_to_their_rows(toy: Toy, strict: Protocol) -> None:
    ratings, split = toy
    memories = distil(STATISTICAL, split, ratings, strict, seed=0, sources=NO_ASSETS)
    rows = memories.interactions.merge(split.movies, on="item_id")
    for title, year, rating, text in zip(
        rows["title"], rows["year"], rows["rating"], rows["text"], strict=True
    ):
        assert text.startswith(f"I rated {title} ({year}) as {rating} because ")


def test_memories_change_with_the_version_only(strict: Protocol) -> None:
    # When this fails because texts have changed: raise Memories.VERSION and put the new hash here.
    reader = Synthetic(400, 300, 4, (10, 50), 1.0, seed=1)
    data = configured("data=synthetic", reader=reader, min_ratings=10, max_ratings=50, n_users=250)
    ratings = data.ratings(NO_ASSETS)
    split = data.split(ratings, strict, NoMovieInfo(), NO_ASSETS)
    memories = distil(STATISTICAL, split, ratings, strict, seed=0, sources=NO_ASSETS)
    tables = (memories.profiles, memories.snapshots, memories.interactions)
    content = "".join(table.to_csv(index=False) for table in tables) + str(memories.counts)
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    assert (Memories.VERSION, digest) == (4, "6080bfc2651e5b7f")


def test_the_statistical_distiller_passes_the_title_check(toy: Toy, strict: Protocol) -> None:
    ratings, split = toy
    checked = distil(STATISTICAL, split, ratings, strict, seed=0, sources=NO_ASSETS)
    written = distil(
        STATISTICAL, split, ratings, replace(strict, title_check=False), seed=0, sources=NO_ASSETS
    )
    assert checked.counts["profile_sentences_dropped"] == 0
    assert checked.counts["interaction_sentences_dropped"] == 0
    pd.testing.assert_frame_equal(checked.interactions, written.interactions)
    titles = Titles.of(split.movies)
    assert not any(titles.mentions(text) for text in checked.profiles["profile"])


def test_title_check_of_a_distiller_that_gossips(toy: Toy, strict: Protocol) -> None:
    ratings, split = toy
    memories = distil(Gossip(), split, ratings, strict, seed=0, sources=NO_ASSETS)
    users, rows = len(memories.profiles), len(memories.interactions)
    assert (memories.profiles["profile"] == "I am easy to please.").all()
    plain = memories.snapshots.merge(
        memories.interactions.groupby("user_id").size().rename("n"), on="user_id"
    )
    assert (plain["profile"] == "I have rated " + plain["n"].astype(str) + " movies.").all()
    texts = memories.interactions.merge(split.movies, on="item_id")
    for position, title, year, rating, text in zip(
        *(texts[name] for name in ("position", "title", "year", "rating", "text")), strict=True
    ):
        said = f"I rated {title} ({year}) as {rating}"
        own = f"It is no {title} ({year}). " if position == 0 else ""
        assert text == (f"{said}." if position == 1 else f"{own}{said} because I like it.")
    # The snapshots of a user are one and the same text.
    assert memories.counts["profile_sentences_dropped"] == 2 * users
    assert memories.counts["profiles_replaced"] == users
    assert memories.counts["interaction_sentences_dropped"] == rows - users
    assert memories.counts["verdicts_restored"] == users
    assert memories.counts["asked_again"] == users


def test_without_title_check_texts_stay_as_written(toy: Toy, strict: Protocol) -> None:
    ratings, split = toy
    memories = distil(
        Gossip(), split, ratings, replace(strict, title_check=False), seed=0, sources=NO_ASSETS
    )
    assert memories.profiles["profile"].str.startswith("I love ").all()
    assert "profile_sentences_dropped" not in memories.counts


def test_cost_and_insights_are_kept(toy: Toy, strict: Protocol, tmp_path: Path) -> None:
    ratings, split = toy
    write(distil(Gossip(), split, ratings, strict, seed=0, sources=NO_ASSETS), tmp_path)
    memories = read(Memories, tmp_path)
    assert memories.cost == Cost(calls=6, tokens_in=90, tokens_out=12, money=0.75)
    assert memories.cost.tokens == 102
    assert (memories.snapshots["insight"] == memories.snapshots["batch"].astype(str)).all()
    plain = distil(STATISTICAL, split, ratings, strict, seed=0, sources=NO_ASSETS)
    assert (plain.snapshots["insight"] == "").all()
    assert plain.cost == STATISTICAL.estimate([20, 30], split.scale) == Cost()


def test_counts_are_of_words_as_they_stand(toy: Toy, strict: Protocol) -> None:
    ratings, split = toy
    counts = distil(Gossip(), split, ratings, strict, seed=0, sources=NO_ASSETS).counts
    assert counts["users"] == 3
    assert counts["rows"] == len(split.train)
    assert counts["profile_words_mean"] == counts["profile_words_max"] == 5
    assert counts["interaction_words_max"] > counts["interaction_words_mean"] > 5


def test_traits_follow_the_protocol(toy: Toy, strict: Protocol) -> None:
    ratings, split = toy
    users = split.users["user_id"]
    measured = {"training": split.training_rows(ratings.frame), "all": ratings.frame}
    found = {}
    for name, rows in measured.items():
        protocol = replace(strict, traits=name)
        profiles = distil(STATISTICAL, split, ratings, protocol, seed=0, sources=NO_ASSETS).profiles
        found[name] = profiles.drop(columns="profile")
        pd.testing.assert_frame_equal(found[name], traits(rows, ratings.movies, users))
    assert not found["training"].equals(found["all"])


def test_scope_all_shows_the_leak(toy: Toy, strict: Protocol) -> None:
    ratings, split = toy
    honest = distil(STATISTICAL, split, ratings, strict, seed=0, sources=NO_ASSETS)
    leaking = distil(
        replace(STATISTICAL, scope="all"), split, ratings, strict, seed=0, sources=NO_ASSETS
    )
    assert (leaking.profiles["profile"] != honest.profiles["profile"]).all()
    n = ratings.frame.groupby("user_id").size()
    for user_id, profile in zip(
        leaking.profiles["user_id"], leaking.profiles["profile"], strict=True
    ):
        assert f"Over {n[user_id]} movies" in profile
    # The bank is the training rows, and texts on them know nothing later.
    pd.testing.assert_frame_equal(leaking.interactions, honest.interactions)


def test_a_mean_of_no_ratings_is_not_compared_with(toy: Toy, strict: Protocol) -> None:
    ratings, split = toy
    unknown = replace(split, movies=split.movies.assign(mean_known=False))
    memories = distil(STATISTICAL, unknown, ratings, strict, seed=0, sources=NO_ASSETS)
    assert not memories.profiles["profile"].str.contains("that others give").any()
    assert not memories.interactions["text"].str.contains("others").any()


@pytest.mark.parametrize("leaves_out", ["user", "row", "insight"])
def test_an_incomplete_distiller_is_refused(toy: Toy, strict: Protocol, leaves_out: str) -> None:
    ratings, split = toy
    with pytest.raises(ValueError, match="Gossip must give user"):
        distil(Gossip(leaves_out=leaves_out), split, ratings, strict, seed=0, sources=NO_ASSETS)


@pytest.mark.parametrize("fields", [{"scope": "test"}, {"batch_size": 0}])
def test_what_cannot_be_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(fields))):
        replace(STATISTICAL, **fields)


def test_write_and_read(toy: Toy, strict: Protocol, tmp_path: Path) -> None:
    ratings, split = toy
    memories = distil(STATISTICAL, split, ratings, strict, seed=0, sources=NO_ASSETS)
    write(memories, tmp_path)
    again = read(Memories, tmp_path)
    for name in ("profiles", "snapshots", "interactions"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(memories, name))
    assert str(again.counts) == str(memories.counts)


@pytest.mark.skipif("PERSONA_LAB_TEST_DATA" not in os.environ, reason="PERSONA_LAB_TEST_DATA")
def test_real_users(strict: Protocol) -> None:
    path = Path(os.environ["PERSONA_LAB_TEST_DATA"]) / "ml-1m.zip"
    data = configured("data=ml_1m", path=str(path), n_users=40)
    ratings = data.ratings(NO_ASSETS)
    split = data.split(ratings, strict, NoMovieInfo(), NO_ASSETS)
    memories = distil(STATISTICAL, split, ratings, strict, seed=0, sources=NO_ASSETS)
    words = memories.profiles["profile"].map(str.split).map(len)
    assert words.between(180, 400).all()
    assert memories.counts["profile_sentences_dropped"] == 0
    assert memories.counts["interaction_sentences_dropped"] == 0
    assert memories.profiles["profile"].is_unique

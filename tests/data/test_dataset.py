"""Selection of users, the split of a cohort and its averages under both protocols."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from configured import configured
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from persona_lab.component import describe
from persona_lab.data import Data, NoMovieInfo, Protocol, Ratings, Reader, Scale, Split, Synthetic
from persona_lab.errors import UserError
from persona_lab.sources import Sources

STRICT, PAPER = configured("protocol=strict"), configured("protocol=paper")
FIVE = configured("data/scale=five_stars")
SMALL = Synthetic(60, 40, 2, (5, 20), 1.0, seed=0)
TOY = configured("data=synthetic", reader=SMALL, min_ratings=8, max_ratings=16, n_users=10)


@pytest.fixture(scope="module")
def toy() -> Ratings:
    return SMALL.read(None, "error", FIVE)


def split(data: Data, ratings: Ratings, protocol: Protocol = STRICT) -> Split:
    return data.split(ratings, protocol, NoMovieInfo(), Sources(Path("nowhere")))


def with_ratings(ratings: Ratings, frame: pd.DataFrame) -> Ratings:
    return replace(ratings, frame=frame)


def test_only_eligible_users_are_selected(toy: Ratings) -> None:
    sizes = toy.frame.groupby("user_id").size()
    eligible = set(sizes.index[(sizes >= 8) & (sizes <= 16)])
    made = split(TOY, toy)
    assert made.users["user_id"].is_monotonic_increasing
    assert set(made.users["user_id"]) < eligible
    assert made.counts == {
        "ratings": len(toy.frame),
        "users": 60,
        "eligible_users": len(eligible),
        "selected_users": 10,
        "train": len(made.train),
        "test": len(made.test),
        "held_back": 0,
    }
    everyone = split(replace(TOY, n_users=len(eligible)), toy)
    assert set(everyone.users["user_id"]) == eligible


def test_no_row_of_a_selected_user_is_lost(toy: Ratings) -> None:
    made = split(TOY, toy)
    own = toy.frame[toy.frame["user_id"].isin(made.users["user_id"])]
    columns = list(own.columns)
    together = pd.concat([made.train, made.test])[columns].sort_values(columns, ignore_index=True)
    pd.testing.assert_frame_equal(together, own.sort_values(columns, ignore_index=True))


def test_the_order_of_the_file_does_not_matter(toy: Ratings) -> None:
    shuffled = with_ratings(toy, toy.frame.sample(frac=1, random_state=1, ignore_index=True))
    pd.testing.assert_frame_equal(split(TOY, shuffled).train, split(TOY, toy).train)
    pd.testing.assert_frame_equal(split(TOY, shuffled).test, split(TOY, toy).test)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(1, 13))
def test_cohorts_are_disjoint(toy: Ratings, seed: int, n_users: int) -> None:
    data = replace(TOY, seed=seed, n_users=n_users)
    reported, dev = (split(replace(data, cohort=name), toy) for name in ("reported", "dev"))
    assert not set(reported.users["user_id"]) & set(dev.users["user_id"])
    assert len(reported.users) == len(dev.users) == n_users
    pd.testing.assert_frame_equal(reported.movies, dev.movies)


def test_too_few_users(toy: Ratings) -> None:
    eligible = split(TOY, toy).counts["eligible_users"]
    too_many_for_two = replace(TOY, n_users=eligible // 2 + 1)
    assert len(split(too_many_for_two, toy).users) == eligible // 2 + 1
    with pytest.raises(UserError, match=f"^{eligible} users have 8 to 16 ratings: too few for a"):
        split(replace(too_many_for_two, cohort="dev"), toy)
    with pytest.raises(UserError, match=f"^{eligible} users .* data.n_users is {eligible + 1}"):
        split(replace(TOY, n_users=eligible + 1), toy)


def flipped(ratings: Ratings, users: pd.Series) -> Ratings:
    frame = ratings.frame
    turned = frame["rating"].where(~frame["user_id"].isin(users), 6 - frame["rating"])
    return with_ratings(ratings, frame.assign(rating=turned))


@pytest.mark.parametrize("cohort", ["reported", "dev"])
def test_strict_means_know_no_rating_of_either_cohort(toy: Ratings, cohort: str) -> None:
    other = split(replace(TOY, cohort=cohort), toy).users["user_id"]
    before, after = split(TOY, toy), split(TOY, flipped(toy, other))
    pd.testing.assert_frame_equal(before.movies, after.movies)
    before, after = split(TOY, toy, PAPER), split(TOY, flipped(toy, other), PAPER)
    assert not before.movies["mean"].equals(after.movies["mean"])


def test_the_mean_of_each_protocol_by_hand() -> None:
    # Users 1 and 2 are eligible (three ratings); user 3 has too few. Movie 30 is rated by the
    # cohorts alone, movie 40 by nobody.
    rows = [
        *((1, 10, 5, 1), (1, 20, 4, 2), (1, 30, 1, 3)),
        *((2, 10, 1, 1), (2, 20, 2, 2), (2, 30, 3, 3)),
        *((3, 10, 2, 1), (3, 20, 5, 2)),
    ]
    ratings = Ratings(
        pd.DataFrame(rows, columns=["user_id", "item_id", "rating", "timestamp"]),
        pd.DataFrame({"item_id": [10, 20, 30, 40], "title": list("abcd"), "genres": ["Drama"] * 4}),
        pd.DataFrame({"user_id": [1, 2, 3]}),
        {},
        FIVE,
    )
    data = replace(TOY, min_ratings=3, max_ratings=3, n_users=1)

    def means(item_mean: str) -> pd.DataFrame:
        made = split(data, ratings, replace(STRICT, item_mean=item_mean))  # type: ignore[arg-type]
        return made.movies[["mean", "mean_known"]]

    assert means("outside_cohort").to_numpy().tolist() == [
        *([2.0, True], [5.0, True], [3.5, False], [3.5, False])
    ]
    assert means("all")["mean"].tolist() == pytest.approx([8 / 3, 11 / 3, 2, 23 / 8])
    assert means("all")["mean_known"].tolist() == [True, True, True, False]
    first, second = split(data, ratings).train["rating"]
    assert means("training")["mean"].tolist() == [first, second, *[(first + second) / 2] * 2]
    assert means("none")["mean"].isna().all()
    assert not means("none")["mean_known"].any()


def test_no_one_outside_the_cohorts() -> None:
    ratings = Synthetic(20, 30, 2, (10, 10), 1.0, seed=0).read(None, "error", FIVE)
    data = replace(TOY, n_users=10)
    with pytest.raises(UserError, match="every user is in a cohort"):
        split(data, ratings)
    assert split(data, ratings, PAPER).movies["mean_known"].all()


def test_test_rows_per_user(toy: Ratings) -> None:
    full, drawn = split(TOY, toy), split(replace(TOY, test_rows_per_user=2), toy)
    assert drawn.test.groupby("user_id").size().tolist() == [2] * 10
    assert len(drawn.test.merge(full.test)) == 20
    order = drawn.test[["user_id", "position"]]
    pd.testing.assert_frame_equal(order, order.sort_values(["user_id", "position"]))
    pd.testing.assert_frame_equal(drawn.train, full.train)
    assert drawn.counts["held_back"] == len(full.test) - 20


def test_validation_rows_are_training_rows_and_test_rows_stay_away(toy: Ratings) -> None:
    full, made = split(TOY, toy), split(replace(TOY, validation_fraction=0.25), toy)
    both = pd.concat([made.train, made.test]).sort_values(["user_id", "position"])
    pd.testing.assert_frame_equal(both.reset_index(drop=True), full.train)
    last_seen = made.train.groupby("user_id")["position"].max()
    first_asked = made.test.groupby("user_id")["position"].min()
    assert (last_seen < first_asked).all()
    assert made.counts["held_back"] == len(full.test)


@pytest.mark.parametrize("validation_fraction", [0.0, 0.25])
def test_training_rows_of_everyone_follow_the_same_rule(
    toy: Ratings, validation_fraction: float
) -> None:
    made = split(replace(TOY, validation_fraction=validation_fraction), toy)
    everyone = made.training_rows(toy.frame)
    own = everyone[everyone["user_id"].isin(made.users["user_id"])]
    pd.testing.assert_frame_equal(own.reset_index(drop=True), made.train)
    assert everyone["user_id"].nunique() == 60


def test_no_test_rows_is_an_error(toy: Ratings) -> None:
    with pytest.raises(UserError, match="no rows are left to test on"):
        split(replace(TOY, train_fraction=0.99), toy)


def test_the_protocols_differ_where_the_paper_leaks() -> None:
    differing = {
        field.name
        for field in fields(Protocol)
        if getattr(STRICT, field.name) != getattr(PAPER, field.name)
    }
    assert differing == {"name", "item_mean", "traits", "title_check", "recall_time"}


class Own:
    """A reader as somebody else would write it."""

    def read(self, path: Path | None, invalid: str, scale: Scale) -> Ratings:
        assert path is not None
        frame = pd.DataFrame(np.loadtxt(path, dtype="int64", ndmin=2))
        frame.columns = ["user_id", "item_id", "rating", "timestamp"]
        return Ratings(frame, pd.DataFrame(), pd.DataFrame(), {}, scale)


def test_a_path_reaches_the_reader(tmp_path: Path) -> None:
    reader: Reader = Own()
    file = tmp_path / "mine.txt"
    file.write_text("1 2 3 4\n")
    sources = Sources(tmp_path / "cache")
    own = replace(TOY, reader=reader, path=str(file))
    assert own.ratings(sources).frame["rating"].tolist() == [3]
    with pytest.raises(UserError, match=r"^data\.path .*nothing does not exist"):
        replace(own, path=str(tmp_path / "nothing")).ratings(sources)


def test_a_fingerprint_is_of_content_or_of_pins_not_of_place(tmp_path: Path) -> None:
    sources = Sources(tmp_path / "cache")
    for folder, text in (("a", "1"), ("b", "1"), ("c", "2")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "ratings.dat").write_text(text)
    a, b, c = (
        replace(TOY, path=str(tmp_path / folder)).fingerprint(sources) for folder in ("a", "b", "c")
    )
    assert a == b != c
    assert TOY.fingerprint(sources) is None
    # A plan states keys without the data.
    pinned = configured("data=ml_1m")
    assert pinned.fingerprint(sources) == {"source": vars(pinned.source)}
    assert not sources.cache.exists()
    assert describe(replace(TOY, path="x", name="y")) == describe(TOY)
    assert describe(replace(TOY, seed=1)) != describe(TOY)
    assert describe(replace(TOY, reader=replace(SMALL, seed=1))) != describe(TOY)


def test_a_value_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValidationError, match="train_fraction"):
        replace(TOY, train_fraction=1.5)


def test_half_stars_go_through_the_split(toy: Ratings) -> None:
    halves = Scale([n / 2 for n in range(1, 11)], [f"gave {n / 2:g}" for n in range(1, 11)])
    frame = toy.frame.assign(rating=toy.frame["rating"] - 0.5)
    made = split(replace(TOY, scale=halves), replace(toy, frame=frame, scale=halves))
    whole = split(TOY, toy)
    assert made.scale == halves
    for rows, others in ((made.train, whole.train), (made.test, whole.test)):
        pd.testing.assert_frame_equal(rows, others.assign(rating=others["rating"] - 0.5))
    assert made.movies["mean"].tolist() == pytest.approx((whole.movies["mean"] - 0.5).tolist())

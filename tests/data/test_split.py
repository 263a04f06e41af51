"""The split in time by hand and by rule, and the averages of movies."""

import math
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persona_lab.cache import read, write
from persona_lab.data import Cost, Scale, Split
from persona_lab.data.split import draw_rows, in_time_order, training_rows


def ratings(*rows: tuple[int, int, int, int]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["user_id", "item_id", "rating", "timestamp"], dtype="int64")


@st.composite
def histories(draw: st.DrawFn) -> pd.DataFrame:
    """Ratings of a few users, with many ties in time, in any order."""
    pairs = draw(
        st.lists(
            st.tuples(st.integers(1, 4), st.integers(1, 30)), min_size=1, max_size=60, unique=True
        )
    )
    return ratings(*((u, i, 1 + (u + i) % 5, draw(st.integers(0, 3))) for u, i in pairs))


def test_order_by_hand() -> None:
    history = in_time_order(
        ratings((2, 7, 1, 5), (1, 9, 2, 50), (1, 8, 3, 50), (1, 3, 4, 10), (2, 1, 5, 4))
    )
    columns = ["user_id", "item_id", "position"]
    assert history[columns].to_numpy().tolist() == [
        *([1, 3, 0], [1, 8, 1], [1, 9, 2], [2, 1, 0], [2, 7, 1])
    ]


@pytest.mark.parametrize(
    ("n_rows", "fraction", "expected"),
    [(5, 0.6, 3), (10, 0.6, 6), (11, 0.6, 7), (1, 0.6, 1), (20, 0.55, 11), (100, 0.07, 7)],
)
def test_size_of_the_training_share(n_rows: int, fraction: float, expected: int) -> None:
    history = in_time_order(ratings(*((1, item, 3, item) for item in range(n_rows))))
    assert len(training_rows(history, fraction)) == expected


def test_validation_share_by_hand() -> None:
    # Of 10 rows 6 are for training, and of these ceil(0.5 x 6) stay.
    history = in_time_order(ratings(*((1, item, 3, item) for item in range(10))))
    assert training_rows(history, 0.6, 0.5)["position"].tolist() == [0, 1, 2]
    # 0.9 x 6 = 5.4 stay as 6: too few rows for a tenth.
    assert training_rows(history, 0.6, 0.1)["position"].tolist() == [0, 1, 2, 3, 4, 5]


@settings(deadline=None, max_examples=50)
@given(histories(), st.integers(1, 99).map(lambda percent: percent / 100))
def test_split_in_time(frame: pd.DataFrame, fraction: float) -> None:
    history = in_time_order(frame)
    train = training_rows(history, fraction)
    test = history.drop(train.index)
    columns = list(frame.columns)
    together = pd.concat([train, test])[columns].sort_values(columns, ignore_index=True)
    pd.testing.assert_frame_equal(together, frame.sort_values(columns, ignore_index=True))
    for user, own in history.groupby("user_id"):
        first, last = (rows[rows["user_id"] == user] for rows in (train, test))
        assert len(first) == math.ceil(round(fraction * len(own), 9))
        assert own["position"].tolist() == list(range(len(own)))
        assert own[["timestamp", "item_id"]].to_numpy().tolist() == sorted(
            own[["timestamp", "item_id"]].to_numpy().tolist()
        )
        if not last.empty:
            assert first["timestamp"].max() <= last["timestamp"].min()
            assert first["position"].max() < last["position"].min()


@settings(deadline=None, max_examples=50)
@given(histories(), st.integers(1, 10), st.integers(0, 3))
def test_drawn_rows(frame: pd.DataFrame, per_user: int, seed: int) -> None:
    history = in_time_order(frame)
    drawn = draw_rows(history, per_user, seed)
    sizes = history.groupby("user_id").size().clip(upper=per_user)
    assert drawn.groupby("user_id").size().to_dict() == sizes.to_dict()
    assert drawn.index.is_monotonic_increasing
    assert set(drawn.index) <= set(draw_rows(history, per_user + 1, seed).index)
    one = history[history["user_id"] == history["user_id"].iloc[0]]
    alone = draw_rows(one, per_user, seed)
    pd.testing.assert_frame_equal(alone, drawn[drawn["user_id"] == one["user_id"].iloc[0]])


def test_drawn_rows_follow_the_seed() -> None:
    history = in_time_order(ratings(*((1, item, 3, item) for item in range(50))))
    first, second = (draw_rows(history, 10, seed).index.tolist() for seed in (0, 1))
    assert first != second
    assert first != list(range(10))


def test_split_survives_its_files(tmp_path: Path) -> None:
    history = in_time_order(ratings((1, 10, 5, 1), (1, 20, 4, 2), (2, 10, 3, 3)))
    movies = pd.DataFrame(
        {
            "item_id": [10, 20],
            "title": ["Café Noir", "unknown"],
            "year": pd.array([1942, None], dtype="Int64"),
            "mean": [3.5, float("nan")],
            "mean_known": [True, False],
        }
    )
    users = pd.DataFrame({"user_id": [1, 2], "age": ["under 18", ""]})
    split = Split(
        train=history.head(2),
        test=history.tail(1).reset_index(drop=True),
        movies=movies,
        users=users,
        cohort="dev",
        train_fraction=0.6,
        validation_fraction=0.0,
        skipped={"ratings.dat: rating is not one of 3, 3.5": 3},
        counts={"train": 2},
        scale=Scale((3, 3.5), ("liked it", "loved it"), ("good", "better")),
        cost=Cost(3, 20, 10, 0.5),
    )
    write(split, tmp_path)
    loaded = read(Split, tmp_path)
    for name in ("train", "test", "movies", "users"):
        pd.testing.assert_frame_equal(getattr(loaded, name), getattr(split, name))
    assert (loaded.cohort, loaded.skipped, loaded.counts) == ("dev", split.skipped, {"train": 2})
    assert (loaded.train_fraction, loaded.validation_fraction) == (0.6, 0.0)
    assert (loaded.scale, loaded.cost) == (split.scale, split.cost)

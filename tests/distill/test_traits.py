"""The three traits against cases worked by hand."""

import pandas as pd
import pytest

from persona_lab.distill import traits
from persona_lab.distill.traits import CUTS


def ratings(*rows: tuple[int, int, int]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["user_id", "item_id", "rating"])


def movies(*genres: str) -> pd.DataFrame:
    return pd.DataFrame({"item_id": range(1, len(genres) + 1), "genres": genres})


def test_cuts_are_the_decided_ones() -> None:
    assert CUTS == {"activity": (60, 90), "conformity": (25, 80), "diversity": (33, 66)}


def test_activity() -> None:
    # User u has u ratings: of 1..11 the 60th percentile is 7 and the 90th 10, both not above.
    frame = ratings(*((user, item, 3) for user in range(1, 12) for item in range(1, user + 1)))
    found = traits(frame, movies(*["Drama"] * 11), range(1, 12))
    assert found["activity"].tolist() == [0] * 7 + [1] * 3 + [2]


def test_conformity() -> None:
    # Movie 1 has the ratings 4, 4, 4, 4 and 1, so its mean is 3.4 and the squared distances are
    # 0.36 four times and 5.76. Movie 2 has 5 and 3: mean 4, distances 1 and 1.
    # Users: 1: (0.36 + 1) / 2 = 0.68, 2: 0.68, 3 and 4: 0.36, 5: 5.76.
    # Percentiles of (0.36, 0.36, 0.68, 0.68, 5.76): the 25th is 0.36, the 80th
    # 0.68 + 0.2 x 5.08 = 1.696.
    frame = ratings((1, 1, 4), (2, 1, 4), (3, 1, 4), (4, 1, 4), (5, 1, 1), (1, 2, 5), (2, 2, 3))
    found = traits(frame, movies("Drama", "Comedy"), [1, 2, 3, 4, 5])
    assert found["conformity"].tolist() == [1, 1, 0, 0, 2]


def test_diversity() -> None:
    # Genres by share, and how many stay within 0.8:
    # user 1: Drama 5 of 5 -> 1.0: none. user 2: Drama 4 of 5, Comedy 1 -> 0.8, 1.0: one.
    # user 3: four genres, one each -> 0.25, 0.5, 0.75, 1.0: three.
    # Percentiles of (0, 1, 3): the 33rd is 0.66, the 66th 1.64.
    listed = movies(*["Drama"] * 5, "Comedy", "Drama|Comedy|War|Western")
    frame = ratings(
        *((1, item, 3) for item in range(1, 6)),
        *((2, item, 3) for item in (1, 2, 3, 4, 6)),
        (3, 7, 3),
    )
    assert traits(frame, listed, [1, 2, 3])["diversity"].tolist() == [0, 1, 2]


def test_a_movie_without_named_genres_counts_for_nothing() -> None:
    listed = movies("unknown", "", "Drama", "Comedy")
    # User 2 has one genre of two within 0.8, and so would user 1 if his were genres.
    frame = ratings((1, 1, 3), (1, 2, 3), (2, 3, 3), (2, 4, 3))
    assert traits(frame, listed, [1, 2])["diversity"].tolist() == [0, 2]


@pytest.mark.parametrize("users", [[3, 1], [2]])
def test_percentiles_are_over_all_users_and_order_is_kept(users: list[int]) -> None:
    frame = ratings((1, 1, 3), (2, 1, 3), (2, 2, 3), *((3, item, 3) for item in range(1, 5)))
    listed = movies("Drama", "Drama", "Comedy", "War")
    everyone = traits(frame, listed, [1, 2, 3]).set_index("user_id")
    some = traits(frame, listed, users)
    assert some["user_id"].tolist() == users
    pd.testing.assert_frame_equal(some.set_index("user_id"), everyone.loc[users])

"""A toy data set, split."""

from pathlib import Path

import pytest
from configured import configured

from persona_lab.data import Protocol, Ratings, Split, Synthetic
from persona_lab.data.movie_info import NoMovieInfo
from persona_lab.sources import Sources

STRICT = Protocol(
    name="strict",
    item_mean="outside_cohort",
    traits="training",
    profile_snapshot="final",
    title_check=True,
    recall_time="earlier",
)


@pytest.fixture
def strict() -> Protocol:
    return STRICT


@pytest.fixture(scope="session")
def toy() -> tuple[Ratings, Split]:
    """Ten users with 20 to 40 synthetic ratings each, three of them selected."""
    reader = Synthetic(
        n_users=10, n_items=80, n_personas=2, ratings_per_user=(20, 40), opposition=1.0, seed=3
    )
    data = configured(
        "data=synthetic", reader=reader, min_ratings=20, max_ratings=40, n_users=3
    )
    ratings = reader.read(None, "error", data.scale)
    return ratings, data.split(ratings, STRICT, NoMovieInfo(), Sources(Path("nowhere")))

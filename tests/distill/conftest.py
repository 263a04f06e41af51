"""A toy data set, split."""

from pathlib import Path

import pytest
from configured import configured

from persona_lab.data import NoMovieInfo, Protocol, Ratings, Split, Synthetic
from persona_lab.sources import Sources


@pytest.fixture(scope="session")
def strict() -> Protocol:
    return configured("protocol=strict")


@pytest.fixture(scope="session")
def toy(strict: Protocol) -> tuple[Ratings, Split]:
    """Ten users with 20 to 40 synthetic ratings each, three of them selected."""
    sources = Sources(Path("nowhere"))
    reader = Synthetic(
        n_users=10, n_items=80, n_personas=2, ratings_per_user=(20, 40), opposition=1.0, seed=3
    )
    data = configured("data=synthetic", reader=reader, min_ratings=20, max_ratings=40, n_users=3)
    ratings = data.ratings(sources)
    return ratings, data.split(ratings, strict, NoMovieInfo(), sources)

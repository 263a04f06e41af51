"""Made-up predictions, for tests of what is read off several runs."""

import numpy as np
import pandas as pd
import pytest


def made_up(noise, seed=0, n_users=30, unrelated=0, mean=3.0):
    """Made-up predictions of 12 rows per user; all runs have the same test rows."""
    truth = np.random.default_rng(99).integers(1, 6, (n_users, 12)).ravel()
    expected = truth + np.random.default_rng(seed).normal(0, noise, truth.size)
    frame = pd.DataFrame(
        {
            "user_id": np.repeat(np.arange(n_users), 12),
            "item_id": np.tile(np.arange(12), n_users),
            "rating": truth,
            "prediction": pd.array(np.clip(np.rint(expected), 1, 5), dtype="Float64"),
            "expected_rating": expected,
            "user_mean": mean,
            "persona": np.repeat((np.arange(n_users) % 3 == 0).astype(int), 12),
        }
    )
    frame.loc[frame.index[:unrelated], "prediction"] = pd.NA
    return frame.sample(frac=1, random_state=seed)


@pytest.fixture
def run():
    """Make one run's predictions: run(noise, seed, unrelated=...)."""
    return made_up

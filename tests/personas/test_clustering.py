from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from configured import configured
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from persona_lab.errors import UserError
from persona_lab.personas import known_users
from persona_lab.personas.personas import elbow


def kmeans(n_personas, **changes):
    return configured("personas=kmeans", n_personas=n_personas, **changes)


def demographics(column):
    return configured("personas=demographics", column=column)


def blobs(sizes, dim=8, noise=0.03, seed=0):
    """Groups of users around the axes, with the users of group g numbered 100 g + 1, ..."""
    rng = np.random.default_rng(seed)
    features = [np.eye(dim)[g] + noise * rng.normal(size=(n, dim)) for g, n in enumerate(sizes)]
    users = [100 * g + number for g, n in enumerate(sizes) for number in range(1, n + 1)]
    return np.concatenate(features).astype(np.float32), pd.DataFrame({"user_id": users})


def planted(user_id):
    return user_id // 100


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_planted_groups_are_found_and_numbered_by_size(seed):
    features, users = blobs([4, 9, 6, 12])
    personas = kmeans(4).fit(features, users, seed)
    assert len(personas.centers) == 4
    expected = [{3: 0, 1: 1, 2: 2, 0: 3}[planted(user)] for user in users["user_id"]]
    assert personas.assignment["user_id"].tolist() == users["user_id"].tolist()
    assert personas.assignment["persona"].tolist() == expected
    assert [personas.of(user) for user in users["user_id"]] == expected
    assert personas.centers.argmax(axis=1).tolist() == [3, 1, 2, 0]


def test_of_equally_large_groups_the_smallest_user_id_decides():
    features, users = blobs([5, 5, 5])
    shuffled = np.random.default_rng(1).permutation(15)
    personas = kmeans(3).fit(features[shuffled], users.iloc[shuffled], 7)
    assert [personas.of(user) for user in (1, 101, 201)] == [0, 1, 2]


def test_only_directions_count():
    """With vectors as they are, the long ones would be a group of their own."""
    features, users = blobs([6, 6])
    personas = kmeans(2).fit(features, users, 0)
    lengths = np.where(np.arange(12) % 2, 1, 50)[:, None]
    scaled = kmeans(2).fit(features * lengths, users, 0)
    pd.testing.assert_frame_equal(scaled.assignment, personas.assignment)


@pytest.mark.parametrize(
    "clustering",
    [
        kmeans(4),
        configured("personas=elbow", max_personas=8),
        configured("personas=minibatch", batch_size=100),
    ],
)
def test_seed_decides_threads_do_not(clustering):
    features = np.random.default_rng(0).normal(size=(600, 48)).astype(np.float32)
    users = pd.DataFrame({"user_id": range(600)})
    fits = []
    for threads in (1, 2, 2):
        with threadpool_limits(threads):
            fits.append(clustering.fit(features, users, 3))
    for fit in fits[1:]:
        pd.testing.assert_frame_equal(fit.assignment, fits[0].assignment, check_exact=True)
        pd.testing.assert_frame_equal(fit.curve, fits[0].curve, check_exact=True)
        np.testing.assert_array_equal(fit.centers, fits[0].centers)
    other = clustering.fit(features, users, 4)
    assert (other.assignment["persona"] != fits[0].assignment["persona"]).any()


def test_the_curve_falls_and_silhouette_peaks_at_the_planted_number():
    features, users = blobs([10, 10, 10])
    curve = kmeans(2).fit(features, users, 0).curve
    assert curve["k"].tolist() == list(range(1, 11))
    assert (curve["inertia"].diff()[1:] < 0).all()
    assert np.isnan(curve["silhouette"][0])
    assert curve["k"][curve["silhouette"].idxmax()] == 3
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    assert curve["inertia"][0] == pytest.approx(len(unit) * unit.var(axis=0).sum(), rel=1e-5)


def test_the_curve_ends_at_the_number_of_distinct_profiles_and_covers_every_k():
    features, users = blobs([1, 1, 1, 1])
    curve = kmeans(2).fit(features, users, 0).curve
    assert curve["k"].tolist() == [1, 2, 3, 4]
    assert curve["inertia"][3] == pytest.approx(0)
    assert np.isnan(curve["silhouette"][3])
    features, users = blobs([20] * 3)
    beyond = kmeans(5, curve_max=3).fit(features, users, 0)
    assert (len(beyond.centers), beyond.curve["k"].max()) == (5, 5)


@pytest.mark.parametrize("n_planted", [3, 4, 5])
def test_the_elbow_is_the_planted_number(n_planted):
    features, users = blobs([12, 10, 9, 8, 7][:n_planted], noise=0.05)
    personas = configured("personas=elbow").fit(features, users, 0)
    assert len(personas.centers) == n_planted
    assert personas.curve["k"].tolist() == list(range(1, 11))
    fixed = kmeans(n_planted).fit(features, users, 0)
    pd.testing.assert_frame_equal(personas.assignment, fixed.assignment)


def test_elbow_by_hand():
    # Scaled: 1, .4, .1, .05, 0; the chord: 1, .75, .5, .25, 0; below it: .35, .4, .2.
    assert elbow([110, 50, 20, 15, 10]) == 3
    assert elbow([8, 6, 4, 2, 0]) == 2
    assert elbow([5, 5, 5]) == 2


@given(st.lists(st.floats(0, 1e6), min_size=3, max_size=10), st.floats(1, 1e3), st.floats(0, 1e3))
def test_the_elbow_is_inside_and_free_of_scale(steps, scale, shift):
    curve = np.array(sorted((round(each) for each in steps), reverse=True), dtype=float)
    assert 2 <= elbow(curve) <= len(curve) - 1
    below = np.linspace(curve[0], curve[-1], len(curve)) - curve
    found = elbow(curve * scale + shift)
    assert below[found - 1] == pytest.approx(below[1:-1].max(), abs=1e-6 * (1 + curve[0]))


def test_more_personas_than_users_or_profiles_is_an_error_that_says_so():
    features, users = blobs([3, 2])
    with pytest.raises(UserError, match=r"n_personas is 9, and the 5 users have 5 distinct"):
        kmeans(9).fit(features, users, 0)
    twins = np.repeat(features[[0, 4]], [3, 2], axis=0)
    with pytest.raises(UserError, match=r"the 5 users have 2 distinct.*set personas\.n_personas"):
        kmeans(3).fit(twins, users, 0)
    assert kmeans(2).fit(twins, users, 0).centers.shape == (2, 8)
    with pytest.raises(UserError, match=r"elbow.*max_personas is 10, and the 5 users have 2"):
        configured("personas=elbow").fit(twins, users, 0)


def test_small_batches_find_the_planted_groups():
    features, users = blobs([400, 900, 600, 1200])
    personas = configured("personas=minibatch", batch_size=256).fit(features, users, 0)
    planted_groups = np.repeat([3, 1, 2, 0], [400, 900, 600, 1200])
    assert (personas.assignment["persona"].to_numpy() == planted_groups).all()
    assert personas.curve["k"].tolist() == [4]
    whole = kmeans(4, n_init=1, curve_max=4).fit(features, users, 0)
    np.testing.assert_allclose(personas.centers, whole.centers, atol=1e-5)
    with pytest.raises(UserError, match=r"n_personas is 6, and there are 5 users"):
        configured("personas=minibatch", n_personas=6).fit(features[:5], users[:5], 0)


def test_a_persona_without_users_is_an_error(monkeypatch):
    features, users = blobs([3, 3])
    found = np.array([0, 0, 0, 2, 2, 2])
    monkeypatch.setattr("sklearn.cluster.KMeans.fit_predict", lambda self, vectors: found)
    monkeypatch.setattr("sklearn.cluster.KMeans.inertia_", 1.0, raising=False)
    with pytest.raises(UserError, match="found 2 personas, not 3: 1 have no user"):
        kmeans(3).fit(features, users, 0)


@settings(max_examples=30)
@given(st.integers(2, 12), st.integers(1, 5), st.integers(0, 3))
def test_personas_are_a_partition_in_order_of_size(n_users, n_personas, seed):
    features = np.random.default_rng(n_users).normal(size=(n_users, 3)).astype(np.float32)
    users = pd.DataFrame({"user_id": np.arange(n_users) * 3})
    k = min(n_personas, n_users)
    personas = kmeans(k, n_init=1, curve_max=1).fit(features, users, seed)
    sizes = personas.assignment["persona"].value_counts().sort_index()
    assert sizes.index.tolist() == list(range(k))
    assert sizes.tolist() == sorted(sizes, reverse=True)
    for persona, center in enumerate(personas.centers):
        mine = (personas.assignment["persona"] == persona).to_numpy()
        unit = features[mine] / np.linalg.norm(features[mine], axis=1, keepdims=True)
        np.testing.assert_allclose(center, unit.mean(axis=0), atol=1e-5)


def test_demographics_are_the_columns_values():
    features, users = blobs([2, 3])
    users["gender"] = ["M", "F", "", "M", "M"]
    personas = demographics("gender").fit(features, users, 0)
    # Three of M, then one each of F (user 2) and unknown (user 101).
    assert personas.assignment["persona"].tolist() == [0, 1, 2, 0, 0]
    assert personas.centers.shape == (3, 8)
    assert personas.curve.empty


def test_genre_personas_group_by_what_is_watched():
    features, users = blobs([2, 3])
    # The texts say 2 and 3, the genres the first, third and fifth user against the others.
    users = users.assign(gender="F")
    users["genre Comedy"] = [0.9, 0.1, 0.8, 0.0, 1.0]
    users["genre Crime"] = [0.1, 0.9, 0.2, 1.0, 0.0]
    personas = configured("personas=genres", n_personas=2).fit(features, users, 0)
    assert personas.assignment["persona"].tolist() == [0, 1, 0, 1, 0]
    assert personas.centers.shape == (2, 2)
    with pytest.raises(UserError, match="no genres"):
        configured("personas=genres").fit(features, users[["user_id"]], 0)


def test_known_users_have_their_shares_of_genres():
    split = SimpleNamespace(
        users=pd.DataFrame({"user_id": [3, 7, 9], "gender": ["M", "", "F"]}),
        train=pd.DataFrame({"user_id": [3, 3, 3, 7, 9], "item_id": [1, 2, 2, 3, 4]}),
        movies=pd.DataFrame(
            {"item_id": [1, 2, 3, 4], "genres": ["Comedy|Crime", "Comedy", "Crime", ""]}
        ),
    )
    known = known_users(split)  # type: ignore
    assert known[["user_id", "gender"]].equals(split.users)
    assert known["genre Comedy"].tolist() == [0.75, 0, 0]
    assert known["genre Crime"].tolist() == [0.25, 1, 0]
    with pytest.raises(UserError, match=r"one of gender\)"):
        demographics("planted").fit(np.eye(3), known, 0)


def test_a_column_that_users_do_not_have_is_named_with_those_they_have():
    features, users = blobs([2, 2])
    users = users.assign(age="", gender="F")
    with pytest.raises(UserError, match=r"personas\.column is planted.*one of age, gender\)"):
        demographics("planted").fit(features, users, 0)
    with pytest.raises(UserError, match="column is user_id"):
        demographics("user_id").fit(features, users, 0)


def test_personas_that_are_not_of_profiles_say_so():
    for name in ("kmeans", "elbow", "minibatch"):
        assert not configured(f"personas={name}").departures
    assert [*demographics("age").departures] == ["personas by age, not by profiles"]
    assert [*configured("personas=genres").departures] == ["personas by genres, not by profiles"]

import json

import numpy as np
import pandas as pd
import pytest
from configured import configured

from persona_lab.cache import Cache, Stage
from persona_lab.personas import Personas

KMEANS = configured("personas=kmeans", n_personas=2)


@pytest.mark.parametrize("clustering", [KMEANS, configured("personas=gender")])
def test_personas_survive_the_store(clustering, tmp_path):
    users = pd.DataFrame({"user_id": [5, 7, 9], "gender": ["M", "F", "F"]})
    personas = clustering.fit(np.eye(3, dtype=np.float32), users, 0)
    stage = Stage(Personas, {"clustering": clustering}, lambda: personas)
    stored = Cache(tmp_path).once(stage).value
    pd.testing.assert_frame_equal(stored.assignment, personas.assignment)
    pd.testing.assert_frame_equal(stored.curve, personas.curve)
    np.testing.assert_array_equal(stored.centers, personas.centers, strict=True)
    assert [stored.of(user) for user in (5, 7, 9)] == [personas.of(user) for user in (5, 7, 9)]


def test_a_picture_maps_users_by_the_components_of_their_vectors(tmp_path):
    users = pd.DataFrame({"user_id": [5, 7, 9, 11]})
    features = np.array([[2.0, 0, 7], [-2, 0, 7], [0, 1, 7], [0, -1, 7]])
    personas = KMEANS.fit(features, users, 0)
    picture = personas.picture(features, ["a", "b", "c", "d"])
    assert np.abs([[user["x"], user["y"]] for user in picture["users"]]) == pytest.approx(
        np.array([[2, 0], [2, 0], [0, 1], [0, 1]])
    )
    assert picture["explained"] == [0.8, 0.2]
    assert [user["profile"] for user in picture["users"]] == ["a", "b", "c", "d"]
    assert picture["curve"][0]["silhouette"] is None
    assert json.loads(json.dumps(picture, allow_nan=False)) == picture


def test_an_unknown_user_has_no_persona():
    users = pd.DataFrame({"user_id": [5, 7]})
    personas = configured("personas=kmeans", n_personas=1).fit(np.eye(2), users, 0)
    with pytest.raises(KeyError):
        personas.of(6)

import numpy as np
import pandas as pd
import pytest

from persona_lab.personas import Demographics, KMeansPersonas, Personas
from persona_lab.store import Store


@pytest.mark.parametrize(
    "clustering", [KMeansPersonas("kmeans", 2), Demographics("demographics", "gender")]
)
def test_personas_survive_the_store(clustering, tmp_path):
    users = pd.DataFrame({"user_id": [5, 7, 9], "gender": ["M", "F", "F"]})
    personas = clustering.fit(np.eye(3, dtype=np.float32), users, 0)
    store = Store(tmp_path)
    stored = store.once(Personas, {"clustering": clustering}, lambda: personas).value
    pd.testing.assert_frame_equal(stored.assignment, personas.assignment)
    pd.testing.assert_frame_equal(stored.curve, personas.curve)
    np.testing.assert_array_equal(stored.centers, personas.centers, strict=True)
    assert [stored.of(user) for user in (5, 7, 9)] == [personas.of(user) for user in (5, 7, 9)]


def test_an_unknown_user_has_no_persona():
    users = pd.DataFrame({"user_id": [5, 7]})
    personas = KMeansPersonas("kmeans", 1).fit(np.eye(2), users, 0)
    with pytest.raises(KeyError):
        personas.of(6)

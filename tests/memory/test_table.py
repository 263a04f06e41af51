import sys

import numpy as np
import pandas as pd
import pytest

from persona_lab.errors import UserError
from persona_lab.memory import Table

ROWS = pd.DataFrame(
    {
        "user_id": [10, 20, 10],
        "item_id": [1, 2, 3],
        "rating": [4, 2.5, 1],
        "position": [5, 5, 6],
        "text": ["I rated Heat (1995) as 4.", "", "Naïve."],
    }
)
KEYS = np.array([[1, 0], [0, 1], [0.6, 0.8]], dtype=np.float32)


def test_what_is_added_is_read_by_user_and_by_others(tmp_path):
    table = Table(tmp_path / "memories")
    table.add(ROWS.head(2), KEYS[:2])
    table.add(ROWS.tail(1), KEYS[2:])
    for reader in (table, Table(tmp_path / "memories")):
        users = reader.read([10, 30])
        assert list(users) == [10]
        rows, keys = users[10]
        pd.testing.assert_frame_equal(
            rows.reset_index(drop=True), ROWS.iloc[[0, 2]].reset_index(drop=True)
        )
        np.testing.assert_array_equal(keys, KEYS[[0, 2]], strict=True)
        assert reader.read([20])[20][0]["rating"].tolist() == [2.5]


def test_nothing_is_written_or_loaded_where_nothing_was_added(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lancedb", None)
    assert Table(tmp_path / "memories").read([10]) == {}
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["*.lance/data/*.lance", "*.lance/_versions/*.manifest"])
def test_a_damaged_table_is_said(tmp_path, name):
    table = Table(tmp_path / "memories")
    table.add(ROWS, KEYS)
    (file,) = table.folder.glob(name)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match=r"memories cannot be read: .* \(move that folder away"):
        table.read([10])

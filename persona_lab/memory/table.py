"""Memories that users gain after their training rows -> the paper's database of them, in LanceDB.

What was distilled is a stage's output and never changes; this is where agents' new memories go.
Reads and writes its folder; any number of processes may add to it and read it.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from persona_lab.cache import locked
from persona_lab.errors import UserError

_NAME = "memories"
_COLUMNS = ["user_id", "item_id", "rating", "position", "text"]


@dataclass(frozen=True)
class Table:
    """Later memories of all users of a run: who, movie, rating, place in the history, text, vector.

    Attributes:
        folder: Where the table is, or will be once something is added.
    """

    folder: Path

    def add(self, rows: pd.DataFrame, keys: np.ndarray) -> None:
        """Append memories: user_id, item_id, rating, position, text; UserError if it is damaged.

        Recall compares them by the keys, float32 of shape (n_rows, dim).
        """
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(keys.ravel()), keys.shape[1])
        frame = rows[_COLUMNS].astype({"rating": "float64"})
        content = pa.Table.from_pandas(frame, preserve_index=False).append_column("vector", vectors)
        with locked(self.folder):
            if (table := self._open()) is None:
                _connect(self.folder).create_table(_NAME, content)
            else:
                table.add(content)

    def read(self, user_ids: Iterable[int]) -> dict[int, tuple[pd.DataFrame, np.ndarray]]:
        """The later memories of those users who have any, and their keys, of shape (n, dim).

        Raises:
            UserError: The table is damaged.
        """
        if (table := self._open()) is None:
            return {}
        chosen = f"user_id IN ({', '.join(str(int(user_id)) for user_id in user_ids)})"
        with self._readable():
            content = table.search().where(chosen).limit(table.count_rows()).to_arrow()
        frame = content.select(_COLUMNS).to_pandas()
        keys = np.array(content["vector"].to_pylist(), dtype=np.float32)
        places: dict[Any, np.ndarray] = frame.groupby("user_id").indices
        return {user_id: (frame.iloc[own], keys[own]) for user_id, own in places.items()}

    def _open(self) -> Any:
        if not (self.folder / f"{_NAME}.lance").exists():
            return None
        with self._readable():
            return _connect(self.folder).open_table(_NAME)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"the memories in {self.folder} cannot be read: {reason}",
                "move that folder away: users then remember their training rows alone",
            ) from error


def _connect(folder: Path) -> Any:
    # Imported here: it takes two seconds, and only agents who remember more need it.
    import lancedb

    return lancedb.connect(folder)

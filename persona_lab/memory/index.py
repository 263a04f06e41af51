"""Memories and their vectors in, a LanceDB table that agents recall from out.

Reads and writes the cache of sources. The table is derived: rebuilt when it is absent or damaged.
It gives what the bank gives, one user at a time, without reading other users' memories.
"""

import hashlib
import logging
import shutil
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa

from persona_lab.cache import content_hash, locked
from persona_lab.distill import Memories
from persona_lab.memory.bank import (
    Memory,
    Recalled,
    key_vectors,
    query_vectors,
    select,
    similarities,
)
from persona_lab.memory.vectors import Vectors
from persona_lab.sources import Sources

_log = logging.getLogger(__name__)

_TABLE = "memories"
_HASH = "sha256"
_COLUMNS = ["user_id", "item_id", "rating", "timestamp", "position", "text"]
# Lance sums in float32: memories this close to the last of the nearest may be its equals.
_NOISE = 1e-5


class Index:
    """Long-term memories in a LanceDB table: vector, text, user, item, rating, time, position."""

    def __init__(self, table: Any, vectors: Vectors, memory: Memory) -> None:
        """Recall from an open table; see `open` for the arguments."""
        self._table = table
        self._vectors = vectors
        self._memory = memory

    @classmethod
    def open(
        cls,
        sources: Sources,
        memories: Memories,
        vectors: Vectors,
        memory: Memory,
    ) -> Self:
        """Open the table of these memories, building it first where it is absent or damaged.

        Args:
            sources: The cache that holds the table.
            memories: As for `Bank`.
            vectors: As for `Bank`.
            memory: As for `Bank`.
        """
        # Imported here: it takes two seconds, and only agents need it.
        import lancedb

        rows = memories.interactions[_COLUMNS].reset_index(drop=True)
        keys = key_vectors(vectors, memory, rows["item_id"].to_numpy(), rows.index.to_numpy())

        def build(folder: Path) -> None:
            content = pa.Table.from_pandas(rows, preserve_index=False).append_column(
                "vector", pa.FixedSizeListArray.from_arrays(pa.array(keys.ravel()), keys.shape[1])
            )
            lancedb.connect(folder).create_table(_TABLE, content)
            (folder / _HASH).write_text(_table_hash(folder))

        spec = {"rows": _digest(pd.util.hash_pandas_object(rows).to_numpy()), "keys": _digest(keys)}
        folder = sources.derive(_TABLE, spec, build)
        if _damaged(folder):
            with locked(folder):
                if _damaged(folder):
                    _log.warning("%s is damaged: building it again", folder)
                    shutil.rmtree(folder)
            folder = sources.derive(_TABLE, spec, build)
        return cls(lancedb.connect(folder).open_table(_TABLE), vectors, memory)

    def recall(self, user_id: int, item_id: int) -> list[Recalled]:
        """What a user recalls for a movie after all of the history: exactly what `Bank` gives.

        Args:
            user_id: Who recalls; KeyError where there is no such user.
            item_id: The movie; KeyError where there is no such movie.
        """
        targets = np.array([item_id])
        query = query_vectors(self._vectors, self._memory, user_id, targets)
        rule = f"user_id = {int(user_id)} AND item_id != {int(item_id)}"
        # Of vectors of length 1 the dot product is the cosine, also where one has length 0.
        search = (
            self._table.search(query[0])
            .distance_type("dot")
            .where(rule, prefilter=True)
            .select([*_COLUMNS, "vector", "_distance"])
        )
        everything = self._table.count_rows()
        n = self._memory.top_k if self._memory.test_memories == "nearest" else everything
        nearest = search.limit(n).to_arrow()["_distance"].to_pylist()
        if not nearest:
            return []
        # Among ties Lance takes any; the bank's rule is applied to all of them.
        close = search.distance_range(upper_bound=max(nearest) + _NOISE)
        block = close.limit(everything).to_pandas()
        block = block.sort_values("position", ascending=False, ignore_index=True)
        similarity = similarities(query, np.stack(block["vector"].to_list()))
        allowed = np.ones_like(similarity, bool)
        return select(user_id, block, targets, similarity, allowed, self._memory)[0]


def _table_hash(folder: Path) -> str:
    return content_hash(folder / f"{_TABLE}.lance")


def _damaged(folder: Path) -> bool:
    try:
        return (folder / _HASH).read_bytes() != _table_hash(folder).encode()
    except OSError:
        return True


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()

"""Memories and their vectors in, what agents recall for movies out: all rows, one way of recalling.

Pure, but for the table of later memories, which any number of processes may add to and read.
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
from persona_lab.distill import Memories
from persona_lab.errors import UserError
from persona_lab.memory.memory import Memory
from persona_lab.memory.vectors import Encode, Vectors, unit

_NAME = "memories"
_COLUMNS = ["user_id", "item_id", "rating", "position", "text"]
# Float32 vectors carry no more; what is equal up to here is a tie.
_DECIMALS = 6


@dataclass(frozen=True)
class Recalled:
    """A recalled memory: its movie is never the one that it is recalled for.

    The rating is what the user gave, the position its place in the user's history, the similarity
    the cosine of query and key, rounded.
    """

    item_id: int
    text: str
    rating: float
    position: int
    similarity: float


@dataclass(frozen=True)
class Table:
    """Memories that users gain after their training rows: the paper's database, in LanceDB.

    What was distilled is a stage's output and never changes; agents' new memories go here.

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


class Bank:
    """Long-term memories of all users: those of their training rows, and later ones."""

    def __init__(
        self,
        memories: Memories,
        vectors: Vectors,
        memory: Memory,
        recall_time: str,
        later: Table | None = None,
    ) -> None:
        """Sort the memories by user.

        Args:
            memories: Holds the enriched interactions: all of each user's training rows.
            vectors: Of these memories.
            memory: How they are found.
            recall_time: "earlier", or "any" for memories of any time (decision 6).
            later: Keeps what agents remember beyond these; made for the same `memory`.
        """
        self._memory, self._vectors, self._later = memory, vectors, later
        self._earlier = recall_time == "earlier"
        self._interactions = memories.interactions.reset_index(drop=True)
        self._rows = self._interactions.groupby("user_id").indices

    def add(self, rows: pd.DataFrame, encode: Encode | None = None) -> None:
        """Let users remember more, from now on and in every bank with the same table.

        Args:
            rows: user_id, item_id, rating, position (its place in the user's history) and text,
                one row per memory. KeyError where there is no such user or movie.
            encode: Embeds the texts; needed by every `Memory.key` but "item".
        """
        assert self._later is not None, "a table is needed for later memories"
        for user_id in rows["user_id"]:
            self._rows[user_id]
        item_ids, enriched = rows["item_id"].to_numpy(), None
        self._vectors.items_of(item_ids)
        if self._memory.key != "item":
            assert encode is not None, "embed the texts for this key"
            enriched, _ = encode(rows["text"].tolist())
        self._later.add(rows, self._keys(item_ids, enriched))

    def recall_rows(self, rows: pd.DataFrame) -> list[list[Recalled]]:
        """What the users recall for the movies of many rows; reads each user's memories once.

        Args:
            rows: user_id, item_id and position, the movie's place in the user's history: where
                only earlier memories may be recalled, only those before it are. KeyError where
                there is no such user or movie.

        Returns:
            One list per row, in the order of the rows: at most top_k memories, most similar first,
            of equals the later first.
        """
        later = self._later.read(rows["user_id"].unique()) if self._later else {}
        enriched = self._vectors.interactions
        recalled: dict[int, list[Recalled]] = {}
        indices: Any = rows.groupby("user_id").indices
        for user_id, places in indices.items():
            own = self._rows[user_id]
            memories = self._interactions.iloc[own]
            keys = self._keys(memories["item_id"], None if enriched is None else enriched[own])
            if user_id in later:
                more, more_keys = later[user_id]
                memories = pd.concat([memories, more], ignore_index=True)
                keys = np.concatenate([keys, more_keys])
            of_user = self._recall(user_id, memories, keys, rows.iloc[places])
            recalled |= zip(places, of_user, strict=True)
        return [recalled[place] for place in range(len(rows))]

    def _keys(self, item_ids: Any, enriched: np.ndarray | None) -> np.ndarray:
        if self._memory.key == "item":
            return self._vectors.items_of(item_ids)
        assert enriched is not None, "embed the enriched interactions for this key"
        if self._memory.key == "enriched":
            return enriched
        return unit(self._vectors.items_of(item_ids).astype(np.float64) + enriched)

    def _recall(
        self, user_id: int, memories: pd.DataFrame, keys: np.ndarray, rows: pd.DataFrame
    ) -> list[list[Recalled]]:
        """What one user recalls, of these memories in any order, for the movies of rows."""
        memory, targets = self._memory, rows["item_id"].to_numpy()
        # Latest first: where similarities tie, a stable sort then takes the later memory.
        latest_first = np.argsort(-memories["position"].to_numpy(), kind="stable")
        memories, keys = memories.iloc[latest_first], keys[latest_first]
        allowed = memories["item_id"].to_numpy() != targets[:, None]
        if self._earlier:
            allowed &= memories["position"].to_numpy() < rows["position"].to_numpy()[:, None]
        queries = self._vectors.items_of(targets)
        if memory.query == "user_item":
            queries = unit(queries.astype(np.float64) + self._vectors.profile_of(user_id))
        cosines = np.round(queries.astype(np.float64) @ keys.astype(np.float64).T, _DECIMALS)
        similar = allowed
        if memory.min_similarity is not None:
            similar = allowed & (cosines >= memory.min_similarity)
        order = np.argsort(np.where(similar, -cosines, np.inf), axis=1, kind="stable")
        fields = [memories[name].tolist() for name in ("item_id", "text", "rating", "position")]
        recalled = []
        for row, target in enumerate(targets.tolist()):
            best = [place for place in order[row, : memory.top_k].tolist() if similar[row, place]]
            if memory.test_memories == "random":
                # Depends on the user and the movie alone.
                rng = np.random.default_rng([user_id, target])
                best = rng.choice(np.flatnonzero(allowed[row]), len(best), replace=False).tolist()
            assert target not in [fields[0][p] for p in best], "a memory is the target itself"
            recalled.append(
                [Recalled(*(f[p] for f in fields), similarity=float(cosines[row, p])) for p in best]
            )
        return recalled

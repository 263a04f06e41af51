"""Memories and their vectors in, what an agent recalls for a user and a movie out. Pure."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from pydantic import Field, PositiveInt

from persona_lab.distill import Memories
from persona_lab.memory.vectors import Vectors

Query = Literal["item", "user_item"]
Key = Literal["item", "enriched", "item_enriched"]
Text = Literal["enriched", "raw"]
TestProfile = Literal["own", "another"]
TestMemories = Literal["nearest", "random"]
TrainingMemories = Literal["nearest", "none"]

# Float32 vectors carry no more; what is equal up to here is a tie.
_DECIMALS = 6


@dataclass(frozen=True)
class Memory:
    """Which memories a prompt shows, and how the long-term ones are found.

    A sum of vectors, normalised, stands for the vector of both texts together (decision 9).

    Attributes:
        name: What reports call it.
        profile: Whether the profile and the traits are shown (M_s).
        interactions: Whether recalled memories are shown (M_l).
        top_k: Most memories recalled for a movie.
        min_similarity: Memories below this cosine are not recalled, None for no limit
            (decision 8).
        query: What is looked for: the movie ("item"), or the sum of profile and movie
            ("user_item").
        key: What it is compared with: the remembered movie ("item"), its enriched interaction
            ("enriched"), or their sum ("item_enriched").
        test_profile: Whose profile and traits test prompts show: "own", or "another" user's, the
            control that tells what knowing the user is worth. Training shows the own one.
        text: What a recalled memory says: the "enriched" interaction, or "raw", the movie and its
            rating alone.
        training_memories: What training prompts show where test prompts show recalled memories:
            these too ("nearest": retrieval-augmented fine-tuning), or "none" (retrieval when rating
            alone).
        test_memories: Which memories test prompts show: the "nearest", or as many "random" ones of
            the user's, the control that tells what the search is worth. Training shows the nearest.
    """

    name: str = field(metadata={"key": False})
    profile: bool
    interactions: bool
    top_k: PositiveInt = 1
    min_similarity: Annotated[float, Field(ge=-1, le=1)] | None = None
    query: Query = "item"
    key: Key = "item"
    test_profile: TestProfile = "own"
    text: Text = field(default="enriched", metadata={"key": "changed"})
    training_memories: TrainingMemories = field(default="nearest", metadata={"key": "changed"})
    test_memories: TestMemories = field(default="nearest", metadata={"key": "changed"})

    def shown(self) -> Self:
        """Itself; where no memories are shown, without how they would have been found."""
        if self.interactions:
            return self
        return type(self)(self.name, self.profile, False, test_profile=self.test_profile)

    def in_training(self) -> Self:
        """What training prompts show: nothing of what is changed for test prompts alone."""
        return replace(
            self,
            interactions=self.interactions and self.training_memories == "nearest",
            test_profile="own",
            test_memories="nearest",
            training_memories="nearest",
        ).shown()


@dataclass(frozen=True)
class Recalled:
    """A recalled memory.

    Attributes:
        item_id: The movie it is about; never the movie that it is recalled for.
        text: The enriched interaction.
        rating: What the user gave.
        position: Its place in the user's history.
        similarity: Cosine of query and key, rounded.
    """

    item_id: int
    text: str
    rating: int
    position: int
    similarity: float


class Bank:
    """Long-term memories of all users."""

    def __init__(
        self, memories: Memories, vectors: Vectors, memory: Memory, recall_time: str
    ) -> None:
        """Sort the memories by user.

        Args:
            memories: Holds the enriched interactions: all of each user's training rows.
            vectors: Of these memories.
            memory: How memories are found.
            recall_time: "earlier", or "any" for memories of any time (decision 6).
        """
        self._memory = memory
        self._vectors = vectors
        self._earlier = recall_time == "earlier"
        self._interactions = memories.interactions.reset_index(drop=True)
        # Latest first: where similarities tie, a stable sort then takes the later memory.
        latest_first = self._interactions.sort_values("position", ascending=False, kind="stable")
        self._rows = {
            user_id: block.index.to_numpy() for user_id, block in latest_first.groupby("user_id")
        }

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
        found: list[list[Recalled]] = [[] for _ in range(len(rows))]
        for _, block in rows.assign(place=range(len(rows))).groupby("user_id"):
            user_id = int(block["user_id"].iloc[0])
            recalled = self._recall_block(user_id, block["item_id"], block["position"])
            for place, each in zip(block["place"], recalled, strict=True):
                found[place] = each
        return found

    def _recall_block(
        self, user_id: int, item_ids: ArrayLike, befores: ArrayLike
    ) -> list[list[Recalled]]:
        rows = self._rows[user_id]
        block = self._interactions.iloc[rows]
        targets = np.asarray(item_ids)
        allowed = block["item_id"].to_numpy() != targets[:, None]
        if self._earlier:
            allowed &= block["position"].to_numpy() < np.asarray(befores)[:, None]
        keys = key_vectors(self._vectors, self._memory, block["item_id"].to_numpy(), rows)
        queries = query_vectors(self._vectors, self._memory, user_id, targets)
        similarity = similarities(queries, keys)
        return select(user_id, block, targets, similarity, allowed, self._memory)


def query_vectors(
    vectors: Vectors, memory: Memory, user_id: int, item_ids: np.ndarray
) -> np.ndarray:
    """What is looked for, of shape (n_items, dim); KeyError for an unknown user or movie."""
    items, profile = vectors.items_of(item_ids), vectors.profile_of(user_id)
    return items if memory.query == "item" else _sum(items, profile)


def key_vectors(
    vectors: Vectors, memory: Memory, item_ids: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """What memories are compared by, of shape (n_memories, dim).

    Args:
        vectors: Of movies and, for the keys that need them, of interactions.
        memory: Names the key.
        item_ids: The memories' movies.
        rows: Their rows in `Vectors.interactions`.
    """
    if memory.key == "item":
        return vectors.items_of(item_ids)
    assert vectors.interactions is not None, "embed the enriched interactions for this key"
    enriched = vectors.interactions[rows]
    return enriched if memory.key == "enriched" else _sum(vectors.items_of(item_ids), enriched)


def similarities(queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Cosines of vectors of length 1, of shape (n_queries, n_keys), rounded so that ties tie."""
    return np.round(queries.astype(np.float64) @ keys.astype(np.float64).T, _DECIMALS)


def select(
    user_id: int,
    block: pd.DataFrame,
    targets: np.ndarray,
    similarity: np.ndarray,
    allowed: np.ndarray,
    memory: Memory,
) -> list[list[Recalled]]:
    """The memories recalled for each movie.

    Args:
        user_id: Whose memories these are.
        block: One user's memories, the latest first: item_id, text, rating, position.
        targets: Movies to recall for, of shape (n_targets,).
        similarity: Of shape (n_targets, n_memories).
        allowed: Which memories may be recalled, of the same shape.
        memory: Has top_k, min_similarity and test_memories. A random choice depends on the user and
            the movie alone.
    """
    similar = allowed
    if memory.min_similarity is not None:
        similar = allowed & (similarity >= memory.min_similarity)
    order = np.argsort(np.where(similar, -similarity, np.inf), axis=1, kind="stable")
    items, texts, ratings, positions = (
        block[name].tolist() for name in ("item_id", "text", "rating", "position")
    )
    found = []
    for row, target in enumerate(targets.tolist()):
        best = [place for place in order[row, : memory.top_k].tolist() if similar[row, place]]
        if memory.test_memories == "random":
            rng = np.random.default_rng([user_id, target])
            best = rng.choice(np.flatnonzero(allowed[row]), len(best), replace=False).tolist()
        assert target not in [items[place] for place in best], "a memory is the target itself"
        found.append(
            [
                Recalled(items[p], texts[p], ratings[p], positions[p], float(similarity[row, p]))
                for p in best
            ]
        )
    return found


def _sum(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    total = one.astype(np.float64) + other
    length = np.linalg.norm(total, axis=1, keepdims=True)
    return (total / np.where(length > 0, length, 1)).astype(np.float32)

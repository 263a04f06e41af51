"""Memories and movies in, their vectors out, as a stage's output. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from persona_lab.cache import Entry, Stage
from persona_lab.data import Cost, Split
from persona_lab.distill import Memories
from persona_lab.memory.embedder import Embedder, Encode
from persona_lab.sources import Sources


@dataclass(frozen=True, eq=False)
class Vectors:
    """Vectors of length 1, float32.

    Attributes:
        user_ids: The selected users, in the order of `Split.users`; int64 of shape (n_users,).
        profiles: Of their profiles, of shape (n_users, dim).
        item_ids: All movies, in the order of `Split.movies`; int64 of shape (n_items,).
        items: Of their item texts, of shape (n_items, dim).
        interactions: Of the enriched interactions, in the order of `Memories.interactions`, of
            shape (n_interactions, dim); None where nothing asks for them.
        cost: Of all of them.
    """

    STAGE: ClassVar[str] = "vectors"
    VERSION: ClassVar[int] = 3

    user_ids: np.ndarray
    profiles: np.ndarray
    item_ids: np.ndarray
    items: np.ndarray
    interactions: np.ndarray | None
    cost: Cost = field(default_factory=Cost)

    def profile_of(self, user_id: int) -> np.ndarray:
        """Vector of a user's profile, of shape (dim,); KeyError where there is no such user."""
        return self.profiles[self._indices[0].get_loc(user_id)]

    def items_of(self, item_ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Vectors of movies, of shape (n, dim); KeyError where there is no such movie."""
        rows = self._indices[1].get_indexer(pd.Index(item_ids))
        if (rows < 0).any():
            raise KeyError(f"no vector of movie {np.asarray(item_ids)[rows < 0][0]}")
        return self.items[rows]

    @cached_property
    def _indices(self) -> tuple[pd.Index, pd.Index]:
        return pd.Index(self.user_ids), pd.Index(self.item_ids)


def embedding(
    embedder: Embedder,
    memories: Entry[Memories],
    split: Entry[Split],
    sources: Sources,
    *,
    enriched: bool,
) -> Stage[Vectors]:
    """The vectors as a stage of the flow; the arguments are those of `embed`."""
    model = [embedder, embedder.fingerprint(sources)]
    return Stage(
        Vectors,
        {"memories": memories.key, "embedder": model, "enriched": enriched},
        lambda: embed(embedder.load(sources), memories.value, split.value, enriched=enriched),
    )


def embed(encode: Encode, memories: Memories, split: Split, *, enriched: bool) -> Vectors:
    """Embed the users' profiles, all movies and, where asked, the enriched interactions.

    Profiles are embedded without the traits: these are few fixed texts, the same for a third of
    the users, and would outweigh what a profile says. A text that occurs twice is embedded once.
    The interactions are needed by every `Memory.key` but "item".
    """
    user_ids, movies = split.users["user_id"], split.movies
    texts = {
        "profiles": memories.profiles.set_index("user_id")["profile"].loc[user_ids].tolist(),
        "items": [item_text(movie) for movie in movies.to_dict("records")],
        "interactions": memories.interactions["text"].tolist() if enriched else [],
    }
    rows = {text: row for row, text in enumerate(dict.fromkeys(chain(*texts.values())))}
    encoded, cost = encode(list(rows))
    vectors: dict[str, Any] = {
        name: encoded[[rows[text] for text in group]] if group else None
        for name, group in texts.items()
    }
    return Vectors(user_ids.to_numpy(), item_ids=movies["item_id"].to_numpy(), cost=cost, **vectors)


def item_text(movie: Mapping[Any, Any]) -> str:
    """What a movie is about, for comparison with others: all but its average rating (decision 9).

    It is made of title, year (may be missing), genres ("Comedy|Crime"), summary and cast.
    """
    year = "" if pd.isna(movie["year"]) else f" ({movie['year']})"
    cast = movie["cast"] and f"Cast: {movie['cast']}"
    parts = [f"{movie['title']}{year}", movie["genres"].replace("|", ", "), movie["summary"], cast]
    return " ".join(part if part[-1] in ".!?" else f"{part}." for part in parts if part)

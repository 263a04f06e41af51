"""Texts in, vectors of length 1 out; memories and movies in, their vectors out, a stage's output.

Reads disk in `load` and `fingerprint` only; a `ServerEmbedder` asks its server through the ledger.
"""

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from pydantic import PositiveInt
from sklearn.feature_extraction.text import HashingVectorizer

from persona_lab.cache import Entry, Stage, content_hash
from persona_lab.component import component, neutral
from persona_lab.data import Cost, Split
from persona_lab.distill import Memories, OpenAI
from persona_lab.errors import UserError
from persona_lab.sources import Source, Sources

# n texts -> float32 of shape (n, dim), each row of length 1 (or 0 where a text says nothing), and
# what asking for them came to.
Encode = Callable[[Sequence[str]], tuple[np.ndarray, Cost]]

# Where a text is halved: at the end of a sentence or, where there is none, between words.
_BOUNDARIES = (re.compile(r"[.!?]['\")\]]*\s+|\n\s*"), re.compile(r"\s+"))
_MEND = "set embedder.path to a folder that SentenceTransformer.save wrote"


@runtime_checkable
class Embedder(Protocol):
    """A way from texts to vectors whose cosine tells how alike two texts are."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    def load(self, sources: Sources) -> Encode:
        """Make the function from texts to vectors, fetching its model where that is needed."""
        ...

    def fingerprint(self, sources: Sources) -> Any:
        """All that the vectors depend on beside the fields."""
        ...


@component
class SentenceEmbedder:
    """A model of the sentence-transformers library, such as all-MiniLM-L6-v2.

    A text longer than the model's window is split at its sentences (at words or, where a word
    alone is too long, inside it); its vector is the average of the parts', weighted by their
    tokens. So every word counts.

    Attributes:
        name: What reports call it.
        source: Where the model is fetched from when no path is given.
        path: The user's own folder with such a model; wins over `source`.
        batch_size: Texts that go through the model at once.
    """

    name: str = neutral()
    source: Source | None = neutral()
    path: str | None = neutral()
    batch_size: PositiveInt = neutral()

    def load(self, sources: Sources) -> Encode:
        """Load the model (see `Embedder`), on a GPU where there is one; UserError if it is none."""
        pinned = self.source if self.path is None else None
        folder = self._own_folder() if pinned is None else sources.fetch(pinned)
        # Imported here: it takes seconds, and runs that find their vectors stored never need it.
        from sentence_transformers import SentenceTransformer

        try:
            model = SentenceTransformer(str(folder), local_files_only=True)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            what = f"embedder {self.name}: no sentence-transformers model in {folder}: {reason}"
            raise UserError(what, _MEND) from error
        tokenizer = model.tokenizer
        window = model.max_seq_length
        room = sys.maxsize if window is None else window - tokenizer.num_special_tokens_to_add()

        def count(texts: Sequence[str]) -> list[int]:
            options = {"add_special_tokens": False, "truncation": False, "verbose": False}
            return [len(ids) for ids in tokenizer(list(texts), **options)["input_ids"]]

        def encode(texts: Sequence[str]) -> tuple[np.ndarray, Cost]:
            parts = split_texts(texts, count, room)
            encoded = model.encode(
                [part for part, _, _ in parts],
                batch_size=self.batch_size,
                normalize_embeddings=True,
                show_progress_bar=len(parts) > self.batch_size and sys.stderr.isatty(),
            )
            vectors = np.zeros((len(texts), model.get_embedding_dimension() or 0))
            for (_, tokens, owner), vector in zip(parts, np.asarray(encoded), strict=True):
                vectors[owner] += max(tokens, 1) * vector
            return unit(vectors), Cost()

        return encode

    def fingerprint(self, sources: Sources) -> Any:
        """The source's pins, or the hash of a local folder; UserError where there is neither."""
        if self.path is None and self.source is not None:
            return {"source": vars(self.source)}
        return content_hash(self._own_folder())

    def _own_folder(self) -> Path:
        folder = Path(self.path or "").expanduser()
        if self.path is None or not (folder / "modules.json").is_file():
            what = f"embedder.path {self.path} is not a folder with a sentence-transformers model"
            raise UserError(what, _MEND)
        return folder


@component
class Hashed:
    """Words counted in hashed columns: no model, no meaning, very fast; for tests and scale.

    Attributes:
        name: What reports call it.
        dim: Number of columns.
    """

    name: str = neutral()
    dim: PositiveInt

    def load(self, sources: Sources) -> Encode:
        """Make the function; nothing is loaded (see `Embedder`)."""
        vectorizer = HashingVectorizer(n_features=self.dim)

        def encode(texts: Sequence[str]) -> tuple[np.ndarray, Cost]:
            if not texts:
                return np.zeros((0, self.dim), dtype=np.float32), Cost()
            counts: Any = vectorizer.transform(texts)
            return counts.toarray().astype(np.float32), Cost()

        return encode

    def fingerprint(self, sources: Sources) -> str:
        """A constant."""
        return "hashed"


@component
class ServerEmbedder:
    """A model behind OpenAI's protocol, such as text-embedding-ada-002; paid through the ledger.

    Attributes:
        name: What reports call it.
        server: The model and where it is.
    """

    name: str = neutral()
    server: OpenAI

    def load(self, sources: Sources) -> Encode:
        """Make the function, which asks the server (see `Embedder`)."""

        def encode(texts: Sequence[str]) -> tuple[np.ndarray, Cost]:
            vectors, cost = self.server.embed(texts, sources)
            return unit(vectors), cost

        return encode

    def fingerprint(self, sources: Sources) -> str:
        """That of the server."""
        return self.server.fingerprint(sources)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1, or 0, as float32."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(length, 1e-12)).astype(np.float32)


def split_texts(
    texts: Sequence[str], count: Callable[[Sequence[str]], list[int]], room: int
) -> list[tuple[str, int, int]]:
    """Split the texts that are too long until every part has at most `room` tokens.

    A text is halved at the end of a sentence, else between words, else inside a word, always at
    the place nearest to its middle; so no part is a short remainder without context.

    Returns:
        Parts in order, each with its number of tokens and the index of its text.
    """

    def parts(text: str, size: int) -> Iterator[tuple[str, int]]:
        if size <= room:
            yield text, size
            return
        text = text.strip()
        assert len(text) > 1, f"one character takes {size} tokens, more than {room}"
        cuts = next(filter(None, ([m.end() for m in b.finditer(text)] for b in _BOUNDARIES)), [])
        cut = min(cuts, key=lambda cut: abs(2 * cut - len(text)), default=len(text) // 2)
        halves = [text[:cut].strip(), text[cut:].strip()]
        for half in zip(halves, count(halves), strict=True):
            yield from parts(*half)

    sized = zip(texts, count(texts) if texts else [], strict=True)
    return [(*part, owner) for owner, whole in enumerate(sized) for part in parts(*whole)]


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

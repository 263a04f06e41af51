"""Rows of a split, memories and a bank -> examples: prompts as token ids, each with its truth.

What a prompt shows is decided by `memory` (profile, recalled memories), by the template and, for
the profile that a training row sees, by `protocol.profile_snapshot` (decision 4). Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from persona_lab.distill.histories import rated_as
from persona_lab.prompting.codec import Codec
from persona_lab.prompting.template import TRAITS, Prompt, Template

if TYPE_CHECKING:
    from persona_lab.data import Protocol, Split
    from persona_lab.distill import Memories
    from persona_lab.memory import Bank, Memory, Recalled


@dataclass(frozen=True)
class Example:
    """A training or test row as the model sees it.

    Attributes:
        user_id: Who rates.
        item_id: What is rated.
        rating: The truth, 1 to 5; not in `ids`.
        ids: Token ids of the prompt, up to the place of the digit.
        cut: Units dropped to fit the context, by name (decision 23).
    """

    user_id: int
    item_id: int
    rating: int
    ids: list[int]
    cut: dict[str, int]


def make_examples(
    rows: pd.DataFrame,
    *,
    bank: Bank | None,
    memories: Memories,
    split: Split,
    template: Template,
    codec: Codec,
    memory: Memory,
    protocol: Protocol,
    training: bool,
) -> list[Example]:
    """Turn rows into examples, in the order of the rows.

    Args:
        rows: user_id, item_id, rating, position of rows of `split.train` or `split.test`.
        bank: Recalls memories; None where `memory.interactions` is off.
        memories: Profiles and traits; under `causal` also the snapshots and each row's batch.
        split: Knows the movies.
        template: The words.
        codec: The model's way of reading them.
        memory: What of a user these rows' prompts show.
        protocol: Under `profile_snapshot=causal` a training row sees the profile as it was before
            the row's own batch (none in the first), a test row the final one.
        training: Whether these are training rows.

    Returns:
        One example per row.

    Raises:
        UserError: A prompt does not fit the context even without memories and profile.
    """
    movies = catalogue(split.movies)
    recalled = _recall(rows, bank, memory)
    if memory.test_profile == "another":
        memories = _exchanged(memories)
    profiles = _profiles(rows, memories, causal=training and protocol.profile_snapshot == "causal")
    user_traits = {
        user_id: (activity, conformity, diversity)
        for user_id, activity, conformity, diversity in zip(
            memories.profiles["user_id"],
            *(memories.profiles[trait] for trait in TRAITS),
            strict=True,
        )
    }
    examples = []
    for user_id, item_id, rating, profile, row_recalled in zip(
        rows["user_id"], rows["item_id"], rows["rating"], profiles, recalled, strict=True
    ):
        prompt = build_prompt(
            template,
            memory,
            profile=profile,
            traits=user_traits[user_id],
            recalled=row_recalled,
            movie=movies[item_id],
            movies=movies,
        )
        encoded = codec.encode(prompt)
        examples.append(Example(int(user_id), int(item_id), int(rating), encoded.ids, encoded.cut))
    return examples


def catalogue(movies: pd.DataFrame) -> dict[int, dict[str, Any]]:
    """Return the movies of a split by item_id, as `Template.render` takes them."""
    fields = {str(name): movies[name].tolist() for name in movies.columns}
    rows = zip(*fields.values(), strict=True)
    return {
        item_id: dict(zip(fields, row, strict=True))
        for item_id, row in zip(fields["item_id"], rows, strict=True)
    }


def build_prompt(
    template: Template,
    memory: Memory,
    *,
    profile: str,
    traits: tuple[int, int, int],
    recalled: Sequence[Recalled],
    movie: Mapping[str, Any],
    movies: Mapping[int, Mapping[str, Any]],
) -> Prompt:
    """Lay out the prompt of one user and one movie, showing what `memory` shows.

    Args:
        template: The words.
        memory: Decides whether profile (with traits) and recalled memories are shown, and what
            these say.
        profile: The user's profile.
        traits: Tiers 0 to 2 of activity, conformity and diversity.
        recalled: What the user's agent recalls of this movie, most similar first.
        movie: The movie to rate.
        movies: Movies by item_id; knows all that are recalled.
    """
    shown = [(movies[each.item_id], _memory_text(memory, each, movies)) for each in recalled]
    return template.render(
        profile=profile if memory.profile else None,
        traits=traits if memory.profile else None,
        memories=shown if memory.interactions else None,
        movie=movie,
    )


def _memory_text(
    memory: Memory, recalled: Recalled, movies: Mapping[int, Mapping[str, Any]]
) -> str:
    if memory.text == "enriched":
        return recalled.text
    movie = movies[recalled.item_id]
    year = None if pd.isna(movie["year"]) else int(movie["year"])
    return f"{rated_as(movie['title'], year, str(recalled.rating))}."


def _recall(rows: pd.DataFrame, bank: Bank | None, memory: Memory) -> Sequence[Sequence[Recalled]]:
    if not memory.interactions:
        return [[] for _ in range(len(rows))]
    assert bank is not None, "a bank is needed to show memories"
    return bank.recall_rows(rows)


def _exchanged(memories: Memories) -> Memories:
    """Give every user the next one's profile and traits, the last user the first one's."""
    profiles = memories.profiles
    return replace(
        memories, profiles=profiles.assign(user_id=np.roll(profiles["user_id"].to_numpy(), 1))
    )


def _profiles(rows: pd.DataFrame, memories: Memories, *, causal: bool) -> list[str]:
    if not causal:
        final = dict(zip(memories.profiles["user_id"], memories.profiles["profile"], strict=True))
        return [final[user_id] for user_id in rows["user_id"]]
    pairs = ["user_id", "item_id"]
    batch = memories.interactions.set_index(pairs)["batch"].to_dict()
    snapshot = memories.snapshots.set_index(["user_id", "batch"])["profile"].to_dict()
    before = [(user_id, batch[user_id, item_id] - 1) for user_id, item_id in _pairs(rows)]
    return [snapshot[key] if key[1] >= 0 else "" for key in before]


def _pairs(rows: pd.DataFrame) -> list[tuple[int, int]]:
    return list(zip(rows["user_id"], rows["item_id"], strict=True))

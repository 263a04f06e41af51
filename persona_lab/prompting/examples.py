"""Rows of a split, memories and a bank -> examples: prompts as token ids, each with its truth.

What a prompt shows is decided by `memory` (profile, recalled memories), by the template and, for
the profile that a training row sees, by `protocol.profile_snapshot` (decision 4). Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from persona_lab.distill.histories import rated_as
from persona_lab.prompting.codec import Codec
from persona_lab.prompting.template import TRAITS, Template

if TYPE_CHECKING:
    from persona_lab.data import Protocol, Split
    from persona_lab.distill import Memories
    from persona_lab.memory import Bank, Memory, Recalled


@dataclass(frozen=True)
class Example:
    """A training or test row as the model sees it.

    The rating is the truth, a value of the scale, and not in the ids: these are the prompt's, up to
    the place of the rating. `cut` counts the units dropped to fit the context (decision 23).
    """

    user_id: int
    item_id: int
    rating: float
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

    Under `profile_snapshot=causal` a training row sees the profile as it was before the row's own
    batch (none in the first), a test row the final one.

    Args:
        rows: user_id, item_id, rating, position of rows of `split.train` or `split.test`.
        bank: Recalls memories; None where `memory.interactions` is off.
        memories: Profiles and traits; under `causal` also the snapshots and each row's batch.
        memory: What of a user these rows' prompts show.

    Raises:
        UserError: A prompt does not fit the context even without memories and profile.
    """
    movies, scale = catalogue(split.movies), split.scale
    users = memories.profiles.set_index("user_id")
    if memory.test_profile == "another":
        # Every user has the next one's, the last user the first one's.
        users = users.set_index(np.roll(users.index.to_numpy(), 1))
    of_rows = users.loc[rows["user_id"]]
    profiles = of_rows["profile"].tolist()
    if training and protocol.profile_snapshot == "causal":
        profiles = _before_batch(rows, memories)
    recalled: list[list[Recalled]] = [[] for _ in profiles]
    if memory.interactions:
        assert bank is not None, "a bank is needed to show memories"
        recalled = bank.recall_rows(rows)

    def text_of(memo: Recalled) -> str:
        if memory.text == "enriched":
            return memo.text
        movie = movies[memo.item_id]
        year = None if pd.isna(movie["year"]) else int(movie["year"])
        return f"{rated_as(movie['title'], year, scale.label(memo.rating))}."

    examples = []
    for user_id, item_id, rating, profile, traits, row_recalled in zip(
        *(rows[name].tolist() for name in ("user_id", "item_id", "rating")),
        *(profiles, of_rows[[*TRAITS]].to_numpy().tolist(), recalled),
        strict=True,
    ):
        texts = [(movies[memo.item_id], text_of(memo)) for memo in row_recalled]
        prompt = template.render(
            profile=profile if memory.profile else None,
            traits=traits if memory.profile else None,
            memories=texts if memory.interactions else None,
            movie=movies[item_id],
            scale=scale,
        )
        examples.append(Example(user_id, item_id, rating, *codec.encode(prompt)))
    return examples


def catalogue(movies: pd.DataFrame) -> dict[int, dict[str, Any]]:
    """The movies of a split by item_id, as `Template.render` takes them."""
    rows: Any = movies.to_dict("records")
    return {row["item_id"]: row for row in rows}


def _before_batch(rows: pd.DataFrame, memories: Memories) -> list[str]:
    """The users' profiles before each row's own batch of history, "" before the first."""
    batch = memories.interactions.set_index(["user_id", "item_id"])["batch"]
    snapshots = memories.snapshots.set_index(["user_id", "batch"])["profile"].to_dict()
    before = batch.loc[pd.MultiIndex.from_frame(rows[["user_id", "item_id"]])] - 1
    pairs = zip(rows["user_id"], before, strict=True)
    return [snapshots[pair] if pair[1] >= 0 else "" for pair in pairs]

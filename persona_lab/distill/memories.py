"""A distiller and a split in, the memories of all users out, as a stage's output.

Pure, but for `Memories.save` and `Memories.load`.
"""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import pandas as pd

from persona_lab.cache import Entry, Stage
from persona_lab.data import Cost, Protocol, Ratings, Split
from persona_lab.distill.histories import (
    Distiller,
    History,
    UserMemories,
    histories,
    history_rows,
    rated_as,
    rated_so_many,
)
from persona_lab.distill.titles import Titles
from persona_lab.distill.traits import traits
from persona_lab.sources import Sources

_TABLES = ("profiles", "snapshots", "interactions")


@dataclass(frozen=True, eq=False)
class Memories:
    """What the users' agents remember.

    Attributes:
        profiles: One row per user, sorted by user_id: user_id, profile, and the traits activity,
            conformity and diversity (0 to 2).
        snapshots: The profile after each batch of a user's rows: user_id, batch (0, 1, ...),
            profile, and insight: what the batch taught, "" where the distiller keeps none.
        interactions: One row per training row, in its order: user_id, item_id, rating, timestamp,
            position, batch and text, which says why.
        counts: Numbers of users and rows; of words of the profiles and of the interactions, on
            average and at most; of sentences that the title check dropped, and of texts of which
            it left too little, so that a plain sentence stands for them; and what the distiller
            counted.
        cost: Of all the replies that the texts were made from.
    """

    STAGE: ClassVar[str] = "memories"
    VERSION: ClassVar[int] = 3

    profiles: pd.DataFrame
    snapshots: pd.DataFrame
    interactions: pd.DataFrame
    counts: dict[str, float]
    cost: Cost = field(default_factory=Cost)

    def save(self, folder: Path) -> None:
        """Write three Parquet tables and `memories.json`."""
        for name in _TABLES:
            getattr(self, name).to_parquet(folder / f"{name}.parquet", index=False)
        facts = {"counts": self.counts, "cost": asdict(self.cost)}
        (folder / "memories.json").write_text(json.dumps(facts, indent=2))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        tables = {name: pd.read_parquet(folder / f"{name}.parquet") for name in _TABLES}
        facts = json.loads((folder / "memories.json").read_text())
        return cls(**tables, counts=facts["counts"], cost=Cost(**facts["cost"]))


def distillation(
    distiller: Distiller,
    split: Entry[Split],
    ratings: Callable[[], Ratings],
    protocol: Protocol,
    seed: int,
    sources: Sources,
) -> Stage[Memories]:
    """The memories as a stage of the flow; the arguments are those of `distil`."""
    inputs = {
        "split": split.key,
        "distiller": [distiller, distiller.fingerprint(sources)],
        "traits": protocol.traits,
        "title_check": protocol.title_check,
    }
    return Stage(
        Memories,
        inputs,
        lambda: distil(distiller, split.value, ratings(), protocol, seed, sources),
    )


def distil(
    distiller: Distiller,
    split: Split,
    ratings: Ratings,
    protocol: Protocol,
    seed: int,
    sources: Sources,
) -> Memories:
    """Turn every selected user's history into memories (paper, section 3.2).

    Args:
        distiller: Writes the texts; it is given nothing but the histories.
        split: Knows the users, their training rows and the movies.
        ratings: All ratings: the percentiles of traits are over all users.
        protocol: `traits` and `title_check` (decisions 2, 4 and 4b).
        seed: Handed to the distiller.
        sources: Handed to the distiller, whose models and paid replies they keep.

    Raises:
        UserError: A field of the distiller has a value that cannot be.
        ValueError: The distiller did not return what its protocol asks for.
    """
    rows = history_rows(split, ratings, distiller.scope)
    owners = list(histories(rows, split.scale))
    users = {user.user_id: user for user in distiller.distill(owners, seed, sources)}
    _check_complete(users, owners, distiller)
    # In the order of ids, whatever the order in which they were done: the sums are then the same.
    ordered = [users[owner.user_id] for owner in owners]
    cost = sum((user.cost for user in ordered), Cost())
    counts: Counter[str] = Counter()
    for user in ordered:
        counts.update(user.counts)
    if protocol.title_check:
        titles = Titles.of(split.movies)
        pairs = zip(ordered, owners, strict=True)
        ordered = [_without_titles(user, owner, titles, counts) for user, owner in pairs]

    profiles = pd.DataFrame(
        [(user.user_id, user.profile) for user in ordered], columns=["user_id", "profile"]
    ).merge(users_traits(split, ratings, protocol), on="user_id")
    snapshots = pd.DataFrame(
        [
            (user.user_id, batch, *texts)
            for user in ordered
            for batch, texts in enumerate(zip_longest(user.snapshots, user.insights, fillvalue=""))
        ],
        columns=["user_id", "batch", "profile", "insight"],
    )
    interactions = rows[["user_id", "item_id", "rating", "timestamp", "position"]].assign(
        batch=rows.groupby("user_id").cumcount() // distiller.batch_size,
        text=[text for user in ordered for text in user.interactions],
    )
    # The bank holds the training rows, also where the distiller was given more.
    interactions = interactions.merge(split.train[["user_id", "item_id"]])
    sizes: dict[str, float] = {"users": len(profiles), "rows": len(interactions)}
    for kind, texts in (("profile", profiles["profile"]), ("interaction", interactions["text"])):
        words = np.array([len(text.split()) for text in texts])
        sizes[f"{kind}_words_mean"] = round(float(words.mean()), 1)
        sizes[f"{kind}_words_max"] = int(words.max())
    return Memories(profiles, snapshots, interactions, sizes | dict(sorted(counts.items())), cost)


def users_traits(split: Split, ratings: Ratings, protocol: Protocol) -> pd.DataFrame:
    """Tiers of the selected users' traits, measured on the rows that the protocol says.

    Args:
        split: Knows the users and the rule of training rows.
        ratings: All ratings: the percentiles are over all users.
        protocol: `traits` (decision 2).

    Returns:
        As from `traits`.
    """
    everything = protocol.traits == "all"
    measured = ratings.frame if everything else split.training_rows(ratings.frame)
    return traits(measured, ratings.movies, split.users["user_id"])


def _without_titles(
    written: UserMemories, history: History, titles: Titles, counts: Counter[str]
) -> UserMemories:
    """The texts without sentences that would tell a rating of the history (decisions 4 and 4b)."""
    rows = history.rows
    items = rows["item_id"].tolist()
    rated = frozenset(items)

    def profile(text: str) -> str:
        kept, dropped = titles.drop_sentences(text, rated)
        counts["profile_sentences_dropped"] += dropped
        if dropped and not kept:
            counts["profiles_replaced"] += 1
            return rated_so_many(len(items))
        return kept

    def interaction(text: str, row: int) -> str:
        kept, dropped = titles.drop_sentences(text, rated, own=items[row])
        counts["interaction_sentences_dropped"] += dropped
        label = history.scale.label(rows["rating"].iloc[row]) if dropped else ""
        # What the text must at least say.
        if dropped and f" as {label}" not in kept:
            counts["verdicts_restored"] += 1
            year = rows["year"].iloc[row]
            plain = rated_as(rows["title"].iloc[row], None if pd.isna(year) else int(year), label)
            return f"{plain}. {kept}".strip()
        return kept

    # The profile is most often the last snapshot, and counts once.
    profiles = {text: profile(text) for text in {written.profile, *written.snapshots}}
    return replace(
        written,
        profile=profiles[written.profile],
        snapshots=[profiles[text] for text in written.snapshots],
        interactions=[interaction(text, row) for row, text in enumerate(written.interactions)],
    )


def _check_complete(
    users: dict[int, UserMemories], owners: list[History], distiller: Distiller
) -> None:
    """Refuse what a distiller of someone's own may have left out."""
    for owner in owners:
        n = len(owner.rows)
        batches = -(-n // distiller.batch_size)
        user = users.get(owner.user_id)
        if (
            user is None
            or (len(user.interactions), len(user.snapshots)) != (n, batches)
            or len(user.insights) not in (0, batches)
        ):
            raise ValueError(
                f"{type(distiller).__name__} must give user {owner.user_id} {n} interactions, "
                f"{batches} snapshots and as many insights, or none"
            )

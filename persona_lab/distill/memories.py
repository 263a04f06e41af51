"""A distiller and a split in, the memories of all users out, as a stage's output. Pure."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any, ClassVar

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
        counts: Users and rows; words of the profiles and of the interactions, on average and at
            most; sentences that the title check dropped, and texts of which it left too little, so
            that a plain sentence stands for them; and what the distiller counted.
        cost: Of all the replies that the texts were made from.
    """

    STAGE: ClassVar[str] = "memories"
    VERSION: ClassVar[int] = 4

    profiles: pd.DataFrame
    snapshots: pd.DataFrame
    interactions: pd.DataFrame
    counts: dict[str, int | float]
    cost: Cost = field(default_factory=Cost)


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
    # In the order of ids, whatever the order in which they were done: the sums are then the same.
    ordered = [_complete(users.get(owner.user_id), owner, distiller) for owner in owners]
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
        words = texts.str.split().map(len)
        sizes[f"{kind}_words_mean"] = round(float(words.mean()), 1)
        sizes[f"{kind}_words_max"] = int(words.max())
    return Memories(profiles, snapshots, interactions, sizes | dict(sorted(counts.items())), cost)


def users_traits(split: Split, ratings: Ratings, protocol: Protocol) -> pd.DataFrame:
    """The selected users' `traits`, measured on the rows that the protocol says (decision 2)."""
    everything = protocol.traits == "all"
    measured = ratings.frame if everything else split.training_rows(ratings.frame)
    return traits(measured, ratings.movies, split.users["user_id"])


def _complete(user: UserMemories | None, owner: History, distiller: Distiller) -> UserMemories:
    """Refuse what a distiller of someone's own may have left out."""
    n = len(owner.rows)
    batches = -(-n // distiller.batch_size)
    if (
        user is None
        or (len(user.interactions), len(user.snapshots)) != (n, batches)
        or len(user.insights) not in (0, batches)
    ):
        raise ValueError(
            f"{type(distiller).__name__} must give user {owner.user_id} {n} interactions, "
            f"{batches} snapshots and as many insights, or none"
        )
    return user


def _without_titles(
    written: UserMemories, history: History, titles: Titles, counts: Counter[str]
) -> UserMemories:
    """The texts without sentences that would tell a rating of the history (decisions 4 and 4b)."""
    rated = frozenset(history.rows["item_id"])
    profiles: dict[str, str] = {}
    # The profile is most often the last snapshot, and counts once.
    for text in {written.profile, *written.snapshots}:
        profiles[text], dropped = titles.drop_sentences(text, rated)
        counts["profile_sentences_dropped"] += dropped
        if dropped and not profiles[text]:
            counts["profiles_replaced"] += 1
            profiles[text] = rated_so_many(len(history.rows))
    interactions = []
    rows: list[dict[str, Any]] = history.rows.to_dict("records")  # type: ignore[assignment]
    for row, text in zip(rows, written.interactions, strict=True):
        kept, dropped = titles.drop_sentences(text, rated, own=row["item_id"])
        counts["interaction_sentences_dropped"] += dropped
        label = history.scale.label(row["rating"]) if dropped else ""
        # What the text must at least say.
        if dropped and f" as {label}" not in kept:
            counts["verdicts_restored"] += 1
            kept = f"{rated_as(row['title'], row['year'], label)}. {kept}".strip()
        interactions.append(kept)
    return replace(
        written,
        profile=profiles[written.profile],
        snapshots=[profiles[text] for text in written.snapshots],
        interactions=interactions,
    )

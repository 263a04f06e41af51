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
from persona_lab.distill.histories import Distiller, UserMemories, histories, history_rows
from persona_lab.distill.reasons import verdict
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
    VERSION: ClassVar[int] = 2

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
    users = {user.user_id: user for user in distiller.distill(histories(rows), seed, sources)}
    _check_complete(users, rows, distiller)
    counts: Counter[str] = Counter()
    cost = Cost()
    # In the order of ids, whatever the order in which they were done: the sums are then the same.
    for _, user in sorted(users.items()):
        counts.update(user.counts)
        cost += user.cost
    if protocol.title_check:
        check = _TitleCheck.of(split.movies, rows)
        users = {user_id: check(user, counts) for user_id, user in users.items()}

    ordered = [users[user_id] for user_id in split.users["user_id"]]
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
    sizes = {"users": len(profiles), "rows": len(interactions)}
    words = _words("profile", profiles["profile"]) | _words("interaction", interactions["text"])
    counted = sizes | words | dict(sorted(counts.items()))
    return Memories(profiles, snapshots, interactions, counted, cost)


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


@dataclass(frozen=True, eq=False)
class _TitleCheck:
    """Drops what would tell a rating of the user's history (decisions 4 and 4b).

    Attributes:
        titles: Of the catalogue.
        items: Item ids of all histories' rows.
        facts: For each of them, the title, the year and the rating.
        spans: Each user's rows.
    """

    titles: Titles
    items: list[int]
    facts: list[tuple[str, int | None, int]]
    spans: dict[int, slice]

    @classmethod
    def of(cls, movies: pd.DataFrame, rows: pd.DataFrame) -> Self:
        """Prepare for the catalogue and the rows of all histories."""
        years = [None if pd.isna(year) else int(year) for year in rows["year"].tolist()]
        facts = list(zip(rows["title"].tolist(), years, rows["rating"].tolist(), strict=True))
        spans = {history.user_id: history.span for history in histories(rows)}
        return cls(Titles.of(movies), rows["item_id"].tolist(), facts, spans)

    def __call__(self, written: UserMemories, counts: Counter[str]) -> UserMemories:
        """The user's texts without such sentences; what was done is added to the counts."""
        span = self.spans[written.user_id]
        items = self.items[span]
        history = frozenset(items)

        def profile(text: str) -> str:
            kept, dropped = self.titles.drop_sentences(text, history)
            counts["profile_sentences_dropped"] += dropped
            if dropped and not kept:
                counts["profiles_replaced"] += 1
                return f"I have rated {len(items)} movies."
            return kept

        def interaction(text: str, item: int, facts: tuple[str, int | None, int]) -> str:
            kept, dropped = self.titles.drop_sentences(text, history, own=item)
            counts["interaction_sentences_dropped"] += dropped
            # What the text must at least say.
            if dropped and f" as {facts[-1]}" not in kept:
                counts["verdicts_restored"] += 1
                return f"{verdict(*facts)}. {kept}".strip()
            return kept

        texts = zip(written.interactions, items, self.facts[span], strict=True)
        # The profile is most often the last snapshot, and counts once.
        profiles = {text: profile(text) for text in {written.profile, *written.snapshots}}
        return replace(
            written,
            profile=profiles[written.profile],
            snapshots=[profiles[text] for text in written.snapshots],
            interactions=[interaction(*each) for each in texts],
        )


def _check_complete(
    users: dict[int, UserMemories], rows: pd.DataFrame, distiller: Distiller
) -> None:
    """Refuse what a distiller of someone's own may have left out."""
    for user_id, n in rows.groupby("user_id").size().items():
        batches = -(-n // distiller.batch_size)
        user = users.get(int(str(user_id)))
        if (
            user is None
            or (len(user.interactions), len(user.snapshots)) != (n, batches)
            or len(user.insights) not in (0, batches)
        ):
            raise ValueError(
                f"{type(distiller).__name__} must give user {user_id} {n} interactions, "
                f"{batches} snapshots and as many insights, or none"
            )


def _words(kind: str, texts: pd.Series) -> dict[str, float]:
    words = np.array([len(text.split()) for text in texts.tolist()])
    return {
        f"{kind}_words_mean": round(float(words.mean()), 1),
        f"{kind}_words_max": int(words.max()),
    }

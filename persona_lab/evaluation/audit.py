"""What prompts are made of, as used and as it would be had the test rows been rated otherwise
-> where a test rating, or the rating that a row asks for, shows.

Nothing is taken from the configuration's word: a part that changes with the test ratings has seen
them, whatever the protocol is called. Pure, but for `Audit.save` and `load`.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd

from persona_lab.data import Split
from persona_lab.distill import Memories
from persona_lab.distill.titles import Titles
from persona_lab.memory import Recalled

EXAMPLES = 3
_ROW = ["user_id", "item_id"]
_TRAITS = ["activity", "conformity", "diversity"]


@dataclass(frozen=True)
class Audit:
    """Where test ratings, or answers to training rows, show.

    Attributes:
        findings: One record per place: `place`, `what` was looked for, how many were `checked`,
            in how many it was `found`, and up to three `examples`.
    """

    STAGE: ClassVar[str] = "audit"
    VERSION: ClassVar[int] = 1

    findings: list[dict[str, Any]]

    def save(self, folder: Path) -> None:
        """Write audit.json into a folder."""
        (folder / "audit.json").write_text(json.dumps(self.findings, indent=1))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        return cls(json.loads((folder / "audit.json").read_text()))


@dataclass(frozen=True, eq=False)
class Seen:
    """What the prompts of a run are made of.

    Attributes:
        split: Movies with their averages; training and test rows.
        memories: Profiles with traits, snapshots and enriched interactions.
        distilled: The rows that the distiller was given.
        prompts: Token ids of the sampled test rows' prompts, in the order of the sample.
    """

    split: Split
    memories: Memories
    distilled: pd.DataFrame
    prompts: Sequence[Sequence[int]]


def other_ratings(ratings: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """All ratings, with another one (1 after 5) for each of some rows.

    Args:
        ratings: user_id, item_id, rating.
        rows: user_id and item_id of the rows to change.
    """
    pairs = pd.MultiIndex.from_frame(ratings[_ROW])
    changed = pairs.isin(pd.MultiIndex.from_frame(rows[_ROW]))
    return ratings.assign(rating=np.where(changed, ratings["rating"] % 5 + 1, ratings["rating"]))


def audit(
    used: Seen,
    other: Seen,
    own_means: pd.Series,
    sample: pd.DataFrame,
    recalled: Sequence[tuple[int, int, int, Sequence[Recalled]]],
) -> Audit:
    """Look for test ratings, and for answers to training rows, in what a run used.

    Args:
        used: What the run used.
        other: The same, computed from ratings in which every test row has another one. Texts of
            a distiller that costs money are those used: then the rows it was given are compared.
        own_means: Movies' averages, by item_id, had every training row been rated otherwise.
        sample: user_id and item_id of the test rows whose prompts are given.
        recalled: For a sample of training rows: user_id, item_id, position and what they recall.
    """
    return Audit(
        [
            {"place": place, "what": what, "checked": checked, "found": len(found),
             "examples": found[:EXAMPLES]}
            for place, what, checked, found in _places(used, other, own_means, sample, recalled)
        ]
    )  # fmt: skip


_Found = tuple[str, str, int, list[str]]


def _places(
    used: Seen,
    other: Seen,
    own_means: pd.Series,
    sample: pd.DataFrame,
    recalled: Sequence[tuple[int, int, int, Sequence[Recalled]]],
) -> Iterator[_Found]:
    test_rating = "changes with the test ratings"
    means = used.split.movies.set_index("item_id")["mean"]
    others = other.split.movies.set_index("item_id")["mean"].reindex(means.index)
    yield "item mean", test_rating, len(means), _movies(_differing(means, others))
    trained = means[means.index.isin(used.split.train["item_id"])]
    found = _movies(_differing(trained, own_means.reindex(trained.index)))
    yield "item mean", "changes with the ratings of training rows", len(trained), found

    profiles = used.memories.profiles.set_index("user_id")
    theirs = other.memories.profiles.set_index("user_id").reindex(profiles.index)
    for place, columns in (("trait", _TRAITS), ("profile", ["profile"])):
        changed = (profiles[columns] != theirs[columns]).any(axis=1)
        yield place, test_rating, len(profiles), _users(profiles.index[changed])
    yield "profile", "names a title of the user's history", len(profiles), _titles_in_profiles(used)

    texts = used.memories.interactions.set_index(_ROW)
    again = other.memories.interactions.set_index(_ROW).reindex(texts.index)
    changed = (texts[["rating", "text"]] != again[["rating", "text"]]).any(axis=1)
    yield "memory", test_rating, len(texts), _pairs(texts.index[changed])
    tested = texts.index.isin(pd.MultiIndex.from_frame(used.split.test[_ROW]))
    yield "memory", "is of a test row", len(texts), _pairs(texts.index[tested])
    what = "names another title of the user's history"
    yield "memory", what, len(texts), _titles_in_memories(used)

    given, else_given = (each.distilled.set_index(_ROW)["rating"] for each in (used, other))
    changed = given != else_given.reindex(given.index)
    yield "distiller", test_rating, len(given), _pairs(given.index[changed])

    itself, later = [], []
    for user, item, position, memories in recalled:
        row = f"user {user}, movie {item}"
        itself += [row] * any(each.item_id == item for each in memories)
        later += [row] * any(each.position >= position for each in memories)
    yield "retrieval", "a training row recalls what came after it", len(recalled), later
    yield "retrieval", "a row recalls itself", len(recalled), itself

    pairs = zip(sample[_ROW].to_numpy().tolist(), used.prompts, other.prompts, strict=True)
    yield "prompt", test_rating, len(sample), _pairs(row for row, a, b in pairs if a != b)


def _differing(one: pd.Series, other: pd.Series) -> pd.Index:
    equal = (one - other).abs() < 1e-12
    return one.index[~(equal | (one.isna() & other.isna()))]


def _titles_in_profiles(used: Seen) -> list[str]:
    titles = Titles.of(used.split.movies)
    history = used.split.train.groupby("user_id")["item_id"].agg(frozenset)
    snapshots = used.memories.snapshots.groupby("user_id")["profile"].agg(set)
    table = used.memories.profiles
    profiles = dict(zip(table["user_id"], table["profile"], strict=True))
    return _users(
        user
        for user, profile in profiles.items()
        for texts in [{profile, *snapshots.get(user, set())}]
        if any(
            not mention.items.isdisjoint(history[user])
            for text in texts
            for mention in titles.mentions(text)
        )
    )


def _titles_in_memories(used: Seen) -> list[str]:
    titles = Titles.of(used.split.movies)
    history = used.split.train.groupby("user_id")["item_id"].agg(frozenset)
    columns = (used.memories.interactions[name].tolist() for name in (*_ROW, "text"))
    return _pairs(
        (user, item)
        for user, item, text in zip(*columns, strict=True)
        if any(
            item not in mention.items and not mention.items.isdisjoint(history[user])
            for mention in titles.mentions(text)
        )
    )


def _movies(items: Any) -> list[str]:
    return [f"movie {item}" for item in items]


def _users(users: Any) -> list[str]:
    return [f"user {user}" for user in users]


def _pairs(rows: Any) -> list[str]:
    return [f"user {user}, movie {item}" for user, item in rows]

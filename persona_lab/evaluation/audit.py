"""What prompts are made of, as used and as it would be had the test rows been rated otherwise
-> where a test rating, or the rating that a row asks for, shows.

Nothing is taken from the configuration's word: a part that changes with the test ratings has seen
them, whatever the protocol is called. Pure, but for `Audit.save` and `load`.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import pandas as pd

from persona_lab.cache import Entry, Stage
from persona_lab.data import Data, NoMovieInfo, Protocol, Ratings, Split
from persona_lab.distill import Distiller, Memories, distil, history_rows, users_traits
from persona_lab.distill.titles import Titles
from persona_lab.memory import Recalled
from persona_lab.sources import Sources

EXAMPLES = 3
_AUDITED = 50  # rows, each of another user
_ROW = ["user_id", "item_id"]
_TRAITS = ["activity", "conformity", "diversity"]
_TEST_RATING = "changes with the test ratings"
_NOT_AGAIN = "an LLM wrote these texts and they were not made again; what it was given was checked"


@dataclass(frozen=True)
class Audit:
    """Where test ratings, or answers to training rows, show.

    Attributes:
        findings: One record per place: `place`, `what` was looked for, how many were `checked`,
            in how many it was `found`, up to three `examples`, and a `note` that says why none
            could be checked, else empty.
    """

    STAGE: ClassVar[str] = "audit"
    VERSION: ClassVar[int] = 2

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
        distilled: The rows that the distiller was given, as from `history_rows`.
        prompts: Token ids of the sampled test rows' prompts, in the order of the sample.
    """

    split: Split
    memories: Memories
    distilled: pd.DataFrame
    prompts: Sequence[Sequence[int]]


def auditing(
    inputs: Mapping[str, Any],
    data: Data,
    distiller: Distiller,
    protocol: Protocol,
    sources: Sources,
    ratings: Callable[[], Ratings],
    split: Entry[Split],
    memories: Entry[Memories],
    prompts: Callable[[Split, Memories, pd.DataFrame], list[list[int]]],
    recall: Callable[[pd.DataFrame], Sequence[Sequence[Recalled]]],
) -> Stage[Audit]:
    """The audit as a stage of the flow: all is made again from other test ratings, and compared.

    An LLM is not asked again: of its texts the audit says that they were not checked.

    Args:
        inputs: What the prompts depend on.
        data: Splits other ratings as it did the real ones.
        distiller: Writes other memories, where it is no LLM.
        protocol: As in the run.
        sources: Public artefacts.
        ratings: All ratings.
        split: The run's.
        memories: The run's.
        prompts: Token ids of the prompts of test rows, from a split and memories.
        recall: What training rows recall, nothing where prompts show no memories.
    """

    def compute() -> Audit:
        used, real = memories.value, ratings()
        train, test = split.value.train, split.value.test
        selected = real.frame[real.frame["user_id"].isin(split.value.users["user_id"])]
        known = pd.MultiIndex.from_frame(train[_ROW])
        unseen = selected[~pd.MultiIndex.from_frame(selected[_ROW]).isin(known)]

        def rated_otherwise(rows: pd.DataFrame) -> tuple[Ratings, Split]:
            other = replace(real, frame=other_ratings(real.frame, rows))
            again = data.split(other, protocol, NoMovieInfo(), sources)
            # Texts do not follow ratings, and to ask for them again may need a key.
            means = {name: again.movies[name] for name in ("mean", "mean_known")}
            return other, replace(again, movies=split.value.movies.assign(**means))

        other, other_split = rated_otherwise(unseen)
        rewritten = distiller.estimate(train.groupby("user_id").size().tolist()).calls == 0
        if rewritten:
            again = distil(distiller, other_split, other, protocol, data.seed, sources)
        else:
            tiers = users_traits(other_split, other, protocol)
            texts = used.profiles[["user_id", "profile"]]
            again = replace(used, profiles=texts.merge(tiers, on="user_id"))
        sample = test.groupby("user_id").head(1).head(_AUDITED)

        def seen(ratings: Ratings, split: Split, memories: Memories) -> Seen:
            rows = history_rows(split, ratings, distiller.scope)
            return Seen(split, memories, rows, prompts(split, memories, sample))

        trained = train.groupby("user_id").sample(1, random_state=0).head(_AUDITED)
        recalled = recall(trained)
        places = trained[[*_ROW, "position"]].to_numpy().tolist()[: len(recalled)]
        return audit(
            seen(real, split.value, used),
            seen(other, other_split, again),
            rated_otherwise(train)[1].movies.set_index("item_id")["mean"],
            sample,
            [(*place, memories) for place, memories in zip(places, recalled, strict=True)],
            rewritten=rewritten,
        )

    return Stage(Audit, {**inputs, "split": split.key}, compute)


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
    *,
    rewritten: bool = True,
) -> Audit:
    """Look for test ratings, and for answers to training rows, in what a run used.

    Args:
        used: What the run used.
        other: The same, computed from ratings in which every test row has another one.
        own_means: Movies' averages, by item_id, had every training row been rated otherwise.
        sample: user_id and item_id of the test rows whose prompts are given.
        recalled: For a sample of training rows: user_id, item_id, position and what they recall.
        rewritten: Whether the distiller wrote the other texts; an LLM is not asked again, and the
            texts are those used. Comparing them would show nothing, so it counts as not checked.
    """
    found = (
        *_means(used, other, own_means),
        *_texts(used, other, rewritten),
        *_titles(used),
        *_recalls(recalled),
        _prompts(used, other, sample, rewritten),
    )
    return Audit(
        [
            {"place": each.place, "what": each.what, "checked": each.checked,
             "found": len(each.places), "examples": each.places[:EXAMPLES], "note": each.note}
            for each in found
        ]
    )  # fmt: skip


class _Found(NamedTuple):
    place: str
    what: str
    checked: int
    places: list[str]
    note: str = ""


def _means(used: Seen, other: Seen, own_means: pd.Series) -> Iterator[_Found]:
    means = used.split.movies.set_index("item_id")["mean"]
    others = other.split.movies.set_index("item_id")["mean"].reindex(means.index)
    yield _Found("item mean", _TEST_RATING, len(means), _movies(_differing(means, others)))
    trained = means[means.index.isin(used.split.train["item_id"])]
    found = _movies(_differing(trained, own_means.reindex(trained.index)))
    what = "changes with the ratings of training rows"
    yield _Found("item mean", what, len(trained), found)


def _texts(used: Seen, other: Seen, rewritten: bool) -> Iterator[_Found]:
    profiles = used.memories.profiles.set_index("user_id")
    theirs = other.memories.profiles.set_index("user_id").reindex(profiles.index)
    changed = (profiles[_TRAITS] != theirs[_TRAITS]).any(axis=1)
    yield _Found("trait", _TEST_RATING, len(profiles), _users(profiles.index[changed]))

    texts = used.memories.interactions.set_index(_ROW)
    if rewritten:
        changed = profiles["profile"] != theirs["profile"]
        yield _Found("profile", _TEST_RATING, len(profiles), _users(profiles.index[changed]))
        again = other.memories.interactions.set_index(_ROW).reindex(texts.index)
        changed = (texts[["rating", "text"]] != again[["rating", "text"]]).any(axis=1)
        yield _Found("memory", _TEST_RATING, len(texts), _pairs(texts.index[changed]))
    else:
        yield _Found("profile", _TEST_RATING, 0, [], _NOT_AGAIN)
        yield _Found("memory", _TEST_RATING, 0, [], _NOT_AGAIN)
    tested = texts.index.isin(pd.MultiIndex.from_frame(used.split.test[_ROW]))
    yield _Found("memory", "is of a test row", len(texts), _pairs(texts.index[tested]))

    # The movies' averages are given too, and an LLM is shown them.
    given, theirs = (each.distilled.set_index(_ROW)[["rating", "mean"]] for each in (used, other))
    theirs = theirs.reindex(given.index)
    ratings, means = (_differing(given[name], theirs[name]) for name in given)
    yield _Found("distiller", _TEST_RATING, len(given), _pairs(ratings.union(means)))


def _titles(used: Seen) -> Iterator[_Found]:
    titles = Titles.of(used.split.movies)
    history, tested = (
        rows.groupby("user_id")["item_id"].agg(frozenset).to_dict()
        for rows in (used.split.train, used.split.test)
    )
    profiles = used.memories.profiles
    written = pd.concat([profiles, used.memories.snapshots])[["user_id", "profile"]]
    users, texts = (written.drop_duplicates()[name].tolist() for name in written)
    by_user: dict[int, list[frozenset[int]]] = {user: [] for user in profiles["user_id"].tolist()}
    for user, text in zip(users, texts, strict=True):
        by_user[user] += [mention.items for mention in titles.mentions(text)]
    for what, rows in (("the user's history", history), ("a test row", tested)):
        found = [user for user, named in by_user.items() if _any_of(named, rows.get(user))]
        yield _Found("profile", f"names a title of {what}", len(profiles), _users(found))

    memories = used.memories.interactions
    columns = (memories[name].tolist() for name in (*_ROW, "text"))
    named = [
        (user, item, others)
        for user, item, text in zip(*columns, strict=True)
        if (others := [m.items for m in titles.mentions(text) if item not in m.items])
    ]
    for what, rows in (
        ("names another title of the user's history", history),
        ("names a title of a test row", tested),
    ):
        found = [(user, item) for user, item, others in named if _any_of(others, rows.get(user))]
        yield _Found("memory", what, len(memories), _pairs(found))


def _any_of(named: Iterable[frozenset[int]], items: frozenset[int] | None) -> bool:
    return items is not None and not all(items.isdisjoint(each) for each in named)


def _recalls(recalled: Sequence[tuple[int, int, int, Sequence[Recalled]]]) -> Iterator[_Found]:
    itself, later = [], []
    for user, item, position, memories in recalled:
        row = f"user {user}, movie {item}"
        itself += [row] * any(each.item_id == item for each in memories)
        later += [row] * any(each.position >= position for each in memories)
    what = "a training row recalls what came after it"
    yield _Found("retrieval", what, len(recalled), later)
    yield _Found("retrieval", "a row recalls itself", len(recalled), itself)


def _prompts(used: Seen, other: Seen, sample: pd.DataFrame, rewritten: bool) -> _Found:
    pairs = zip(sample[_ROW].to_numpy().tolist(), used.prompts, other.prompts, strict=True)
    what = _TEST_RATING if rewritten else f"{_TEST_RATING}, but for what an LLM wrote"
    return _Found("prompt", what, len(sample), _pairs(row for row, a, b in pairs if a != b))


def _differing(one: pd.Series, other: pd.Series) -> pd.Index:
    equal = (one - other).abs() < 1e-12
    return one.index[~(equal | (one.isna() & other.isna()))]


def _movies(items: Any) -> list[str]:
    return [f"movie {item}" for item in items]


def _users(users: Any) -> list[str]:
    return [f"user {user}" for user in users]


def _pairs(rows: Any) -> list[str]:
    return [f"user {user}, movie {item}" for user, item in rows]

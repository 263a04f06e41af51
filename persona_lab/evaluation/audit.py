"""What prompts are made of, as used and as it would be had the test rows been rated otherwise
-> where a test rating, or the rating that a row asks for, shows.

Nothing is taken from the configuration's word: a part that changes with the test ratings has seen
them, whatever the protocol is called. Pure, but for `Audit.save` and `load`.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd

from persona_lab.cache import Entry, Stage
from persona_lab.data import Data, NoMovieInfo, Protocol, Ratings, Scale, Split
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
            other = replace(real, frame=other_ratings(real.frame, rows, real.scale))
            again = data.split(other, protocol, NoMovieInfo(), sources)
            # Texts do not follow ratings, and to ask for them again may need a key.
            means = {name: again.movies[name] for name in ("mean", "mean_known")}
            return other, replace(again, movies=split.value.movies.assign(**means))

        other, other_split = rated_otherwise(unseen)
        sizes = train.groupby("user_id").size().tolist()
        rewritten = distiller.estimate(sizes, split.value.scale).calls == 0
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


def other_ratings(ratings: pd.DataFrame, rows: pd.DataFrame, scale: Scale) -> pd.DataFrame:
    """All ratings, with the next one (the lowest after the highest) for each of some rows.

    Args:
        ratings: user_id, item_id, rating.
        rows: user_id and item_id of the rows to change.
        scale: What a rating can be.
    """
    pairs = pd.MultiIndex.from_frame(ratings[_ROW])
    changed = pairs.isin(pd.MultiIndex.from_frame(rows[_ROW]))
    following = np.roll(scale.values, -1)[scale.index(ratings["rating"])]
    return ratings.assign(rating=np.where(changed, following, ratings["rating"]))


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
    return Audit(
        [
            *_means(used, other, own_means),
            *_texts(used, other, rewritten),
            *_titles(used),
            *_recalls(recalled),
            _prompts(used, other, sample, rewritten),
        ]
    )


def _finding(
    place: str, what: str, checked: int, places: Sequence[str], note: str = ""
) -> dict[str, Any]:
    return {
        "place": place,
        "what": what,
        "checked": checked,
        "found": len(places),
        "examples": list(places[:EXAMPLES]),
        "note": note,
    }


def _means(used: Seen, other: Seen, own_means: pd.Series) -> list[dict[str, Any]]:
    means, others = (seen.split.movies.set_index("item_id")["mean"] for seen in (used, other))
    trained = means[means.index.isin(used.split.train["item_id"])]
    what = "changes with the ratings of training rows"
    return [
        _finding("item mean", _TEST_RATING, len(means), _movies(_differing(means, others))),
        _finding("item mean", what, len(trained), _movies(_differing(trained, own_means))),
    ]


def _texts(used: Seen, other: Seen, rewritten: bool) -> list[dict[str, Any]]:
    profiles = used.memories.profiles.set_index("user_id")
    theirs = other.memories.profiles.set_index("user_id").reindex(profiles.index)
    texts = used.memories.interactions.set_index(_ROW)
    tested = texts.index.isin(pd.MultiIndex.from_frame(used.split.test[_ROW]))
    changed = (profiles[_TRAITS] != theirs[_TRAITS]).any(axis=1)
    findings = [_finding("trait", _TEST_RATING, len(profiles), _users(profiles.index[changed]))]
    if rewritten:
        changed = profiles["profile"] != theirs["profile"]
        again = other.memories.interactions.set_index(_ROW).reindex(texts.index)
        altered = (texts[["rating", "text"]] != again[["rating", "text"]]).any(axis=1)
        findings += [
            _finding("profile", _TEST_RATING, len(profiles), _users(profiles.index[changed])),
            _finding("memory", _TEST_RATING, len(texts), _pairs(texts.index[altered])),
        ]
    else:
        findings += [
            _finding(place, _TEST_RATING, 0, [], _NOT_AGAIN) for place in ("profile", "memory")
        ]
    # The movies' averages are given too, and an LLM is shown them.
    rows, others = (seen.distilled.set_index(_ROW)[["rating", "mean"]] for seen in (used, other))
    ratings, means = (_differing(rows[name], others[name]) for name in rows)
    return [
        *findings,
        _finding("memory", "is of a test row", len(texts), _pairs(texts.index[tested])),
        _finding("distiller", _TEST_RATING, len(rows), _pairs(ratings.union(means))),
    ]


def _titles(used: Seen) -> list[dict[str, Any]]:
    titles = Titles.of(used.split.movies)
    history, tested = (
        rows.groupby("user_id")["item_id"].agg(frozenset).to_dict()
        for rows in (used.split.train, used.split.test)
    )
    profiles, memories = used.memories.profiles, used.memories.interactions
    written = pd.concat([profiles, used.memories.snapshots])[["user_id", "profile"]]
    in_profiles: dict[int, list[frozenset[int]]] = {
        user: [] for user in profiles["user_id"].tolist()
    }
    for user, text in written.drop_duplicates().itertuples(index=False):
        in_profiles[user] += [mention.items for mention in titles.mentions(text)]
    in_memories = [
        (user, item, [m.items for m in titles.mentions(text) if item not in m.items])
        for user, item, text in memories[[*_ROW, "text"]].itertuples(index=False)
    ]
    findings = []
    for whose, rows in (("the user's history", history), ("a test row", tested)):
        users = [user for user, named in in_profiles.items() if _any_of(named, rows.get(user))]
        what = f"names a title of {whose}"
        findings.append(_finding("profile", what, len(profiles), _users(users)))
    for what, rows in (
        ("names another title of the user's history", history),
        ("names a title of a test row", tested),
    ):
        pairs = [
            (user, item) for user, item, named in in_memories if _any_of(named, rows.get(user))
        ]
        findings.append(_finding("memory", what, len(memories), _pairs(pairs)))
    return findings


def _any_of(named: Iterable[frozenset[int]], items: frozenset[int] | None) -> bool:
    return items is not None and not all(items.isdisjoint(mentioned) for mentioned in named)


def _recalls(
    recalled: Sequence[tuple[int, int, int, Sequence[Recalled]]],
) -> list[dict[str, Any]]:
    later = [
        (user, item)
        for user, item, position, memories in recalled
        if any(memory.position >= position for memory in memories)
    ]
    itself = [
        (user, item)
        for user, item, _, memories in recalled
        if any(memory.item_id == item for memory in memories)
    ]
    what = "a training row recalls what came after it"
    return [
        _finding("retrieval", what, len(recalled), _pairs(later)),
        _finding("retrieval", "a row recalls itself", len(recalled), _pairs(itself)),
    ]


def _prompts(used: Seen, other: Seen, sample: pd.DataFrame, rewritten: bool) -> dict[str, Any]:
    rows = zip(sample[_ROW].to_numpy().tolist(), used.prompts, other.prompts, strict=True)
    what = _TEST_RATING if rewritten else f"{_TEST_RATING}, but for what an LLM wrote"
    return _finding("prompt", what, len(sample), _pairs(row for row, a, b in rows if a != b))


def _differing(one: pd.Series, other: pd.Series) -> pd.Index:
    """Where two series differ, by the first's index."""
    other = other.reindex(one.index)
    equal = (one - other).abs() < 1e-12
    return one.index[~(equal | (one.isna() & other.isna()))]


def _movies(items: Any) -> list[str]:
    return [f"movie {item}" for item in items]


def _users(users: Any) -> list[str]:
    return [f"user {user}" for user in users]


def _pairs(rows: Any) -> list[str]:
    return [f"user {user}, movie {item}" for user, item in rows]

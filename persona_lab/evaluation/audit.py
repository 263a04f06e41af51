"""What prompts are made of, as used and as it would be had the test rows been rated otherwise
-> where a test rating, or the rating that a row asks for, shows.

Nothing is taken from the configuration's word: a part that changes with the test ratings has seen
them, whatever the protocol is called.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from persona_lab.cache import Entry, Stage
from persona_lab.data import Data, NoMovieInfo, Protocol, Ratings, Split
from persona_lab.distill import Distiller, Memories, distil, history_rows, users_traits
from persona_lab.distill.titles import Titles
from persona_lab.memory import Recalled
from persona_lab.sources import Sources

_EXAMPLES = 3
_AUDITED = 50  # rows, each of another user
_ROW = ["user_id", "item_id"]
_TRAITS = ["activity", "conformity", "diversity"]
_TEST_RATING = "changes with the test ratings"
_NOT_AGAIN = "an LLM wrote these texts and they were not made again; what it was given was checked"

Finding = dict[str, Any]


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

    findings: list[Finding]


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
        data, distiller, protocol, sources, ratings, split, memories: Those of the run.
        prompts: Token ids of the prompts of test rows, from a split and memories.
        recall: What training rows recall, nothing where prompts show no memories.
    """

    def compute() -> Audit:
        real, used, texts = ratings(), split.value, memories.value

        def rated_otherwise(rows: pd.DataFrame) -> tuple[Ratings, Split]:
            following = np.roll(real.scale.values, -1)[real.scale.index(real.frame["rating"])]
            other = np.where(_among(real.frame, rows), following, real.frame["rating"])
            changed = replace(real, frame=real.frame.assign(rating=other))
            again = data.split(changed, protocol, NoMovieInfo(), sources)
            # Texts do not follow ratings, and to ask for them again may need a key.
            means = {name: again.movies[name] for name in ("mean", "mean_known")}
            return changed, replace(again, movies=used.movies.assign(**means))

        selected = real.frame[real.frame["user_id"].isin(used.users["user_id"])]
        other, other_split = rated_otherwise(selected[~_among(selected, used.train)])
        sizes = used.train.groupby("user_id").size().tolist()
        rewritten = distiller.estimate(sizes, used.scale).calls == 0
        if rewritten:
            other_texts = distil(distiller, other_split, other, protocol, data.seed, sources)
        else:
            profiles = texts.profiles[["user_id", "profile"]]
            tiers = users_traits(other_split, other, protocol)
            other_texts = replace(texts, profiles=profiles.merge(tiers, on="user_id"))
        given, other_given = (
            history_rows(*sides, distiller.scope).set_index(_ROW)
            for sides in ((used, real), (other_split, other))
        )
        # The movies' averages are given too, and an LLM is shown them.
        of_rating, of_mean = (
            _differ(given[name], other_given[name]) for name in ("rating", "mean")
        )
        sample = used.test.groupby("user_id").head(1).head(_AUDITED)
        trained = used.train.groupby("user_id").sample(1, random_state=0).head(_AUDITED)
        pairs = zip(
            prompts(used, texts, sample), prompts(other_split, other_texts, sample), strict=True
        )
        unlike = pd.Series([one != another for one, another in pairs], _rows(sample))
        what = _TEST_RATING if rewritten else f"{_TEST_RATING}, but for what an LLM wrote"
        return Audit(
            [
                *_means(used, other_split, rated_otherwise(used.train)[1]),
                *_texts(texts, other_texts, used.test, rewritten),
                _finding("distiller", _TEST_RATING, of_rating | of_mean),
                *_titles(used, texts),
                *_recalls(trained, recall(trained)),
                _finding("prompt", what, unlike),
            ]
        )

    return Stage(Audit, {**inputs, "split": split.key}, compute)


def _finding(place: str, what: str, leaks: pd.Series, note: str = "") -> Finding:
    """A record of what was looked for; `leaks` is by user_id, item_id or both."""
    where = leaks.index[leaks.to_numpy(dtype=bool)]
    examples = where[:_EXAMPLES].to_frame().rename(columns={"user_id": "user", "item_id": "movie"})
    return {
        "place": place,
        "what": what,
        "checked": len(leaks),
        "found": len(where),
        "examples": [
            ", ".join(f"{name} {number}" for name, number in row.items())
            for row in examples.to_dict("records")
        ],
        "note": note,
    }


def _means(used: Split, other: Split, otherwise_trained: Split) -> Iterator[Finding]:
    means, others, untrained = (
        split.movies.set_index("item_id")["mean"] for split in (used, other, otherwise_trained)
    )
    trained = means[means.index.isin(used.train["item_id"])]
    yield _finding("item mean", _TEST_RATING, _differ(means, others))
    what = "changes with the ratings of training rows"
    yield _finding("item mean", what, _differ(trained, untrained))


def _texts(
    used: Memories, other: Memories, test: pd.DataFrame, rewritten: bool
) -> Iterator[Finding]:
    profiles, texts = used.profiles.set_index("user_id"), used.interactions.set_index(_ROW)
    others = other.profiles.set_index("user_id").reindex(profiles.index)
    changed = (profiles[_TRAITS] != others[_TRAITS]).any(axis=1)
    yield _finding("trait", _TEST_RATING, changed)
    if rewritten:
        again = other.interactions.set_index(_ROW).reindex(texts.index)
        altered = (texts[["rating", "text"]] != again[["rating", "text"]]).any(axis=1)
        yield _finding("profile", _TEST_RATING, profiles["profile"] != others["profile"])
        yield _finding("memory", _TEST_RATING, altered)
    else:
        for place in ("profile", "memory"):
            yield _finding(place, _TEST_RATING, pd.Series(dtype=bool), _NOT_AGAIN)
    tested = pd.Series(_among(used.interactions, test), texts.index)
    yield _finding("memory", "is of a test row", tested)


def _titles(split: Split, memories: Memories) -> Iterator[Finding]:
    titles, texts = Titles.of(split.movies), memories.interactions
    profiles = pd.concat([memories.profiles, memories.snapshots])[["user_id", "profile"]]
    profiles = profiles.drop_duplicates()
    in_profiles = [[m.items for m in titles.mentions(text)] for text in profiles["profile"]]
    in_texts = [
        [m.items for m in titles.mentions(text) if item not in m.items]
        for item, text in texts[["item_id", "text"]].itertuples(index=False)
    ]
    of_history, of_test = "names {} title of the user's history", "names a title of a test row"
    for place, title, index, mentions in (
        ("profile", "a", pd.Index(profiles["user_id"]), in_profiles),
        ("memory", "another", _rows(texts), in_texts),
    ):
        for what, rows in ((of_history.format(title), split.train), (of_test, split.test)):
            items = rows.groupby("user_id")["item_id"].agg(frozenset).to_dict()
            own = (items.get(user, frozenset()) for user in index.get_level_values("user_id"))
            naming = [
                not all(seen.isdisjoint(mentioned) for mentioned in named)
                for seen, named in zip(own, mentions, strict=True)
            ]
            leaks = pd.Series(naming, index, dtype=bool)
            # A user has a profile and its snapshots.
            yield _finding(place, what, leaks.groupby(level=[*index.names], sort=False).any())


def _recalls(trained: pd.DataFrame, recalled: Sequence[Sequence[Recalled]]) -> Iterator[Finding]:
    rows = trained.head(len(recalled))
    index, pairs = _rows(rows), [*zip(rows["position"], rows["item_id"], recalled, strict=True)]
    later = [any(memory.position >= place for memory in memories) for place, _, memories in pairs]
    itself = [any(memory.item_id == item for memory in memories) for _, item, memories in pairs]
    what = "a training row recalls what came after it"
    yield _finding("retrieval", what, pd.Series(later, index, dtype=bool))
    yield _finding("retrieval", "a row recalls itself", pd.Series(itself, index, dtype=bool))


def _rows(frame: pd.DataFrame) -> pd.MultiIndex:
    return pd.MultiIndex.from_frame(frame[_ROW])


def _among(frame: pd.DataFrame, rows: pd.DataFrame) -> np.ndarray:
    return _rows(frame).isin(_rows(rows))


def _differ(one: pd.Series, other: pd.Series) -> pd.Series:
    other = other.reindex(one.index)
    return ~(((one - other).abs() < 1e-12) | (one.isna() & other.isna()))

"""Vectors of users' profiles in, which user has which persona out (paper, section 3.3). Pure.

With the same vectors and seed the personas are the same, whatever the number of threads.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, Protocol, Self, runtime_checkable

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from pydantic import Field, PositiveInt
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import silhouette_score
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits

from persona_lab.cache import Entry, Stage
from persona_lab.component import component, neutral
from persona_lab.data import Split
from persona_lab.distill.taste import split_genres
from persona_lab.errors import UserError
from persona_lab.memory import Vectors

_GENRE = "genre "  # before the columns of genre shares


@dataclass(frozen=True, eq=False)
class Personas:
    """A partition of the selected users.

    Attributes:
        assignment: One row per user: user_id, persona (0, 1, ..., the largest first).
        centers: Mean vector of each persona's users, of shape (n_personas, dim), float32.
        curve: One row per number of personas that was tried: k, inertia (sum of squared distances
            to the nearest center) and silhouette (mean over users, -1 to 1; NaN where it is not
            defined); no rows where nothing was clustered.
    """

    STAGE: ClassVar[str] = "personas"
    VERSION: ClassVar[int] = 2

    assignment: pd.DataFrame
    centers: np.ndarray
    curve: pd.DataFrame

    def of(self, user_id: int) -> int:
        """A user's persona; KeyError where there is no such user."""
        return self._persona_of[user_id]

    @cached_property
    def _persona_of(self) -> dict[int, int]:
        return dict(zip(self.assignment["user_id"], self.assignment["persona"], strict=True))

    @classmethod
    def of_groups(
        cls,
        groups: np.ndarray,
        features: np.ndarray,
        users: pd.DataFrame,
        curve: Sequence[tuple[int, float, float]] = (),
    ) -> Self:
        """Number groups of users by size, of equals first the one with the smallest user id.

        So the numbers do not depend on the order in which a clustering found its groups: any
        values, of shape (n_users,), for the users' vectors, of shape (n_users, dim).
        """
        user_ids = users["user_id"].to_numpy()
        members = pd.DataFrame({"group": groups, "user_id": user_ids}).groupby("group")["user_id"]
        ranking = members.agg(["size", "min"]).sort_values(["size", "min"], ascending=[False, True])
        persona = ranking.index.get_indexer(pd.Index(groups)).astype(np.int64)
        centers = [features[persona == number].mean(axis=0) for number in range(len(ranking))]
        points = np.array(curve, dtype=float).reshape(-1, 3)
        return cls(
            pd.DataFrame({"user_id": user_ids, "persona": persona}),
            np.stack(centers).astype(np.float32),
            pd.DataFrame(points, columns=["k", "inertia", "silhouette"]).astype({"k": "int64"}),
        )

    def picture(self, features: np.ndarray, profiles: Sequence[str]) -> dict[str, Any]:
        """Return what a report draws and says of the personas, ready for JSON.

        The features are what was clustered, of shape (n_users, dim), in the order of `assignment`.

        Returns:
            `users`: user_id, persona, x, y (first two principal components) and profile of each;
            `explained`: share of the variance of either component; `curve`: None for NaN.
        """
        centred = features.astype(np.float64) - features.mean(axis=0)
        left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
        # One user or one dimension has a single component.
        places, shares = np.zeros((len(features), 2)), np.zeros(2)
        places[:, : len(sizes[:2])] = left[:, :2] * sizes[:2]
        shares[: len(sizes[:2])] = sizes[:2] ** 2 / max(float((sizes**2).sum()), 1e-12)
        users = self.assignment.assign(x=places[:, 0], y=places[:, 1], profile=list(profiles))
        curve = self.curve.astype(object).where(self.curve.notna(), None)
        return {
            "users": users.round({"x": 4, "y": 4}).to_dict("records"),
            "explained": shares.round(4).tolist(),
            "curve": curve.to_dict("records"),
        }


@runtime_checkable
class Clustering(Protocol):
    """A way to group users."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    @property
    def departures(self) -> Sequence[str]:
        """In what it departs from the paper, which groups by profiles: then no row of Table 1."""
        ...

    def fit(self, features: np.ndarray, users: pd.DataFrame, seed: int) -> Personas:
        """Group the users; UserError where they cannot be grouped as the fields ask.

        Args:
            features: Vectors of their profiles, of shape (n_users, dim).
            users: user_id and what is known of each user, in the same order (see `known_users`).
            seed: Of all that is random.
        """
        ...


def grouping(
    clustering: Clustering, vectors: Entry[Vectors], split: Entry[Split], seed: int
) -> Stage[Personas]:
    """The personas as a stage of the flow."""
    return Stage(
        Personas,
        {"vectors": vectors.key, "clustering": clustering, "seed": seed},
        lambda: clustering.fit(vectors.value.profiles, known_users(split.value), seed),
    )


@component
class KMeansPersonas:
    """A given number of personas, by k-means++ on vectors of length 1 (decision 24).

    Attributes:
        name: What reports call it.
        features: What users are grouped by: the vectors of their "profiles", or the shares of
            "genres" among the movies that they watched: then no text takes part.
        n_personas: Number of personas K.
        n_init: Starts, of which the one with the smallest inertia is taken.
        curve_max: The curve of inertia and silhouette goes from 1 to this K or, where it is
            larger, to n_personas; never beyond the number of distinct vectors.
    """

    name: str = neutral()
    features: Literal["profiles", "genres"]
    n_personas: PositiveInt
    n_init: PositiveInt
    curve_max: PositiveInt

    @property
    def departures(self) -> Sequence[str]:
        """None, or that it groups by what users watched."""
        return () if self.features == "profiles" else ("personas by genres, not by profiles",)

    def fit(self, features: np.ndarray, users: pd.DataFrame, seed: int) -> Personas:
        """Group the users (see `Clustering`)."""
        if self.features == "genres":
            features = users.filter(like=_GENRE).to_numpy(dtype=float)
            if not features.size:
                raise UserError("the movies of the data have no genres", "choose personas=kmeans")
        vectors = _unit(features, users)
        distinct = len(np.unique(vectors, axis=0))
        if self.n_personas > distinct:
            raise UserError(
                f"personas.n_personas is {self.n_personas}, and the {len(users)} users have "
                f"{distinct} distinct {self.features}",
                f"set personas.n_personas to 1 to {distinct}, or raise data.n_users",
            )
        last = min(max(self.curve_max, self.n_personas), distinct)
        starts: Any = self.n_init
        models = (KMeans(k, n_init=starts, random_state=seed) for k in range(1, last + 1))
        return _by_k_means(models, lambda _: self.n_personas, vectors, users)


@component
class MiniBatchPersonas:
    """A given number of personas by k-means on small batches: for tens of thousands of users.

    `KMeansPersonas` fits every K of its curve on all users, and compares each user with all others
    for the silhouette; this fits one K (Sculley, 2010) and draws no curve.

    Attributes:
        name: What reports call it.
        n_personas: Number of personas K.
        n_init: Starts, compared on a part of the users.
        batch_size: Users of a batch.
    """

    departures: ClassVar[Sequence[str]] = ()

    name: str = neutral()
    n_personas: PositiveInt
    n_init: PositiveInt
    batch_size: PositiveInt

    def fit(self, features: np.ndarray, users: pd.DataFrame, seed: int) -> Personas:
        """Group the users (see `Clustering`)."""
        assert len(features) == len(users), "one vector per user"
        if self.n_personas > len(users):
            raise UserError(
                f"personas.n_personas is {self.n_personas}, and there are {len(users)} users",
                f"set personas.n_personas to 1 to {len(users)}",
            )
        # In float32, unlike few users': they may be as many as memory holds.
        vectors = np.asarray(normalize(features))
        starts: Any = self.n_init
        kmeans = MiniBatchKMeans(
            self.n_personas, batch_size=self.batch_size, n_init=starts, random_state=seed
        )
        return _by_k_means([kmeans], lambda _: self.n_personas, vectors, users)


@component
class ElbowPersonas:
    """As many personas as the elbow of the inertia curve says (decision 24).

    The elbow is the K whose point lies farthest below the line from the curve's first to its last
    point, both axes scaled to 0 to 1 ("Kneedle", Satopaa et al. 2011). It is neither the first
    nor the last K, so a group of alike users is split all the same.

    Attributes:
        name: What reports call it.
        max_personas: Last K of the curve; never beyond the number of distinct profiles.
        n_init: Starts, of which the one with the smallest inertia is taken.
    """

    departures: ClassVar[Sequence[str]] = ()

    name: str = neutral()
    max_personas: Annotated[int, Field(ge=3)]
    n_init: PositiveInt

    def fit(self, features: np.ndarray, users: pd.DataFrame, seed: int) -> Personas:
        """Group the users (see `Clustering`)."""
        vectors = _unit(features, users)
        distinct = len(np.unique(vectors, axis=0))
        last = min(self.max_personas, distinct)
        if last < 3:
            raise UserError(
                f"an elbow needs 3 or more points; personas.max_personas is {self.max_personas}, "
                f"and the {len(users)} users have {distinct} distinct profiles",
                "choose personas=kmeans with personas.n_personas, or raise data.n_users",
            )
        starts: Any = self.n_init
        models = (KMeans(k, n_init=starts, random_state=seed) for k in range(1, last + 1))
        return _by_k_means(models, elbow, vectors, users)


@component
class Demographics:
    """One persona per value of what is known of the users; unknown ("") is a value like others.

    Attributes:
        name: What reports call it.
        column: A column of the users, such as gender.
    """

    name: str = neutral()
    column: str

    @property
    def departures(self) -> Sequence[str]:
        """It groups by what users stated."""
        return [f"personas by {self.column}, not by profiles"]

    def fit(self, features: np.ndarray, users: pd.DataFrame, seed: int) -> Personas:
        """Group the users by the column's values (see `Clustering`)."""
        if self.column == "user_id" or self.column not in users:
            columns = map(str, users.columns.drop("user_id"))
            known = ", ".join(name for name in columns if not name.startswith(_GENRE))
            raise UserError(
                f"personas.column is {self.column}, which the users of the data do not have",
                f"set personas.column to one of {known}" if known else "choose personas=kmeans",
            )
        return Personas.of_groups(users[self.column].to_numpy(), _unit(features, users), users)


def known_users(split: Split) -> pd.DataFrame:
    """What is known of the selected users, for a `Clustering`: the split's users and the genres.

    Columns "genre Comedy" and so on hold each genre's share of all mentions of genres among the
    user's training rows, 0 to 1.
    """
    genres = split.movies.set_index("item_id")["genres"].map(split_genres)
    watched = split.train[["user_id"]].assign(genre=split.train["item_id"].map(genres))
    mentions = watched.explode("genre", ignore_index=True)
    shares = pd.crosstab(mentions["user_id"], mentions["genre"], normalize="index")
    # Who watched nothing that has a genre has a share of none.
    shares = shares.add_prefix(_GENRE).reindex(split.users["user_id"], fill_value=0.0)
    return split.users.merge(shares.reset_index(), on="user_id", validate="one_to_one")


def elbow(inertias: ArrayLike) -> int:
    """The K at the elbow of a curve that begins at K = 1 and has 3 or more points.

    It is the smallest K, neither first nor last, whose distance below the chord is largest.
    """
    curve = np.asarray(inertias)
    drop = curve[0] - curve[-1]
    height = (curve - curve[-1]) / (drop if drop > 0 else 1)
    # The chord falls from 1 to 0; the distance to it is this difference over the root of 2.
    below = np.linspace(1, 0, len(curve)) - height
    return int(np.argmax(below[1:-1])) + 2


def _unit(features: np.ndarray, users: pd.DataFrame) -> np.ndarray:
    assert len(features) == len(users), "one vector per user"
    return np.asarray(normalize(features.astype(np.float64)))


def _by_k_means(
    models: Iterable[Any],
    choose: Callable[[list[float]], int],
    vectors: np.ndarray,
    users: pd.DataFrame,
) -> Personas:
    """The personas of the model whose K is chosen by the curve of all models' inertias."""
    groups, curve = {}, []
    # Threads add up in any order, so that sums differ in their last digits.
    with threadpool_limits(1), warnings.catch_warnings():
        # An empty cluster is only a warning to scikit-learn.
        warnings.simplefilter("ignore", ConvergenceWarning)
        for model in models:
            k = model.n_clusters
            groups[k] = model.fit_predict(vectors)
            # Not defined for one group, nor where every user is one of its own.
            defined = 1 < len(np.unique(groups[k])) < len(vectors) and isinstance(model, KMeans)
            silhouette = silhouette_score(vectors, groups[k]) if defined else np.nan
            curve.append((k, model.inertia_, silhouette))
    k = choose([inertia for _, inertia, _ in curve])
    if (n_groups := len(np.unique(groups[k]))) < k:
        raise UserError(
            f"k-means found {n_groups} personas, not {k}: {k - n_groups} have no user",
            f"set personas.n_personas to at most {n_groups}, or take another seed",
        )
    return Personas.of_groups(groups[k], vectors, users, curve)

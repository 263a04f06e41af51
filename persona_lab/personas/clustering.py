"""Vectors of users' profiles in, personas out (paper, section 3.3). Pure.

With the same vectors and seed the personas are the same, whatever the number of threads.
"""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
import pandas as pd
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
from persona_lab.personas.personas import Personas

_GENRE = "genre "  # before the columns of genre shares


@runtime_checkable
class Clustering(Protocol):
    """A way to group users."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    @property
    def departures(self) -> Sequence[str]:
        """In what it departs from the paper, which groups by profiles; empty: in nothing.

        Adapters of personas that depart are no row of Table 1.
        """
        ...

    def fit(self, features: np.ndarray, users: pd.DataFrame, seed: int) -> Personas:
        """Group the users.

        Args:
            features: Vectors of their profiles, of shape (n_users, dim).
            users: user_id and what is known of each user, in the same order (see `known_users`).
            seed: Of all that is random.

        Raises:
            UserError: The users cannot be grouped as the fields ask.
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
        groups, curve = _groups_and_curve(vectors, last, self.n_init, seed)
        return _personas(groups[self.n_personas], self.n_personas, vectors, users, curve)


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
        with _one_thread():
            kmeans = MiniBatchKMeans(
                self.n_personas,
                init="k-means++",
                n_init=self.n_init,  # pyright: ignore[reportArgumentType]
                batch_size=self.batch_size,
                random_state=seed,
            )
            groups = kmeans.fit_predict(vectors)
        curve = _curve([(self.n_personas, float(kmeans.inertia_ or 0), float("nan"))])
        return _personas(groups, self.n_personas, vectors, users, curve)


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
        groups, curve = _groups_and_curve(vectors, last, self.n_init, seed)
        k = elbow(curve["inertia"])
        return _personas(groups[k], k, vectors, users, curve)


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
        vectors, groups = _unit(features, users), users[self.column].to_numpy()
        return Personas.of_groups(groups, vectors, users["user_id"].to_numpy(), _curve([]))


def known_users(split: Split) -> pd.DataFrame:
    """What is known of the selected users, for a `Clustering`.

    Returns:
        The split's users and, as columns "genre Comedy" and so on, each genre's share of all
        mentions of genres among the user's training rows, 0 to 1.
    """
    genres = split.movies.set_index("item_id")["genres"].map(split_genres)
    watched = split.train[["user_id"]].assign(genre=split.train["item_id"].map(genres))
    mentions = watched.explode("genre", ignore_index=True)
    shares = pd.crosstab(mentions["user_id"], mentions["genre"], normalize="index")
    # Who watched nothing that has a genre has a share of none.
    shares = shares.add_prefix(_GENRE).reindex(split.users["user_id"], fill_value=0.0)
    return split.users.merge(shares.reset_index(), on="user_id", validate="one_to_one")


def elbow(inertias: Iterable[float]) -> int:
    """The K at the elbow of a curve that begins at K = 1 and has 3 or more points.

    Returns:
        The smallest K, neither first nor last, whose distance below the chord is largest.
    """
    curve = np.array(list(inertias))
    drop = curve[0] - curve[-1]
    height = (curve - curve[-1]) / (drop if drop > 0 else 1)
    # The chord falls from 1 to 0; the distance to it is this difference over the root of 2.
    below = np.linspace(1, 0, len(curve)) - height
    return int(np.argmax(below[1:-1])) + 2


def _unit(features: np.ndarray, users: pd.DataFrame) -> np.ndarray:
    assert len(features) == len(users), "one vector per user"
    return np.asarray(normalize(features.astype(np.float64)))


@contextmanager
def _one_thread() -> Iterator[None]:
    # Threads add up in any order, so that sums differ in their last digits.
    with threadpool_limits(1), warnings.catch_warnings():
        # An empty cluster is only a warning to scikit-learn; _personas looks for it.
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def _groups_and_curve(
    vectors: np.ndarray, last: int, n_init: int, seed: int
) -> tuple[dict[int, np.ndarray], pd.DataFrame]:
    """Each user's group for every K up to the last, and the curve over K."""
    groups, points = {}, []
    with _one_thread():
        for k in range(1, last + 1):
            kmeans = KMeans(k, init="k-means++", n_init=n_init, random_state=seed)  # pyright: ignore[reportArgumentType]
            groups[k] = kmeans.fit_predict(vectors)
            # Not defined for one group, nor where every user is one of its own.
            defined = 1 < len(np.unique(groups[k])) < len(vectors)
            silhouette = silhouette_score(vectors, groups[k]) if defined else float("nan")
            points.append((k, float(kmeans.inertia_ or 0), float(silhouette)))
    return groups, _curve(points)


def _curve(points: list[tuple[int, float, float]]) -> pd.DataFrame:
    curve = pd.DataFrame(points, columns=["k", "inertia", "silhouette"])
    return curve.astype({"k": "int64", "inertia": "float64", "silhouette": "float64"})


def _personas(
    groups: np.ndarray, k: int, vectors: np.ndarray, users: pd.DataFrame, curve: pd.DataFrame
) -> Personas:
    if (n_groups := len(np.unique(groups))) < k:
        raise UserError(
            f"k-means found {n_groups} personas, not {k}: {k - n_groups} have no user",
            f"set personas.n_personas to at most {n_groups}, or take another seed",
        )
    return Personas.of_groups(groups, vectors, users["user_id"].to_numpy(), curve)

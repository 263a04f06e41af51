"""Vectors of users' profiles in, personas out (paper, section 3.3). Pure.

With the same vectors and seed the personas are the same, whatever the number of threads.
"""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, NamedTuple, Protocol

import numpy as np
import pandas as pd
from pydantic import Field, PositiveInt
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import silhouette_score
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits

from persona_lab.cache import Entry, Stage
from persona_lab.data import Split
from persona_lab.distill.english import split_genres
from persona_lab.errors import UserError
from persona_lab.memory import Vectors
from persona_lab.personas.personas import Personas

_GENRE = "genre "  # before the columns of genre shares


class Clustering(Protocol):
    """A way to group users.

    One that groups by anything but the vectors of profiles has an attribute `of_profiles` that is
    False: adapters of its personas are no row of Table 1.
    """

    @property
    def name(self) -> str:
        """What reports call it."""
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


@dataclass(frozen=True)
class KMeansPersonas:
    """A given number of personas, by k-means++ on vectors of length 1 (decision 24).

    Attributes:
        name: What reports call it.
        n_personas: Number of personas K.
        n_init: Starts, of which the one with the smallest inertia is taken.
        curve_max: The curve of inertia and silhouette goes from 1 to this K or, where it is
            larger, to n_personas; never beyond the number of distinct profiles.
    """

    name: str = field(metadata={"key": False})
    n_personas: PositiveInt = 4
    n_init: PositiveInt = 10
    curve_max: PositiveInt = 10

    def fit(self, features: np.ndarray, users: pd.DataFrame, seed: int) -> Personas:
        """Group the users (see `Clustering`)."""
        vectors = _unit(features, users)
        distinct = _n_distinct(vectors)
        if self.n_personas > distinct:
            raise UserError(
                f"personas.n_personas is {self.n_personas}, and the {len(users)} users have "
                f"{distinct} distinct profiles",
                f"set personas.n_personas to 1 to {distinct}, or raise data.n_users",
            )
        ks = range(1, min(max(self.curve_max, self.n_personas), distinct) + 1)
        return _personas(_fits(vectors, ks, self.n_init, seed), self.n_personas, vectors, users)


@dataclass(frozen=True)
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

    name: str = field(metadata={"key": False})
    n_personas: PositiveInt = 4
    n_init: PositiveInt = 3
    batch_size: PositiveInt = 4096

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
        with threadpool_limits(1), warnings.catch_warnings():
            # An empty cluster is only a warning to scikit-learn; _personas looks for it.
            warnings.simplefilter("ignore", ConvergenceWarning)
            kmeans = MiniBatchKMeans(
                self.n_personas,
                init="k-means++",
                n_init=self.n_init,  # pyright: ignore[reportArgumentType]
                batch_size=self.batch_size,
                random_state=seed,
            )
            labels = kmeans.fit_predict(vectors)
        fit = _Fit(labels, float(kmeans.inertia_ or 0), float("nan"))
        return _personas({self.n_personas: fit}, self.n_personas, vectors, users)


@dataclass(frozen=True)
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

    name: str = field(metadata={"key": False})
    max_personas: Annotated[int, Field(ge=3)] = 10
    n_init: PositiveInt = 10

    def fit(self, features: np.ndarray, users: pd.DataFrame, seed: int) -> Personas:
        """Group the users (see `Clustering`)."""
        vectors = _unit(features, users)
        distinct = _n_distinct(vectors)
        last = min(self.max_personas, distinct)
        if last < 3:
            raise UserError(
                f"an elbow needs 3 or more points; personas.max_personas is {self.max_personas}, "
                f"and the {len(users)} users have {distinct} distinct profiles",
                "choose personas=kmeans with personas.n_personas, or raise data.n_users",
            )
        fits = _fits(vectors, range(1, last + 1), self.n_init, seed)
        k = elbow([fit.inertia for fit in fits.values()])
        return _personas(fits, k, vectors, users)


@dataclass(frozen=True)
class Demographics:
    """One persona per value of what is known of the users; unknown ("") is a value like others.

    Attributes:
        name: What reports call it.
        column: A column of the users, such as gender.
    """

    of_profiles: ClassVar[bool] = False

    name: str = field(metadata={"key": False})
    column: str

    def fit(self, features: np.ndarray, users: pd.DataFrame, seed: int) -> Personas:
        """Group the users by the column's values (see `Clustering`)."""
        if self.column == "user_id" or self.column not in users:
            columns = map(str, users.columns.drop("user_id"))
            known = ", ".join(name for name in columns if not name.startswith(_GENRE))
            raise UserError(
                f"personas.column is {self.column}, which the users of the data do not have",
                f"set personas.column to one of {known}" if known else "choose personas=kmeans",
            )
        curve = pd.DataFrame({"k": [0], "inertia": [0.0], "silhouette": [0.0]}).head(0)
        vectors = _unit(features, users)
        groups = users[self.column].to_numpy()
        return Personas.of_groups(groups, vectors, users["user_id"].to_numpy(), curve)


@dataclass(frozen=True)
class GenrePersonas:
    """A given number of personas, by k-means++ on what genres users watch: no text takes part.

    Attributes:
        name: What reports call it.
        n_personas: Number of personas K.
        n_init: Starts, of which the one with the smallest inertia is taken.
        curve_max: The curve of inertia and silhouette goes from 1 to this K or, where it is
            larger, to n_personas; never beyond the number of distinct shares of genres.
    """

    of_profiles: ClassVar[bool] = False

    name: str = field(metadata={"key": False})
    n_personas: PositiveInt = 4
    n_init: PositiveInt = 10
    curve_max: PositiveInt = 10

    def fit(self, features: np.ndarray, users: pd.DataFrame, seed: int) -> Personas:
        """Group the users by the directions of their genre shares (see `Clustering`)."""
        shares = users.filter(like=_GENRE).to_numpy(dtype=float)
        if not shares.size:
            raise UserError("the movies of the data have no genres", "choose personas=kmeans")
        kmeans = KMeansPersonas(self.name, self.n_personas, self.n_init, self.curve_max)
        return kmeans.fit(shares, users, seed)


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


def _n_distinct(vectors: np.ndarray) -> int:
    return len(np.unique(vectors, axis=0))


class _Fit(NamedTuple):
    labels: np.ndarray
    inertia: float
    silhouette: float


def _fits(vectors: np.ndarray, ks: Iterable[int], n_init: int, seed: int) -> dict[int, _Fit]:
    """One k-means for each K."""
    fits = {}
    # Threads add up in any order, so that sums differ in their last digits.
    with threadpool_limits(1), warnings.catch_warnings():
        # An empty cluster is only a warning to scikit-learn; _personas looks for it.
        warnings.simplefilter("ignore", ConvergenceWarning)
        for k in ks:
            kmeans = KMeans(k, init="k-means++", n_init=n_init, random_state=seed)  # pyright: ignore[reportArgumentType]
            labels = kmeans.fit_predict(vectors)
            fits[k] = _Fit(labels, float(kmeans.inertia_ or 0), _silhouette(vectors, labels))
    return fits


def _silhouette(vectors: np.ndarray, labels: np.ndarray) -> float:
    """Mean silhouette; NaN for one group, or where every user is one of its own."""
    if not 1 < len(np.unique(labels)) < len(vectors):
        return float("nan")
    return float(silhouette_score(vectors, labels))


def _personas(
    fits: Mapping[int, _Fit], k: int, vectors: np.ndarray, users: pd.DataFrame
) -> Personas:
    """The personas of the fit for K = k, with the curve of all fits by K."""
    curve = pd.DataFrame(
        {
            "k": list(fits),
            "inertia": [fit.inertia for fit in fits.values()],
            "silhouette": [fit.silhouette for fit in fits.values()],
        }
    )
    labels = fits[k].labels
    if (found := len(np.unique(labels))) < k:
        raise UserError(
            f"k-means found {found} personas, not {k}: {k - found} have no user",
            f"set personas.n_personas to at most {found}, or take another seed",
        )
    return Personas.of_groups(labels, vectors, users["user_id"].to_numpy(), curve)

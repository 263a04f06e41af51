"""A few numbers in, MovieLens-shaped ratings with planted personas out. Pure.

Made so that tests and studies can tell signal from none: what a persona likes is known.
"""

from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import Field, NonNegativeInt, PositiveInt

from persona_lab.component import component
from persona_lab.data.ratings import Invalid, Ratings
from persona_lab.data.scale import Scale
from persona_lab.errors import UserError

# Neighbours of a pair go together; a movie has one or both genres of one pair.
_GENRE_PAIRS = (
    *("Action|Adventure", "Sci-Fi|Fantasy", "Crime|Thriller", "Mystery|Horror"),
    *("Drama|Romance", "Musical|Comedy", "Animation|Children's", "Western|War"),
)
_FIRST = (
    "Amber Broken Copper Crimson Distant Electric Emerald Empty Endless Fallen Forgotten Frozen "
    "Gentle Gilded Hollow Hidden Iron Ivory Last Lonely Midnight Northern Paper Quiet Restless "
    "Rising Scarlet Second Silent Silver Stolen Sudden Velvet Wandering Winter Wooden"
)
_SECOND = (
    "Anchor Arcade Avenue Bridge Caravan Carnival Cathedral Compass Courier Crossing Daughter "
    "Detective Empire Engine Garden Harbor Horizon Hotel Island Kingdom Lantern Letter Lighthouse "
    "Meadow Mirror Orchard Parade Passenger Promise River Station Summer Symphony Tailor Voyage"
)
_AGES = ("under 18", "18-24", "25-34", "35-44", "45-49", "50-55", "56 or over")
_OCCUPATIONS = ("artist", "educator", "engineer", "lawyer", "nurse", "retired", "student", "writer")

# Strengths in quarters of the scale: from 1 to 5, a taste moves a rating from 3 to 4.5 or 1.5.
_TASTE, _QUALITY, _USER, _NOISE = 1.5, 0.4, 0.3, 0.4
# Random keys drawn at once, so that memory stays small whatever the numbers of users and movies.
_KEYS_AT_ONCE = 2**24


@component
class Synthetic:
    """Users of planted personas who rate made-up movies.

    The pairs of genres and the personas lie evenly around a circle, and a persona likes the half
    that faces it and dislikes the other: with two personas each likes what the other dislikes.
    The persona is the column `planted` of the users ("0", "1", ...); age, gender and occupation
    are drawn without regard to it. Users come to the personas in turn.

    Attributes:
        n_users: Number of users.
        n_items: Number of movies.
        n_personas: Number of planted personas.
        ratings_per_user: Least and most ratings of a user; the number is drawn evenly.
        opposition: Weight of the persona's own taste against the taste that all users share; at 1
            personas differ as described, at 0 not at all.
        seed: Draws everything.
    """

    n_users: PositiveInt
    n_items: PositiveInt
    n_personas: PositiveInt
    ratings_per_user: Annotated[Sequence[PositiveInt], Field(min_length=2, max_length=2)]
    opposition: Annotated[float, Field(ge=0, le=1)]
    seed: NonNegativeInt

    def __post_init__(self) -> None:
        least, most = self.ratings_per_user
        for field, valid, wanted in (
            ("n_items", self.n_items >= most, f"at least {most}, the most ratings of a user"),
            ("n_personas", self.n_personas <= self.n_users, "at most the number of users"),
            ("ratings_per_user", least <= most, "two numbers, the least first"),
        ):
            if not valid:
                what = f"data.reader.{field} is {getattr(self, field)}"
                raise UserError(what, f"it must be {wanted}")

    def read(self, path: Path | None, invalid: Invalid, scale: Scale) -> Ratings:
        """Make the ratings (see `Reader`); each user's times increase strictly.

        Raises:
            UserError: A path was given.
        """
        if path is not None:
            raise UserError(
                f"synthetic data is made, not read, and data.path is {path}",
                "leave data.path out, or choose data=ml_1m or data=ml_100k",
            )
        rng = np.random.default_rng(self.seed)
        pair = np.arange(self.n_items) % len(_GENRE_PAIRS)
        persona = np.arange(self.n_users) % self.n_personas
        user, item, timestamp = self._interactions(rng)
        own = self._taste(persona[user], pair[item])
        shared = self._taste(np.zeros_like(user), pair[item])
        quarter = (scale.high - scale.low) / 4
        liking = (
            scale.middle
            + quarter * _TASTE * (self.opposition * own + (1 - self.opposition) * shared)
            + quarter * _QUALITY * rng.standard_normal(self.n_items)[item]
            + quarter * _USER * rng.standard_normal(self.n_users)[user]
            + quarter * _NOISE * rng.standard_normal(len(user))
        )
        rating = scale.nearest(liking).astype(scale.dtype)
        columns = {"user_id": user + 1, "item_id": item + 1, "rating": rating}
        frame = pd.DataFrame(columns | {"timestamp": timestamp})
        return Ratings(frame, _movies(pair, rng), _users(persona, rng), {}, scale)

    def _interactions(self, rng: np.random.Generator) -> Iterable[np.ndarray]:
        """User index, item index and time of every rating, by user and time."""
        least, most = self.ratings_per_user
        # Few movies have most of the ratings, as in MovieLens.
        popularity = (1 / np.sqrt(1 + rng.permutation(self.n_items))).astype(np.float32)
        chunk = max(1, _KEYS_AT_ONCE // self.n_items)
        parts = []
        for start in range(0, self.n_users, chunk):
            users = np.arange(start, min(start + chunk, self.n_users))
            # The smallest of exponential keys with these rates are a weighted draw without
            # replacement (Efraimidis and Spirakis, 2006).
            keys = rng.standard_exponential((len(users), self.n_items), dtype=np.float32)
            keys /= popularity
            items = np.argpartition(keys, most - 1, axis=1)[:, :most]
            items = rng.permuted(items, axis=1)
            times = rng.integers(946_684_800, 1_041_379_200, (len(users), 1))
            times = times + rng.integers(1, 3600, items.shape).cumsum(axis=1)
            rated = np.arange(most) < rng.integers(least, most + 1, (len(users), 1))
            parts.append((users.repeat(rated.sum(axis=1)), items[rated], times[rated]))
        return map(np.concatenate, zip(*parts, strict=True))

    def _taste(self, persona: np.ndarray, pair: np.ndarray) -> np.ndarray:
        """1 where a persona likes a pair of genres, -1 where it dislikes it."""
        angle = 2 * np.pi * ((pair + 0.5) / len(_GENRE_PAIRS) - persona / self.n_personas)
        # The tiny shift decides, one way for all, for a pair that lies exactly between the halves.
        return np.where(np.cos(angle) > 1e-9, 1.0, -1.0)


def _movies(pair: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    names = [f"{first} {second}" for first, second in product(_FIRST.split(), _SECOND.split())]
    order = rng.permutation(len(names))
    titles = []
    for number in range(len(pair)):
        again, place = divmod(number, len(names))
        titles.append(names[order[place]] + (f" {again + 1}" if again else ""))
    choices = [[*genres.split("|"), genres] for genres in _GENRE_PAIRS]
    both = rng.integers(0, 3, len(pair))
    genres = [choices[which][how] for which, how in zip(pair, both, strict=True)]
    return pd.DataFrame(
        {
            "item_id": np.arange(1, len(pair) + 1),
            "title": pd.array(titles, dtype="str"),
            "year": pd.array(rng.integers(1930, 2001, len(pair)), dtype="Int64"),
            "genres": pd.array(genres, dtype="str"),
        }
    )


def _users(persona: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    known = {"age": _AGES, "gender": ("F", "M"), "occupation": _OCCUPATIONS}
    texts = {name: rng.choice(values, len(persona)) for name, values in known.items()}
    users = pd.DataFrame(texts | {"planted": persona.astype(str)}, dtype="str")
    users.insert(0, "user_id", np.arange(1, len(persona) + 1))
    return users

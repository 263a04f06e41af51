"""The values that a rating can take, and the words for them. Pure."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from persona_lab.component import component
from persona_lab.errors import UserError


@component
class Scale:
    """What a rating of a data set can be.

    Attributes:
        values: The values, from the lowest to the highest.
        words: What a value says of a movie, as "you <words>" would go on: one for each value.
        labels: How a value is written in prompts and answered, by default as short as it can be
            ("4", "3.5"); one for each value.
    """

    values: Sequence[float]
    words: Sequence[str]
    labels: Sequence[str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(self.values))
        object.__setattr__(self, "words", tuple(self.words))
        object.__setattr__(
            self, "labels", tuple(self.labels) or tuple(f"{value:g}" for value in self.values)
        )
        if len(self.values) < 2 or any(np.diff(self.values) <= 0):
            raise UserError(f"a scale has the values {self.values}", "name at least two, rising")
        for name in ("words", "labels"):
            if len(getattr(self, name)) != len(self.values):
                raise UserError(
                    f"a scale has {len(self.values)} values and {len(getattr(self, name))} {name}",
                    f"give each value one of the {name}",
                )

    @property
    def low(self) -> float:
        """The lowest value."""
        return self.values[0]

    @property
    def high(self) -> float:
        """The highest value."""
        return self.values[-1]

    @property
    def middle(self) -> float:
        """Half way between the lowest and the highest value."""
        return (self.low + self.high) / 2

    @property
    def dtype(self) -> str:
        """Type of a column of ratings: int64 where all values are whole numbers, else float64."""
        return "int64" if all(value == int(value) for value in self.values) else "float64"

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that hold each value's probability: `p1` to `p5`."""
        return tuple(f"p{label}" for label in self.labels)

    def index(self, ratings: ArrayLike) -> np.ndarray:
        """Places of ratings on the scale, from 0, in the shape given; 4.0 is 4.

        Raises:
            UserError: A rating is not on the scale.
        """
        numbers = np.asarray(ratings, dtype=float)
        places = np.searchsorted(self.values, numbers).clip(max=len(self.values) - 1)
        off = np.asarray(self.values)[places] != numbers
        if off.any():
            raise UserError(
                f"the rating {numbers[off].flat[0]:g} is not one of {self.listed}",
                "name the data set's values in data.scale.values",
            )
        return places

    def label(self, rating: float) -> str:
        """How a rating is written."""
        return self.labels[int(self.index(rating))]

    def nearest(self, predictions: ArrayLike) -> np.ndarray:
        """The values nearest to predictions, of two equally near ones the higher."""
        values = np.asarray(self.values, dtype=float)
        cuts = (values[1:] + values[:-1]) / 2
        return values[np.searchsorted(cuts, np.asarray(predictions, dtype=float), side="right")]

    @property
    def listed(self) -> str:
        """The labels in a row: `1, 2, 3, 4, 5`."""
        return ", ".join(self.labels)

    @property
    def explained(self) -> str:
        """What each value means: `1 means you hated it, 2 you disliked it and 3 you loved it`."""
        first, *between, last = (
            f"{label} {'means ' if place == 0 else ''}you {words}"
            for place, (label, words) in enumerate(zip(self.labels, self.words, strict=True))
        )
        return f"{', '.join([first, *between])} and {last}"

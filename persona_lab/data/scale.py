"""The values that a rating can take, and the words for them. Pure."""

from collections.abc import Sequence

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
        values, words = tuple(self.values), tuple(self.words)
        labels = tuple(self.labels) or tuple(f"{value:g}" for value in values)
        # The fields are frozen, their dictionary is not.
        vars(self).update(values=values, words=words, labels=labels)
        if len(values) < 2 or any(np.diff(values) <= 0):
            raise UserError(f"a scale has the values {values}", "name at least two, rising")
        for name, texts in (("words", words), ("labels", labels)):
            if len(texts) != len(values):
                raise UserError(
                    f"a scale has {len(values)} values and {len(texts)} {name}",
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

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that hold each value's probability: `p1` to `p5`."""
        return tuple(f"p{label}" for label in self.labels)

    def index(self, ratings: ArrayLike) -> np.ndarray:
        """Places of ratings on the scale, from 0, in the shape given; 4.0 is 4.

        Raises:
            UserError: A rating is not on the scale.
        """
        numbers, values = np.asarray(ratings, dtype=float), np.asarray(self.values)
        places = np.searchsorted(values, numbers).clip(max=len(values) - 1)
        if (off := values[places] != numbers).any():
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
        means = ("means you", *["you"] * (len(self.values) - 1))
        *parts, last = map(" ".join, zip(self.labels, means, self.words, strict=True))
        return f"{', '.join(parts)} and {last}"

"""What a rating can be: MovieLens' five stars, half stars, and scales that cannot be."""

import numpy as np
import pytest
from configured import configured

from persona_lab.data import Scale
from persona_lab.errors import UserError

FIVE = configured("data/scale=five_stars")
HALVES = Scale([0.5, 1, 1.5], ["hated it", "disliked it", "loved it"])


def test_five_stars() -> None:
    assert (FIVE.low, FIVE.middle, FIVE.high, FIVE.dtype) == (1, 3, 5, "int64")
    assert FIVE.columns == ("p1", "p2", "p3", "p4", "p5")
    assert FIVE.listed == "1, 2, 3, 4, 5"
    assert FIVE.explained == (
        "1 means you hated it, 2 you disliked it, 3 you are neutral about it, 4 you liked it and "
        "5 you loved it"
    )


def test_half_stars() -> None:
    assert HALVES.labels == ("0.5", "1", "1.5")
    assert (HALVES.middle, HALVES.dtype) == (1, "float64")
    assert HALVES.index([1.5, 0.5, 1]).tolist() == [2, 0, 1]
    assert HALVES.label(1.0) == "1"
    for rating in (0.75, 2, -1):
        with pytest.raises(UserError, match=f"^the rating {rating:g} is not one of 0.5, 1, 1.5"):
            HALVES.index([1, rating])


def test_of_two_equally_near_values_the_higher() -> None:
    assert FIVE.nearest([0.2, 1.5, 2.49, 4.5, 9]).tolist() == [1, 2, 2, 5, 5]
    assert HALVES.nearest(np.array([[0.75], [1.2]])).tolist() == [[1], [1]]


def test_labels_of_ones_own() -> None:
    scale = Scale((0, 1), ("disliked it", "liked it"), ("no", "yes"))
    assert scale.columns == ("pno", "pyes")
    assert scale.explained == "no means you disliked it and yes you liked it"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (([1, 1], ["a", "b"]), "name at least two, rising"),
        (([1], ["a"]), "name at least two, rising"),
        (([1, 2], ["a"]), "2 values and 1 words"),
        (([1, 2], ["a", "b"], ["x"]), "2 values and 1 labels"),
    ],
)
def test_a_scale_that_cannot_be(fields: tuple[list, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Scale(*fields)

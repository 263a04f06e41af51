"""A lab computes again what is the run's own, and nothing where only what is at hand counts."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

import pytest

from persona_lab.cache import Cache, NotAtHand, Stage
from persona_lab.lab import Lab
from persona_lab.model.loggers import Csv, NoLogger
from persona_lab.sources import Sources


@dataclass(frozen=True)
class Number:
    STAGE: ClassVar[str] = "number"
    VERSION: ClassVar[int] = 1

    value: int

    def save(self, folder: Path) -> None:
        (folder / "number").write_text(str(self.value))

    @classmethod
    def load(cls, folder: Path) -> Self:
        return cls(int((folder / "number").read_text()))


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(Sources(tmp_path), Cache(tmp_path / "store"), tmp_path / "run", Csv())


@pytest.fixture
def number() -> Callable[[], Stage[Number]]:
    """A stage that gives 1, then 2, and so on, each time that it is computed."""
    computed: list[Number] = []

    def compute() -> Number:
        computed.append(Number(len(computed) + 1))
        return computed[-1]

    return lambda: Stage(Number, {}, compute)


def test_a_rerun_computes_again_what_is_the_runs_own(
    lab: Lab, number: Callable[[], Stage[Number]]
) -> None:
    again = replace(lab, rerun=True)
    assert lab.once(number()).value == lab.once(number(), own=True).value == Number(1)
    assert again.once(number()).value == Number(1)
    assert again.once(number(), own=True).value == Number(2)
    assert lab.once(number()).value == Number(2)


def test_at_hand_is_what_is_there_alone(lab: Lab, number: Callable[[], Stage[Number]]) -> None:
    seen = replace(lab, rerun=True).at_hand
    assert (seen.folder, seen.sources.offline, seen.logger, seen.rerun) == (
        *(lab.folder, True, NoLogger(), False),
    )
    with pytest.raises(NotAtHand, match=r"number .* is not in the store"):
        seen.once(number(), own=True).require()
    lab.once(number())
    assert seen.once(number(), own=True).value == Number(1)

"""Where a run reads, keeps and shows things, handed along as one."""

from dataclasses import replace
from pathlib import Path
from typing import Self, TypeVar

from persona_lab.cache import Cache, Entry, Output, Stage
from persona_lab.component import component
from persona_lab.model.loggers import Logger, NoLogger
from persona_lab.sources import Sources

T = TypeVar("T", bound=Output)


@component
class Lab:
    """The places of a run.

    Attributes:
        sources: Public artefacts.
        cache: Results of stages that runs share.
        folder: The run's own.
        logger: Where its curves and its outcome go.
        rerun: Whether what is the run's own, its adapters and predictions, is computed again.
    """

    sources: Sources
    cache: Cache
    folder: Path
    logger: Logger
    rerun: bool = False

    def once(self, stage: Stage[T], *, own: bool = False) -> Entry[T]:
        """A stage's result, from the cache where it is there.

        Args:
            stage: What is wanted.
            own: Whether it is the run's own, so that `rerun` computes it again.
        """
        return self.cache.once(stage, rerun=own and self.rerun)

    @property
    def at_hand(self) -> Self:
        """The same places, with what is there alone: nothing is fetched, computed or logged."""
        return replace(
            self,
            sources=replace(self.sources, offline=True),
            cache=replace(self.cache, computing=False),
            logger=NoLogger(),
            rerun=False,
        )

"""A run folder -> the logger of its curves: CSV, TensorBoard, Weights & Biases or none.

None of them may ask a question, need an account or need the network.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers import Logger as LightningLogger

from persona_lab.errors import UserError


class Logger(Protocol):
    """Where a run's curves go."""

    def open(self, folder: Path, name: str, config: Mapping[str, Any]) -> Any:
        """A context manager that yields Lightning's logger, None for no logger.

        Args:
            folder: The run's folder; files go there.
            name: The run's name.
            config: The choices of the run, to be shown with its curves.
        """
        ...


@dataclass(frozen=True)
class NoLogger:
    """No curves."""

    @contextmanager
    def open(self, folder: Path, name: str, config: Mapping[str, Any]) -> Iterator[None]:
        """Yield None."""
        yield None


@dataclass(frozen=True)
class Csv:
    """Curves as curves/metrics.csv in the run folder."""

    @contextmanager
    def open(self, folder: Path, name: str, config: Mapping[str, Any]) -> Iterator[LightningLogger]:
        """Yield Lightning's CSV logger."""
        yield CSVLogger(folder, name="curves", version="")


@dataclass(frozen=True)
class Tensorboard:
    """Curves for TensorBoard in the run folder."""

    @contextmanager
    def open(self, folder: Path, name: str, config: Mapping[str, Any]) -> Iterator[LightningLogger]:
        """Yield Lightning's TensorBoard logger.

        Raises:
            UserError: TensorBoard is not installed.
        """
        try:
            logger = TensorBoardLogger(folder, name="curves", version="")
        except ModuleNotFoundError as error:
            raise UserError(
                "logger=tensorboard needs the package tensorboard", "pip install tensorboard"
            ) from error
        yield logger


@dataclass(frozen=True)
class Wandb:
    """A Weights & Biases run, online when logged in, else offline in the run folder.

    Attributes:
        project: Project's name.
        entity: Team or user; None: the default one.
        group: Shown together; None: the sweep's folder.
        mode: `auto`, `online` or `offline`.
    """

    project: str = "persona-lab"
    entity: str | None = None
    group: str | None = None
    mode: Literal["auto", "online", "offline"] = "auto"

    @contextmanager
    def open(self, folder: Path, name: str, config: Mapping[str, Any]) -> Iterator[LightningLogger]:
        """Yield a logger whose run is finished at the end, so that jobs never merge into one.

        Raises:
            UserError: `mode` is `online` and nobody is logged in.
        """
        import wandb  # takes a second, and most runs have no use for it

        may = self.mode == "online" or (
            self.mode == "auto" and os.environ.get("WANDB_MODE", "online") == "online"
        )
        online = may and wandb.login(prompt=False, verify=False)
        if self.mode == "online" and not online:
            raise UserError(
                "logger.mode is online, and nobody is logged in to Weights & Biases",
                "run `wandb login`, or use logger.mode=auto",
            )
        logger = WandbLogger(
            project=self.project,
            entity=self.entity,
            group=self.group or folder.parent.name,
            name=name,
            save_dir=folder,
            mode="online" if online else "offline",
            config=dict(config),
            settings=wandb.Settings(silent=True, console="off"),
        )
        try:
            yield logger
        finally:
            wandb.finish()

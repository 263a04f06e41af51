"""Where a run computes, how precisely, and how it shows its progress: Lightning's trainer. Pure."""

import logging
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.loggers import Logger
from pydantic import PositiveFloat, PositiveInt

from persona_lab.component import component, neutral
from persona_lab.errors import UserError

_log = logging.getLogger(__name__)

Precision = Literal["32-true", "64-true", "16-true", "16-mixed", "bf16-true", "bf16-mixed"]
"""How a trainer computes: Lightning's names."""


@component
class Trainer:
    """Where and how precisely a run computes.

    Attributes:
        accelerator: `cpu` or `gpu`.
        devices: Processes that train an adapter together under `ddp`, each on a device of its own;
            `auto` is as many as there are GPUs. In single runs only; rating takes one device.
        strategy: `auto`: one process; `ddp`: several, which add up their gradients at every step.
        precision: Lightning's: `32-true`, `bf16-mixed`, ...; `auto` as `computes` says.
        weights: Precision in which the frozen base is held; adapters are always fp32.
        tokens_per_batch: Tokens rated at once; bounds memory, changes no result.
        progress: A bar (True), plain lines (False), or what the terminal can show (None).
        tflops: Sustained arithmetic, 10^12 operations per second: for `task=plan` alone.
    """

    accelerator: Literal["cpu", "gpu"]
    devices: PositiveInt | Literal["auto"] = neutral()
    strategy: Literal["auto", "ddp"] = neutral()
    precision: Precision | Literal["auto"]
    weights: Literal["float32", "bfloat16"]
    tokens_per_batch: PositiveInt = neutral()
    progress: bool | None = neutral()
    tflops: PositiveFloat = neutral()

    def __post_init__(self) -> None:
        if self.strategy == "auto" and self.devices != 1:
            raise UserError(f"trainer.devices is {self.devices}", "use trainer=ddp")

    @property
    def computes(self) -> Precision:
        """The precision that `auto` comes to: bf16 only on CPUs that have matrix units for it."""
        if self.precision != "auto":
            return self.precision
        known = getattr(torch.cpu, "get_capabilities", dict)() if self.accelerator == "cpu" else {}
        return "bf16-mixed" if known.get("amx_bf16") else "32-true"

    @property
    def device(self) -> str:
        """Where the base model is loaded.

        Raises:
            UserError: A GPU is asked for and there is none.
        """
        if self.accelerator == "gpu" and not torch.cuda.is_available():
            raise UserError("trainer=gpu, and torch sees no GPU", "use trainer=cpu")
        return "cuda" if self.accelerator == "gpu" else "cpu"

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the frozen base."""
        return getattr(torch, self.weights)

    @property
    def n_devices(self) -> int:
        """Processes that train an adapter together.

        Raises:
            UserError: There are fewer GPUs.
        """
        present = torch.cuda.device_count() if self.accelerator == "gpu" else 1
        if self.devices == "auto":
            return max(1, present)
        if self.accelerator == "gpu" and self.devices > max(1, present):
            raise UserError(
                f"trainer.devices is {self.devices}, and torch sees {present} GPUs",
                "use trainer.devices=auto",
            )
        return self.devices

    def lightning(
        self, folder: Path, logger: Logger | None, doing: str, epochs: int = 1
    ) -> L.Trainer:
        """Lightning's trainer for one adapter's training or one evaluation.

        Lines of progress say what it is `doing`, as "training persona_0".
        """
        bar = sys.stderr.isatty() if self.progress is None else self.progress
        return L.Trainer(
            accelerator=self.accelerator,
            devices=1,
            precision=self.computes,
            logger=logger or False,
            default_root_dir=folder,
            max_epochs=epochs,
            reload_dataloaders_every_n_epochs=1,
            log_every_n_steps=1,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=bar,
            callbacks=[RichProgressBar() if bar else Lines(doing)],
        )


class Lines(Callback):
    """Progress as a line every half minute, for terminals and files without a bar.

    Reads `n_rows` and `n_done` of the module that computes.
    """

    def __init__(self, doing: str) -> None:
        self.doing = doing
        self.started = self.last = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self.started = self.last = time.monotonic()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any, **__: Any) -> None:
        """Say how far it is, if it is time."""
        now = time.monotonic()
        if now - self.last < 30:
            return
        self.last = now
        done, everything = pl_module.n_done, pl_module.n_rows
        rate = done / (now - self.started)
        _log.info(
            "%s: %d of %d rows, %.1f rows/s, %.0f s left",
            *(self.doing, done, everything, rate, (everything - done) / rate),
        )

    on_predict_start, on_predict_batch_end = on_train_start, on_train_batch_end


@contextmanager
def quietly() -> Iterator[None]:
    """Without what Lightning says of devices and tips, and its warnings that nobody can follow."""
    names = ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero")
    levels = {logger: logger.level for logger in map(logging.getLogger, names)}
    with warnings.catch_warnings():
        # A batch is a list of indices: there is nothing for workers to load.
        warnings.filterwarnings("ignore", ".*does not have many workers", PossibleUserWarning)
        # One device per job: where Slurm is installed, nothing here has to start through it.
        warnings.filterwarnings("ignore", "The `srun` command is available", PossibleUserWarning)
        # Lightning asks torch for a class by its former use.
        warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)
        try:
            for logger in levels:
                logger.setLevel(logging.WARNING)
            yield
        finally:
            for logger, level in levels.items():
                logger.setLevel(level)

"""Examples -> a trained adapter, or responses: the Lightning side of the flow.

`UserAgentModule` trains and evaluates on the shared-prefix engine; `fit_adapter` (through
`fit_on_devices`, where there are several) and `rate_examples` drive it.
Reads and writes nothing but what the logger and Lightning's checkpoints write.
"""

import ctypes
import logging
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, Self

import lightning as L
import pandas as pd
import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger
from peft import PeftConfig
from pydantic import PositiveFloat, PositiveInt
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from persona_lab.errors import UserError
from persona_lab.model.adapters import TrainedAdapter, describe_size, lend, weights_of
from persona_lab.model.decode import Decode, Response, head, respond
from persona_lab.model.engine import Group, Tree, pack, run, trees
from persona_lab.model.ranks import add_up, own_share, rank, spread
from persona_lab.model.train import Answered, Train, answered, by_prefix
from persona_lab.prompting import Codec, Example

_log = logging.getLogger(__name__)

Precision = Literal["32-true", "64-true", "16-true", "16-mixed", "bf16-true", "bf16-mixed"]
"""How a trainer computes: Lightning's names."""


@dataclass(frozen=True)
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

    accelerator: Literal["cpu", "gpu"] = "cpu"
    devices: PositiveInt | Literal["auto"] = field(default=1, metadata={"key": False})
    strategy: Literal["auto", "ddp"] = field(default="auto", metadata={"key": False})
    precision: Precision | Literal["auto"] = "32-true"
    weights: Literal["float32", "bfloat16"] = "float32"
    tokens_per_batch: PositiveInt = field(default=4096, metadata={"key": False})
    progress: bool | None = field(default=None, metadata={"key": False})
    tflops: PositiveFloat = field(default=0.05, metadata={"key": False})

    @property
    def computes(self) -> Precision:
        """The precision that `auto` comes to: bf16 only on CPUs that have matrix units for it."""
        if self.precision != "auto":
            return self.precision
        known = getattr(torch.cpu, "get_capabilities", dict)()
        has_units = self.accelerator == "cpu" and known.get("amx_bf16", False)
        return "bf16-mixed" if has_units else "32-true"

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
        if self.strategy == "auto":
            return 1
        there = torch.cuda.device_count() if self.accelerator == "gpu" else 1
        if self.devices == "auto":
            return max(1, there)
        if self.accelerator == "gpu" and self.devices > there:
            raise UserError(
                f"trainer.devices is {self.devices}, and torch sees {there} GPUs",
                "use trainer.devices=auto",
            )
        return self.devices

    def lightning(
        self, folder: Path, logger: Logger | None, doing: str, **options: Any
    ) -> L.Trainer:
        """Lightning's trainer for one adapter's training or one evaluation."""
        bar = sys.stderr.isatty() if self.progress is None else self.progress
        with _quietly():
            return L.Trainer(
                accelerator=self.accelerator,
                devices=1,
                precision=self.computes,
                logger=logger or False,
                default_root_dir=folder,
                enable_checkpointing=False,
                enable_model_summary=False,
                enable_progress_bar=bar,
                callbacks=[RichProgressBar() if bar else Lines(doing)],
                **options,
            )


class Lines(Callback):
    """Progress as a line every half minute, for terminals and files without a bar."""

    def __init__(self, doing: str, every: float = 30.0) -> None:
        self.doing, self.every = doing, every
        self.started = self.last = 0.0
        self.rows = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self.started = self.last = time.monotonic()

    on_predict_start = on_train_start

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count a step's rows."""
        assert isinstance(pl_module, UserAgentModule)
        self._tell(len(batch), pl_module.n_train_rows)

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count a batch's rows."""
        assert isinstance(pl_module, UserAgentModule)
        self._tell(sum(len(each.rows) for each in batch), len(pl_module.examples))

    def _tell(self, rows: int, total: int) -> None:
        self.rows += rows
        now = time.monotonic()
        if now - self.last < self.every:
            return
        self.last = now
        rate = self.rows / (now - self.started)
        _log.info(
            "%s: %d of %d rows, %.1f rows/s, %.0f s left",
            *(self.doing, self.rows, total, rate, (total - self.rows) / rate),
        )


class UserAgentModule(L.LightningModule):
    """A base model with an adapter attached: learns to answer with the user's rating, and answers.

    Attributes:
        examples: The rows to learn from, or to rate.
        losses: Mean loss of every optimiser step so far.
        responses: What was answered so far, by index in `examples`.
        unique_tokens: Tokens computed in training so far.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        codec: Codec,
        examples: Sequence[Example],
        recipe: Train | Decode,
        seed: int,
        name: str = "",
        tokens_per_batch: int = 4096,
    ) -> None:
        super().__init__()
        self.model = model
        self.codec, self.examples, self.recipe, self.seed = codec, examples, recipe, seed
        self.tokens_per_batch = tokens_per_batch
        self.adapter = name or "the adapter"
        self.metric = f"{name}/loss" if name else "loss"
        # A step is gathered from micro-batches, each of its own backward pass.
        self.automatic_optimization = False
        self.losses: list[float] = []
        self.responses: dict[int, Response] = {}
        self.unique_tokens = 0

    def cpu(self) -> Self:
        """Stay where the base is: Lightning would take it off the GPU after every adapter."""
        return self

    @property
    def training_recipe(self) -> Train:
        """The recipe of a module that trains."""
        assert isinstance(self.recipe, Train)
        return self.recipe

    @property
    def n_train_rows(self) -> int:
        """Rows of all epochs."""
        return len(self.examples) * self.training_recipe.epochs

    def train_dataloader(self) -> DataLoader:
        """The steps of the current epoch: lists of indices of examples."""
        steps = self.training_recipe.steps(self.examples, self.seed, self.current_epoch)
        return DataLoader(steps, batch_size=None, collate_fn=_as_is)  # pyright: ignore[reportArgumentType]

    def configure_optimizers(self) -> Any:
        """AdamW over the adapter's parameters, with its schedule."""
        recipe = self.training_recipe
        n_steps = recipe.epochs * len(recipe.steps(self.examples, self.seed, 0))
        trainable = [p for p in self.model.parameters() if p.requires_grad]
        optimiser, schedule = recipe.optimiser(trainable, n_steps)
        return [optimiser], [schedule]

    def training_step(self, batch: list[int]) -> None:
        """One optimiser step: mean cross-entropy over the answers' tokens of the batch.

        Raises:
            UserError: The loss is not finite; nothing is learned from it.
        """
        rows = answered([self.examples[i] for i in batch], self.codec)
        n_targets = sum(map(len, rows.answers))
        optimiser: Any = self.optimizers()
        optimiser.zero_grad()
        groups = own_share(rows.groups)
        total = accumulate(
            self.model,
            groups,
            rows,
            self.training_recipe.tokens_per_microbatch,
            lambda loss: self.manual_backward(loss / n_targets),
        )
        total, unique_tokens = total / n_targets, sum(each.n_tokens for each in groups)
        trained = (p for p in self.model.parameters() if p.requires_grad)
        total, unique_tokens = add_up(trained, total, unique_tokens)
        self.unique_tokens += int(unique_tokens)
        if not math.isfinite(total):
            raise _diverged(self.adapter, f"the loss of step {len(self.losses) + 1} is {total}")
        optimiser.step()
        schedule: Any = self.lr_schedulers()
        schedule.step()
        self.losses.append(total)
        self.log(self.metric, total, batch_size=len(batch))

    def predict_dataloader(self) -> DataLoader:
        """Batches of groups of rows, users in order."""
        groups = by_prefix([e.ids for e in self.examples], [e.user_id for e in self.examples])
        batches = list(pack(list(groups), self.tokens_per_batch))
        return DataLoader(batches, batch_size=None, collate_fn=_as_is)  # pyright: ignore[reportArgumentType]

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Leave indices and groups as they are: a `Tree` is made on the model's device."""
        return batch

    def predict_step(self, batch: list[Group]) -> int:
        """Answer a batch of groups into `responses`; the number of its rows."""
        assert isinstance(self.recipe, Decode)
        given = (self.model, self.codec, self.recipe, batch, self.examples, self.seed)
        answers = respond(*given, self.tokens_per_batch)
        self.responses |= answers
        return len(answers)


def fit_adapter(
    base: PreTrainedModel,
    codec: Codec,
    examples: Sequence[Example],
    recipe: Train,
    config: PeftConfig,
    trainer: Trainer,
    *,
    folder: Path,
    logger: Logger | None,
    seed: int,
    name: str,
) -> TrainedAdapter:
    """Train a fresh adapter on examples; the base is unchanged afterwards.

    Args:
        base: Shared frozen base model.
        codec: Its way of reading and answering.
        examples: Training rows.
        recipe: How to train.
        config: PEFT's configuration.
        trainer: Where to train.
        folder: For what Lightning may write.
        logger: Of the loss, as `<name>/loss`.
        seed: Of the initial weights, the dropout and the order of the rows.
        name: The adapter's name.

    Raises:
        UserError: Its training diverged.
    """
    with lend(base, config, seed) as lent:
        _log.info("%s: %s", name, describe_size(lent))
        lent.train()
        if rank():
            # Adapters begin alike in all processes; their dropout must not be alike.
            torch.manual_seed(seed + rank())
        module = UserAgentModule(base, codec, examples, recipe, seed, name)
        lightning = trainer.lightning(
            folder,
            logger,
            f"training {name}",
            max_epochs=recipe.epochs,
            reload_dataloaders_every_n_epochs=1,
            log_every_n_steps=1,
        )
        with _quietly():
            lightning.fit(module)
        weights = weights_of(lent)
        # No loss has seen the last step's weights.
        if not all(torch.isfinite(tensor).all() for tensor in weights.values()):
            step = f"step {len(module.losses)}, whose loss was {module.losses[-1]:.4g}"
            raise _diverged(name, f"weights are not finite after {step}")
        last = module.losses[-len(module.losses) // recipe.epochs :]
        summary = {
            "n_rows": len(examples),
            "n_steps": len(module.losses),
            "loss": sum(last) / len(last),
            "unique_tokens": module.unique_tokens,
        }
        return TrainedAdapter(config, weights, summary)


def _diverged(name: str, what: str) -> UserError:
    return UserError(
        f"{name} diverged: {what}", "lower train.lr, or take trainer.precision=32-true"
    )


def fit_on_devices(
    load: Callable[[], PreTrainedModel],
    codec: Codec,
    examples: Sequence[Example],
    recipe: Train,
    config: PeftConfig,
    trainer: Trainer,
    *,
    folder: Path,
    logger: Logger | None,
    **options: Any,
) -> TrainedAdapter:
    """`fit_adapter` here or, on several devices, in a process for each.

    Without dropout the adapter is that of one process, up to the order in which gradients are
    added. The caller alone touches the store and the logger.

    Args:
        load: Gives the base, in the process that calls it; picklable.
        codec: As in `fit_adapter`, and so the others.
        examples: Training rows.
        recipe: How to train.
        config: PEFT's configuration.
        trainer: Says on how many devices.
        folder: As in `fit_adapter`.
        logger: Gets the losses of several devices when they are done.
        options: `seed` and `name`.
    """
    if trainer.n_devices == 1:
        base = load()
        fixed: dict[str, Any] = {"folder": folder, "logger": logger, **options}
        adapter = fit_adapter(base, codec, examples, recipe, config, trainer, **fixed)
        _trim_heap()
        return adapter
    with TemporaryDirectory(dir=folder, prefix=".ranks-") as place:
        given = (load, codec, examples, recipe, config, trainer)
        work = partial(_fit_as_rank, *given, folder=Path(place), **options)
        spread(trainer.n_devices, trainer.accelerator, Path(place), work)
        if logger is not None:
            metric = f"{options['name']}/loss"
            for step, loss in enumerate(pd.read_csv(Path(place, "metrics.csv"))[metric]):
                logger.log_metrics({metric: float(loss)}, step)
        return TrainedAdapter.load(Path(place, "adapter"))


def _trim_heap() -> None:
    """Give freed memory back to the system: glibc keeps gigabytes of what training freed."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def _fit_as_rank(
    load: Callable[[], PreTrainedModel],
    codec: Codec,
    examples: Sequence[Example],
    recipe: Train,
    config: PeftConfig,
    trainer: Trainer,
    *,
    folder: Path,
    **options: Any,
) -> None:
    """One process's part of `fit_on_devices`; the first one tells of progress and saves."""
    first = rank() == 0
    if first:
        logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
        logging.getLogger("persona_lab").setLevel(logging.INFO)
    curve = CSVLogger(folder, name="", version="") if first else None
    mine = replace(trainer, progress=trainer.progress if first else False)
    settings: dict[str, Any] = {"folder": folder, "logger": curve, **options}
    adapter = fit_adapter(load(), codec, examples, recipe, config, mine, **settings)
    if first:
        (folder / "adapter").mkdir()
        adapter.save(folder / "adapter")


def rate_examples(
    model: PreTrainedModel,
    codec: Codec,
    examples: Sequence[Example],
    decode: Decode,
    trainer: Trainer,
    *,
    folder: Path,
    seed: int,
    name: str,
) -> list[Response]:
    """Answer examples, in their order, by a model with its adapter attached (or by the base)."""
    module = UserAgentModule(
        model, codec, examples, decode, seed, tokens_per_batch=trainer.tokens_per_batch
    )
    lightning = trainer.lightning(folder, None, f"rating by {name}")
    with _quietly():
        lightning.predict(module, return_predictions=False)
    return [module.responses[i] for i in range(len(examples))]


def accumulate(
    model: PreTrainedModel,
    groups: Sequence[Group],
    rows: Answered,
    budget: int,
    backward: Callable[[torch.Tensor], None],
) -> float:
    """Add up the gradients of a step's rows, no more than `budget` tokens at once.

    Args:
        model: With what is trained attached.
        groups: The rows of the step that are this process's.
        rows: All rows of the step, with their answers.
        budget: Tokens; a single row may have more.
        backward: Takes the loss of a part.

    Returns:
        The sum of the answers' cross-entropies.
    """
    total = 0.0
    for tree in trees(model, groups, budget):
        loss = answer_loss(model, tree, rows)
        backward(loss)
        total += loss.item()
    return total


def answer_loss(model: PreTrainedModel, tree: Tree, rows: Answered) -> torch.Tensor:
    """Sum of the cross-entropies of the answers' tokens; the head is applied there only."""
    answers = torch.tensor([rows.answers[row] for row in tree.order], device=model.device)
    offsets = torch.arange(answers.shape[1], device=model.device) - (answers.shape[1] - 1)
    at = (tree.ends[:, None] + offsets).flatten() - tree.n_before
    logits = head(model, run(model, tree)[at])
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return cross_entropy(logits, answers.flatten(), reduction="sum")


@contextmanager
def _quietly() -> Iterator[None]:
    """Without Lightning's warnings that nobody can follow."""
    with warnings.catch_warnings():
        # A batch is a list of indices: there is nothing for workers to load.
        warnings.filterwarnings("ignore", ".*does not have many workers", PossibleUserWarning)
        # One device per job: where Slurm is installed, nothing here has to start through it.
        warnings.filterwarnings("ignore", "The `srun` command is available", PossibleUserWarning)
        # Lightning asks torch for a class by its former use.
        warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)
        yield


def _as_is(batch: Any) -> Any:
    return batch

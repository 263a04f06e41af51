"""Examples and a base model with an adapter -> what it learns, or what it answers, by Lightning.

On one device or several. Writes what the logger writes, and a temporary folder where several
processes train.
"""

import ctypes
import logging
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import lightning as L
import pandas as pd
import torch
from lightning.pytorch.loggers import CSVLogger, Logger
from peft import PeftConfig
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from persona_lab.errors import UserError
from persona_lab.model.adapters import TrainedAdapter, describe_size, lend, weights_of
from persona_lab.model.decode import Decode, Response, head, respond
from persona_lab.model.engine import Group, Tree, pack, run, trees
from persona_lab.model.loss import Loss
from persona_lab.model.ranks import add_up, own_share, rank, spread
from persona_lab.model.train import Answered, Train, answered, by_prefix
from persona_lab.model.trainer import Trainer, quietly
from persona_lab.prompting import Codec, Example

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fit:
    """The training of one adapter, which begins with the weights of `start` or with fresh ones.

    The seed is that of fresh weights, the dropout and the order of the rows.
    """

    name: str
    examples: Sequence[Example]
    recipe: Train
    config: PeftConfig
    seed: int
    start: TrainedAdapter | None = None


@dataclass(frozen=True)
class Rating:
    """The answering of rows, by an adapter or the base of this name; the seed is of its draws."""

    name: str
    examples: Sequence[Example]
    decode: Decode
    seed: int


class UserAgentModule(L.LightningModule):
    """A base model with an adapter attached: learns to answer with the user's rating, and answers.

    Attributes:
        work: The rows to learn from, or to rate, and how.
        n_rows: Rows of all epochs.
        n_done: Rows that were learned from or rated so far.
        losses: Mean loss of every optimiser step so far.
        responses: What was answered so far, by index in the examples.
        unique_tokens: Tokens computed in training so far.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        codec: Codec,
        work: Fit | Rating,
        tokens_per_batch: int = 4096,
    ) -> None:
        super().__init__()
        self.model, self.codec, self.work = model, codec, work
        # A step is gathered from micro-batches, each of its own backward pass.
        self.automatic_optimization = False
        self.n_rows = len(work.examples) * (work.recipe.epochs if isinstance(work, Fit) else 1)
        self.n_done = self.unique_tokens = 0
        self.losses: list[float] = []
        self.responses: dict[int, Response] = {}
        self.tokens_per_batch = tokens_per_batch
        self._batches: list[list[Group]] = []

    def cpu(self) -> Self:
        """Stay where the base is: Lightning would take it off the GPU after every adapter."""
        return self

    @property
    def fit(self) -> Fit:
        """The work of a module that trains."""
        assert isinstance(self.work, Fit)
        return self.work

    @property
    def trained(self) -> list[torch.nn.Parameter]:
        """The adapter's parameters."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def train_dataloader(self) -> DataLoader:
        """The steps of the current epoch: lists of indices of examples."""
        steps = self.fit.recipe.steps(self.fit.examples, self.fit.seed, self.current_epoch)
        return DataLoader(steps, batch_size=None)  # pyright: ignore[reportArgumentType]

    def configure_optimizers(self) -> Any:
        """AdamW over the adapter's parameters, with its schedule."""
        recipe = self.fit.recipe
        n_steps = recipe.epochs * len(recipe.steps(self.fit.examples, self.fit.seed, 0))
        optimiser, schedule = recipe.optimiser(self.trained, n_steps)
        return [optimiser], [schedule]

    def training_step(self, batch: list[int]) -> None:
        """One optimiser step: the mean loss over the rows of the batch.

        Raises:
            UserError: The loss is not finite; nothing is learned from it.
        """
        recipe, n = self.fit.recipe, len(batch)
        rows = answered([self.fit.examples[i] for i in batch], self.codec)
        optimiser: Any = self.optimizers()
        schedule: Any = self.lr_schedulers()
        optimiser.zero_grad()
        groups = own_share(rows.groups)

        def backward(loss: Tensor) -> None:
            self.manual_backward(loss / n)

        budget = recipe.tokens_per_microbatch
        total = accumulate(self.model, groups, rows, recipe.loss, budget, backward)
        n_tokens = sum(one.n_tokens for one in groups)
        mean, n_tokens = add_up(self.trained, total / n, n_tokens)
        if not math.isfinite(mean):
            raise _diverged(self.fit, f"the loss of step {len(self.losses) + 1} is {mean}")
        optimiser.step()
        schedule.step()
        self.losses.append(mean)
        self.unique_tokens += int(n_tokens)
        self.n_done += n
        self.log(f"{self.fit.name}/loss", mean, batch_size=n)

    def predict_dataloader(self) -> DataLoader:
        """Numbers of batches of groups of rows, users in order."""
        examples = self.work.examples
        groups = by_prefix([e.ids for e in examples], [e.user_id for e in examples])
        self._batches = list(pack(list(groups), self.tokens_per_batch))
        return DataLoader(range(len(self._batches)), batch_size=None)  # pyright: ignore[reportArgumentType]

    def predict_step(self, batch: int) -> int:
        """Answer a batch of groups into `responses`; rows answered so far."""
        work = self.work
        assert isinstance(work, Rating)
        rows = (self._batches[batch], work.examples, work.seed, self.tokens_per_batch)
        self.responses |= respond(self.model, self.codec, work.decode, *rows)
        self.n_done = len(self.responses)
        return self.n_done


def _diverged(fit: Fit, what: str) -> UserError:
    mend = "lower train.lr, or take trainer.precision=32-true"
    return UserError(f"{fit.name} diverged: {what}", mend)


def accumulate(
    model: PreTrainedModel,
    groups: Sequence[Group],
    rows: Answered,
    loss: Loss,
    budget: int,
    backward: Callable[[Tensor], None],
) -> float:
    """Add up the gradients of this process's groups of a step's rows; the sum of their losses.

    `backward` takes the loss of a part of at most `budget` tokens; a single row may have more.
    """
    total = 0.0
    for tree in trees(model, groups, budget):
        part = loss_of(model, tree, rows, loss)
        backward(part)
        total += part.item()
    return total


def loss_of(model: PreTrainedModel, tree: Tree, rows: Answered, loss: Loss) -> Tensor:
    """Sum of the losses of a tree's rows; the head is applied at the answers' tokens only."""
    answers = torch.tensor([rows.answers[row] for row in tree.order], device=model.device)
    offsets = torch.arange(answers.shape[1], device=model.device) - (answers.shape[1] - 1)
    at = (tree.ends[:, None] + offsets).flatten() - tree.n_before
    logits = head(model, run(model, tree)[at])
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    value_ids = torch.tensor(rows.value_ids, device=model.device)
    values = torch.tensor(rows.values, device=model.device, dtype=logits.dtype)
    with torch.autocast(model.device.type, enabled=False):
        return loss.total(logits.unflatten(0, answers.shape), answers, value_ids, values)


def fit_adapter(
    base: PreTrainedModel,
    codec: Codec,
    fit: Fit,
    trainer: Trainer,
    folder: Path,
    logger: Logger | None = None,
) -> TrainedAdapter:
    """Train an adapter on a shared frozen base, which is unchanged afterwards.

    Lightning may write into the folder; the logger gets the loss of every step as `<name>/loss`.

    Raises:
        UserError: Its training diverged, or what it starts from is of another kind.
    """
    first = None
    if fit.start is not None:
        if _facts(fit.start.config) != _facts(fit.config):
            raise UserError(
                f"{fit.name} is to go on from an adapter of another kind",
                "give both the same peft and model.lora_targets",
            )
        # The optimiser changes in place what it is given.
        first = {name: tensor.clone() for name, tensor in fit.start.weights.items()}
    with lend(base, fit.config, fit.seed, first) as lent, quietly():
        _log.info("%s: %s", fit.name, describe_size(lent))
        lent.train()
        if rank():
            # Adapters begin alike in all processes; their dropout must not be alike.
            torch.manual_seed(fit.seed + rank())
        module = UserAgentModule(base, codec, fit)
        trainer.lightning(folder, logger, f"training {fit.name}", fit.recipe.epochs).fit(module)
        weights = weights_of(lent)
    # No loss has seen the last step's weights.
    if not all(torch.isfinite(tensor).all() for tensor in weights.values()):
        step = f"step {len(module.losses)}, whose loss was {module.losses[-1]:.4g}"
        raise _diverged(fit, f"weights are not finite after {step}")
    last = module.losses[-len(module.losses) // fit.recipe.epochs :]
    summary = {
        "n_rows": len(fit.examples),
        "n_steps": len(module.losses),
        "loss": sum(last) / len(last),
        "unique_tokens": module.unique_tokens,
    }
    return TrainedAdapter(fit.config, weights, summary)


def _facts(config: PeftConfig) -> dict[str, object]:
    """A configuration without what PEFT notes in it when it is used and stored."""
    notes = {"base_model_name_or_path", "inference_mode", "peft_version"}
    facts = {name: value for name, value in config.to_dict().items() if name not in notes}
    lists = list | set | tuple
    return {name: sorted(v) if isinstance(v, lists) else v for name, v in facts.items()}


def fit_on_devices(
    load: Callable[[], PreTrainedModel],
    codec: Codec,
    fit: Fit,
    trainer: Trainer,
    folder: Path,
    logger: Logger | None = None,
) -> TrainedAdapter:
    """`fit_adapter` here or, on several devices, in a process for each.

    Without dropout the adapter is that of one process, up to the order in which gradients are
    added. The caller alone touches the cache and the logger, which gets the losses of several
    devices when they are done. `load` gives the base in the process that calls it; it is picklable.
    """
    if trainer.n_devices == 1:
        adapter = fit_adapter(load(), codec, fit, trainer, folder, logger)
        # Give freed memory back to the system: glibc keeps gigabytes of what training freed.
        if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
            trim(0)
        return adapter
    with TemporaryDirectory(dir=folder, prefix=".ranks-") as place:
        work = partial(_fit_as_rank, load, codec, fit, trainer, Path(place))
        spread(trainer.n_devices, trainer.accelerator, Path(place), work)
        if logger is not None:
            metric = f"{fit.name}/loss"
            for step, loss in enumerate(pd.read_csv(Path(place, "metrics.csv"))[metric]):
                logger.log_metrics({metric: float(loss)}, step)
        return TrainedAdapter.load(Path(place, "adapter"))


def _fit_as_rank(
    load: Callable[[], PreTrainedModel], codec: Codec, fit: Fit, trainer: Trainer, folder: Path
) -> None:
    """One process's part of `fit_on_devices`; the first one tells of progress and saves."""
    if rank() > 0:
        fit_adapter(load(), codec, fit, replace(trainer, progress=False), folder)
        return
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("persona_lab").setLevel(logging.INFO)
    curve = CSVLogger(folder, name="", version="")
    adapter = fit_adapter(load(), codec, fit, trainer, folder, curve)
    (folder / "adapter").mkdir()
    adapter.save(folder / "adapter")


def rate_examples(
    model: PreTrainedModel, codec: Codec, rating: Rating, trainer: Trainer, folder: Path
) -> list[Response]:
    """Answer examples, in their order, by a model with its adapter attached (or by the base)."""
    module = UserAgentModule(model, codec, rating, trainer.tokens_per_batch)
    with quietly():
        lightning = trainer.lightning(folder, None, f"rating by {rating.name}")
        lightning.predict(module, return_predictions=False)
    return [module.responses[i] for i in range(len(rating.examples))]

"""Examples and a base model with an adapter -> what it learns, or what it answers.

`UserAgentModule` is the Lightning side of the shared-prefix engine; `fit` drives it. Pure, but for
what Lightning's logger writes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import lightning as L
import torch
from peft import PeftConfig
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from persona_lab.errors import UserError
from persona_lab.model.adapters import TrainedAdapter
from persona_lab.model.decode import Decode, Response, head, respond
from persona_lab.model.engine import Group, Tree, pack, run, trees
from persona_lab.model.loss import Loss
from persona_lab.model.ranks import add_up, own_share
from persona_lab.model.train import Answered, Train, answered, by_prefix
from persona_lab.prompting import Codec, Example


@dataclass(frozen=True)
class Fit:
    """The training of one adapter.

    Attributes:
        name: The adapter's name.
        examples: Its training rows.
        recipe: How it is trained.
        config: PEFT's configuration.
        seed: Of fresh weights, the dropout and the order of the rows.
        start: The adapter whose weights it begins with; None: fresh ones.
    """

    name: str
    examples: Sequence[Example]
    recipe: Train
    config: PeftConfig
    seed: int
    start: TrainedAdapter | None = None


@dataclass(frozen=True)
class Rating:
    """The answering of rows.

    Attributes:
        name: Who answers: the adapter's name, or that of the base.
        examples: The rows.
        decode: How they are answered.
        seed: Of the rows' generators.
    """

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
        self.n_done = 0
        self.losses: list[float] = []
        self.responses: dict[int, Response] = {}
        self.unique_tokens = 0
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

    def train_dataloader(self) -> DataLoader:
        """The steps of the current epoch: lists of indices of examples."""
        steps = self.fit.recipe.steps(self.fit.examples, self.fit.seed, self.current_epoch)
        return DataLoader(steps, batch_size=None)  # pyright: ignore[reportArgumentType]

    def configure_optimizers(self) -> Any:
        """AdamW over the adapter's parameters, with its schedule."""
        recipe = self.fit.recipe
        n_steps = recipe.epochs * len(recipe.steps(self.fit.examples, self.fit.seed, 0))
        trainable = [p for p in self.model.parameters() if p.requires_grad]
        optimiser, schedule = recipe.optimiser(trainable, n_steps)
        return [optimiser], [schedule]

    def training_step(self, batch: list[int]) -> None:
        """One optimiser step: the mean loss over the rows of the batch.

        Raises:
            UserError: The loss is not finite; nothing is learned from it.
        """
        fit = self.fit
        rows = answered([fit.examples[i] for i in batch], self.codec)
        optimiser: Any = self.optimizers()
        optimiser.zero_grad()
        groups = own_share(rows.groups)
        total = accumulate(
            self.model,
            groups,
            rows,
            fit.recipe.loss,
            fit.recipe.tokens_per_microbatch,
            lambda loss: self.manual_backward(loss / len(batch)),
        )
        mean, unique_tokens = total / len(batch), sum(one.n_tokens for one in groups)
        trained = (p for p in self.model.parameters() if p.requires_grad)
        mean, unique_tokens = add_up(trained, mean, unique_tokens)
        if not math.isfinite(mean):
            raise diverged(fit.name, f"the loss of step {len(self.losses) + 1} is {mean}")
        optimiser.step()
        schedule: Any = self.lr_schedulers()
        schedule.step()
        self.losses.append(mean)
        self.unique_tokens += int(unique_tokens)
        self.n_done += len(batch)
        self.log(f"{fit.name}/loss", mean, batch_size=len(batch))

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
        self.responses |= respond(
            self.model,
            self.codec,
            work.decode,
            self._batches[batch],
            work.examples,
            work.seed,
            self.tokens_per_batch,
        )
        self.n_done = len(self.responses)
        return self.n_done


def diverged(name: str, what: str) -> UserError:
    """The error of an adapter whose training cannot go on."""
    return UserError(
        f"{name} diverged: {what}", "lower train.lr, or take trainer.precision=32-true"
    )


def accumulate(
    model: PreTrainedModel,
    groups: Sequence[Group],
    rows: Answered,
    loss: Loss,
    budget: int,
    backward: Callable[[Tensor], None],
) -> float:
    """Add up the gradients of a step's rows, no more than `budget` tokens at once.

    Args:
        model: With what is trained attached.
        groups: The rows of the step that are this process's.
        rows: All rows of the step, with their answers.
        loss: What is made small.
        budget: Tokens; a single row may have more.
        backward: Takes the loss of a part.

    Returns:
        The sum of the rows' losses.
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
    with torch.autocast(model.device.type, enabled=False):
        return loss.total(
            logits.unflatten(0, answers.shape),
            answers,
            torch.tensor(rows.value_ids, device=model.device),
            torch.tensor(rows.values, device=model.device, dtype=logits.dtype),
        )

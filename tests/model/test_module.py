"""What a training step and a rating hold at once is bounded by the token budget, not by rows."""

import weakref
from typing import Any

import pytest
import torch
from configured import configured
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from persona_lab.model import AnswerLoss, Decode, Rating, UserAgentModule
from persona_lab.model.decode import respond
from persona_lab.model.module import accumulate
from persona_lab.model.train import answered, by_prefix
from persona_lab.prompting import Codec, Example

PAPER: Decode = configured("decode=paper")
BUDGET = 400
PREFIX = 60


class Peak(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive, and the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.most = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage())
        return out

    def _note(self, storage: torch.UntypedStorage) -> None:
        at = storage._cdata
        if at in self._seen:
            return
        self._seen.add(at)
        self.bytes += storage.nbytes()
        self.most = max(self.most, self.bytes)
        weakref.finalize(storage, self._forget, at, storage.nbytes())

    def _forget(self, at: int, size: int) -> None:
        self._seen.discard(at)
        self.bytes -= size


def rows_of_one_user(n: int) -> list[Example]:
    torch.manual_seed(0)
    prefix = torch.randint(4, 60, (PREFIX,)).tolist()
    return [
        Example(1, row, 1 + row % 5, [*prefix, *torch.randint(4, 60, (12,)).tolist()], {})
        for row in range(n)
    ]


@pytest.fixture
def trainable(llama: PreTrainedModel) -> PreTrainedModel:
    """Only projections learn, as with an adapter; their gradients are there from the start."""
    for name, parameter in llama.named_parameters():
        parameter.requires_grad_("q_proj" in name)
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    return llama


def peak_of_training(model: PreTrainedModel, codec: Codec, n_rows: int, budget: int) -> int:
    rows = answered(rows_of_one_user(n_rows), codec)
    with Peak() as peak:
        accumulate(model, rows.groups, rows, AnswerLoss(), budget, lambda loss: loss.backward())
    return peak.most


def peak_of_rating(model: PreTrainedModel, codec: Codec, n_rows: int, budget: int) -> int:
    examples = rows_of_one_user(n_rows)
    groups = list(by_prefix([e.ids for e in examples], [e.user_id for e in examples]))
    with Peak() as peak:
        respond(model, codec, PAPER, groups, examples, 0, budget)
    return peak.most


@pytest.mark.parametrize("peak", [peak_of_training, peak_of_rating])
def test_more_rows_of_a_user_take_no_more_memory(
    trainable: PreTrainedModel, codec: Codec, peak: Any
) -> None:
    few, many = (peak(trainable, codec, n, BUDGET) for n in (60, 600))
    assert 0 < many <= 1.1 * few


@pytest.mark.parametrize("peak", [peak_of_training, peak_of_rating])
def test_without_a_budget_they_do(trainable: PreTrainedModel, codec: Codec, peak: Any) -> None:
    few, many = (peak(trainable, codec, n, 10**9) for n in (60, 600))
    assert many > 5 * few


def test_lightning_does_not_move_the_base(confident: PreTrainedModel, codec: Codec) -> None:
    # What is not on the CPU must not be taken there when an adapter is done.
    module = UserAgentModule(confident.to("meta"), codec, Rating("toy", [], PAPER, 0))
    assert module.cpu() is module
    assert {parameter.device.type for parameter in confident.parameters()} == {"meta"}

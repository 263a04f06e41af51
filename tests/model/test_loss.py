"""A loss by hand, and one of one's own in the place of the paper's."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from configured import configured
from torch import Tensor
from transformers import PreTrainedModel

from persona_lab.component import component, describe
from persona_lab.model import AnswerLoss, Fit, Loss, Train, fit_adapter
from persona_lab.model.engine import Tree
from persona_lab.model.module import loss_of
from persona_lab.model.train import answered
from persona_lab.prompting import Codec, Example


def test_an_answers_loss_is_the_mean_over_its_tokens() -> None:
    torch.manual_seed(0)
    logits, answers = torch.randn(3, 2, 7), torch.randint(0, 7, (3, 2))
    of_token = [
        -float(logits[row, n].log_softmax(-1)[answers[row, n]]) for row in range(3) for n in (0, 1)
    ]
    none = torch.empty(0)
    assert float(AnswerLoss().total(logits, answers, none, none)) == pytest.approx(
        sum(of_token) / 2
    )


@component
class SquaredError:
    """The squared error of the expected rating."""

    def total(self, logits: Tensor, answers: Tensor, value_ids: Tensor, values: Tensor) -> Tensor:
        assert logits.dtype == values.dtype == torch.float32
        assert not torch.is_autocast_enabled("cpu")
        probabilities = logits[:, 0, value_ids].softmax(-1)
        truth = values[(answers[:, :1] == value_ids).int().argmax(-1)]
        return ((probabilities * values).sum(-1) - truth).square().sum()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_loss_of_ones_own_is_made_small(
    confident: PreTrainedModel,
    codec: Codec,
    make_examples: Callable[..., list[Example]],
    tmp_path: Path,
    precision: str,
) -> None:
    assert isinstance(SquaredError(), Loss)
    recipe: Train = configured(
        "train=default", loss=SquaredError(), lr=0.02, epochs=6, batch_size=6, warmup=0.0
    )
    # It is a part of the adapter's key.
    assert describe(recipe) != describe(replace(recipe, loss=AnswerLoss()))
    config = configured("peft=lora", r=4, alpha=8, dropout=0.0).config(["q_proj", "k_proj"])
    examples = make_examples()
    rows = answered(examples, codec)
    with torch.inference_mode():
        before = float(loss_of(confident, Tree(rows.groups), rows, recipe.loss)) / len(examples)
    trainer = configured("trainer=cpu", precision=precision)
    work = Fit("toy", examples, recipe, config, 0)
    adapter = fit_adapter(confident, codec, work, trainer, tmp_path)
    assert adapter.summary["loss"] < 0.7 * before

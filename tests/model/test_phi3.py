"""Phi-3's fused projection, split."""

import copy
from collections.abc import Callable

import pytest
import torch
from configured import configured
from torch import Tensor
from transformers import PreTrainedModel

from persona_lab.model import lend
from persona_lab.model.engine import Tree, group, run
from persona_lab.model.phi3 import SplitProjection, split_projections


@pytest.fixture
def fused(build_model: Callable[[str], PreTrainedModel]) -> PreTrainedModel:
    return build_model("phi3")


def hidden(model: PreTrainedModel) -> Tensor:
    rows = [[5, 6, 7, row, 9] for row in range(4)]
    return run(model, Tree([group(rows, range(4))]))


def split_of(fused: PreTrainedModel) -> PreTrainedModel:
    split = copy.deepcopy(fused)
    split_projections(split)
    return split


def test_a_split_model_gives_what_the_fused_one_gave(fused: PreTrainedModel) -> None:
    fused.double()
    split = split_of(fused)
    with torch.inference_mode():
        assert torch.equal(hidden(split), hidden(fused))
    sizes = [tuple(p.shape) for n, p in split.named_parameters() if "layers.0.self_attn.qkv" in n]
    # 4 query heads and 2 key/value heads of 8 dimensions on a width of 32.
    assert sizes == [(32, 32), (16, 32), (16, 32)]
    assert not any("qkv_proj.weight" in name for name, _ in split.named_parameters())
    count = sum(p.numel() for p in fused.parameters())
    assert sum(p.numel() for p in split.parameters()) == count


def test_the_parts_are_copies_that_keep_the_dtype(fused: PreTrainedModel) -> None:
    fused.to(torch.bfloat16).requires_grad_(False)
    split = split_of(fused)
    assert {p.dtype for p in split.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in split.parameters())


def test_an_adapter_on_query_and_key_leaves_the_value_as_it_is(fused: PreTrainedModel) -> None:
    split = split_of(fused).requires_grad_(False)
    projection = split.get_decoder().layers[0].self_attn.qkv_proj  # pyright: ignore
    assert isinstance(projection, SplitProjection)
    inputs = torch.randn(3, 32)
    config = configured("peft=lora", r=4, dropout=0.0).config(["q_proj", "k_proj"])
    before = projection(inputs).split((32, 16, 16), -1)
    with lend(split, config, seed=0) as lent:
        trainable = [p for p in lent.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(trainable, lr=0.1)
        for _ in range(2):
            hidden(split).pow(3).sum().backward()
            optimiser.step()
        query, key, value = projection(inputs).split((32, 16, 16), -1)
        # Two matrices each for query and key of two layers.
        assert len(trainable) == 8
    assert torch.equal(value, before[2])
    assert not torch.allclose(query, before[0], atol=1e-3)
    assert not torch.allclose(key, before[1], atol=1e-3)


def test_other_architectures_are_left_alone(llama: PreTrainedModel) -> None:
    before = [type(module) for module in llama.modules()]
    split_projections(llama)
    assert [type(module) for module in llama.modules()] == before

"""A base in 4 bits."""

import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from persona_lab.errors import UserError
from persona_lab.model import BaseModel
from persona_lab.model import base as base_module
from persona_lab.model.engine import Tree, group, run
from persona_lab.model.phi3 import SplitProjection
from persona_lab.model.quantise import is_quantised
from persona_lab.sources import Sources


@pytest.fixture(autouse=True)
def _fresh() -> None:
    base_module._load.cache_clear()


@pytest.fixture
def tiny(tiny: BaseModel) -> BaseModel:
    """The tiny model with rows that blocks of 4 bits fit into."""
    return replace(tiny, random={**(tiny.random or {}), "intermediate_size": 64})


def hidden(model: PreTrainedModel) -> Tensor:
    return run(model, Tree([group([[5, 6, 7, 8, 9], [5, 6, 11]], [0, 1])]))


def linears(model: PreTrainedModel) -> dict[str, nn.Linear]:
    return {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}


@pytest.mark.usefixtures("four_bits")
@pytest.mark.parametrize("family", ["llama", "phi3"])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_the_decoders_linear_layers_are_in_four_bits(
    tiny: BaseModel, sources: Sources, family: str, kind: Any
) -> None:
    import bitsandbytes

    base = replace(tiny, random={**(tiny.random or {}), "architecture": family})
    whole = linears(base.load(sources, torch.float32, "cpu"))
    model = base.load(sources, torch.float32, "cpu", kind)
    small = linears(model)
    assert is_quantised(model)
    assert small.keys() == whole.keys()
    for name, layer in small.items():
        if name == "lm_head":
            assert torch.equal(layer.weight, whole[name].weight)
            continue
        assert isinstance(layer, bitsandbytes.nn.Linear4bit)
        # Two weights in a byte; sixteen values within each block, of 32 in rows so short.
        assert layer.weight.numel() == whole[name].weight.numel() / 2
        weight = bitsandbytes.functional.dequantize_4bit(
            layer.weight.data, layer.weight.quant_state
        )
        assert len(weight.flatten()[:32].unique()) <= 16
        # No two neighbours of either type are farther apart than a third of the block's largest.
        largest = whole[name].weight.abs().max()
        assert (weight - whole[name].weight).abs().max() < largest / 5
    if family == "phi3":
        assert isinstance(model.get_decoder().layers[0].self_attn.qkv_proj, SplitProjection)  # pyright: ignore


@pytest.mark.usefixtures("four_bits")
def test_a_base_in_four_bits_passes_gradients_on_also_after_it_has_rated(
    tiny: BaseModel, sources: Sources
) -> None:
    model = tiny.load(sources, torch.float32, "cpu", "nf4")
    with torch.inference_mode():
        before = hidden(model)
    embeddings = model.get_input_embeddings().weight
    embeddings.requires_grad_(True)
    hidden(model).pow(2).sum().backward()
    assert embeddings.grad is not None
    assert embeddings.grad[5].abs().max() > 0
    assert not any(p.requires_grad for n, p in model.named_parameters() if "proj" in n)
    with torch.inference_mode():
        assert torch.equal(hidden(model), before)


@pytest.mark.usefixtures("four_bits")
def test_both_bases_are_kept_apart(tiny: BaseModel, sources: Sources) -> None:
    whole, small = (tiny.load(sources, torch.float32, "cpu", each) for each in (None, "nf4"))
    with torch.inference_mode():
        difference = (hidden(whole) - hidden(small)).abs().max()
    assert 1e-4 < difference < 1
    assert not is_quantised(whole)


def test_without_bitsandbytes_it_says_what_to_install(
    tiny: BaseModel, sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.nn", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[qlora\]'"):
        tiny.load(sources, torch.float32, "cpu", "nf4")


@pytest.mark.usefixtures("four_bits")
def test_layers_whose_rows_end_within_a_block_stay_whole(tiny: BaseModel, sources: Sources) -> None:
    import bitsandbytes

    odd = replace(tiny, random={**(tiny.random or {}), "intermediate_size": 48})
    small = linears(odd.load(sources, torch.float32, "cpu", "nf4"))
    whole = {name for name, m in small.items() if not isinstance(m, bitsandbytes.nn.Linear4bit)}
    assert whole == {"lm_head"} | {f"model.layers.{n}.mlp.down_proj" for n in range(2)}

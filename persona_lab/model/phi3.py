"""Phi-3's fused query, key and value projection <-> three projections of their own. Pure.

transformers fuses the three in `qkv_proj`; LoRA on it would change the value too (decision 17).
What is learned on the three goes back without loss: weights side by side, an adapter as blocks.
"""

import copy
import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig, PeftConfig
from torch import Tensor, nn
from transformers import PreTrainedModel

from persona_lab.errors import UserError

FUSED = "qkv_proj"
_PARTS = ("q_proj", "k_proj", "v_proj")


class SplitProjection(nn.Module):
    """Three linear layers that give what the fused one gave: their outputs side by side."""

    def __init__(self, fused: nn.Linear, sizes: list[int]) -> None:
        super().__init__()
        for name, weight in zip(_PARTS, fused.weight.detach().split(sizes), strict=True):
            layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
            layer.weight = nn.Parameter(weight.clone(), requires_grad=False)
            self.add_module(name, layer)

    def forward(self, hidden: Tensor) -> Tensor:
        """Queries, keys and values of shape (..., sum of the three sizes)."""
        return torch.cat([getattr(self, name)(hidden) for name in _PARTS], -1)


def split_projections(model: PreTrainedModel) -> None:
    """Split every `qkv_proj` of a model in place; does nothing where there is none."""
    for module in list(model.modules()):
        fused = getattr(module, FUSED, None)
        if isinstance(fused, nn.Linear):
            module.qkv_proj = SplitProjection(fused, _part_sizes(model.config))  # pyright: ignore[reportArgumentType]


def _part_sizes(config: Any) -> list[int]:
    """Outputs of query, key and value in a model of this transformers configuration."""
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return [n * head_dim for n in (heads, config.num_key_value_heads, config.num_key_value_heads)]


def fuse_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A split model's weights by the names of the fused one: the inverse of `split_projections`."""
    whole, split = _by_projection(weights)
    for module, parts in split.items():
        whole[f"{module}.weight"] = torch.cat([parts[part]["weight"] for part in _PARTS])
    return whole


def fuse_adapter(
    config: PeftConfig, weights: Mapping[str, Tensor], model: Any
) -> tuple[PeftConfig, dict[str, Tensor]]:
    """An adapter of the split projections as one of the fused projection, with equal outputs.

    Low rank: the n parts' A stand on each other and their B are blocks beside each other, so the
    rank is n r; the scale stays, and a part that was not adapted gets rows of zeros. IA3: the
    parts' factors side by side, and ones. As it came, where nothing was split. `model` is
    transformers' configuration.

    Raises:
        UserError: It has no such form: DoRA has no magnitudes of a part that it does not adapt.
    """
    whole, split = _by_projection(weights)
    fitting: Any = copy.deepcopy(config)
    if not split:
        return fitting, whole
    fitting.target_modules = {*fitting.target_modules} - {*_PARTS} | {FUSED}
    if isinstance(config, LoraConfig):
        n = max(map(len, split.values()))
        # Other projections get the same rank, by zeros: not every reader knows a rank per module.
        for name, tensor in whole.items():
            zeros = [torch.zeros_like(tensor)] * (n - 1)
            whole[name] = torch.cat([tensor, *zeros], dim=0 if ".lora_A." in name else 1)
        fitting.lora_alpha *= math.sqrt(n) if config.use_rslora else n
        fitting.r *= n
    for module, parts in split.items():
        kinds = {kind for tensors in parts.values() for kind in tensors}
        of_parts = list(zip(_PARTS, _part_sizes(model), strict=True))
        if kinds == {"ia3_l"}:
            factors = [parts[p]["ia3_l"] if p in parts else torch.ones(n, 1) for p, n in of_parts]
            whole[f"{module}.ia3_l"] = torch.cat(factors)
        elif kinds == {"lora_A.weight", "lora_B.weight"}:
            stacked = torch.cat([parts[part]["lora_A.weight"] for part in _PARTS if part in parts])
            blocks = [
                parts[part]["lora_B.weight"] if part in parts else stacked.new_zeros(size, 0)
                for part, size in of_parts
            ]
            whole[f"{module}.lora_A.weight"] = stacked
            whole[f"{module}.lora_B.weight"] = torch.block_diag(*blocks)
        else:
            raise UserError(
                f"this adapter has {', '.join(sorted(kinds))} of projections that {FUSED} fuses, "
                "and no form that gives the same there",
                "export it merged: --to fused",
            )
    return fitting, whole


def _by_projection(
    weights: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, dict[str, dict[str, Tensor]]]]:
    """Tensors of other modules; and fused module -> part -> rest of the name -> tensor."""
    whole: dict[str, Tensor] = {}
    split: dict[str, dict[str, dict[str, Tensor]]] = defaultdict(lambda: defaultdict(dict))
    for name, tensor in weights.items():
        before, _, after = name.partition(f".{FUSED}.")
        part, _, rest = after.partition(".")
        if part in _PARTS:
            split[f"{before}.{FUSED}"][part][rest] = tensor
        else:
            whole[name] = tensor
    return whole, split

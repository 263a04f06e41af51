"""Phi-3's fused query, key and value projection <-> three projections of their own.

transformers fuses the three in `qkv_proj`; LoRA on it would change the value too (decision 17).
What is learned on the three goes back to the fused one without loss: weights side by side, and an
adapter as blocks. Pure.
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

    def __init__(self, fused: nn.Linear, sizes: tuple[int, int, int]) -> None:
        super().__init__()
        with torch.no_grad():
            weights = fused.weight.detach().split(sizes)
            self.q_proj, self.k_proj, self.v_proj = (_linear(weight) for weight in weights)

    def forward(self, hidden: Tensor) -> Tensor:
        """Queries, keys and values of shape (..., sum of the three sizes)."""
        return torch.cat([self.q_proj(hidden), self.k_proj(hidden), self.v_proj(hidden)], -1)


def split_projections(model: PreTrainedModel) -> None:
    """Split every `qkv_proj` of a model in place; does nothing where there is none."""
    for module in list(model.modules()):
        fused = getattr(module, FUSED, None)
        if isinstance(fused, nn.Linear):
            module.qkv_proj = SplitProjection(fused, part_sizes(model.config))  # pyright: ignore[reportArgumentType]


def part_sizes(config: Any) -> tuple[int, int, int]:
    """Outputs of query, key and value in a model of this transformers configuration."""
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    n_key = config.num_key_value_heads * head_dim
    return heads * head_dim, n_key, n_key


def fuse_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A split model's weights by the names of the fused one: the inverse of `split_projections`."""
    whole, split = _by_projection(weights)
    fused = {
        f"{module}.weight": torch.cat([parts[part]["weight"] for part in _PARTS])
        for module, parts in split.items()
    }
    return whole | fused


def fuse_adapter(
    config: PeftConfig, weights: Mapping[str, Tensor], model: Any
) -> tuple[PeftConfig, dict[str, Tensor]]:
    """An adapter of the split projections as one of the fused projection, with equal outputs.

    Low rank: the n parts' A stand on each other and their B are blocks beside each other, so the
    rank is n r; the scale stays, and a part that was not adapted gets rows of zeros. IA3: the
    parts' factors side by side, and ones.

    Args:
        config: PEFT's configuration of the adapter.
        weights: Its tensors by PEFT's names.
        model: transformers' configuration of the model.

    Returns:
        Configuration and tensors; as they came, where nothing was split.

    Raises:
        UserError: A kind that has no such form: DoRA has no magnitudes of a part that it does not
            adapt.
    """
    whole, split = _by_projection(weights)
    if not split:
        return copy.deepcopy(config), dict(weights)
    sizes = part_sizes(model)
    n = max(map(len, split.values()))
    fused: dict[str, Tensor] = {}
    for module, parts in split.items():
        kinds = {kind for tensors in parts.values() for kind in tensors}
        if kinds == {"ia3_l"}:
            factors = [parts.get(part, {}).get("ia3_l") for part in _PARTS]
            pairs = zip(factors, sizes, strict=True)
            fused[f"{module}.ia3_l"] = torch.cat(
                [torch.ones(size, 1) if known is None else known for known, size in pairs]
            )
        elif kinds == {"lora_A.weight", "lora_B.weight"}:
            stacked = torch.cat([parts[p]["lora_A.weight"] for p in _PARTS if p in parts])
            blocks = [
                parts[part]["lora_B.weight"] if part in parts else stacked.new_zeros(size, 0)
                for part, size in zip(_PARTS, sizes, strict=True)
            ]
            fused[f"{module}.lora_A.weight"] = stacked
            fused[f"{module}.lora_B.weight"] = torch.block_diag(*blocks)
        else:
            raise UserError(
                f"this adapter has {', '.join(sorted(kinds))} of projections that {FUSED} fuses, "
                "and no form that gives the same there",
                "export it merged: --to fused",
            )
    fitting: Any = copy.deepcopy(config)
    fitting.target_modules = {*fitting.target_modules} - {*_PARTS} | {FUSED}
    if isinstance(config, LoraConfig):
        # Other projections get the same rank, by zeros: not every reader knows a rank per module.
        whole = {name: _padded(name, tensor, n) for name, tensor in whole.items()}
        fitting.lora_alpha *= math.sqrt(n) if config.use_rslora else n
        fitting.r *= n
    return fitting, whole | fused


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


def _padded(name: str, tensor: Tensor, n: int) -> Tensor:
    zeros = torch.zeros_like(tensor)
    return torch.cat([tensor, *[zeros] * (n - 1)], dim=0 if ".lora_A." in name else 1)


def _linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight.clone(), requires_grad=weight.requires_grad)
    return layer

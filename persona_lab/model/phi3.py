"""Phi-3's fused query, key and value projection <-> three projections of their own.

transformers fuses the three in `qkv_proj`; LoRA on it would change the value too (decision 17).
Pure.
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


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
        fused = getattr(module, "qkv_proj", None)
        if isinstance(fused, nn.Linear):
            config = model.config
            head_dim = getattr(config, "head_dim", None) or (
                config.hidden_size // config.num_attention_heads
            )
            n_query = config.num_attention_heads * head_dim
            n_key = config.num_key_value_heads * head_dim
            module.qkv_proj = SplitProjection(fused, (n_query, n_key, n_key))  # pyright: ignore[reportArgumentType]


def _linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight.clone(), requires_grad=weight.requires_grad)
    return layer

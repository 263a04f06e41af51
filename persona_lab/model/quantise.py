"""A base model's linear layers -> the same layers in 4 bits, by bitsandbytes (peft=qlora).

Pure, and bitsandbytes is imported only here and only when it is asked for.
"""

from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from persona_lab.errors import UserError

Quantisation = Literal["nf4", "fp4"]

_SMALLEST_BLOCK = 32  # of weights that share a scale, in bitsandbytes


def quantise(model: PreTrainedModel, kind: Quantisation, device: str) -> None:
    """Hold a decoder's linear layers in 4 bits, in place, each moved to the device by itself.

    The vocabulary head and the norms stay as they are, as do layers whose rows no block fits. Not
    left to transformers' loading, which would fuse Phi-3's projections again and knows no random
    weights.

    Raises:
        UserError: bitsandbytes is not installed.
    """
    try:
        from bitsandbytes.nn import modules
    except ImportError as error:
        raise UserError(
            "a base in 4 bits needs bitsandbytes", "pip install -e '.[qlora]'"
        ) from error

    bits: Any = modules

    def in_four_bits(linear: nn.Linear) -> nn.Module:
        weight = linear.weight.detach()
        layer = bits.Linear4bit(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            compute_dtype=weight.dtype,
            quant_type=kind,
            device=torch.device("meta"),
        )
        layer.weight = bits.Params4bit(
            weight,
            requires_grad=False,
            quant_type=kind,
            blocksize=min(64, _block(linear)),
            module=layer,
        )
        layer.bias = linear.bias
        # Once packed for its fast kernel on some CPUs, a layer would pass no gradient on.
        layer.support_avx512bf16_for_cpu = False
        return layer.to(device)

    decoder: Any = model.get_decoder()
    for parent in list(decoder.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and _block(child) >= _SMALLEST_BLOCK:
                setattr(parent, name, in_four_bits(child))
    # PEFT's sign.
    model.is_loaded_in_4bit = True  # pyright: ignore[reportArgumentType]


def _block(linear: nn.Linear) -> int:
    """The largest power of 2 that a row is a multiple of.

    On CPUs with AVX-512, rows that end within a block would be read back wrong.
    """
    return linear.in_features & -linear.in_features


def is_quantised(model: PreTrainedModel) -> bool:
    """Whether `quantise` was here."""
    return bool(getattr(model, "is_loaded_in_4bit", False))

"""A base model's linear layers -> the same layers in 4 bits, by bitsandbytes (peft=qlora).

Pure, and bitsandbytes is imported only here and only when it is asked for.
"""

from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from persona_lab.errors import UserError

Quantisation = Literal["nf4", "fp4"]


def quantise(model: PreTrainedModel, kind: Quantisation, device: str) -> None:
    """Hold a decoder's linear layers in 4 bits, in place, each moved to the device by itself.

    The vocabulary head and the norms stay as they are. Not left to transformers' loading, which
    would fuse Phi-3's projections again and knows no random weights.

    Raises:
        UserError: bitsandbytes is not installed, or a layer's rows are no multiple of 32.
    """
    try:
        from bitsandbytes.nn import modules
    except ImportError as error:
        raise UserError(
            "a base in 4 bits needs bitsandbytes", "pip install 'persona-lab[qlora]'"
        ) from error

    bits: Any = modules

    def in_four_bits(linear: nn.Linear) -> nn.Module:
        weight = linear.weight.detach()
        # On CPUs with AVX-512, rows that end within a block would come back wrong.
        block = next((size for size in (64, 32) if linear.in_features % size == 0), None)
        if block is None:
            raise UserError(
                f"rows of {linear.in_features} weights cannot be held in 4 bits",
                "use peft=lora: 4 bits take rows of a multiple of 32",
            )
        layer = bits.Linear4bit(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            compute_dtype=weight.dtype,
            quant_type=kind,
            device=torch.device("meta"),
        )
        layer.weight = bits.Params4bit(
            weight, requires_grad=False, quant_type=kind, blocksize=block, module=layer
        )
        layer.bias = linear.bias
        # Once packed for its fast kernel on some CPUs, a layer would pass no gradient on.
        layer.support_avx512bf16_for_cpu = False
        return layer.to(device)

    decoder: Any = model.get_decoder()
    for parent in list(decoder.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                setattr(parent, name, in_four_bits(child))
    # PEFT's sign.
    model.is_loaded_in_4bit = True  # pyright: ignore[reportArgumentType]


def is_quantised(model: PreTrainedModel) -> bool:
    """Whether `quantise` was here."""
    return bool(getattr(model, "is_loaded_in_4bit", False))

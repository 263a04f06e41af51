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
        mend = "pip install -e '.[qlora]'"
        raise UserError("a base in 4 bits needs bitsandbytes", mend) from error
    bits: Any = modules
    decoder: Any = model.get_decoder()
    for parent in list(decoder.modules()):
        for name, linear in list(parent.named_children()):
            if type(linear) is not nn.Linear:
                continue
            # The largest power of 2 that a row is a multiple of: on CPUs with AVX-512, rows that
            # end within a block would be read back wrong.
            block = linear.in_features & -linear.in_features
            if block < _SMALLEST_BLOCK:
                continue
            weight = linear.weight.detach()
            layer = bits.Linear4bit(
                linear.in_features,
                linear.out_features,
                bias=linear.bias is not None,
                compute_dtype=weight.dtype,
                quant_type=kind,
                device=torch.device("meta"),
            )
            options = {"requires_grad": False, "quant_type": kind, "module": layer}
            layer.weight = bits.Params4bit(weight, blocksize=min(64, block), **options)
            layer.bias = linear.bias
            # Once packed for its fast kernel on some CPUs, a layer would pass no gradient on.
            layer.support_avx512bf16_for_cpu = False
            setattr(parent, name, layer.to(device))
    # PEFT's sign.
    model.is_loaded_in_4bit = True  # pyright: ignore[reportArgumentType]


def is_quantised(model: PreTrainedModel) -> bool:
    """Whether `quantise` was here."""
    return bool(getattr(model, "is_loaded_in_4bit", False))

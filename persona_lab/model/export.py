"""Trained adapters -> folders that stock transformers, PEFT and vLLM read, with equal outputs.

Writes into folders that are handed to it; pure otherwise.
"""

from pathlib import Path
from typing import Any

from peft import LoraConfig
from transformers import PreTrainedModel

from persona_lab.errors import UserError
from persona_lab.model.adapters import TrainedAdapter, attach
from persona_lab.model.phi3 import fuse_adapter, fuse_weights

VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as --max-lora-rank (its LoRAConfig)."""


def as_published(adapter: TrainedAdapter, config: Any, base: str | None) -> TrainedAdapter:
    """An adapter of a model as it is built here -> one of the model as it is published.

    `config` is transformers' of the model; `base` its hub id or folder, for the adapter's own.

    Raises:
        UserError: Its kind has no form there (DoRA on Phi-3).
    """
    peft, weights = fuse_adapter(adapter.config, adapter.weights, config)
    peft.base_model_name_or_path = base
    return TrainedAdapter(peft, weights, adapter.summary)


def vllm_rank(adapter: TrainedAdapter) -> int:
    """The --max-lora-rank that an adapter as published needs.

    Raises:
        UserError: vLLM does not take it.
    """
    config = adapter.config
    if not isinstance(config, LoraConfig) or config.use_dora:
        kind = "DoRA" if isinstance(config, LoraConfig) else config.peft_type
        raise UserError(f"vLLM takes no {kind} adapter", "export it merged: --to fused")
    if config.r > VLLM_RANKS[-1]:
        raise UserError(
            f"vLLM takes ranks up to {VLLM_RANKS[-1]}, and on the published model this adapter has "
            f"{config.r}",
            "train with a lower peft.r, or export it merged: --to fused",
        )
    return next(rank for rank in VLLM_RANKS if rank >= config.r)


def save_fused(base: PreTrainedModel, adapter: TrainedAdapter, folder: Path) -> None:
    """Write the whole model with an adapter merged, as published, in the base's precision.

    Raises:
        UserError: The base is in 4 bits.
    """
    names = base.state_dict().keys()
    with attach(base, adapter, merge=True):
        merged = {name.replace(".base_layer.", "."): t for name, t in base.state_dict().items()}
        fused = fuse_weights({name: merged[name] for name in names})
        base.save_pretrained(folder, state_dict=fused)

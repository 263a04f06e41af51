"""A trained adapter, and the shared base model with one attached for as long as needed.

Afterwards the base gives bit-identical outputs to before. Pure but for `TrainedAdapter`'s files.
"""

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from peft import (
    PeftConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from persona_lab.errors import UserError
from persona_lab.model.dropout import quicken
from persona_lab.model.quantise import is_quantised

_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class TrainedAdapter:
    """Weights of one adapter: a standard PEFT folder.

    Attributes:
        config: PEFT's configuration.
        weights: Tensors by PEFT's names.
        summary: `n_rows`, `n_steps`, `loss` (mean of the last epoch), `unique_tokens` computed.
    """

    STAGE: ClassVar[str] = "adapter"
    VERSION: ClassVar[int] = 2

    config: PeftConfig
    weights: Mapping[str, Tensor]
    summary: dict[str, Any]

    def save(self, folder: Path) -> None:
        """Write adapter_config.json and adapter_model.safetensors, the summary in its head."""
        facts = {name: json.dumps(value) for name, value in self.summary.items()}
        tensors = {name: t.detach().cpu().contiguous() for name, t in self.weights.items()}
        self.config.save_pretrained(str(folder))
        save_file(tensors, folder / _WEIGHTS, metadata={"format": "pt", **facts})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a PEFT folder written by `save`."""
        config = PeftConfig.from_pretrained(str(folder))
        return cls(config, load_file(folder / _WEIGHTS), cls.load_summary(folder))

    @staticmethod
    def load_summary(folder: Path) -> dict[str, Any]:
        """Read the summary alone: no tensor is."""
        with safe_open(folder / _WEIGHTS, framework="pt") as stream:
            facts = stream.metadata() or {}
        return {name: json.loads(text) for name, text in facts.items() if name != "format"}


@contextmanager
def lend(
    base: PreTrainedModel,
    config: PeftConfig,
    seed: int,
    weights: Mapping[str, Tensor] | None = None,
) -> Iterator[PeftModel]:
    """Attach an adapter to a shared frozen base model and take it back at the end.

    Weights are tensors by PEFT's names, which may become the adapter's own; without any it gets
    fresh ones. The seed is theirs, and that of torch's generator from here on.
    """
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        # PEFT asks transformers for a property by its former name.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        # Weights that are there need no initial ones.
        lent = get_peft_model(base, config, low_cpu_mem_usage=weights is not None)
    assert isinstance(lent, PeftModel)
    if base.device.type == "cpu":
        quicken(lent)
    try:
        if weights is not None:
            set_peft_model_state_dict(lent, dict(weights), low_cpu_mem_usage=True)
        if weights is not None and torch.finfo(base.dtype).bits < 32:
            # PEFT rounds what it loads so to the base's precision; adapters are fp32.
            for parameter in lent.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.float()
            set_peft_model_state_dict(lent, dict(weights))
        yield lent
    finally:
        lent.unload()
        # PEFT leaves its mark on the base and would warn of it at the next adapter.
        if hasattr(base, "peft_config"):
            del base.peft_config
        base.requires_grad_(False).eval()


@contextmanager
def attach(
    base: PreTrainedModel, adapter: TrainedAdapter | None, *, merge: bool = False
) -> Iterator[None]:
    """Attach a trained adapter to a shared base model and take it back; None: the base as it is.

    Merged, it is added to a copy of the weights it adapts instead of computed beside them
    (decision 22); the weights themselves are put back.

    Raises:
        UserError: It cannot be merged: what it would be added to is held in 4 bits.
    """
    if adapter is None:
        yield
        return
    if merge and is_quantised(base):
        raise UserError(
            "an adapter cannot be merged into a base in 4 bits, which would be rounded again",
            "use decode.merge=false",
        )
    with lend(base, adapter.config, 0, adapter.weights) as lent:
        lent.eval()
        if not merge:
            yield
            return
        adapted = _adapted(lent)
        own = [p for module in adapted for p in module.get_base_layer().parameters()]
        originals = [parameter.data for parameter in own]
        for parameter in own:
            parameter.data = parameter.data.clone()
        try:
            lent.merge_adapter()
            yield
        finally:
            for module in adapted:
                module.merged_adapters.clear()
            for parameter, original in zip(own, originals, strict=True):
                parameter.data = original


def weights_of(lent: PeftModel) -> dict[str, Tensor]:
    """Copies of an attached adapter's tensors by PEFT's names."""
    return {name: t.detach().clone() for name, t in get_peft_model_state_dict(lent).items()}


def describe_size(lent: PeftModel) -> str:
    """An adapter's trainable share and, for low rank, its rank against the smallest side.

    A rank equal to that side is no longer low (decision 20).
    """
    trainable, everything = lent.get_nb_trainable_parameters()
    size = f"{trainable:,} parameters to train, {trainable / everything:.1%} of all"
    rank = getattr(lent.active_peft_config, "r", None)
    sides = [min(module.in_features, module.out_features) for module in _adapted(lent)]
    return f"{size}; rank {rank} of at most {min(sides)}" if rank and sides else size


def _adapted(lent: PeftModel) -> list[Any]:
    return [module for module in lent.modules() if isinstance(module, BaseTunerLayer)]

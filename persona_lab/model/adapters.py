"""A trained adapter: PEFT's configuration and weights, as a stage's output.

Pure but for `TrainedAdapter.save` and `load`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from peft import PeftConfig
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

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
        self.config.save_pretrained(str(folder))
        save_file(
            {name: t.detach().cpu().contiguous() for name, t in self.weights.items()},
            folder / _WEIGHTS,
            metadata={"format": "pt", **facts},
        )

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

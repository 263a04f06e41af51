"""Base models, adapters and the shared-prefix engine: examples -> adapters -> predictions."""

from persona_lab.model.adapters import (
    AdapterMode,
    Lora,
    NoAdapter,
    Peft,
    PersonaAdapters,
    Plan,
    SingleFull,
    SingleMax,
    SingleMin,
    TrainedAdapter,
    attach,
    lend,
)
from persona_lab.model.base import BaseModel
from persona_lab.model.decode import Decode, Response
from persona_lab.model.module import Trainer, UserAgentModule, fit_adapter, rate_examples
from persona_lab.model.train import Train

__all__ = [
    "AdapterMode",
    "BaseModel",
    "Decode",
    "Lora",
    "NoAdapter",
    "Peft",
    "PersonaAdapters",
    "Plan",
    "Response",
    "SingleFull",
    "SingleMax",
    "SingleMin",
    "Train",
    "TrainedAdapter",
    "Trainer",
    "UserAgentModule",
    "attach",
    "fit_adapter",
    "lend",
    "rate_examples",
]

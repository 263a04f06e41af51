"""Base models, adapters and the shared-prefix engine: examples -> adapters -> predictions."""

from persona_lab.model.adapters import (
    AdapterMode,
    Dora,
    Ia3,
    Lora,
    NoAdapter,
    Peft,
    PersonaAdapters,
    PerUser,
    Plan,
    QLora,
    RandomPersona,
    RsLora,
    SingleFull,
    SingleMax,
    SingleMin,
    TrainedAdapter,
    attach,
    lend,
)
from persona_lab.model.base import BaseModel
from persona_lab.model.decode import Decode, Response
from persona_lab.model.module import (
    Trainer,
    UserAgentModule,
    fit_adapter,
    fit_on_devices,
    rate_examples,
)
from persona_lab.model.predictions import Predictions
from persona_lab.model.train import Train

__all__ = [
    "AdapterMode",
    "BaseModel",
    "Decode",
    "Dora",
    "Ia3",
    "Lora",
    "NoAdapter",
    "Peft",
    "PerUser",
    "PersonaAdapters",
    "Plan",
    "Predictions",
    "QLora",
    "RandomPersona",
    "Response",
    "RsLora",
    "SingleFull",
    "SingleMax",
    "SingleMin",
    "Train",
    "TrainedAdapter",
    "Trainer",
    "UserAgentModule",
    "attach",
    "fit_adapter",
    "fit_on_devices",
    "lend",
    "rate_examples",
]

"""Base models, adapters and the shared-prefix engine: examples -> adapters -> predictions."""

from persona_lab.model.adapters import TrainedAdapter, attach, lend
from persona_lab.model.base import BaseModel
from persona_lab.model.decode import Decode, Response
from persona_lab.model.loss import AnswerLoss, Loss
from persona_lab.model.modes import Mode, Plan
from persona_lab.model.module import (
    Fit,
    Rating,
    UserAgentModule,
    fit_adapter,
    fit_on_devices,
    rate_examples,
)
from persona_lab.model.peft import Peft
from persona_lab.model.predictions import Predictions
from persona_lab.model.train import Train
from persona_lab.model.trainer import Trainer

__all__ = [
    "AnswerLoss",
    "BaseModel",
    "Decode",
    "Fit",
    "Loss",
    "Mode",
    "Peft",
    "Plan",
    "Predictions",
    "Rating",
    "Response",
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

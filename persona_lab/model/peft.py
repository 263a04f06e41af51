"""A kind of parameter-efficient fine-tuning -> PEFT's configuration. Pure."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from peft import IA3Config, LoraConfig, PeftConfig
from pydantic import Field, PositiveInt

from persona_lab.component import component
from persona_lab.model.quantise import Quantisation


@component
class Peft:
    """What an adapter is.

    Attributes:
        name: Name in results.
        kind: `lora`: low rank (the paper's, Appendix A); `rslora`: with a scale that falls with
            the root of the rank (Kalajdzievski, 2023); `dora`: low rank of a weight's direction
            beside its learned magnitude (Liu et al., 2024); `ia3`: a learned factor per output of
            a projection, or per input of `down_proj` (Liu et al., 2022), which takes no account of
            the three fields below.
        r: Rank.
        alpha: Numerator of the scale alpha / r (rslora: alpha / sqrt(r)).
        dropout: Dropout on the adapter's input while training.
        quantisation: Type of the 4-bit weights in which the frozen base is held, whoever rates by
            it (Dettmers et al., 2023); None: as it is.
    """

    name: str
    kind: Literal["lora", "rslora", "dora", "ia3"]
    r: PositiveInt
    alpha: PositiveInt
    dropout: Annotated[float, Field(ge=0, lt=1)]
    quantisation: Quantisation | None

    def config(self, targets: Sequence[str]) -> PeftConfig:
        """PEFT's configuration for a model's target projections."""
        common: Any = {"target_modules": list(targets), "task_type": "CAUSAL_LM"}
        if self.kind == "ia3":
            feedforward = [name for name in targets if name == "down_proj"]
            return IA3Config(feedforward_modules=feedforward, **common)
        return LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            use_rslora=self.kind == "rslora",
            use_dora=self.kind == "dora",
            **common,
        )

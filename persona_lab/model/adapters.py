"""Training rows and personas -> which adapter trains on which rows and rates which users.

Adapter modes of the paper's Table 1 (decision 12) and the adapters themselves: PEFT's, attached to
a shared base model for as long as they are needed. Pure but for `TrainedAdapter.save` and `load`.
"""

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self

import numpy as np
import pandas as pd
import torch
from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from persona_lab.errors import UserError
from persona_lab.personas import Personas

_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class Plan:
    """Who trains on what, and who rates whom.

    Attributes:
        rows: adapter name -> its training rows.
        route: user_id -> name of the adapter that rates the user's movies, None for the base.
    """

    rows: dict[str, pd.DataFrame]
    route: dict[int, str | None]


class AdapterMode(Protocol):
    """How users share adapters."""

    @property
    def name(self) -> str:
        """Name in results."""
        ...

    def plan(self, rows: pd.DataFrame, personas: Personas, seed: int) -> Plan:
        """Divide training rows (user_id, item_id, ...) among adapters."""
        ...


@dataclass(frozen=True)
class NoAdapter:
    """The frozen base model rates everyone; the other modes' fields are accepted, unused."""

    name: str = "none"
    rows_per_user: int | None = None
    max_rows: int | None = None
    on_empty: Literal["error", "base"] = "error"

    def plan(self, rows: pd.DataFrame, personas: Personas, seed: int) -> Plan:
        """No adapter, every user routed to the base."""
        return Plan({}, dict.fromkeys(personas.assignment["user_id"]))


@dataclass(frozen=True)
class PersonaAdapters:
    """One adapter per persona (the paper's theta_persona).

    Attributes:
        name: Name in results.
        rows_per_user: Training rows drawn of each user before all else; None: all.
        max_rows: Cap on each persona's rows; None: none.
        on_empty: `error`, or `base`: a persona without rows is rated by the frozen model.
    """

    name: str = "persona"
    rows_per_user: int | None = None
    max_rows: int | None = None
    on_empty: Literal["error", "base"] = "error"

    def plan(self, rows: pd.DataFrame, personas: Personas, seed: int) -> Plan:
        """The rows of each persona's users to its adapter.

        Raises:
            UserError: A persona has no training rows and `on_empty` is `error`.
        """
        sets = persona_rows(rows, personas, self.rows_per_user, self.max_rows, seed)
        empty = [persona for persona, part in sets.items() if part.empty]
        if empty and self.on_empty == "error":
            raise UserError(
                f"persona {empty[0]} has no training rows",
                "lower personas.n_personas, or let the base rate its users: adapter.on_empty=base",
            )
        names = {persona: f"persona_{persona}" for persona in sets if persona not in empty}
        of_user = zip(personas.assignment["user_id"], personas.assignment["persona"], strict=True)
        return Plan(
            {name: sets[persona] for persona, name in names.items()},
            {int(user): names.get(int(persona)) for user, persona in of_user},
        )


@dataclass(frozen=True)
class SingleMax:
    """One adapter for all users on as many rows as the largest persona has (theta_single(max))."""

    name: str = "single_max"
    rows_per_user: int | None = None
    max_rows: int | None = None
    on_empty: Literal["error", "base"] = "error"

    def plan(self, rows: pd.DataFrame, personas: Personas, seed: int) -> Plan:
        """The same share of every user's rows, as many as the largest persona's."""
        sets = persona_rows(rows, personas, self.rows_per_user, self.max_rows, seed)
        chosen = take_share(pd.concat(sets.values()), max(map(len, sets.values())))
        return _single(chosen, personas)


@dataclass(frozen=True)
class SingleMin:
    """One adapter for all users on as many rows as the smallest persona has (theta_single(min))."""

    name: str = "single_min"
    rows_per_user: int | None = None
    max_rows: int | None = None
    on_empty: Literal["error", "base"] = "error"

    def plan(self, rows: pd.DataFrame, personas: Personas, seed: int) -> Plan:
        """A part of what `SingleMax` trains on, as many rows as the smallest persona's.

        Raises:
            UserError: The smallest persona has no training rows and `on_empty` is `error`.
        """
        sets = persona_rows(rows, personas, self.rows_per_user, self.max_rows, seed)
        sizes = [len(part) for part in sets.values() if len(part) or self.on_empty == "error"]
        if not min(sizes, default=1):
            raise UserError(
                "the smallest persona has no training rows, so single_min has none",
                "lower personas.n_personas, or leave it out: adapter.on_empty=base",
            )
        largest = take_share(pd.concat(sets.values()), max(sizes, default=0))
        return _single(take_share(largest, min(sizes, default=0)), personas)


@dataclass(frozen=True)
class SingleFull:
    """One adapter for all users on all their rows: beyond the paper, which equalises sizes."""

    name: str = "single_full"
    rows_per_user: int | None = None
    max_rows: int | None = None
    on_empty: Literal["error", "base"] = "error"

    def plan(self, rows: pd.DataFrame, personas: Personas, seed: int) -> Plan:
        """The rows of all personas, each capped as elsewhere."""
        sets = persona_rows(rows, personas, self.rows_per_user, self.max_rows, seed)
        return _single(pd.concat(sets.values()), personas)


def _single(rows: pd.DataFrame, personas: Personas) -> Plan:
    if rows.empty:
        raise UserError("there are no training rows", "raise adapter.rows_per_user or max_rows")
    return Plan({"single": rows}, dict.fromkeys(personas.assignment["user_id"], "single"))


def persona_rows(
    rows: pd.DataFrame,
    personas: Personas,
    rows_per_user: int | None,
    max_rows: int | None,
    seed: int,
) -> dict[int, pd.DataFrame]:
    """Training rows of every persona after the caps, each user's in a seeded random order.

    The order of a user's rows depends on the seed and the user alone, so that a smaller draw is
    always the beginning of a larger one.
    """
    drawn = []
    for user, part in rows.groupby("user_id", sort=True):
        order = np.random.default_rng([seed, int(str(user))]).permutation(len(part))
        drawn.append(part.iloc[order[:rows_per_user]])
    shuffled = pd.concat(drawn) if drawn else rows
    assignment = personas.assignment
    of_user = dict(zip(assignment["user_id"], assignment["persona"], strict=True))
    persona = shuffled["user_id"].map(of_user)
    sets = {k: shuffled[persona == k] for k in range(personas.n_personas)}
    if max_rows is None:
        return sets
    return {k: take_share(part, min(max_rows, len(part))) for k, part in sets.items()}


def take_share(rows: pd.DataFrame, n: int) -> pd.DataFrame:
    """The first rows of every user, the same share of each, `n` in all (largest remainder)."""
    counts = rows.groupby("user_id", sort=True).size()
    exact = counts * n / max(len(rows), 1)
    quota = exact.floordiv(1).astype(int)
    # Stable, so that users with equal remainders come in the order of their ids.
    by_remainder = (exact - quota).sort_values(ascending=False, kind="stable").index
    quota[by_remainder[: n - int(quota.sum())]] += 1
    taken = rows.groupby("user_id").cumcount() < rows["user_id"].map(quota.to_dict())
    return rows[taken]


class Peft(Protocol):
    """A kind of parameter-efficient fine-tuning."""

    @property
    def name(self) -> str:
        """Name in results."""
        ...

    def config(self, targets: list[str]) -> PeftConfig:
        """PEFT's configuration for a model's target projections."""
        ...


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters (the paper's, Appendix A).

    Attributes:
        name: Name in results.
        r: Rank.
        alpha: Numerator of the scale alpha / r.
        dropout: Dropout on the adapter's input while training.
    """

    name: str = "lora"
    r: int = 256
    alpha: int = 32
    dropout: float = 0.1

    def config(self, targets: list[str]) -> PeftConfig:
        """PEFT's configuration.

        Raises:
            UserError: The rank is not positive.
        """
        if self.r < 1:
            raise UserError(f"peft.r is {self.r}", "use a rank of at least 1")
        return LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=list(targets),
            task_type="CAUSAL_LM",
        )


@dataclass(frozen=True)
class TrainedAdapter:
    """Weights of one adapter: a standard PEFT folder.

    Attributes:
        config: PEFT's configuration.
        weights: Tensors by PEFT's names.
        summary: `n_rows`, `n_steps`, `loss` (mean of the last epoch), `unique_tokens` computed.
    """

    STAGE: ClassVar[str] = "adapter"
    VERSION: ClassVar[int] = 1

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
        from safetensors import safe_open

        with safe_open(folder / _WEIGHTS, framework="pt") as stream:
            found = stream.metadata() or {}
        summary = {name: json.loads(text) for name, text in found.items() if name != "format"}
        return cls(PeftConfig.from_pretrained(str(folder)), load_file(folder / _WEIGHTS), summary)


@contextmanager
def lend(
    base: PreTrainedModel, config: PeftConfig, seed: int, **options: Any
) -> Iterator[PeftModel]:
    """Attach a fresh adapter to a shared base model and take it back at the end.

    After it the base gives bit-identical outputs to before.
    """
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        # PEFT asks transformers for a property by its former name.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        lent = get_peft_model(base, config, **options)
    assert isinstance(lent, PeftModel)
    try:
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

    Args:
        base: The shared frozen base model.
        adapter: The adapter.
        merge: Add it to a copy of the weights it adapts instead of computing it beside them
            (decision 22); they are restored bit by bit.
    """
    if adapter is None:
        yield
        return
    # Made without initial weights: they would be drawn only to be overwritten.
    with lend(base, adapter.config, seed=0, low_cpu_mem_usage=True) as lent:
        set_peft_model_state_dict(lent, dict(adapter.weights), low_cpu_mem_usage=True)
        lent.eval()
        if not merge:
            yield
            return
        adapted: list[Any] = [m for m in lent.modules() if isinstance(m, BaseTunerLayer)]
        originals = [m.get_base_layer().weight.detach().clone() for m in adapted]
        lent.merge_adapter()
        try:
            yield
        finally:
            for module, original in zip(adapted, originals, strict=True):
                module.merged_adapters.clear()
                module.get_base_layer().weight.data.copy_(original)


def weights_of(lent: PeftModel) -> dict[str, Tensor]:
    """Copies of an attached adapter's tensors by PEFT's names."""
    return {name: t.detach().clone() for name, t in get_peft_model_state_dict(lent).items()}


def describe_size(lent: PeftModel) -> str:
    """An adapter's trainable share and, for low rank, its rank against the smallest side.

    A rank equal to that side is no longer low (decision 20).
    """
    trainable, everything = lent.get_nb_trainable_parameters()
    said = f"{trainable:,} parameters to train, {trainable / everything:.1%} of all"
    rank = getattr(lent.active_peft_config, "r", None)
    adapted: list[Any] = [m for m in lent.modules() if isinstance(m, BaseTunerLayer)]
    sides = [min(module.in_features, module.out_features) for module in adapted]
    return f"{said}; rank {rank} of at most {min(sides)}" if rank and sides else said

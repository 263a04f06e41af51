"""Training rows and personas -> which adapter trains on which rows and rates which users.

Adapter modes of the paper's Table 1 (decision 12) and the adapters themselves: PEFT's, attached to
a shared base model for as long as they are needed. Pure but for `TrainedAdapter.save` and `load`.
"""

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, Self

import numpy as np
import pandas as pd
import torch
from peft import (
    IA3Config,
    LoraConfig,
    PeftConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.tuners.tuners_utils import BaseTunerLayer
from pydantic import Field, PositiveInt
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from persona_lab.errors import UserError
from persona_lab.model.dropout import quicken
from persona_lab.model.quantise import Quantisation, is_quantised
from persona_lab.personas import Personas

_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class Plan:
    """Who trains on what, and who rates whom.

    Attributes:
        rows: adapter name -> its training rows.
        route: user_id -> name of the adapter that rates the user's movies, None for the base.
        crossed: Adapters that rate all users' movies as well, for the matrix of adapters and users.
    """

    rows: dict[str, pd.DataFrame]
    route: dict[int, str | None]
    crossed: tuple[str, ...] = ()


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
class Draw:
    """The training rows that a mode divides; all modes have these fields, so one sweep takes all.

    Attributes:
        name: Name in results.
        rows_per_user: Training rows drawn of each user before all else; None: all.
        max_rows: Cap on each persona's rows; None: none.
        on_empty: `error`, or `base`: who would get an adapter without rows is rated by the frozen
            model.
        matrix: Whether each persona's adapter also rates the users of all others, for `matrix` of
            the result; for the modes with an adapter per persona. It rates that many times more.
    """

    name: str
    rows_per_user: PositiveInt | None = None
    max_rows: PositiveInt | None = None
    on_empty: Literal["error", "base"] = "error"
    matrix: bool = field(default=False, metadata={"key": False})


@dataclass(frozen=True)
class NoAdapter(Draw):
    """The frozen base model rates everyone; no rows are drawn."""

    name: str = "none"

    def plan(self, rows: pd.DataFrame, personas: Personas, seed: int) -> Plan:
        """No adapter, every user routed to the base."""
        return Plan({}, dict.fromkeys(personas.assignment["user_id"]))


@dataclass(frozen=True)
class PersonaAdapters(Draw):
    """One adapter per persona (the paper's theta_persona)."""

    name: str = "persona"

    def plan(self, rows: pd.DataFrame, personas: Personas, seed: int) -> Plan:
        """The rows of each persona's users to its adapter.

        Raises:
            UserError: A persona has no training rows and `on_empty` is `error`.
        """
        return _by_persona(self, rows, personas, seed)


@dataclass(frozen=True)
class RandomPersona(Draw):
    """One adapter per group of random users, as many in each as in a persona.

    The control that the persona claim needs: the same adapters, sizes and steps, without the
    personas.
    """

    name: str = "random_persona"

    def plan(self, rows: pd.DataFrame, personas: Personas, seed: int) -> Plan:
        """As `PersonaAdapters`, with the users' personas shuffled among them.

        Raises:
            UserError: A group has no training rows and `on_empty` is `error`.
        """
        table = personas.assignment
        shuffled = np.random.default_rng(seed).permutation(table["persona"])
        groups = replace(personas, assignment=table.assign(persona=shuffled))
        return _by_persona(self, rows, groups, seed)


@dataclass(frozen=True)
class PerUser(Draw):
    """One adapter per user, on those of its rows that its persona's adapter would have."""

    name: str = "per_user"

    def plan(self, rows: pd.DataFrame, personas: Personas, seed: int) -> Plan:
        """The rows of each user to its own adapter.

        Raises:
            UserError: A user has no training rows and `on_empty` is `error`.
        """
        pooled = _pooled(persona_rows(rows, personas, self, seed))
        sets = {f"user_{user}": part for user, part in pooled.groupby("user_id", sort=True)}
        route = {int(user): f"user_{user}" for user in personas.assignment["user_id"]}
        empty = [user for user, name in route.items() if name not in sets]
        if empty and self.on_empty == "error":
            raise UserError(
                f"user {empty[0]} has no training rows",
                "raise adapter.rows_per_user or max_rows, or let the base rate such users: "
                "adapter.on_empty=base",
            )
        return Plan(sets, {user: name if name in sets else None for user, name in route.items()})


@dataclass(frozen=True)
class SingleMax(Draw):
    """One adapter for all users on as many rows as the largest persona has (theta_single(max))."""

    name: str = "single_max"

    def plan(self, rows: pd.DataFrame, personas: Personas, seed: int) -> Plan:
        """The same share of every user's rows, as many as the largest persona's."""
        sets = persona_rows(rows, personas, self, seed)
        return _single(take_share(_pooled(sets), max(map(len, sets.values()))), personas)


@dataclass(frozen=True)
class SingleMin(Draw):
    """One adapter for all users on as many rows as the smallest persona has (theta_single(min))."""

    name: str = "single_min"

    def plan(self, rows: pd.DataFrame, personas: Personas, seed: int) -> Plan:
        """A part of what `SingleMax` trains on, as many rows as the smallest persona's.

        Raises:
            UserError: The smallest persona has no training rows and `on_empty` is `error`.
        """
        sets = persona_rows(rows, personas, self, seed)
        sizes = [len(part) for part in sets.values() if len(part) or self.on_empty == "error"]
        if not min(sizes, default=1):
            raise UserError(
                "the smallest persona has no training rows, so single_min has none",
                "lower personas.n_personas, or leave it out: adapter.on_empty=base",
            )
        largest = take_share(_pooled(sets), max(sizes, default=0))
        return _single(take_share(largest, min(sizes, default=0)), personas)


@dataclass(frozen=True)
class SingleFull(Draw):
    """One adapter for all users on all their rows: beyond the paper, which equalises sizes."""

    name: str = "single_full"

    def plan(self, rows: pd.DataFrame, personas: Personas, seed: int) -> Plan:
        """The rows of all personas, each capped as elsewhere."""
        return _single(_pooled(persona_rows(rows, personas, self, seed)), personas)


def _by_persona(draw: Draw, rows: pd.DataFrame, personas: Personas, seed: int) -> Plan:
    sets = persona_rows(rows, personas, draw, seed)
    empty = [persona for persona, part in sets.items() if part.empty]
    if empty and draw.on_empty == "error":
        raise UserError(
            f"{draw.name} {empty[0]} has no training rows",
            "lower personas.n_personas, or let the base rate its users: adapter.on_empty=base",
        )
    names = {persona: f"{draw.name}_{persona}" for persona in sets if persona not in empty}
    of_user = zip(personas.assignment["user_id"], personas.assignment["persona"], strict=True)
    return Plan(
        {name: sets[persona] for persona, name in names.items()},
        {int(user): names.get(int(persona)) for user, persona in of_user},
        crossed=tuple(names.values()) if draw.matrix else (),
    )


def _pooled(sets: Mapping[int, pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(sets.values())


def _single(rows: pd.DataFrame, personas: Personas) -> Plan:
    if rows.empty:
        raise UserError("there are no training rows", "raise adapter.rows_per_user or max_rows")
    return Plan({"single": rows}, dict.fromkeys(personas.assignment["user_id"], "single"))


def persona_rows(
    rows: pd.DataFrame, personas: Personas, draw: Draw, seed: int
) -> dict[int, pd.DataFrame]:
    """Training rows of every persona after the caps, each user's in a seeded random order.

    The order of a user's rows depends on the seed and the user alone, so that a smaller draw is
    always the beginning of a larger one.
    """
    drawn = []
    for user, part in rows.groupby("user_id", sort=True):
        order = np.random.default_rng([seed, int(str(user))]).permutation(len(part))
        drawn.append(part.iloc[order[: draw.rows_per_user]])
    shuffled = pd.concat(drawn) if drawn else rows
    assignment = personas.assignment
    of_user = dict(zip(assignment["user_id"], assignment["persona"], strict=True))
    persona = shuffled["user_id"].map(of_user)
    sets = {k: shuffled[persona == k] for k in range(personas.n_personas)}
    if draw.max_rows is None:
        return sets
    return {k: take_share(part, min(draw.max_rows, len(part))) for k, part in sets.items()}


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

    @property
    def quantisation(self) -> Quantisation | None:
        """How the frozen base is held; None: as it is."""
        ...

    def config(self, targets: list[str]) -> PeftConfig:
        """PEFT's configuration for a model's target projections."""
        ...


@dataclass(frozen=True)
class LowRank:
    """What low-rank adapters are given; all kinds have these fields, so one sweep takes all.

    Attributes:
        name: Name in results.
        r: Rank.
        alpha: Numerator of the scale alpha / r (rslora: alpha / sqrt(r)).
        dropout: Dropout on the adapter's input while training.
    """

    name: str
    r: PositiveInt = 256
    alpha: PositiveInt = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1


@dataclass(frozen=True)
class Lora(LowRank):
    """Low-rank adapters (the paper's, Appendix A)."""

    quantisation: ClassVar[None] = None

    name: str = "lora"

    def config(self, targets: list[str]) -> PeftConfig:
        """PEFT's configuration."""
        return _low_rank(self, targets)


@dataclass(frozen=True)
class RsLora(LowRank):
    """Low-rank adapters whose scale falls with the root of the rank (Kalajdzievski, 2023)."""

    quantisation: ClassVar[None] = None

    name: str = "rslora"

    def config(self, targets: list[str]) -> PeftConfig:
        """PEFT's configuration."""
        return _low_rank(self, targets, use_rslora=True)


@dataclass(frozen=True)
class Dora(LowRank):
    """Low-rank adapters of a weight's direction beside its learned magnitude (Liu et al., 2024)."""

    quantisation: ClassVar[None] = None

    name: str = "dora"

    def config(self, targets: list[str]) -> PeftConfig:
        """PEFT's configuration."""
        return _low_rank(self, targets, use_dora=True)


@dataclass(frozen=True)
class QLora(LowRank):
    """Low-rank adapters on a base held in 4 bits (Dettmers et al., 2023), whoever rates by it.

    Attributes:
        quantisation: Data type of the base's 4-bit weights.
    """

    name: str = "qlora"
    quantisation: Quantisation = "nf4"

    def config(self, targets: list[str]) -> PeftConfig:
        """PEFT's configuration."""
        return _low_rank(self, targets)


@dataclass(frozen=True)
class Ia3(LowRank):
    """A learned factor per output of a projection, or per input of `down_proj` (Liu et al., 2022).

    It has no rank: the fields of the low-rank kinds are accepted, unused.
    """

    quantisation: ClassVar[None] = None

    name: str = "ia3"

    def config(self, targets: list[str]) -> PeftConfig:
        """PEFT's configuration."""
        return IA3Config(
            target_modules=list(targets),
            feedforward_modules=[name for name in targets if name == "down_proj"],
            task_type="CAUSAL_LM",
        )


def _low_rank(peft: LowRank, targets: list[str], **options: Any) -> PeftConfig:
    return LoraConfig(
        r=peft.r,
        lora_alpha=peft.alpha,
        lora_dropout=peft.dropout,
        target_modules=list(targets),
        task_type="CAUSAL_LM",
        **options,
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
        from safetensors import safe_open

        with safe_open(folder / _WEIGHTS, framework="pt") as stream:
            found = stream.metadata() or {}
        return {name: json.loads(text) for name, text in found.items() if name != "format"}


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
    if base.device.type == "cpu":
        quicken(lent)
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
    # Made without initial weights: they would be drawn only to be overwritten.
    with lend(base, adapter.config, seed=0, low_cpu_mem_usage=True) as lent:
        set_peft_model_state_dict(lent, dict(adapter.weights), low_cpu_mem_usage=True)
        if torch.finfo(base.dtype).bits < 32:
            # PEFT rounds what it loads so to the base's precision; adapters are fp32.
            for parameter in (each for each in lent.parameters() if each.requires_grad):
                parameter.data = parameter.data.float()
            set_peft_model_state_dict(lent, dict(adapter.weights))
        lent.eval()
        if not merge:
            yield
            return
        adapted: list[Any] = [m for m in lent.modules() if isinstance(m, BaseTunerLayer)]
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
    said = f"{trainable:,} parameters to train, {trainable / everything:.1%} of all"
    rank = getattr(lent.active_peft_config, "r", None)
    adapted: list[Any] = [m for m in lent.modules() if isinstance(m, BaseTunerLayer)]
    sides = [min(module.in_features, module.out_features) for module in adapted]
    return f"{said}; rank {rank} of at most {min(sides)}" if rank and sides else said

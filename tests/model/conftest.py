"""Tiny random models of the architectures that the engine serves, and rows for them."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from configured import configured
from torch import Tensor, nn
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
)
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.phi3.modeling_phi3 import Phi3RMSNorm

from persona_lab.data import Scale
from persona_lab.model import BaseModel
from persona_lab.model.engine import ATTENTION
from persona_lab.personas import Personas
from persona_lab.prompting import Codec, Example

VOCABULARY = 61
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
    # Large, so that attention is far from uniform and a wrong mask shows.
    "initializer_range": 0.4,
}
_GEMMA_LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]
_BUILD: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**_SIZES)),
    "phi3": lambda: Phi3ForCausalLM(Phi3Config(**_SIZES, sliding_window=None)),
    # Shorter than most suffixes; then longer than all, and still shorter than the prefix of 30.
    "phi3_window_4": lambda: Phi3ForCausalLM(Phi3Config(**_SIZES, sliding_window=4)),
    "phi3_window_20": lambda: Phi3ForCausalLM(Phi3Config(**_SIZES, sliding_window=20)),
    "gemma3": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(
            **{**_SIZES, "num_hidden_layers": 3},
            head_dim=8,
            sliding_window=6,
            layer_types=_GEMMA_LAYERS,
        )
    ),
}
ARCHITECTURES = list(_BUILD)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """More threads only wait for each other on matrices this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "architecture" in metafunc.fixturenames:
        metafunc.parametrize("architecture", ARCHITECTURES)


@pytest.fixture
def model(architecture: str) -> PreTrainedModel:
    """A random model in fp32 on the engine's attention, with every weight trainable."""
    return build(architecture)


def build(architecture: str) -> PreTrainedModel:
    torch.manual_seed(0)
    built = _BUILD[architecture]()
    built.set_attn_implementation(ATTENTION)
    return built.eval()


@pytest.fixture
def build_model() -> Callable[[str], PreTrainedModel]:
    return build


@pytest.fixture
def llama() -> PreTrainedModel:
    return build("llama")


@pytest.fixture
def in_fp64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let transformers compute in fp64 what it computes in fp32 whatever the model's dtype."""

    def norm(self: nn.Module, hidden: Tensor) -> Tensor:
        epsilon = getattr(self, "variance_epsilon", None) or self.eps
        weight = 1.0 + self.weight if isinstance(self, Gemma3RMSNorm) else self.weight
        return weight * hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + epsilon)

    for kind in (LlamaRMSNorm, Phi3RMSNorm, Gemma3RMSNorm):
        monkeypatch.setattr(kind, "forward", norm)
    softmax = nn.functional.softmax

    def wide(scores: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
        return softmax(scores, dim=dim, dtype=torch.promote_types(scores.dtype, dtype))

    # Only transformers' eager attention takes this one; torch's own is a method of tensors.
    monkeypatch.setattr(nn.functional, "softmax", wide)


@pytest.fixture(scope="session")
def tiny() -> BaseModel:
    """The base model of `model=tiny_llama`, smaller."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "layers": 2, "heads": 4, "kv_heads": 2}
    random = {"architecture": "llama", "vocab_size": 300, **sizes}
    return configured("model=tiny_llama", context=512, random=random)


@pytest.fixture(scope="session")
def scale() -> Scale:
    return configured("data/scale=five_stars")


@pytest.fixture
def codec(tiny: BaseModel, sources: Any, scale: Scale) -> Codec:
    return tiny.codec(sources, 4, scale)


@pytest.fixture
def confident(tiny: BaseModel, sources: Any) -> PreTrainedModel:
    """Random weights as large as a trained model's: small ones cannot be sure of any token."""
    model = copy.deepcopy(tiny.load(sources, torch.float32, "cpu"))
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.data *= 15
    return model


@pytest.fixture(scope="session")
def four_bits() -> None:
    """Skips where nothing can be held in 4 bits."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    try:
        bitsandbytes.functional.quantize_4bit(torch.ones(64, 64))
    except (RuntimeError, NotImplementedError):
        pytest.skip("this bitsandbytes has no 4-bit kernel for the CPU")


@pytest.fixture(scope="session")
def make_examples() -> Callable[..., list[Example]]:
    """Random prompts: each user's rows begin alike and end in their own way."""

    def make(
        n_users: int = 3, n_rows: int = 4, prefix: int = 12, seed: int = 0, vocabulary: int = 250
    ) -> list[Example]:
        rng = np.random.default_rng(seed)

        def words(n: int) -> list[int]:
            return rng.integers(2, vocabulary, n).tolist()

        return [
            Example(user, 100 * user + row, int(rng.integers(1, 6)), ids, {})
            for user in range(n_users)
            for begin in [words(prefix)]
            for row in range(n_rows)
            for ids in [[*begin, *words(int(rng.integers(1, 9)))]]
        ]

    return make


@pytest.fixture(scope="session")
def make_personas() -> Callable[[dict[int, int]], Personas]:
    """Personas from user -> persona."""

    def make(persona_of: dict[int, int]) -> Personas:
        table = pd.DataFrame(
            {"user_id": list(persona_of), "persona": list(persona_of.values())}, dtype="int64"
        )
        n = max(persona_of.values()) + 1
        return Personas(table, np.zeros((n, 2), dtype=np.float32), pd.DataFrame())

    return make

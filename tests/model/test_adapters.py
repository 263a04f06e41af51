"""Adapters are lent to a base and taken back, and kept in folders."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from configured import configured
from peft import LoraConfig, PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from persona_lab.model import Peft, TrainedAdapter, attach, lend
from persona_lab.model.adapters import describe_size, weights_of
from persona_lab.model.engine import Tree, group, run

ROWS = [[5, 6, 7, row, 9] for row in range(4)]
LORA: Peft = configured("peft=lora", r=4, alpha=8, dropout=0.0)


def hidden(model: PreTrainedModel) -> Tensor:
    with torch.inference_mode():
        return run(model, Tree([group(ROWS, range(len(ROWS)))]))


def spread(adapter: PeftModel, seed: int) -> None:
    """Give an adapter weights that change the outputs, as training does."""
    torch.manual_seed(seed)
    for parameter in adapter.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.3)


def trained(base: PreTrainedModel, seed: int) -> TrainedAdapter:
    config = LORA.config(["q_proj", "k_proj"])
    with lend(base, config, seed) as lent:
        spread(lent, seed)
        return TrainedAdapter(config, weights_of(lent), {"n_rows": 12, "loss": 0.5})


@pytest.fixture
def base(llama: PreTrainedModel) -> PreTrainedModel:
    return llama.requires_grad_(False)


def test_a_lent_adapter_leaves_nothing_behind(base: PreTrainedModel) -> None:
    before, modules = hidden(base), [type(module) for module in base.modules()]
    names = set(vars(base))
    weights = copy.deepcopy(base.state_dict())
    with lend(base, LORA.config(["q_proj", "k_proj"]), seed=0) as lent:
        lent.train()
        spread(lent, 0)
        run(base, Tree([group(ROWS, range(4))])).sum().backward()
        assert not torch.equal(hidden(base), before)
    assert torch.equal(hidden(base), before)
    assert [type(module) for module in base.modules()] == modules
    assert set(vars(base)) == names
    assert not hasattr(base, "peft_config")
    assert not any(p.requires_grad or p.grad is not None for p in base.parameters())
    assert not any(module.training for module in base.modules())
    assert all(torch.equal(t, weights[name]) for name, t in base.state_dict().items())


def test_an_adapter_is_taken_back_also_after_an_error(base: PreTrainedModel) -> None:
    def stop() -> None:
        with lend(base, LORA.config(["q_proj"]), 0) as lent:
            spread(lent, 0)
            raise KeyboardInterrupt

    before = hidden(base)
    with pytest.raises(KeyboardInterrupt):
        stop()
    assert torch.equal(hidden(base), before)
    assert not hasattr(base, "peft_config")


def test_a_fresh_adapter_changes_nothing_and_depends_on_its_seed(base: PreTrainedModel) -> None:
    before = hidden(base)
    drawn = []
    for seed in (0, 0, 1):
        with lend(base, LORA.config(["q_proj", "k_proj"]), seed) as lent:
            assert torch.equal(hidden(base), before)
            assert {n for n, p in lent.named_parameters() if p.requires_grad} == {
                n for n, _ in lent.named_parameters() if "lora_" in n
            }
            drawn.append(weights_of(lent))
    name = next(name for name in drawn[0] if "lora_A" in name)
    assert torch.equal(drawn[0][name], drawn[1][name])
    assert not torch.equal(drawn[0][name], drawn[2][name])


def test_one_adapter_does_not_leak_into_the_next(base: PreTrainedModel) -> None:
    first, second = trained(base, 1), trained(base, 2)
    alone = {}
    for seed, adapter in ((1, first), (2, second)):
        with attach(base, adapter):
            alone[seed] = hidden(base)
    assert not torch.allclose(alone[1], alone[2], atol=1e-2)
    for merge in (False, True):
        for seed, adapter in ((2, second), (1, first), (2, second)):
            with attach(base, adapter, merge=merge):
                torch.testing.assert_close(hidden(base), alone[seed], rtol=1e-3, atol=1e-4)
    # What was trained is a copy: the base's next adapter does not write into it.
    fresh = trained(base, 1)
    assert all(torch.equal(t, first.weights[name]) for name, t in fresh.weights.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_an_adapter_rates_as_it_was_trained(base: PreTrainedModel, dtype: torch.dtype) -> None:
    base = copy.deepcopy(base).to(dtype)
    config = LoraConfig(r=4, target_modules=["q_proj", "k_proj"], init_lora_weights=False)
    with lend(base, config, seed=0) as lent:
        weights = weights_of(lent)
    assert {t.dtype for t in weights.values()} == {torch.promote_types(dtype, torch.float32)}
    with attach(base, TrainedAdapter(config, weights, {})):
        named = [(name, p) for name, p in base.named_parameters() if "lora" in name]
        attached = {name.replace(".default", ""): p for name, p in named}
    assert len(attached) == len(weights)
    for name, parameter in attached.items():
        assert torch.equal(parameter, weights[f"base_model.model.{name}"])


def test_a_merged_adapter_is_taken_out_bit_by_bit(base: PreTrainedModel) -> None:
    before, adapter = hidden(base), trained(base, 1)
    with attach(base, adapter):
        beside = hidden(base)
    with attach(base, adapter, merge=True):
        merged = hidden(base)
    torch.testing.assert_close(merged, beside, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(merged, before, atol=1e-2)
    assert torch.equal(hidden(base), before)


def test_an_adapter_tells_its_size(base: PreTrainedModel) -> None:
    n_base = sum(p.numel() for p in base.parameters())
    with lend(base, LORA.config(["q_proj", "k_proj"]), seed=0) as lent:
        told = describe_size(lent)
    # Rank 4 on two layers: query 32 x 32, key 32 x 16.
    share = 896 / (n_base + 896)
    assert told == f"896 parameters to train, {share:.1%} of all; rank 4 of at most 16"


def test_no_adapter_attached_is_the_base(base: PreTrainedModel) -> None:
    before = hidden(base)
    with attach(base, None):
        assert torch.equal(hidden(base), before)


# PEFT asks transformers for a property by its former name.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_a_saved_adapter_is_a_standard_peft_folder(base: PreTrainedModel, tmp_path: Path) -> None:
    adapter = trained(base, 1)
    adapter.save(tmp_path)
    names = {"adapter_config.json", "adapter_model.safetensors"}
    assert {file.name for file in tmp_path.iterdir()} >= names
    loaded = TrainedAdapter.load(tmp_path)
    assert loaded.summary == adapter.summary
    assert isinstance(loaded.summary["n_rows"], int)
    assert loaded.weights.keys() == adapter.weights.keys()
    with attach(base, adapter):
        expected = hidden(base)
    with attach(base, loaded):
        assert torch.equal(hidden(base), expected)
    foreign = PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path))
    model: Any = foreign.base_model.model
    assert torch.equal(hidden(model), expected)
    assert not torch.allclose(hidden(base), expected, atol=1e-2)

"""Base models: random ones, and folders of weights."""

import copy
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from configured import configured
from torch import Tensor
from transformers import GraniteConfig, GraniteForCausalLM, PreTrainedModel

from persona_lab.data import Scale
from persona_lab.errors import UserError
from persona_lab.model import BaseModel
from persona_lab.model import base as base_module
from persona_lab.model.decode import respond
from persona_lab.model.engine import ATTENTION, Tree, group, run
from persona_lab.model.phi3 import SplitProjection
from persona_lab.model.train import by_prefix
from persona_lab.prompting import Example
from persona_lab.sources import Hub, Sources

STARS: Scale = configured("data/scale=five_stars")


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that another test loaded is taken for loaded."""
    base_module._load.cache_clear()
    base_module._codec.cache_clear()


def hidden(model: PreTrainedModel) -> Tensor:
    with torch.inference_mode():
        return run(model, Tree([group([[5, 6, 7, 8, 9], [5, 6, 11]], [0, 1])]))


def of(tiny: BaseModel, architecture: str, **fields: Any) -> BaseModel:
    assert tiny.random is not None
    return replace(tiny, random={**tiny.random, "architecture": architecture}, **fields)


def local(tiny: BaseModel, folder: Path, **fields: Any) -> BaseModel:
    return replace(tiny, name="local", random=None, path=str(folder), **fields)


@pytest.fixture
def saved(tiny: BaseModel, sources: Sources, tmp_path: Path) -> Path:
    """A folder as transformers saves one."""
    folder = tmp_path / "weights"
    model = tiny.load(sources, torch.float32, "cpu")
    model.save_pretrained(folder)
    tiny.codec(sources, 4, STARS).tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["llama", "phi3"])
def test_random_weights_are_the_same_at_each_build(
    tiny: BaseModel, sources: Sources, name: str
) -> None:
    base = of(tiny, name)
    first = base.load(sources, torch.float32, "cpu")
    torch.manual_seed(17)
    state = torch.get_rng_state()
    base_module._load.cache_clear()
    second = base.load(sources, torch.float32, "cpu")
    assert torch.equal(torch.get_rng_state(), state)
    assert first is not second
    assert torch.equal(hidden(first), hidden(second))


def test_a_base_is_frozen_and_attends_by_the_engine(tiny: BaseModel, sources: Sources) -> None:
    model = tiny.load(sources, torch.bfloat16, "cpu")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in model.parameters())
    assert not model.training
    assert model.config._attn_implementation == ATTENTION


def test_a_base_is_loaded_once_for_all_jobs(tiny: BaseModel, sources: Sources, saved: Path) -> None:
    one, other = local(tiny, saved), local(tiny, saved, lora_targets=["v_proj"], context=99)
    assert one.load(sources, torch.float32, "cpu") is other.load(sources, torch.float32, "cpu")
    again = replace(tiny, name="other name", random=dict(tiny.random or {}))
    assert tiny.load(sources, torch.float32, "cpu") is again.load(sources, torch.float32, "cpu")
    assert tiny.codec(sources, 4, STARS) is again.codec(sources, 4, STARS)


def test_the_tokenizer_of_random_models_reads_and_answers(
    tiny: BaseModel, sources: Sources
) -> None:
    codec = tiny.codec(sources, 4, STARS)
    assert len({*codec.value_ids}) == 5
    assert codec.system_role
    vocabulary = tiny.load(sources, torch.float32, "cpu").config.vocab_size
    assert len(codec.tokenizer) <= vocabulary
    text = 'Amélie (2001): "10/10", said I.\n'
    ids = codec.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert codec.tokenizer.decode(ids) == text
    assert max(ids) < vocabulary


def test_an_unknown_architecture_is_the_users_error(tiny: BaseModel, sources: Sources) -> None:
    with pytest.raises(UserError, match=r"'gpt' does not exist \(choose llama or phi3 or gemma3\)"):
        of(tiny, "gpt").load(sources, torch.float32, "cpu")


def test_phi3_is_split_and_its_window_is_off_or_native(
    tiny: BaseModel, sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_config = base_module._tiny_config

    def windowed(sizes: Any) -> Any:
        config = tiny_config(sizes)
        config.sliding_window = 3
        return config

    monkeypatch.setattr(base_module, "_tiny_config", windowed)
    models = {}
    for window in ("off", "native"):
        model = of(tiny, "phi3", sliding_window=window).load(sources, torch.float32, "cpu")
        assert isinstance(model.get_decoder().layers[0].self_attn.qkv_proj, SplitProjection)  # pyright: ignore
        models[window] = hidden(model), model.config.sliding_window
    assert models["off"][1] is None
    assert models["native"][1] == 3
    # Packed are the prefix 5 6, then 7 8 9, then 11: the window hides the 5 from 8 and 9 alone.
    near, far = [0, 1, 2, 5], [3, 4]
    torch.testing.assert_close(models["off"][0][near], models["native"][0][near])
    assert not torch.allclose(models["off"][0][far], models["native"][0][far], rtol=1e-3)


def test_a_local_folder_gives_the_saved_model(
    tiny: BaseModel, sources: Sources, saved: Path, make_examples: Callable[..., list[Example]]
) -> None:
    expected = hidden(tiny.load(sources, torch.float32, "cpu"))
    base = local(tiny, saved)
    model, codec = base.load(sources, torch.float32, "cpu"), base.codec(sources, 4, STARS)
    assert torch.equal(hidden(model), expected)
    assert codec.value_ids == tiny.codec(sources, 4, STARS).value_ids
    examples = make_examples()
    groups = list(by_prefix([e.ids for e in examples], [e.user_id for e in examples]))
    assert len(respond(model, codec, configured("decode=paper"), groups, examples, 0, 4096)) == len(
        examples
    )


def test_no_pad_token_is_needed(
    tiny: BaseModel, sources: Sources, saved: Path, make_examples: Callable[..., list[Example]]
) -> None:
    """LLaMA-3 has none, and rows of any length stand in one batch."""
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | {"pad_token_id": None}))
    base = local(tiny, saved)
    model, codec = base.load(sources, torch.float32, "cpu"), base.codec(sources, 4, STARS)
    assert model.config.pad_token_id is None
    assert codec.tokenizer.pad_token is None
    examples = make_examples()
    assert len({len(example.ids) for example in examples}) > 2
    groups = list(by_prefix([e.ids for e in examples], [e.user_id for e in examples]))
    together = respond(model, codec, configured("decode=paper"), groups, examples, 0, 4096)
    for i, example in enumerate(examples):
        alone = respond(
            model,
            codec,
            configured("decode=paper"),
            list(by_prefix([example.ids], [0])),
            [example],
            0,
            4096,
        )
        assert together[i].expected_rating == pytest.approx(alone[0].expected_rating, rel=1e-4)


def test_others_find_the_same_weights(tiny: BaseModel, sources: Sources, saved: Path) -> None:
    hub = Hub("model", "someone/model", "abc", ["*.safetensors"])
    assert tiny.published(sources) is None
    assert replace(tiny, random=None, source=hub).published(sources) == "someone/model"
    assert local(tiny, saved).published(sources) == str(saved)
    assert local(tiny, saved, source=hub).published(sources) == str(saved)


def test_a_local_phi3_is_split_too(tiny: BaseModel, sources: Sources, tmp_path: Path) -> None:
    from transformers import Phi3Config, Phi3ForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 61}
    config = Phi3Config(
        **sizes, num_attention_heads=4, num_key_value_heads=2, pad_token_id=1, eos_token_id=1,
        bos_token_id=0, sliding_window=3,
    )  # fmt: skip
    stock = Phi3ForCausalLM(config).eval()
    stock.save_pretrained(tmp_path)
    native = local(tiny, tmp_path, sliding_window="native").load(sources, torch.float32, "cpu")
    assert isinstance(native.get_decoder().layers[1].self_attn.qkv_proj, SplitProjection)  # pyright: ignore
    stock.set_attn_implementation(ATTENTION)
    torch.testing.assert_close(hidden(native), hidden(stock))
    off = local(tiny, tmp_path).load(sources, torch.float32, "cpu")
    assert off is not native
    assert off.config.sliding_window is None


@pytest.mark.parametrize("present", [[], ["config.json"], ["model.safetensors"]])
def test_a_folder_without_weights_is_the_users_error(
    tiny: BaseModel, sources: Sources, tmp_path: Path, present: list[str]
) -> None:
    for name in present:
        (tmp_path / name).write_text("{}")
    base = local(tiny, tmp_path)
    for use in (
        lambda: base.load(sources, torch.float32, "cpu"),
        lambda: base.fingerprint(sources),
        lambda: base.codec(sources, 4, STARS),
    ):
        with pytest.raises(UserError, match=r"has no config\.json with \*\.safetensors"):
            use()


def test_the_fingerprint_follows_the_weights(
    tiny: BaseModel, sources: Sources, saved: Path, tmp_path: Path
) -> None:
    base = local(tiny, saved)
    before = base.fingerprint(sources)
    assert base.fingerprint(sources) == before
    copied = tmp_path / "elsewhere"
    copied.mkdir()
    for file in saved.iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    assert local(tiny, copied).fingerprint(sources) == before
    # One adapter merged: the file's ends and its size stay what they were.
    weights = bytearray((saved / "model.safetensors").read_bytes())
    weights[len(weights) // 2] ^= 1
    (saved / "model.safetensors").write_bytes(weights)
    changed = base.fingerprint(sources)
    assert changed != before
    assert changed["config.json"] == before["config.json"]


def test_large_weights_count_whole(tiny: BaseModel, sources: Sources, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    weights = bytearray(os.urandom(2**20)) * 4
    seen = set()
    for position in (0, 2**21 + 5, len(weights) - 1):
        changed = copy.copy(weights)
        changed[position] ^= 1
        (tmp_path / "model.safetensors").write_bytes(changed)
        seen.add(str(local(tiny, tmp_path).fingerprint(sources)))
    assert len(seen) == 3


def test_fingerprints_of_sources_and_random_weights(tiny: BaseModel, sources: Sources) -> None:
    """They need neither disk nor network."""
    assert tiny.fingerprint(sources) == tiny.random
    hub = Hub("model", "someone/model", "abc", ["*.safetensors"])
    base = replace(tiny, random=None, source=hub)
    other = replace(base, source=replace(hub, revision="def"))
    assert base.fingerprint(sources) != other.fingerprint(sources)


def test_a_model_that_scales_its_logits_is_refused(
    tiny: BaseModel, sources: Sources, tmp_path: Path
) -> None:
    sizes: Any = {
        **{"vocab_size": 40, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 1},
        "initializer_range": 0.2,
    }
    for scale, folder in ((1.0, tmp_path / "plain"), (8.0, tmp_path / "scaled")):
        GraniteForCausalLM(GraniteConfig(**sizes, logits_scaling=scale)).save_pretrained(folder)
    local(tiny, tmp_path / "plain").load(sources, torch.float32, "cpu")
    with pytest.raises(UserError, match="the architecture granite is not supported"):
        local(tiny, tmp_path / "scaled").load(sources, torch.float32, "cpu")

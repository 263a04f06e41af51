"""What stock transformers and PEFT make of exported adapters: the same logits."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from configured import configured
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from persona_lab.errors import UserError
from persona_lab.model import Peft, TrainedAdapter, attach, lend
from persona_lab.model.adapters import weights_of
from persona_lab.model.engine import Tree, group, run
from persona_lab.model.export import as_published, save_fused, vllm_rank
from persona_lab.model.phi3 import FUSED, fuse_weights, split_projections

# PEFT asks transformers for a property by its former name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
FAMILIES = ["llama", "phi3"]
ROWS = [[5, 6, 7, 8, 9, 10, 11], [5, 6, 7, 8, 20, 21, 22]]


def peft(kind: str, **fields: Any) -> Peft:
    return configured(f"peft={kind}", **{"r": 4, "alpha": 6, "dropout": 0.0, **fields})


@pytest.fixture(params=FAMILIES)
def published(
    request: pytest.FixtureRequest,
    build_model: Callable[[str], PreTrainedModel],
    in_fp64: None,
    tmp_path: Path,
) -> Path:
    """A model's folder, as on the hub, in fp64."""
    model = build_model(request.param).double()
    model.config.tie_word_embeddings = False
    model.save_pretrained(tmp_path / "published")
    return tmp_path / "published"


def stock(folder: Path) -> Any:
    loading: Any = AutoModelForCausalLM.from_pretrained
    return loading(folder, dtype=torch.float64, attn_implementation="eager").eval()


def built(folder: Path) -> PreTrainedModel:
    """As `BaseModel.load` builds one."""
    model = stock(folder)
    model.set_attn_implementation("persona_lab_tree")
    split_projections(model)
    return model.requires_grad_(False)


def trained(base: PreTrainedModel, kind: Peft, targets: list[str]) -> TrainedAdapter:
    """With weights of every sort that move the outputs far, as training does."""
    config = kind.config(targets)
    torch.manual_seed(1)
    with lend(base, config, 0) as lent:
        for parameter in lent.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.double() + 0.3 * torch.randn_like(
                    parameter, dtype=torch.float64
                )
        return TrainedAdapter(config, weights_of(lent), {"n_rows": 1})


def here(base: PreTrainedModel, adapter: TrainedAdapter | None) -> Tensor:
    with attach(base, adapter), torch.inference_mode():
        tree = Tree([group(ROWS, [0, 1])])
        logits = base.get_output_embeddings()(run(base, tree))
        return torch.stack([logits[tree.ends[i]] for i in range(2)])


def there(model: Any) -> Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.tensor(ROWS)).logits[:, -1]


@pytest.mark.parametrize("targets", [["q_proj", "k_proj"], ["k_proj", "v_proj", "down_proj"]])
@pytest.mark.parametrize("kind", ["lora", "rslora", "ia3", "qlora"])
def test_peft_gives_the_same_on_the_published_model(
    published: Path, kind: str, targets: list[str], tmp_path: Path
) -> None:
    base = built(published)
    adapter = trained(base, peft(kind), targets)
    expected = here(base, adapter)
    assert (expected - here(base, None)).abs().max() > 0.1

    as_published(adapter, base.config, str(published)).save(tmp_path)
    loaded = PeftModel.from_pretrained(stock(published), str(tmp_path))
    loaded.eval()
    torch.testing.assert_close(there(loaded), expected, rtol=0, atol=1e-9)
    # Alone, it finds its base.
    assert loaded.active_peft_config.base_model_name_or_path == str(published)


@pytest.mark.parametrize("kind", ["lora", "rslora", "dora", "ia3"])
def test_a_merged_model_is_a_published_one(published: Path, kind: str, tmp_path: Path) -> None:
    base = built(published)
    adapter = trained(base, peft(kind), ["q_proj", "k_proj", "down_proj"])
    before, expected = here(base, None), here(base, adapter)
    save_fused(base, adapter, tmp_path)
    merged = stock(tmp_path)
    torch.testing.assert_close(there(merged), expected, rtol=0, atol=1e-9)
    assert merged.state_dict().keys() == stock(published).state_dict().keys()
    assert merged.config.model_type == stock(published).config.model_type
    # It was lent: the next adapter finds the base as it was.
    assert torch.equal(here(base, None), before)


def test_an_adapter_of_phi3_is_blocks(
    build_model: Callable[[str], PreTrainedModel],
) -> None:
    base = build_model("phi3")
    split_projections(base)
    adapter = trained(base, peft("rslora"), ["q_proj", "k_proj", "o_proj"])
    fused = as_published(adapter, base.config, None)
    config: Any = fused.config
    assert config.target_modules == {FUSED, "o_proj"}
    assert (config.r, config.lora_alpha) == (8, pytest.approx(6 * 2**0.5))
    # Queries of 32 outputs, keys and values of 16.
    name = "base_model.model.model.layers.0.self_attn.{}.lora_{}.weight"
    blocks = fused.weights[name.format(FUSED, "B")]
    assert blocks.shape == (64, 8)
    assert torch.equal(blocks[:32, :4], adapter.weights[name.format(f"{FUSED}.q_proj", "B")])
    assert torch.equal(blocks[32:48, 4:], adapter.weights[name.format(f"{FUSED}.k_proj", "B")])
    for zeros in (blocks[:32, 4:], blocks[32:48, :4], blocks[48:]):
        assert not zeros.any()
    assert not fused.weights[name.format("o_proj", "A")][4:].any()
    # The trained adapter itself is left as it is.
    assert (adapter.config.r, adapter.config.lora_alpha) == (4, 6)  # pyright: ignore


def test_dora_has_no_form_on_the_fused_projection(
    build_model: Callable[[str], PreTrainedModel],
) -> None:
    base = build_model("phi3")
    split_projections(base)
    adapter = trained(base, peft("dora"), ["q_proj", "k_proj"])
    with pytest.raises(UserError, match=r"lora_magnitude_vector.*\(export it merged: --to fused\)"):
        as_published(adapter, base.config, None)


@pytest.mark.parametrize("kind", ["lora", "rslora"])
def test_vllm_is_given_the_rank_that_it_needs(llama: PreTrainedModel, kind: str) -> None:
    def rank(r: int) -> int:
        adapter = TrainedAdapter(peft(kind, r=r).config(["q_proj"]), {}, {})
        return vllm_rank(as_published(adapter, llama.config, None))

    assert [rank(r) for r in (1, 8, 9, 256, 300, 512)] == [8, 8, 16, 256, 320, 512]
    with pytest.raises(UserError, match=r"ranks up to 512.*has 513 \(train with a lower peft\.r"):
        rank(513)


def test_vllm_takes_twice_the_rank_of_a_split_adapter(
    build_model: Callable[[str], PreTrainedModel],
) -> None:
    base = build_model("phi3")
    split_projections(base)
    small, large = (
        as_published(trained(base, peft("lora", r=r), ["q_proj", "k_proj"]), base.config, None)
        for r in (256, 257)
    )
    assert vllm_rank(small) == 512
    with pytest.raises(UserError, match="has 514"):
        vllm_rank(large)


@pytest.mark.parametrize(("kind", "word"), [("dora", "DoRA"), ("ia3", "IA3")])
def test_what_vllm_does_not_take_is_refused(llama: PreTrainedModel, kind: str, word: str) -> None:
    adapter = TrainedAdapter(peft(kind).config(["q_proj"]), {}, {})
    with pytest.raises(UserError, match=f"vLLM takes no .*{word}"):
        vllm_rank(as_published(adapter, llama.config, None))


def test_weights_fuse_to_what_was_split(build_model: Callable[[str], PreTrainedModel]) -> None:
    model = build_model("phi3")
    before = copy.deepcopy(model.state_dict())
    split_projections(model)
    after = fuse_weights(model.state_dict())
    assert after.keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())
    assert not isinstance(model.get_decoder().layers[0].self_attn.qkv_proj, nn.Linear)  # pyright: ignore

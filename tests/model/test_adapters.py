"""A trained adapter in a folder."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from configured import configured
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from persona_lab.model import TrainedAdapter, attach, lend
from persona_lab.model.adapters import weights_of
from persona_lab.model.engine import Tree, group, run


def hidden(model: PreTrainedModel) -> Tensor:
    with torch.inference_mode():
        return run(model, Tree([group([[5, 6, 7, row, 9] for row in range(4)], range(4))]))


# PEFT asks transformers for a property by its former name.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_a_saved_adapter_is_a_standard_peft_folder(llama: PreTrainedModel, tmp_path: Path) -> None:
    base = llama.requires_grad_(False)
    config = configured("peft=lora", r=4, alpha=8, dropout=0.0).config(["q_proj", "k_proj"])
    with lend(base, config, seed=1) as lent:
        for parameter in lent.parameters():
            if parameter.requires_grad:
                nn.init.normal_(parameter, std=0.3)
        adapter = TrainedAdapter(config, weights_of(lent), {"n_rows": 12, "loss": 0.5})
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

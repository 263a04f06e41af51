"""A run's adapters, exported and loaded by stock transformers and PEFT."""

import contextlib
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from command import command
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from persona_lab.compose import Run, load_run
from persona_lab.export import main
from persona_lab.model import attach
from persona_lab.model import base as base_module
from persona_lab.model.engine import Tree, group, run
from persona_lab.model.phi3 import FUSED, fuse_weights

# PEFT asks transformers for a property by its former name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
SMALL = ["slm=tiny_phi3", "memory=ms", "data.n_users=4", "personas.n_personas=2", "peft.r=4"]
ROWS = [[5, 6, 7, 8, 9, 10, 11], [5, 6, 7, 8, 20, 21, 22]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished run of a model whose projections are split, with a cache of its own."""
    parent = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERSONA_LAB_CACHE", str(parent / "cache"))
        assert command(parent, "experiment=smoke", *SMALL, "hydra.run.dir=phi3") == "0"
        yield parent / "phi3"


def told(*arguments: str | Path) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(each) for each in arguments])
    return code, out.getvalue(), err.getvalue()


def ours(one: Run) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """The base, and the logits with each adapter attached to it."""
    tuning = one.experiment.tuning(one.lab, one.experiment.prepare(one.lab))
    base = tuning.base()
    logits = {}
    for name, entry in tuning.adapters().items():
        with attach(base, entry.value), torch.inference_mode():
            tree = Tree([group(ROWS, [0, 1])])
            hidden = run(base, tree)[tree.ends]
            logits[name] = base.get_output_embeddings()(hidden)  # pyright: ignore
    return base, logits


def stock(folder: Path) -> Any:
    loading: Any = AutoModelForCausalLM.from_pretrained
    return loading(folder, dtype=torch.float32).eval()


def theirs(model: Any) -> Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.tensor(ROWS)).logits[:, -1]


def test_adapters_load_on_the_published_model(folder: Path, tmp_path: Path) -> None:
    code, printed, _ = told(folder, "--to", "peft", tmp_path / "out")
    assert code == 0
    base, logits = ours(load_run(folder))
    assert list(logits) == ["persona_0", "persona_1"]
    base.save_pretrained(tmp_path / "base", state_dict=fuse_weights(base.state_dict()))
    # As it is told: one by one on the same base.
    first, second = (tmp_path / "out" / name for name in logits)
    assert f"PeftModel.from_pretrained(base, '{first}', adapter_name='persona_0')" in printed
    model = PeftModel.from_pretrained(stock(tmp_path / "base"), str(first), "persona_0")
    model.load_adapter(str(second), "persona_1")
    for name, expected in logits.items():
        model.set_adapter(name)
        torch.testing.assert_close(theirs(model), expected, rtol=1e-4, atol=1e-5)
    plain = theirs(stock(tmp_path / "base"))
    assert (logits["persona_0"] - plain).abs().max() > 1e-3
    # What was trained leaves the value as it was.
    weights = {name: p for name, p in model.named_parameters() if f"{FUSED}.lora_B" in name}
    assert len(weights) == 4
    for blocks in weights.values():
        # 64 queries, then 32 keys and 32 values.
        assert blocks[64:96].any()
        assert not blocks[96:].any()


def test_a_whole_model_is_a_stock_folder(folder: Path, tmp_path: Path) -> None:
    code, printed, _ = told(folder, "--to", "fused", tmp_path)
    assert code == 0
    assert f"AutoModelForCausalLM.from_pretrained('{tmp_path / 'persona_0'}')" in printed
    one = load_run(folder)
    _, logits = ours(one)
    for name, expected in logits.items():
        torch.testing.assert_close(theirs(stock(tmp_path / name)), expected, rtol=1e-4, atol=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "persona_0")
    codec = one.experiment.tuning(one.lab, one.experiment.prepare(one.lab)).codec
    assert tokenizer.chat_template == codec.tokenizer.chat_template


def test_vllm_is_told_the_rank(folder: Path, tmp_path: Path) -> None:
    code, printed, _ = told(folder, "--to", "vllm", tmp_path)
    assert code == 0
    # Twice the rank of 4, for query and key.
    assert "vllm serve '<base>' --enable-lora --max-lora-rank 8 --lora-modules" in printed
    assert f"persona_1={tmp_path / 'persona_1'}" in printed
    assert (tmp_path / "persona_0" / "adapter_model.safetensors").exists()


def test_a_window_that_the_run_had_off_is_told(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = base_module._tiny_config

    def windowed(sizes: Any) -> Any:
        config = published(sizes)
        config.sliding_window = 3
        return config

    monkeypatch.setattr(base_module, "_tiny_config", windowed)
    _, printed, _ = told(folder, "--to", "vllm", tmp_path / "vllm")
    assert """--hf-overrides '{"sliding_window": null}'""" in printed
    _, printed, _ = told(folder, "--to", "peft", tmp_path / "peft")
    assert "from_pretrained('<base>', sliding_window=None)" in printed


def test_what_is_in_the_way_stays(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "persona_1").mkdir()
    code, _, error = told(folder, "--to", "peft", tmp_path)
    assert (code, error) == (
        1,
        f"{tmp_path / 'persona_1'} is already there (name another folder)\n",
    )
    assert [each.name for each in tmp_path.iterdir()] == ["persona_1"]


def test_what_is_lost_is_not_trained_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A copy of the store, as on a machine that cleaned up.
    cache = tmp_path / "cache"
    shutil.copytree(os.environ["PERSONA_LAB_CACHE"], cache)
    monkeypatch.setenv("PERSONA_LAB_CACHE", str(cache))
    shutil.rmtree(cache / "store" / "adapter")
    code, _, error = told(folder, "--to", "peft", tmp_path / "out")
    assert code == 1
    assert "is not in the store any more (make it again: persona-lab experiment=smoke" in error
    assert error.count("\n") == 1
    assert not (cache / "store" / "adapter").exists()
    assert not (tmp_path / "out").exists()


def changed(folder: Path, into: Path, old: str, new: str) -> Path:
    """A run's folder with another configuration."""
    shutil.copytree(folder, into)
    config = into / ".hydra" / "config.yaml"
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))
    return into


def test_a_run_without_adapters_is_the_users_error(folder: Path, tmp_path: Path) -> None:
    frozen = changed(folder, tmp_path / "run", "modes.ByPersona", "modes.NoOne")
    code, _, error = told(frozen, "--to", "peft", tmp_path / "out")
    assert code == 1
    assert "is a run without adapters (name one that trained some)" in error
    code, _, error = told(tmp_path, "--to", "peft", tmp_path / "out")
    assert code == 1
    assert "is not the folder of a run" in error


def test_what_has_no_such_form_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = "persona_lab.model.export.VLLM_RANKS"
    monkeypatch.setattr(ranks, (4,))
    code, _, error = told(folder, "--to", "vllm", tmp_path / "out")
    assert code == 1
    assert "takes ranks up to 4" in error
    assert not (tmp_path / "out").exists()

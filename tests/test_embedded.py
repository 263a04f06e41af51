"""The embedded setup's real parts: ratings, weights and vectors that pip fetches once."""

from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from persona_lab.cache import Cache
from persona_lab.compose import configure
from persona_lab.experiment import Experiment
from persona_lab.lab import Lab
from persona_lab.model import lend
from persona_lab.model.engine import ATTENTION, Tree
from persona_lab.model.loggers import NoLogger
from persona_lab.model.module import loss_of
from persona_lab.model.train import answered
from persona_lab.prompting import Example
from persona_lab.sources import Sources

SMALL = (
    *("row=r10", "data.n_users=4", "data.test_rows_per_user=2", "personas.n_personas=2"),
    *("adapter.rows_per_user=2", "train.batch_size=4", "logger=none"),
)


@cache
def experiment(*overrides: str) -> Experiment:
    return configure(*SMALL, *overrides).experiment


@pytest.fixture(scope="session")
def store(session_folder: Path) -> Cache:
    """One for all processes, so that the shared stages are computed once."""
    return Cache(session_folder / "embedded")


def test_the_main_job_on_real_ratings_and_weights(
    real_sources: Sources, store: Cache, tmp_path: Path
) -> None:
    result = experiment().run(Lab(real_sources, store, tmp_path, NoLogger()))
    assert (result.row.id, result.row.model, result.row.data) == ("r10", "smollm2", "ml_100k")
    assert set(result.adapters) == {"persona_0", "persona_1"}
    assert sum(each["n_rows"] for each in result.adapters.values()) == 4 * 2
    assert not any(each["found"] for each in result.audit)
    frame = pd.read_parquet(tmp_path / "predictions.parquet")
    assert len(frame) == result.n_test == 4 * 2
    # Digits are what an instruction-tuned model answers with, not one token in five of 49,152.
    assert frame["digit_mass"].mean() > 0.01
    assert frame["response"].str.len().gt(0).all()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_loss_and_gradients_on_real_weights_are_those_of_separate_rows(
    real_sources: Sources,
    store: Cache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    one = experiment("peft.dropout=0.0", "peft.r=8")
    lab = Lab(real_sources, store, tmp_path, NoLogger())
    prepared = one.prepare(lab)
    tuning = one.tuning(lab, prepared)
    codec = tuning.codec
    train = prepared.split.value.train.groupby("user_id").tail(2).head(4)
    examples = tuning.examples(train, training=True)
    model = one.model.load(real_sources, dtype, "cpu")
    # A third of its layers, which are all of one kind.
    monkeypatch.setattr(model.model, "layers", model.model.layers[:10])
    if dtype == torch.float64:
        # transformers' norm computes in fp32 whatever it is given.
        monkeypatch.setattr(LlamaRMSNorm, "forward", _norm)
    config: Any = one.peft.config(one.model.lora_targets)
    config.init_lora_weights = False
    with lend(model, config, seed=0) as lent:
        lent.to(dtype).train()
        trained = {name: p for name, p in lent.named_parameters() if p.requires_grad}

        def gradients(loss: Tensor) -> dict[str, Tensor]:
            found = torch.autograd.grad(loss, list(trained.values()))
            return {"loss": loss.detach(), **dict(zip(trained, found, strict=True))}

        rows = answered(examples, codec)
        assert all(len(group.prefix) > 300 for group in rows.groups)
        got = gradients(loss_of(model, Tree(rows.groups), rows, one.train.loss))
        model.set_attn_implementation("sdpa")
        try:
            losses = [_alone(model, each, codec.answer(each.rating)) for each in examples]
            expected = gradients(torch.stack(losses).sum())
        finally:
            model.set_attn_implementation(ATTENTION)
    errors = {name: float((got[name] - e).norm() / e.norm()) for name, e in expected.items()}
    assert max(errors.values()) <= tolerance, errors


def _alone(model: nn.Module, example: Example, answer: list[int]) -> Tensor:
    ids = torch.tensor([example.ids + answer[:-1]])
    logits = model(input_ids=ids, use_cache=False, logits_to_keep=len(answer)).logits[0]
    return cross_entropy(logits, torch.tensor(answer))


def _norm(self: LlamaRMSNorm, hidden: Tensor) -> Tensor:
    scale = torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
    return self.weight * hidden * scale

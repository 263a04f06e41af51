"""Training and rating through Lightning, on toys."""

import copy
import ctypes
import logging
import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from transformers import PreTrainedModel

from persona_lab.errors import UserError
from persona_lab.model import (
    BaseModel,
    Decode,
    Lora,
    Train,
    TrainedAdapter,
    Trainer,
    attach,
    fit_adapter,
    fit_on_devices,
    rate_examples,
)
from persona_lab.model.engine import Tree
from persona_lab.model.module import Lines, UserAgentModule, answer_loss
from persona_lab.model.train import answered
from persona_lab.prompting import Codec, Example

TRAIN = Train(lr=0.02, epochs=2, batch_size=8, rows_per_prefix=3, warmup=0.0)
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "gate_proj")
PEFT = Lora(r=8, alpha=16, dropout=0.0)
Fit = Callable[..., TrainedAdapter]


@pytest.fixture
def base(tiny: BaseModel, sources: Any) -> PreTrainedModel:
    """Random weights as large as a trained model's: small ones cannot be sure of any token."""
    model = copy.deepcopy(tiny.load(sources, torch.float32, "cpu"))
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.data *= 15
    return model


@pytest.fixture
def fit(base: PreTrainedModel, codec: Codec, tmp_path: Path) -> Fit:
    def fit_toy(
        examples: Sequence[Example], recipe: Train = TRAIN, peft: Lora = PEFT, **options: Any
    ) -> TrainedAdapter:
        settings: dict[str, Any] = {"folder": tmp_path, "logger": None, "seed": 0, "name": "toy"}
        config = peft.config([*TARGETS])
        trainer = Trainer()
        return fit_adapter(base, codec, examples, recipe, config, trainer, **(settings | options))

    return fit_toy


def readable(examples: list[Example]) -> list[Example]:
    """Rows whose prompts end in a token that tells the rating."""
    return [replace(each, ids=[*each.ids, 40 + each.rating]) for each in examples]


def mean_loss(
    base: PreTrainedModel, adapter: TrainedAdapter | None, examples: list[Example], codec: Codec
) -> float:
    rows = answered(examples, codec)
    with attach(base, adapter), torch.inference_mode():
        return float(answer_loss(base, Tree(rows.groups), rows)) / (2 * len(examples))


def same(one: TrainedAdapter, other: TrainedAdapter) -> bool:
    assert one.weights.keys() == other.weights.keys()
    return all(torch.equal(t, other.weights[name]) for name, t in one.weights.items())


def test_an_adapter_learns_what_the_prompts_tell(
    fit: Fit,
    base: PreTrainedModel,
    codec: Codec,
    make_examples: Callable[..., list[Example]],
    tmp_path: Path,
) -> None:
    options: dict[str, Any] = {"prefix": 6, "vocabulary": 40}
    learned = readable(make_examples(n_users=10, n_rows=20, **options))
    unseen = readable(make_examples(n_users=6, n_rows=5, seed=1, **options))
    adapter = fit(learned, replace(TRAIN, epochs=8, batch_size=16, rows_per_prefix=8))
    before, after = (mean_loss(base, each, unseen, codec) for each in (None, adapter))
    # Guessing the digit alone costs log 5, half of that in the mean with the certain end.
    assert before > 5
    assert after < 0.4
    assert adapter.summary["loss"] < 0.4
    with attach(base, adapter):
        options = {"folder": tmp_path, "seed": 0, "name": "toy"}
        answers = rate_examples(base, codec, unseen, Decode("greedy"), Trainer(), **options)
    right = [answer.prediction == each.rating for answer, each in zip(answers, unseen, strict=True)]
    assert np.mean(right) > 0.8
    assert np.mean([answer.digit_mass for answer in answers]) > 0.9


def test_the_summary_counts(fit: Fit, make_examples: Callable[..., list[Example]]) -> None:
    examples = make_examples(n_users=3, n_rows=4)
    summary = fit(examples).summary
    assert (summary["n_rows"], summary["n_steps"]) == (12, 4)
    n_rowwise = sum(len(each.ids) + 1 for each in examples) * TRAIN.epochs
    assert 0 < summary["unique_tokens"] < n_rowwise


def test_what_diverges_is_no_adapter(
    fit: Fit, make_examples: Callable[..., list[Example]], monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = make_examples(n_users=3, n_rows=4)
    mend = r"\(lower train\.lr, or take trainer\.precision=32-true\)"
    hot = replace(TRAIN, lr=1e30)
    with pytest.raises(UserError, match=rf"toy diverged: the loss of step \d is nan {mend}"):
        fit(examples, hot)
    # One step: its loss is that of the weights before it.
    steps = {"epochs": 1, "batch_size": 12, "lr": float("inf")}
    with pytest.raises(UserError, match=rf"toy diverged: weights .* after step 1, .* {mend}"):
        fit(examples, replace(TRAIN, **steps))


def test_micro_batches_give_the_weights_of_whole_steps(
    fit: Fit, make_examples: Callable[..., list[Example]]
) -> None:
    examples = make_examples()
    whole = fit(examples)
    parts = fit(examples, replace(TRAIN, tokens_per_microbatch=30))
    assert parts.summary["unique_tokens"] == whole.summary["unique_tokens"]
    for name, tensor in whole.weights.items():
        torch.testing.assert_close(parts.weights[name], tensor, rtol=1e-3, atol=1e-4)
    assert parts.summary["loss"] == pytest.approx(whole.summary["loss"], rel=1e-4)


def test_a_seed_gives_the_same_weights_again(
    fit: Fit, make_examples: Callable[..., list[Example]]
) -> None:
    examples = make_examples()
    dropping = replace(PEFT, dropout=0.2)
    first = fit(examples, peft=dropping)
    # Whatever was drawn before must not matter.
    torch.rand(7)
    assert same(first, fit(examples, peft=dropping))
    assert not same(first, fit(examples, peft=dropping, seed=1))
    assert not same(first, fit(examples))


def test_training_leaves_the_base_as_it_was(
    fit: Fit, base: PreTrainedModel, make_examples: Callable[..., list[Example]]
) -> None:
    before = copy.deepcopy(base.state_dict())
    fit(make_examples())
    after = base.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert not base.training
    assert not any(p.requires_grad for p in base.parameters())


def test_lightning_does_not_move_the_base(base: PreTrainedModel, codec: Codec) -> None:
    # What is not on the CPU must not be taken there when an adapter is done.
    module = UserAgentModule(base.to("meta"), codec, [], TRAIN, seed=0)
    assert module.cpu() is module
    assert {parameter.device.type for parameter in base.parameters()} == {"meta"}


def test_only_the_adapter_is_trained_in_fp32_on_a_half_base(
    fit: Fit,
    tiny: BaseModel,
    codec: Codec,
    sources: Any,
    make_examples: Callable[..., list[Example]],
    tmp_path: Path,
) -> None:
    half = copy.deepcopy(tiny.load(sources, torch.bfloat16, "cpu"))
    adapter = fit_adapter(
        half,
        codec,
        make_examples(),
        TRAIN,
        PEFT.config(["q_proj", "k_proj"]),
        Trainer(precision="bf16-mixed", weights="bfloat16"),
        folder=tmp_path,
        logger=None,
        seed=0,
        name="toy",
    )
    assert {tensor.dtype for tensor in adapter.weights.values()} == {torch.float32}
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert np.isfinite(adapter.summary["loss"])


def test_responses_come_in_the_order_of_the_examples(
    base: PreTrainedModel,
    codec: Codec,
    make_examples: Callable[..., list[Example]],
    tmp_path: Path,
) -> None:
    examples = make_examples(n_users=4, n_rows=5)
    order = np.random.default_rng(0).permutation(len(examples)).tolist()
    options: dict[str, Any] = {"folder": tmp_path, "seed": 0, "name": "the base"}
    straight = rate_examples(base, codec, examples, Decode(), Trainer(), **options)
    shuffled = rate_examples(
        base,
        codec,
        [examples[i] for i in order],
        Decode(),
        Trainer(tokens_per_batch=50),
        **options,
    )
    for i, response in zip(order, shuffled, strict=True):
        np.testing.assert_allclose(response.probabilities, straight[i].probabilities, rtol=1e-4)
    assert len({response.expected_rating for response in straight}) == len(examples)


def test_the_loss_of_every_step_is_logged(
    fit: Fit, make_examples: Callable[..., list[Example]], tmp_path: Path
) -> None:
    logger = CSVLogger(tmp_path, name="curves", version="")
    summary = fit(make_examples(), logger=logger).summary
    logged = pd.read_csv(tmp_path / "curves" / "metrics.csv")["toy/loss"]
    assert len(logged) == summary["n_steps"] == 4
    # The summary's loss is that of the last epoch.
    assert logged[2:].mean() == pytest.approx(summary["loss"], rel=1e-5)


def test_a_bar_is_shown_where_it_is_asked_for(
    base: PreTrainedModel,
    codec: Codec,
    make_examples: Callable[..., list[Example]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options: dict[str, Any] = {"folder": tmp_path, "seed": 0, "name": "toy"}
    for progress in (False, True):
        rate_examples(base, codec, make_examples(), Decode(), Trainer(progress=progress), **options)
        assert ("Predicting" in capsys.readouterr().out) == progress


def test_nothing_but_the_loggers_files_is_written(
    fit: Fit, make_examples: Callable[..., list[Example]], tmp_path: Path
) -> None:
    fit(make_examples())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("known", "precision"),
    [({"amx_bf16": True}, "bf16-mixed"), ({"amx_bf16": False}, "32-true"), ({}, "32-true")],
)
def test_auto_is_bf16_only_where_the_cpu_has_units_for_it(
    monkeypatch: pytest.MonkeyPatch, known: dict[str, bool], precision: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known)
    assert Trainer(precision="auto").computes == precision
    assert Trainer(precision="64-true").computes == "64-true"
    assert Trainer(accelerator="gpu", precision="auto").computes == "32-true"


def test_a_gpu_that_is_not_there_is_the_users_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="torch sees no GPU"):
        _ = Trainer(accelerator="gpu").device


def test_progress_is_told_in_lines(
    fit: Fit,
    base: PreTrainedModel,
    codec: Codec,
    make_examples: Callable[..., list[Example]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr("persona_lab.model.module.time.monotonic", lambda: float(next(clock)))
    module = UserAgentModule(base, codec, make_examples(), TRAIN, 0)
    lines = Lines("training toy")
    trainer: Any = None
    lines.on_train_start(trainer, module)
    with caplog.at_level(logging.INFO, "persona_lab.model.module"):
        lines.on_train_batch_end(trainer, module, None, [0] * 6, 0)
        assert not caplog.messages
        lines.on_train_batch_end(trainer, module, None, [0] * 6, 1)
    # 12 of 2 x 12 rows in 40 seconds.
    assert caplog.messages == ["training toy: 12 of 24 rows, 0.3 rows/s, 40 s left"]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps what is freed")
def test_freed_memory_is_given_back_after_training(
    base: PreTrainedModel,
    codec: Codec,
    make_examples: Callable[..., list[Example]],
    tmp_path: Path,
) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    size = 64 * 1024
    blocks = [libc.malloc(size) for _ in range(4000)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    for block in blocks[:-1]:  # the last one holds the heap's end
        libc.free(block)
    held = resident()
    fit_on_devices(
        lambda: base,
        codec,
        make_examples(),
        TRAIN,
        Lora(r=2).config(["q_proj"]),
        Trainer(),
        folder=tmp_path,
        logger=None,
        seed=0,
        name="toy",
    )
    libc.free(blocks[-1])
    assert held - resident() > 0.5 * 4000 * size

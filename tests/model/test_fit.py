"""Training and rating through Lightning, on toys."""

import copy
import ctypes
import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from configured import configured
from lightning.pytorch.loggers import CSVLogger
from transformers import PreTrainedModel

from persona_lab.errors import UserError
from persona_lab.model import (
    BaseModel,
    Fit,
    Peft,
    Rating,
    Train,
    TrainedAdapter,
    Trainer,
    attach,
    fit_adapter,
    fit_on_devices,
    rate_examples,
)
from persona_lab.model.engine import Tree
from persona_lab.model.module import loss_of
from persona_lab.model.train import answered
from persona_lab.prompting import Codec, Example

CPU: Trainer = configured("trainer=cpu", precision="32-true")
TRAIN: Train = configured(
    "train=default", lr=0.02, epochs=2, batch_size=8, rows_per_prefix=3, warmup=0.0
)
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "gate_proj")
PEFT: Peft = configured("peft=lora", r=8, alpha=16, dropout=0.0)
FitToy = Callable[..., TrainedAdapter]


@pytest.fixture
def base(confident: PreTrainedModel) -> PreTrainedModel:
    return confident


@pytest.fixture
def fit(base: PreTrainedModel, codec: Codec, tmp_path: Path) -> FitToy:
    def fit_toy(
        examples: Sequence[Example],
        recipe: Train = TRAIN,
        peft: Peft = PEFT,
        seed: int = 0,
        start: TrainedAdapter | None = None,
        logger: CSVLogger | None = None,
    ) -> TrainedAdapter:
        work = Fit("toy", examples, recipe, peft.config(TARGETS), seed, start)
        return fit_adapter(base, codec, work, CPU, tmp_path, logger)

    return fit_toy


def readable(examples: list[Example]) -> list[Example]:
    """Rows whose prompts end in a token that tells the rating."""
    return [replace(each, ids=[*each.ids, 40 + int(each.rating)]) for each in examples]


def mean_loss(
    base: PreTrainedModel, adapter: TrainedAdapter | None, examples: list[Example], codec: Codec
) -> float:
    rows = answered(examples, codec)
    with attach(base, adapter), torch.inference_mode():
        return float(loss_of(base, Tree(rows.groups), rows, TRAIN.loss)) / len(examples)


def same(one: TrainedAdapter, other: TrainedAdapter) -> bool:
    assert one.weights.keys() == other.weights.keys()
    return all(torch.equal(t, other.weights[name]) for name, t in one.weights.items())


def test_an_adapter_learns_what_the_prompts_tell(
    fit: FitToy,
    base: PreTrainedModel,
    codec: Codec,
    make_examples: Callable[..., list[Example]],
    tmp_path: Path,
) -> None:
    options: dict[str, Any] = {"prefix": 6, "vocabulary": 40}
    learned = readable(make_examples(n_users=10, n_rows=20, **options))
    unseen = readable(make_examples(n_users=6, n_rows=5, seed=1, **options))
    adapter = fit(learned, replace(TRAIN, epochs=8, batch_size=16, rows_per_prefix=8))
    before, after = (mean_loss(base, trained, unseen, codec) for trained in (None, adapter))
    # Guessing the digit alone costs log 5, half of that in the mean with the certain end.
    assert before > 5
    assert after < 0.4
    assert adapter.summary["loss"] < 0.4
    with attach(base, adapter):
        rating = Rating("toy", unseen, configured("decode=greedy"), 0)
        answers = rate_examples(base, codec, rating, CPU, tmp_path)
    right = [answer.prediction == each.rating for answer, each in zip(answers, unseen, strict=True)]
    assert np.mean(right) > 0.8
    assert np.mean([answer.digit_mass for answer in answers]) > 0.9


def test_the_summary_counts(fit: FitToy, make_examples: Callable[..., list[Example]]) -> None:
    examples = make_examples(n_users=3, n_rows=4)
    summary = fit(examples).summary
    assert (summary["n_rows"], summary["n_steps"]) == (12, 4)
    n_rowwise = sum(len(each.ids) + 1 for each in examples) * TRAIN.epochs
    assert 0 < summary["unique_tokens"] < n_rowwise


def test_what_diverges_is_no_adapter(
    fit: FitToy, make_examples: Callable[..., list[Example]], monkeypatch: pytest.MonkeyPatch
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
    fit: FitToy, make_examples: Callable[..., list[Example]]
) -> None:
    examples = make_examples()
    whole = fit(examples)
    parts = fit(examples, replace(TRAIN, tokens_per_microbatch=30))
    assert parts.summary["unique_tokens"] == whole.summary["unique_tokens"]
    for name, tensor in whole.weights.items():
        torch.testing.assert_close(parts.weights[name], tensor, rtol=1e-3, atol=1e-4)
    assert parts.summary["loss"] == pytest.approx(whole.summary["loss"], rel=1e-4)


def test_a_seed_gives_the_same_weights_again(
    fit: FitToy, make_examples: Callable[..., list[Example]]
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
    fit: FitToy, base: PreTrainedModel, make_examples: Callable[..., list[Example]]
) -> None:
    before = copy.deepcopy(base.state_dict())
    fit(make_examples())
    after = base.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert not base.training
    assert not any(p.requires_grad for p in base.parameters())


def test_only_the_adapter_is_trained_in_fp32_on_a_half_base(
    fit: FitToy,
    tiny: BaseModel,
    codec: Codec,
    sources: Any,
    make_examples: Callable[..., list[Example]],
    tmp_path: Path,
) -> None:
    half = copy.deepcopy(tiny.load(sources, torch.bfloat16, "cpu"))
    work = Fit("toy", make_examples(), TRAIN, PEFT.config(["q_proj", "k_proj"]), 0)
    trainer = configured("trainer=cpu", precision="bf16-mixed", weights="bfloat16")
    adapter = fit_adapter(half, codec, work, trainer, tmp_path)
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
    rating = Rating("the base", examples, configured("decode=paper"), 0)
    straight = rate_examples(base, codec, rating, CPU, tmp_path)
    mixed = replace(rating, examples=[examples[i] for i in order])
    small = replace(CPU, tokens_per_batch=50)
    shuffled = rate_examples(base, codec, mixed, small, tmp_path)
    for i, response in zip(order, shuffled, strict=True):
        np.testing.assert_allclose(response.probabilities, straight[i].probabilities, rtol=1e-4)
    assert len({response.expected_rating for response in straight}) == len(examples)


def test_the_loss_of_every_step_is_logged(
    fit: FitToy, make_examples: Callable[..., list[Example]], tmp_path: Path
) -> None:
    logger = CSVLogger(tmp_path, name="curves", version="")
    summary = fit(make_examples(), logger=logger).summary
    logged = pd.read_csv(tmp_path / "curves" / "metrics.csv")["toy/loss"]
    assert len(logged) == summary["n_steps"] == 4
    # The summary's loss is that of the last epoch.
    assert logged[2:].mean() == pytest.approx(summary["loss"], rel=1e-5)


def test_nothing_but_the_loggers_files_is_written(
    fit: FitToy, make_examples: Callable[..., list[Example]], tmp_path: Path
) -> None:
    fit(make_examples())
    assert list(tmp_path.iterdir()) == []


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
    work = Fit("toy", make_examples(), TRAIN, PEFT.config(["q_proj"]), 0)
    fit_on_devices(lambda: base, codec, work, CPU, tmp_path)
    libc.free(blocks[-1])
    assert held - resident() > 0.5 * 4000 * size


def test_an_adapter_begins_with_the_weights_of_another(
    fit: FitToy, make_examples: Callable[..., list[Example]]
) -> None:
    first, examples = fit(make_examples()), make_examples(seed=1)
    before = {name: tensor.clone() for name, tensor in first.weights.items()}
    assert not same(fit(examples, start=first), fit(examples))
    # Hardly trained, it is what it began with, which itself is left as it was.
    still = fit(examples, replace(TRAIN, lr=1e-12), start=first)
    for name, tensor in before.items():
        torch.testing.assert_close(still.weights[name], tensor, rtol=0, atol=1e-9)
        assert torch.equal(first.weights[name], tensor)


def test_an_adapter_may_begin_with_one_that_was_stored(
    fit: FitToy, make_examples: Callable[..., list[Example]], tmp_path: Path
) -> None:
    first, examples = fit(make_examples()), make_examples(seed=1)
    first.save(tmp_path)
    stored = TrainedAdapter.load(tmp_path)
    assert same(fit(examples, start=stored), fit(examples, start=first))


def test_an_adapter_of_another_kind_is_no_start(
    fit: FitToy, make_examples: Callable[..., list[Example]]
) -> None:
    examples = make_examples()
    first = fit(examples)
    for other in (replace(PEFT, r=4), replace(PEFT, kind="rslora")):
        with pytest.raises(UserError, match="toy is to go on from an adapter of another kind"):
            fit(examples, peft=other, start=first)


def test_personas_may_start_from_a_shared_adapter(
    fit: FitToy, make_examples: Callable[..., list[Example]], make_personas: Any
) -> None:
    examples = make_examples()
    rows = pd.DataFrame([{"user_id": e.user_id, "item_id": e.item_id} for e in examples])
    shared = configured("adapter=single_full", max_rows=None)
    mode = configured("adapter=persona", max_rows=None, start=shared)
    plan = mode.plan(rows, make_personas({0: 0, 1: 0, 2: 1}), 0)
    of_item = {example.item_id: example for example in examples}
    adapters: dict[str, TrainedAdapter] = {}
    for name, own in plan.rows.items():
        start = adapters.get(plan.starts.get(name, ""))
        adapters[name] = fit([of_item[item] for item in own["item_id"]], start=start)
    fresh = fit([of_item[item] for item in plan.rows["persona_1"]["item_id"]])
    assert list(adapters) == ["single", "persona_0", "persona_1"]
    assert not same(adapters["persona_1"], fresh)
    assert not same(adapters["persona_1"], adapters["single"])

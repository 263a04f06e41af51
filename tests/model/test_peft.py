"""Every kind of adapter trains, is stored and rates."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from configured import configured
from transformers import PreTrainedModel

from persona_lab.errors import UserError
from persona_lab.model import (
    Fit,
    Peft,
    Rating,
    Train,
    TrainedAdapter,
    Trainer,
    attach,
    fit_adapter,
    rate_examples,
)
from persona_lab.model.quantise import quantise
from persona_lab.prompting import Codec, Example


@pytest.mark.parametrize("kind", ["lora", "rslora", "dora", "ia3", "qlora"])
def test_every_kind_trains_is_stored_and_rates(
    kind: str,
    confident: PreTrainedModel,
    codec: Codec,
    make_examples: Callable[..., list[Example]],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    peft: Peft = configured(f"peft={kind}", r=4, alpha=8, dropout=0.0)
    if peft.quantisation is not None:
        request.getfixturevalue("four_bits")
        quantise(confident, peft.quantisation, "cpu")
    examples = make_examples()
    trainer: Trainer = configured("trainer=cpu", precision="32-true")
    recipe: Train = configured("train=default", lr=0.03, epochs=6, batch_size=6, warmup=0.0)
    config = peft.config(["q_proj", "k_proj", "down_proj"])

    def fit(recipe: Train) -> TrainedAdapter:
        work = Fit("toy", examples, recipe, config, 0)
        return fit_adapter(confident, codec, work, trainer, tmp_path)

    short, adapter = fit(replace(recipe, epochs=1)), fit(recipe)
    assert adapter.summary["loss"] < short.summary["loss"] - 0.1

    adapter.save(tmp_path)
    loaded = TrainedAdapter.load(tmp_path)

    def ratings(adapter: TrainedAdapter | None, *, merge: bool = False) -> list[float]:
        rating = Rating("toy", examples, configured("decode=expected"), 0)
        with attach(confident, adapter, merge=merge):
            answers = rate_examples(confident, codec, rating, trainer, tmp_path)
        return [answer.expected_rating for answer in answers]

    frozen, beside = ratings(None), ratings(adapter)
    assert np.abs(np.subtract(beside, frozen)).max() > 0.05
    assert ratings(loaded) == beside
    if peft.quantisation is None:
        assert ratings(loaded, merge=True) == pytest.approx(beside, abs=1e-4)
    else:
        with pytest.raises(UserError, match=r"use decode\.merge=false"):
            ratings(loaded, merge=True)
    assert ratings(None) == frozen


def test_what_makes_a_kind_is_in_its_configuration() -> None:
    def options(kind: str) -> tuple[Any, ...]:
        config: Any = configured(f"peft={kind}", r=16, alpha=8).config(["q_proj"])
        return config.r, config.lora_alpha, config.use_rslora, config.use_dora

    assert options("lora") == options("qlora") == (16, 8, False, False)
    assert options("rslora") == (16, 8, True, False)
    assert options("dora") == (16, 8, False, True)

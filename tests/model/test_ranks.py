"""Several processes train the adapter that one would."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from persona_lab.errors import UserError
from persona_lab.model import BaseModel, Decode, Lora, Train, Trainer, fit_on_devices
from persona_lab.model.engine import Group
from persona_lab.model.ranks import _raised, add_up, own_share, spread
from persona_lab.prompting import Codec, Example
from persona_lab.sources import Sources

DDP = Trainer(strategy="ddp", devices=2)


def test_two_processes_train_the_adapter_of_one(
    tiny: BaseModel,
    codec: Codec,
    sources: Sources,
    make_examples: Callable[..., list[Example]],
    tmp_path: Path,
) -> None:
    # Some steps have less users than processes, and micro-batches that split a user's rows.
    recipe = Train(lr=0.01, epochs=2, batch_size=6, rows_per_prefix=4, tokens_per_microbatch=40)
    examples = make_examples(n_users=5, n_rows=6)

    def fit(trainer: Trainer, name: str) -> Any:
        folder = tmp_path / name
        folder.mkdir()
        logger = CSVLogger(folder, name="curve", version="")
        adapter = fit_on_devices(
            partial(tiny.load, sources, torch.float32, "cpu"),
            codec,
            examples,
            recipe,
            Lora(r=4, dropout=0.0).config(["q_proj", "k_proj"]),
            trainer,
            folder=folder,
            logger=logger,
            seed=1,
            name="toy",
        )
        logger.save()
        assert [path.name for path in folder.iterdir()] == ["curve"]
        return adapter, pd.read_csv(folder / "curve/metrics.csv")["toy/loss"]

    (one, losses), (two, others) = fit(Trainer(), "one"), fit(DDP, "two")
    assert one.weights.keys() == two.weights.keys()
    assert any(tensor.abs().max() > 1e-2 for name, tensor in one.weights.items() if "_B" in name)
    for name, tensor in one.weights.items():
        torch.testing.assert_close(two.weights[name], tensor, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(others, losses, rtol=1e-5)
    whole = ("n_rows", "n_steps", "unique_tokens")
    assert [two.summary[key] for key in whole] == [one.summary[key] for key in whole]


def test_a_single_process_has_all_groups_and_its_own_gradients() -> None:
    groups = [Group([1], [[2]], [0]), Group([3], [[4]], [1])]
    assert own_share(groups) == groups
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.tensor([1.0, 2.0])
    assert add_up([parameter], 3.0) == [3.0]
    assert parameter.grad.tolist() == [1.0, 2.0]


def test_the_error_of_a_process_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError) as told:
        spread(1, "cpu", tmp_path, partial(Decode, pattern="[1-5]"))
    assert str(told.value) == "decode.pattern has no group (put ( and ) around the rating in it)"
    assert "Traceback" in str(told.value.__cause__)


def test_the_error_is_the_line_below_the_last_frame() -> None:
    frames = 'Traceback:\n  File "a.py", line 1, in f\n    f()\n    ^^^\n'
    assert _raised(f"{frames}KeyError: 1\n\nDuring it:\n\n{frames}E: no\n  more\nlast\n") == "E: no"
    assert _raised("alone\n") == "alone"


def test_as_many_processes_as_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    gpus = replace(DDP, accelerator="gpu")
    assert [Trainer().n_devices, DDP.n_devices, gpus.n_devices] == [1, 2, 2]
    assert replace(gpus, devices="auto").n_devices == 3
    with pytest.raises(UserError, match=r"trainer\.devices is 4, and torch sees 3 GPUs"):
        _ = replace(gpus, devices=4).n_devices

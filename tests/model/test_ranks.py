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
import torch.multiprocessing as mp
from configured import configured
from lightning.pytorch.loggers import CSVLogger

from persona_lab.errors import UserError
from persona_lab.model import BaseModel, Fit, Trainer, fit_on_devices
from persona_lab.model.engine import Group
from persona_lab.model.ranks import add_up, own_share, spread
from persona_lab.prompting import Codec, Example
from persona_lab.sources import Sources

CPU: Trainer = configured("trainer=cpu", precision="32-true")


DDP = replace(CPU, strategy="ddp", devices=2)


def test_two_processes_train_the_adapter_of_one(
    tiny: BaseModel,
    codec: Codec,
    sources: Sources,
    make_examples: Callable[..., list[Example]],
    tmp_path: Path,
) -> None:
    # Some steps have less users than processes, and micro-batches that split a user's rows.
    sizes = {"epochs": 2, "batch_size": 6, "rows_per_prefix": 4, "tokens_per_microbatch": 40}
    config = configured("peft=lora", r=4, dropout=0.0).config(["q_proj", "k_proj"])
    recipe = configured("train=default", lr=0.01, **sizes)
    work = Fit("toy", make_examples(n_users=5, n_rows=6), recipe, config, 1)

    def fit(trainer: Trainer, name: str) -> Any:
        folder = tmp_path / name
        folder.mkdir()
        logger = CSVLogger(folder, name="curve", version="")
        load = partial(tiny.load, sources, torch.float32, "cpu")
        adapter = fit_on_devices(load, codec, work, trainer, folder, logger)
        logger.save()
        assert [path.name for path in folder.iterdir()] == ["curve"]
        return adapter, pd.read_csv(folder / "curve/metrics.csv")["toy/loss"]

    (one, losses), (two, others) = fit(CPU, "one"), fit(DDP, "two")
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


@pytest.mark.parametrize(
    ("error", "words"),
    [(UserError("it is wrong", "mend it"), "it is wrong (mend it)"), (KeyError(1), "KeyError: 1")],
)
def test_the_error_of_a_process_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def work() -> None:
        raise error

    # A forked process imports nothing: it is there at once.
    monkeypatch.setattr(mp, "spawn", partial(mp.start_processes, start_method="fork"))
    kind = UserError if isinstance(error, UserError) else RuntimeError
    with pytest.raises(kind) as failure:
        spread(1, "cpu", tmp_path, work)
    assert str(failure.value) == words
    assert "Traceback" in str(failure.value.__cause__)

"""Where a run computes, and how it tells of its progress."""

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from configured import configured
from transformers import PreTrainedModel

from persona_lab.errors import UserError
from persona_lab.model import Rating, Trainer, rate_examples
from persona_lab.model.trainer import Lines
from persona_lab.prompting import Codec

CPU: Trainer = configured("trainer=cpu")


@pytest.mark.parametrize(
    ("known", "precision"),
    [({"amx_bf16": True}, "bf16-mixed"), ({"amx_bf16": False}, "32-true"), ({}, "32-true")],
)
def test_auto_is_bf16_only_where_the_cpu_has_units_for_it(
    monkeypatch: pytest.MonkeyPatch, known: dict[str, bool], precision: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known)
    assert replace(CPU, precision="auto").computes == precision
    assert replace(CPU, precision="64-true").computes == "64-true"
    assert replace(CPU, accelerator="gpu", precision="auto").computes == "32-true"


def test_a_gpu_that_is_not_there_is_the_users_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="torch sees no GPU"):
        _ = replace(CPU, accelerator="gpu").device


def test_as_many_processes_as_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    ddp = replace(CPU, strategy="ddp", devices=2)
    gpus = replace(ddp, accelerator="gpu")
    assert [CPU.n_devices, ddp.n_devices, gpus.n_devices] == [1, 2, 2]
    assert replace(gpus, devices="auto").n_devices == 3
    with pytest.raises(UserError, match=r"trainer\.devices is 4, and torch sees 3 GPUs"):
        _ = replace(gpus, devices=4).n_devices


@pytest.mark.parametrize("devices", [2, "auto"])
def test_several_devices_need_ddp(devices: Any) -> None:
    with pytest.raises(UserError, match=rf"trainer\.devices is {devices} \(use trainer=ddp\)"):
        replace(CPU, devices=devices)


def test_progress_is_told_in_lines(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr("persona_lab.model.trainer.time.monotonic", lambda: float(next(clock)))
    module: Any = SimpleNamespace(n_rows=24, n_done=0)
    lines = Lines("training toy")
    trainer: Any = None
    lines.on_train_start(trainer, module)
    with caplog.at_level(logging.INFO, "persona_lab.model.trainer"):
        module.n_done = 6
        lines.on_train_batch_end(trainer, module, None, [0] * 6, 0)
        assert not caplog.messages
        module.n_done = 12
        lines.on_train_batch_end(trainer, module, None, [0] * 6, 1)
    # 12 of 24 rows in 40 seconds.
    assert caplog.messages == ["training toy: 12 of 24 rows, 0.3 rows/s, 40 s left"]


def test_a_bar_is_shown_where_it_is_asked_for(
    confident: PreTrainedModel,
    codec: Codec,
    make_examples: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rating = Rating("toy", make_examples(), configured("decode=expected"), 0)
    for progress in (False, True):
        trainer = replace(CPU, progress=progress, precision="32-true")
        rate_examples(confident, codec, rating, trainer, tmp_path)
        assert ("Predicting" in capsys.readouterr().out) == progress


def test_of_lightning_nothing_is_heard(
    confident: PreTrainedModel,
    codec: Codec,
    make_examples: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # It has a handler of its own, which writes to the terminal.
    chatter = logging.getLogger("lightning.pytorch")
    monkeypatch.setattr(chatter, "handlers", [caplog.handler])
    monkeypatch.setattr(chatter, "propagate", False)
    chatter.getChild("utilities.rank_zero").info("before")
    rating = Rating("toy", make_examples(), configured("decode=expected"), 0)
    rate_examples(confident, codec, rating, replace(CPU, precision="32-true"), tmp_path)
    chatter.getChild("utilities.rank_zero").info("after")
    assert caplog.messages == ["before", "after"]

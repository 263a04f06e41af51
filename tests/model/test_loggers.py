"""Loggers: files in the run folder; no account, no network, no question."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import wandb
from lightning.pytorch.loggers import TensorBoardLogger

from persona_lab.errors import UserError
from persona_lab.model import loggers
from persona_lab.model.loggers import Csv, Logger, NoLogger, Tensorboard, Wandb

CONFIG = {"adapter": "persona", "seed": 0}


class _Silent:
    """A terminal at which nobody sits."""

    def isatty(self) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"something was asked for on the terminal: {name}")


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No login, no wish for a mode, and a terminal that must not be read."""
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "no-settings"))
    monkeypatch.setattr(sys, "stdin", _Silent())
    yield
    wandb.teardown()


class _Recorded:
    """Stands for Lightning's logger: what it was made with."""

    def __init__(self, **options: Any) -> None:
        self.options = options


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers, "WandbLogger", _Recorded)


def log(logger: Logger, folder: Path) -> None:
    with logger.open(folder, "r10", CONFIG) as opened:
        for name in ("persona_0", "persona_1"):
            for step in range(3):
                opened.log_metrics({f"{name}/loss": 1.0 / (step + 1)}, step=step)
            opened.finalize("success")


def test_no_logger_gives_none(tmp_path: Path) -> None:
    with NoLogger().open(tmp_path, "r10", CONFIG) as opened:
        assert opened is None
    assert list(tmp_path.iterdir()) == []


def test_csv_holds_the_curves_of_all_adapters(tmp_path: Path) -> None:
    log(Csv(), tmp_path)
    table = pd.read_csv(tmp_path / "curves" / "metrics.csv")
    for name in ("persona_0", "persona_1"):
        assert table[f"{name}/loss"].dropna().tolist() == pytest.approx([1, 1 / 2, 1 / 3])


def test_a_run_again_in_its_folder_writes_its_curves_again(tmp_path: Path) -> None:
    log(Csv(), tmp_path)
    with pytest.warns(UserWarning, match="Previous log files in this directory will be deleted"):
        log(Csv(), tmp_path)
    assert len(pd.read_csv(tmp_path / "curves" / "metrics.csv")) == 6


def test_tensorboard_writes_events(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    log(Tensorboard(), tmp_path)
    assert list((tmp_path / "curves").glob("events.*"))


def test_tensorboard_that_is_missing_is_the_users_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: Any, **__: Any) -> TensorBoardLogger:
        raise ModuleNotFoundError("Neither `tensorboard` nor `tensorboardX` is available.")

    monkeypatch.setattr(loggers, "TensorBoardLogger", missing)
    with pytest.raises(UserError, match="pip install tensorboard"):
        log(Tensorboard(), tmp_path)


def test_another_missing_module_is_not_taken_for_tensorboard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loggers, "TensorBoardLogger", lambda *_, **__: None)
    with (
        pytest.raises(ModuleNotFoundError, match="no_such_module"),
        Tensorboard().open(tmp_path, "r10", CONFIG),
    ):
        import no_such_module  # noqa: F401  # pyright: ignore


@pytest.mark.usefixtures("nobody")
def test_wandb_without_login_is_offline_and_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs of a sweep never merge into one run: each finds none open and leaves none open."""
    ids = []
    folder = tmp_path / "sweep" / "0"
    folder.mkdir(parents=True)
    for _ in range(2):
        assert wandb.run is None
        with Wandb().open(folder, "r10", CONFIG) as opened:
            opened.log_metrics({"loss": 1.0})
            run: Any = wandb.run
            ids.append(run.id)
            assert (run.name, run.group, run.settings.mode) == ("r10", "sweep", "offline")
            assert dict(run.config) == CONFIG
        assert wandb.run is None
    assert len({*ids}) == 2
    written = {file.stem.removeprefix("run-") for file in folder.rglob("*.wandb")}
    assert written == {*ids}


@pytest.mark.usefixtures("nobody", "recorded")
def test_wandb_is_finished_also_after_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = []
    monkeypatch.setattr(wandb, "finish", lambda: finished.append(True))
    with pytest.raises(RuntimeError), Wandb().open(tmp_path, "r10", CONFIG):
        raise RuntimeError
    assert finished == [True]


MODES = [
    ("auto", False, None, "offline"),
    ("auto", True, None, "online"),
    ("auto", True, "offline", "offline"),
    ("auto", True, "online", "online"),
    ("offline", True, None, "offline"),
    ("online", True, None, "online"),
]


@pytest.mark.usefixtures("nobody", "recorded")
@pytest.mark.parametrize(("mode", "logged_in", "wish", "expected"), MODES)
def test_wandb_is_online_where_it_can_and_may(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: Any,
    logged_in: bool,
    wish: str | None,
    expected: str,
) -> None:
    if wish is not None:
        monkeypatch.setenv("WANDB_MODE", wish)
    monkeypatch.setattr(wandb, "login", lambda **options: logged_in)
    with Wandb(mode=mode).open(tmp_path, "r10", CONFIG) as opened:
        options: Any = vars(opened)["options"]
        assert options["mode"] == expected
        assert options["config"] == CONFIG
        assert options["save_dir"] == tmp_path


@pytest.mark.usefixtures("nobody", "recorded")
def test_wandb_online_without_login_is_the_users_error(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"logger\.mode=auto"),
        Wandb(mode="online").open(tmp_path, "r10", CONFIG),
    ):
        pass

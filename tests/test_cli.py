"""Command lines are mended or refused in one line, and jobs take devices."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.errors import HydraException, InstantiationException

from persona_lab import cli
from persona_lab.compose import CONF
from persona_lab.errors import UserError


@pytest.fixture
def _hydra() -> Iterator[None]:
    with initialize_config_module(CONF, version_base="1.3"):
        yield


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["adapter=persna"], "choose none, per_user, persona, random_persona, single_full,"),
        (["slm=phi4"], "slm 'phi4' does not exist (choose gemma3, llama3, phi3,"),
        (["row=r11"], "choose r0, r1, r2, r3, r4, r5, r6, r7, r8, r9, r10"),
        (["data.n_usrs=3"], "'data.n_usrs' does not exist (did you mean data.n_users?)"),
        (
            ["distiller=openai", "distiller.budget=5"],
            "'distiller.budget' does not exist (did you mean distiller.chat.budget?)",
        ),
        (
            ["distiller=openai", "distiller.chat.parameters.seed=0"],
            "does not exist (write +distiller.chat.parameters.seed=... to add it)",
        ),
        (["adaptor=none"], "'adaptor' does not exist (did you mean adapter?)"),
        (["experment=smoke"], "'experment' does not exist (did you mean experiment?)"),
        (["train.speed=3"], "'train.speed' does not exist (choose batch_size,"),
        (["adapter=none,persona"], "adapter=none,persona names several values (name one, or add"),
        (
            ["decode.pattern=("],
            """(quote the value for the shell and for Hydra: 'decode.pattern="("')""",
        ),
        (["adapter"], "adapter cannot be read (write adapter=...)"),
    ],
)
@pytest.mark.usefixtures("_hydra")
def test_hydras_errors_in_one_line(overrides: list[str], said: str) -> None:
    with pytest.raises(HydraException) as caught:
        compose("config", overrides)
    line = str(cli.explain(caught.value))
    assert said in line
    assert "\n" not in line


def test_explain_keeps_what_a_constructor_said() -> None:
    error = InstantiationException("Error in call to target")
    error.__cause__ = UserError("K is 9", "take less")
    assert str(cli.explain(error)) == "K is 9 (take less)"


def test_a_group_has_an_option() -> None:
    for argument in ("adapter=null", "adapter="):
        with pytest.raises(UserError, match=f"^{argument} chooses nothing"):
            cli.accept([argument])


@pytest.mark.parametrize(
    ("former", "now"),
    [("plan=true", "task=plan"), ("plan=True", "task=plan"), ("stage=prepare", "task=prepare")],
)
def test_a_former_spelling_is_refused_with_the_new_one(former: str, now: str) -> None:
    with pytest.raises(UserError) as caught:
        cli.accept(["-m", "experiment=smoke", former])
    assert str(caught.value) == f"{former} is no choice any more (write {now})"


def test_accept() -> None:
    assert cli.accept(["-m", "experiment=table1", "--cfg", "job"]) == [
        *("experiment=table1", "--cfg", "job")
    ]
    assert cli.accept(["-m", "row=r3"]) == ["-m", "row=r3"]
    assert cli.accept(["+experiment=mine", "+data.new=1"]) == [*("experiment=mine", "+data.new=1")]


@pytest.mark.usefixtures("_hydra")
def test_own_model_plays_a_role(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/mine.yaml").write_text("defaults: [tiny]\nname: mine\n")
    cli.accept(["--config-dir", str(tmp_path)])
    cfg = compose("config", ["slm=mine", f"hydra.searchpath=[file://{tmp_path}]"])
    assert (cfg.model.name, cfg.model.random.architecture) == ("mine", "llama")


def test_nothing_heavy_before_a_job_starts() -> None:
    heavy = "{'torch', 'pandas', 'numpy', 'transformers', 'pydantic'} & set(sys.modules)"
    code = f"import persona_lab.__main__, sys, json; print(json.dumps(sorted({heavy})))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(told.stdout) == []


@pytest.mark.parametrize(("visible", "taken"), [(None, ["0", "1", "0"]), ("4,6", ["4", "6", "4"])])
def test_processes_take_devices_in_turn(
    visible: str | None, taken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, device in enumerate(taken):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        cli._take_device(number, 2)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == device
        cli._take_device(number + 1, 2)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == device

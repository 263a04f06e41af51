import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from pkgutil import resolve_name
from typing import Literal

import pytest
from hydra import compose, initialize_config_module
from hydra.errors import HydraException, InstantiationException
from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf
from omegaconf import OmegaConf

from persona_lab import configure
from persona_lab.errors import UserError


@dataclass(frozen=True)
class Toy:
    """A component as conf/ names them."""

    size: int
    rate: float = 0.5
    kind: Literal["round", "square"] = "round"
    parts: Sequence[str] = ()
    inner: "Toy | None" = None


TOY = f"{__name__}.Toy"


@pytest.fixture
def _hydra() -> Iterator[None]:
    with initialize_config_module(configure.CONF, version_base="1.3"):
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
    line = str(configure.explain(caught.value))
    assert said in line
    assert "\n" not in line


def test_explain_keeps_what_a_constructor_said() -> None:
    error = InstantiationException("Error in call to target")
    error.__cause__ = UserError("K is 9", "take less")
    assert str(configure.explain(error)) == "K is 9 (take less)"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"size": "abc"}, "toy.size is 'abc' (it should be a valid integer)"),
        ({"size": True}, "toy.size is True (it should be a valid integer)"),
        ({"size": 1, "kind": "oval"}, "toy.kind is 'oval' (it should be 'round' or 'square')"),
        ({"size": 1, "parts": "ab"}, "toy.parts is 'ab'"),
        ({"size": 1, "siez": 2}, "'toy.siez' does not exist (did you mean toy.size?)"),
        ({"size": 1, "inner": {"_target_": TOY, "size": 0.5}}, "toy.inner.size is 0.5"),
        ({"size": 1, "inner": {"_target_": "no.such.Class"}}, "toy.inner: no.such.Class cannot be"),
    ],
)
def test_check_names_the_field(fields: dict[str, object], said: str) -> None:
    with pytest.raises(UserError) as caught:
        configure.check({"toy": {"_target_": TOY, **fields}})
    assert said in str(caught.value)


def test_check_takes_what_fits() -> None:
    inner = {"_target_": TOY, "size": 2, "parts": ["a", "b"]}
    configure.check({"toy": {"_target_": TOY, "size": 1, "rate": 1, "inner": inner}})


@pytest.mark.parametrize(
    "override",
    [
        *("seed=-1", "seed=null", "rerun=foo", "stage=some", "cache=3"),
        *("adapter.rows_per_user=-5", "adapter.max_rows=0", "peft.r=0", "peft.dropout=1"),
        *("train.epochs=0", "train.batch_size=0", "train.lr=-1", "train.warmup=2"),
        *("train.schedule=cosy", "train.tokens_per_microbatch=0", "trainer.precision=foo"),
        *("trainer.tokens_per_batch=0", "decode.top_k=0", "decode.temperature=0"),
        *("decode.max_new_tokens=0", "memory.top_k=0", "memory.min_similarity=1.5"),
        *("memory.query=users", "memory.key=movie", "personas.n_personas=0", "personas.n_init=0"),
        *("data.n_users=0", "data.seed=-1", "data.cohort=test", "data.test_rows_per_user=0"),
        *("data.train_fraction=1", "data.validation_fraction=1", "data.min_ratings=0"),
        *("data.reader.opposition=1.5", "data.reader.ratings_per_user=[5]", "embedder.dim=0"),
        *("distiller.batch_size=0", "protocol.item_mean=mine", "protocol.title_check=maybe"),
        *("model.context=0", "data.reader.seed=-1"),
    ],
)
@pytest.mark.usefixtures("_hydra")
def test_impossible_values_are_named(override: str, tmp_path: Path) -> None:
    cfg = compose("config", ["experiment=smoke", override])
    with pytest.raises(UserError) as caught:
        configure.build(cfg, {}, tmp_path)
    line = str(caught.value)
    assert line.startswith(f"{override.split('=')[0]} is ")
    assert "(it should " in line
    assert "Value" not in line
    assert "\n" not in line


def test_a_group_has_an_option() -> None:
    for argument in ("adapter=null", "adapter="):
        with pytest.raises(UserError, match=f"^{argument} chooses nothing"):
            configure.accept([argument])


def test_accept() -> None:
    assert configure.accept(["-m", "experiment=table1", "--cfg", "job"]) == [
        *("experiment=table1", "--cfg", "job")
    ]
    assert configure.accept(["-m", "row=r3"]) == ["-m", "row=r3"]
    assert configure.accept(["+experiment=mine", "+data.new=1"]) == [
        *("experiment=mine", "+data.new=1")
    ]


@pytest.mark.usefixtures("_hydra")
def test_own_model_plays_a_role(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/mine.yaml").write_text("defaults: [tiny]\nname: mine\n")
    configure.accept(["--config-dir", str(tmp_path)])
    cfg = compose("config", ["slm=mine", f"hydra.searchpath=[file://{tmp_path}]"])
    assert (cfg.model.name, cfg.model.random.architecture) == ("mine", "llama")


@pytest.mark.parametrize(
    ("overrides", "folder"),
    [
        (["row=r3", "experiment=table1"], "04-r3"),
        (["row=r3", "seed=1"], "04-r3,seed=1"),
        (["data.path=/a b/c.zip", "memory=ms"], "04-data.path=_a_b_c.zip,memory=ms"),
        ([], "04"),
    ],
)
def test_job_folder(overrides: list[str], folder: str) -> None:
    assert configure._job_folder(4, overrides) == folder


@pytest.mark.parametrize(
    ("overrides", "changed"),
    [
        ([], {}),
        (["row=r3", "seed=5", "protocol=paper", "decode=greedy", "rerun=true"], {}),
        (["logger=none", "trainer.tokens_per_batch=9", "cache=/x", "slm=tiny"], {}),
        (["data.n_users=7", "memory.top_k=2"], {"data.n_users": 7, "memory.top_k": 2}),
        (["data.path=/home/me/ml.zip"], {"data.path": "ml.zip"}),
        (["prompt=movie_only", "prompt.order=static_first"],
         {"prompt": "movie_only", "prompt.order": "static_first"}),
        (["setup=paper", "train.lr=0.001"], {"train.lr": 0.001}),
        (["trainer.precision=bf16-mixed"], {"trainer.precision": "bf16-mixed"}),
        (["protocol.item_mean=none"], {"protocol.item_mean": "none"}),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("_hydra")
def test_row_tells_what_changed(overrides: list[str], changed: dict[str, object]) -> None:
    cfg = compose("config", overrides, return_hydra_config=True)
    assert configure.row(cfg, cfg.hydra)["changed"] == changed


@pytest.mark.usefixtures("_hydra")
def test_row_names_the_choices() -> None:
    cfg = compose("config", ["row=r2", "llm=tiny", "seed=3"], return_hydra_config=True)
    named = configure.row(cfg, cfg.hydra)
    assert named["model"] == "tiny_llama"
    assert [named[key] for key in ("setup", "role", "adapter", "memory", "seed")] == [
        *("embedded", "llm", "none", "ml", 3)
    ]


def test_nothing_heavy_before_a_job_starts() -> None:
    heavy = "{'torch', 'pandas', 'numpy', 'transformers', 'pydantic'} & set(sys.modules)"
    code = f"import persona_lab.__main__, sys, json; print(json.dumps(sorted({heavy})))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(told.stdout) == []


@pytest.mark.usefixtures("_hydra")
def test_slurms_launcher_takes_what_its_file_gives() -> None:
    overrides = ["hydra/launcher=slurm", "hydra.sweep.dir=sweep", "hydra.launcher.partition=long"]
    cfg = compose("config", overrides, return_hydra_config=True)
    node = OmegaConf.to_container(cfg.hydra.launcher, resolve=True)
    assert isinstance(node, dict)
    params = resolve_name(node.pop("_target_"))(**node).params
    known = {f.name for f in fields(SlurmQueueConf)}
    assert set(params) <= known
    assert (params["partition"], params["submitit_folder"]) == ("long", "sweep/.submitit/%j")


@pytest.mark.parametrize(("visible", "taken"), [(None, ["0", "1", "0"]), ("4,6", ["4", "6", "4"])])
def test_processes_take_devices_in_turn(
    visible: str | None, taken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, device in enumerate(taken):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        configure._take_device(number, 2)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == device
        configure._take_device(number + 1, 2)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == device

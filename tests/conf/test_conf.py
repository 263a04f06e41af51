"""Every option of every group composes, fits its class and builds, without disk or network."""

import itertools
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import hydra
import pytest
from omegaconf import DictConfig, OmegaConf

from persona_lab import compose, sweep


def options(group: str) -> list[str]:
    files = resources.files(compose.CONF).joinpath(group).iterdir()
    names = sorted(file.name for file in files if file.name.endswith(".yaml"))
    return [f"{group}={name.removesuffix('.yaml')}" for name in names]


GROUPS = sorted(
    group.name
    for group in resources.files(compose.CONF).iterdir()
    if group.is_dir() and group.name not in ("hydra", "__pycache__", "setup", "row", "experiment")
)
# The first option of every group, then the second of every group ...: each is met once.
ROUNDS = [
    [option for option in together if option]
    for together in itertools.zip_longest(*(options(group) for group in GROUPS))
]


@pytest.fixture(autouse=True)
def _hydra() -> Iterator[None]:
    with hydra.initialize_config_module(compose.CONF, version_base="1.3"):
        yield


def node(cfg: DictConfig, *names: str) -> list[Any]:
    return [cfg[name].name for name in names]


@pytest.mark.parametrize("setup", options("setup"))
@pytest.mark.parametrize("chosen", ROUNDS, ids=",".join)
def test_every_option_builds(setup: str, chosen: list[str], tmp_path: Path) -> None:
    run = compose.build(hydra.compose("config", [setup, *chosen]), {}, tmp_path, tmp_path)
    assert run.experiment.setup == setup.removeprefix("setup=")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_job_of_an_experiment_builds(experiment: str, tmp_path: Path) -> None:
    compose.build(hydra.compose("config", ["setup=paper", experiment]), {}, tmp_path, tmp_path)
    cfg = hydra.compose("config", [experiment], return_hydra_config=True)
    # A search draws from intervals, and rows are tested below.
    jobs = {} if sweep.searches(cfg.hydra) else sweep.job_values(cfg)
    jobs.pop("row", None)
    for key, values in jobs.items():
        for value in values:
            if "." in key:
                job = OmegaConf.masked_copy(cfg, [name for name in cfg if name != "hydra"])
                OmegaConf.update(job, key, OmegaConf.create(f"value: {value}").value)
            else:
                job = hydra.compose("config", [experiment, f"{key}={value}"])
            compose.build(job, {}, tmp_path, tmp_path)


@pytest.mark.parametrize("experiment", options("experiment"))
def test_an_experiment_opens_with_its_command(experiment: str) -> None:
    name = experiment.removeprefix("experiment=")
    text = resources.files(compose.CONF).joinpath(f"experiment/{name}.yaml").read_text()
    package, command, about, *_ = text.splitlines()
    sweeps = " -m" if "sweeper:" in text else ""
    assert package == "# @package _global_"
    assert f"persona-lab{sweeps} {experiment}" in command or "python experiments/" in command
    assert about.startswith("# ")


def test_embedded_setup() -> None:
    cfg = hydra.compose("config")
    assert node(cfg, "model", "data", "embedder", "adapter", "memory", "protocol") == [
        *("smollm2", "ml_100k", "minilm", "persona", "ms_ml", "strict")
    ]
    assert (cfg.data.n_users, cfg.adapter.max_rows, cfg.trainer.accelerator) == (16, None, "cpu")
    assert (cfg.train.lr, cfg.train.epochs, cfg.peft.r) == (3e-3, 1, 256)


def test_paper_setup() -> None:
    cfg = hydra.compose("config", ["setup=paper"])
    assert node(cfg, "model", "data") == ["phi3", "ml_1m"]
    assert node(cfg, "distiller", "embedder") == ["openai", "ada002"]
    assert (cfg.distiller.chat.model, cfg.distiller.batch_size) == ("gpt-4o", 10)
    assert (cfg.data.n_users, cfg.data.test_rows_per_user) == (200, None)
    assert (cfg.adapter.rows_per_user, cfg.adapter.max_rows) == (None, 5200)
    assert (cfg.train.lr, cfg.train.epochs, cfg.train.batch_size) == (3e-4, 2, 32)
    assert (cfg.trainer.accelerator, cfg.trainer.precision) == ("gpu", "bf16-mixed")
    assert (cfg.model.context, cfg.model.sliding_window) == (4096, "off")
    assert list(cfg.model.lora_targets) == ["q_proj", "k_proj"]


def test_rows_are_table_1() -> None:
    rows = [hydra.compose("config", [f"row=r{number}"]) for number in range(11)]
    assert [node(row, "model", "adapter", "memory") for row in rows] == [
        ["gemma3", "none", "ms"],
        ["gemma3", "none", "ms_ml"],
        ["gemma3", "none", "ml"],
        ["smollm2", "none", "ms"],
        ["smollm2", "none", "ms_ml"],
        ["smollm2", "single_max", "ms"],
        ["smollm2", "single_min", "ms"],
        ["smollm2", "single_max", "ms_ml"],
        ["smollm2", "single_min", "ms_ml"],
        ["smollm2", "persona", "ms"],
        ["smollm2", "persona", "ms_ml"],
    ]
    assert node(hydra.compose("config", ["setup=paper", "row=r0"]), "model") == ["llama3"]
    assert node(hydra.compose("config", ["setup=paper", "row=r9"]), "model") == ["phi3"]


def test_later_wins() -> None:
    # The setup's data loses to the experiment's, the row's adapter to the command line's.
    cfg = hydra.compose("config", ["setup=paper", "row=r0", "experiment=smoke", "adapter=persona"])
    assert node(cfg, "data", "model", "adapter", "memory") == [
        *("synthetic", "tiny_llama", "persona", "ms")
    ]
    assert cfg.data.n_users == 8
    assert hydra.compose("config", ["experiment=smoke", "data.n_users=7"]).data.n_users == 7


def test_role_names_the_model() -> None:
    assert node(hydra.compose("config", ["role=llm", "llm=phi3"]), "model") == ["phi3"]
    assert node(hydra.compose("config", ["role=slm", "llm=phi3"]), "model") == ["smollm2"]
    assert node(hydra.compose("config", ["role=llm", "model=tiny"]), "model") == ["tiny_llama"]

"""A sweep's jobs are read as Hydra reads them, and its launchers take what their files give."""

from collections.abc import Iterator
from dataclasses import fields
from pkgutil import resolve_name

import pytest
from hydra import compose, initialize_config_module
from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf
from omegaconf import OmegaConf

from persona_lab import sweep
from persona_lab.compose import CONF


@pytest.fixture(autouse=True)
def _hydra() -> Iterator[None]:
    with initialize_config_module(CONF, version_base="1.3"):
        yield


def test_values_of_a_sweeps_jobs() -> None:
    cfg = compose("config", ["experiment=top_k"], return_hydra_config=True)
    swept = OmegaConf.to_container(cfg.hydra.sweeper.params)
    assert isinstance(swept, dict)
    assert not sweep.searches(cfg.hydra)
    values = sweep.job_values(cfg)
    assert {*swept} <= {*values}
    for key, text in swept.items():
        assert values[str(key)] == [value.strip() for value in str(text).split(",")]
    assert values["experiment"] == ["top_k"]


def test_a_search_is_told_from_a_sweep() -> None:
    cfg = compose("config", ["experiment=tune"], return_hydra_config=True)
    assert sweep.searches(cfg.hydra)


def test_slurms_launcher_takes_what_its_file_gives() -> None:
    overrides = ["hydra/launcher=slurm", "hydra.sweep.dir=sweep", "hydra.launcher.partition=long"]
    cfg = compose("config", overrides, return_hydra_config=True)
    node = OmegaConf.to_container(cfg.hydra.launcher, resolve=True)
    assert isinstance(node, dict)
    given = {str(key): value for key, value in node.items()}
    params = resolve_name(given.pop("_target_"))(**given).params
    known = {f.name for f in fields(SlurmQueueConf)}
    assert set(params) <= known
    assert (params["partition"], params["submitit_folder"]) == ("long", "sweep/.submitit/%j")

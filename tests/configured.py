"""A component as conf/ configures it, with what a test changes: defaults stand in conf/ alone."""

from functools import cache
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf

# Makes models options of slm and llm.
from persona_lab.compose import CONF


def configured(choice: str, **changes: Any) -> Any:
    """The object of `group=option`, as in `configured("train=default", lr=1e-2)`.

    Args:
        choice: A group and one of its options.
        changes: Fields that take other values, objects too.
    """
    fields = dict(_fields(choice))
    target = fields.pop("_target_")
    parts = {name: _object(value) for name, value in fields.items() if name not in changes}
    return get_object(target)(**parts, **changes)


@cache
def _fields(choice: str) -> dict[str, Any]:
    group = choice.split("=")[0]
    GlobalHydra.instance().clear()
    with initialize_config_module(CONF, version_base="1.3"):
        # The setup scales some groups: the paper's leaves them as they are written.
        cfg = compose("config", ["setup=paper", choice])
    fields = OmegaConf.to_container(cfg, resolve=True)
    for name in group.split("/"):
        assert isinstance(fields, dict)
        fields = fields[name]
    return fields


def _object(value: Any) -> Any:
    return instantiate(value, _convert_="all") if isinstance(value, dict | list) else value

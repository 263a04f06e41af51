"""Choices in, plain objects out: conf/ composed, checked, built and named.

With `cli` and `sweep` the only modules that know Hydra. Imports no room when it is itself
imported, so that errors and help answer at once.
"""

import dataclasses
import difflib
import json
import pkgutil
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from persona_lab.errors import UserError

if TYPE_CHECKING:
    from persona_lab.agents import Agents
    from persona_lab.experiment import Experiment
    from persona_lab.lab import Lab
    from persona_lab.tasks import Task

CONF = "persona_lab.conf"
# Groups that only choose options of others.
OVERLAYS = {"setup", "role", "slm", "llm", "row", "experiment"}
# Fields of no group that cannot change a result, or that a row has a place of its own for.
_UNNAMED = {*OVERLAYS, "seed", "rerun", "verify", "cache", "task", "logger"}


@dataclasses.dataclass(frozen=True)
class Run:
    """What a configuration makes.

    Attributes:
        experiment: The configured flow, nothing of it run.
        lab: The places that it reads and writes.
        task: What is done with it.
        command: What was typed for it.
    """

    experiment: "Experiment"
    lab: "Lab"
    task: "Task"
    command: str = "persona-lab"


def configure(*overrides: str, folder: Path | None = None) -> Run:
    """Make what a command line would, from Python.

    Args:
        overrides: Choices, as behind `persona-lab`.
        folder: The run's own folder; by default the working directory.

    Raises:
        UserError: As `build` does.
    """
    with initialize_config_module(CONF, version_base="1.3"):
        cfg = compose("config", list(overrides))
    return build(cfg, {}, Path.cwd(), folder or Path.cwd())


def build(cfg: DictConfig, changed: Mapping[str, Any], cwd: Path, folder: Path) -> Run:
    """Make the plain objects of a composed configuration.

    Args:
        cfg: The composed configuration, as in a run folder's .hydra/config.yaml.
        changed: The result row's `changed`.
        cwd: Where the command was given: relative paths start there.
        folder: The run's own folder.

    Raises:
        UserError: A field that its class does not have, a value of the wrong type, a class
            that cannot be found, or what a class itself refuses.
    """
    from persona_lab.cache import Cache
    from persona_lab.experiment import Experiment
    from persona_lab.lab import Lab
    from persona_lab.sources import Sources, default_cache

    parts = make(_absolute(OmegaConf.to_container(cfg, resolve=True), cwd))
    names = {field.name for field in dataclasses.fields(Experiment)} - {"changed"}
    choices = {name: parts[name] for name in names} | {"changed": dict(changed)}
    if not isinstance(cfg.cache, str | None):
        raise UserError(f"cache is {cfg.cache!r}", "it should be a folder, or null")
    root = cwd / Path(cfg.cache).expanduser() if cfg.cache else default_cache()
    places = {
        "sources": Sources(root),
        "cache": _fit(Cache, "", {"root": root / "store", "verify": cfg.verify}),
        "folder": folder,
        "logger": parts["logger"],
        "rerun": cfg.rerun,
    }
    return Run(_fit(Experiment, "", choices), _fit(Lab, "", places), parts["task"])


def _absolute(node: Any, cwd: Path) -> Any:
    if isinstance(node, list):
        return [_absolute(item, cwd) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: str(cwd / Path(value).expanduser())
        if key == "path" and isinstance(value, str)
        else _absolute(value, cwd)
        for key, value in node.items()
    }


def make(node: Any, where: str = "") -> Any:
    """Build the objects of a node of a configuration, the innermost first.

    A dict with a `_target_` becomes an object of the class at that dotted path, others stay as
    they are.

    Args:
        node: Plain dicts, lists and values.
        where: The node's own place, for messages.

    Raises:
        UserError: Naming the field that does not fit, and what would.
    """
    if isinstance(node, list):
        return [make(item, f"{where}[{number}]") for number, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    parts = {
        key: make(value, f"{where}.{key}" if where else str(key)) for key, value in node.items()
    }
    path = parts.pop("_target_", None)
    return parts if path is None else _fit(_resolve(path, where), where, parts)


def _fit(target: Any, where: str, parts: Mapping[str, Any]) -> Any:
    from pydantic import ValidationError

    try:
        return target(**parts)
    except ValidationError as error:
        raise _misfit(error, where, parts, target) from None
    except TypeError as error:
        raise UserError(f"{where}: {error}", "see the fields of its class") from error


def _resolve(path: str, where: str = "") -> Any:
    try:
        return pkgutil.resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"{where}: {path} cannot be imported: {first_line(error)}",
            "is the dotted path right, and its module in this folder or on PYTHONPATH?",
        ) from error


def _misfit(error: Any, where: str, values: Mapping[str, Any], target: Any) -> UserError:
    """One line for what pydantic says of a component's fields."""
    first = error.errors()[0]
    key = str(first["loc"][0]) if first["loc"] else next(iter(values))
    place = f"{where}.{key}" if where else key
    if first["type"] == "unexpected_keyword_argument":
        return unknown(place, key, [field.name for field in dataclasses.fields(target)])
    if first["type"] == "missing":
        return UserError(f"{place} is not given", f"add {place}=...")
    wanted = (
        re.sub("^(Input|Value) should ", "", problem["msg"])
        for problem in error.errors()
        if not problem["loc"] or problem["loc"][0] == first["loc"][0]
    )
    mend = f"it should {' or '.join(dict.fromkeys(wanted))}"
    return UserError(f"{place} is {values.get(key)!r}", mend)


def load_run(folder: Path) -> Run:
    """Build again what a run folder was made with.

    Raises:
        UserError: The folder is none of a run.
    """
    saved = Path(folder, ".hydra")
    try:
        cfg = OmegaConf.load(saved / "config.yaml")
        cwd = OmegaConf.load(saved / "hydra.yaml").hydra.runtime.cwd
        status = json.loads(Path(folder, "status.json").read_text())
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} is not the folder of a run: it has no {Path(error.filename).name}",
            "name a folder below outputs/, or one job's folder below multirun/",
        ) from error
    assert isinstance(cfg, DictConfig)
    run = build(cfg, status["row"]["changed"], Path(cwd), Path(folder))
    return dataclasses.replace(run, command=shlex.join(["persona-lab", *status["overrides"]]))


def load_agents(folder: str | Path) -> "Agents":
    """The user agents of a run, as it left them; nothing is computed again.

    Args:
        folder: A run's folder, as below outputs/ or multirun/.

    Raises:
        UserError: It is no run's folder, or the cache no longer has what the run made.
    """
    from persona_lab.agents import Agents
    from persona_lab.cache import NotAtHand

    run = load_run(Path(folder))
    try:
        return Agents(run.experiment, run.lab.at_hand)
    except NotAtHand as lost:
        raise UserError(
            f"{folder}: {lost.what} any more", f"make it again: {run.command}"
        ) from lost


def row(cfg: DictConfig, choices: Mapping[str, Any]) -> dict[str, Any]:
    """Name a job's choices as a result's row does, without its id.

    Args:
        cfg: The composed configuration.
        choices: group -> option, Hydra's `runtime.choices`.
    """
    named = _named()
    names = {group: cfg[group].get("name", choices[group]) for group in named}
    named_so = {"setup": cfg.setup, "role": cfg.role, **names, "seed": cfg.seed}
    return named_so | {"changed": _changed(cfg, choices, named)}


def _named() -> list[str]:
    """The groups whose options a result's row names."""
    from persona_lab.evaluation import Row

    groups = {item.name for item in resources.files(CONF).iterdir()} - OVERLAYS
    return [field.name for field in dataclasses.fields(Row) if field.name in groups]


def _changed(cfg: DictConfig, choices: Mapping[str, Any], named: Sequence[str]) -> dict[str, Any]:
    """Every choice that differs from the default one of the same setup and that no name tells.

    A group by its option; a field against what its group's option and the setup give it.
    """
    usual = compose_choices([f"setup={cfg.setup}"])
    known = usual.hydra.runtime.choices
    chosen = {
        group: option
        for group, option in choices.items()
        if option is not None and not group.startswith("hydra/")
    }
    unnamed = _UNNAMED | {*named}
    options = {group: option for group, option in chosen.items() if group not in unnamed}
    plain = compose_choices(
        f"{'' if group in known else '+'}{group}={option}"
        for group, option in chosen.items()
        if group not in ("row", "experiment")
    )
    absent = object()
    ours, theirs = _leaves(cfg), _leaves(plain)
    differing = (
        key for key in {**theirs, **ours} if ours.get(key, absent) != theirs.get(key, absent)
    )
    return {
        **{group: option for group, option in options.items() if option != known.get(group)},
        **{key: _shown(key, ours.get(key)) for key in sorted(differing)},
    }


def compose_choices(overrides: Iterable[str]) -> DictConfig:
    """The configuration of other choices, with Hydra's node, inside a run of Hydra's."""
    loader = GlobalHydra.instance().config_loader()
    return loader.load_configuration("config", list(overrides), run_mode=RunMode.RUN)


def _leaves(cfg: DictConfig) -> dict[str, Any]:
    """Dotted field -> value, of the fields that can change a result."""
    from persona_lab.component import neutral_fields

    def walk(node: Any, where: str) -> Iterator[tuple[str, Any]]:
        if not isinstance(node, dict) or not node:
            yield where, node
            return
        target = node.get("_target_")
        kind = _resolve(target, where) if target else None
        # A path or a source is no part of a key, since its content is; what it holds may differ.
        skipped = neutral_fields(kind) - {"path", "source"} if kind else set()
        for key, value in node.items():
            if key not in skipped:
                yield from walk(value, f"{where}.{key}" if where else str(key))

    ours = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key not in {"hydra", *_UNNAMED}])
    return dict(walk(OmegaConf.to_container(ours), ""))


def _shown(key: str, value: Any) -> Any:
    # A table is read by others: where a file lies on this machine says nothing to them.
    return Path(value).name if key.endswith(".path") and value is not None else value


def unknown(where: str, key: str, fields: Iterable[str]) -> UserError:
    """A field that is not there, with what was meant or what there is.

    Args:
        where: Its full name.
        key: The last part of it.
        fields: The names there; one within a part is `part.name`.
    """
    place = where.removesuffix(key)
    known = [field for field in fields if not field.startswith("_")]
    known += [] if place else ["row", "experiment"]
    inner = [field for field in known if field.endswith(f".{key}")]
    close = inner or difflib.get_close_matches(key, known, n=1)
    choices = f"choose {', '.join(sorted(known))}" if known else f"write +{where}=... to add it"
    mend = f"did you mean {place}{close[0]}?" if close else choices
    return UserError(f"'{where}' does not exist", mend)


def first_line(error: BaseException) -> str:
    """What is shown of an error: its first line, behind the kind of one that is no user's."""
    from hydra.errors import HydraException

    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, UserError | HydraException) and lines:
        return lines[0]
    return ": ".join([type(error).__name__, *lines[:1]])


def let_play(models: Iterable[str]) -> None:
    """Make models options of `slm` and `llm`, so that one file in model/ adds a base model."""
    for model in models:
        for role in ("slm", "llm"):
            ConfigStore.instance().store(group=role, name=model, node={}, package="_global_")


let_play(
    item.name.removesuffix(".yaml")
    for item in resources.files(CONF).joinpath("model").iterdir()
    if item.name.endswith(".yaml")
)


def _job_folder(number: int, overrides: Sequence[str]) -> str:
    """Name of a job's folder in its sweep: `03-r3` or `00-adapter=persona,memory=ms`."""
    pairs = [override.split("=", 1) for override in overrides]
    parts = [
        value if key == "row" else f"{key}={value}"
        for key, value in pairs
        if key not in ("experiment", "setup")
    ]
    label = re.sub(r"[^\w.,=+-]+", "_", ",".join(parts))[:80]
    return f"{number:02d}-{label}" if label else f"{number:02d}"


OmegaConf.register_new_resolver("job_folder", _job_folder, replace=True)

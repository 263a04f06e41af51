"""Choices on a command line in; experiments, run folders and a sweep's table out.

The only module that knows Hydra: it composes conf/, checks and builds the plain objects of the
rooms below, runs one job in its folder, and says in one line what a user can mend. It imports
no room when it is itself imported, so that errors and help answer at once.
"""

import dataclasses
import difflib
import itertools
import json
import logging
import math
import os
import pkgutil
import re
import shlex
import signal
import sys
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from persona_lab.errors import UserError

if TYPE_CHECKING:
    from persona_lab.cache import Cache, Entry
    from persona_lab.estimate import Estimate
    from persona_lab.experiment import Experiment, Prepared
    from persona_lab.model import Plan, TrainedAdapter
    from persona_lab.report import Report
    from persona_lab.sources import Sources

_log = logging.getLogger(__name__)

CONF = "persona_lab.conf"
# Fields of no group beside the experiment's own.
_SWITCHES: dict[str, Any] = dict.fromkeys(("plan", "rerun", "verify"), bool)
_SWITCHES |= {"stage": Literal["all", "prepare"], "cache": str | None}
# What a result's row names, beside the setup, the role and the seed.
_NAMED = ["model", "adapter", "memory", "data", "distiller", "embedder", "personas", "protocol"]
_NAMED += ["decode", "peft"]
# Choices that cannot change a result, or whose effect another field of the row names.
_UNNAMED = {"setup", "role", "slm", "llm", "row", "experiment", "logger", *_NAMED}
_NEUTRAL = re.compile(
    r"(setup|role|seed|plan|stage|rerun|verify|cache|logger\..*"
    r"|model\.sizes\..*|trainer\.(accelerator|devices|strategy|tokens_per_batch|progress|tflops))$"
)
# What a run computes, and the state that it ends in.
_STATES = {"all": "completed", "prepare": "prepared"}


def launch(arguments: Sequence[str]) -> None:
    """Do what the command line asks for: run, sweep, or show the configuration.

    Args:
        arguments: What stands behind the program's name.

    Raises:
        UserError: The configuration is not one.
        SystemExit: With one line for the terminal: what a user can mend in a run, or which jobs
            of a sweep failed; with 143 after a SIGTERM, which ends a whole sweep as Ctrl-C does.
    """
    sys.argv[1:] = accept(arguments)
    # Lightning notes a SIGTERM and goes on rating, unless a handler of ours stands behind its own.
    before = signal.signal(signal.SIGTERM, _terminate)
    asked = os.environ.get("HYDRA_FULL_ERROR")
    # Hydra then hands its errors on instead of printing them.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        hydra.main(version_base="1.3", config_path=f"pkg://{CONF}", config_name="config")(run_job)()
    except (HydraException, OmegaConfBaseException) as error:
        if asked == "1":
            raise
        raise explain(error) from error
    except Exception as error:
        # A job says what is wrong and raises SystemExit alone: this is a launcher's.
        if asked == "1":
            raise
        raise UserError(
            f"the launcher failed: {_first_line(error)}",
            "is it installed, as by pip install -e '.[joblib,slurm]'? What jobs have done "
            "is kept: the same command goes on",
        ) from error
    finally:
        os.environ["HYDRA_FULL_ERROR"] = asked or "0"
        signal.signal(signal.SIGTERM, before)


def accept(arguments: Sequence[str]) -> list[str]:
    """What Hydra is given for a command line: forms that it refuses for no reason are mended.

    `-m` is dropped beside `--cfg` and `--info`; `+experiment=mine` means `experiment=mine` for
    every group that is there already; models in an added `--config-dir` can play both roles.

    Raises:
        UserError: A group is set to null, which Hydra answers with a traceback.
    """
    given = list(arguments)
    if any(re.match(r"(-c|-i|--cfg|--info)\b", argument) for argument in given):
        given = [argument for argument in given if argument not in ("-m", "--multirun")]
    words = [word for argument in given for word in argument.split("=", 1)]
    for flag, folder in itertools.pairwise(words):
        if flag in ("--config-dir", "-cd"):
            _let_play(path.stem for path in Path(folder, "model").glob("*.yaml"))
    ours = "|".join(item.name for item in resources.files(CONF).iterdir() if item.is_dir())
    for argument in given:
        if re.fullmatch(rf"({ours})=(null)?", argument):
            raise UserError(f"{argument} chooses nothing", "leave it out, or choose an option")
    return [re.sub(rf"^\+(?=({ours})=)", "", argument) for argument in given]


def _let_play(models: Iterable[str]) -> None:
    """Make models options of `slm` and `llm`, so that one file in model/ adds a base model."""
    for model in models:
        for role in ("slm", "llm"):
            ConfigStore.instance().store(group=role, name=model, node={}, package="_global_")


_let_play(
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


@dataclasses.dataclass(frozen=True)
class Run:
    """An experiment with the places that it reads and writes.

    Attributes:
        experiment: The configured flow, nothing of it run.
        sources: The cache of public artefacts.
        store: The stages' results.
        command: What was typed for it.
    """

    experiment: "Experiment"
    sources: "Sources"
    store: "Cache"
    command: str = "persona-lab"


def build(cfg: DictConfig, changed: Mapping[str, Any], folder: Path) -> Run:
    """Make the plain objects of a composed configuration.

    Args:
        cfg: The composed configuration, as in a run folder's .hydra/config.yaml.
        changed: The result row's `changed`.
        folder: Where the command was given: relative paths start there.

    Raises:
        UserError: A field that its class does not have, a value of the wrong type, a class
            that cannot be found, or what a class itself refuses.
    """
    from persona_lab.cache import Cache
    from persona_lab.experiment import Experiment
    from persona_lab.sources import Sources, default_cache

    fields = _absolute(OmegaConf.to_container(cfg, resolve=True), folder)
    check(fields)
    hints = typing.get_type_hints(Experiment, include_extras=True) | _SWITCHES
    for key in {"seed", *_SWITCHES} & fields.keys():
        _check_field(key, key, fields[key], hints)
    try:
        parts = hydra.utils.instantiate(fields, _convert_="all")
    except HydraException as error:
        raise explain(error) from error
    names = {field.name for field in dataclasses.fields(Experiment)} - {"changed"}
    experiment = Experiment(changed=dict(changed), **{name: parts[name] for name in names})
    cache = folder / Path(cfg.cache).expanduser() if cfg.cache else default_cache()
    return Run(experiment, Sources(cache), Cache(cache / "store", verify=cfg.verify))


def _absolute(node: Any, folder: Path) -> Any:
    if isinstance(node, list):
        return [_absolute(item, folder) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: str(folder / Path(value).expanduser())
        if key == "path" and isinstance(value, str)
        else _absolute(value, folder)
        for key, value in node.items()
    }


def check(node: Any, where: str = "") -> None:
    """Hold every node that names a dataclass against that class's fields and their types.

    Raises:
        UserError: Naming the first field that does not fit.
    """
    if isinstance(node, list):
        for number, item in enumerate(node):
            check(item, f"{where}[{number}]")
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        check(value, f"{where}.{key}" if where else str(key))
    if "_target_" not in node:
        return
    try:
        target = pkgutil.resolve_name(node["_target_"])
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"{where}: {node['_target_']} cannot be imported: {_first_line(error)}",
            "is the dotted path right, and its module in this folder or on PYTHONPATH?",
        ) from error
    if dataclasses.is_dataclass(target):
        hints = typing.get_type_hints(target, include_extras=True)
        for key, value in node.items():
            if not key.startswith("_"):
                _check_field(f"{where}.{key}", key, value, hints)


def _check_field(where: str, key: str, value: Any, hints: Mapping[str, Any]) -> None:
    # Imported here: only jobs need it, and it takes a tenth of a second.
    from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError

    if key not in hints:
        raise _unknown(where, key, hints)
    if isinstance(value, dict) and "_target_" in value:
        return  # what a nested component holds is held against its own class
    try:
        # The strict rules of JSON are those of YAML: an integer is a float, a list a tuple.
        TypeAdapter(hints[key]).validate_json(json.dumps(value), strict=True)
    except PydanticSchemaGenerationError:
        return  # a type that no YAML value has: its owner's to refuse
    except ValidationError as error:
        wanted = (re.sub("^(Input|Value) should ", "", each["msg"]) for each in error.errors())
        mend = f"it should {' or '.join(dict.fromkeys(wanted))}"
        raise UserError(f"{where} is {value!r}", mend) from None


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
    run = build(cfg, status["row"]["changed"], Path(cwd))
    return dataclasses.replace(run, command=shlex.join(["persona-lab", *status["overrides"]]))


@dataclasses.dataclass(frozen=True)
class Finished:
    """What a run left behind.

    Attributes:
        run: As from `load_run`; fetches nothing, and its store computes nothing.
        prepared: What the run shared with other rows.
        plan: Which adapter rates which users.
        adapters: The trained ones by name.
    """

    run: Run
    prepared: "Prepared"
    plan: "Plan"
    adapters: "Mapping[str, Entry[TrainedAdapter]]"


def load_finished(folder: Path) -> Finished:
    """Find again what a run made: what is gone is told, not fetched or computed again.

    Raises:
        UserError: The folder is none of a run, or the store or the cache no longer has it all.
    """
    from persona_lab.cache import NotAtHand

    run = load_run(folder)
    sources = dataclasses.replace(run.sources, offline=True)
    run = dataclasses.replace(
        run, sources=sources, store=dataclasses.replace(run.store, computing=False)
    )
    one, places = run.experiment, (run.sources, run.store)
    try:
        prepared = one.prepare(*places)
        plan = one.plan(prepared)
        adapters = one.adapters(*places, prepared, plan, folder=folder)
    except NotAtHand as lost:
        raise UserError(
            f"{folder}: {lost.what} any more", f"make it again: {run.command}"
        ) from lost
    return Finished(run, prepared, plan, adapters)


def run_job(cfg: DictConfig) -> float | None:
    """Run one composed configuration in its folder, with its state in status.json.

    A job of a sweep never raises: the sweep goes on, and its end lists what failed.

    Returns:
        What a sweeper that searches makes small; None from a job that failed, and to any other.
    """
    context = HydraConfig.get()
    folder = Path(context.runtime.output_dir)
    in_sweep = context.mode == RunMode.MULTIRUN
    objective = None
    status: dict[str, Any] = {"state": "running", "error": None}
    status |= {"overrides": list(context.overrides.task), "row": {}, "started": _now()}
    if in_sweep and context.runtime.choices["hydra/launcher"] == "joblib":
        _take_device(context.job.num, context.launcher.n_jobs)
    try:
        status["row"] = row(cfg, context)
        _publish(status, folder)
        if in_sweep and cfg.trainer.strategy == "ddp":
            raise UserError(
                "a job of a sweep has one device",
                "take trainer=cpu or trainer=gpu; a launcher spreads jobs over devices, as "
                "hydra/launcher=joblib does over the GPUs of one machine",
            )
        if cfg.trainer.strategy == "auto" and cfg.trainer.devices != 1:
            raise UserError(f"trainer.devices is {cfg.trainer.devices}", "use trainer=ddp")
        run = build(cfg, status["row"]["changed"], Path(context.runtime.cwd))
        with _warnings_in_log():
            if cfg.plan:
                _estimate(run).save(folder)
            elif cfg.stage == "prepare":
                run.experiment.prepare_alone(run.sources, run.store, folder)
            else:
                result = run.experiment.run(run.sources, run.store, folder, cfg.rerun)
                if in_sweep and _searches(context):
                    objective = result.objective()
    except BaseException as error:
        _publish(status | {"state": "failed", "error": _first_line(error), "ended": _now()}, folder)
        _log.debug("traceback", exc_info=True)
        # Lightning turns Ctrl-C into SystemExit, as `_terminate` does SIGTERM.
        if in_sweep and isinstance(error, Exception):
            _log.error("%s failed: %s", folder.name, _first_line(error))
            return None
        if isinstance(error, UserError):
            _refuse(error)
        if isinstance(error, Exception):
            _refuse(UserError(_first_line(error), f"the traceback is in the log in {folder}"))
        raise
    state = "planned" if cfg.plan else _STATES[cfg.stage]
    _publish(status | {"state": state, "ended": _now()}, folder)
    if not in_sweep:
        _conclude(folder, [folder])
    return objective


def _searches(context: Any) -> bool:
    """Whether the sweeper looks at what jobs return to choose the next ones."""
    return not context.sweeper._target_.endswith(".BasicSweeper")


def _terminate(number: int, frame: object) -> typing.NoReturn:
    raise SystemExit(128 + number)


def _take_device(number: int, n_jobs: int) -> None:
    """Leave a process that joblib started one GPU, in turn of those that its parent may use.

    A process keeps the GPU of its first job: CUDA knows no other afterwards.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = [*map(str, range(n_jobs))] if visible is None else visible.split(",")
    os.environ["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]


def _estimate(run: Run) -> "Estimate":
    # Imported here, as all rooms: errors and help answer at once.
    from persona_lab.estimate import estimate

    return estimate(run.experiment, run.sources, run.store)


def row(cfg: DictConfig, context: Any) -> dict[str, Any]:
    """Name a job's choices as a result's row does, without its id.

    Args:
        cfg: The composed configuration.
        context: Its `hydra` node.
    """
    choices = context.runtime.choices
    names = {group: cfg[group].get("name", choices[group]) for group in _NAMED}
    named = {"setup": cfg.setup, "role": cfg.role, **names, "seed": cfg.seed}
    return named | {"changed": _changed(cfg, choices)}


def _changed(cfg: DictConfig, choices: Mapping[str, Any]) -> dict[str, Any]:
    """Every choice that differs from the default one of the same setup and that no name tells.

    A group by its option; a field against what its group's option and the setup give it.
    """
    usual = _compose([f"setup={cfg.setup}"])
    known = usual.hydra.runtime.choices
    chosen = {
        group: option
        for group, option in choices.items()
        if option is not None and not group.startswith("hydra/")
    }
    options = {group: option for group, option in chosen.items() if group not in _UNNAMED}
    plain = _compose(
        f"{'' if group in known else '+'}{group}={option}"
        for group, option in chosen.items()
        if group not in ("row", "experiment")
    )
    absent = object()
    ours, theirs = _leaves(cfg), _leaves(plain)
    differing = (
        key
        for key in {**theirs, **ours}
        if ours.get(key, absent) != theirs.get(key, absent) and not _NEUTRAL.match(key)
    )
    return {
        **{group: option for group, option in options.items() if option != known.get(group)},
        **{key: _shown(key, ours.get(key)) for key in sorted(differing)},
    }


def _compose(overrides: Iterable[str]) -> DictConfig:
    loader = GlobalHydra.instance().config_loader()
    return loader.load_configuration("config", list(overrides), run_mode=RunMode.RUN)


def _leaves(cfg: DictConfig) -> dict[str, Any]:
    def walk(node: Any, where: str) -> Iterator[tuple[str, Any]]:
        if isinstance(node, dict) and node:
            for key, value in node.items():
                yield from walk(value, f"{where}.{key}" if where else str(key))
        else:
            yield where, node

    ours = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    return dict(walk(OmegaConf.to_container(ours), ""))


def _shown(key: str, value: Any) -> Any:
    # A table is read by others: where a file lies on this machine says nothing to them.
    return Path(value).name if key.endswith(".path") and value is not None else value


class Sweep(Callback):
    """Hydra's callback: checks a command before anything runs, and ends a sweep with its table."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse a sweep that was given without -m."""
        if params := OmegaConf.select(config, "hydra.sweeper.params"):
            experiment = config.hydra.runtime.choices.experiment
            swept = ", ".join(params)
            _refuse(UserError(f"experiment={experiment} is a sweep over {swept}", "add -m"))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Count the jobs to expect; refuse one model for both roles, or a job on every core."""
        if config.hydra.launcher.get("n_jobs", 1) < 1:
            _refuse(
                UserError(
                    "hydra/launcher=joblib would start a job on every core",
                    "say how many at once, with GPUs as many as they are: hydra.launcher.n_jobs=2",
                )
            )
        self._started = _now()
        self._expected: int | None = None
        if _searches(config.hydra):
            _refuse_to_choose_on_test_rows(config)
        else:
            jobs = _jobs(config)
            self._expected = math.prod(len(values) for values in jobs.values())
            if self._expected == 0:
                empty = ", ".join(key for key, values in jobs.items() if not values)
                _refuse(UserError(f"the sweep over {empty} has no jobs", "name other values"))
            _refuse_one_model_for_both_roles(jobs)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table, of results or of plans; exit with 1 where a job failed or is missing."""
        folder = Path(config.hydra.sweep.dir)
        # A folder of a fixed name may hold jobs of older sweeps, which show in the table alone.
        jobs = [
            file.parent
            for file in sorted(folder.glob("*/status.json"))
            if json.loads(file.read_text()).get("started", "") >= self._started
        ]
        done = _conclude(folder, jobs)
        expected = self._expected or len(jobs)
        if done < expected:
            raise SystemExit(f"persona-lab: {done} of {expected} jobs completed")


def _overrides(config: DictConfig) -> list[Override]:
    """A sweep's overrides, of its experiment and of its command line."""
    loader = GlobalHydra.instance().config_loader()
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    return OverridesParser.create(loader).parse_overrides([*params, *config.hydra.overrides.task])


def _jobs(config: DictConfig) -> dict[str, list[str]]:
    """Values of every override of a sweep, as Hydra's own sweeper reads them."""
    return {
        override.get_key_element(): list(override.sweep_string_iterator())
        if override.is_sweep_override()
        else [override.get_value_element_as_str()]
        for override in _overrides(config)
    }


def _refuse_to_choose_on_test_rows(config: DictConfig) -> None:
    # Where the search itself changes the data, each job's result refuses again.
    fixed = (each.input_line for each in _overrides(config) if not each.is_sweep_override())
    data = _compose(line for line in fixed if line).data
    if data.cohort != "dev" and not data.validation_fraction:
        _refuse(
            UserError(
                "a search would choose on test rows of reported users",
                "search on others: data.cohort=dev, or data.validation_fraction=0.1",
            )
        )


def _refuse_one_model_for_both_roles(jobs: Mapping[str, Sequence[str]]) -> None:
    single = [key for key in jobs if re.fullmatch(r"model(\.(name|source|path|gguf))?", key)]
    if not single:
        return
    composed = (
        _compose(f"{key}={value}" for key, value in zip(jobs, job, strict=True))
        for job in itertools.product(*jobs.values())
    )
    first = next(composed).role
    if any(job.role != first for job in composed):
        _refuse(
            UserError(
                f"{single[0]}= would be the model of both roles in this sweep",
                "name them apart: slm=<model> llm=<model>; a path of your own stands in a file "
                "model/<name>.yaml of a folder named by --config-dir",
            )
        )


def _refuse(error: UserError) -> typing.NoReturn:
    # Of all exceptions, this alone passes through Hydra without a word of its own.
    raise SystemExit(f"persona-lab: {error}")


def _conclude(folder: Path, jobs: Sequence[Path]) -> int:
    """Show what jobs came to, with all results of their folder; how many came to an end."""
    states = [json.loads((job / "status.json").read_text())["state"] for job in jobs]
    if "planned" in states:
        from persona_lab.estimate import Estimate, show

        plans = (job for job, state in zip(jobs, states, strict=True) if state == "planned")
        show(sorted((Estimate.load(plan) for plan in plans), key=lambda each: _natural(each.label)))
    elif "prepared" not in states:
        report = _tabulate(folder, write=jobs != [folder])
        finished = {run.name for run in report.runs}
        return sum(job.name in finished for job in jobs)
    return states.count("planned") + states.count("prepared")


def _tabulate(folder: Path, *, write: bool) -> "Report":
    # Imported here: drawing takes a second to load, and a job's end is the first to need it.
    from persona_lab import report

    try:
        built = report.build(folder)
        report.print_table(built)
        if write:
            _log.info("report: %s", report.write(built, folder)[0])
    except Exception as error:
        if not isinstance(error, UserError):
            _log.exception("a table failed")
        raise SystemExit(f"persona-lab: no table of {folder}: {_first_line(error)}") from error
    return built


def explain(error: Exception) -> UserError:
    """Say Hydra's errors in one line: what is wrong, and what would be right."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return cause
        if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.full_key:
            parent, key = cause.parent_node, str(cause.key)
            known = OmegaConf.to_container(parent) if isinstance(parent, DictConfig) else {}
            assert isinstance(known, dict)
            # What is not the parent's own may be a part's: a distiller's budget is its chat's.
            inner = [
                f"{name}.{key}"
                for name, part in known.items()
                if isinstance(part, dict) and key in part
            ]
            return _unknown(cause.full_key, key, inner or map(str, known))
        cause = cause.__cause__
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        options = ", ".join(sorted(error.options, key=_natural))
        return UserError(f"{group} '{option}' does not exist", f"choose {options}")
    if match := re.match("Ambiguous value for argument '(.*?)'", str(error)):
        return UserError(f"{match[1]} names several values", "name one, or add -m to run them all")
    if isinstance(error, OverrideParseException):
        key, _, value = str(error.override).partition("=")
        quoted = '"' + value.replace("'", r"\'") + '"'
        mend = f"quote the value for the shell and for Hydra: '{key}={quoted}'"
        return UserError(f"{error.override} cannot be read", mend if value else f"write {key}=...")
    return UserError(_first_line(error), "HYDRA_FULL_ERROR=1 shows all")


def _unknown(where: str, key: str, fields: Iterable[str]) -> UserError:
    place = where.removesuffix(key)
    known = [field for field in fields if not field.startswith("_")]
    known += [] if place else ["row", "experiment"]
    inner = [field for field in known if field.endswith(f".{key}")]
    close = inner or difflib.get_close_matches(key, known, n=1)
    choices = f"choose {', '.join(sorted(known))}" if known else f"write +{where}=... to add it"
    mend = f"did you mean {place}{close[0]}?" if close else choices
    return UserError(f"'{where}' does not exist", mend)


def _natural(option: str) -> list[tuple[int, str]]:
    return [(int(part) if part.isdigit() else -1, part) for part in re.split(r"(\d+)", option)]


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, UserError | HydraException) and lines:
        return lines[0]
    return ": ".join([type(error).__name__, *lines[:1]])


def _publish(status: Mapping[str, Any], folder: Path) -> None:
    fresh = folder / "status.json.tmp"
    fresh.write_text(json.dumps(status, indent=1))
    fresh.replace(folder / "status.json")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def _warnings_in_log() -> Iterator[None]:
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)

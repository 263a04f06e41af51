"""A command line in, a run or a sweep out: what a user can mend is said in one line.

Imports no room when it is itself imported, so that errors and help answer at once.
"""

import itertools
import json
import logging
import os
import re
import signal
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from persona_lab.compose import CONF, build, first_line, let_play, row, unknown
from persona_lab.errors import UserError
from persona_lab.sweep import conclude, natural, refuse, searches

_log = logging.getLogger(__name__)

# What was spelt otherwise before.
_FORMER = {"plan=true": "task=plan", "plan=True": "task=plan", "stage=prepare": "task=prepare"}


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
            f"the launcher failed: {first_line(error)}",
            "is it installed, as by pip install -e '.[joblib,slurm]'? What jobs have done "
            "is kept: the same command goes on",
        ) from error
    finally:
        os.environ["HYDRA_FULL_ERROR"] = asked or "0"
        signal.signal(signal.SIGTERM, before)


def accept(arguments: Sequence[str]) -> list[str]:
    """What Hydra is given for a command line: forms that it refuses for no reason are mended.

    `-m` may stand anywhere, and is dropped beside `--cfg` and `--info`; `+experiment=mine` means
    `experiment=mine` for every group that is there already; models in an added `--config-dir` can
    play both roles.

    Raises:
        UserError: A group is set to null, which Hydra answers with a traceback, or a choice is
            spelt as it once was.
    """
    given = list(arguments)
    rest = [argument for argument in given if argument not in ("-m", "--multirun")]
    if len(rest) < len(given):
        shows = any(re.match(r"(-c|-i|--cfg|--info)\b", argument) for argument in rest)
        given = rest if shows else ["-m", *rest]
    words = [word for argument in given for word in argument.split("=", 1)]
    for flag, folder in itertools.pairwise(words):
        if flag in ("--config-dir", "-cd"):
            let_play(path.stem for path in Path(folder, "model").glob("*.yaml"))
    ours = "|".join(item.name for item in resources.files(CONF).iterdir() if item.is_dir())
    for argument in given:
        if argument in _FORMER:
            raise UserError(f"{argument} is no choice any more", f"write {_FORMER[argument]}")
        if re.fullmatch(rf"({ours})=(null)?", argument):
            raise UserError(f"{argument} chooses nothing", "leave it out, or choose an option")
    return [re.sub(rf"^\+(?=({ours})=)", "", argument) for argument in given]


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
    status: dict[str, Any] = {"state": "running", "error": None, "task": cfg.task._target_}
    status |= {"overrides": list(context.overrides.task), "row": {}, "started": now()}
    if in_sweep and context.runtime.choices["hydra/launcher"] == "joblib":
        _take_device(context.job.num, context.launcher.n_jobs)
    try:
        status["row"] = row(cfg, context.runtime.choices)
        _publish(status, folder)
        if in_sweep and cfg.trainer.strategy == "ddp":
            raise UserError(
                "a job of a sweep has one device",
                "take trainer=cpu or trainer=gpu; a launcher spreads jobs over devices, as "
                "hydra/launcher=joblib does over the GPUs of one machine",
            )
        if cfg.trainer.strategy == "auto" and cfg.trainer.devices != 1:
            raise UserError(f"trainer.devices is {cfg.trainer.devices}", "use trainer=ddp")
        run = build(cfg, status["row"]["changed"], Path(context.runtime.cwd), folder)
        with _warnings_in_log():
            result = run.task.run(run.experiment, run.lab)
            if result is not None and in_sweep and searches(context):
                objective = result.objective()
    except BaseException as error:
        _publish(status | {"state": "failed", "error": first_line(error), "ended": now()}, folder)
        _log.debug("traceback", exc_info=True)
        # Lightning turns Ctrl-C into SystemExit, as `_terminate` does SIGTERM.
        if in_sweep and isinstance(error, Exception):
            _log.error("%s failed: %s", folder.name, first_line(error))
            return None
        if isinstance(error, UserError):
            refuse(error)
        if isinstance(error, Exception):
            refuse(UserError(first_line(error), f"the traceback is in the log in {folder}"))
        raise
    _publish(status | {"state": run.task.state, "ended": now()}, folder)
    if not in_sweep:
        conclude(folder, [folder])
    return objective


def _terminate(number: int, frame: object) -> typing.NoReturn:
    raise SystemExit(128 + number)


def _take_device(number: int, n_jobs: int) -> None:
    """Leave a process that joblib started one GPU, in turn of those that its parent may use.

    A process keeps the GPU of its first job: CUDA knows no other afterwards.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = [*map(str, range(n_jobs))] if visible is None else visible.split(",")
    os.environ["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]


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
            return unknown(cause.full_key, key, inner or map(str, known))
        cause = cause.__cause__
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        options = ", ".join(sorted(error.options, key=natural))
        return UserError(f"{group} '{option}' does not exist", f"choose {options}")
    if match := re.match("Ambiguous value for argument '(.*?)'", str(error)):
        return UserError(f"{match[1]} names several values", "name one, or add -m to run them all")
    if isinstance(error, OverrideParseException):
        key, _, value = str(error.override).partition("=")
        quoted = '"' + value.replace("'", r"\'") + '"'
        mend = f"quote the value for the shell and for Hydra: '{key}={quoted}'"
        return UserError(f"{error.override} cannot be read", mend if value else f"write {key}=...")
    return UserError(first_line(error), "HYDRA_FULL_ERROR=1 shows all")


def _publish(status: Mapping[str, Any], folder: Path) -> None:
    fresh = folder / "status.json.tmp"
    fresh.write_text(json.dumps(status, indent=1))
    fresh.replace(folder / "status.json")


def now() -> str:
    """The time, as status.json tells it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def _warnings_in_log() -> Iterator[None]:
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)

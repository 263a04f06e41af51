"""A sweep's command -> refused where it cannot be meant; its jobs -> one table at the end.

Hydra's callback. Knows Hydra, as `compose` and `cli` do.
"""

import itertools
import json
import logging
import math
import pkgutil
import re
import typing
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from persona_lab.compose import compose_choices, first_line
from persona_lab.errors import UserError

_log = logging.getLogger(__name__)


class Sweep(Callback):
    """Checks a command before anything runs, and ends a sweep with its table."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse a sweep that was given without -m."""
        if params := OmegaConf.select(config, "hydra.sweeper.params"):
            experiment = config.hydra.runtime.choices.experiment
            swept = ", ".join(params)
            refuse(UserError(f"experiment={experiment} is a sweep over {swept}", "add -m"))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Count the jobs to expect; refuse one model for both roles, or a job on every core."""
        if config.hydra.launcher.get("n_jobs", 1) < 1:
            refuse(
                UserError(
                    "hydra/launcher=joblib would start a job on every core",
                    "say how many at once, with GPUs as many as they are: hydra.launcher.n_jobs=2",
                )
            )
        self._started = datetime.now(UTC).isoformat(timespec="seconds")
        self._expected: int | None = None
        if searches(config.hydra):
            _refuse_to_choose_on_test_rows(config)
        else:
            values = job_values(config)
            self._expected = math.prod(len(options) for options in values.values())
            if self._expected == 0:
                empty = ", ".join(key for key, options in values.items() if not options)
                refuse(UserError(f"the sweep over {empty} has no jobs", "name other values"))
            _refuse_one_model_for_both_roles(values)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table, of results or of plans; exit with 1 where a job failed or is missing."""
        folder = Path(config.hydra.sweep.dir)
        # A folder of a fixed name may hold jobs of older sweeps, which show in the table alone.
        jobs = [
            file.parent
            for file in sorted(folder.glob("*/status.json"))
            if json.loads(file.read_text()).get("started", "") >= self._started
        ]
        done = conclude(folder, jobs)
        expected = self._expected or len(jobs)
        if done < expected:
            raise SystemExit(f"persona-lab: {done} of {expected} jobs completed")


def conclude(folder: Path, jobs: Sequence[Path]) -> int:
    """Let each task show what its jobs came to; how many came to an end.

    Args:
        folder: The sweep's, or that of the only run.
        jobs: Folders of the jobs.
    """
    by_task: dict[str, list[Path]] = {}
    for job in jobs:
        by_task.setdefault(json.loads((job / "status.json").read_text())["task"], []).append(job)
    done = 0
    for path, folders in by_task.items():
        try:
            task = pkgutil.resolve_name(path)
        except (ImportError, AttributeError, ValueError):
            # Its jobs have said so.
            continue
        ended = [job for job in folders if _state(job) == task.state]
        # A table lists failures too; other tasks show what there is.
        try:
            done += task.conclude(folder, ended)
        except UserError as error:
            refuse(error)
        except Exception as error:
            _log.exception("a table failed")
            refuse(UserError(f"no table of {folder}: {first_line(error)}", "see the log"))
    return done


def _state(job: Path) -> str:
    return json.loads((job / "status.json").read_text())["state"]


def searches(context: Any) -> bool:
    """Whether the sweeper looks at what jobs return to choose the next ones.

    Args:
        context: Hydra's own node.
    """
    return not context.sweeper._target_.endswith(".BasicSweeper")


def refuse(error: UserError) -> typing.NoReturn:
    """End the program with a user's error."""
    # Of all exceptions, this alone passes through Hydra without a word of its own.
    raise SystemExit(f"persona-lab: {error}")


def job_values(config: DictConfig) -> dict[str, list[str]]:
    """Values of every override of a sweep, as Hydra's own sweeper reads them."""
    return {
        override.get_key_element(): list(override.sweep_string_iterator())
        if override.is_sweep_override()
        else [override.get_value_element_as_str()]
        for override in _overrides(config)
    }


def _overrides(config: DictConfig) -> list[Override]:
    """A sweep's overrides, of its experiment and of its command line."""
    loader = GlobalHydra.instance().config_loader()
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    return OverridesParser.create(loader).parse_overrides([*params, *config.hydra.overrides.task])


def _refuse_to_choose_on_test_rows(config: DictConfig) -> None:
    # Where the search itself changes the data, each job's result refuses again.
    fixed = (
        override.input_line for override in _overrides(config) if not override.is_sweep_override()
    )
    data = compose_choices(line for line in fixed if line).data
    if data.cohort != "dev" and not data.validation_fraction:
        refuse(
            UserError(
                "a search would choose on test rows of reported users",
                "search on others: data.cohort=dev, or data.validation_fraction=0.1",
            )
        )


def _refuse_one_model_for_both_roles(values: Mapping[str, Sequence[str]]) -> None:
    single = [key for key in values if re.fullmatch(r"model(\.(name|source|path|gguf))?", key)]
    if not single:
        return
    composed = (
        compose_choices(f"{key}={value}" for key, value in zip(values, job, strict=True))
        for job in itertools.product(*values.values())
    )
    first = next(composed).role
    if any(job.role != first for job in composed):
        refuse(
            UserError(
                f"{single[0]}= would be the model of both roles in this sweep",
                "name them apart: slm=<model> llm=<model>; a path of your own stands in a file "
                "model/<name>.yaml of a folder named by --config-dir",
            )
        )


def natural(option: str) -> list[tuple[int, str]]:
    """Sorts r2 before r10."""
    return [(int(part) if part.isdigit() else -1, part) for part in re.split(r"(\d+)", option)]

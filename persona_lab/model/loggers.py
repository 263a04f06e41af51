"""A run -> its curves and its outcome: in CSV, TensorBoard, Weights & Biases or nowhere.

None of them may ask a question, need an account or need the network.
"""

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import pandas as pd
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger

from persona_lab.component import component
from persona_lab.errors import UserError

if TYPE_CHECKING:
    import wandb

_log = logging.getLogger(__name__)

_PATIENCE = 20.0  # seconds to reach the service, before a run goes on offline
_LONGEST_UPLOAD = 1800.0  # seconds at a run's end; what is left then waits for `wandb sync`


@dataclass(frozen=True)
class Labels:
    """What a run is found by.

    Attributes:
        name: Its row of Table 1, else its folder's name.
        tags: Its main choices.
        config: All settings.
        keys: stage -> key in the store, of what the run was made from.
    """

    name: str
    tags: tuple[str, ...]
    config: Mapping[str, Any]
    keys: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a run came to: numbers by name or nested, its test rows, and adapters' folders."""

    metrics: Mapping[str, Any]
    predictions: pd.DataFrame
    adapters: Mapping[str, Path]


@runtime_checkable
class Logger(Protocol):
    """Where a run's curves and outcome go. Files go to the run's folder."""

    def prepared(self, folder: Path, labels: Labels, numbers: Mapping[str, Any]) -> None:
        """Show what the stages that rows share took, where a run computes no more than these."""
        ...

    def curves(self, folder: Path, labels: Labels, adapters: Mapping[str, Path]) -> Any:
        """A context manager in which adapters are trained; it yields Lightning's logger or None.

        `adapters`: name -> folder in which it lies at the end, of those that are trained.
        """
        ...

    def outcome(self, folder: Path, labels: Labels, outcome: Outcome) -> None:
        """Show what a run came to, also where all of it was reused."""
        ...


@component
class NoLogger:
    """No curves; the outcome stands in the run's folder anyway."""

    def prepared(self, folder: Path, labels: Labels, numbers: Mapping[str, Any]) -> None:
        """Show nothing."""

    def curves(self, folder: Path, labels: Labels, adapters: Mapping[str, Path]) -> Any:
        """Yield None."""
        return nullcontext()

    def outcome(self, folder: Path, labels: Labels, outcome: Outcome) -> None:
        """Show nothing more."""


@component
class Csv(NoLogger):
    """Curves as curves/metrics.csv in the run folder."""

    def curves(self, folder: Path, labels: Labels, adapters: Mapping[str, Path]) -> Any:
        """Yield Lightning's CSV logger."""
        return nullcontext(CSVLogger(folder, name="curves", version=""))


@component
class Tensorboard(NoLogger):
    """Curves for TensorBoard in the run folder."""

    def curves(self, folder: Path, labels: Labels, adapters: Mapping[str, Path]) -> Any:
        """Yield Lightning's TensorBoard logger.

        Raises:
            UserError: TensorBoard is not installed.
        """
        try:
            return nullcontext(TensorBoardLogger(folder, name="curves", version=""))
        except ModuleNotFoundError as error:
            raise UserError(
                "logger=tensorboard needs the package tensorboard", "pip install tensorboard"
            ) from error


@component
class Wandb:
    """Runs in Weights & Biases: online when logged in and reached, else offline in the run folder.

    A run here is one there for each stage: `adapters` while any is trained, with its curves and
    the adapters as artifacts, and `predictions` with the numbers, the table of test rows and the
    adapters that rated as its inputs. A run of the shared stages alone is one: `prepare`.

    Attributes:
        project: Project's name.
        entity: Team or user; None: the default one.
        group: Shown together; None: the folder above the run's, which is the sweep's.
        mode: `auto`, `online` or `offline`.
    """

    project: str
    entity: str | None
    group: str | None
    mode: Literal["auto", "online", "offline"]

    def prepared(self, folder: Path, labels: Labels, numbers: Mapping[str, Any]) -> None:
        """Show the numbers."""
        with self.start(folder, labels, "prepare") as run:
            run.summary.update(dict(numbers))

    @contextmanager
    def curves(
        self, folder: Path, labels: Labels, adapters: Mapping[str, Path]
    ) -> Iterator[WandbLogger | None]:
        """Yield Lightning's logger of a run that is finished at the end; None without adapters."""
        if not adapters:
            yield None
            return
        with self.start(folder, labels, "adapters") as run:
            run.define_metric("*", step_metric="trainer/global_step")
            yield WandbLogger(experiment=run, save_dir=folder)
            for name, place in adapters.items():
                run.log_artifact(_artifact(name, place, labels))

    def outcome(self, folder: Path, labels: Labels, outcome: Outcome) -> None:
        """Show numbers and predictions, and note in wandb.json where they are."""
        with self.start(folder, labels, "predictions") as run:
            for name, place in outcome.adapters.items():
                # What `use_artifact` does, but that refuses to do it offline.
                made = _artifact(name, place, labels)
                run._log_artifact(made, is_user_created=True, use_after_commit=True)
            run.log({"predictions": table(outcome.predictions)})
            run.summary.update(dict(outcome.metrics))
            place = {"entity": run.entity or None, "project": run.project, "group": run.group}
        (folder / "wandb.json").write_text(json.dumps(place), encoding="utf-8")

    def start(self, folder: Path, labels: Labels, stage: str) -> "wandb.Run":
        """Begin a run of W&B, to be used in a `with`: finished in any case, none merge into one.

        It writes into `folder`, of which the folder above names its group; `stage` is its job type.

        Raises:
            UserError: `mode` is `online` and nobody is logged in, or the service is not reached.
        """
        import wandb  # takes a second, and most runs have no use for it

        mode: Any = os.environ.get("WANDB_MODE", "online") if self.mode == "auto" else self.mode
        if mode == "online" and not wandb.login(prompt=False, verify=False):
            if self.mode == "online":
                raise UserError(
                    "logger.mode is online, and nobody is logged in to Weights & Biases",
                    "run `wandb login`, or use logger.mode=auto",
                )
            mode = "offline"
        begin = partial(
            wandb.init,
            project=self.project,
            entity=self.entity,
            group=self.group or " ".join(folder.parts[-3:-1]),
            job_type=stage,
            name=labels.name,
            tags=labels.tags,
            config={**labels.config, "keys": dict(labels.keys)},
            dir=folder,
            reinit="create_new",  # also where a notebook has a run of its own open
            settings=wandb.Settings(
                silent=True, console="off", init_timeout=_PATIENCE, finish_timeout=_LONGEST_UPLOAD
            ),
        )
        try:
            return begin(mode=mode)
        except wandb.Error as error:
            if mode != "online":
                raise
            failure = f"Weights & Biases cannot be reached: {error}"
            if self.mode == "online":
                raise UserError(failure, "use logger.mode=auto") from error
            _log.warning(
                "Weights & Biases cannot be reached (%s): runs stay in %s, for `wandb sync`",
                *(error, folder / "wandb"),
            )
            # The next run of this process would only wait again.
            os.environ["WANDB_MODE"] = "offline"
            return begin(mode="offline")


def table(frame: pd.DataFrame) -> "wandb.Table":
    """A frame as a table of W&B, which knows no missing value but None."""
    import wandb

    return wandb.Table(dataframe=frame.astype(object).where(frame.notna(), None))


def _artifact(name: str, folder: Path, labels: Labels) -> "wandb.Artifact":
    """An adapter, known by its key: W&B sees that two runs mean the same one."""
    import wandb

    metadata = {"adapter": name, "key": folder.name, "made_from": dict(labels.keys)}
    made = wandb.Artifact(f"{name}-{folder.name}", "adapter", metadata=metadata)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        # The store never writes a file again: no copy is needed until it is uploaded.
        made.add_file(str(file), file.relative_to(folder).as_posix(), policy="immutable")
    return made

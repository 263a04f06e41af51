"""An experiment in its lab -> what is done with it: its row, its shared stages, a plan.

The options of the config group `task`. A task of one's own is a class with the methods of `Task`
and a YAML that names it.
"""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

from persona_lab.component import component
from persona_lab.evaluation import Result
from persona_lab.experiment import Experiment
from persona_lab.lab import Lab

_log = logging.getLogger(__name__)


@runtime_checkable
class Task(Protocol):
    """What a run does.

    `state` is what status.json says of a run that ended well.
    """

    state: ClassVar[str]

    def run(self, experiment: Experiment, lab: Lab) -> Result | None:
        """Do it; a row of the table has a result."""
        ...

    @staticmethod
    def conclude(folder: Path, jobs: Sequence[Path]) -> int:
        """Show what runs came to.

        Args:
            folder: The sweep's folder, or that of the only run.
            jobs: Folders of the runs that did this task and have ended.

        Returns:
            How many have what they should.
        """
        ...


@component
class Row:
    """Compute a row of the table."""

    state: ClassVar[str] = "completed"

    def run(self, experiment: Experiment, lab: Lab) -> Result:
        """The whole flow."""
        return experiment.run(lab)

    @staticmethod
    def conclude(folder: Path, jobs: Sequence[Path]) -> int:
        """Print the table of all results in the folder; for a sweep, write its report."""
        # Imported here: drawing takes a second to load, and a run's end is the first to need it.
        from persona_lab import report
        from persona_lab.sources import Sources, default_cache

        built = report.build(folder)
        report.print_table(built)
        if list(jobs) != [folder]:
            _log.info("report: %s", report.write(built, folder, Sources(default_cache()))[0])
        finished = {run.name for run in built.runs}
        return sum(job.name in finished for job in jobs)


@component
class Prepare:
    """Compute what rows share, up to the personas, and no more."""

    state: ClassVar[str] = "prepared"

    def run(self, experiment: Experiment, lab: Lab) -> None:
        """The shared stages; a tracker is shown what they took."""
        prepared = experiment.prepare(lab)
        costs = {stage: cost.paid for stage, cost in prepared.costs().items()}
        numbers = {"timing": prepared.timing(), "costs": costs}
        lab.logger.prepared(lab.folder, experiment.labels(lab, prepared), numbers)

    @staticmethod
    def conclude(folder: Path, jobs: Sequence[Path]) -> int:
        """Nothing to show."""
        return len(jobs)


@component
class Plan:
    """Say what a run would take, computing nothing and without a network."""

    state: ClassVar[str] = "planned"

    def run(self, experiment: Experiment, lab: Lab) -> None:
        """Write plan.json."""
        from persona_lab.estimate import estimate

        estimate(experiment, lab).save(lab.folder)

    @staticmethod
    def conclude(folder: Path, jobs: Sequence[Path]) -> int:
        """Print a table of what all would take."""
        from persona_lab.estimate import Estimate, show

        plans = [Estimate.load(job) for job in jobs]
        # r10 after r2.
        if plans:
            show(sorted(plans, key=lambda plan: [int(n) for n in re.findall(r"\d+", plan.label)]))
        return len(jobs)

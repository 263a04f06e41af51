"""Report -> a run of Weights & Biases with its tables and figures, and a W&B Report of them.

The run waits in the report's folder where the service cannot be reached; a W&B Report exists
nowhere but there. Needs the extra `wandb`.
"""

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from persona_lab.errors import UserError
from persona_lab.model.loggers import Labels, Wandb, table
from persona_lab.report.notes import QUESTION, answer
from persona_lab.report.runs import Report
from persona_lab.report.tables import leading
from persona_lab.report.text import markdown_table, spoken

PROJECT = "persona-lab"  # where the runs were logged nowhere
FIGURES = "figures"
ERRORS = ("rmse", "rmse_expected", "mae", "mae_expected", "urr")


class Place(NamedTuple):
    """Where a report's runs are in Weights & Biases.

    Attributes:
        entity: Team or user, None for the default one.
        project: The project.
        groups: Of the runs, one for each sweep; the report's own run goes to the first.
    """

    entity: str | None
    project: str
    groups: tuple[str, ...]


def publish(report: Report, folder: Path) -> str:
    """Log a report that `write` wrote into a folder, and save the W&B Report that shows it.

    Returns:
        What to tell: the W&B Report's address, or what is to be done where it was not reached.

    Raises:
        UserError: The extra is not installed, or the service refuses the W&B Report.
    """
    import wandb

    try:  # rather no run than one without its report
        wr: Any = importlib.import_module("wandb_workspaces.reports.v2")
    except ModuleNotFoundError as error:
        raise UserError(
            "a W&B Report needs the package wandb-workspaces", "pip install -e '.[wandb]'"
        ) from error
    place = place_of(report, folder)
    logger = Wandb(place.project, place.entity, place.groups[0], "auto")
    labels = Labels("report", ("report",), {"folder": folder.name}, {})
    images = {f"{FIGURES}/{file.stem}": file for file in sorted((folder / FIGURES).glob("*.png"))}
    with logger.start(folder, labels, "report") as run:
        run.log({shown.title: table(shown.frame) for shown in leading(report)})
        run.log({key: wandb.Image(str(file)) for key, file in images.items()})
        artifact = wandb.Artifact("report", "report")
        for file in (folder / "report.html", *sorted(folder.glob("table1.*"))):
            artifact.add_file(str(file), file.name)
        run.log_artifact(artifact)
        reached, place = not run.offline, Place(run.entity, run.project, place.groups)
    if not reached:
        return (
            f"Weights & Biases was not reached: the report's run waits in {folder / 'wandb'} for "
            "`wandb sync`, and the W&B Report for this command to be given again, online"
        )
    online = wr.Report(
        entity=place.entity or "",
        project=place.project,
        title=QUESTION.rstrip("?"),  # a part of its address, in which that mark would end the path
        description=f"{len(report.runs)} runs: {', '.join(place.groups)}",
        width="fluid",
        blocks=list(_blocks(wr, report, place, list(images))),
    )
    try:
        online.save()
    except Exception as error:
        # Whatever the service, its client or the way to it have to say.
        raise UserError(
            f"the W&B Report was not saved: {error}", "give the command again: all else was logged"
        ) from error
    return online.url


def place_of(report: Report, folder: Path) -> Place:
    """Return where a report's runs were logged; as a sweep in that folder would be, if nowhere."""
    logged = [
        Place(run.logged["entity"], run.logged["project"], (run.logged["group"],))
        for run in report.runs
        if run.logged
    ]
    if not logged:
        return Place(None, PROJECT, (" ".join(folder.resolve().parts[-2:]),))
    home = logged[0][:2]
    groups = dict.fromkeys(place.groups[0] for place in logged if place[:2] == home)
    return Place(*home, tuple(groups))


def _blocks(wr: Any, report: Report, place: Place, images: Sequence[str]) -> Iterator[Any]:
    from wandb_workspaces import expr

    def panels(stage: str, shown: Sequence[Any]) -> Any:
        ours = expr.Metric("Group").isin(list(place.groups))
        runs = wr.Runset(
            entity=place.entity or "", project=place.project, name=stage,
            filters=expr.And(expr.Metric("JobType") == stage, ours),
        )  # fmt: skip
        return wr.PanelGrid(runsets=[runs], panels=list(shown))

    yield wr.UnorderedList(items=list(answer(report)))
    for shown in leading(report):
        yield from (wr.H2(text=shown.title), wr.MarkdownBlock(text=markdown_table(shown)))
    for head, sentences in spoken(report).items():
        yield from (wr.H2(text=head), wr.UnorderedList(items=list(sentences)))
    losses = dict.fromkeys(f"{name}/loss" for run in report.runs for name in run.result.adapters)
    if losses:
        plot = wr.LinePlot(title="loss", x="trainer/global_step", y=list(losses))
        yield from (wr.H2(text="Training"), panels("adapters", [plot]))
    bars = [wr.BarPlot(title=name, metrics=[name], orientation="h") for name in ERRORS]
    yield from (wr.H2(text="Errors"), panels("predictions", bars))
    if images:
        media = [wr.MediaBrowser(media_keys=[key], num_columns=1) for key in images]
        yield from (wr.H2(text="Figures"), panels("report", media))

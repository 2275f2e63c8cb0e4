"""Reports on the experiments of a project."""

from tailorbird.config import Project
from tailorbird.errors import UsageError
from tailorbird.events import SystemClock, parse_duration
from tailorbird.experiments.report import Report, experiment_report
from tailorbird.lake import Lake


def report_experiment(project: Project, slot: str = "", *, since: str = "") -> Report:
    """Report on the experiment of a slot.

    Args:
        slot: "" takes `train.slot`.
        since: only the last while, such as `14d`.

    Raises:
        UsageError: the slot runs no experiment.
    """
    declared = project.slot(slot)
    if declared.experiment is None:
        raise UsageError(
            f"slot {declared.name} runs no experiment",
            fix=f"give it one in {project.root / 'slots.py'}",
        )
    return experiment_report(
        Lake(project.paths.lake),
        declared.experiment,
        declared.name,
        ts_from=SystemClock().now() - parse_duration(since) if since else None,
        denominator=declared.denominator,
        attribution=parse_duration(declared.attribution),
    )

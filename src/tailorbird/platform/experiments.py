"""Reports on the experiments of a project."""

from typing import TYPE_CHECKING

from tailorbird.config import Project
from tailorbird.errors import UsageError
from tailorbird.events import SystemClock, parse_duration
from tailorbird.experiments.report import Report, experiment_report
from tailorbird.lake import Lake
from tailorbird.platform.moment import clock_as_of
from tailorbird.platform.training import Notify, discard_note, window_us
from tailorbird.training.settings import TrainSettings

if TYPE_CHECKING:
    from tailorbird.training.evaluation.off_policy import OffPolicyReport


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


def estimate_policy(
    project: Project,
    bundle: str,
    against: str = "champion",
    *,
    slot: str = "",
    since: str = "",
    outcome: str = "click",
    as_of: str = "",
    notify: Notify = discard_note,
) -> "OffPolicyReport":
    """Estimate the value of a bundle from the response log, beside that of another one.

    Responses that either bundle learned from are left out.

    Args:
        bundle, against: versions or aliases of the registry.
        slot: "" takes `train.slot`.
        since: length of the most recent period, such as `14d`; "" takes `train.window`.
        outcome: event type that counts as reward.

    Raises:
        UsageError: a version does not exist, or has no model for the slot.
        NotReadyError: no response is left whose outcome is known.
    """
    from tailorbird.training.evaluation.estimate import estimate_bundles

    clock = clock_as_of(as_of, project, notify=notify)
    return estimate_bundles(
        project.features,
        project.slot(slot),
        bundle,
        against,
        lake=project.paths.lake,
        registry=project.paths.registry,
        clock=clock,
        settings=TrainSettings(
            window_us=window_us(since, project), lateness_us=project.plan.lateness_us
        ),
        outcome=outcome,
    )

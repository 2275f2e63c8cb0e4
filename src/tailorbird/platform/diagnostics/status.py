"""The state of a project in the last 24 hours."""

from tailorbird.config import Project
from tailorbird.events import DAY, Clock
from tailorbird.lake import Lake
from tailorbird.monitoring.drift.judgement import read_judgement
from tailorbird.monitoring.status import Status, build_status
from tailorbird.platform.drift import figure_store, read_open_episodes
from tailorbird.platform.models import churn_figures
from tailorbird.registry import Registry


def catalogue_size(project: Project) -> int:
    """Return the number of items that the lake has a profile of; 0 without any."""
    import pyarrow.compute as pc

    lake = Lake(project.paths.lake)
    if not lake.exists("items"):
        return 0
    return int(pc.count_distinct(lake.table("items", ["id"])["id"]).as_py())


def read_status(project: Project, clock: Clock) -> Status:
    """Return the state of a project in the last 24 hours."""
    from tailorbird.platform.notify import describe_notify
    from tailorbird.platform.rollout import waiting_steps
    from tailorbird.platform.runtime.churn import describe_waiting_steps
    from tailorbird.platform.runtime.overdue import read_overdue

    now = clock.now()
    registry = Registry(project.paths.registry, clock=clock)
    store = figure_store(project)
    store.refresh(now - 2 * DAY, now)
    return build_status(
        store.read(now - 2 * DAY, now),
        now,
        registry=registry,
        checks_folder=project.paths.checks,
        catalogue_size=catalogue_size(project),
        alarms=(
            *(row.describe() for row in read_open_episodes(project, clock)),
            *describe_notify(project, now),
        ),
        drift_note=str(read_judgement(project.paths.monitoring)),
        waiting_notes=(
            *(step.describe() for step in waiting_steps(registry.audit())),
            *(entry.describe() for entry in read_overdue(project, clock)),
            *describe_waiting_steps(project, clock),
        ),
        churn_notes=tuple(churn_figures.describe_churn(project, clock)),
        churn_decisions=churn_figures.churn_decisions(project, clock),
    )

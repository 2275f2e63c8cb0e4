"""`tailorbird run lake`: loads the lake."""

import threading
from functools import partial
from typing import TYPE_CHECKING

from tailorbird.cli.output import HealthHost, HealthPort
from tailorbird.cli.roles.probes import serve_probes
from tailorbird.cli.roles.start import report_plain_copy, start_role
from tailorbird.periodic import PeriodicTask, exit_process

if TYPE_CHECKING:
    from tailorbird.config import Project


def lake(*, health_port: HealthPort = 0, health_host: HealthHost = "127.0.0.1") -> None:
    """Archive events and load them into the lake's tables; compact and delete files between loads.

    Once a minute it compares some served features with the tables. After each day it checks that
    day, as `checks run` does.

    Example:  tailorbird -C shop run lake
    """
    from tailorbird.config import open_project
    from tailorbird.config.erasures import apply_remote_erasures
    from tailorbird.config.schemas import champion_features
    from tailorbird.events import parse_duration
    from tailorbird.features.parity import watch
    from tailorbird.lake import run as run_lake

    stop_event = start_role()
    project = open_project(use_applied=True)
    apply_remote_erasures(project)
    report_plain_copy(project)
    settings = project.settings.lake
    commit_every_us = parse_duration(settings.commit_every)
    rows_max = settings.commit_rows
    keep_us = parse_duration(settings.history)
    parity_arguments = (
        partial(champion_features, project),
        project.paths.lake,
        project.paths.state,
        project.paths.run,
        project.clock(),
        stop_event,
    )
    tasks = [
        PeriodicTask(
            "features",
            partial(watch.run_parity_watch, *parity_arguments, workers=project.workers),
            interval_s=60.0,
        ),
        PeriodicTask("checks", partial(_check_days, project, stop_event), interval_s=60.0),
    ]
    if (kafka_logs := project.stream.kafka_logs) is not None:
        from tailorbird.config.schemas import releasable_offset
        from tailorbird.router.routed_log.retention import PRUNE_INTERVAL_S, Retention

        tasks.append(
            PeriodicTask(
                "retention",
                Retention(kafka_logs, partial(releasable_offset, project)).tick,
                interval_s=PRUNE_INTERVAL_S,
                run_at_start=False,
            )
        )
    for task in tasks:
        task.start()
    with serve_probes("lake", project, stop_event, host=health_host, port=health_port, tasks=tasks):
        run_lake(
            project.stream,
            project.paths.lake,
            project.clock(),
            stop_event,
            commit_every_us=commit_every_us,
            rows_max=rows_max,
            keep_us=keep_us,
            sort=settings.sort,
        )
    exit_process(0)


def _check_days(project: "Project", stop_event: threading.Event) -> None:
    """Check the data of a day once it is over."""
    from tailorbird.events import parse_duration
    from tailorbird.monitoring import daily
    from tailorbird.platform.diagnostics.daily_checks import check_features, day_expectations

    settings = project.settings.checks
    paths = project.paths
    daily.run_daily_checks(
        paths.lake,
        paths.checks,
        project.clock(),
        stop_event,
        expectations=day_expectations(project),
        delay_us=parse_duration(settings.after),
        alert_target=settings.alert,
        extra_checks=partial(check_features, project),
    )

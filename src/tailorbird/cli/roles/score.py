"""`tailorbird run score`: scores people as their events arrive."""

from typing import TYPE_CHECKING

from tailorbird.cli.output import HealthHost, HealthPort
from tailorbird.cli.roles.probes import serve_probes
from tailorbird.cli.roles.start import start_role
from tailorbird.errors import UsageError

if TYPE_CHECKING:
    from prometheus_client.registry import Collector


def score(*, health_port: HealthPort = 0, health_host: HealthHost = "127.0.0.1") -> None:
    """Score people as their events arrive, as scores.py declares, into a log of scores.

    Read the log with `scores tail` or `GET /v1/scores`. Features are read as by a server: from the
    state of this machine, or from the Valkey of `store.url`. `up` starts this role if the project
    has a scores.py.

    Example:  tailorbird -C shop run score
    """
    from tailorbird.cli.roles.scoring import ScoreModels
    from tailorbird.config import open_project
    from tailorbird.config.erasures import apply_remote_erasures
    from tailorbird.events import parse_duration
    from tailorbird.features.state.progress import WorkerProgress, write_score_progress
    from tailorbird.serving.metric_collectors import ScoresCollector
    from tailorbird.serving.scores.role import ScoreRole

    stop_event = start_role()
    project = open_project(use_applied=True)
    apply_remote_erasures(project)
    if not project.scores:
        raise UsageError(
            "scores.py declares nothing to score",
            where=str(project.root),
            fix="see docs/how-to/scores.md",
        )
    clock = project.clock()
    keep_us = parse_duration(project.settings.score.keep)
    project.paths.state.mkdir(parents=True, exist_ok=True)

    def record_position(position: int) -> None:
        write_score_progress(
            project.paths.state, WorkerProgress(schema_hash="", at=clock.now(), offset=position)
        )

    models = ScoreModels(project, clock)
    declared_scores = list(project.scores.values())
    try:
        with ScoreRole(
            project.routed, project.stream.scores, declared_scores, models, clock, keep_us=keep_us
        ) as role:

            def collectors() -> "list[Collector]":
                return [ScoresCollector(lambda: role.figures)]

            with serve_probes(
                "score",
                project,
                stop_event,
                host=health_host,
                port=health_port,
                extra_collectors=collectors,
            ):
                role.run(stop_event, report=record_position)
    finally:
        models.close()

"""`tailorbird run worker`: keeps the feature state up to date."""

from functools import partial
from typing import TYPE_CHECKING

from tailorbird.cli.output import HealthHost, HealthPort
from tailorbird.cli.roles.probes import serve_probes
from tailorbird.cli.roles.start import LAKE_POLL_S, open_schema, start_role
from tailorbird.errors import UsageError
from tailorbird.periodic import exit_process

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

    from tailorbird.config import Project


def worker(
    *,
    schema: str = "",
    part: int | None = None,
    health_port: HealthPort = 0,
    health_host: HealthHost = "127.0.0.1",
) -> None:
    """Keep the feature state up to date with the routed log.

    The state of a new schema is built from the lake, as far as the log was pruned, and then from
    the log. The worker of the old schema runs next to it and serves answers until a model of the
    new schema is promoted. `up` starts one worker for each. If features.workers is more than 1,
    start one worker for each part of the entities.

    Example:  tailorbird -C shop run worker --part 0

    Parameters
    ----------
    schema:
        hash of the schema, as `tailorbird features plan` shows it; by default the applied one
    part:
        number of the part of the entities, from 0, if there are several workers
    """
    from tailorbird.config.schemas import worker_log
    from tailorbird.features.online.worker import FeatureWorker
    from tailorbird.features.state.key_partition import KeyPart

    stop_event = start_role()
    project, features = open_schema(schema)
    if part is None and project.workers > 1:
        last_part = project.workers - 1
        raise UsageError(
            f"{project.workers} workers share the entities",
            where="--part",
            fix=f"say which this one is: --part 0 to {last_part}",
        )
    key_part = KeyPart(part or 0, project.workers)
    paths = project.paths
    settings = project.settings
    entities_max = settings.features.entities_max
    copy_target = project.copy_target()
    log_address = worker_log(project, features, key_part)
    with (
        serve_probes(
            "worker",
            project,
            stop_event,
            host=health_host,
            port=health_port,
            extra_collectors=partial(_worker_collectors, project),
        ),
        FeatureWorker(
            log_address,
            paths.state,
            features,
            clock=project.clock(),
            copies=copy_target,
            entities_max=entities_max,
            part=key_part,
        ) as worker,
    ):
        was_built_from_lake = False
        while not stop_event.is_set():
            if worker.needs_history():
                from tailorbird.features.migration.bootstrap import build_from_lake, is_lake_ahead
                from tailorbird.lake import Lake

                was_built_from_lake = True
                lake = Lake(project.paths.lake)
                # Events lack an attribute and will soon be in the lake.
                if not is_lake_ahead(worker, lake):
                    stop_event.wait(LAKE_POLL_S)
                    continue
                build_from_lake(worker, lake, stop_event)
            worker.run(stop_event)
    if was_built_from_lake:
        exit_process(0)


def _worker_collectors(project: "Project") -> "list[Collector]":
    from tailorbird.features.state.progress import read_schemas_progress
    from tailorbird.serving.feature_metrics import WorkersCollector

    return [WorkersCollector(partial(read_schemas_progress, project.paths.state, project.workers))]

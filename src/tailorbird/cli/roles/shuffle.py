"""`tailorbird run shuffle`: a log per worker."""

from functools import partial

from tailorbird.cli.output import HealthHost, HealthPort
from tailorbird.cli.roles.probes import serve_probes
from tailorbird.cli.roles.start import open_schema, start_role
from tailorbird.errors import UsageError


def shuffle(
    *, schema: str = "", health_port: HealthPort = 0, health_host: HealthHost = "127.0.0.1"
) -> None:
    """Write a log per worker with the routed events of its part of the entities.

    It is useful with Kafka and features.workers above 1, since the routed log is then read once for
    all workers. Each schema needs one shuffle; `up` starts it. A second one takes over, and the
    first ends.

    Example:  tailorbird -C shop run shuffle

    Parameters
    ----------
    schema:
        hash of the schema, as `tailorbird features plan` shows it; by default the applied one
    """
    from tailorbird.config.schemas import required_offsets, shuffled_logs
    from tailorbird.features.online.shuffle import Shuffle
    from tailorbird.stream import read_released_positions

    stop_event = start_role()
    project, features = open_schema(schema)
    worker_logs = shuffled_logs(project, features)
    if not worker_logs:
        if project.workers == 1:
            raise UsageError(
                "one worker has all entities: nothing to shuffle",
                where="features.workers",
                fix="set it to 2 or more",
            )
        raise UsageError(
            "workers read the router's file themselves",
            where="stream.url",
            fix="run the workers; they need no shuffle",
        )
    first_position = read_released_positions(project.paths.lake).routed_position()
    with (
        serve_probes("shuffle", project, stop_event, host=health_host, port=health_port),
        Shuffle(project.routed, worker_logs, features, first_row=first_position) as role,
    ):
        role.run(
            stop_event,
            needed_from=partial(required_offsets, project, features),
            state=project.paths.state,
            clock=project.clock(),
        )

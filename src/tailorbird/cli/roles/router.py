"""`tailorbird run router`: routes events."""

from functools import partial

from tailorbird.cli.output import HealthHost, HealthPort
from tailorbird.cli.roles.probes import serve_probes
from tailorbird.cli.roles.start import report_plain_copy, start_role


def router(*, health_port: HealthPort = 0, health_host: HealthHost = "127.0.0.1") -> None:
    """Route every event once: validate, deduplicate, identify, enrich with profiles, attribute.

    If topics have several partitions, start any number of routers on any machines: they share the
    partitions.

    Example:  tailorbird -C shop run router
    """
    from tailorbird.config import open_project
    from tailorbird.config.erasures import apply_remote_erasures
    from tailorbird.config.schemas import active_schemas, releasable_offset, route_plan_for
    from tailorbird.events import SECOND, parse_duration
    from tailorbird.router import run_router
    from tailorbird.router.declarations import register_router
    from tailorbird.stream.locked import set_short_logs_aside

    stop_event = start_role()
    project = open_project(use_applied=True)
    apply_remote_erasures(project)
    report_plain_copy(project)
    project.paths.stream.mkdir(parents=True, exist_ok=True)
    plan = route_plan_for(project, active_schemas(project))
    memory_bytes = project.settings.router.memory_mb << 20
    if (topics := project.stream.kafka_logs) is not None and topics.partition_count > 1:
        from tailorbird.router.partitions.group import run_member

        session_s = parse_duration(project.settings.stream.session) / SECOND
        with (
            register_router(project.paths.run, plan),
            serve_probes("router", project, stop_event, host=health_host, port=health_port),
        ):
            run_member(
                topics,
                plan,
                project.clock(),
                stop_event,
                session_s=session_s,
                suppression_list=project.suppression_list(),
                memory_bytes=memory_bytes,
            )
        return
    set_short_logs_aside(project.stream, project.paths.lake)
    with (
        register_router(project.paths.run, plan),
        serve_probes("router", project, stop_event, host=health_host, port=health_port),
    ):
        run_router(
            project.stream,
            plan,
            project.clock(),
            stop_event,
            read_released_position=partial(releasable_offset, project),
            suppression_list=project.suppression_list(),
            memory_bytes=memory_bytes,
        )

"""The optional port on which roles other than serve expose health probes and metrics."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from tailorbird.periodic import PeriodicTask
from tailorbird.probes import Health, ProgressEvent, serve_health

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

    from tailorbird.config import Project
    from tailorbird.stream.lag import LagWatch

# Longer than the longest step of each role; a training takes hours.
STALLED_AFTER_S_BY_ROLE = {
    "router": 600.0,
    "worker": 600.0,
    "shuffle": 600.0,
    "score": 600.0,
    "candidates": 600.0,
    "lake": 900.0,
    "trainer": 0.0,  # never
}


@contextmanager
def serve_probes(
    role: str,
    project: "Project",
    stop_event: ProgressEvent,
    *,
    host: str,
    port: int,
    extra_collectors: "Callable[[], list[Collector]]" = list,
    tasks: Sequence[PeriodicTask] = (),
) -> Iterator[None]:
    """Serve probes and metrics for the duration of the block if `port` is not 0.

    `extra_collectors` returns further metrics of the role, and `tasks` are its threads.

    Raises:
        ConfigError: faults are enabled, and the address is reachable from other machines.
        UsageError: the port is taken.
    """
    if not port:
        yield
        return
    from tailorbird.serving.http.access import require_no_faults
    from tailorbird.serving.metric_collectors import LagCollector, ThreadsCollector, role_metrics

    require_no_faults(host)
    with ExitStack() as stack:
        collectors = extra_collectors()
        watched_tasks = list(tasks)
        if role == "lake":
            lag_watch = _lag_watch(project)
            stack.callback(lag_watch.stop)
            lag_watch.start()
            collectors.append(LagCollector(lag_watch))
            watched_tasks.append(lag_watch.periodic_task)
        render_metrics = role_metrics(
            role, stop_event, [*collectors, ThreadsCollector(lambda: watched_tasks)]
        )
        stack.enter_context(
            serve_health(
                Health(
                    stop_event,
                    stalled_after_s=STALLED_AFTER_S_BY_ROLE[role],
                    metrics=render_metrics,
                ),
                host,
                port,
            )
        )
        yield


def _lag_watch(project: "Project") -> "LagWatch":
    """Return the lag of all log readers, which the single lake role reports for all."""
    from tailorbird.features.state.progress import routed_log_offsets
    from tailorbird.stream.lag import LagMeter, LagWatch

    return LagWatch(
        LagMeter(
            project.stream,
            project.paths.lake,
            lambda: routed_log_offsets(project.paths.state, project.workers),
        )
    )

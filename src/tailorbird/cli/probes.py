"""The port on which all roles but serve answer probes and tell their figures, where it is asked
for.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from tailorbird.health import Health, ProgressEvent, answering
from tailorbird.loops import PeriodicTask

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

    from tailorbird.config import Project
    from tailorbird.stream.lag import LagWatch

# Past the longest step of each; a training takes hours.
STALLED_AFTER_S = {
    "router": 600.0,
    "worker": 600.0,
    "shuffle": 600.0,
    "score": 600.0,
    "candidates": 600.0,
    "lake": 900.0,
    "trainer": 0.0,
}


@contextmanager
def probes(
    role: str,
    project: "Project",
    stop: ProgressEvent,
    *,
    host: str,
    port: int,
    more: "Callable[[], list[Collector]]" = list,
    loops: Sequence[PeriodicTask] = (),
) -> Iterator[None]:
    """Answer as long as the block lasts, if `port` is not 0; `more` gives further figures of the
    role, `loops` are its threads.

    Raises:
        ConfigError: faults are armed, and the address can be reached from other machines.
        UsageError: the port is taken.
    """
    if not port:
        yield
        return
    from tailorbird.serving.access import require_no_faults
    from tailorbird.serving.collectors import LagCollector, ThreadsCollector, role_metrics

    require_no_faults(host)
    with ExitStack() as stack:
        figures, threads = more(), list(loops)
        if role == "lake":
            watch = _lag(project)
            stack.callback(watch.stop)
            watch.start()
            figures.append(LagCollector(watch))
            threads.append(watch.loop)
        text = role_metrics(role, stop, [*figures, ThreadsCollector(lambda: threads)])
        stack.enter_context(
            answering(Health(stop, stalled_after_s=STALLED_AFTER_S[role], metrics=text), host, port)
        )
        yield


def _lag(project: "Project") -> "LagWatch":
    """The lake role is one, so it tells for all how far the readers of the logs are behind."""
    from tailorbird.features.figures import routed_log_offsets
    from tailorbird.stream.lag import LagMeter, LagWatch

    return LagWatch(
        LagMeter(
            project.stream,
            project.paths.lake,
            lambda: routed_log_offsets(project.paths.state, project.workers),
        )
    )

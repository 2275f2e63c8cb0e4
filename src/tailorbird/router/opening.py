"""Opening the router of all partitions of a project in one process.

The Kafka client is loaded only for several partitions.
"""

from typing import TYPE_CHECKING

from tailorbird.events import Clock, RoutePlan
from tailorbird.events.suppression import SuppressionList
from tailorbird.router.decide.route import MEMORY_BYTES
from tailorbird.router.router import Router
from tailorbird.stream import Stream, log_set

if TYPE_CHECKING:
    from tailorbird.router.partitions.single_process import PartitionedRouter


def open_router(
    stream: Stream,
    plan: RoutePlan,
    *,
    clock: Clock,
    suppression_list: SuppressionList | None = None,
    memory_bytes: int = MEMORY_BYTES,
) -> "Router | PartitionedRouter":
    """Open the router of all partitions, which share `memory_bytes` evenly.

    Raises:
        LockedError: a router runs on this machine.
    """
    kafka_logs = log_set(stream).kafka_logs
    if kafka_logs is None or kafka_logs.partition_count == 1:
        return Router(
            stream, plan, clock=clock, suppression_list=suppression_list, memory_bytes=memory_bytes
        )
    from tailorbird.router.partitions.single_process import PartitionedRouter

    return PartitionedRouter(
        kafka_logs, plan, clock=clock, suppression_list=suppression_list, memory_bytes=memory_bytes
    )

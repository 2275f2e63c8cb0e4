"""The producer name of a serve process: the first that no live process of this project holds."""

from tailorbird.errors import LockedError
from tailorbird.events import Clock, RoutePlan
from tailorbird.events.log_clock import LogClock
from tailorbird.events.pseudonyms import Pseudonyms
from tailorbird.events.suppression import SuppressionList
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.serving.collector.queue import RESERVE_BYTES
from tailorbird.storage_paths import StoragePath
from tailorbird.stream import Stream, log_set


def open_collector(
    stream: Stream,
    plan: RoutePlan,
    clock: Clock,
    *,
    prefix: str = "serve",
    pseudonyms: Pseudonyms | None = None,
    reserve_bytes: int = RESERVE_BYTES,
    suppression_list: SuppressionList | None = None,
    lake: StoragePath | None = None,
    log_clock: LogClock | None = None,
) -> EventCollector:
    """Open the collector of the first producer `serve-1`, `serve-2`, … that no live process holds.

    With Kafka, the name starts with that of this machine.
    """
    prefix = log_set(stream).producer_prefix(prefix)
    for number in range(1, 1_000):
        try:
            return EventCollector(
                stream,
                f"{prefix}-{number}",
                plan,
                clock,
                pseudonyms=pseudonyms,
                suppression_list=suppression_list,
                reserve_bytes=reserve_bytes,
                lake=lake,
                log_clock=log_clock,
            )
        except LockedError:
            continue
    raise LockedError(
        "a thousand servers write here already",
        where=str(stream),
        fix="stop some, or use another project",
    )

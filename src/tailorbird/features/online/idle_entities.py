"""Eviction of entities that are idle for too long, or past the cap of their kind."""

import logging
from collections.abc import Sequence

from tailorbird import faults
from tailorbird.features.state.eviction import CLOCK_LAG_US, EvictionCycle, SweepReport, read_counts
from tailorbird.features.state.state import Position, Records
from tailorbird.store import Store, Transaction

log = logging.getLogger(__name__)


def evict_idle(
    store: Store, sweep: EvictionCycle, all_records: Sequence[Records], position: Position, now: int
) -> SweepReport:
    """Examine some more entities, and evict those that are idle: the expired ones, and as many more
    as exceed the cap of their kind, the dropped ones.
    """
    with store.snapshot() as snapshot:
        kind_index, batch = sweep.next_batch(snapshot)
        counts = read_counts(snapshot, all_records[kind_index].layout)
    idle_before = max(0, min(now, position.newest_ts) - CLOCK_LAG_US)
    is_expired, is_dropped = sweep.find_idle(kind_index, batch, idle_before, counts.entities)
    if is_expired.any() or is_dropped.any():

        def change(transaction: Transaction) -> None:
            sweep.evict(
                transaction,
                kind_index,
                batch=batch,
                is_expired=is_expired,
                is_dropped=is_dropped,
                until=idle_before,
                commit=position.commit,
            )
            faults.fire_if_armed("worker.before_swept")

        store.write(change)
        faults.fire_if_armed("worker.after_swept")
    report = SweepReport(len(batch.keys), int(is_expired.sum()), int(is_dropped.sum()))
    if report.dropped:
        name = all_records[kind_index].layout.entity.name
        log.warning(
            "dropped %d of %d entities of %s, idle longest: there are too many",
            report.dropped,
            counts.entities,
            name,
        )
    return report

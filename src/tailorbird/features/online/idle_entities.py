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
    """Examine some more entities, and evict those that are idle."""
    with store.snapshot() as snapshot:
        index, batch = sweep.next_batch(snapshot)
        counts = read_counts(snapshot, all_records[index].layout)
    until = max(0, min(now, position.newest) - CLOCK_LAG_US)
    expired, dropped = sweep.find_idle(index, batch, until, counts.entities)
    if expired.any() or dropped.any():

        def change(transaction: Transaction) -> None:
            sweep.evict(transaction, index, batch, expired, dropped, until, position.commit)
            faults.at("worker.before_swept")

        store.write(change)
        faults.at("worker.after_swept")
    report = SweepReport(len(batch.keys), int(expired.sum()), int(dropped.sum()))
    if report.dropped:
        name = all_records[index].layout.entity.name
        log.warning(
            "dropped %d of %d entities of %s, idle longest: there are too many",
            report.dropped,
            counts.entities,
            name,
        )
    return report

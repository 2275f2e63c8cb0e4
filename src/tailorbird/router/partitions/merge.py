"""Merge of several raw logs by time of receipt, so that a response comes before its click.

Each raw log is in order of receipt, but a load balancer spreads clicks and responses over the serve
processes that write them. A step therefore stops where the next body of another log is unknown:

    raw-serve-1   10 11 12 13 │ more     taken:  10 11 12 12 13   (up to 13: serve-1 has more)
    raw-serve-2   12 90       │          left:   90

Ties go to the log that is first by name. A log whose clock was set back keeps its own order: a body
counts as received no earlier than the bodies before it in the same read. Imports are sorted by the
time at which the import began, and replays by their first time of receipt; neither waits for other
logs, nor do other logs wait for them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from tailorbird.events import Receipt
from tailorbird.stream import HISTORICAL_PRODUCERS, StoredBlock

_decode_receipt = msgspec.json.Decoder(Receipt).decode


@dataclass(frozen=True)
class LogBatch:
    """Bodies that a step read from one raw log.

    Attributes:
        bodies: in the order of the log.
        initial_end: where the log ended before the step read any log.
        has_more: whether the log had more than was read.
    """

    producer: str
    bodies: list[StoredBlock]
    initial_end: int
    has_more: bool


@dataclass(frozen=True)
class QueuedBody:
    """A body to route; `receipt` is None if its block cannot be routed."""

    producer: str
    stored_block: StoredBlock
    receipt: Receipt | None


def merge_by_receipt(batches: Sequence[LogBatch]) -> list[QueuedBody]:
    """Return the bodies to route now, in order; `batches` are in order of name.

    The next step reads the others again. The result is never empty if any log had something before
    the step began to read.
    """
    queue: list[tuple[int, QueuedBody]] = []
    newest_complete: list[int] = []  # receipt times at which the merge must stop
    newest_initial = 0
    for batch in batches:
        received_at = 0
        for stored_block in batch.bodies:
            receipt = (
                _decode_receipt(stored_block.block.receipt)
                if stored_block.block.kind == "body"
                else None
            )
            received_at = received_at if receipt is None else max(received_at, receipt.received_at)
            queue.append((received_at, QueuedBody(batch.producer, stored_block, receipt)))
            if stored_block.offset < batch.initial_end:
                newest_initial = max(newest_initial, received_at)
        if batch.has_more and batch.bodies and batch.producer not in HISTORICAL_PRODUCERS:
            newest_complete.append(received_at)
    # Logs are read one after the other, so a body that arrived meanwhile may depend on one in a log
    # that was read before. Bodies newer than all initial ones wait for the next step.
    newest_allowed = min([newest_initial, *newest_complete])
    queue.sort(key=lambda entry: entry[0])
    return [
        body
        for body_received_at, body in queue
        if body_received_at <= newest_allowed or body.producer in HISTORICAL_PRODUCERS
    ]

"""In which order the bodies of several raw logs are routed: by when they came in, so that an answer
comes before its click.

Each raw log is in order of receipt by itself; the serve processes behind them share clicks and
answers as a balancer likes. A step therefore stops where it does not know what another log says
next:

    raw-serve-1   10 11 12 13 │ more       is taken:  10 11 12 12 13      (up to 13, behind which serve-1 has more)
    raw-serve-2   12 90       │            is left:   90

Of equal times, the log that is first by name goes first. A log whose clock was set back keeps its
own order: a body counts as received when the newest one before it in the same read was. Imports are
history, stamped with the time at which the import began: they stand in line by that, but wait for
nobody, and nobody waits for them; nor for replays, which keep their first time of receipt.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from tailorbird.events import Receipt
from tailorbird.stream import PAST, Stored

_decode = msgspec.json.Decoder(Receipt).decode


@dataclass(frozen=True)
class LogBatch:
    """What a step read of one raw log.

    Attributes:
        bodies: in the order of the log.
        seen_end: where the log ended before any log of this step was read.
        more: whether the log had more than was read.
    """

    producer: str
    bodies: list[Stored]
    initial_end: int
    has_more: bool


@dataclass(frozen=True)
class QueuedBody:
    """A body in line; `receipt` is None if the block is none that can be routed."""

    producer: str
    stored: Stored
    receipt: Receipt | None


def merge_by_receipt(batches: Sequence[LogBatch]) -> list[QueuedBody]:
    """The bodies to route now, in order; `runs` are in order of name. What is left out is read
    again by the next step.

    Never empty when something was there before the step began to read.
    """
    queue: list[tuple[int, QueuedBody]] = []
    limits: list[int] = []  # where the merge must stop
    newest_initial = 0
    for batch in batches:
        received_at = 0
        for stored in batch.bodies:
            receipt = _decode(stored.block.receipt) if stored.block.kind == "body" else None
            received_at = received_at if receipt is None else max(received_at, receipt.received_at)
            queue.append((received_at, QueuedBody(batch.producer, stored, receipt)))
            if stored.offset < batch.initial_end:
                newest_initial = max(newest_initial, received_at)
        if batch.has_more and batch.bodies and batch.producer not in PAST:
            limits.append(received_at)
    # Logs are read one after the other. What one got meanwhile may follow from what another, read
    # before it, got meanwhile too; so nothing is taken that is newer than all that was there
    # before. The rest has its turn a moment later.
    limit = min([newest_initial, *limits])
    queue.sort(key=lambda entry: entry[0])
    return [body for moment, body in queue if moment <= limit or body.producer in PAST]

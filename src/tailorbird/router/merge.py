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
class Run:
    """What a step read of one raw log.

    Attributes:
        bodies: in the order of the log.
        seen_end: where the log ended before any log of this step was read.
        more: whether the log had more than was read.
    """

    producer: str
    bodies: list[Stored]
    seen_end: int
    more: bool


@dataclass(frozen=True)
class Body:
    """A body in line; `receipt` is None if the block is none that can be routed."""

    producer: str
    stored: Stored
    receipt: Receipt | None


def merged(runs: Sequence[Run]) -> list[Body]:
    """The bodies to route now, in order; `runs` are in order of name. What is left out is read
    again by the next step.

    Never empty when something was there before the step began to read.
    """
    line: list[tuple[int, Body]] = []
    until: list[int] = []  # where the merge must stop
    seen = 0
    for run in runs:
        moment = 0
        for stored in run.bodies:
            receipt = _decode(stored.block.receipt) if stored.block.kind == "body" else None
            moment = moment if receipt is None else max(moment, receipt.received_at)
            line.append((moment, Body(run.producer, stored, receipt)))
            if stored.offset < run.seen_end:
                seen = max(seen, moment)
        if run.more and run.bodies and run.producer not in PAST:
            until.append(moment)
    # Logs are read one after the other. What one got meanwhile may follow from what another, read
    # before it, got meanwhile too; so nothing is taken that is newer than all that was there
    # before. The rest has its turn a moment later.
    end = min([seen, *until])
    line.sort(key=lambda entry: entry[0])
    return [body for moment, body in line if moment <= end or body.producer in PAST]

"""What the logs have and the lake has not yet: rows of raw logs, and what answers read. Reads only,
and may run beside the roles.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec
import pyarrow as pa

from tailorbird.config import Project
from tailorbird.errors import NotReadyError
from tailorbird.events import Receipt
from tailorbird.events.contract import Accepted, check_row, split
from tailorbird.events.plan import MERGED_INTO
from tailorbird.lake.etl import answer_rows
from tailorbird.lake.positions import load_positions
from tailorbird.privacy.mention import Mentions
from tailorbird.privacy.person import People
from tailorbird.privacy.shared import Tie
from tailorbird.privacy.theirs import Theirs, names_nobody
from tailorbird.stream import (
    Address,
    Stored,
    answers_addresses,
    open_reader,
    raw_addresses,
    read_released,
)

_receipt = msgspec.json.Decoder(Receipt).decode


@dataclass(frozen=True)
class Waiting:
    """A row of a raw log; `accepted`: as the router will take it, None where it will refuse it."""

    producer: str
    row: bytes
    receipt: Receipt
    accepted: Accepted | None

    def is_of(self, theirs: Theirs, mentions: Mentions) -> bool:
        """Whether it is theirs; what names nobody, if it mentions one of them."""
        if names_nobody(self.row) and not mentions.in_body(self.row):
            return False
        return theirs.says(
            self.row, self.receipt, None if self.accepted is None else self.accepted.ts
        )

    def may_tie(self, people: People) -> bool:
        """Whether the router will learn from it who they are besides: a device of theirs that it
        does not know of, or another user.
        """
        if self.accepted is None:
            return False
        event = self.accepted.event
        if event.type == "merge":
            return not people.users.isdisjoint(
                {event.user_id, (event.properties or {}).get(MERGED_INTO)}
            )
        known = people.visitors | people.shared
        return (
            event.user_id in people.users
            and bool(event.anonymous_id)
            and event.anonymous_id not in known
        )


def waiting_rows(project: Project, mentions: Mentions) -> Iterator[Waiting]:
    """The rows that mention somebody and are in no table yet; those that came before were told of
    by the lake.
    """
    released, routed = read_released(project.paths.lake), load_positions(project.paths.lake).routed
    for producer, address in raw_addresses(project.stream).items():
        for stored in _behind(address, released.raw(producer)):
            receipt = _receipt(stored.block.receipt) if stored.block.kind == "body" else None
            rows = (
                [bytes(row) for row in split(stored.block.payload, receipt.encoding)]
                if receipt is not None
                else []
            )
            for number, row in enumerate(rows, stored.offset):
                if (
                    receipt is not None
                    and number >= routed.get(producer, 0)
                    and mentions.in_body(row)
                ):
                    decided = check_row(0, row, receipt, project.plan)
                    yield Waiting(
                        producer, row, receipt, decided if isinstance(decided, Accepted) else None
                    )


def ties_of(rows: Sequence[Waiting]) -> list[Tie]:
    """What these rows say of whose a device is: the router will take their `identify`."""
    events = [
        (one.accepted.event, one.accepted.ts)
        for one in rows
        if one.accepted is not None and one.accepted.event.type == "identify"
    ]
    return [
        Tie(event.anonymous_id or "", event.user_id or "", ts, event.event_id)
        for event, ts in events
    ]


def waiting_answers(project: Project) -> Iterator[tuple[str, pa.Table]]:
    """By producer, what answers read, as rows of `answers`."""
    released = read_released(project.paths.lake)
    for producer, address in answers_addresses(project.stream).items():
        for stored in _behind(address, released.answers(producer)):
            yield producer, answer_rows([stored], producer)


def _behind(address: Address, position: int) -> Iterator[Stored]:
    try:
        reader = open_reader(address)
    except NotReadyError:
        return
    with reader:
        position = max(position, reader.start())
        while stored := reader.read(position):
            yield from stored
            position = stored[-1].end

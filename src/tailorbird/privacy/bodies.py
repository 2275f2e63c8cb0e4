"""The archive without some people: bodies as they came in, with the rows of these people unlinked
or replaced.

A row that was accepted becomes an event of nobody that the contract accepts with the same time, so
that routing the archive anew gives what the lake has. What was refused is replaced whole.
"""

import msgspec

from tailorbird.events import Receipt, RoutePlan, check
from tailorbird.events.contract import ERASED, split
from tailorbird.events.erased import Whose, joined, subject_of, whose_of
from tailorbird.lake.archive import Archived
from tailorbird.privacy.marks import Marks
from tailorbird.privacy.mention import Mentions
from tailorbird.privacy.person import People
from tailorbird.privacy.unlink import Unlinked
from tailorbird.stream import Block, Stored

_any = msgspec.json.Decoder().decode
_receipt = msgspec.json.Decoder(Receipt).decode
_encode = msgspec.json.Encoder().encode


class Bodies:
    """What `Archive.rewrite` asks for; `rows` counts the rows that changed."""

    def __init__(
        self, people: People, marks: Marks, unlinked: Unlinked, plan: RoutePlan, mentions: Mentions
    ) -> None:
        self._people, self._unlinked = people, unlinked
        # What was accepted stays an event, also where the project's contract was tightened since.
        self._plan = msgspec.structs.replace(
            plan, rules={}, event_types=tuple(dict.fromkeys((*plan.event_types, *marks.types)))
        )
        self._places = frozenset(marks.places)
        self._refused = frozenset(marks.refused)
        self._repeats = frozenset(marks.repeats)
        self._events = frozenset(marks.events) if marks.repeats else frozenset()
        self._mentions = mentions
        self.rows = 0

    def change(self, file: Archived, stored: Stored) -> Block | None:
        """The block in another's place; None where it stays as it is."""
        if stored.block.kind != "body":
            return None
        receipt = _receipt(stored.block.receipt)
        body = stored.block.payload
        parts = [bytes(part) for part in split(body, receipt.encoding)]
        look = self._mentions.may_be_in(body)
        changed = [
            self._row(part, (file.partition, stored.offset, row), receipt, look)
            for row, part in enumerate(parts)
        ]
        count = sum(new is not None for new in changed)
        if not count:
            return None
        self.rows += count
        new = joined(
            [old if new is None else new for old, new in zip(parts, changed, strict=True)],
            body,
            receipt.encoding,
        )
        return msgspec.structs.replace(stored.block, payload=new)

    def _row(
        self, part: bytes, place: tuple[str, int, int], receipt: Receipt, look: bool
    ) -> bytes | None:
        if place in self._refused:
            return None if part == ERASED else ERASED
        whose = whose_of(part)
        if whose is None:
            return ERASED if look and self._mentions.in_body(part) else None
        if self._is_theirs(whose, place):
            return self._unlink(part, receipt)
        if isinstance(whose.request_id, str) and whose.request_id in self._unlinked.requests:
            return _encode(
                self._mentions.of_another(_any(part))
                | {"request_id": self._unlinked.request(whose.request_id)}
            )
        return self._unmentioned(part) if look and self._mentions.may_be_in(part) else None

    def _unmentioned(self, part: bytes) -> bytes | None:
        was = _any(part)
        found = self._mentions.of_another(was)
        return None if found == was else _encode(found)

    def _is_theirs(self, whose: Whose, place: tuple[str, int, int]) -> bool:
        if place in self._places:
            return True
        if isinstance(whose.user_id, str):
            repeats = (
                place in self._repeats and ("u", whose.user_id, whose.event_id) in self._events
            )
            return repeats or whose.user_id in self._people.users
        if place in self._repeats and ("a", whose.anonymous_id, whose.event_id) in self._events:
            return True
        return isinstance(whose.anonymous_id, str) and whose.anonymous_id in self._people.visitors

    def _unlink(self, part: bytes, receipt: Receipt) -> bytes:
        accepted, _ = check(
            b"[" + part + b"]", msgspec.structs.replace(receipt, encoding="json"), self._plan
        )
        if len(accepted) != 1:
            return ERASED
        event = accepted[0].event
        whose = (*subject_of(event.user_id, event.anonymous_id), event.event_id)
        wire = self._unlinked.wire(_any(part), whose, accepted[0].ts)
        return _encode(self._mentions.of_another(wire) if event.type == "item" else wire)

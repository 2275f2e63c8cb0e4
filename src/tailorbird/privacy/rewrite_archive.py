"""The archive without some people: bodies as they came in, with their rows rewritten or replaced.

An accepted row becomes an event of a stranger that the contract accepts with the same time, so that
routing the archive again gives what the lake has. A refused row is replaced whole.
"""

from typing import Any

import msgspec

from tailorbird.events import Receipt, RoutePlan, check_body
from tailorbird.events.contract.contract import ERASED_BODY, join_rows, split_body
from tailorbird.events.contract.plan import MERGED_INTO
from tailorbird.events.suppression import RowSubject, read_row_subject, subject_of
from tailorbird.lake.files.archive import ArchiveFile
from tailorbird.privacy.footprint import Footprint, RawRowKey
from tailorbird.privacy.mentions import Mentions
from tailorbird.privacy.people import People
from tailorbird.privacy.rewrite_events import EventRewriter
from tailorbird.stream import Block, StoredBlock

_decode = msgspec.json.Decoder().decode
_decode_receipt = msgspec.json.Decoder(Receipt).decode
_encode = msgspec.json.Encoder().encode


class ArchiveRewriter:
    """Gives `Archive.rewrite` its new blocks; `rows` counts the rows that changed."""

    def __init__(
        self,
        people: People,
        footprint: Footprint,
        rewriter: EventRewriter,
        plan: RoutePlan,
        mentions: Mentions,
    ) -> None:
        self._people = people
        self._rewriter = rewriter
        self._mentions = mentions
        # What was accepted stays an event, also where the contract was tightened since.
        types = dict.fromkeys((*plan.event_types, *footprint.types))
        self._plan = msgspec.structs.replace(plan, rules={}, event_types=tuple(types))
        self._erased_rows = frozenset(footprint.places)
        self._refused_rows = frozenset(footprint.refused_rows)
        self.rows = 0

    def rewrite_block(self, file: ArchiveFile, stored_block: StoredBlock) -> Block | None:
        """Return the block in another's place; None where it stays as it is."""
        if stored_block.block.kind != "body":
            return None
        receipt = _decode_receipt(stored_block.block.receipt)
        body = stored_block.block.payload
        raw_rows = [bytes(raw_row) for raw_row in split_body(body, receipt.encoding)]
        may_mention = self._mentions.may_be_in(body)
        new_values = [
            self._rewrite_row(
                raw_row, (file.partition, stored_block.offset, row), receipt, may_mention
            )
            for row, raw_row in enumerate(raw_rows)
        ]
        count = sum(value is not None for value in new_values)
        if not count:
            return None
        self.rows += count
        rows = [
            old_value if value is None else value
            for old_value, value in zip(raw_rows, new_values, strict=True)
        ]
        return msgspec.structs.replace(
            stored_block.block, payload=join_rows(rows, body, receipt.encoding)
        )

    def _rewrite_row(
        self, raw_row: bytes, row_key: RawRowKey, receipt: Receipt, may_mention: bool
    ) -> bytes | None:
        """Return the new row; None where it stays."""
        if row_key in self._refused_rows:
            return None if raw_row == ERASED_BODY else ERASED_BODY
        subject = read_row_subject(raw_row)
        if subject is None:
            return ERASED_BODY if may_mention and self._mentions.in_body(raw_row) else None
        if self._is_erased_row(subject, row_key):
            return self._rewrite_owned_row(raw_row, receipt)
        old_value: Any = _decode(raw_row)
        new_value = self._mentions.redact_event(old_value) if may_mention else old_value
        if isinstance(subject.request_id, str) and subject.request_id in self._rewriter.requests:
            new_value = new_value | {
                "request_id": self._rewriter.rename_request(subject.request_id)
            }
        properties = old_value.get("properties")
        if isinstance(properties, dict) and old_value.get("type") == "merge":
            target_user = properties.get(MERGED_INTO)
            if isinstance(target_user, str) and target_user in self._people.users:
                new_value = self._rewriter.rewrite_raw_merge(new_value)
        return None if new_value == old_value else _encode(new_value)

    def _is_erased_row(self, subject: RowSubject, row_key: RawRowKey) -> bool:
        return (
            row_key in self._erased_rows
            or (isinstance(subject.user_id, str) and subject.user_id in self._people.users)
            or (
                isinstance(subject.anonymous_id, str)
                and subject.anonymous_id in self._people.devices
            )
        )

    def _rewrite_owned_row(self, raw_row: bytes, receipt: Receipt) -> bytes:
        receipt = msgspec.structs.replace(receipt, encoding="json")
        accepted, _ = check_body(b"[" + raw_row + b"]", receipt, self._plan)
        if len(accepted) != 1:
            return ERASED_BODY
        event = accepted[0].event
        event_key = (*subject_of(event.user_id, event.anonymous_id), event.event_id)
        new_value = self._rewriter.rewrite_raw_event(_decode(raw_row), event_key, accepted[0].ts)
        return _encode(
            self._mentions.redact_event(new_value) if event.type == "item" else new_value
        )

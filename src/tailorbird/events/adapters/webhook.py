"""Conversion of bodies that other systems post, for `POST /v1/events?format=…`."""

from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

import msgspec

from tailorbird.errors import UsageError
from tailorbird.events.adapters import cloudevents, metarank, segment
from tailorbird.events.adapters.batch import encode_event
from tailorbird.events.adapters.record import Convert, Record, record_to_lines
from tailorbird.events.contract.codes import DECODE_ERRORS
from tailorbird.events.contract.envelope import Event
from tailorbird.events.tables.files import count_records, split_records

WEBHOOK_CONVERTERS: dict[str, Convert] = {
    "segment": segment.convert,
    "cloudevents": cloudevents.convert,
    "metarank": metarank.convert,
}
_COPIES_BYTES_MAX = 1 << 22
_GROWTH_MAX = 4  # times the body's size, plus the constant above


class _BatchEnvelope(msgspec.Struct):
    """A batch whose messages can be counted without decoding them."""

    batch: list[msgspec.Raw]
    messageId: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_decode_batch = msgspec.json.Decoder(_BatchEnvelope).decode


def body_to_lines(
    format_: str,
    body: bytes,
    headers: Mapping[str, str] | None = None,
    on_row_count: Callable[[int], None] = lambda _: None,
) -> list[bytes]:
    """Convert a posted body to event lines.

    Unreadable records stay, to be refused with a reason.

    A body is a list, one record per line, a single record, Segment's `{"batch": [...]}`, or a
    CloudEvent with attributes in `headers`. The same body gives the same ids.

    Args:
        on_row_count: called with the number of rows before any is converted, and again where one of
            them becomes several; raises if there are too many.
    Raises:
        UsageError: no such format, or a context that is too large for so many messages.
    """
    if format_ not in WEBHOOK_CONVERTERS:
        raise UsageError(
            f"unknown format {format_[:40]!r}",
            where="format",
            fix=f"one of {', '.join(WEBHOOK_CONVERTERS)}, or none for our own events",
        )
    if format_ == "cloudevents" and headers is not None and cloudevents.is_binary_mode(headers):
        body = cloudevents.to_structured_mode(headers, body)
    digest = sha256(body).hexdigest()[:12]
    bytes_max = _GROWTH_MAX * len(body) + _COPIES_BYTES_MAX
    lines: list[bytes] = []
    converted_bytes = 0

    def convert(record: Any, location: str) -> list[Event]:
        events = WEBHOOK_CONVERTERS[format_](record, location)
        if len(events) > 1:
            on_row_count(len(lines) + len(events))
            _require_bytes_left(events, bytes_max - converted_bytes)
        return events

    for row, raw in enumerate(_read_records(format_, body, on_row_count)):
        record_lines = record_to_lines(format_, raw, f"{digest}:{row}", convert, {})
        converted_bytes += sum(map(len, record_lines))
        lines += record_lines
    return lines


def _require_bytes_left(events: list[Event], bytes_left: int) -> None:
    """Raise UsageError if the events of one record take more bytes than are left.

    This is checked before all of them are encoded.
    """
    for event in events:
        bytes_left -= len(encode_event(event))
        if bytes_left < 0:
            message = (
                f"what its records say of each of their events, such as {len(events):,} of "
                "one, takes too many bytes"
            )
            raise UsageError(message, where="format", fix="send fewer at once")


def _read_records(format_: str, body: bytes, on_row_count: Callable[[int], None]) -> list[bytes]:
    on_row_count(count_records(body))
    records = split_records(body)
    if format_ == "segment" and len(records) == 1:
        try:
            envelope = _decode_batch(records[0])
            if envelope.messageId is not msgspec.UNSET:
                return records
            on_row_count(len(envelope.batch))
            return _read_messages(msgspec.json.decode(records[0]))
        except DECODE_ERRORS:
            return records
    return records


def _read_messages(batch: Record) -> list[bytes]:
    copied_bytes = len(batch["batch"]) * len(
        msgspec.json.encode([batch.get("context"), batch.get("sentAt")])
    )
    if copied_bytes > _COPIES_BYTES_MAX:  # Limits the expansion of a small body.
        message = (
            f"what it says of all, written to each of its {len(batch['batch']):,} messages, "
            f"takes {copied_bytes:,} bytes"
        )
        raise UsageError(
            message,
            where="batch",
            fix=f"send fewer at once, so that it is at most {_COPIES_BYTES_MAX:,}",
        )
    return [msgspec.json.encode(message) for message in segment.expand_batch(batch)]

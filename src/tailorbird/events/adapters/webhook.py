"""Bodies that other systems post, turned into bodies of our own: what `POST /v1/events?format=…` takes."""

from collections.abc import Mapping
from hashlib import sha256

import msgspec

from tailorbird.errors import UsageError
from tailorbird.events.adapters import cloudevents, segment
from tailorbird.events.adapters.files import split_records
from tailorbird.events.adapters.record import Convert, Record, lines_of

WEBHOOKS: dict[str, Convert] = {"segment": segment.convert, "cloudevents": cloudevents.convert}
_COPIES_BYTES_MAX = 1 << 22


def lines_of_body(format_: str, body: bytes, headers: Mapping[str, str] | None = None) -> list[bytes]:
    """The events of a body, one a line; what cannot be read stands there as such, to be refused with its reason.

    A list, one a line, one alone, Segment's `{"batch": [...]}`, and a CloudEvent whose attributes are `headers` are taken. The same body
    gives the same ids.

    Raises:
        UsageError: no such format, or a context that is too large for so many messages.
    """
    if format_ not in WEBHOOKS:
        raise UsageError(
            f"unknown format {format_[:40]!r}", where="format", fix=f"one of {', '.join(WEBHOOKS)}, or none for our own events"
        )
    if format_ == "cloudevents" and headers is not None and cloudevents.is_binary(headers):
        body = cloudevents.in_envelope(headers, body)
    place = sha256(body).hexdigest()[:12]
    lines: list[bytes] = []
    for row, raw in enumerate(_records(format_, body)):
        lines += lines_of(format_, raw, f"{place}:{row}", WEBHOOKS[format_], {})
    return lines


def _records(format_: str, body: bytes) -> list[bytes]:
    records = split_records(body)
    if format_ == "segment" and len(records) == 1:
        try:
            batch = msgspec.json.decode(records[0])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return records
        if isinstance(batch, dict) and "messageId" not in batch and isinstance(batch.get("batch"), list):
            return _messages(batch)
    return records


def _messages(batch: Record) -> list[bytes]:
    copies = len(batch["batch"]) * len(msgspec.json.encode([batch.get("context"), batch.get("sentAt")]))
    if copies > _COPIES_BYTES_MAX:  # or a small body would become a very large one
        what = f"what it says of all, written to each of its {len(batch['batch']):,} messages, takes {copies:,} bytes"
        raise UsageError(what, where="batch", fix=f"send fewer at once, so that it is at most {_COPIES_BYTES_MAX:,}")
    return [msgspec.json.encode(each) for each in segment.messages_of(batch)]

"""Bodies that other systems post, turned into bodies of our own: what `POST /v1/events?format=…` takes."""

from hashlib import sha256

import msgspec

from tailorbird.errors import UsageError
from tailorbird.events.adapters import cloudevents, segment
from tailorbird.events.adapters.files import split_records
from tailorbird.events.adapters.record import Convert, lines_of

WEBHOOKS: dict[str, Convert] = {"segment": segment.convert, "cloudevents": cloudevents.convert}

_batch = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def lines_of_body(format_: str, body: bytes) -> list[bytes]:
    """The events of a body, one a line; what cannot be read stands there as such, to be refused with its reason.

    A list, one a line, one alone, and Segment's `{"batch": [...]}` are taken. The same body gives the same ids.

    Raises:
        UsageError: no such format.
    """
    if format_ not in WEBHOOKS:
        raise UsageError(
            f"unknown format {format_[:40]!r}", where="format", fix=f"one of {', '.join(WEBHOOKS)}, or none for our own events"
        )
    place = sha256(body).hexdigest()[:12]
    lines: list[bytes] = []
    for row, raw in enumerate(_records(format_, body)):
        lines += lines_of(format_, raw, f"{place}:{row}", WEBHOOKS[format_], {})
    return lines


def _records(format_: str, body: bytes) -> list[bytes]:
    records = split_records(body)
    if format_ == "segment" and len(records) == 1:
        try:
            fields = _batch(records[0])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return records
        if "batch" in fields and "messageId" not in fields:
            return split_records(bytes(fields["batch"]))
    return records

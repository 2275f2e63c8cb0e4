"""Conversion of one foreign record to events: what the adapters of other systems share.

Each adapter has a pure function `convert(record, location)`.

    raw JSON ──decode──► record ──convert──► events, one line each
                            └─ unreadable ──► {"unread": …}: the record, the reason, the field

The contract refuses an `unread` line with the reason in it, so that the quarantine states what the
adapter found and where. The line holds the complete record, so that `tailorbird lake replay` can
convert it again once the adapter is fixed.

`location` is the position of the record, `digest of the file:row`. Where the source has no ids,
event ids are derived from the record's content, so that a repeated, compressed or extended export
creates no duplicates. The importer numbers equal records of a file. Profile ids are derived from
the location, since an item may return to an earlier state.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from tailorbird.events.adapters.batch import (
    BATCH_BYTES,
    BATCH_ROWS,
    Batch,
    derive_row_id,
    encode_event,
)
from tailorbird.events.contract.codes import ContractViolation, to_violation
from tailorbird.events.contract.envelope import Event
from tailorbird.events.contract.plan import PROFILE_TYPES
from tailorbird.events.contract.verdict import UnreadRecord

Record = dict[str, Any]
WRONG_ROW_REASON = (
    "wrong_width",
    "$",
    "its columns are not those of the header, its quote is not closed, or it is no text in UTF-8",
)
NO_RECORD_REASON = ("malformed_json", "$", "expected a JSON object")
Convert = Callable[[Any, str], list[Event]]

_decode = msgspec.json.Decoder().decode
_encode_canonical = msgspec.json.Encoder(order="sorted").encode
_DECODE_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError)


class UnreadableError(ContractViolation):
    """A record, or a field of it, that does not match its format."""


class SkippedRecordError(Exception):
    """A record of a kind that says nothing about users and items, such as a ping.

    It is counted, not kept.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        super().__init__(kind)


def record_to_lines(
    format_: str,
    raw: bytes,
    location: str,
    convert: Convert,
    skipped_counts: dict[str, int],
    *,
    ids_from_content: bool = False,
) -> list[bytes]:
    """Convert the JSON of a record to event lines; never raises for what it contains.

    Args:
        skipped_counts: kind of record → how many were left out; counted on.
        ids_from_content: make the ids of all but profiles of the record's content, not of
            `location`.
    """
    raw = raw.replace(b"\n", b" ").replace(
        b"\r", b" "
    )  # outside of texts, where JSON has them escaped
    try:
        record = _decode(raw)
    except _DECODE_ERRORS as error:
        return [
            _unread_line(
                format_,
                location,
                UnreadableError("malformed_json", "$", f"expected JSON: {error}"),
                _to_readable(raw),
            )
        ]
    try:
        content_id = (
            derive_row_id(format_, _encode_canonical(record)) if ids_from_content else location
        )
        events = convert(record, content_id)
        if ids_from_content:
            events = [
                _with_place_id(event, content_id, location)
                if event.type in PROFILE_TYPES
                else event
                for event in events
            ]
        return [encode_event(event) for event in events]
    except SkippedRecordError as error:
        skipped_counts[error.kind] = skipped_counts.get(error.kind, 0) + 1
        return []
    except UnreadableError as error:
        return [_unread_line(format_, location, error, msgspec.Raw(raw))]
    except (
        ValueError,
        TypeError,
        OverflowError,
        RecursionError,
    ) as error:  # a value that JSON can hold and we cannot
        return [
            _unread_line(
                format_,
                location,
                UnreadableError("wrong_type", "$", f"cannot be kept: {error}"),
                _to_readable(raw),
            )
        ]


def _with_place_id(event: Event, content_id: str, location: str) -> Event:
    if not event.event_id.startswith(content_id):
        return event
    return msgspec.structs.replace(
        event, event_id=location + event.event_id.removeprefix(content_id)
    )


def convert_records(
    format_: str, file: str, rows: Iterable[tuple[int, bytes]], digest: str, convert: Convert
) -> Iterator[Batch]:
    """Yield batches from the numbered records of one file."""
    lines: list[bytes] = []
    line_numbers: list[int] = []
    skipped_counts: dict[str, int] = {}
    pending_bytes = 0
    for number, raw in rows:
        record_lines = record_to_lines(
            format_, raw, f"{digest[:12]}:{number}", convert, skipped_counts, ids_from_content=True
        )
        lines += record_lines
        line_numbers += [number] * len(record_lines)
        pending_bytes += sum(map(len, record_lines))
        if len(lines) >= BATCH_ROWS or pending_bytes >= BATCH_BYTES:
            yield Batch(file, lines, line_numbers, skipped_counts)
            lines = []
            line_numbers = []
            skipped_counts = {}
            pending_bytes = 0
    if lines or skipped_counts:
        yield Batch(file, lines, line_numbers, skipped_counts)


def from_validation_error(
    error: msgspec.ValidationError, parent_path: str = "$"
) -> UnreadableError:
    """Convert a validation error of msgspec, with its path below `parent_path`."""
    violation = to_violation(error, parent_path)
    return UnreadableError(violation.code, violation.path, violation.message)


def encode_unread_row(
    format_: str, location: str, record: Any, reason: tuple[str, str, str] = WRONG_ROW_REASON
) -> bytes:
    """Return the line for a table row that cannot be read.

    `reason` is a code, a path and a sentence.
    """
    return _unread_line(format_, location, UnreadableError(*reason), record)


def encode_unread_rows(
    format_: str,
    digest: str,
    rows: Iterable[Any],
    rows_before: int,
    reason: tuple[str, str, str] = WRONG_ROW_REASON,
) -> Iterator[tuple[int, bytes]]:
    """Yield the number and line of each row set aside while a table was read.

    They are numbered after the rows that could be read.
    """
    for number, row in enumerate(rows, rows_before + 1):
        yield number, encode_unread_row(format_, f"{digest}:{number}", row, reason)


def _unread_line(format_: str, location: str, error: UnreadableError, record: Any) -> bytes:
    unread = UnreadRecord(
        format=format_,
        place=location,
        code=error.code,
        path=error.path,
        message=error.message,
        record=record,
    )
    return msgspec.json.encode({"unread": unread})


def _to_readable(raw: bytes) -> str:
    return raw.decode(errors="backslashreplace")

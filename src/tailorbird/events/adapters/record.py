"""Conversion of one foreign record to events: what the adapters of other systems share.

Each adapter has a pure function `convert(record, place)`.

    raw JSON ──decode──► record ──convert──► events, one line each
                            └─ unreadable ──► {"unread": …}: the record, the reason, the field

The contract refuses an `unread` line with the reason in it, so that the quarantine states what the
adapter found and where. The line holds the complete record, so that `tailorbird lake replay` can
convert it again once the adapter is fixed.

`place` is the position of the record, `digest of the file:row`. Where the source has no ids, event
ids are derived from the record's content, so that a repeated, compressed or extended export creates
no duplicates. The importer numbers equal records of a file. Profile ids are derived from the place,
since an item may return to an earlier state.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from tailorbird.events.adapters.batch import BATCH_BYTES, BATCH_ROWS, Batch, encode_event, row_id
from tailorbird.events.contract.codes import ContractViolation, violation_of
from tailorbird.events.contract.envelope import Event
from tailorbird.events.contract.plan import PROFILE_TYPES
from tailorbird.events.contract.verdict import Unread

Record = dict[str, Any]
WRONG_ROW = (
    "wrong_width",
    "$",
    "its columns are not those of the header, its quote is not closed, or it is no text in UTF-8",
)
NO_RECORD = ("malformed_json", "$", "expected a JSON object")
Convert = Callable[[Any, str], list[Event]]

_decode = msgspec.json.Decoder().decode
_canonical = msgspec.json.Encoder(order="sorted").encode
_DECODE_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError)


class UnreadableError(ContractViolation):
    """A record, or a field of it, that does not match its format."""


class LeftOutError(Exception):
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
    left_out: dict[str, int],
    *,
    by_content: bool = False,
) -> list[bytes]:
    """Convert the JSON of a record to event lines; never raises for what it contains.

    Args:
        left_out: kind of record → how many were left out; counted on.
        by_content: make the ids of all but profiles of the record's content, not of `location`.
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
                _as_text(raw),
            )
        ]
    try:
        content_id = row_id(format_, _canonical(record)) if by_content else location
        events = convert(record, content_id)
        if by_content:
            events = [
                _with_place_id(event, content_id, location)
                if event.type in PROFILE_TYPES
                else event
                for event in events
            ]
        return [encode_event(event) for event in events]
    except LeftOutError as error:
        left_out[error.kind] = left_out.get(error.kind, 0) + 1
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
                _as_text(raw),
            )
        ]


def _with_place_id(event: Event, content_id: str, location: str) -> Event:
    if not event.event_id.startswith(content_id):
        return event
    return msgspec.structs.replace(
        event, event_id=location + event.event_id.removeprefix(content_id)
    )


def record_batches(
    format_: str, file: str, rows: Iterable[tuple[int, bytes]], digest: str, convert: Convert
) -> Iterator[Batch]:
    """Yield batches from the numbered records of one file."""
    lines: list[bytes] = []
    numbers: list[int] = []
    left_out: dict[str, int] = {}
    size = 0
    for number, raw in rows:
        record_lines = record_to_lines(
            format_, raw, f"{digest[:12]}:{number}", convert, left_out, by_content=True
        )
        lines += record_lines
        numbers += [number] * len(record_lines)
        size += sum(map(len, record_lines))
        if len(lines) >= BATCH_ROWS or size >= BATCH_BYTES:
            yield Batch(file, lines, numbers, left_out)
            lines, numbers, left_out, size = [], [], {}, 0
    if lines or left_out:
        yield Batch(file, lines, numbers, left_out)


def from_validation_error(error: msgspec.ValidationError, below: str = "$") -> UnreadableError:
    """Convert a validation error of msgspec, with its path below `below`."""
    violation = violation_of(error, below)
    return UnreadableError(violation.code, violation.path, violation.message)


def unread_row(
    format_: str, location: str, record: Any, reason: tuple[str, str, str] = WRONG_ROW
) -> bytes:
    """Return the line for a table row that cannot be read.

    `reason` is a code, a path and a sentence.
    """
    return _unread_line(format_, location, UnreadableError(*reason), record)


def unread_rows(
    format_: str,
    digest: str,
    rows: Iterable[Any],
    rows_before: int,
    reason: tuple[str, str, str] = WRONG_ROW,
) -> Iterator[tuple[int, bytes]]:
    """Yield the number and line of each row set aside while a table was read.

    They are numbered after the rows that could be read.
    """
    for number, row in enumerate(rows, rows_before + 1):
        yield number, unread_row(format_, f"{digest}:{number}", row, reason)


def _unread_line(format_: str, location: str, error: UnreadableError, record: Any) -> bytes:
    unread = Unread(
        format=format_,
        place=location,
        code=error.code,
        path=error.path,
        message=error.message,
        record=record,
    )
    return msgspec.json.encode({"unread": unread})


def _as_text(raw: bytes) -> str:
    return raw.decode(errors="backslashreplace")

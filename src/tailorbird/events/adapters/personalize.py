"""Amazon Personalize: the CSV files of its item interactions, users and items datasets, told apart
by their columns.

    USER_ID, ITEM_ID, TIMESTAMP, …   → an event of EVENT_TYPE, by default a click
        IMPRESSION                   → also an impression of its items, once per RECOMMENDATION_ID
        EVENT_VALUE                  → properties.rating of a rating, else properties.event_value
    USER_ID, …                       → timeless user profile
    ITEM_ID, …                       → item profile, valid from CREATION_TIMESTAMP, else timeless;
                                       exports write 0 for an unknown time

Times are seconds since 1970, and `|` separates values. Other columns become properties in lower
case.

Source: Amazon Personalize Developer Guide, "Item interaction data", "Impressions data", "User
metadata", "Item metadata" and "Data format guidelines".
"""

import csv
import io
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from tailorbird.errors import InputError
from tailorbird.events.adapters.batch import AdapterOptions, Batch, FormatAdapter
from tailorbird.events.adapters.fields import (
    as_record,
    context_of,
    nonempty_fields,
    parse_csv_value,
    parse_number,
    required_text,
    safe_event_type,
    slug,
    text_at,
    time_since_1970,
)
from tailorbird.events.adapters.record import WRONG_ROW, Record, UnreadableError, record_batches
from tailorbird.events.contract.envelope import Event
from tailorbird.events.tables.encodings import open_table
from tailorbird.events.tables.files import DAMAGED
from tailorbird.events.tables.quotes import LineReader, next_row

FORMAT = "personalize"
PATTERNS = ("*.csv",)

_TYPES = {
    "watch": "view",
    "detailpageview": "view",
    "addtocart": "cart",
    "add_to_cart": "cart",
    "clicked": "click",
    "purchased": "purchase",
}
_DEVICES = ("DEVICE", "DEVICE_TYPE")
_WRONG_ROW = "#row"  # a column of this name holds a row that does not fit the header


def read_personalize(files: dict[Path, str], options: AdapterOptions) -> Iterator[Batch]:
    """Read the files in order of their names.

    Raises:
        InputError: a file has neither USER_ID nor ITEM_ID, or both and no TIMESTAMP.
    """
    for file, digest in files.items():
        yield from record_batches(FORMAT, str(file), _read_rows(file), digest, convert)


def convert(record: Any, location: str) -> list[Event]:
    """Convert a row, as column → text, to events."""
    row = as_record(record)
    if _WRONG_ROW in row:
        raise UnreadableError(*WRONG_ROW)
    if "USER_ID" in row and "ITEM_ID" in row:
        return _convert_interaction(row, location)
    if "USER_ID" in row:
        return [
            Event(
                event_id=location,
                type="user",
                user_id=required_text(row, "USER_ID"),
                timeless=True,
                properties=_read_properties(row, ("USER_ID",)),
            )
        ]
    item = required_text(row, "ITEM_ID")
    properties = _read_properties(row, ("ITEM_ID", "CREATION_TIMESTAMP"))
    created = row.get("CREATION_TIMESTAMP")
    if created in (None, "") or _is_zero(created):
        return [
            Event(
                event_id=location, type="item", item_id=item, timeless=True, properties=properties
            )
        ]
    ts = time_since_1970(created, "$.CREATION_TIMESTAMP", "seconds")
    return [Event(event_id=location, type="item", ts=ts, item_id=item, properties=properties)]


def _is_zero(value: Any) -> bool:
    number = parse_number(value)
    return isinstance(number, int | float) and not isinstance(number, bool) and number == 0


def _convert_interaction(row: Record, location: str) -> list[Event]:
    ts = time_since_1970(row.get("TIMESTAMP"), "$.TIMESTAMP", "seconds")
    user, item = required_text(row, "USER_ID"), required_text(row, "ITEM_ID")
    name = text_at(row, "EVENT_TYPE") or "click"
    type_ = _TYPES.get(name.lower().replace(" ", "")) or safe_event_type(slug(name))
    request = text_at(row, "RECOMMENDATION_ID")
    device = next((row[column] for column in _DEVICES if row.get(column)), None)
    context = context_of(device=device, country=row.get("COUNTRY"))
    consumed = (
        "USER_ID",
        "ITEM_ID",
        "TIMESTAMP",
        "EVENT_TYPE",
        "EVENT_VALUE",
        "IMPRESSION",
        "RECOMMENDATION_ID",
        *_DEVICES,
    )
    properties = _read_properties(row, consumed) or {}
    if row.get("EVENT_VALUE") not in (None, ""):
        properties["rating" if type_ == "rating" else "event_value"] = parse_number(
            row["EVENT_VALUE"]
        )
    click = Event(
        event_id=location,
        type=type_,
        ts=ts,
        user_id=user,
        item_id=item,
        request_id=request,
        context=context,
        properties=properties or None,
    )
    shown = list(
        dict.fromkeys(
            part.strip() for part in (text_at(row, "IMPRESSION") or "").split("|") if part.strip()
        )
    )
    if not shown:
        return [click]
    impression_id = f"{request or location}#impression"
    return [
        Event(
            event_id=impression_id,
            type="impression",
            ts=ts,
            user_id=user,
            items=shown,
            request_id=request,
            context=context,
        ),
        click,
    ]


def _read_properties(row: Record, without: tuple[str, ...]) -> dict[str, Any] | None:
    return {
        name.lower(): _read_value(value) for name, value in nonempty_fields(row, without).items()
    } or None


def _read_value(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return [part for part in value.split("|") if part] if "|" in value else parse_csv_value(value)


def _read_rows(file: Path) -> Iterator[tuple[int, bytes]]:
    """Yield each row as JSON, column → text, with the number of its last line.

    A malformed line is yielded under `#row`, split at its commas.
    """
    number = 0
    try:
        with io.TextIOWrapper(
            open_table(file), encoding="utf-8-sig", errors="surrogateescape", newline=""
        ) as stream:
            lines = LineReader(stream)
            reader = csv.reader(lines)
            header = _read_header(file, reader)
            while (row := _next_row(reader, lines, header)) is not None:
                number = lines.number
                if row:
                    yield number, row
    except DAMAGED as error:
        raise InputError(f"damaged after line {number}: {error}", where=str(file)) from None


def _next_row(reader: Iterator[list[str]], lines: LineReader, header: list[str]) -> bytes | None:
    """Return the next row: None at the end, empty for a blank line.

    A line whose quote is not closed is split at its commas.
    """
    try:
        row = next_row(reader, lines, len(header))
    except StopIteration:
        return None
    if row is None:
        return _wrong_row(lines.row_lines[0].rstrip("\r\n").split(","))
    if not row:
        return b""
    if len(row) == len(header):
        with suppress(UnicodeEncodeError):  # bytes that are no UTF-8
            return msgspec.json.encode(dict(zip(header, row, strict=True)))
    return _wrong_row(row)


def _wrong_row(row: list[str]) -> bytes:
    return msgspec.json.encode(
        {
            _WRONG_ROW: [
                value.encode(errors="surrogateescape").decode(errors="backslashreplace")
                for value in row
            ]
        }
    )


def _read_header(file: Path, reader: Any) -> list[str]:
    try:
        header = [name.strip().upper() for name in next(reader, [])]
    except csv.Error as error:
        raise InputError(f"cannot be read: {error}", where=str(file)) from None
    shown = ", ".join(header)[:200].encode(errors="backslashreplace").decode()
    if not {"USER_ID", "ITEM_ID"} & set(header):
        raise InputError(
            "expected columns USER_ID, ITEM_ID and TIMESTAMP, or USER_ID or ITEM_ID alone, "
            f"got {shown or 'none'}",
            where=f"{file}:1",
            fix="tailorbird import --guess PATH proposes a mapping for files with other columns",
        )
    if {"USER_ID", "ITEM_ID"} <= set(header) and "TIMESTAMP" not in header:
        raise InputError(
            f"interactions need a column TIMESTAMP, got {shown}",
            where=f"{file}:1",
            fix="add it, in seconds since 1970",
        )
    if len(set(header)) < len(header):
        raise InputError(
            f"two columns have the same name: {shown}", where=f"{file}:1", fix="rename one"
        )
    return [name.encode(errors="backslashreplace").decode() for name in header]


def _is_table(name: str, columns: list[str]) -> bool:
    has_key = bool({"USER_ID", "ITEM_ID"} & set(columns))
    return has_key and all(column == column.upper() for column in columns)


ADAPTER = FormatAdapter(
    read=read_personalize, patterns=PATTERNS, convert=convert, is_table=_is_table, has_csv=True
)

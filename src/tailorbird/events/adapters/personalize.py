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
    build_context,
    get_text,
    nonempty_fields,
    parse_csv_value,
    parse_epoch_time,
    parse_number,
    require_text,
    safe_event_type,
    to_slug,
)
from tailorbird.events.adapters.record import (
    WRONG_ROW_REASON,
    Record,
    UnreadableError,
    convert_records,
)
from tailorbird.events.contract.envelope import Event
from tailorbird.events.tables.encodings import open_table
from tailorbird.events.tables.files import READ_ERRORS
from tailorbird.events.tables.quotes import LineReader, next_row

FORMAT = "personalize"
PATTERNS = ("*.csv",)

_TYPE_BY_EVENT_NAME = {
    "watch": "view",
    "detailpageview": "view",
    "addtocart": "cart",
    "add_to_cart": "cart",
    "clicked": "click",
    "purchased": "purchase",
}
_DEVICE_COLUMNS = ("DEVICE", "DEVICE_TYPE")
_WRONG_ROW_FIELD = "#row"  # a column of this name holds a row that does not fit the header


def read_personalize(files: dict[Path, str], options: AdapterOptions) -> Iterator[Batch]:
    """Read the files in order of their names.

    Raises:
        InputError: a file has neither USER_ID nor ITEM_ID, or both and no TIMESTAMP.
    """
    for file, digest in files.items():
        yield from convert_records(FORMAT, str(file), _read_rows(file), digest, convert)


def convert(record: Any, location: str) -> list[Event]:
    """Convert a row, as column → text, to events; `location`, file and line, is their id."""
    row = as_record(record)
    if _WRONG_ROW_FIELD in row:
        raise UnreadableError(*WRONG_ROW_REASON)
    if "USER_ID" in row and "ITEM_ID" in row:
        return _convert_interaction(row, location)
    if "USER_ID" in row:
        return [
            Event(
                event_id=location,
                type="user",
                user_id=require_text(row, "USER_ID"),
                timeless=True,
                properties=_read_properties(row, ("USER_ID",)),
            )
        ]
    item_id = require_text(row, "ITEM_ID")
    properties = _read_properties(row, ("ITEM_ID", "CREATION_TIMESTAMP"))
    creation_time = row.get("CREATION_TIMESTAMP")
    if creation_time in (None, "") or _is_zero(creation_time):
        return [
            Event(
                event_id=location,
                type="item",
                item_id=item_id,
                timeless=True,
                properties=properties,
            )
        ]
    ts = parse_epoch_time(creation_time, "$.CREATION_TIMESTAMP", "seconds")
    return [Event(event_id=location, type="item", ts=ts, item_id=item_id, properties=properties)]


def _is_zero(value: Any) -> bool:
    number = parse_number(value)
    return isinstance(number, int | float) and not isinstance(number, bool) and number == 0


def _convert_interaction(row: Record, location: str) -> list[Event]:
    ts = parse_epoch_time(row.get("TIMESTAMP"), "$.TIMESTAMP", "seconds")
    user_id = require_text(row, "USER_ID")
    item_id = require_text(row, "ITEM_ID")
    name = get_text(row, "EVENT_TYPE") or "click"
    type_ = _TYPE_BY_EVENT_NAME.get(name.lower().replace(" ", "")) or safe_event_type(to_slug(name))
    request_id = get_text(row, "RECOMMENDATION_ID")
    device = next((row[column] for column in _DEVICE_COLUMNS if row.get(column)), None)
    context = build_context(device=device, country=row.get("COUNTRY"))
    envelope_columns = (
        "USER_ID",
        "ITEM_ID",
        "TIMESTAMP",
        "EVENT_TYPE",
        "EVENT_VALUE",
        "IMPRESSION",
        "RECOMMENDATION_ID",
        *_DEVICE_COLUMNS,
    )
    properties = _read_properties(row, envelope_columns) or {}
    if row.get("EVENT_VALUE") not in (None, ""):
        properties["rating" if type_ == "rating" else "event_value"] = parse_number(
            row["EVENT_VALUE"]
        )
    interaction = Event(
        event_id=location,
        type=type_,
        ts=ts,
        user_id=user_id,
        item_id=item_id,
        request_id=request_id,
        context=context,
        properties=properties or None,
    )
    shown_items = list(
        dict.fromkeys(
            part.strip() for part in (get_text(row, "IMPRESSION") or "").split("|") if part.strip()
        )
    )
    if not shown_items:
        return [interaction]
    impression_id = f"{request_id or location}#impression"
    return [
        Event(
            event_id=impression_id,
            type="impression",
            ts=ts,
            user_id=user_id,
            items=shown_items,
            request_id=request_id,
            context=context,
        ),
        interaction,
    ]


def _read_properties(row: Record, excluded: tuple[str, ...]) -> dict[str, Any] | None:
    return {
        name.lower(): _read_value(value)
        for name, value in nonempty_fields(row, excluded=excluded).items()
    } or None


def _read_value(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return [part for part in value.split("|") if part] if "|" in value else parse_csv_value(value)


def _read_rows(file: Path) -> Iterator[tuple[int, bytes]]:
    """Yield each row as JSON, column → text, with the number of its last line.

    A malformed line is yielded under `#row`, split at its commas.
    """
    line_number = 0
    try:
        with io.TextIOWrapper(
            open_table(file), encoding="utf-8-sig", errors="surrogateescape", newline=""
        ) as stream:
            line_reader = LineReader(stream)
            reader = csv.reader(line_reader)
            header = _read_header(file, reader)
            while (row := _read_next_row(reader, line_reader, header)) is not None:
                line_number = line_reader.line_number
                if row:
                    yield line_number, row
    except READ_ERRORS as error:
        raise InputError(f"damaged after line {line_number}: {error}", where=str(file)) from None


def _read_next_row(
    reader: Iterator[list[str]], line_reader: LineReader, header: list[str]
) -> bytes | None:
    """Return the next row: None at the end, empty for a blank line.

    A line whose quote is not closed is split at its commas.
    """
    try:
        row = next_row(reader, line_reader, len(header))
    except StopIteration:
        return None
    if row is None:
        return _encode_wrong_row(line_reader.row_lines[0].rstrip("\r\n").split(","))
    if not row:
        return b""
    if len(row) == len(header):
        with suppress(UnicodeEncodeError):  # bytes that are no UTF-8
            return msgspec.json.encode(dict(zip(header, row, strict=True)))
    return _encode_wrong_row(row)


def _encode_wrong_row(row: list[str]) -> bytes:
    return msgspec.json.encode(
        {
            _WRONG_ROW_FIELD: [
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
    shown_header = ", ".join(header)[:200].encode(errors="backslashreplace").decode()
    if not {"USER_ID", "ITEM_ID"} & set(header):
        raise InputError(
            "expected columns USER_ID, ITEM_ID and TIMESTAMP, or USER_ID or ITEM_ID alone, "
            f"got {shown_header or 'none'}",
            where=f"{file}:1",
            fix="tailorbird import --guess PATH proposes a mapping for files with other columns",
        )
    if {"USER_ID", "ITEM_ID"} <= set(header) and "TIMESTAMP" not in header:
        raise InputError(
            f"interactions need a column TIMESTAMP, got {shown_header}",
            where=f"{file}:1",
            fix="add it, in seconds since 1970",
        )
    if len(set(header)) < len(header):
        raise InputError(
            f"two columns have the same name: {shown_header}", where=f"{file}:1", fix="rename one"
        )
    return [name.encode(errors="backslashreplace").decode() for name in header]


def _is_table(name: str, columns: list[str]) -> bool:
    """Return whether columns are those of a table of this format, whatever the file's name is."""
    has_key = bool({"USER_ID", "ITEM_ID"} & set(columns))
    return has_key and all(column == column.upper() for column in columns)


ADAPTER = FormatAdapter(
    read=read_personalize, patterns=PATTERNS, convert=convert, is_table=_is_table, has_csv=True
)

"""Turn rows of a mapped file into events."""

from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from itertools import repeat
from math import isfinite, isnan
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events.adapters.batch import with_content_id
from tailorbird.events.adapters.fields import safe_event_type
from tailorbird.events.adapters.mapping.file import UNIT_US, Source
from tailorbird.events.contract.envelope import NUMBER_BOUNDS, Context, Event
from tailorbird.events.tables.columns import prevailing_type
from tailorbird.events.tables.times import parse_iso_time, parse_times


def to_events(batch: pa.RecordBatch, rows_before: int, digest: str, source: Source) -> list[Event]:
    """Return the events of the rows of a batch.

    Args:
        rows_before: rows of the file before the batch.
        digest: digest of the file, for the ids of profiles.
    """
    texts_by_field = {
        name: _read_texts(batch, getattr(source, name))
        for name in ("user_id", "anonymous_id", "session_id", "item_id", "request_id")
    }
    event_ids = _read_texts(batch, source.event_id)
    event_times = _read_times(batch, source.ts, source)
    arrival_times = _read_times(batch, source.received_at, source)
    event_types = _read_types(batch, source)
    contexts = _read_contexts(batch, source)
    properties = _read_properties(batch, source)
    timeless = source.kind != "events" and source.ts is None
    events = (
        Event(
            event_id=event_id
            or (f"{digest}:{rows_before + row}" if source.kind != "events" else ""),
            type=type_ or "",
            ts=ts,
            user_id=user_id,
            anonymous_id=anonymous_id,
            session_id=session_id,
            item_id=item_id,
            request_id=request_id,
            context=context,
            properties=event_properties,
            timeless=timeless,
            received_at=received_at,
        )
        for row, (
            event_id,
            type_,
            ts,
            received_at,
            user_id,
            anonymous_id,
            session_id,
            item_id,
            request_id,
            context,
            event_properties,
        ) in enumerate(
            zip(
                event_ids,
                event_types,
                event_times,
                arrival_times,
                *texts_by_field.values(),
                contexts,
                properties,
                strict=True,
            ),
            1,
        )
    )
    identified_events = (
        event if event.event_id else with_content_id("mapping", event) for event in events
    )
    if (
        source.kind == "events"
        and source.ts is not None
        and pa.types.is_date(batch.column(source.ts).type)
    ):
        identified_events = (
            _with_row_offset(event, rows_before + row)
            for row, event in enumerate(identified_events)
        )
    return list(identified_events)


def _with_row_offset(event: Event, row: int) -> Event:
    """Return an event of a day, whose time of day is not known, as many microseconds into it as
    rows stand before it in the file.

    Events with equal times would otherwise lose the order of the file. The id is derived before, so
    that the same event in another file has the same id.
    """
    return msgspec.structs.replace(event, ts=event.ts + row) if isinstance(event.ts, int) else event


def _read_texts(batch: pa.RecordBatch, column: str | None) -> Any:
    if column is None:
        return list(repeat(None, batch.num_rows))
    values = batch.column(column)
    if pa.types.is_floating(values.type):  # whole numbers with gaps, as pandas writes them
        return [
            None if value is None or isnan(value) else f"{value:.15g}"
            for value in values.to_pylist()
        ]
    return values.cast(pa.string()).to_pylist()


def _read_types(batch: pa.RecordBatch, source: Source) -> Any:
    if source.kind != "events":
        return repeat(source.kind.removesuffix("s"), batch.num_rows)
    if isinstance(source.type, str):
        return repeat(source.type, batch.num_rows)
    values = source.type.values
    return [
        values.get(text) or (text and safe_event_type(text))
        for text in _read_texts(batch, source.type.column)
    ]


def _read_times(batch: pa.RecordBatch, column_name: str | None, source: Source) -> Any:
    if column_name is None:
        return repeat(None, batch.num_rows)
    column = batch.column(column_name)
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("us"))
    if pa.types.is_timestamp(column.type):
        if column.type.tz is None and source.ts_zone != "UTC":
            column = pc.assume_timezone(
                column, source.ts_zone, ambiguous="earliest", nonexistent="earliest"
            )
        return (
            column.cast(pa.timestamp("us", column.type.tz), safe=False).cast(pa.int64()).to_pylist()
        )
    if (
        pa.types.is_integer(column.type)
        or pa.types.is_floating(column.type)
        or pa.types.is_decimal(column.type)
    ):
        return [_to_microseconds(value, UNIT_US[source.ts_unit]) for value in column.to_pylist()]
    texts = column.cast(pa.string()).to_pylist()
    if source.ts_format:
        parsed_times = parse_times(column, source.ts_format, source.ts_zone).to_pylist()
        return [
            text if parsed_time is None else parsed_time
            for text, parsed_time in zip(texts, parsed_times, strict=True)
        ]
    zone = ZoneInfo(source.ts_zone)
    return [_parse_time_text(value, UNIT_US[source.ts_unit], zone) for value in texts]


def _to_microseconds(value: float | Decimal | None, unit_us: int) -> int | None:
    return None if value is None or not isfinite(value) else int(value * unit_us)


def _parse_time_text(text: str | None, unit_us: int, zone: ZoneInfo) -> int | str | None:
    """Convert a time in text, in the mapping's zone where it names none.

    Text that is no time is left to the contract.
    """
    if text is None:
        return None
    try:
        return _to_microseconds(Decimal(text), unit_us)
    except InvalidOperation:
        pass
    parsed_time = parse_iso_time(text, zone)
    return text if parsed_time is None else parsed_time.isoformat()


def _read_contexts(batch: pa.RecordBatch, source: Source) -> Any:
    if not source.context:
        return repeat(None, batch.num_rows)
    columns = [
        batch.column(column).to_pylist() if name == "utc_offset_min" else _read_texts(batch, column)
        for name, column in source.context.items()
    ]
    return [
        Context(**dict(zip(source.context, row, strict=True))) for row in zip(*columns, strict=True)
    ]


def _read_properties(batch: pa.RecordBatch, source: Source) -> Any:
    if not source.properties:
        return repeat(None, batch.num_rows)
    names = list(source.properties)
    columns = [
        _read_values(batch, column, is_number=name in NUMBER_BOUNDS)
        for name, column in source.properties.items()
    ]
    return [
        {
            name: _to_json_value(value)
            for name, value in zip(names, row, strict=True)
            if value is not None
        }
        or None
        for row in zip(*columns, strict=True)
    ]


def _read_values(batch: pa.RecordBatch, column: str, *, is_number: bool = False) -> list[Any]:
    """Return a column's values.

    A column that has to hold numbers (`is_number`) is converted value by value, so that an odd one
    does not turn the others into text.
    """
    values = batch.column(column).to_pylist()
    type_name = prevailing_type(batch.schema.field(column))
    return (
        [_parse_number(value) for value in values]
        if is_number or type_name in ("int64", "double")
        else values
    )


def _parse_number(text: Any) -> Any:
    """Convert text to a number if it holds one; leave anything else for the contract to judge."""
    if not isinstance(text, str):
        return text
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return text


def _to_json_value(value: Any) -> Any:
    """Convert a value to one that JSON can hold."""
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    return value

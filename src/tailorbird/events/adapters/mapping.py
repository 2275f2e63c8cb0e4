"""Import of any CSV, JSON or Parquet file by a mapping file, see `events.adapters.mapping_file`.

`tailorbird import --guess` proposes one.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from fnmatch import fnmatch
from itertools import repeat
from math import isfinite, isnan
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.errors import InputError
from tailorbird.events.adapters.batch import (
    AdapterOptions,
    Batch,
    FormatAdapter,
    encode_event,
    to_batches,
    with_content_id,
)
from tailorbird.events.adapters.fields import safe_event_type
from tailorbird.events.adapters.mapping_file import (
    PATTERNS,
    UNITS,
    Source,
    TypeColumn,
    parse_mapping,
)
from tailorbird.events.adapters.record import NO_RECORD, WRONG_ROW, unread_rows
from tailorbird.events.contract.envelope import Context, Event
from tailorbird.events.contract.properties import NUMBERS
from tailorbird.events.tables.columns import (
    column_names,
    prevailing_type,
    read_columns,
    read_sample,
)
from tailorbird.events.tables.files import BATCH_ROWS
from tailorbird.events.tables.forms import Join, TableForm
from tailorbird.events.tables.most_said import MostFrequentValues
from tailorbird.events.tables.records import is_json
from tailorbird.events.tables.times import parse_iso_time, parse_times


def read_mapping(files: dict[Path, str], options: AdapterOptions) -> Iterator[Batch]:
    """Turn the rows of each mapped file into events.

    Raises:
        InputError: a file matches no source, a mapped column is missing, or a file cannot be read.
    """
    mapping = parse_mapping(options.mapping, options.mapping_name)
    used = False
    for file, digest in files.items():
        for source_index, source in enumerate(mapping.source):
            if fnmatch(file.name, source.file) or fnmatch(str(file), f"*/{source.file}"):
                used = True
                # Two sources may read one file, and their events must not pass for repeats of each
                # other.
                yield from _read_source(
                    file,
                    digest[:12] if source_index == 0 else f"{digest[:12]}.{source_index}",
                    source,
                    options.mapping_name,
                )
    if not used:
        patterns = ", ".join(source.file for source in mapping.source)
        raise InputError(
            f"the mapping names {patterns}, and no such file is there", where=options.root
        )


def _read_source(file: Path, digest: str, source: Source, name: str) -> Iterator[Batch]:
    required_columns = _columns_of(source)
    form = form_of(source, file)
    present = column_names(file, form)
    missing = [column for column in required_columns if column not in present]
    if missing:
        raise InputError(
            f"{file.name} has no column {', '.join(missing)}; it has {', '.join(present)}",
            where=name,
        )
    if source.distinct:
        yield from _read_distinct(file, digest, source, form)
        return
    rows_before = 0
    broken: list[str] = []
    try:
        for batch in read_columns(
            file, required_columns, texts=_texts_of(source), broken=broken, form=form
        ):
            yield from _batches(file, batch, rows_before, digest, source)
            rows_before += batch.num_rows
    except pa.ArrowException as error:
        raise InputError(
            f"a column cannot be used as the mapping says: {error}", where=str(file)
        ) from None
    yield from to_batches(
        str(file),
        unread_rows(
            "mapping", digest, broken, rows_before, NO_RECORD if is_json(file) else WRONG_ROW
        ),
    )


def _read_distinct(file: Path, digest: str, source: Source, form: TableForm) -> Iterator[Batch]:
    """Yield one profile per item or user of a repetitive file, with the most frequent values.

    Unreadable rows are left to the source of the events, which reads them too.
    """
    owner = source.item_id if source.kind == "items" else source.user_id
    assert owner is not None  # `parse_mapping` saw to it
    most_frequent = MostFrequentValues(owner, list(source.properties.values()))
    try:
        for batch in read_columns(
            file, _columns_of(source), texts=_texts_of(source), broken=[], form=form
        ):
            most_frequent.add(batch)
        rows = most_frequent.rows()
    except pa.ArrowException as error:
        raise InputError(
            f"a column cannot be used as the mapping says: {error}", where=str(file)
        ) from None
    if rows is not None:
        for start in range(0, rows.num_rows, BATCH_ROWS):
            yield from _batches(file, rows.slice(start, BATCH_ROWS), start, digest, source)


def _batches(
    file: Path, rows: pa.RecordBatch, rows_before: int, digest: str, source: Source
) -> Iterator[Batch]:
    """Convert rows to batches of events; `done` rows precede them in the file."""
    lines = (
        (rows_before + row, encode_event(event))
        for row, event in enumerate(_events(rows, rows_before, digest, source), 1)
    )
    yield from to_batches(str(file), lines)


def _columns_of(source: Source) -> list[str]:
    direct = (*_ids_of(source), source.ts, source.received_at)
    typed = (source.type.column,) if isinstance(source.type, TypeColumn) else ()
    column_names_ = (*direct, *typed, *source.context.values(), *source.properties.values())
    return list(dict.fromkeys(column for column in column_names_ if column is not None))


def _texts_of(source: Source) -> frozenset[str]:
    """Return the columns that are read as text, so that 007 stays 007."""
    typed = (source.type.column,) if isinstance(source.type, TypeColumn) else ()
    return frozenset(column for column in (*_ids_of(source), *typed) if column is not None)


def _ids_of(source: Source) -> tuple[str | None, ...]:
    return (
        source.event_id,
        source.user_id,
        source.anonymous_id,
        source.session_id,
        source.item_id,
        source.request_id,
    )


def sample_lines(file: Path, source: Source) -> list[bytes]:
    """Return the lines that the mapping makes of rows sampled from a file by `read_sample`.

    Raises:
        InputError: the file cannot be read, or not as the mapping says.
    """
    try:
        batch = read_sample(
            file, form_of(source, file), _columns_of(source), texts=_texts_of(source)
        )
        return [encode_event(event) for event in _events(batch, 0, "sample", source)]
    except pa.ArrowException as error:
        raise InputError(
            f"a column cannot be used as the mapping says: {error}", where=str(file)
        ) from None


def form_of(source: Source, file: Path) -> TableForm:
    """Return how a file of a source is written.

    Raises InputError where a joined table is missing.
    """
    joins = tuple(Join(file.parent / join.file, join.on) for join in source.join)
    for join in joins:
        if not join.file.exists():
            raise InputError(
                f"no such file, whose columns are joined by {join.on}",
                where=str(join.file),
                fix="put it beside the others",
            )
    return TableForm(source.delimiter, source.decimal, source.columns, joins)


def _events(batch: pa.RecordBatch, rows_before: int, digest: str, source: Source) -> list[Event]:
    texts = {
        name: _texts(batch, getattr(source, name))
        for name in ("user_id", "anonymous_id", "session_id", "item_id", "request_id")
    }
    ids = _texts(batch, source.event_id)
    times, arrivals = _times(batch, source.ts, source), _times(batch, source.received_at, source)
    types = _types(batch, source)
    contexts = _contexts(batch, source)
    properties = _properties(batch, source)
    timeless = source.kind != "events" and source.ts is None
    events = (
        Event(
            event_id=event_id
            or (f"{digest}:{rows_before + row}" if source.kind != "events" else ""),
            type=kind or "",
            ts=ts,
            user_id=user,
            anonymous_id=anonymous,
            session_id=session,
            item_id=item,
            request_id=request,
            context=context,
            properties=props,
            timeless=timeless,
            received_at=received,
        )
        for row, (
            event_id,
            kind,
            ts,
            received,
            user,
            anonymous,
            session,
            item,
            request,
            context,
            props,
        ) in enumerate(
            zip(ids, types, times, arrivals, *texts.values(), contexts, properties, strict=True), 1
        )
    )
    identified = (
        event if event.event_id else with_content_id("mapping", event) for event in events
    )
    if (
        source.kind == "events"
        and source.ts is not None
        and pa.types.is_date(batch.column(source.ts).type)
    ):
        identified = (
            _with_row_offset(event, rows_before + row) for row, event in enumerate(identified)
        )
    return list(identified)


def _with_row_offset(event: Event, row: int) -> Event:
    """Return an event of a day, whose time of day is not known, as many microseconds into it as
    rows stand before it in the file.

    Events with equal times would otherwise lose the order of the file. The id is derived before, so
    that the same event in another file has the same id.
    """
    return msgspec.structs.replace(event, ts=event.ts + row) if isinstance(event.ts, int) else event


def _texts(batch: pa.RecordBatch, column: str | None) -> Any:
    if column is None:
        return list(repeat(None, batch.num_rows))
    values = batch.column(column)
    if pa.types.is_floating(values.type):  # whole numbers with gaps, as pandas writes them
        return [
            None if value is None or isnan(value) else f"{value:.15g}"
            for value in values.to_pylist()
        ]
    return values.cast(pa.string()).to_pylist()


def _types(batch: pa.RecordBatch, source: Source) -> Any:
    if source.kind != "events":
        return repeat(source.kind.removesuffix("s"), batch.num_rows)
    if isinstance(source.type, str):
        return repeat(source.type, batch.num_rows)
    values = source.type.values
    return [
        values.get(text) or (text and safe_event_type(text))
        for text in _texts(batch, source.type.column)
    ]


def _times(batch: pa.RecordBatch, name: str | None, source: Source) -> Any:
    if name is None:
        return repeat(None, batch.num_rows)
    column = batch.column(name)
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
        return [_microseconds(value, UNITS[source.ts_unit]) for value in column.to_pylist()]
    texts = column.cast(pa.string()).to_pylist()
    if source.ts_format:
        parsed = parse_times(column, source.ts_format, source.ts_zone).to_pylist()
        return [
            text if moment is None else moment for text, moment in zip(texts, parsed, strict=True)
        ]
    zone = ZoneInfo(source.ts_zone)
    return [_time_text(value, UNITS[source.ts_unit], zone) for value in texts]


def _microseconds(value: float | Decimal | None, unit: int) -> int | None:
    return None if value is None or not isfinite(value) else int(value * unit)


def _time_text(text: str | None, unit: int, zone: ZoneInfo) -> int | str | None:
    """Convert a time in text, in the mapping's zone where it names none.

    Text that is no time is left to the contract.
    """
    if text is None:
        return None
    try:
        return _microseconds(Decimal(text), unit)
    except InvalidOperation:
        pass
    moment = parse_iso_time(text, zone)
    return text if moment is None else moment.isoformat()


def _contexts(batch: pa.RecordBatch, source: Source) -> Any:
    if not source.context:
        return repeat(None, batch.num_rows)
    columns = [
        batch.column(column).to_pylist() if name == "utc_offset_min" else _texts(batch, column)
        for name, column in source.context.items()
    ]
    return [
        Context(**dict(zip(source.context, row, strict=True))) for row in zip(*columns, strict=True)
    ]


def _properties(batch: pa.RecordBatch, source: Source) -> Any:
    if not source.properties:
        return repeat(None, batch.num_rows)
    names = list(source.properties)
    columns = [
        _values(batch, column, number=name in NUMBERS) for name, column in source.properties.items()
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


def _values(batch: pa.RecordBatch, column: str, *, number: bool = False) -> list[Any]:
    """Return a column's values.

    A column that has to hold a `number` is converted value by value, so that an odd one does not
    turn the others into text.
    """
    values = batch.column(column).to_pylist()
    kind = prevailing_type(batch.schema.field(column))
    return [_number(value) for value in values] if number or kind in ("int64", "double") else values


def _number(text: Any) -> Any:
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


ADAPTER = FormatAdapter(read=read_mapping, patterns=PATTERNS)

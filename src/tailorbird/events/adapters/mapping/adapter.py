"""Import of any CSV, JSON or Parquet file by a mapping file, see `events.adapters.mapping.file`.

`tailorbird import --guess` proposes one.
"""

from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pyarrow as pa

from tailorbird.errors import InputError
from tailorbird.events.adapters.batch import (
    AdapterOptions,
    Batch,
    FormatAdapter,
    encode_event,
    to_batches,
)
from tailorbird.events.adapters.mapping.file import PATTERNS, Source, TypeColumn, parse_mapping
from tailorbird.events.adapters.mapping.rows import to_events
from tailorbird.events.adapters.record import NO_RECORD_REASON, WRONG_ROW_REASON, encode_unread_rows
from tailorbird.events.tables.columns import read_column_names, read_columns, read_sample
from tailorbird.events.tables.files import BATCH_ROWS
from tailorbird.events.tables.forms import Join, TableSpec
from tailorbird.events.tables.most_frequent import MostFrequentValues
from tailorbird.events.tables.records import is_json


def read_mapping(files: dict[Path, str], options: AdapterOptions) -> Iterator[Batch]:
    """Turn the rows of each mapped file into events.

    Raises:
        InputError: a file matches no source, a mapped column is missing, or a file cannot be read.
    """
    mapping = parse_mapping(options.mapping, options.mapping_name)
    is_used = False
    for file, digest in files.items():
        for source_index, source in enumerate(mapping.source):
            if fnmatch(file.name, source.file) or fnmatch(str(file), f"*/{source.file}"):
                is_used = True
                # Two sources may read one file, and their events must not pass for repeats of each
                # other.
                yield from _read_source(
                    file,
                    digest[:12] if source_index == 0 else f"{digest[:12]}.{source_index}",
                    source,
                    options.mapping_name,
                )
    if not is_used:
        patterns = ", ".join(source.file for source in mapping.source)
        raise InputError(
            f"the mapping names {patterns}, and no such file is there", where=options.root
        )


def _read_source(file: Path, digest: str, source: Source, mapping_name: str) -> Iterator[Batch]:
    required_columns = _get_columns(source)
    table_spec = build_table_spec(source, file)
    file_columns = read_column_names(file, table_spec)
    missing_columns = [column for column in required_columns if column not in file_columns]
    if missing_columns:
        raise InputError(
            f"{file.name} has no column {', '.join(missing_columns)}; it has "
            f"{', '.join(file_columns)}",
            where=mapping_name,
        )
    if source.distinct:
        yield from _read_distinct(file, digest, source, table_spec)
        return
    rows_before = 0
    broken_rows: list[str] = []
    try:
        for batch in read_columns(
            file,
            required_columns,
            text_columns=_get_text_columns(source),
            broken_rows=broken_rows,
            table_spec=table_spec,
        ):
            yield from _convert_batches(file, batch, rows_before, digest, source)
            rows_before += batch.num_rows
    except pa.ArrowException as error:
        raise InputError(
            f"a column cannot be used as the mapping says: {error}", where=str(file)
        ) from None
    yield from to_batches(
        str(file),
        encode_unread_rows(
            "mapping",
            digest,
            broken_rows,
            rows_before,
            NO_RECORD_REASON if is_json(file) else WRONG_ROW_REASON,
        ),
    )


def _read_distinct(
    file: Path, digest: str, source: Source, table_spec: TableSpec
) -> Iterator[Batch]:
    """Yield one profile per item or user of a repetitive file, with the most frequent values.

    Unreadable rows are left to the source of the events, which reads them too.
    """
    owner_column = source.item_id if source.kind == "items" else source.user_id
    assert owner_column is not None  # `parse_mapping` saw to it
    most_frequent = MostFrequentValues(owner_column, list(source.properties.values()))
    try:
        for batch in read_columns(
            file,
            _get_columns(source),
            text_columns=_get_text_columns(source),
            broken_rows=[],
            table_spec=table_spec,
        ):
            most_frequent.add(batch)
        rows = most_frequent.to_batch()
    except pa.ArrowException as error:
        raise InputError(
            f"a column cannot be used as the mapping says: {error}", where=str(file)
        ) from None
    if rows is not None:
        for start in range(0, rows.num_rows, BATCH_ROWS):
            yield from _convert_batches(file, rows.slice(start, BATCH_ROWS), start, digest, source)


def _convert_batches(
    file: Path, rows: pa.RecordBatch, rows_before: int, digest: str, source: Source
) -> Iterator[Batch]:
    """Convert rows to batches of events; `rows_before` rows precede them in the file."""
    lines = (
        (rows_before + row, encode_event(event))
        for row, event in enumerate(to_events(rows, rows_before, digest, source), 1)
    )
    yield from to_batches(str(file), lines)


def _get_columns(source: Source) -> list[str]:
    direct_columns = (*_get_id_columns(source), source.ts, source.received_at)
    type_columns = (source.type.column,) if isinstance(source.type, TypeColumn) else ()
    mapped_columns = (
        *direct_columns,
        *type_columns,
        *source.context.values(),
        *source.properties.values(),
    )
    return list(dict.fromkeys(column for column in mapped_columns if column is not None))


def _get_text_columns(source: Source) -> frozenset[str]:
    """Return the columns that are read as text, so that 007 stays 007."""
    type_columns = (source.type.column,) if isinstance(source.type, TypeColumn) else ()
    return frozenset(
        column for column in (*_get_id_columns(source), *type_columns) if column is not None
    )


def _get_id_columns(source: Source) -> tuple[str | None, ...]:
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
            file,
            build_table_spec(source, file),
            _get_columns(source),
            text_columns=_get_text_columns(source),
        )
        return [encode_event(event) for event in to_events(batch, 0, "sample", source)]
    except pa.ArrowException as error:
        raise InputError(
            f"a column cannot be used as the mapping says: {error}", where=str(file)
        ) from None


def build_table_spec(source: Source, file: Path) -> TableSpec:
    """Return how a file of a source is written.

    Raises InputError where a joined table is missing.
    """
    joins = tuple(Join(file.parent / join.file, join.on) for join in source.join)
    for join in joins:
        if not join.file.exists():
            raise InputError(
                f"no such file, whose columns are joined by {join.key_column}",
                where=str(join.file),
                fix="put it beside the others",
            )
    return TableSpec(source.delimiter, source.decimal, source.columns, joins)


ADAPTER = FormatAdapter(read=read_mapping, patterns=PATTERNS)

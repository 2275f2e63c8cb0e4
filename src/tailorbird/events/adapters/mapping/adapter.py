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
from tailorbird.events.adapters.mapping.rows import events_of
from tailorbird.events.adapters.record import NO_RECORD, WRONG_ROW, unread_rows
from tailorbird.events.tables.columns import column_names, read_columns, read_sample
from tailorbird.events.tables.files import BATCH_ROWS
from tailorbird.events.tables.forms import Join, TableForm
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


def _read_source(file: Path, digest: str, source: Source, name: str) -> Iterator[Batch]:
    required_columns = _columns_of(source)
    form = form_of(source, file)
    file_columns = column_names(file, form)
    missing = [column for column in required_columns if column not in file_columns]
    if missing:
        raise InputError(
            f"{file.name} has no column {', '.join(missing)}; it has {', '.join(file_columns)}",
            where=name,
        )
    if source.distinct:
        yield from _read_distinct(file, digest, source, form)
        return
    rows_before = 0
    broken_rows: list[str] = []
    try:
        for batch in read_columns(
            file, required_columns, texts=_texts_of(source), broken=broken_rows, form=form
        ):
            yield from _convert_batches(file, batch, rows_before, digest, source)
            rows_before += batch.num_rows
    except pa.ArrowException as error:
        raise InputError(
            f"a column cannot be used as the mapping says: {error}", where=str(file)
        ) from None
    yield from to_batches(
        str(file),
        unread_rows(
            "mapping", digest, broken_rows, rows_before, NO_RECORD if is_json(file) else WRONG_ROW
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
            yield from _convert_batches(file, rows.slice(start, BATCH_ROWS), start, digest, source)


def _convert_batches(
    file: Path, rows: pa.RecordBatch, rows_before: int, digest: str, source: Source
) -> Iterator[Batch]:
    """Convert rows to batches of events; `done` rows precede them in the file."""
    lines = (
        (rows_before + row, encode_event(event))
        for row, event in enumerate(events_of(rows, rows_before, digest, source), 1)
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
        return [encode_event(event) for event in events_of(batch, 0, "sample", source)]
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


ADAPTER = FormatAdapter(read=read_mapping, patterns=PATTERNS)

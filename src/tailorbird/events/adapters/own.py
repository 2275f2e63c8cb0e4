"""Our own format: the wire format in JSON lines, or the same fields as columns of Parquet."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from tailorbird.errors import InputError
from tailorbird.events.adapters.batch import (
    BATCH_ROWS,
    AdapterOptions,
    Batch,
    FormatAdapter,
    to_batches,
)
from tailorbird.events.contract.envelope import Event
from tailorbird.events.tables.files import (
    read_lines,
    read_parquet_batches,
    suffix_without_compression,
)

PATTERNS = ("*.jsonl", "*.ndjson", "*.json", "*.parquet")


def read_own(files: dict[Path, str], options: AdapterOptions) -> Iterator[Batch]:
    """Pass JSON lines on as they are; turn Parquet rows into the same."""
    for file in files:
        if suffix_without_compression(file) == ".parquet":
            yield from _read_parquet(file)
        else:
            yield from to_batches(str(file), read_lines(file))


def _read_parquet(file: Path) -> Iterator[Batch]:
    try:
        source = pq.ParquetFile(file)
        field_names = {field.name for field in msgspec.structs.fields(Event)}
        unknown = [name for name in source.schema_arrow.names if name not in field_names]
        if unknown:
            raise InputError(
                f"columns {', '.join(unknown)} are no fields of an event",
                where=str(file),
                fix="tailorbird import --guess PATH proposes a mapping for files with other "
                "columns",
            )
        rows_before = 0
        for batch in read_parquet_batches(source, file, BATCH_ROWS):
            rows = [
                {name: value for name, value in row.items() if value is not None}
                for row in _times_to_micros(batch).to_pylist()
            ]
            yield Batch(
                str(file),
                [msgspec.json.encode(row) for row in rows],
                list(range(rows_before + 1, rows_before + 1 + len(rows))),
            )
            rows_before += len(rows)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"not a Parquet file that can be read: {error}", where=str(file)) from None


def _times_to_micros(batch: pa.RecordBatch) -> pa.Table:
    """Convert times to microseconds, as the wire format takes them."""
    table = pa.Table.from_batches([batch])
    for index, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type):
            table = table.set_column(
                index,
                field.name,
                table[field.name]
                .cast(pa.timestamp("us", field.type.tz), safe=False)
                .cast(pa.int64()),
            )
    return table


ADAPTER = FormatAdapter(
    read=read_own,
    patterns=PATTERNS,
    is_table=lambda _, columns: {"event_id", "type"} <= set(columns),
    is_record=lambda record: "event_id" in record and "type" in record,
)

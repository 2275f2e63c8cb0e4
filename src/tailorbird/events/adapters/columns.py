"""CSV, TSV and Parquet files in batches of columns. How columns become events stands in `adapters.mapping`.

The type of a CSV column is what its first megabyte says. A later value that does not fit keeps its row: it is passed on as
text, for the contract to judge. Rows of another width than the header or that are no UTF-8, and lines whose quote is not closed, are set
aside, not dropped.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from tailorbird.errors import InputError
from tailorbird.events.adapters.batch import BATCH_ROWS
from tailorbird.events.adapters.files import DAMAGED, bare_suffix, open_table, parquet_batches
from tailorbird.events.adapters.quotes import without_broken_lines

_MOSTLY = b"mostly"


def column_names(file: Path) -> list[str]:
    """The names of a file's columns."""
    return _schema(file).names


def read_columns(
    file: Path, columns: list[str] | None = None, *, texts: frozenset[str] = frozenset(), broken: list[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """A file in batches.

    Args:
        columns: only these.
        texts: columns of a CSV file that are read as they are written, whatever they look like.
        broken: gets the rows of a CSV file that have another width than its header or are no UTF-8, which without it end the reading, and
            the lines whose quote is not closed.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        if bare_suffix(file) == ".parquet":
            yield from parquet_batches(pq.ParquetFile(file), file, BATCH_ROWS, columns)
            return
        schema = _schema(file)
        wanted = columns if columns is not None else schema.names
        for batch in _open_csv(file, wanted, broken):
            for start in range(0, batch.num_rows, BATCH_ROWS):
                yield _typed(batch.slice(start, BATCH_ROWS), schema, texts)
    except DAMAGED as error:
        raise InputError(f"cannot be read: {error}", where=str(file)) from None


def _schema(file: Path) -> pa.Schema:
    try:
        if bare_suffix(file) == ".parquet":
            return pq.ParquetFile(file).schema_arrow
        convert = pacsv.ConvertOptions(strings_can_be_null=True)
        with _csv(file, convert, []) as reader:
            return reader.schema
    except pa.ArrowInvalid as error:
        if "Empty CSV" in str(error):
            raise InputError("no row was found in it", where=str(file)) from None
        raise InputError(f"cannot be read: {error}", where=str(file)) from None
    except DAMAGED as error:
        raise InputError(f"cannot be read: {error}", where=str(file)) from None


def _open_csv(file: Path, columns: list[str], broken: list[str] | None) -> pacsv.CSVStreamingReader:
    types = dict.fromkeys(columns, pa.string())
    return _csv(file, pacsv.ConvertOptions(include_columns=columns, column_types=types, strings_can_be_null=True), broken)


def _csv(file: Path, convert: pacsv.ConvertOptions, broken: list[str] | None) -> pacsv.CSVStreamingReader:
    def set_aside(row: Any) -> str:
        if broken is None:
            return "error"
        broken.append(row.text)
        return "skip"

    delimiter = "\t" if bare_suffix(file) == ".tsv" else ","
    parse = pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=set_aside)
    stream = open_table(file)
    return pacsv.open_csv(
        pa.PythonFile(stream if broken is None else without_broken_lines(stream, delimiter, broken), mode="r"),
        read_options=pacsv.ReadOptions(use_threads=False),  # with threads the handler would not see rows in order
        parse_options=parse,
        convert_options=convert,
    )


def mostly(field: pa.Field) -> str:
    """For a text column whose other batches hold numbers: which type those have; else ""."""
    return (field.metadata or {}).get(_MOSTLY, b"").decode()


def _typed(batch: pa.RecordBatch, schema: pa.Schema, texts: frozenset[str]) -> pa.RecordBatch:
    columns, fields = [], []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        kind = schema.field(name).type
        metadata = None
        if name in texts:
            if pa.types.is_floating(kind):  # whole numbers with gaps, as pandas writes them
                column = pc.replace_substring_regex(column, r"^(\d+)\.0$", r"\1")
        elif not pa.types.is_null(kind):
            try:
                column = column.cast(kind)
            except pa.ArrowInvalid:
                metadata = {_MOSTLY: str(kind)}
        columns.append(column)
        fields.append(pa.field(name, column.type, metadata=metadata))
    return pa.record_batch(columns, schema=pa.schema(fields))

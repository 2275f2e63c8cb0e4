"""Parquet and Feather files, with columns of the types that the package uses.

Writers differ in how they store the same values. Texts of Polars and pandas are views or have large
offsets, categories are dictionaries, DuckDB's sums are decimals. Fields of a struct become columns
of their own (`user.id`), as in JSON files.
"""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tailorbird.errors import InputError
from tailorbird.events.tables.files import (
    BATCH_ROWS,
    READ_ERRORS,
    read_parquet_batches,
    suffix_without_compression,
)

ARROW_SUFFIXES = (".parquet", ".feather", ".arrow")


def is_arrow_file(file: Path) -> bool:
    """Return whether a file's suffix is one of Parquet or Feather."""
    return suffix_without_compression(file) in ARROW_SUFFIXES


def read_arrow_column_names(file: Path) -> list[str]:
    """Return the names of a file's columns.

    Raises:
        InputError: it is no Parquet or Feather file.
    """
    try:
        if suffix_without_compression(file) == ".parquet":
            schema = pq.read_schema(file)
        else:
            with pa.memory_map(str(file)) as source, pa.ipc.open_file(source) as reader:
                schema = reader.schema
    except READ_ERRORS as error:
        raise InputError(
            f"not a {suffix_without_compression(file)[1:]} file that can be read: {error}",
            where=str(file),
        ) from None
    return _unnest(schema.empty_table()).column_names


def read_arrow_batches(file: Path, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a file in batches.

    Args:
        columns: only these.

    Raises:
        InputError: a text is no UTF-8.
    """
    roots = None
    if columns is not None:
        roots = list(dict.fromkeys(root for name in columns for root in _root_names(name, file)))
    batches = (
        read_parquet_batches(pq.ParquetFile(file), file, BATCH_ROWS, roots)
        if suffix_without_compression(file) == ".parquet"
        else _read_feather_batches(file)
    )
    for batch in batches:
        table = _unnest(pa.Table.from_batches([batch]))
        if columns is not None:
            table = table.select(columns)
        schema = pa.schema([field.with_type(_plain_type(field.type)) for field in table.schema])
        yield from table.cast(schema).combine_chunks().to_batches()


def _root_names(name: str, file: Path) -> list[str]:
    """Return the column of the file that holds a column, which may be a field of a struct."""
    names = pq.read_schema(file).names if suffix_without_compression(file) == ".parquet" else []
    if name in names:
        return [name]
    return [root for root in names if name.startswith(f"{root}.")]


def _read_feather_batches(file: Path) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(str(file)) as source, pa.ipc.open_file(source) as reader:
        for index in range(reader.num_record_batches):
            batch = reader.get_batch(index)
            for start in range(0, batch.num_rows, BATCH_ROWS):
                yield batch.slice(start, BATCH_ROWS)


def _unnest(table: pa.Table) -> pa.Table:
    while any(pa.types.is_struct(field.type) for field in table.schema):
        table = table.flatten()
    return table


def _plain_type(type_: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(type_):
        return _plain_type(type_.value_type)
    if pa.types.is_large_string(type_) or pa.types.is_string_view(type_):
        return pa.string()
    if pa.types.is_decimal(type_):
        return pa.int64() if type_.scale == 0 and type_.precision <= 18 else pa.float64()
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        return pa.list_(_plain_type(type_.value_type))
    return type_

"""Reading of CSV, TSV, JSON, Parquet and Feather files in batches of columns.

`adapters.mapping` turns the columns into events.

The first megabyte decides the type of a CSV column. A later value of another type keeps its row: it
is passed on as text, for the contract to judge. Rows of another width than the header, rows that
are not UTF-8 and lines with an unclosed quote are set aside, not dropped.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from tailorbird.errors import InputError
from tailorbird.events.tables.arrow_files import (
    is_arrow_file,
    read_arrow_batches,
    read_arrow_column_names,
)
from tailorbird.events.tables.encodings import open_table
from tailorbird.events.tables.files import BATCH_ROWS, READ_ERRORS
from tailorbird.events.tables.forms import DEFAULT_TABLE_SPEC, TableSpec
from tailorbird.events.tables.quotes import without_broken_lines
from tailorbird.events.tables.records import is_json, read_json_batches, read_json_column_names

SAMPLE_ROWS = 20_000  # rows of a sample, besides the first batch
_PREVAILING_TYPE_KEY = b"mostly"  # in the metadata of a column
_ROWS_PER_LATER_BATCH = 400  # rows that a sample takes of each batch after the first one
_DECIMAL_COMMA_NUMBER = r"^\s*-?(\d{1,3}(\.\d{3})+|\d+)(,\d+)?\s*$"


def read_column_names(file: Path, table_spec: TableSpec = DEFAULT_TABLE_SPEC) -> list[str]:
    """Return the names of a file's columns, and of the tables that are joined to it."""
    if table_spec.joins:
        joined_names = [
            read_column_names(join.file, _without_joins(table_spec)) for join in table_spec.joins
        ]
        return list(
            dict.fromkeys(
                name
                for names in (read_column_names(file, _without_joins(table_spec)), *joined_names)
                for name in names
            )
        )
    if is_arrow_file(file):
        return read_arrow_column_names(file)
    return read_json_column_names(file) if is_json(file) else _read_schema(file, table_spec).names


def read_columns(
    file: Path,
    columns: list[str] | None = None,
    *,
    text_columns: frozenset[str] = frozenset(),
    broken_rows: list[str] | None = None,
    table_spec: TableSpec = DEFAULT_TABLE_SPEC,
) -> Iterator[pa.RecordBatch]:
    """Read a file in batches.

    Args:
        columns: only these.
        text_columns: columns of a CSV file that are read as they are written, whatever they look
            like.
        broken_rows: receives unreadable rows: those of another width than the header or not in
            UTF-8, lines with an unclosed quote, and JSON lines that are no object. Without it they
            raise.
        table_spec: how the values of a CSV file are written.

    Raises:
        InputError: the file cannot be read.
    """
    if table_spec.joins:
        yield from _read_joined(file, columns, text_columns, broken_rows, table_spec)
        return
    try:
        if is_arrow_file(file):
            yield from read_arrow_batches(file, columns)
            return
        if is_json(file):
            yield from read_json_batches(file, columns, text_columns, broken_rows)
            return
        schema = _read_schema(file, table_spec)
        selected_columns = columns if columns is not None else schema.names
        for batch in _open_text_columns(file, selected_columns, broken_rows, table_spec):
            for start in range(0, batch.num_rows, BATCH_ROWS):
                yield _cast_columns(
                    batch.slice(start, BATCH_ROWS), schema, text_columns, table_spec
                )
    except READ_ERRORS as error:
        raise InputError(f"cannot be read: {error}", where=str(file)) from None


def _without_joins(table_spec: TableSpec) -> TableSpec:
    return replace(table_spec, joins=())


def _read_joined(
    file: Path,
    columns: list[str] | None,
    text_columns: frozenset[str],
    broken_rows: list[str] | None,
    table_spec: TableSpec,
) -> Iterator[pa.RecordBatch]:
    """Read a file joined to the last of its tables, and before that to the others."""
    left_spec = replace(table_spec, joins=table_spec.joins[:-1])
    join = table_spec.joins[-1]
    left_names = read_column_names(file, left_spec)
    right_names = [
        name
        for name in read_column_names(join.file, _without_joins(table_spec))
        if name not in left_names
    ]
    selected_columns = columns if columns is not None else [*left_names, *right_names]
    right_selected = [name for name in selected_columns if name in right_names]
    left_selected = [name for name in selected_columns if name not in right_names]
    if not right_selected:
        yield from read_columns(
            file,
            left_selected,
            text_columns=text_columns,
            broken_rows=broken_rows,
            table_spec=left_spec,
        )
        return
    join_text_columns = text_columns | {join.key_column}
    right_batches = list(
        read_columns(
            join.file,
            [join.key_column, *right_selected],
            text_columns=join_text_columns,
            broken_rows=[],
            table_spec=_without_joins(table_spec),
        )
    )
    right_columns = {
        name: _concatenate([batch.column(name) for batch in right_batches])
        for name in (join.key_column, *right_selected)
    }
    right_keys = _to_key_text(right_columns[join.key_column])
    for batch in read_columns(
        file,
        list(dict.fromkeys((*left_selected, join.key_column))),
        text_columns=join_text_columns,
        broken_rows=broken_rows,
        table_spec=left_spec,
    ):
        right_rows = pc.index_in(_to_key_text(batch.column(join.key_column)), value_set=right_keys)
        columns_by_name = {
            name: right_columns[name].take(right_rows)
            if name in right_names
            else batch.column(name)
            for name in selected_columns
        }
        yield pa.record_batch(list(columns_by_name.values()), list(columns_by_name))


def _to_key_text(column: pa.Array) -> pa.Array:
    """Convert keys to text, so that 7 in one file matches 7 in another that also has letters."""
    return _strip_zero_fraction(column.cast(pa.string()))


def _strip_zero_fraction(texts: pa.Array) -> pa.Array:
    """Strip the fraction of whole numbers: 7.0 becomes 7."""
    return pc.replace_substring_regex(texts, r"^(\d+)\.0$", r"\1")


def read_sample(
    file: Path,
    table_spec: TableSpec = DEFAULT_TABLE_SPEC,
    columns: list[str] | None = None,
    *,
    text_columns: frozenset[str] = frozenset(),
) -> pa.RecordBatch:
    """Return the first rows of a file in order, then a deterministic sample of the rest.

    A column with both text and numbers is text.
    """
    rng = np.random.default_rng(7)
    batches: list[pa.RecordBatch] = []
    for batch_index, batch in enumerate(
        read_columns(
            file, columns, text_columns=text_columns, broken_rows=[], table_spec=table_spec
        )
    ):
        if batch_index and batch.num_rows > _ROWS_PER_LATER_BATCH:
            batch = batch.take(
                pa.array(np.sort(rng.choice(batch.num_rows, _ROWS_PER_LATER_BATCH, replace=False)))
            )
        batches.append(batch)
    if not batches:
        return pa.record_batch([], schema=pa.schema([]))
    first_batch = batches[0]
    sampled_batches = batches[1:]
    later_row_count = sum(batch.num_rows for batch in sampled_batches)
    if later_row_count > SAMPLE_ROWS:
        sampled_batches = [
            batch.slice(0, max(1, batch.num_rows * SAMPLE_ROWS // later_row_count))
            for batch in sampled_batches
        ]
    return pa.record_batch(
        [
            _concatenate([batch.column(name) for batch in (first_batch, *sampled_batches)])
            for name in first_batch.schema.names
        ],
        first_batch.schema.names,
    )


def _concatenate(arrays: list[pa.Array]) -> pa.Array:
    types = {array.type for array in arrays}
    if len(types) > 1:
        type_ = (
            pa.float64()
            if all(pa.types.is_integer(type_) or pa.types.is_floating(type_) for type_ in types)
            else pa.string()
        )
        arrays = [array.cast(type_, safe=False) for array in arrays]
    return pa.concat_arrays(arrays)


def _read_schema(file: Path, table_spec: TableSpec) -> pa.Schema:
    try:
        convert_options = pacsv.ConvertOptions(
            strings_can_be_null=True, decimal_point=table_spec.decimal_sign
        )
        with _open_csv(file, convert_options, [], table_spec) as reader:
            if table_spec.decimal_sign == ".":
                return reader.schema
            first_batch = next(iter(reader), None)
            if first_batch is None:
                return reader.schema
        return pa.schema(
            [
                (name, _get_number_type(column))
                for name, column in zip(first_batch.schema.names, first_batch.columns, strict=True)
            ]
        )
    except pa.ArrowInvalid as error:
        if "Empty CSV" in str(error):
            raise InputError("no row was found in it", where=str(file)) from None
        raise InputError(f"cannot be read: {error}", where=str(file)) from None
    except READ_ERRORS as error:
        raise InputError(f"cannot be read: {error}", where=str(file)) from None


def writes_decimal_comma(column: pa.Array) -> bool:
    """Return whether all texts of a column are numbers with a decimal comma."""
    if not pa.types.is_string(column.type) or column.null_count == len(column):
        return False
    texts = column.drop_null()
    return bool(
        pc.all(pc.match_substring_regex(texts, _DECIMAL_COMMA_NUMBER)).as_py()
        and pc.any(pc.match_substring(texts, ",")).as_py()
    )


def _get_number_type(column: pa.Array) -> pa.DataType:
    return pa.float64() if writes_decimal_comma(column) else column.type


def _open_text_columns(
    file: Path, columns: list[str], broken_rows: list[str] | None, table_spec: TableSpec
) -> pacsv.CSVStreamingReader:
    types = dict.fromkeys(columns, pa.string())
    return _open_csv(
        file,
        pacsv.ConvertOptions(include_columns=columns, column_types=types, strings_can_be_null=True),
        broken_rows,
        table_spec,
    )


def _open_csv(
    file: Path,
    convert_options: pacsv.ConvertOptions,
    broken_rows: list[str] | None,
    table_spec: TableSpec,
) -> pacsv.CSVStreamingReader:
    def collect_broken_row(row: Any) -> str:
        if broken_rows is None:
            return "error"
        broken_rows.append(row.text)
        return "skip"

    delimiter = table_spec.get_delimiter(file)
    parse_options = pacsv.ParseOptions(
        delimiter=delimiter, newlines_in_values=True, invalid_row_handler=collect_broken_row
    )
    stream = open_table(file)
    read_options = pacsv.ReadOptions(
        use_threads=False, column_names=list(table_spec.columns)
    )  # With threads the handler would not see rows in order.
    return pacsv.open_csv(
        pa.PythonFile(
            stream if broken_rows is None else without_broken_lines(stream, delimiter, broken_rows),
            mode="r",
        ),
        read_options=read_options,
        parse_options=parse_options,
        convert_options=convert_options,
    )


def prevailing_type(field: pa.Field) -> str:
    """Return the prevailing type of a text column whose other batches hold numbers, else ""."""
    return (field.metadata or {}).get(_PREVAILING_TYPE_KEY, b"").decode()


def _cast_columns(
    batch: pa.RecordBatch, schema: pa.Schema, text_columns: frozenset[str], table_spec: TableSpec
) -> pa.RecordBatch:
    columns = []
    fields = []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        type_ = schema.field(name).type
        metadata = None
        if name in text_columns:
            if pa.types.is_floating(type_):  # whole numbers with gaps, as pandas writes them
                column = _strip_zero_fraction(column)
        elif not pa.types.is_null(type_):
            try:
                column = (
                    with_decimal_point(column)
                    if table_spec.decimal_sign == "," and pa.types.is_floating(type_)
                    else column
                ).cast(type_)
            except pa.ArrowInvalid:
                metadata = {_PREVAILING_TYPE_KEY: str(type_)}
        columns.append(column)
        fields.append(pa.field(name, column.type, metadata=metadata))
    return pa.record_batch(columns, schema=pa.schema(fields))


def with_decimal_point(column: pa.Array) -> pa.Array:
    """Return texts of numbers such as 1.234,50 as 1234.50."""
    return pc.replace_substring(
        pc.replace_substring(pc.utf8_trim_whitespace(column), ".", ""), ",", "."
    )

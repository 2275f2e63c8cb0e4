"""Reading of CSV, TSV, JSON and Parquet files in batches of columns.

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
import pyarrow.parquet as pq

from tailorbird.errors import InputError
from tailorbird.events.tables.encodings import open_table
from tailorbird.events.tables.files import BATCH_ROWS, DAMAGED, bare_suffix, parquet_batches
from tailorbird.events.tables.forms import DEFAULT_FORM, TableForm
from tailorbird.events.tables.quotes import without_broken_lines
from tailorbird.events.tables.records import is_json, json_names, read_json

SAMPLE_ROWS = 20_000
_PREVAILING_TYPE = b"mostly"
_SAMPLED_ROWS = 400  # sampled rows per batch after the first one
_COMMA_NUMBER = r"^\s*-?(\d{1,3}(\.\d{3})+|\d+)(,\d+)?\s*$"


def column_names(file: Path, form: TableForm = DEFAULT_FORM) -> list[str]:
    """Return the names of a file's columns, and of the tables that are joined to it."""
    if form.joins:
        joined_names = [column_names(join.file, _without_joins(form)) for join in form.joins]
        return list(
            dict.fromkeys(
                name
                for names in (column_names(file, _without_joins(form)), *joined_names)
                for name in names
            )
        )
    return json_names(file) if is_json(file) else _read_schema(file, form).names


def read_columns(
    file: Path,
    columns: list[str] | None = None,
    *,
    texts: frozenset[str] = frozenset(),
    broken: list[str] | None = None,
    form: TableForm = DEFAULT_FORM,
) -> Iterator[pa.RecordBatch]:
    """Read a file in batches.

    Args:
        columns: only these.
        texts: columns of a CSV file that are read as they are written, whatever they look like.
        broken: receives unreadable rows: those of another width than the header or not in UTF-8,
            lines with an unclosed quote, and JSON lines that are no object. Without it they raise.
        form: how the values of a CSV file are written.

    Raises:
        InputError: the file cannot be read.
    """
    if form.joins:
        yield from _read_joined(file, columns, texts, broken, form)
        return
    try:
        if bare_suffix(file) == ".parquet":
            yield from parquet_batches(pq.ParquetFile(file), file, BATCH_ROWS, columns)
            return
        if is_json(file):
            yield from read_json(file, columns, texts, broken)
            return
        schema = _read_schema(file, form)
        selected = columns if columns is not None else schema.names
        for batch in _open_text_columns(file, selected, broken, form):
            for start in range(0, batch.num_rows, BATCH_ROWS):
                yield _cast_columns(batch.slice(start, BATCH_ROWS), schema, texts, form)
    except DAMAGED as error:
        raise InputError(f"cannot be read: {error}", where=str(file)) from None


def _without_joins(form: TableForm) -> TableForm:
    return replace(form, joins=())


def _read_joined(
    file: Path,
    columns: list[str] | None,
    texts: frozenset[str],
    broken: list[str] | None,
    form: TableForm,
) -> Iterator[pa.RecordBatch]:
    """Read a file joined to the last of its tables, and before that to the others."""
    form_before, join = replace(form, joins=form.joins[:-1]), form.joins[-1]
    left_names = column_names(file, form_before)
    right_names = [
        name for name in column_names(join.file, _without_joins(form)) if name not in left_names
    ]
    selected = columns if columns is not None else [*left_names, *right_names]
    right_selected = [name for name in selected if name in right_names]
    left_selected = [name for name in selected if name not in right_names]
    if not right_selected:
        yield from read_columns(file, left_selected, texts=texts, broken=broken, form=form_before)
        return
    text_columns = texts | {join.on}
    right_batches = list(
        read_columns(
            join.file,
            [join.on, *right_selected],
            texts=text_columns,
            broken=[],
            form=_without_joins(form),
        )
    )
    right_columns = {
        name: _concatenate([batch.column(name) for batch in right_batches])
        for name in (join.on, *right_selected)
    }
    keys = _as_key(right_columns[join.on])
    for batch in read_columns(
        file,
        list(dict.fromkeys((*left_selected, join.on))),
        texts=text_columns,
        broken=broken,
        form=form_before,
    ):
        rows = pc.index_in(_as_key(batch.column(join.on)), value_set=keys)
        columns_by_name = {
            name: right_columns[name].take(rows) if name in right_names else batch.column(name)
            for name in selected
        }
        yield pa.record_batch(list(columns_by_name.values()), list(columns_by_name))


def _as_key(column: pa.Array) -> pa.Array:
    """Convert keys to text, so that 7 in one file matches 7 in another that also has letters."""
    return _strip_zero_fraction(column.cast(pa.string()))


def _strip_zero_fraction(texts: pa.Array) -> pa.Array:
    """Strip the fraction of whole numbers: 7.0 becomes 7."""
    return pc.replace_substring_regex(texts, r"^(\d+)\.0$", r"\1")


def read_sample(
    file: Path,
    form: TableForm = DEFAULT_FORM,
    columns: list[str] | None = None,
    *,
    texts: frozenset[str] = frozenset(),
) -> pa.RecordBatch:
    """Return the first rows of a file in order, then a deterministic sample of the rest.

    A column with both text and numbers is text.
    """
    rng = np.random.default_rng(7)
    batches: list[pa.RecordBatch] = []
    for number, batch in enumerate(read_columns(file, columns, texts=texts, broken=[], form=form)):
        if number and batch.num_rows > _SAMPLED_ROWS:
            batch = batch.take(
                pa.array(np.sort(rng.choice(batch.num_rows, _SAMPLED_ROWS, replace=False)))
            )
        batches.append(batch)
    if not batches:
        return pa.record_batch([], schema=pa.schema([]))
    head, sampled_batches = batches[0], batches[1:]
    drawn_rows = sum(batch.num_rows for batch in sampled_batches)
    if drawn_rows > SAMPLE_ROWS:
        sampled_batches = [
            batch.slice(0, max(1, batch.num_rows * SAMPLE_ROWS // drawn_rows))
            for batch in sampled_batches
        ]
    return pa.record_batch(
        [
            _concatenate([batch.column(name) for batch in (head, *sampled_batches)])
            for name in head.schema.names
        ],
        head.schema.names,
    )


def _concatenate(parts: list[pa.Array]) -> pa.Array:
    kinds = {part.type for part in parts}
    if len(kinds) > 1:
        kind = (
            pa.float64()
            if all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in kinds)
            else pa.string()
        )
        parts = [part.cast(kind, safe=False) for part in parts]
    return pa.concat_arrays(parts)


def _read_schema(file: Path, form: TableForm) -> pa.Schema:
    try:
        if bare_suffix(file) == ".parquet":
            return pq.ParquetFile(file).schema_arrow
        convert = pacsv.ConvertOptions(strings_can_be_null=True, decimal_point=form.decimal)
        with _open_csv(file, convert, [], form) as reader:
            if form.decimal == ".":
                return reader.schema
            first_batch = next(iter(reader), None)
            if first_batch is None:
                return reader.schema
        return pa.schema(
            [
                (name, _comma_type(column))
                for name, column in zip(first_batch.schema.names, first_batch.columns, strict=True)
            ]
        )
    except pa.ArrowInvalid as error:
        if "Empty CSV" in str(error):
            raise InputError("no row was found in it", where=str(file)) from None
        raise InputError(f"cannot be read: {error}", where=str(file)) from None
    except DAMAGED as error:
        raise InputError(f"cannot be read: {error}", where=str(file)) from None


def writes_decimal_comma(column: pa.Array) -> bool:
    """Return whether all texts of a column are numbers with a decimal comma."""
    if not pa.types.is_string(column.type) or column.null_count == len(column):
        return False
    texts = column.drop_null()
    return bool(
        pc.all(pc.match_substring_regex(texts, _COMMA_NUMBER)).as_py()
        and pc.any(pc.match_substring(texts, ",")).as_py()
    )


def _comma_type(column: pa.Array) -> pa.DataType:
    return pa.float64() if writes_decimal_comma(column) else column.type


def _open_text_columns(
    file: Path, columns: list[str], broken: list[str] | None, form: TableForm
) -> pacsv.CSVStreamingReader:
    types = dict.fromkeys(columns, pa.string())
    return _open_csv(
        file,
        pacsv.ConvertOptions(include_columns=columns, column_types=types, strings_can_be_null=True),
        broken,
        form,
    )


def _open_csv(
    file: Path, convert: pacsv.ConvertOptions, broken: list[str] | None, form: TableForm
) -> pacsv.CSVStreamingReader:
    def set_aside(row: Any) -> str:
        if broken is None:
            return "error"
        broken.append(row.text)
        return "skip"

    delimiter = form.delimiter_of(file)
    parse = pacsv.ParseOptions(
        delimiter=delimiter, newlines_in_values=True, invalid_row_handler=set_aside
    )
    stream = open_table(file)
    read = pacsv.ReadOptions(
        use_threads=False, column_names=list(form.columns)
    )  # With threads the handler would not see rows in order.
    return pacsv.open_csv(
        pa.PythonFile(
            stream if broken is None else without_broken_lines(stream, delimiter, broken), mode="r"
        ),
        read_options=read,
        parse_options=parse,
        convert_options=convert,
    )


def prevailing_type(field: pa.Field) -> str:
    """Return the prevailing type of a text column whose other batches hold numbers, else ""."""
    return (field.metadata or {}).get(_PREVAILING_TYPE, b"").decode()


def _cast_columns(
    batch: pa.RecordBatch, schema: pa.Schema, texts: frozenset[str], form: TableForm
) -> pa.RecordBatch:
    columns, fields = [], []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        kind = schema.field(name).type
        metadata = None
        if name in texts:
            if pa.types.is_floating(kind):  # whole numbers with gaps, as pandas writes them
                column = _strip_zero_fraction(column)
        elif not pa.types.is_null(kind):
            try:
                column = (
                    with_decimal_point(column)
                    if form.decimal == "," and pa.types.is_floating(kind)
                    else column
                ).cast(kind)
            except pa.ArrowInvalid:
                metadata = {_PREVAILING_TYPE: str(kind)}
        columns.append(column)
        fields.append(pa.field(name, column.type, metadata=metadata))
    return pa.record_batch(columns, schema=pa.schema(fields))


def with_decimal_point(column: pa.Array) -> pa.Array:
    """Return texts of numbers such as 1.234,50 as 1234.50."""
    return pc.replace_substring(
        pc.replace_substring(pc.utf8_trim_whitespace(column), ".", ""), ",", "."
    )

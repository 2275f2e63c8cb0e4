"""Inspection of a table: delimiter, header, decimals, encoding and the format of its times."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from tailorbird.errors import InputError
from tailorbird.events.guess.names import INDEX_NAMES
from tailorbird.events.guess.quoting import toml_string
from tailorbird.events.guess.values import AskError, ColumnGuess, MappingHints
from tailorbird.events.tables.columns import read_columns, read_sample, writes_decimal_comma
from tailorbird.events.tables.encodings import detect_encoding
from tailorbird.events.tables.files import suffix_without_compression
from tailorbird.events.tables.forms import (
    DEFAULT_TABLE_SPEC,
    TableSpec,
    has_header,
    read_first_row,
    sniff_delimiter,
)
from tailorbird.events.tables.times import detect_time_formats, parse_times


class Inspection(NamedTuple):
    """How a file is written, rows sampled from it, and notes on what was decided."""

    table_spec: TableSpec
    sample: pa.RecordBatch
    notes: list[ColumnGuess]


def inspect_table(file: Path, hints: MappingHints) -> Inspection:
    """Inspect a file."""
    notes: list[ColumnGuess] = []
    table_spec = DEFAULT_TABLE_SPEC
    if suffix_without_compression(file) in (".csv", ".tsv", ".txt", ".dat"):
        if (encoding := detect_encoding(file)) != "utf-8":
            notes.append(ColumnGuess("", "text", f"its encoding is {encoding}"))
        table_spec = TableSpec(sniff_delimiter(file), columns=hints.columns)
        if not hints.columns and not has_header(file, table_spec):
            table_spec = replace(table_spec, columns=_name_columns(file, table_spec))
            why = "its first line is no header; to name them: --columns user_id,timestamp,item_id"
            notes.append(ColumnGuess("", f"columns {', '.join(table_spec.columns)}", why))
    sample = read_sample(file, table_spec)
    if table_spec is not DEFAULT_TABLE_SPEC and any(map(writes_decimal_comma, sample.columns)):
        table_spec = replace(table_spec, decimal_sign=",")
        sample = read_sample(file, table_spec)
    if table_spec.delimiter:
        notes.append(
            ColumnGuess(
                "", f"delimiter = {toml_string(table_spec.delimiter)}", "its first lines have it"
            )
        )
    if table_spec.decimal_sign == ",":
        notes.append(
            ColumnGuess(
                "", 'decimal = ","', "all numbers of a column have one, or points between thousands"
            )
        )
    if sample.num_rows == 0:
        raise InputError("holds no row", where=str(file))
    for name in sample.schema.names:
        if name.lower() in INDEX_NAMES and _is_row_number(sample.column(name)):
            notes.append(
                ColumnGuess(name, "", "left out: it numbers the rows, as pandas' index does")
            )
    return Inspection(table_spec, sample, notes)


def _name_columns(file: Path, table_spec: TableSpec) -> tuple[str, ...]:
    """Return names for columns without a header: those in the name of the file, or c1, c2, …."""
    count = len(read_first_row(file, table_spec))
    words = tuple(file.name.partition(".")[0].split("-"))
    if count > 1 and len(set(words)) == len(words) == count:
        return words
    return tuple(f"c{number}" for number in range(1, count + 1))


def _is_row_number(column: pa.Array) -> bool:
    first_values = column.slice(0, 1_000)
    if not pa.types.is_integer(first_values.type) or first_values.null_count:
        return False
    first_value = first_values[0].as_py()
    return first_value in (0, 1) and first_values.to_pylist() == list(
        range(first_value, first_value + len(first_values))
    )


def choose_ts_format(
    file: Path,
    table_spec: TableSpec,
    sample: pa.RecordBatch,
    roles: dict[str, str],
    hints: MappingHints,
) -> str:
    """Return the format of a file's times; "" for ISO 8601 and numbers."""
    if "ts" not in roles or not pa.types.is_string(sample.column(roles["ts"]).type):
        return ""
    time_formats = detect_time_formats(sample.column(roles["ts"]))
    if hints.ts_format and (time_formats is None or "" not in time_formats.formats):
        return hints.ts_format
    if time_formats is None:
        return ""
    if len(time_formats.formats) == 1:
        return time_formats.formats[0]
    fit_count_by_format = dict.fromkeys(time_formats.formats, 0)
    for batch in read_columns(
        file,
        [roles["ts"]],
        text_columns=frozenset([roles["ts"]]),
        broken_rows=[],
        table_spec=table_spec,
    ):
        for time_format in fit_count_by_format:
            times = parse_times(batch.column(0), time_format, "UTC")
            fit_count_by_format[time_format] += len(times) - times.null_count
    best_formats = [
        candidate
        for candidate, count in fit_count_by_format.items()
        if count == max(fit_count_by_format.values())
    ]
    if len(best_formats) == 1:
        return best_formats[0]
    raise AskError(
        f'day and month of {roles["ts"]} cannot be told apart, as in "{time_formats.example}"',
        where=str(file),
        fix="say which comes first: --ts-format "
        f"{' or --ts-format '.join(toml_string(candidate) for candidate in best_formats)}",
        choices=tuple(best_formats),
    )

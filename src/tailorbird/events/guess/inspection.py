"""Inspection of a table: delimiter, header, decimals, encoding and the format of its times."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from tailorbird.errors import InputError
from tailorbird.events.guess.names import INDEXES
from tailorbird.events.guess.quoting import toml_string
from tailorbird.events.guess.values import AskError, ColumnGuess, MappingHints
from tailorbird.events.tables.columns import read_columns, read_sample, writes_decimal_comma
from tailorbird.events.tables.encodings import encoding_of
from tailorbird.events.tables.files import bare_suffix
from tailorbird.events.tables.forms import (
    DEFAULT_FORM,
    TableForm,
    first_row,
    has_header,
    sniff_delimiter,
)
from tailorbird.events.tables.times import detect_time_forms, parse_times

Inspection = tuple[TableForm, pa.RecordBatch, list[ColumnGuess]]


def inspect_table(file: Path, hints: MappingHints) -> Inspection:
    """Inspect a file: return its form, sample rows, and notes on what was decided."""
    notes: list[ColumnGuess] = []
    form = DEFAULT_FORM
    if bare_suffix(file) in (".csv", ".tsv", ".txt"):
        if (encoding := encoding_of(file)) != "utf-8":
            notes.append(ColumnGuess("", "text", f"its encoding is {encoding}"))
        form = TableForm(sniff_delimiter(file), columns=hints.columns)
        if not hints.columns and not has_header(file, form):
            example = ", ".join(first_row(file, form)[:8])
            fix = "name its columns in their order, such as: --columns user_id,timestamp,item_id"
            raise InputError(f"its first line is no header: {example}", where=str(file), fix=fix)
    sample = read_sample(file, form)
    if form is not DEFAULT_FORM and any(map(writes_decimal_comma, sample.columns)):
        form = replace(form, decimal=",")
        sample = read_sample(file, form)
    if form.delimiter:
        notes.append(
            ColumnGuess("", f"delimiter = {toml_string(form.delimiter)}", "its first lines have it")
        )
    if form.decimal == ",":
        notes.append(
            ColumnGuess(
                "", 'decimal = ","', "all numbers of a column have one, or points between thousands"
            )
        )
    if sample.num_rows == 0:
        raise InputError("holds no row", where=str(file))
    for name in sample.schema.names:
        if name.lower() in INDEXES and _counts_rows(sample.column(name)):
            notes.append(
                ColumnGuess(name, "", "left out: it numbers the rows, as pandas' index does")
            )
    return form, sample, notes


def _counts_rows(column: pa.Array) -> bool:
    head = column.slice(0, 1_000)
    if not pa.types.is_integer(head.type) or head.null_count:
        return False
    first_value = head[0].as_py()
    return first_value in (0, 1) and head.to_pylist() == list(
        range(first_value, first_value + len(head))
    )


def ts_format_of(
    file: Path, form: TableForm, sample: pa.RecordBatch, roles: dict[str, str], hints: MappingHints
) -> str:
    """Return the format of a file's times; "" for ISO 8601 and numbers."""
    if "ts" not in roles or not pa.types.is_string(sample.column(roles["ts"]).type):
        return ""
    time_forms = detect_time_forms(sample.column(roles["ts"]))
    if hints.ts_format and (time_forms is None or "" not in time_forms.forms):
        return hints.ts_format
    if time_forms is None:
        return ""
    if len(time_forms.forms) == 1:
        return time_forms.forms[0]
    fit_counts = dict.fromkeys(time_forms.forms, 0)
    for batch in read_columns(
        file, [roles["ts"]], texts=frozenset([roles["ts"]]), broken=[], form=form
    ):
        for time_form in fit_counts:
            times = parse_times(batch.column(0), time_form, "UTC")
            fit_counts[time_form] += len(times) - times.null_count
    best_forms = [
        candidate for candidate, count in fit_counts.items() if count == max(fit_counts.values())
    ]
    if len(best_forms) == 1:
        return best_forms[0]
    raise AskError(
        f'day and month of {roles["ts"]} cannot be told apart, as in "{time_forms.example}"',
        where=str(file),
        fix="say which comes first: --ts-format "
        f"{' or --ts-format '.join(toml_string(candidate) for candidate in best_forms)}",
        choices=tuple(best_forms),
    )

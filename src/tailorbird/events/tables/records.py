"""JSON files as tables: one document per line, or a list of them.

Nested objects become columns (`user.id`), a list of objects becomes rows.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from tailorbird.events.contract.codes import DECODE_ERRORS
from tailorbird.events.tables.files import BATCH_ROWS, read_records, suffix_without_compression

JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
_SNIFF_RECORDS = 2_000  # number of records that determine the columns
_NESTING_MAX = 4
_decode = msgspec.json.Decoder().decode

Row = dict[str, Any]


def is_json(file: Path) -> bool:
    """Return whether a file's suffix is one of JSON."""
    return suffix_without_compression(file) in JSON_SUFFIXES


def read_json_column_names(file: Path) -> list[str]:
    """Return the names of the columns of a JSON file, by its first records."""
    names: dict[str, None] = {}
    for row in islice(_read_rows(file, None), _SNIFF_RECORDS):
        names |= dict.fromkeys(row)
    return list(names)


def read_json_batches(
    file: Path,
    columns: list[str] | None,
    text_columns: frozenset[str],
    broken_rows: list[str] | None,
) -> Iterator[pa.RecordBatch]:
    """Read a JSON file in batches.

    Args:
        columns: only these.
        text_columns: columns whose values become text, whatever they are.
        broken_rows: gets the lines that are no JSON object.

    Raises:
        InputError: a list is too large, or the compression is damaged.
    """
    selected = columns if columns is not None else read_json_column_names(file)
    rows = _read_rows(file, broken_rows)
    while batch := list(islice(rows, BATCH_ROWS)):
        yield pa.record_batch(
            [
                _to_column([row.get(name) for row in batch], is_text=name in text_columns)
                for name in selected
            ],
            selected,
        )


def _read_rows(file: Path, broken_rows: list[str] | None) -> Iterator[Row]:
    for _, raw in read_records(file):
        try:
            record = _decode(raw)
        except DECODE_ERRORS:
            record = None
        if isinstance(record, dict):
            yield from _unnest(record)
        elif broken_rows is not None:
            broken_rows.append(raw.decode(errors="backslashreplace"))


def _unnest(record: Row) -> Iterator[Row]:
    """Yield a record as one row, or as one row per object of its longest list of objects."""
    row: Row = {}
    objects_by_list: dict[str, list[Row]] = {}
    _flatten(record, "", row, objects_by_list, 0)
    longest_list = max(objects_by_list, key=lambda field: len(objects_by_list[field]), default="")
    if not longest_list:
        yield row
        return
    for element in objects_by_list[longest_list]:
        element_row: Row = {}
        _flatten(element, f"{longest_list}.", element_row, {}, 0)
        yield row | element_row


def _flatten(
    record: Row, prefix: str, row: Row, objects_by_list: dict[str, list[Row]], depth: int
) -> None:
    for key, value in record.items():
        name = prefix + key
        if isinstance(value, dict) and depth < _NESTING_MAX:
            _flatten(value, f"{name}.", row, objects_by_list, depth + 1)
        elif (
            isinstance(value, list)
            and value
            and all(isinstance(element, dict) for element in value)
        ):
            objects_by_list[name] = value
        else:
            row[name] = value


def _to_column(values: list[Any], *, is_text: bool) -> pa.Array:
    """Return values as an array of their common type, or as text."""
    common_type = None if is_text else _find_common_type(values)
    if common_type is not None:
        try:
            return pa.array(values, common_type)
        except (OverflowError, pa.ArrowInvalid):  # a number beyond 64 bits
            pass
    return pa.array(
        [value if value is None or isinstance(value, str) else _to_text(value) for value in values],
        pa.string(),
    )


def _find_common_type(values: list[Any]) -> pa.DataType | None:
    """Return the common type of values, or None for text."""
    value_types = {type(value) for value in values if value is not None}
    if not value_types:
        return pa.null()
    if value_types <= {int, float}:
        return pa.float64() if float in value_types else pa.int64()
    if value_types == {bool}:
        return pa.bool_()
    if value_types == {list} and all(
        isinstance(element, str) for value in values if value for element in value
    ):
        return pa.list_(pa.string())
    return None


def _to_text(value: Any) -> str:
    """Encode a value as text; a whole number loses its fraction."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return msgspec.json.encode(value).decode()

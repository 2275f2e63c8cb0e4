"""JSON files as tables: one document per line, or a list of them.

Nested objects become columns (`user.id`), a list of objects becomes rows.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from tailorbird.events.tables.files import BATCH_ROWS, bare_suffix, read_records

SUFFIXES = (".json", ".jsonl", ".ndjson")
_SNIFF_RECORDS = 2_000  # number of records that determine the columns
_DEPTH = 4
_decode = msgspec.json.Decoder().decode

Row = dict[str, Any]


def is_json(file: Path) -> bool:
    """Return whether a file's suffix is one of JSON."""
    return bare_suffix(file) in SUFFIXES


def json_names(file: Path) -> list[str]:
    """Return the names of the columns of a JSON file, by its first records."""
    names: dict[str, None] = {}
    for row in islice(_read_rows(file, None), _SNIFF_RECORDS):
        names |= dict.fromkeys(row)
    return list(names)


def read_json(
    file: Path, columns: list[str] | None, texts: frozenset[str], broken: list[str] | None
) -> Iterator[pa.RecordBatch]:
    """Read a JSON file in batches.

    Args:
        columns: only these.
        texts: columns whose values become text, whatever they are.
        broken: gets the lines that are no JSON object.

    Raises:
        InputError: a list is too large, or the compression is damaged.
    """
    selected = columns if columns is not None else json_names(file)
    rows = _read_rows(file, broken)
    while batch := list(islice(rows, BATCH_ROWS)):
        yield pa.record_batch(
            [
                _to_column([row.get(name) for row in batch], as_text=name in texts)
                for name in selected
            ],
            selected,
        )


def _read_rows(file: Path, broken: list[str] | None) -> Iterator[Row]:
    for _, raw in read_records(file):
        try:
            record = _decode(raw)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            record = None
        if isinstance(record, dict):
            yield from _unnest(record)
        elif broken is not None:
            broken.append(raw.decode(errors="backslashreplace"))


def _unnest(record: Row) -> Iterator[Row]:
    """Yield a record as one row, or as one row per object of its longest list of objects."""
    row: Row = {}
    lists: dict[str, list[Row]] = {}
    _flatten(record, "", row, lists, 0)
    name = max(lists, key=lambda field: len(lists[field]), default="")
    if not name:
        yield row
        return
    for element in lists[name]:
        inner: Row = {}
        _flatten(element, f"{name}.", inner, {}, 0)
        yield row | inner


def _flatten(record: Row, prefix: str, row: Row, lists: dict[str, list[Row]], depth: int) -> None:
    for key, value in record.items():
        name = prefix + key
        if isinstance(value, dict) and depth < _DEPTH:
            _flatten(value, f"{name}.", row, lists, depth + 1)
        elif (
            isinstance(value, list)
            and value
            and all(isinstance(element, dict) for element in value)
        ):
            lists[name] = value
        else:
            row[name] = value


def _to_column(values: list[Any], *, as_text: bool) -> pa.Array:
    """Return values as an array of their common type, or as text."""
    kind = None if as_text else _type_of(values)
    if kind is not None:
        try:
            return pa.array(values, kind)
        except (OverflowError, pa.ArrowInvalid):  # a number beyond 64 bits
            pass
    return pa.array(
        [value if value is None or isinstance(value, str) else _to_text(value) for value in values],
        pa.string(),
    )


def _type_of(values: list[Any]) -> pa.DataType | None:
    """Return the common type of values, or None for text."""
    kinds = {type(value) for value in values if value is not None}
    if not kinds:
        return pa.null()
    if kinds <= {int, float}:
        return pa.float64() if float in kinds else pa.int64()
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {list} and all(
        isinstance(element, str) for value in values if value for element in value
    ):
        return pa.list_(pa.string())
    return None


def _to_text(value: Any) -> str:
    """Encode a value as text; a whole number loses its fraction."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return msgspec.json.encode(value).decode()

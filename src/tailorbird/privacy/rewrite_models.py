"""What models hold of people beside weights: texts of items in their indexes.

An item's seller, or a text that names somebody, stands in `items.arrow`, and in the index of words
in a form that no search through bytes finds. Both are written again without mentions; weights and
vectors stay.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from tailorbird import faults
from tailorbird.lake.files import durable
from tailorbird.privacy.mentions import Mentions
from tailorbird.retrieval.columns import Column, TextColumn, build_text_column, from_arrow, to_arrow
from tailorbird.retrieval.documents import build_documents
from tailorbird.retrieval.text import write_text_index

_ITEMS_FILE = "items.arrow"
_TEXT_FOLDER = "text"
_ATTRIBUTE_PREFIX = "a:"


def has_mentions(version_folder: Path, mentions: Mentions) -> bool:
    """Return whether an index of a version mentions somebody."""
    tables = map(_read_table, _find_indexes(version_folder))
    return any(
        _without_mentioned(name, column, mentions) is not column
        for table in tables
        for name, column in _attribute_columns(table)
    )


def remove_mentions(version_folder: Path, mentions: Mentions) -> None:
    """Remove mentions from the indexes of a version, also where that was cut off before."""
    for index_folder in _find_indexes(version_folder):
        table = _read_table(index_folder)
        new_columns = {
            name: _without_mentioned(name, column, mentions)
            for name, column in _attribute_columns(table)
        }
        kept_columns = {name: column for name, column in new_columns.items() if column is not None}
        arrays = {
            name: table[name]
            for name in table.column_names
            if not name.startswith(_ATTRIBUTE_PREFIX)
        }
        arrays |= {
            f"{_ATTRIBUTE_PREFIX}{name}": to_arrow(column) for name, column in kept_columns.items()
        }
        fields = [
            table.schema.field(name).with_type(column.type) for name, column in arrays.items()
        ]  # with their metadata, which marks booleans
        buffer = pa.BufferOutputStream()
        with pa.ipc.new_file(buffer, pa.schema(fields)) as writer:
            writer.write_table(pa.table(arrays, schema=pa.schema(fields)))
        durable.replace(index_folder / _ITEMS_FILE, buffer.getvalue().to_pybytes())
        faults.fire_if_armed("erase.model_items")
        shutil.rmtree(index_folder / _TEXT_FOLDER, ignore_errors=True)
        write_text_index(
            index_folder / _TEXT_FOLDER, build_documents(kept_columns, np.arange(table.num_rows))
        )
        for path in (index_folder / _TEXT_FOLDER).iterdir():
            durable.sync_file(path)
        durable.sync_folder(index_folder / _TEXT_FOLDER)
        durable.sync_folder(index_folder)


def _find_indexes(version_folder: Path) -> Iterator[Path]:
    return (path.parent for path in sorted(version_folder.rglob(_ITEMS_FILE)))


def _read_table(index_folder: Path) -> pa.Table:
    return pa.ipc.open_file(pa.BufferReader((index_folder / _ITEMS_FILE).read_bytes())).read_all()


def _attribute_columns(table: pa.Table) -> Iterator[tuple[str, Column]]:
    names = [name for name in table.column_names if name.startswith(_ATTRIBUTE_PREFIX)]
    return ((name.removeprefix(_ATTRIBUTE_PREFIX), from_arrow(table[name])) for name in names)


def _without_mentioned(name: str, column: Column, mentions: Mentions) -> Column | None:
    """Return the column without mentions, itself where it has none; None where its name is one."""
    if mentions.redact({name: 0}) == {}:
        return None
    if not isinstance(column, TextColumn):
        whole_numbers = [value for value in np.unique(column).tolist() if value.is_integer()]
        erased_values = [
            whole_number
            for whole_number in whole_numbers
            if mentions.redact({name: int(whole_number)}) != {name: int(whole_number)}
        ]
        return np.where(np.isin(column, erased_values), np.nan, column) if erased_values else column
    new_texts = [_text_without(value, mentions) for value in column.values]
    if new_texts == list(column.values):
        return column
    return build_text_column(
        new_texts[code] if code >= 0 else None for code in column.codes.tolist()
    )


def _text_without(text: str, mentions: Mentions) -> str:
    """Return a text without mentions; of a list, joined by `|`, the other texts."""
    remaining_text = "|".join(part for part in text.split("|") if not mentions.in_text(part))
    return "" if mentions.in_text(remaining_text) else remaining_text  # an id may hold a `|` itself

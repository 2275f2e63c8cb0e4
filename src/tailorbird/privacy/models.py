"""What models hold of people beside weights: the texts of items, as their indexes keep them for
rules, facets and search.

An item's seller, or a text that names somebody, stands in `items.arrow` as it is, and in the index
of words so that no search through bytes finds it. Both are made anew without what mentions them, in
every version; weights and vectors stay as they are.
"""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from tailorbird import faults
from tailorbird.lake import durable
from tailorbird.privacy.mention import Mentions
from tailorbird.retrieval.columns import Column, TextColumn, from_arrow, text_column, to_arrow
from tailorbird.retrieval.text import documents_of, write_text_index

_ITEMS, _TEXT, _OF_ITEMS = "items.arrow", "text", "a:"


def mentions_any(version: Path, mentions: Mentions) -> bool:
    """Whether an index of a version says something of somebody."""
    tables = map(_table, _indexes(version))
    return any(
        _unsaid(name, column, mentions) is not column
        for table in tables
        for name, column in _attributes(table)
    )


def unsay(version: Path, mentions: Mentions) -> None:
    """Take what is said of somebody out of the indexes of a version; also where that was cut short
    before.
    """
    for index in _indexes(version):
        table = _table(index)
        found = {name: _unsaid(name, column, mentions) for name, column in _attributes(table)}
        kept = {name: column for name, column in found.items() if column is not None}
        arrays = {
            name: table[name] for name in table.column_names if not name.startswith(_OF_ITEMS)
        }
        arrays |= {f"{_OF_ITEMS}{name}": to_arrow(column) for name, column in kept.items()}
        fields = [
            table.schema.field(name).with_type(column.type) for name, column in arrays.items()
        ]  # with what is marked at them
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, pa.schema(fields)) as writer:
            writer.write_table(pa.table(arrays, schema=pa.schema(fields)))
        durable.replace(index / _ITEMS, sink.getvalue().to_pybytes())
        faults.at("erase.model_items")
        shutil.rmtree(index / _TEXT, ignore_errors=True)
        write_text_index(index / _TEXT, documents_of(kept, np.arange(table.num_rows)))
        for path in (index / _TEXT).iterdir():
            durable.sync_file(path)
        durable.sync_folder(index / _TEXT)
        durable.sync_folder(index)


def _indexes(version: Path) -> Iterator[Path]:
    return (path.parent for path in sorted(version.rglob(_ITEMS)))


def _table(index: Path) -> pa.Table:
    return pa.ipc.open_file(pa.BufferReader((index / _ITEMS).read_bytes())).read_all()


def _attributes(table: pa.Table) -> Iterator[tuple[str, Column]]:
    names = [name for name in table.column_names if name.startswith(_OF_ITEMS)]
    return ((name.removeprefix(_OF_ITEMS), from_arrow(table[name])) for name in names)


def _unsaid(name: str, column: Column, mentions: Mentions) -> Column | None:
    """The column without what it says of somebody, itself where that is nothing; None where its
    name does.
    """
    if mentions.without({name: 0}) == {}:
        return None
    if not isinstance(column, TextColumn):
        whole = [
            value for value in np.unique(column[np.isfinite(column)]).tolist() if value.is_integer()
        ]
        gone = [value for value in whole if mentions.without(int(value), name) is None]
        return np.where(np.isin(column, gone), np.nan, column) if gone else column
    new = _texts_without(column.values, mentions)
    if not new:
        return column
    values = [new.get(value, value) for value in column.values]
    return text_column(values[code] if code >= 0 else None for code in column.codes.tolist())


def _texts_without(texts: Sequence[str], mentions: Mentions) -> dict[str, str]:
    """Those that say something, and what is left of them: of a list, joined by `|`, the others of
    its texts.
    """
    parts = sorted({part for text in texts for part in text.split("|")})
    said = set(_said(parts, mentions))
    new = {
        text: "|".join(part for part in text.split("|") if part not in said)
        for text in texts
        if not said.isdisjoint(text.split("|"))
    }
    left = [new.get(text, text) for text in texts]
    whole = set(_said(left, mentions))  # an id may hold a `|` itself
    return new | {text: "" for text, one in zip(texts, left, strict=True) if one in whole}


def _said(texts: Sequence[str], mentions: Mentions) -> Iterator[str]:
    found = mentions.in_column(pa.chunked_array([pa.array(texts, pa.string())])) if texts else ()
    return (text for text, one in zip(texts, found, strict=True) if one)

"""Building an index from the items and events of the lake, as columns. What it holds stands in
`retrieval.index`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.candidates.contract import INTERESTS
from tailorbird.errors import InputError
from tailorbird.events.keys import hash64s
from tailorbird.events.schema import micros
from tailorbird.retrieval.clusters import find_clusters
from tailorbird.retrieval.columns import Column, columns_of, to_arrow, truths_in
from tailorbird.retrieval.index import FORMAT, TRUTH, Meta
from tailorbird.retrieval.meaning import MeaningSettings, texts_to_encode, write_meaning
from tailorbird.retrieval.text import documents_of, write_text_index

_NUMPY = npt.NDArray[np.int64]


def build_index(
    folder: Path,
    events: pa.Table,
    items: pa.Table,
    *,
    as_of: int,
    event_types: Sequence[str] = INTERESTS,
    until: int | None = None,
    texts: bool = True,
    meaning: MeaningSettings | None = None,
) -> None:
    """Build an index in a new folder from what was known before `as_of`.

    Args:
        folder: made here.
        events: with at least `type, ts, item_id`; `agent` and `counts` are heeded if there. Any
            order.
        items: `id, valid_from, attributes` (JSON) and, if there, `timeless` and `p`: of each item
            the newest version counts.
        as_of: later events and versions are left out.
        event_types: which events show that there is an item.
        until: items that came until then are there too, as they were when they came.
        texts: whether it can be searched.
        meaning: how it gets text vectors; None searches by words alone.
    """
    until = as_of if until is None else until
    seen = _interests(events, until, event_types)
    profiles, valid_from = _profiles(items, as_of, until)
    ids = sorted(set(profiles) | set(pc.unique(seen["item_id"]).to_pylist()))
    keys = hash64s(ids)
    order = np.argsort(keys, kind="stable")
    keys, ids = keys[order], [ids[row] for row in order.tolist()]
    if np.any(keys[1:] == keys[:-1]):
        raise InputError(
            "two items have the same 64-bit key", where=str(folder), fix="rename one of them"
        )

    row = pc.index_in(seen["item_id"], pa.array(ids, pa.string())).to_numpy().astype(np.int64)
    first_seen = _first_seen(ids, valid_from, row, micros(seen["ts"]))
    attributes = columns_of([profiles.get(each, {}) for each in ids])
    folder.mkdir(parents=True)
    _write_items(
        folder / "items.arrow", ids, keys, first_seen, attributes, truths_in(profiles.values())
    )
    if texts:
        documents = documents_of(attributes, np.arange(len(ids)))
        write_text_index(folder / "text", documents)
        if meaning is not None:
            write_meaning(folder, meaning, texts_to_encode(documents))
    for name, data in find_clusters(attributes, len(ids)).files().items():
        (folder / name).write_bytes(data)
    (folder / "meta.json").write_bytes(msgspec.json.encode(Meta(FORMAT, as_of, _newest(items))))


def _newest(items: pa.Table) -> int:
    p = pc.max(items["p"]).as_py() if "p" in items.column_names else None
    return 0 if p is None else p


def _interests(events: pa.Table, until: int, event_types: Sequence[str]) -> pa.Table:
    """The events that name an item, before a moment; those of bots and late ones are left out."""
    columns = [
        name for name in ("type", "ts", "item_id", "agent", "counts") if name in events.column_names
    ]
    table = events.select(columns)
    kept = pc.and_(
        pc.is_in(table["type"], pa.array(event_types, pa.string())), pc.is_valid(table["item_id"])
    )
    kept = pc.and_(kept, pc.less(table["ts"].cast(pa.int64()), until))
    if "agent" in columns:
        kept = pc.and_(kept, pc.fill_null(pc.not_equal(table["agent"], "bot"), True))
    if "counts" in columns:
        kept = pc.and_(kept, pc.fill_null(table["counts"], True))
    return table.filter(kept).select(["ts", "item_id"])


def _profiles(
    items: pa.Table, as_of: int, until: int
) -> tuple[dict[str, dict[str, Any]], dict[str, int]]:
    """Of each item the newest version at `as_of`, or the first before `until`, and when its first
    dated version began.
    """
    profiles: dict[str, dict[str, Any]] = {}
    began: dict[str, int] = {}
    if not items.num_rows:
        return profiles, began
    table = items.set_column(
        items.column_names.index("valid_from"),
        "valid_from",
        pc.fill_null(items["valid_from"].cast(pa.int64()), 0),
    )
    timeless = (
        table["timeless"].to_pylist()
        if "timeless" in table.column_names
        else [False] * table.num_rows
    )
    rows = zip(
        table["id"].to_pylist(),
        table["valid_from"].to_pylist(),
        table["attributes"].to_pylist(),
        timeless,
        strict=True,
    )
    for each, start, attributes, always in sorted(
        rows, key=lambda entry: (0 if entry[3] else entry[1], entry[2] or "")
    ):
        if not always and start >= (until if each not in profiles else as_of):
            continue
        profiles[each] = msgspec.json.decode(attributes) if attributes else {}
        if not always:
            began.setdefault(each, start)
    return profiles, began


def _first_seen(ids: Sequence[str], valid_from: dict[str, int], row: _NUMPY, ts: _NUMPY) -> _NUMPY:
    """When each item came: its first dated version or its first event; 0 if it has neither."""
    never = np.iinfo(np.int64).max
    first = np.array([valid_from.get(each, never) for each in ids], np.int64)
    np.minimum.at(first, row, ts)
    first[first == never] = 0
    return first


def _write_items(
    path: Path,
    ids: Sequence[str],
    keys: Any,
    first_seen: _NUMPY,
    attributes: dict[str, Column],
    truths: frozenset[str],
) -> None:
    columns: dict[str, pa.Array] = {
        "id": pa.array(ids, pa.string()),
        "key": pa.array(keys, pa.uint64()),
        "first_seen": pa.array(first_seen, pa.int64()),
    }
    columns |= {f"a:{name}": to_arrow(column) for name, column in attributes.items()}
    marked = {f"a:{name}" for name in truths}
    fields = [
        pa.field(name, each.type, metadata={TRUTH: b"1"} if name in marked else None)
        for name, each in columns.items()
    ]
    table = pa.table(columns, schema=pa.schema(fields))
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)

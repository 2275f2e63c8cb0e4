"""Build an index from the items and events of the lake; see `retrieval.index` for its content."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.candidates.contract import INTEREST_EVENT_TYPES
from tailorbird.errors import InputError
from tailorbird.events.contract.schema import micros
from tailorbird.events.keys import hash64s
from tailorbird.retrieval.clusters import find_clusters
from tailorbird.retrieval.columns import Column, build_columns, find_boolean_names, to_arrow
from tailorbird.retrieval.documents import build_documents
from tailorbird.retrieval.index import BOOLEAN_MARK, FORMAT, Meta
from tailorbird.retrieval.meaning import TextVectorSettings, texts_to_encode, write_text_vectors
from tailorbird.retrieval.text import write_text_index

_Ints = npt.NDArray[np.int64]


def build_index(
    folder: Path,
    events: pa.Table,
    items: pa.Table,
    *,
    as_of: int,
    event_types: Sequence[str] = INTEREST_EVENT_TYPES,
    new_items_until: int | None = None,
    with_text_index: bool = True,
    text_vector_settings: TextVectorSettings | None = None,
) -> None:
    """Build an index in a new folder from what was known before `as_of`.

    Args:
        folder: created here.
        events: columns `type, ts, item_id`, and optionally `agent` and `counts`, in any
            order.
        items: columns `id, valid_from, attributes` (JSON), and optionally `timeless` and `p`;
            the newest version of each item counts.
        as_of: later events and versions are ignored.
        event_types: types of events that prove that an item exists.
        new_items_until: also include items that appeared until then, with their first attributes.
        with_text_index: whether to build the text index.
        text_vector_settings: settings of the text vectors; None searches by words alone.
    """
    new_items_until = as_of if new_items_until is None else new_items_until
    item_events = _item_events(events, new_items_until, event_types)
    profile_by_id, first_start_by_id = _item_profiles(items, as_of, new_items_until)
    ids = sorted(set(profile_by_id) | set(pc.unique(item_events["item_id"]).to_pylist()))
    keys = hash64s(ids)
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    ids = [ids[row] for row in order.tolist()]
    if np.any(keys[1:] == keys[:-1]):
        raise InputError(
            "two items have the same 64-bit key", where=str(folder), fix="rename one of them"
        )

    event_item_indexes = (
        pc.index_in(item_events["item_id"], pa.array(ids, pa.string())).to_numpy().astype(np.int64)
    )
    first_seen = _first_seen(ids, first_start_by_id, event_item_indexes, micros(item_events["ts"]))
    attributes = build_columns([profile_by_id.get(item_id, {}) for item_id in ids])
    folder.mkdir(parents=True)
    _write_items(
        path=folder / "items.arrow",
        ids=ids,
        keys=keys,
        first_seen=first_seen,
        attributes=attributes,
        boolean_names=find_boolean_names(profile_by_id.values()),
    )
    if with_text_index:
        documents = build_documents(attributes, np.arange(len(ids)))
        write_text_index(folder / "text", documents)
        if text_vector_settings is not None:
            write_text_vectors(folder, text_vector_settings, texts_to_encode(documents))
    for name, data in find_clusters(attributes, len(ids)).files().items():
        (folder / name).write_bytes(data)
    (folder / "meta.json").write_bytes(
        msgspec.json.encode(Meta(FORMAT, as_of, _newest_position(items)))
    )


def _newest_position(items: pa.Table) -> int:
    position = pc.max(items["p"]).as_py() if "p" in items.column_names else None
    return 0 if position is None else position


def _item_events(events: pa.Table, end_ts: int, event_types: Sequence[str]) -> pa.Table:
    """Return the events before `end_ts` that name an item, without those of bots and late ones."""
    columns = [
        name for name in ("type", "ts", "item_id", "agent", "counts") if name in events.column_names
    ]
    table = events.select(columns)
    mask = pc.and_(
        pc.is_in(table["type"], pa.array(event_types, pa.string())), pc.is_valid(table["item_id"])
    )
    mask = pc.and_(mask, pc.less(table["ts"].cast(pa.int64()), end_ts))
    if "agent" in columns:
        mask = pc.and_(mask, pc.fill_null(pc.not_equal(table["agent"], "bot"), True))
    if "counts" in columns:
        mask = pc.and_(mask, pc.fill_null(table["counts"], True))
    return table.filter(mask).select(["ts", "item_id"])


def _item_profiles(
    items: pa.Table, as_of: int, new_items_until: int
) -> tuple[dict[str, dict[str, Any]], dict[str, int]]:
    """Return each item's attributes and the start of its first dated version.

    The newest version before `as_of` counts. If an item appeared later, its first version before
    `new_items_until` counts.
    """
    profile_by_id: dict[str, dict[str, Any]] = {}
    first_start_by_id: dict[str, int] = {}
    if not items.num_rows:
        return profile_by_id, first_start_by_id
    table = items.set_column(
        items.column_names.index("valid_from"),
        "valid_from",
        pc.fill_null(items["valid_from"].cast(pa.int64()), 0),
    )
    timeless_flags = (
        table["timeless"].to_pylist()
        if "timeless" in table.column_names
        else [False] * table.num_rows
    )
    rows = zip(
        table["id"].to_pylist(),
        table["valid_from"].to_pylist(),
        table["attributes"].to_pylist(),
        timeless_flags,
        strict=True,
    )
    for item_id, valid_from, attributes, is_timeless in sorted(
        rows, key=lambda entry: (0 if entry[3] else entry[1], entry[2] or "")
    ):
        if not is_timeless and valid_from >= (
            new_items_until if item_id not in profile_by_id else as_of
        ):
            continue
        profile_by_id[item_id] = msgspec.json.decode(attributes) if attributes else {}
        if not is_timeless:
            first_start_by_id.setdefault(item_id, valid_from)
    return profile_by_id, first_start_by_id


def _first_seen(
    ids: Sequence[str],
    first_start_by_id: dict[str, int],
    event_item_indexes: _Ints,
    event_ts: _Ints,
) -> _Ints:
    """Return when each item appeared: its first dated version or event; 0 if it has neither."""
    never_seen = np.iinfo(np.int64).max
    first_seen = np.array([first_start_by_id.get(item_id, never_seen) for item_id in ids], np.int64)
    np.minimum.at(first_seen, event_item_indexes, event_ts)
    first_seen[first_seen == never_seen] = 0
    return first_seen


def _write_items(
    path: Path,
    ids: Sequence[str],
    keys: Any,
    first_seen: _Ints,
    attributes: dict[str, Column],
    boolean_names: frozenset[str],
) -> None:
    columns: dict[str, pa.Array] = {
        "id": pa.array(ids, pa.string()),
        "key": pa.array(keys, pa.uint64()),
        "first_seen": pa.array(first_seen, pa.int64()),
    }
    columns |= {f"a:{name}": to_arrow(column) for name, column in attributes.items()}
    boolean_columns = {f"a:{name}" for name in boolean_names}
    fields = [
        pa.field(
            name, column.type, metadata={BOOLEAN_MARK: b"1"} if name in boolean_columns else None
        )
        for name, column in columns.items()
    ]
    table = pa.table(columns, schema=pa.schema(fields))
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)

"""Build an index from the items and events of the lake; see `retrieval.index` for its content."""

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
from tailorbird.events.contract.schema import micros
from tailorbird.events.keys import hash64s
from tailorbird.retrieval.clusters import find_clusters
from tailorbird.retrieval.columns import Column, columns_of, to_arrow, truths_in
from tailorbird.retrieval.index import FORMAT, TRUTH, Meta
from tailorbird.retrieval.meaning import MeaningSettings, texts_to_encode, write_meaning
from tailorbird.retrieval.text import documents_of, write_text_index

_Ints = npt.NDArray[np.int64]


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
        folder: created here.
        events: columns `type, ts, item_id`, and optionally `agent` and `counts`, in any
            order.
        items: columns `id, valid_from, attributes` (JSON), and optionally `timeless` and `p`;
            the newest version of each item counts.
        as_of: later events and versions are ignored.
        event_types: types of events that prove that an item exists.
        until: also include items that appeared until then, with their first attributes.
        texts: whether to build the text index.
        meaning: settings of the text vectors; None searches by words alone.
    """
    until = as_of if until is None else until
    item_events = _item_events(events, until, event_types)
    profiles, valid_from = _item_profiles(items, as_of, until)
    ids = sorted(set(profiles) | set(pc.unique(item_events["item_id"]).to_pylist()))
    keys = hash64s(ids)
    order = np.argsort(keys, kind="stable")
    keys, ids = keys[order], [ids[row] for row in order.tolist()]
    if np.any(keys[1:] == keys[:-1]):
        raise InputError(
            "two items have the same 64-bit key", where=str(folder), fix="rename one of them"
        )

    row = (
        pc.index_in(item_events["item_id"], pa.array(ids, pa.string())).to_numpy().astype(np.int64)
    )
    first_seen = _first_seen(ids, valid_from, row, micros(item_events["ts"]))
    attributes = columns_of([profiles.get(item_id, {}) for item_id in ids])
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
    (folder / "meta.json").write_bytes(
        msgspec.json.encode(Meta(FORMAT, as_of, _newest_position(items)))
    )


def _newest_position(items: pa.Table) -> int:
    position = pc.max(items["p"]).as_py() if "p" in items.column_names else None
    return 0 if position is None else position


def _item_events(events: pa.Table, until: int, event_types: Sequence[str]) -> pa.Table:
    """Return the events before `until` that name an item, without those of bots and late ones."""
    columns = [
        name for name in ("type", "ts", "item_id", "agent", "counts") if name in events.column_names
    ]
    table = events.select(columns)
    mask = pc.and_(
        pc.is_in(table["type"], pa.array(event_types, pa.string())), pc.is_valid(table["item_id"])
    )
    mask = pc.and_(mask, pc.less(table["ts"].cast(pa.int64()), until))
    if "agent" in columns:
        mask = pc.and_(mask, pc.fill_null(pc.not_equal(table["agent"], "bot"), True))
    if "counts" in columns:
        mask = pc.and_(mask, pc.fill_null(table["counts"], True))
    return table.filter(mask).select(["ts", "item_id"])


def _item_profiles(
    items: pa.Table, as_of: int, until: int
) -> tuple[dict[str, dict[str, Any]], dict[str, int]]:
    """Return each item's attributes and the start of its first dated version.

    The newest version before `as_of` counts. If an item appeared later, its first version before
    `until` counts.
    """
    profiles: dict[str, dict[str, Any]] = {}
    first_versions: dict[str, int] = {}
    if not items.num_rows:
        return profiles, first_versions
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
    for item_id, start, attributes, is_timeless in sorted(
        rows, key=lambda entry: (0 if entry[3] else entry[1], entry[2] or "")
    ):
        if not is_timeless and start >= (until if item_id not in profiles else as_of):
            continue
        profiles[item_id] = msgspec.json.decode(attributes) if attributes else {}
        if not is_timeless:
            first_versions.setdefault(item_id, start)
    return profiles, first_versions


def _first_seen(ids: Sequence[str], valid_from: dict[str, int], row: _Ints, ts: _Ints) -> _Ints:
    """Return when each item appeared: its first dated version or event; 0 if it has neither."""
    never_seen = np.iinfo(np.int64).max
    first_seen = np.array([valid_from.get(item_id, never_seen) for item_id in ids], np.int64)
    np.minimum.at(first_seen, row, ts)
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
        pa.field(name, column.type, metadata={TRUTH: b"1"} if name in boolean_columns else None)
        for name, column in columns.items()
    ]
    table = pa.table(columns, schema=pa.schema(fields))
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)

"""Item summary of pruned blocks of the routed log, for servers that start later.

    pruned_item       newest profile of each item: properties, valid from, known since
    pruned_interest   number of events of each type and item

Blocks are summarized in the transaction that deletes them, so these tables and the log together
always equal the full log. `serving.models.catalogue` reads both in one snapshot.
"""

import logging
from collections.abc import Sequence

import apsw
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events import ROUTED, micros
from tailorbird.stream import StoredBlock

SCHEMA_SQL = """
CREATE TABLE IF NOT EXISTS pruned_item(
    item_id TEXT PRIMARY KEY, properties TEXT NOT NULL,
    valid_from INTEGER NOT NULL, known_since INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pruned_interest(
    type TEXT NOT NULL, item_id TEXT NOT NULL, events INTEGER NOT NULL, PRIMARY KEY (type, item_id)
) STRICT, WITHOUT ROWID;
"""
_COLUMNS = ("type", "ts", "received_at", "item_id", "properties", "timeless")
_READ_OPTIONS = pa.ipc.IpcReadOptions(
    included_fields=[ROUTED.get_field_index(name) for name in _COLUMNS]
)
_UPSERT_ITEM_SQL = """
INSERT INTO pruned_item VALUES (?1, ?2, ?3, ?4)
ON CONFLICT DO UPDATE SET properties = ?2, valid_from = ?3, known_since = ?4
WHERE (?3, ?4) >= (valid_from, known_since)
"""
_ADD_INTEREST_SQL = (
    "INSERT INTO pruned_interest VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET events = events + ?3"
)
log = logging.getLogger(__name__)


def summarize_blocks(connection: apsw.Connection, blocks: Sequence[StoredBlock]) -> None:
    """Add the items of `blocks` to the tables.

    A block that cannot be read is logged and skipped, since it is deleted anyway.
    """
    for stored_block in blocks:
        if stored_block.block.kind != "events":
            continue
        try:
            with pa.ipc.open_stream(stored_block.block.payload, options=_READ_OPTIONS) as stream:
                rows = stream.read_all()
        except (pa.ArrowException, OSError) as error:
            log.error(
                "the block at %d of the routed log cannot be read, its items are left out: %s",
                stored_block.offset,
                error,
            )
            continue
        _upsert_items(connection, rows.filter(pc.equal(rows["type"], "item")))
        _count_item_events(connection, rows.filter(pc.not_equal(rows["type"], "item")))


def _upsert_items(connection: apsw.Connection, rows: pa.Table) -> None:
    profiles = zip(
        rows["item_id"].to_pylist(),
        rows["properties"].to_pylist(),
        micros(rows["ts"]).tolist(),
        micros(rows["received_at"]).tolist(),
        rows["timeless"].to_pylist(),
        strict=True,
    )
    connection.executemany(
        _UPSERT_ITEM_SQL,
        [
            (item_id, properties or "{}", 0 if is_timeless else ts, max(ts, received_at))
            for item_id, properties, ts, received_at, is_timeless in profiles
        ],
    )


def _count_item_events(connection: apsw.Connection, rows: pa.Table) -> None:
    item_counts = (
        rows.filter(pc.is_valid(rows["item_id"]))
        .group_by(["type", "item_id"])
        .aggregate([([], "count_all")])
    )
    interest_rows = zip(
        *(item_counts[name].to_pylist() for name in ("type", "item_id", "count_all")), strict=True
    )
    connection.executemany(_ADD_INTEREST_SQL, list(interest_rows))

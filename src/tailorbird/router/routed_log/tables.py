"""Tables that the router keeps in its routed log, and the locations of receipts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import apsw
import numpy as np
import pyarrow as pa

from tailorbird.router.columns import DUPLICATES
from tailorbird.router.decide.arrivals import Arrivals
from tailorbird.router.decide.dedup import DedupEntry
from tailorbird.router.decide.route import RouterMemory
from tailorbird.router.partitions import follow
from tailorbird.router.routed_log import pruned
from tailorbird.stream import EmbeddedWriter, LogShare, open_writer, routed_path

if TYPE_CHECKING:
    from tailorbird.router.routed_log.topic import RoutedTopic


FIRST_LOG_POSITION = 1

_RAW_POSITION_SQL = """
CREATE TABLE IF NOT EXISTS raw_position(
    id INTEGER PRIMARY KEY, producer TEXT NOT NULL UNIQUE,
    offset INTEGER NOT NULL,   -- the next row to route
    newest INTEGER NOT NULL    -- the newest time of receipt so far
) STRICT;
"""


def open_log(share: LogShare) -> "EmbeddedWriter | RoutedTopic":
    """Open the routed log of a router, with the router's tables, as its only writer."""
    if (kafka_logs := share.kafka_logs) is not None:
        from tailorbird.router.routed_log.topic import RoutedTopic

        return RoutedTopic(
            kafka_logs.routed,
            kafka_logs.index_path,
            make_tables,
            first_position=FIRST_LOG_POSITION,
            snapshots=kafka_logs.snapshots,
            snapshot_rows=kafka_logs.snapshot_rows,
        )
    # A damaged tail stops the router: its positions are committed with it, so setting it aside
    # would lose events silently.
    log = open_writer(
        routed_path(share.folder),
        partition="routed",
        first_position=FIRST_LOG_POSITION,
        on_damaged_tail="stop",
    )
    with log.transaction() as connection:
        make_tables(connection)
    return log


def make_tables(connection: apsw.Connection) -> None:
    """Create the router's tables where they do not exist."""
    RouterMemory.make_tables(connection)
    connection.execute(_RAW_POSITION_SQL)
    connection.execute(follow.SCHEMA_SQL)
    connection.execute(pruned.SCHEMA_SQL)


def build_duplicates_batch(
    arrivals: Arrivals, original_by_row: dict[int, DedupEntry]
) -> pa.RecordBatch:
    """Return the rows of DUPLICATES for the arrivals that duplicate an earlier event."""
    rows: list[int] = []
    originals: list[DedupEntry] = []
    duplicates: list[DedupEntry] = []
    for row, original in sorted(original_by_row.items()):
        duplicate = DedupEntry(*arrivals.dedup_entries[row].item())
        # An event at the location that the index has for it was read again: no duplicate.
        if duplicate.location != original.location:
            rows.append(row)
            originals.append(original)
            duplicates.append(duplicate)
    columns = [
        arrivals.columns["event_id"].take(pa.array(rows, pa.int64())),
        *_location_columns(duplicates, arrivals.producers),
        *_location_columns(originals, arrivals.producers),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=DUPLICATES)


def _location_columns(entries: Sequence[DedupEntry], producers: dict[int, str]) -> list[pa.Array]:
    """Return the columns partition, offset and row of dedup index entries."""
    columns = [
        [producers[entry.producer] for entry in entries],
        [entry.offset for entry in entries],
        [entry.row for entry in entries],
    ]
    return [
        pa.array(column, arrow_type)
        for column, arrow_type in zip(columns, (pa.string(), pa.int64(), pa.int32()), strict=True)
    ]


def find_newest_received_at(arrivals: Arrivals) -> dict[int, int]:
    """Return the newest time of receipt among the accepted events, by producer."""
    producer_ids = arrivals.dedup_entries["producer"]
    received_at = arrivals.received_at
    return {
        producer_id: int(received_at[producer_ids == producer_id].max())
        for producer_id in np.unique(producer_ids).tolist()
    }

"""Tables that the router keeps in its routed log, and the locations of receipts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import apsw
import numpy as np
import pyarrow as pa

from tailorbird.router.decide.arrivals import Arrivals
from tailorbird.router.decide.route import RouterMemory
from tailorbird.router.partitions import follow
from tailorbird.router.routed_log import pruned
from tailorbird.stream import EmbeddedWriter, LogShare, open_writer, routed_path

if TYPE_CHECKING:
    from tailorbird.router.routed_log.topic import RoutedTopic


FIRST_P = 1

_TABLE = """
CREATE TABLE IF NOT EXISTS raw_position(
    id INTEGER PRIMARY KEY, producer TEXT NOT NULL UNIQUE,
    offset INTEGER NOT NULL,   -- the next row to route
    newest INTEGER NOT NULL    -- the newest time of receipt so far
) STRICT;
"""


def open_log(share: LogShare) -> "EmbeddedWriter | RoutedTopic":
    if (topics := share.topics) is not None:
        from tailorbird.router.routed_log.topic import RoutedTopic

        return RoutedTopic(
            topics.routed,
            topics.index,
            make_tables,
            first=FIRST_P,
            snapshots=topics.snapshots,
            snapshot_rows=topics.snapshot_rows,
        )
    # A damaged tail stops the router: its positions are committed with it, so setting it aside
    # would lose events silently.
    log = open_writer(
        routed_path(share.folder), partition="routed", first_position=FIRST_P, damaged_tail="stop"
    )
    with log.transaction() as connection:
        make_tables(connection)
    return log


def make_tables(connection: apsw.Connection) -> None:
    """Create the router's tables where they do not exist."""
    RouterMemory.make_tables(connection)
    connection.execute(_TABLE)
    connection.execute(follow.TABLE)
    connection.execute(pruned.TABLES)


def location_columns(entries: Sequence[tuple], producers: dict[int, str]) -> list[pa.Array]:
    """Return the columns partition, offset and row of dedup index entries."""
    columns = [
        [producers[entry[4]] for entry in entries],
        [entry[3] for entry in entries],
        [entry[5] for entry in entries],
    ]
    return [
        pa.array(column, kind)
        for column, kind in zip(columns, (pa.string(), pa.int64(), pa.int32()), strict=True)
    ]


def newest_receipts(arrivals: Arrivals) -> dict[int, int]:
    """Return the newest time of receipt among the accepted events, by producer."""
    producers, received_at = arrivals.entries["producer"], arrivals.received_at
    return {
        number: int(received_at[producers == number].max())
        for number in np.unique(producers).tolist()
    }

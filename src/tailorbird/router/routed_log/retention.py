"""Retention of the topics of routed rows: `routed`, and `order` where there are several partitions.

The router itself prunes files.

    released (lake, workers) ─┐
    snapshots of the indexes ─┼─► limit ─► items summarized in topic `items` ─► order ─► routed
    newest rows, retained ────┘

The lake role runs it, since it knows the positions of all readers. A row is deleted once the lake
has verified it, each worker has applied it, a snapshot of its router's index contains its changes,
each router that follows its profiles has a later snapshot, and the item summary that servers start
from has been read back. The order is pruned first, so that no reader is sent to deleted rows.
"""

import logging
from collections.abc import Callable
from pathlib import Path

import apsw

from tailorbird import faults
from tailorbird.errors import DamageError, NotReadyError, TailorbirdError
from tailorbird.router.routed_log import pruned
from tailorbird.stream import LogReader, open_reader, sqlite
from tailorbird.stream.kafka import KafkaLog
from tailorbird.stream.kafka.logs import KafkaLogSet
from tailorbird.stream.kafka.merged import decode_entry
from tailorbird.stream.kafka.pruning import RecordDeleter
from tailorbird.stream.kafka.snapshots import (
    LatestSnapshot,
    Snapshot,
    restore_snapshot,
    take_snapshot,
)

SUMMARY_FILE = "routed-items.db"
PRUNE_INTERVAL_S = 60.0
RETAINED_ROWS = 200_000  # time for readers without a tracked position, such as servers
PRUNED_ROWS_MIN = 50_000  # fewer are not worth a rewrite of the summary
_POSITION_TABLE_SQL = (
    "CREATE TABLE IF NOT EXISTS summed(id INTEGER PRIMARY KEY CHECK (id = 1), p INTEGER NOT "
    "NULL) STRICT"
)
_READ_BYTES = 16 << 20
log = logging.getLogger(__name__)


class Retention:
    """Pruning of routed rows that no reader needs.

    Args:
        read_released_position: returns the row before which neither the lake nor a worker needs
            the log.
        retained_rows: number of newest rows that stay.
        rows_min: number of rows from which on a deletion is worthwhile.
    """

    def __init__(
        self,
        stream: KafkaLogSet,
        read_released_position: Callable[[], int],
        *,
        retained_rows: int = RETAINED_ROWS,
        rows_min: int = PRUNED_ROWS_MIN,
    ) -> None:
        self._stream = stream
        self._read_released_position = read_released_position
        self._retained_rows = retained_rows
        self._rows_min = rows_min
        self._latest_snapshots = [LatestSnapshot(address) for address in stream.snapshots()]
        self._routed_log = stream.routed
        self._order_log = stream.order_log(None) if stream.partition_count > 1 else None
        self._partition_logs = stream.routed_partitions

    def prune(self) -> int:
        """Delete rows that may go and return the number of messages.

        Raises:
            StorageError, DamageError: broker or disk; needed rows are safe, and it can be tried
                again.
        """
        try:
            with open_reader(self._routed_log) as reader:
                return self._prune(reader)
        except NotReadyError:
            return 0

    def tick(self) -> None:
        """Prune and log the outcome; a failure is retried with the next tick."""
        try:
            if count := self.prune():
                log.info("deleted %d messages of what was routed", count)
        except TailorbirdError as error:
            log.warning("nothing routed is deleted: %s", error)

    def _prune(self, reader: LogReader) -> int:
        snapshots = [latest.refresh() for latest in self._latest_snapshots]
        summarized_end = reader.start()
        prune_before = min(self._read_released_position(), reader.end() - self._retained_rows)
        if len(self._partition_logs) == 1:
            prune_before = min(prune_before, 0 if snapshots[0] is None else snapshots[0].position)
        if prune_before - summarized_end >= self._rows_min:
            summarized_end = self._summarize_until(reader, prune_before)
            faults.fire_if_armed("retention.before_order")
        # Without new rows this still deletes what a broker refused or a kill prevented before.
        return self._delete_rows(reader, summarized_end, snapshots)

    def _delete_rows(
        self, reader: LogReader, order_before: int, snapshots: list[Snapshot | None]
    ) -> int:
        if self._order_log is not None:
            count = _delete_records(self._order_log, order_before)
            ends = self._unnamed_ends(self._order_log)
            faults.fire_if_armed("retention.before_routed")
        else:
            ends = [order_before]
            count = 0
        followed_positions = [
            0 if snapshot is None else snapshot.followed for snapshot in snapshots[1:]
        ]
        for number, (address, end, snapshot) in enumerate(
            zip(self._partition_logs, ends, snapshots, strict=True)
        ):
            first_retained = min(
                end,
                0 if snapshot is None else snapshot.position,
                *(followed_positions if number == 0 else ()),
            )
            count += _delete_records(address, first_retained) if first_retained > 1 else 0
        return count

    def _unnamed_ends(self, order_log: KafkaLog) -> list[int]:
        """Return the end of each partition's rows that the order no longer names.

        The order is deleted by whole runs.
        """
        with open_reader(order_log) as reader:
            start = reader.start()
            end = reader.end()
            if end <= start:
                return [1] * len(self._partition_logs)
            first_entry = decode_entry(reader.read(start)[0].block)
        ends = list(first_entry.ends)
        ends[first_entry.partition] = first_entry.first_row
        return ends

    def _summarize_until(self, reader: LogReader, end_max: int) -> int:
        """Summarize the items of whole blocks up to `end_max`, publish, and return the end."""
        file = self._stream.folder / SUMMARY_FILE
        connection, newest_snapshot = _open_newest_summary(self._stream)
        try:
            position = _read_summary_positions(connection)[0]
            if position < reader.start():
                raise DamageError(
                    f"items are summed up to {position}, and the log begins at {reader.start()}",
                    where=str(file),
                    fix="put the file back, or the topic `items`; until then nothing is deleted",
                )
            while position < end_max:
                stored_blocks = [
                    stored_block
                    for stored_block in reader.read(position, bytes_max=_READ_BYTES)
                    if stored_block.end <= end_max
                ]
                if not stored_blocks:
                    break
                with sqlite.translate_errors(file), connection:
                    pruned.summarize_blocks(connection, stored_blocks)
                    connection.execute("UPDATE summed SET p = ?", (stored_blocks[-1].end,))
                position = stored_blocks[-1].end
            sqlite.checkpoint(connection, file)
        finally:
            connection.close()
        if newest_snapshot is None or newest_snapshot.position < position:
            take_snapshot(file, self._stream.item_summary, _read_summary_positions)
        return position


def summarize_all_items(stream: KafkaLogSet) -> None:
    """Summarize the items of all rows and publish the summary, before the topics are reset."""
    with open_reader(stream.routed) as reader:
        Retention(stream, lambda: 0)._summarize_until(reader, reader.end())
    file = stream.folder / SUMMARY_FILE
    connection = _open_summary(file)
    sqlite.checkpoint(connection, file, truncate=True)
    connection.close()


def rewrite_summary(stream: KafkaLogSet, edit_summary: Callable[[apsw.Connection], int]) -> int:
    """Summarize all rows, apply `edit_summary` to the summary file, and return its count."""
    summarize_all_items(stream)
    file = stream.folder / SUMMARY_FILE
    connection = _open_summary(file)
    try:
        with sqlite.translate_errors(file):
            with connection:
                count = edit_summary(connection)
            connection.execute("VACUUM")  # free pages would keep the old content
        sqlite.checkpoint(connection, file, truncate=True)
    finally:
        connection.close()
    return count


def publish_summary(stream: KafkaLogSet) -> None:
    """Publish the local summary to its topic."""
    take_snapshot(stream.folder / SUMMARY_FILE, stream.item_summary, _read_summary_positions)


def _open_newest_summary(stream: KafkaLogSet) -> tuple[apsw.Connection, Snapshot | None]:
    """Open the local summary, restored from the topic's newest if that is further; return both."""
    file = stream.folder / SUMMARY_FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    newest_snapshot = LatestSnapshot(stream.item_summary).refresh()
    connection = _open_summary(file)
    if (
        newest_snapshot is not None
        and _read_summary_positions(connection)[0] < newest_snapshot.position
    ):
        connection.close()
        restore_snapshot(stream.item_summary, newest_snapshot, file)
        connection = _open_summary(file)
    return connection, newest_snapshot


def _open_summary(file: Path) -> apsw.Connection:
    with sqlite.translate_errors(file):
        connection = sqlite.connect_writer(file)
        sqlite.recover_wal(connection, file)
        connection.execute(pruned.SCHEMA_SQL)
        connection.execute(_POSITION_TABLE_SQL)
        connection.execute("INSERT OR IGNORE INTO summed VALUES (1, 1)")
    return connection


def _read_summary_positions(connection: apsw.Connection) -> tuple[int, int]:
    (position,) = sqlite.read_one_row(connection, "SELECT p FROM summed")
    return position, 0


def _delete_records(address: KafkaLog, before: int) -> int:
    deleter = RecordDeleter(address)
    try:
        return deleter.delete(before)
    finally:
        deleter.close()

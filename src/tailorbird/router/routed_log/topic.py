"""The routed log in a topic, and the router's index in a file beside it, kept as one.

A step is a run of messages: its blocks, and one of kind "index" with the changes of the router's
tables (dedup index, responses, identities, profiles, raw positions) as an SQLite patch set. The
change is committed to the file only once the whole run is acknowledged. So the file is a function
of the topic: what it lacks after a kill, or on another machine, is applied before the first
decision.

    topic   ─ events │ quarantine │ index ─ events │ index ─ …
    file    the position up to which the topic is applied

From time to time a snapshot of the file goes into a topic of its own (`stream.kafka.snapshots`).
Rows before it may be deleted (`router.routed_log.retention`). A missing file, or one that ends
before the retained rows, starts from the snapshot.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import apsw
import pyarrow as pa

from tailorbird import faults
from tailorbird.errors import DamageError, StorageError
from tailorbird.file_lock import FileLock
from tailorbird.stream import Block, open_reader, open_writer, sqlite
from tailorbird.stream.kafka import KafkaLog
from tailorbird.stream.kafka.snapshots import (
    SNAPSHOT_ROWS,
    LatestSnapshot,
    Snapshot,
    SnapshotThread,
    restore_snapshot,
    take_snapshot,
)
from tailorbird.stream.protocol import StoredBlock

INDEX_KIND = "index"  # kind of the block with a step's changes of the tables
EMPTIED_KIND = "emptied"  # kind of the first block of a topic that was reset
_POSITION_SQL = """
CREATE TABLE IF NOT EXISTS routed_position(
    id INTEGER PRIMARY KEY CHECK (id = 1), topic TEXT NOT NULL, offset INTEGER NOT NULL
) STRICT;
"""
_POSITION_TABLE = "routed_position"  # describes this file and is never in a patch set
_CODEC = "zstd"
log = logging.getLogger(__name__)


class RoutedTopic:
    """The router's writer on a topic, with the interface of `EmbeddedWriter`.

    Args:
        file: path of the index.
        make_tables: creates the router's tables where they do not exist.
        first_position: position of the first row of a new log.
        snapshots: topic of snapshots of the file, one for each `snapshot_rows` rows.
    Attributes:
        connection: connection to the index; change its tables only within `transaction()`.
    Raises:
        LockedError: another router runs on this machine.
        DamageError: the file has more than the topic, or does not match it.
    """

    def __init__(
        self,
        address: KafkaLog,
        index_path: Path,
        make_tables: Callable[[apsw.Connection], None],
        *,
        first_position: int,
        snapshots: KafkaLog,
        snapshot_rows: int = SNAPSHOT_ROWS,
    ) -> None:
        self.address = address
        self.path = index_path
        self._failure = ""
        self._lock = FileLock(index_path)
        with ExitStack() as stack:
            stack.callback(self._lock.release)
            self.connection = self._open(make_tables, first_position)
            self._topic_writer = open_writer(
                address, partition="routed", first_position=first_position
            )  # from here on, other routers are fenced
            stack.callback(self._topic_writer.close)
            newest_snapshot = LatestSnapshot(snapshots).refresh()
            self._restore_snapshot(newest_snapshot, snapshots, make_tables, first_position)
            self._catch_up()
            last_snapshot_position = (
                first_position if newest_snapshot is None else newest_snapshot.position
            )
            self._snapshot_thread = SnapshotThread(
                index_path,
                snapshots,
                _read_positions,
                last_position=last_snapshot_position,
                interval_rows=snapshot_rows,
            )
            stack.pop_all()

    def _open(
        self, make_tables: Callable[[apsw.Connection], None], first_position: int
    ) -> apsw.Connection:
        with sqlite.translate_errors(self.path):
            connection = sqlite.connect_writer(self.path)
            sqlite.recover_wal(connection, self.path)
            connection.execute(_POSITION_SQL)
            make_tables(connection)
            connection.execute(
                "INSERT OR IGNORE INTO routed_position VALUES (1, ?, ?)",
                (str(self.address), first_position),
            )
        return connection

    def _restore_snapshot(
        self,
        newest_snapshot: Snapshot | None,
        snapshots: KafkaLog,
        make_tables: Callable[[apsw.Connection], None],
        first_position: int,
    ) -> None:
        """Restore the newest snapshot where the file is new or ends before the topic begins."""
        (position,) = sqlite.read_one_row(self.connection, "SELECT offset FROM routed_position")
        with open_reader(self.address) as reader:
            start = reader.start()
        if (
            newest_snapshot is None
            or newest_snapshot.position <= position
            or start <= position != first_position
        ):
            if position < start:
                raise DamageError(
                    f"the topic begins at {start}, the index ends at {position}, and no "
                    "snapshot of one is between",
                    where=str(self.address),
                    fix=f"copy the file of the router that had this partition last to {self.path}",
                )
            return
        self.connection.close()
        restore_snapshot(snapshots, newest_snapshot, self.path)
        self.connection = self._open(make_tables, first_position)
        set_topic_name(self.connection, self.address)
        log.info("began the index with the snapshot at %d", newest_snapshot.position)

    def _catch_up(self) -> None:
        topic, position = sqlite.read_one_row(
            self.connection, "SELECT topic, offset FROM routed_position"
        )
        if topic != str(self.address) or position > self._topic_writer.end():
            has_lost_rows = position > self._topic_writer.end()
            raise DamageError(
                f"this index is of {topic} up to {position}, and the topic {self.address} "
                f"ends at {self._topic_writer.end()}",
                where=str(self.path),
                fix="is stream.url right? Bring the topic back; if it is lost for good: "
                'docs/how-to/kafka.md, "When topics are lost for good"'
                if has_lost_rows
                else (
                    "if the topic is the right one, move the file away: the index is made anew "
                    "from the topic"
                ),
            )
        start = position
        with open_reader(self.address) as reader:
            while position < self._topic_writer.end() and (stored_blocks := reader.read(position)):
                self._apply_blocks(stored_blocks)
                position = stored_blocks[-1].end
        if position > start:
            log.info("brought the index up from %d to %d", start, position)

    def _apply_blocks(self, stored_blocks: list[StoredBlock]) -> None:
        with sqlite.translate_errors(self.path):
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                for stored_block in stored_blocks:
                    if stored_block.block.kind == INDEX_KIND:
                        apsw.Changeset.apply(_unpack_patchset(stored_block.block), self.connection)
                self._set_position(stored_blocks[-1].end)
            except apsw.AbortError as error:
                self._roll_back()
                raise DamageError(
                    "the index does not fit to the topic",
                    where=str(self.path),
                    fix="move the file away: it is made anew from the topic",
                ) from error
            except BaseException:
                self._roll_back()
                raise
            self.connection.execute("COMMIT")

    @contextmanager
    def edit_tables(self) -> Iterator[apsw.Connection]:
        """Change the tables without a block in the topic.

        The caller must put a snapshot and reset the topic afterwards, see `router.erasure.topics`.
        """
        with sqlite.translate_errors(self.path):
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield self.connection
                self.connection.execute("COMMIT")
            except BaseException:
                self._roll_back()
                raise

    def put_snapshot(self, address: KafkaLog) -> None:
        """Put a snapshot of the current tables into a topic that has none."""
        if LatestSnapshot(address).refresh() is None:
            take_snapshot(self.path, address, _read_positions)

    def append_first_row(self) -> None:
        """Append the first row of a topic that was reset."""
        self._topic_writer.append([Block(EMPTIED_KIND, 1, b"")])
        with sqlite.translate_errors(self.path):
            self._set_position(self._topic_writer.end())

    def shrink(self) -> None:
        """Rewrite the file without free pages and WAL."""
        with sqlite.translate_errors(self.path):
            self.connection.execute("VACUUM")
            sqlite.checkpoint(self.connection, self.path, truncate=True)

    def check_sole_writer(self) -> None:
        """Raise LockedError if another router has taken over the topic."""
        self._topic_writer.check_sole_writer()

    @contextmanager
    def transaction(self) -> Iterator[apsw.Connection]:
        """Commit blocks and table changes as one, first in the topic and then in the file."""
        if self._failure:
            raise StorageError(
                f"an earlier step failed: {self._failure}",
                where=str(self.path),
                fix="start the router again",
            )
        is_sent = False
        with sqlite.translate_errors(self.path):
            self.connection.execute("BEGIN IMMEDIATE")
        try:
            with self._topic_writer.transaction():
                session = apsw.Session(self.connection, "main")
                session.table_filter(lambda table: table != _POSITION_TABLE)
                session.attach()
                yield self.connection
                patchset = session.patchset()
                session.close()
                if patchset:
                    self._topic_writer.append([_pack_patchset(patchset)])
                faults.fire_if_armed("router.before_topic")
            is_sent = True
            faults.fire_if_armed("router.between_topic_and_index")
            with sqlite.translate_errors(self.path):
                self._set_position(self._topic_writer.end())
                self.connection.execute("COMMIT")
        except BaseException as error:
            if is_sent:  # the topic has the step, and the file does not
                self._failure = str(error) or type(error).__name__
            self._roll_back()
            raise
        self._snapshot_thread.tick(self._topic_writer.end())
        if sqlite.wal_bytes(self.path) > sqlite.CHECKPOINT_BYTES:
            with sqlite.translate_errors(self.path):
                sqlite.checkpoint(self.connection, self.path)

    def _set_position(self, position: int) -> None:
        self.connection.execute("UPDATE routed_position SET offset = ?", (position,))

    def _roll_back(self) -> None:
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")

    def append(self, blocks: Iterable[Block]) -> int:
        """Append blocks within `transaction()` and return the position of the first."""
        return self._topic_writer.append(blocks)

    def end(self) -> int:
        return self._topic_writer.end()

    def prune_batch(
        self, before: int, *, on_delete: Callable[[list[StoredBlock]], None] | None = None
    ) -> int:
        """Return 0: `router.routed_log.retention` prunes topics."""
        return 0

    def close(self) -> None:
        """Close topic and file, and release the lock."""
        self._snapshot_thread.close()
        self._topic_writer.close()
        self.connection.close()
        self._lock.release()


def set_topic_name(connection: apsw.Connection, address: KafkaLog) -> None:
    """Set the topic of a file, since the brokers' addresses may have changed."""
    connection.execute("UPDATE routed_position SET topic = ?", (str(address),))


def _read_positions(connection: apsw.Connection) -> tuple[int, int]:
    """Return the applied position of a file, and its position in partition 0."""
    (position,) = sqlite.read_one_row(connection, "SELECT offset FROM routed_position")
    return position, connection.execute("SELECT offset FROM followed").get or 0


def _pack_patchset(patchset: bytes) -> Block:
    return Block(
        INDEX_KIND, 1, pa.compress(patchset, codec=_CODEC, asbytes=True), b"%d" % len(patchset)
    )


def _unpack_patchset(block: Block) -> bytes:
    return pa.decompress(
        block.payload, decompressed_size=int(block.receipt), codec=_CODEC, asbytes=True
    )

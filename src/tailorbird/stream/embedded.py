"""The writer of a log in one SQLite file (WAL, synced at each commit) with a checksum chain.

SQLite drops a torn tail by itself, which was not acknowledged. It does not detect a lost or flipped
page; the chain and a record of its end do. Damaged or missing last blocks are set aside in a file
beside the log when the writer opens, or stop it, as its owner chooses. Damage in the middle always
stops the writer and names the offset.

The writer runs checkpoints itself and checks their results, since automatic ones swallow a failed
sync. Readers never checkpoint. `stream.protocol` has the guarantees, `stream.reading` the tables
and the reader, `stream.sqlite` opening and checkpoints of the file.
"""

import logging
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path

import apsw
import msgspec

from tailorbird import faults
from tailorbird.errors import InputError, StorageError, fix_for_os_error
from tailorbird.file_lock import FileLock
from tailorbird.stream import chain, sqlite
from tailorbird.stream.damaged_tail import (
    cut_tail,
    find_damaged_tail,
    repair_recorded_end,
    set_lost_log_aside,
    write_recorded_end,
)
from tailorbird.stream.protocol import Block, StoredBlock
from tailorbird.stream.reading import (
    BLOCK_COLUMNS,
    FORMAT_VERSION,
    TABLES_SQL,
    check_format,
    damaged_block_error,
    read_last_end,
    read_log_row,
)

log = logging.getLogger(__name__)
# in one transaction, so that pruning never holds the file long
_PRUNE_BLOCKS_MAX = 256
_PRUNE_BYTES_MAX = 64 << 20


def open_writer(
    path: Path,
    *,
    partition: str,
    first_position: int = 0,
    on_damaged_tail: str = "set_aside",
    expected_end: int = 0,
) -> "EmbeddedWriter":
    """Open or create the log at `path` as its only writer.

    Args:
        partition: name of the log, fixed at its creation.
        first_position: offset of the first row of a new log.
        on_damaged_tail: "set_aside" moves damaged last blocks into a file beside the log and
            continues, "stop" raises DamageError.
        expected_end: highest position that a reader has read; a log that ends before it was lost,
            and a new one begins there, see `stream.locked`.
    Raises:
        LockedError: another writer has the log.
        DamageError: a block does not match its checksum, or the file is no log.
        StorageError: the disk refuses.
    """
    path = Path(path)
    lock = FileLock(path)
    try:
        return EmbeddedWriter(path, lock, partition, first_position, on_damaged_tail, expected_end)
    except BaseException:
        lock.release()
        raise


class EmbeddedWriter:
    """The one writer of a log in a SQLite file.

    Attributes:
        connection: for tables of the writer's owner in the same file; change them only within
            `transaction()`.
        damaged_tail_paths: the files into which damaged last blocks, or a log that lost rows, were
            moved when the log was opened.
    """

    def __init__(
        self,
        path: Path,
        lock: FileLock,
        partition: str,
        first_position: int,
        on_damaged_tail: str,
        expected_end: int = 0,
    ) -> None:
        self.path = path
        self._lock = lock
        self._failure = ""
        self._checkpoint_failed = self._must_recover_wal = False
        self._in_transaction = False
        self.damaged_tail_paths: list[Path] = []
        with sqlite.translate_errors(path):
            if expected_end > first_position and not path.exists():
                note = msgspec.msgpack.encode([])
                self.damaged_tail_paths.append(
                    set_lost_log_aside(path, first_position, expected_end, note)
                )
                first_position = expected_end
            self._connect(partition, first_position, on_damaged_tail)
            if self._end < expected_end:
                self._replace_lost_log(partition, expected_end)

    def _connect(self, partition: str, first_position: int, on_damaged_tail: str) -> None:
        self.connection = sqlite.connect_writer(self.path)
        try:
            self._recover_wal()
            self._create_tables(partition, first_position)
            self._verify_and_repair(partition, on_damaged_tail)
        except BaseException:
            self.connection.close()
            raise

    def _replace_lost_log(self, partition: str, expected_end: int) -> None:
        """Set aside a log that ends before what readers have read, and begin a new one there."""
        sqlite.checkpoint(self.connection, self.path, truncate=True)
        self.connection.close()
        if sqlite.wal_bytes(self.path):
            raise StorageError(
                f"the log ends at {self._end}, was read up to {expected_end} before, and cannot be "
                "moved out of the way: a reader holds it",
                where=str(self.path),
                fix="stop all roles, then start again",
            )
        self.damaged_tail_paths.append(set_lost_log_aside(self.path, self._end, expected_end))
        for suffix in ("-wal", "-shm"):  # their content is in the file
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        self._connect(partition, expected_end, "set_aside")

    def _recover_wal(self) -> None:
        try:
            sqlite.recover_wal(self.connection, self.path)
        except apsw.FullError:
            # Both are retried before the first write.
            self._checkpoint_failed = self._must_recover_wal = True

    def _create_tables(self, partition: str, first_position: int) -> None:
        with self.connection:
            self.connection.execute(TABLES_SQL)
            row = (
                FORMAT_VERSION,
                partition,
                first_position,
                chain.initial_checksum(partition),
                first_position,
                first_position,
            )
            self.connection.execute("INSERT OR IGNORE INTO log VALUES (1, ?, ?, ?, ?, ?, ?)", row)

    def _verify_and_repair(self, partition: str, on_damaged_tail: str) -> None:
        log_row = read_log_row(self.connection)
        self.partition = log_row.partition
        check_format(self.path, log_row.format)
        if self.partition != partition:
            raise InputError(
                f"this is the log of {self.partition}, not of {partition}",
                where=str(self.path),
                fix="give each producer its own file",
            )
        damaged_from = find_damaged_tail(self.connection, self.path)
        if damaged_from is not None:
            if on_damaged_tail == "stop":
                raise damaged_block_error(self.path, damaged_from)
            self.damaged_tail_paths.append(cut_tail(self.connection, self.path, damaged_from))
        if (
            damaged_path := repair_recorded_end(self.connection, self.path, on_damaged_tail)
        ) is not None:
            self.damaged_tail_paths.append(damaged_path)
        end, self._crc = read_last_end(self.connection)
        self._end = max(end, read_log_row(self.connection).end_min)

    @contextmanager
    def transaction(self) -> Iterator[apsw.Connection]:
        """Commit and sync all appends and the owner's own tables as one, or roll back."""
        self._check_usable()
        if self._checkpoint_failed:
            self._retry_checkpoint()
        end_and_crc_before = self._end, self._crc
        self._in_transaction = True
        try:
            with sqlite.translate_errors(self.path):
                self.connection.execute("BEGIN IMMEDIATE")
                yield self.connection
        except BaseException:
            self._end, self._crc = end_and_crc_before
            self._roll_back()
            raise
        finally:
            self._in_transaction = False
        self._commit(end_and_crc_before)

    def _commit(self, end_and_crc_before: tuple[int, int]) -> None:
        is_committed = False
        try:
            faults.fire_if_armed("stream.before_commit")
            with sqlite.translate_errors(self.path):
                self.connection.execute("COMMIT")
            is_committed = True
            faults.fire_if_armed("stream.after_commit")
            self._checkpoint_if_due()
        except BaseException as error:
            if is_committed and _is_disk_full(error):
                # The appended blocks are durable in the WAL. The next transaction retries the
                # checkpoint before it writes.
                log.warning(
                    "%s: the disk is full; nothing is lost, but nothing more may fit: free "
                    "some space",
                    self.path,
                )
                return
            if not is_committed:  # committed blocks keep their offsets
                self._end, self._crc = end_and_crc_before
                self._roll_back()
            if is_committed or not _is_disk_full(error):
                self._failure = str(error) or type(error).__name__
            if isinstance(error, OSError):
                raise StorageError(
                    f"writing failed: {error}",
                    where=str(self.path),
                    fix=fix_for_os_error(error, "look at the disk") + ", then start again",
                ) from error
            raise

    def _roll_back(self) -> None:
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")

    def _checkpoint_if_due(self) -> None:
        if self._checkpoint_failed or sqlite.wal_bytes(self.path) > sqlite.CHECKPOINT_BYTES:
            faults.fire_if_armed("stream.before_checkpoint")
            self._checkpoint_failed = True
            with sqlite.translate_errors(self.path):
                (sqlite.recover_wal if self._must_recover_wal else sqlite.checkpoint)(
                    self.connection, self.path
                )
            self._checkpoint_failed = self._must_recover_wal = False
            faults.fire_if_armed("stream.after_checkpoint")

    def _retry_checkpoint(self) -> None:
        try:
            self._checkpoint_if_due()
        except Exception as error:
            if not _is_disk_full(error):
                self._failure = str(error)
            raise

    def append(self, blocks: Iterable[Block]) -> int:
        """Append blocks, see `LogWriter.append`; `transaction()` commits them together."""
        if self._in_transaction:
            return self._insert(blocks)
        with self.transaction():
            return self._insert(blocks)

    def _insert(self, blocks: Iterable[Block]) -> int:
        faults.fire_if_armed("stream.before_append")
        start = self._end
        rows = []
        for block in blocks:
            if block.rows < 1:
                raise ValueError(f"a block takes at least one position, got rows={block.rows}")
            self._crc = chain.block_checksum(self._crc, self._end, block)
            rows.append(
                (self._end, block.kind, block.rows, self._crc, block.receipt, block.payload)
            )
            self._end += block.rows
        with sqlite.translate_errors(self.path):
            self.connection.executemany(
                f"INSERT INTO block({BLOCK_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)", rows
            )
            write_recorded_end(self.connection, self._end, self._crc)
        faults.fire_if_armed("stream.after_append")
        return start

    def end(self) -> int:
        return self._end

    def skip_to(self, offset: int) -> None:
        """Skip to `offset`, where the next block begins. Only within `transaction()`."""
        if not self._in_transaction:
            raise ValueError("skip_to is part of a transaction")
        if offset > self._end:
            self.connection.execute("UPDATE log SET end_min = ?", (offset,))
            self._end = offset

    def prune(self, before: int) -> int:
        """Prune blocks, see `LogWriter.prune`; later blocks reuse the space."""
        count = 0
        while batch_count := self.prune_batch(before):
            count += batch_count
        return count

    def prune_partitions(self, before_positions: Sequence[int]) -> int:
        """Prune the one partition, see `prune_batch`."""
        return self.prune_batch(before_positions[0])

    def prune_batch(
        self, before: int, *, on_delete: Callable[[list[StoredBlock]], None] | None = None
    ) -> int:
        """Prune some blocks in one transaction and return how many; 0 if none are left.

        Args:
            on_delete: gets the blocks, unchecked, within the transaction; its writes are
                committed with the deletion.
        """
        with self.transaction() as connection:
            select = (
                "SELECT offset, rows, crc, length(payload) FROM block WHERE offset + rows <= "
                "? ORDER BY offset LIMIT ?"
            )
            rows = connection.execute(select, (before, _PRUNE_BLOCKS_MAX)).fetchall()
            cumulative_bytes = list(accumulate(payload_bytes for _, _, _, payload_bytes in rows))
            rows = rows[: max(1, bisect_right(cumulative_bytes, _PRUNE_BYTES_MAX))]
            if rows:
                offset, count, crc, _ = rows[-1]
                if on_delete is not None:
                    deleted_rows = connection.execute(
                        f"SELECT {BLOCK_COLUMNS} FROM block WHERE offset <= ? ORDER BY offset",
                        (offset,),
                    )
                    on_delete(
                        [
                            StoredBlock(block_offset, Block(kind, row_count, payload, receipt))
                            for block_offset, kind, row_count, _, receipt, payload in deleted_rows
                        ]
                    )
                connection.execute("DELETE FROM block WHERE offset <= ?", (offset,))
                update = "UPDATE log SET first = ?1, first_crc = ?2, end_min = max(end_min, ?1)"
                connection.execute(update, (offset + count, crc))
            faults.fire_if_armed("stream.before_prune_commit")
        return len(rows)

    def shrink(self) -> None:
        """Return the disk space of a log without blocks; without effect if it has some."""
        self._check_usable()
        try:
            with sqlite.translate_errors(self.path):
                if self.connection.execute("SELECT 1 FROM block LIMIT 1").fetchone() is None:
                    self.connection.execute("VACUUM")
                    sqlite.checkpoint(
                        self.connection, self.path, truncate=True
                    )  # the WAL would keep all of it
        except BaseException as error:
            if not _is_disk_full(error):
                self._failure = (
                    str(error) or type(error).__name__
                )  # close() must not checkpoint after a failed sync
            raise

    def _check_usable(self) -> None:
        if self._failure:
            raise StorageError(
                f"an earlier write failed and its outcome is unknown: {self._failure}",
                where=str(self.path),
                fix="start this process again",
            )
        if self._in_transaction:
            raise ValueError("a transaction is open already")

    def close(self) -> None:
        """Checkpoint, close the file and release the lock."""
        try:
            if not self._failure:
                with sqlite.translate_errors(self.path):
                    sqlite.checkpoint(self.connection, self.path, truncate=True)
        except StorageError as error:
            if not _is_disk_full(error):
                raise
            log.warning(
                "%s: the disk is full; what was not moved into the file stays in the WAL beside it",
                self.path,
            )
        finally:
            self.connection.close()
            self._lock.release()

    def __enter__(self) -> "EmbeddedWriter":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _is_disk_full(error: BaseException) -> bool:
    return isinstance(error.__cause__, apsw.FullError)

"""Snapshots of a SQLite file in a topic, so that the topic it is built from can be pruned.

    index[2]   piece │ piece │ … │ snapshot ─ piece │ piece │ … │ snapshot  one partition per router

The last block names the newest snapshot by position. It is written once all pieces were read back
and match the file. So an interrupted snapshot does not count, nor does one of a late writer that
was replaced. Everything before the pieces of the newest is deleted.
"""

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import apsw
import msgspec
import pyarrow as pa

from tailorbird import faults
from tailorbird.errors import DamageError, NotReadyError, TailorbirdError
from tailorbird.stream import sqlite
from tailorbird.stream.kafka.cluster import Cluster, KafkaTopic
from tailorbird.stream.kafka.pruning import RecordDeleter
from tailorbird.stream.kafka.reader import KafkaReader
from tailorbird.stream.kafka.writer import KafkaWriter
from tailorbird.stream.protocol import Block

SNAPSHOT_ROWS = 500_000  # rows after which one is due
ITEM_SUMMARY = "items"  # the topic with the items of deleted rows
# kinds of blocks
PIECE = "piece"
SNAPSHOT = "snapshot"
PIECE_BYTES = 4 << 20
SNAPSHOT_AGE_S = 3600.0  # age after which fewer rows suffice
_CODEC = "zstd"
_READ_BYTES = 16 << 20
log = logging.getLogger(__name__)


class Snapshot(msgspec.Struct, frozen=True):
    """A complete snapshot.

    Attributes:
        position: position in the log up to which the file was built.
        followed: position in partition 0 up to which profiles were applied; 0 in its own router.
        first, pieces: position of the first piece in the topic, and number of pieces.
        size, sha256: size and checksum of the file.
    """

    position: int
    followed: int
    first: int
    pieces: int
    size: int
    sha256: str


_decode_snapshot = msgspec.json.Decoder(Snapshot).decode


class LatestSnapshot:
    """The newest snapshot of a topic, cached between reads."""

    def __init__(self, address: KafkaTopic) -> None:
        self._address = address
        self._end = -1
        self._newest_snapshot: Snapshot | None = None

    def refresh(self) -> Snapshot | None:
        """Return the newest snapshot, or None."""
        try:
            with KafkaReader(self._address) as reader:
                end = reader.end()
                start = reader.start()
                if end == self._end or end <= start:
                    return self._newest_snapshot
                last_block = reader.read(end - 1)[-1].block
                if last_block.kind == SNAPSHOT:
                    self._newest_snapshot = _decode_snapshot(last_block.payload)
                    self._end = end
                elif self._newest_snapshot is None:  # the last one is incomplete
                    position = start
                    while position < end and (
                        stored_blocks := reader.read(position, bytes_max=_READ_BYTES)
                    ):
                        self._newest_snapshot = next(
                            (
                                _decode_snapshot(stored_block.block.payload)
                                for stored_block in reversed(stored_blocks)
                                if stored_block.block.kind == SNAPSHOT
                            ),
                            self._newest_snapshot,
                        )
                        position = stored_blocks[-1].end
        except NotReadyError:
            return None
        return self._newest_snapshot


def take_snapshot(
    file: Path, address: KafkaTopic, read_positions: Callable[[apsw.Connection], tuple[int, int]]
) -> Snapshot:
    """Put a snapshot of the SQLite file into the topic, and return the newest in it.

    The writer of the file continues meanwhile. A temporary copy takes the same disk space again.

    Args:
        read_positions: returns `position` and `followed` of the copy.
    Raises:
        LockedError: another process writes snapshots to the topic.
        StorageError, DamageError: disk or broker.
    """
    copy_path = file.with_name(f"{file.name}.copy")
    try:
        _copy_database(file, copy_path)
        with sqlite.translate_errors(copy_path):
            connection = apsw.Connection(str(copy_path), flags=apsw.SQLITE_OPEN_READONLY)
            position, followed = read_positions(connection)
            connection.close()
        faults.fire_if_armed("snapshot.before_pieces")
        with KafkaWriter(address) as writer:
            previous_snapshot = LatestSnapshot(address).refresh()
            hasher = hashlib.sha256()
            size = 0
            start = writer.end()
            piece_count = 0
            for chunk in _read_chunks(copy_path):
                hasher.update(chunk)
                size = size + len(chunk)
                piece_count = piece_count + 1
                writer.append(
                    [
                        Block(
                            PIECE,
                            1,
                            pa.compress(chunk, codec=_CODEC, asbytes=True),
                            b"%d" % len(chunk),
                        )
                    ]
                )
            snapshot = Snapshot(position, followed, start, piece_count, size, hasher.hexdigest())
            for _ in _read_pieces(address, snapshot):  # reads it back to verify it
                pass
            newest_snapshot = (
                snapshot
                if previous_snapshot is None or snapshot.position >= previous_snapshot.position
                else previous_snapshot
            )
            faults.fire_if_armed("snapshot.before_whole")
            writer.append([Block(SNAPSHOT, 1, msgspec.json.encode(newest_snapshot))])
            faults.fire_if_armed("snapshot.before_delete")
        deleter = RecordDeleter(address)
        try:
            deleter.delete(newest_snapshot.first)
        finally:
            deleter.close()
        return newest_snapshot
    finally:
        copy_path.unlink(missing_ok=True)


def restore_snapshot(address: KafkaTopic, snapshot: Snapshot, file: Path) -> None:
    """Replace `file`, which nobody has open, by a snapshot. Raises DamageError, StorageError."""
    temporary_path = file.with_name(f"{file.name}.fresh")
    with sqlite.translate_errors(file):
        with temporary_path.open("wb") as copy_file:
            for chunk in _read_pieces(address, snapshot):
                copy_file.write(chunk)
            copy_file.flush()
            os.fsync(copy_file.fileno())
        for stale_path in (file, Path(f"{file}-wal"), Path(f"{file}-shm")):
            stale_path.unlink(missing_ok=True)
        temporary_path.rename(file)
        sqlite.sync_folder(file.parent)


def load_snapshot(address: KafkaTopic, snapshot: Snapshot) -> apsw.Connection:
    """Load the file of a snapshot into memory. Raises DamageError, StorageError."""
    connection = apsw.Connection(":memory:")
    connection.deserialize("main", b"".join(_read_pieces(address, snapshot)))
    return connection


@contextmanager
def open_item_summary(cluster: Cluster, start: int) -> Iterator[tuple[apsw.Connection | None, int]]:
    """Open the items of deleted rows, and the position that continues them.

    Args:
        start: where the routed log begins; without a summary, reading begins there.
    """
    address = KafkaTopic(cluster, ITEM_SUMMARY, ITEM_SUMMARY)
    newest_snapshot = LatestSnapshot(address).refresh()
    if newest_snapshot is None or newest_snapshot.position < start:
        if start > 1:
            log.error(
                "what was deleted is not summed up in %s: items that stood there alone "
                "are not known",
                address,
            )
        yield None, start
        return
    with closing(load_snapshot(address, newest_snapshot)) as connection:
        yield connection, newest_snapshot.position


def _copy_database(file: Path, copy_path: Path) -> None:
    copy_path.unlink(missing_ok=True)
    with sqlite.translate_errors(file):
        connection = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            connection.execute(
                "VACUUM INTO ?", (str(copy_path),)
            )  # a consistent copy despite concurrent writes
        finally:
            connection.close()


def _read_chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as source:
        while chunk := source.read(PIECE_BYTES):
            yield chunk


def _read_pieces(address: KafkaTopic, snapshot: Snapshot) -> Iterator[bytes]:
    """Yield the decompressed pieces of a snapshot.

    Raises:
        DamageError: after the last piece, if they do not match the checksum.
    """
    hasher = hashlib.sha256()
    size = 0
    position = snapshot.first
    end = snapshot.first + snapshot.pieces
    with KafkaReader(address) as reader:
        while position < end:
            stored_blocks = [
                stored_block
                for stored_block in reader.read(position, bytes_max=_READ_BYTES)
                if stored_block.offset < end
            ]
            if not stored_blocks:
                break
            for stored_block in stored_blocks:
                chunk = pa.decompress(
                    stored_block.block.payload,
                    decompressed_size=int(stored_block.block.receipt),
                    codec=_CODEC,
                    asbytes=True,
                )
                hasher.update(chunk)
                size += len(chunk)
                yield chunk
            position = stored_blocks[-1].end
    if (size, hasher.hexdigest()) != (snapshot.size, snapshot.sha256):
        fix = (
            "look at the broker's disks; an index on the disk of another router can be copied here"
        )
        raise DamageError(
            f"the snapshot at {snapshot.first} is not what was written", where=str(address), fix=fix
        )


class SnapshotThread:
    """A thread that takes snapshots of a router's index once enough rows were routed.

    Args:
        last_position: position of the last snapshot.
        interval_rows, age_s: number of rows, or age, after which one is due.
    """

    def __init__(
        self,
        file: Path,
        address: KafkaTopic,
        read_positions: Callable[[apsw.Connection], tuple[int, int]],
        *,
        last_position: int,
        interval_rows: int = SNAPSHOT_ROWS,
        age_s: float = SNAPSHOT_AGE_S,
    ) -> None:
        self._file = file
        self._address = address
        self._read_positions = read_positions
        self._last_position = last_position
        self._interval_rows = interval_rows
        self._age_s = age_s
        self._taken_at = time.monotonic()
        self._end = last_position
        self._thread: threading.Thread | None = None

    def tick(self, end: int) -> None:
        """Start a snapshot if one is due at the log's `end`."""
        self._end = end
        if self._is_due() and (self._thread is None or not self._thread.is_alive()):
            self._thread = threading.Thread(target=self._run, name="snapshot", daemon=True)
            self._thread.start()

    def _is_due(self) -> bool:
        rows = self._end - self._last_position
        return rows > 0 and (
            rows >= self._interval_rows or time.monotonic() - self._taken_at >= self._age_s
        )

    def _run(self) -> None:
        while self._is_due():
            self._taken_at = time.monotonic()
            end = self._end
            try:
                self._last_position = max(
                    end, take_snapshot(self._file, self._address, self._read_positions).position
                )
            except TailorbirdError as error:
                self._last_position = end  # retried after as many rows again
                log.error(
                    "no snapshot of the router's index was made, its topic stays longer: %s", error
                )
            except Exception:  # the router continues without a snapshot
                self._last_position = end
                log.exception("no snapshot of the router's index was made, its topic stays longer")

    def close(self) -> None:
        """Wait for a running snapshot."""
        if self._thread is not None:
            self._thread.join()

"""Tables of a log in a SQLite file, and its reader; `stream.embedded` is the writer.

Every block carries a sum over itself and the sum before it, and a reader checks this chain. A chain
does not tell where it should end, so a table of its own, on another page, records the last block's
end and sum. It reveals last blocks whose page the disk never wrote.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import apsw

from tailorbird.errors import DamageError, InputError, NotReadyError
from tailorbird.stream import chain, sqlite
from tailorbird.stream.protocol import BACKLOG_RECEIPTS, Backlog, Block, StoredBlock

TABLES_SQL = """
CREATE TABLE IF NOT EXISTS log(
    id INTEGER PRIMARY KEY CHECK (id = 1), format INTEGER NOT NULL, partition TEXT NOT NULL,
    first INTEGER NOT NULL,     -- where the log begins: behind the last block that was pruned
    first_crc INTEGER NOT NULL, -- the sum of that block
    origin INTEGER NOT NULL,    -- where it began when it was made
    end_min INTEGER NOT NULL    -- offsets below were given once and are not given again
) STRICT;
CREATE TABLE IF NOT EXISTS block(
    offset INTEGER PRIMARY KEY, kind TEXT NOT NULL, rows INTEGER NOT NULL, crc INTEGER NOT NULL,
    receipt BLOB NOT NULL, payload BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS head(
    id INTEGER PRIMARY KEY CHECK (id = 1),
    last INTEGER NOT NULL,      -- behind the last block that was appended
    crc INTEGER NOT NULL        -- its sum
) STRICT;
"""
FORMAT_VERSION = 1
BLOCK_COLUMNS = "offset, kind, rows, crc, receipt, payload"


def open_reader(path: Path) -> "EmbeddedReader":
    """Open the log at `path` for reading. Raises NotReadyError if there is none yet."""
    return EmbeddedReader(Path(path))


class LogRow(NamedTuple):
    """The row of the table `log`."""

    format: int
    partition: str
    first: int
    first_crc: int
    origin: int
    end_min: int


class LogEnd(NamedTuple):
    """The position after a block's last row, and its checksum."""

    end: int
    crc: int


class EmbeddedReader:
    """A reader of a log in a SQLite file.

    It holds no lock between calls, so it never keeps the writer's WAL from shrinking.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connect()

    def _connect(self) -> None:
        path = self.path
        self._data_version = -1
        with sqlite.translate_errors(path):
            self._file_id = _get_file_id(path)
            self.connection = sqlite.connect_reader(path)
            try:
                log_row = read_log_row(self.connection)
                self.partition = log_row.partition
                check_format(path, log_row.format)
            except apsw.SQLError:  # its writer has just created the file
                self.connection.close()
                raise NotReadyError(
                    "this file holds no log yet", where=str(path), fix="start its writer first"
                ) from None
            except BaseException:
                self.connection.close()
                raise

    def read(self, start: int, *, bytes_max: int = 8 << 20) -> list[StoredBlock]:
        """Read blocks, see `LogReader.read`."""
        with self.snapshot():
            log_row = read_log_row(self.connection)
            if start < log_row.first and log_row.first > log_row.origin:
                raise InputError(
                    f"rows before {log_row.first} were pruned, asked for {start}",
                    where=str(self.path),
                    fix="read them from the lake, then go on here",
                )
            end = self._read_checked_end()
            if start > end:
                raise DamageError(
                    f"the log ends at {end}, but was read up to {start} before: rows were lost",
                    where=str(self.path),
                    fix="see `doctor`",
                )
            query = self.connection.execute(
                "SELECT offset, rows, crc FROM block WHERE offset < ? ORDER BY offset DESC LIMIT 2",
                (start,),
            )
            preceding_blocks = [_require_integers(row) for row in query.fetchall()]
            if preceding_blocks:
                offset, rows, _ = preceding_blocks[0]
                if offset + rows > start:  # `start` lies within this block
                    start = offset
                    del preceding_blocks[0]
            previous_crc = preceding_blocks[0][2] if preceding_blocks else log_row.first_crc
            blocks = self._read_checked(start, previous_crc, bytes_max)
        return blocks

    @contextmanager
    def snapshot(self) -> Iterator[apsw.Connection]:
        """Read the log and its owner's tables as of one moment within the block."""
        self._reopen_if_replaced()
        with sqlite.translate_errors(self.path):
            self.connection.execute("BEGIN")
            try:
                yield self.connection
            except apsw.SQLError as error:
                raise apsw.CorruptError(f"the log's tables are damaged: {error}") from error
            finally:
                self.connection.execute("COMMIT")

    def _read_checked(self, start: int, previous_crc: int, bytes_max: int) -> list[StoredBlock]:
        blocks: list[StoredBlock] = []
        for row in self.connection.execute(
            f"SELECT {BLOCK_COLUMNS} FROM block WHERE offset >= ? ORDER BY offset", (start,)
        ):
            block = decode_block(row, previous_crc)
            if block is None:
                raise damaged_block_error(self.path, row[0])
            bytes_max -= len(block.payload)
            if blocks and bytes_max < 0:
                break
            previous_crc = row[3]
            blocks.append(StoredBlock(row[0], block))
        return blocks

    def _read_checked_end(self) -> int:
        end, _ = read_last_end(self.connection)
        recorded_end = read_recorded_end(self.connection)
        if recorded_end is not None and recorded_end.end > end:
            raise lost_tail_error(self.path, end, recorded_end.end)
        return max(read_log_row(self.connection).end_min, end)

    def start(self) -> int:
        with sqlite.translate_errors(self.path):
            return read_log_row(self.connection).first

    def has_pruned_rows(self) -> bool:
        with sqlite.translate_errors(self.path):
            log_row = read_log_row(self.connection)
        return log_row.first > log_row.origin

    def end(self) -> int:
        with self.snapshot():
            end = self._read_checked_end()
        return end

    def backlog_after(self, position: int) -> Backlog:
        with self.snapshot() as connection:
            end = self._read_checked_end()
            block_below = connection.execute(
                "SELECT offset, rows FROM block WHERE offset <= ? ORDER BY offset DESC LIMIT 1",
                (position,),
            ).get
            first_offset = (
                position
                if block_below is None or sum(_require_integers(block_below)) <= position
                else block_below[0]
            )  # a block may hold the position
            block_count = connection.execute(
                "SELECT count(*) FROM block WHERE offset >= ?", (first_offset,)
            ).get
            receipts = connection.execute(
                "SELECT receipt FROM block WHERE offset >= ? ORDER BY offset LIMIT ?",
                (first_offset, BACKLOG_RECEIPTS),
            )
            rows = max(0, end - max(position, read_log_row(connection).first))
            backlog = Backlog(
                rows, block_count, tuple(receipt for (receipt,) in receipts), max(0, position - end)
            )
        return backlog

    def _reopen_if_replaced(self) -> None:
        """Reopen the file where the writer replaced the log."""
        current_file_id = _get_file_id(self.path)
        if current_file_id is not None and current_file_id != self._file_id:
            self.connection.close()
            self._connect()

    def has_changed(self) -> bool:
        self._reopen_if_replaced()
        with sqlite.translate_errors(self.path):
            version = self.connection.execute("PRAGMA data_version").get
        has_changed = version != self._data_version
        self._data_version = version
        return has_changed

    def close(self) -> None:
        self.connection.close()

    def __enter__(self) -> "EmbeddedReader":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _get_file_id(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def damaged_block_error(path: Path, offset: int) -> DamageError:
    """Return the error for a block that does not match its checksum."""
    return DamageError(
        f"the block at offset {offset} does not match its checksum",
        where=str(path),
        fix="stop all roles, keep a copy of the file, and restore it from the archive: "
        "tailorbird lake verify",
    )


def lost_tail_error(path: Path, end: int, recorded_end: int) -> DamageError:
    """Return the error for last blocks that are missing."""
    return DamageError(
        f"the log ends at {end}, but was written up to {recorded_end}: the disk lost the rows "
        "between",
        where=str(path),
        fix="stop all roles, keep a copy of the file, look at the disk, and see what is left "
        "elsewhere: tailorbird lake verify",
    )


def check_format(path: Path, version: int) -> None:
    """Raise InputError if the file has another format version."""
    if version != FORMAT_VERSION:
        raise InputError(
            f"expected a log of format {FORMAT_VERSION}, got {version}",
            where=str(path),
            fix="use the version that wrote it",
        )


def decode_block(row: tuple, previous_crc: int) -> Block | None:
    """Decode a row of `BLOCK_COLUMNS`; None if it does not follow the checksum `previous_crc`.

    Flipped bits may change even the types of values.
    """
    offset, kind, rows, crc, receipt, payload = row
    if not (
        isinstance(kind, str)
        and isinstance(rows, int)
        and isinstance(receipt, bytes)
        and isinstance(payload, bytes)
    ):
        return None
    if not isinstance(previous_crc, int) or not 0 <= previous_crc < 1 << 32:
        return None
    block = Block(kind, rows, payload, receipt)
    return block if chain.block_checksum(previous_crc, offset, block) == crc else None


def read_log_row(connection: apsw.Connection) -> LogRow:
    """Return the row of the table `log`."""
    row = sqlite.read_one_row(
        connection, "SELECT format, partition, first, first_crc, origin, end_min FROM log"
    )
    if [type(value) for value in row] != [int, str, int, int, int, int]:
        raise apsw.CorruptError("the log's own row is damaged")
    return LogRow(*row)


def read_recorded_end(connection: apsw.Connection) -> LogEnd | None:
    """Return the recorded end and sum of the last block; None in a log of an earlier version."""
    try:
        row = connection.execute("SELECT last, crc FROM head").fetchone()
    except apsw.SQLError:
        return None
    return None if row is None else LogEnd(*_require_integers(row))


def read_last_end(connection: apsw.Connection) -> LogEnd:
    """Return the end and sum of the last existing block."""
    last = connection.execute(
        "SELECT offset + rows, crc FROM block ORDER BY offset DESC LIMIT 1"
    ).fetchone()
    if last is not None:
        return LogEnd(*_require_integers(last))
    log_row = read_log_row(connection)
    return LogEnd(log_row.first, log_row.first_crc)


def _require_integers(row: tuple) -> tuple[int, ...]:
    """Return the row if it holds integers; on a misplaced page it may hold anything."""
    if any(type(value) is not int for value in row):
        raise apsw.CorruptError("a row of the log's tables is not what was written")
    return row

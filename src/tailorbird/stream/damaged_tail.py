"""Ends of a log that the disk lost or damaged: found when a writer opens, and set aside.

LOG.db.damaged-OFFSET    the blocks from OFFSET on, or the whole log that lost rows
"""

import logging
from pathlib import Path

import apsw
import msgspec

from tailorbird.stream import sqlite
from tailorbird.stream.reading import (
    BLOCK_COLUMNS,
    damaged_block_error,
    decode_block,
    lost_tail_error,
    read_last_end,
    read_log_row,
    read_recorded_end,
)

log = logging.getLogger(__name__)
_TAIL_BLOCKS = 64  # last blocks that a writer checks when it opens


def find_damaged_tail(connection: apsw.Connection, path: Path) -> int | None:
    """Return the offset from which all blocks are damaged, if any.

    Raises:
        DamageError: an intact block follows a damaged one.
    """
    rows = connection.execute(
        f"SELECT {BLOCK_COLUMNS} FROM block ORDER BY offset DESC LIMIT ?", (_TAIL_BLOCKS + 1,)
    ).fetchall()
    if not rows:
        return None
    rows.reverse()
    if len(rows) > _TAIL_BLOCKS:
        _, _, _, previous_crc, _, _ = rows.pop(0)
    else:
        previous_crc = read_log_row(connection).first_crc
    damaged_from: int | None = None
    for row in rows:
        is_intact = decode_block(row, previous_crc) is not None
        offset, _, _, previous_crc, _, _ = row
        if is_intact and damaged_from is not None:
            raise damaged_block_error(path, damaged_from)
        if not is_intact and damaged_from is None:
            damaged_from = offset
    return damaged_from


def cut_tail(connection: apsw.Connection, path: Path, offset: int) -> Path:
    """Move blocks from `offset` on into a file beside the log; never reuse their offsets.

    Returns:
        The file beside the log.
    """
    rows = connection.execute(
        f"SELECT {BLOCK_COLUMNS} FROM block WHERE offset >= ? ORDER BY offset", (offset,)
    ).fetchall()
    recorded_end = read_recorded_end(connection)
    if recorded_end is not None:
        end = recorded_end.end
    else:
        last_offset, _, last_rows, *_ = rows[-1]
        end = last_offset + (last_rows if isinstance(last_rows, int) else 1)
    aside_path = path.with_name(f"{path.name}.damaged-{offset}")
    sqlite.write_synced(aside_path, msgspec.msgpack.encode(rows))
    with connection:
        connection.execute("DELETE FROM block WHERE offset >= ?", (offset,))
        connection.execute("UPDATE log SET end_min = max(end_min, ?)", (end,))
        write_recorded_end(connection, *read_last_end(connection))
    log.critical(
        "%s: the blocks at %d to %d do not match their checksums, or are gone; what "
        "there is of them was moved to %s. They may hold "
        "events that were acknowledged: keep the file, and look at the disk",
        path,
        offset,
        end,
        aside_path,
    )
    return aside_path


def repair_recorded_end(
    connection: apsw.Connection, path: Path, on_damaged_tail: str
) -> Path | None:
    """Compare the last block with the record of it, and make the record right.

    Args:
        on_damaged_tail: "stop" to raise if the log ends before its record.

    Returns:
        The file in which the end of the log was set aside, if any.

    Raises:
        DamageError: the log ends before its record.
    """
    aside_path = None
    last_end = read_last_end(connection)
    recorded_end = read_recorded_end(connection)
    if recorded_end == last_end:
        return None
    if recorded_end is not None and recorded_end.end > last_end.end:
        if on_damaged_tail == "stop":
            raise lost_tail_error(path, last_end.end, recorded_end.end)
        aside_path = cut_tail(connection, path, last_end.end)
    elif recorded_end is not None:  # the chain is intact beyond it, so the record is stale
        log.critical(
            "%s: the note of the last block was not what was written, the blocks are: "
            "look at the disk",
            path,
        )
    with connection:
        write_recorded_end(connection, *read_last_end(connection))
    return aside_path


def write_recorded_end(connection: apsw.Connection, end: int, crc: int) -> None:
    """Record offset and checksum of the end of the log, within a transaction."""
    connection.execute("INSERT OR REPLACE INTO head VALUES (1, ?, ?)", (end, crc))


def set_lost_log_aside(path: Path, end: int, expected_end: int, note: bytes | None = None) -> Path:
    """Set aside the lost log, or a note where nothing is left of it, and log the loss.

    Returns:
        The file that it was set aside in.
    """
    number = end
    while (aside_path := path.with_name(f"{path.name}.damaged-{number}")).exists() and note is None:
        number += 1
    if note is None:
        path.rename(aside_path)
        sqlite.sync_folder(path.parent)
    else:
        sqlite.write_synced(aside_path, note)
    log.critical(
        "%s: the log %s, but was read up to %d before: it was lost, or is an older copy. "
        "A new one begins at %d, so that nothing is "
        "lost from now on; %s is what is left. Rows that nobody had read are missing: "
        "tailorbird lake verify; look at the disk",
        path,
        f"ends at {end}" if note is None else "is not there",
        expected_end,
        expected_end,
        aside_path,
    )
    return aside_path

"""Logs in SQLite files: find corrupt ones, and rebuild a raw or an answer log.

    block that the archive has, or that `answers` has   → taken from there, or no longer needed
    block that matches its checksum and the one before  → kept
    any other block                                     → lost: the log stays as it is

A corrupt routed log is not rebuilt: the router's index of events is in the same file.

The new log is written next to the old one, under a name that marks it as complete once it is.
`finish_rebuild` then puts it in place, and continues that after a crash.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import apsw

from tailorbird import faults
from tailorbird.errors import TailorbirdError
from tailorbird.lake.files import durable
from tailorbird.stream import EmbeddedReader, StoredBlock, embedded, sqlite
from tailorbird.stream.reading import BLOCK_COLUMNS, decode_block, read_recorded_end

_DRAFT_PREFIX = "draft-of-"
_COMPLETE_PREFIX = "rebuilt-"
_SIDE_FILE_SUFFIXES = ("-wal", "-shm")


@dataclass(frozen=True)
class Salvage:
    """The content of a rebuilt log.

    Attributes:
        start: the first row.
        end: behind the last row.
        blocks: in order.
        lost_spans: spans of rows that no block holds.
    """

    start: int
    end: int
    blocks: list[StoredBlock]
    lost_spans: list[tuple[int, int]]


def log_corruption(path: Path) -> str | None:
    """Return what is corrupt in a log, or None. Reads all of it."""
    try:
        with EmbeddedReader(path) as reader:
            position = reader.start()
            while blocks := reader.read(position):
                position = blocks[-1].end
            with sqlite.translate_errors(path):
                quick_check = reader.connection.execute("PRAGMA quick_check(1)").get
        return None if quick_check == "ok" else f"SQLite: {quick_check}".replace("\n", " ")
    except TailorbirdError as error:
        return error.message


def salvage_log(
    path: Path, read_copies: Callable[[], list[StoredBlock]], first_needed_row: int, log_end: int
) -> Salvage:
    """Collect what is left of a log from row `first_needed_row` on.

    Args:
        read_copies: blocks that another copy vouches for; they win over the log's own.
        log_end: where the log ended, as far as others know; the log itself may know better.
    """
    intact_blocks, own_end = _intact_blocks(path)
    block_by_offset = {stored_block.offset: stored_block for stored_block in intact_blocks}
    block_by_offset.update({stored_block.offset: stored_block for stored_block in read_copies()})
    blocks = [
        block_by_offset[offset]
        for offset in sorted(block_by_offset)
        if block_by_offset[offset].end > first_needed_row
    ]
    log_end = max(
        [log_end, own_end, first_needed_row, *(stored_block.end for stored_block in blocks)]
    )
    lost_spans: list[tuple[int, int]] = []
    position = start = min(
        [first_needed_row, *(stored_block.offset for stored_block in blocks[:1])]
    )
    for stored_block in blocks:
        if stored_block.offset > position:
            lost_spans.append((position, stored_block.offset))
        position = max(position, stored_block.end)
    if position < log_end:
        lost_spans.append((position, log_end))
    return Salvage(start, log_end, blocks, lost_spans)


def _intact_blocks(path: Path) -> tuple[list[StoredBlock], int]:
    """Read the blocks that match their checksum and the one before, and where the log ends."""
    blocks: list[StoredBlock] = []
    end = 0
    try:
        with sqlite.translate_errors(path):
            connection = sqlite.connect_reader(path)
            try:
                previous_crc = sqlite.read_one_row(connection, "SELECT first_crc FROM log")[0]
                end, _ = read_recorded_end(connection) or (0, 0)
                for row in connection.execute(f"SELECT {BLOCK_COLUMNS} FROM block ORDER BY offset"):
                    offset = row[0]
                    crc = row[3]
                    block = decode_block(row, previous_crc)
                    if block is not None:
                        blocks.append(StoredBlock(offset, block))
                    previous_crc = crc
            finally:
                connection.close()
    except (TailorbirdError, apsw.Error):
        pass  # The blocks read so far were checked.
    return blocks, end


def rebuild_log(path: Path, partition: str, salvage: Salvage, set_aside_folder: Path) -> None:
    """Replace a corrupt log by one of these blocks; keep the corrupt one in `set_aside_folder`."""
    draft_path = path.with_name(_DRAFT_PREFIX + path.name)
    for file in _files_of_log(draft_path):
        file.unlink(missing_ok=True)
    with (
        embedded.open_writer(
            draft_path, partition=partition, first_position=salvage.start
        ) as writer,
        writer.transaction(),
    ):
        for stored_block in salvage.blocks:
            writer.skip_to(stored_block.offset)
            writer.append([stored_block.block])
        writer.skip_to(salvage.end)
    durable.sync_file(draft_path)
    faults.fire_if_armed("rebuild.before_log")
    draft_path.replace(path.with_name(_COMPLETE_PREFIX + path.name))
    durable.sync_folder(path.parent)
    for leftover in (
        *_files_of_log(draft_path)[1:],
        draft_path.with_name(draft_path.name + ".lock"),
    ):
        leftover.unlink(missing_ok=True)
    finish_rebuild(path, set_aside_folder)


def finish_rebuild(path: Path, set_aside_folder: Path) -> bool:
    """Put a rebuilt log in its place if it is complete; return whether there was one.

    Only for the log's writer.
    """
    complete_path = path.with_name(_COMPLETE_PREFIX + path.name)
    if not complete_path.exists():
        return False
    if path.exists() and _intact_blocks(path)[1] > _intact_blocks(complete_path)[1]:
        complete_path.unlink()  # Rows were appended to the old log since.
        return False
    durable.make_folder(set_aside_folder)
    for file in _files_of_log(path):
        if file.exists():
            _keep_copy(file, set_aside_folder)
    durable.sync_folder(set_aside_folder)
    # SQLite would play the old log's write-ahead file into the new log.
    for file in _files_of_log(path)[1:]:
        file.unlink(missing_ok=True)
    durable.sync_folder(path.parent)
    faults.fire_if_armed("rebuild.between_log_files")
    complete_path.replace(path)
    durable.sync_folder(path.parent)
    return True


def unfinished_rebuilds(folder: Path) -> list[Path]:
    """Return the logs in a folder whose rebuild was cut short after it was complete."""
    return [
        path.with_name(path.name.removeprefix(_COMPLETE_PREFIX))
        for path in sorted(folder.glob(f"{_COMPLETE_PREFIX}*.db"))
    ]


def _keep_copy(file: Path, folder: Path) -> None:
    """Keep a file in a folder under a free name, unless it is there already."""
    number = 0
    while (target := folder / (f"{file.name}.{number}" if number else file.name)).exists():
        if target.stat().st_size == file.stat().st_size and (
            target.read_bytes() == file.read_bytes()
        ):
            return
        number += 1
    with durable.translate_disk_errors(target):
        try:
            os.link(file, target)
        except OSError:
            shutil.copyfile(file, target)
            durable.sync_file(target)


def _files_of_log(path: Path) -> list[Path]:
    return [path, *(path.with_name(path.name + suffix) for suffix in _SIDE_FILE_SUFFIXES)]


def format_spans(spans: list[tuple[int, int]]) -> str:
    """Format spans of rows as text.

    >>> format_spans([(3, 9), (12, 13)])
    'rows 3 to 8, 12'
    """
    return "rows " + ", ".join(
        f"{start:,}" if end == start + 1 else f"{start:,} to {end - 1:,}" for start, end in spans
    )

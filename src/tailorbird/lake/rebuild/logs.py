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
from tailorbird.stream.reading import COLUMNS, decode_block, head_row

_DRAFT, _COMPLETE = "draft-of-", "rebuilt-"
_SIDE_FILES = ("-wal", "-shm")


@dataclass(frozen=True)
class Salvage:
    """The content of a rebuilt log.

    Attributes:
        start: the first row.
        end: behind the last row.
        blocks: in order.
        lost: spans of rows that no block holds.
    """

    start: int
    end: int
    blocks: list[StoredBlock]
    lost: list[tuple[int, int]]


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


def salvage(
    path: Path, archived: Callable[[], list[StoredBlock]], first_needed: int, end: int
) -> Salvage:
    """Collect what is left of a log from row `first_needed` on.

    Args:
        archived: blocks that another copy vouches for; they win over the log's own.
        end: where the log ended, as far as others know; the log itself may know better.
    """
    intact_blocks, own_end = _intact_blocks(path)
    by_offset = {stored.offset: stored for stored in intact_blocks}
    by_offset.update({stored.offset: stored for stored in archived()})
    blocks = [
        by_offset[offset] for offset in sorted(by_offset) if by_offset[offset].end > first_needed
    ]
    end = max([end, own_end, first_needed, *(stored.end for stored in blocks)])
    lost_spans: list[tuple[int, int]] = []
    position = start = min([first_needed, *(stored.offset for stored in blocks[:1])])
    for stored in blocks:
        if stored.offset > position:
            lost_spans.append((position, stored.offset))
        position = max(position, stored.end)
    if position < end:
        lost_spans.append((position, end))
    return Salvage(start, end, blocks, lost_spans)


def _intact_blocks(path: Path) -> tuple[list[StoredBlock], int]:
    """Read the blocks that match their checksum and the one before, and where the log ends."""
    blocks: list[StoredBlock] = []
    end = 0
    try:
        with sqlite.translate_errors(path):
            connection = sqlite.connect_reader(path)
            try:
                previous_crc = sqlite.one_row(connection, "SELECT first_crc FROM log")[0]
                head = head_row(connection)
                end = head[0] if head is not None else 0
                for row in connection.execute(f"SELECT {COLUMNS} FROM block ORDER BY offset"):
                    block = decode_block(row, previous_crc)
                    if block is not None:
                        blocks.append(StoredBlock(row[0], block))
                    previous_crc = row[3]
            finally:
                connection.close()
    except (TailorbirdError, apsw.Error):
        pass  # The blocks read so far were checked.
    return blocks, end


def rebuild_log(path: Path, partition: str, content: Salvage, set_aside: Path) -> None:
    """Replace a corrupt log by one of these blocks; the corrupt one is kept in `set_aside`."""
    draft_path = path.with_name(_DRAFT + path.name)
    for part in _files_of_log(draft_path):
        part.unlink(missing_ok=True)
    with (
        embedded.open_writer(
            draft_path, partition=partition, first_position=content.start
        ) as writer,
        writer.transaction(),
    ):
        for stored in content.blocks:
            writer.skip_to(stored.offset)
            writer.append([stored.block])
        writer.skip_to(content.end)
    durable.sync_file(draft_path)
    faults.at("rebuild.before_log")
    draft_path.replace(path.with_name(_COMPLETE + path.name))
    durable.sync_folder(path.parent)
    for leftover in (
        *_files_of_log(draft_path)[1:],
        draft_path.with_name(draft_path.name + ".lock"),
    ):
        leftover.unlink(missing_ok=True)
    finish_rebuild(path, set_aside)


def finish_rebuild(path: Path, set_aside: Path) -> bool:
    """Put a rebuilt log in its place if it is complete; return whether there was one.

    Only for the log's writer.
    """
    complete_path = path.with_name(_COMPLETE + path.name)
    if not complete_path.exists():
        return False
    if path.exists() and _intact_blocks(path)[1] > _intact_blocks(complete_path)[1]:
        complete_path.unlink()  # Rows were appended to the old log since.
        return False
    durable.make_folder(set_aside)
    for part in _files_of_log(path):
        if part.exists():
            _copy(part, set_aside)
    durable.sync_folder(set_aside)
    # SQLite would play the old log's write-ahead file into the new log.
    for part in _files_of_log(path)[1:]:
        part.unlink(missing_ok=True)
    durable.sync_folder(path.parent)
    faults.at("rebuild.between_log_files")
    complete_path.replace(path)
    durable.sync_folder(path.parent)
    return True


def unfinished_rebuilds(folder: Path) -> list[Path]:
    """Return the logs in a folder whose rebuild was cut short after it was complete."""
    return [
        path.with_name(path.name.removeprefix(_COMPLETE))
        for path in sorted(folder.glob(f"{_COMPLETE}*.db"))
    ]


def _copy(part: Path, folder: Path) -> None:
    """Keep a file in a folder under a free name, unless it is there already."""
    number = 0
    while (target := folder / (f"{part.name}.{number}" if number else part.name)).exists():
        if target.stat().st_size == part.stat().st_size and (
            target.read_bytes() == part.read_bytes()
        ):
            return
        number += 1
    with durable.disk_errors(target):
        try:
            os.link(part, target)
        except OSError:
            shutil.copyfile(part, target)
            durable.sync_file(target)


def _files_of_log(path: Path) -> list[Path]:
    return [path, *(path.with_name(path.name + suffix) for suffix in _SIDE_FILES)]


def format_spans(spans: list[tuple[int, int]]) -> str:
    """Format spans of rows as text.

    >>> format_spans([(3, 9), (12, 13)])
    'rows 3 to 8, 12'
    """
    return "rows " + ", ".join(
        f"{start:,}" if end == start + 1 else f"{start:,} to {end - 1:,}" for start, end in spans
    )

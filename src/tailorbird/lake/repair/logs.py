"""Logs in SQLite files: whether each reads as it was written, and making a raw or an answer log
anew of what is left.

    block in the archive, or taken into `answers` already     → not needed, or had from there
    block that fits its own and the sum before it              → kept
    any other block                                            → lost: the log is left as it is, and what is lost is told

A damaged routed log is not made anew: the router's index of what it has seen stands in the same
file.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import apsw

from tailorbird.errors import TailorbirdError
from tailorbird.lake import durable
from tailorbird.stream import EmbeddedReader, Stored, embedded, sqlite
from tailorbird.stream.reading import COLUMNS, fitting, head_row


@dataclass(frozen=True)
class Salvage:
    """What a log would be made of: blocks in order, from where on, up to where, and the rows that
    none holds.
    """

    start: int
    end: int
    blocks: list[Stored]
    lost: list[tuple[int, int]]


def log_fault(path: Path) -> str | None:
    """What is wrong with a log; costs the reading of all of it."""
    try:
        with EmbeddedReader(path) as reader:
            at = reader.start()
            while blocks := reader.read(at):
                at = blocks[-1].end
            with sqlite.errors(path):
                told = reader.connection.execute("PRAGMA quick_check(1)").get
        return None if told == "ok" else f"SQLite: {told}".replace("\n", " ")
    except TailorbirdError as error:
        return error.message


def salvage(path: Path, elsewhere: Callable[[], list[Stored]], needed: int, end: int) -> Salvage:
    """What can be had of a log from row `needed` on.

    Args:
        elsewhere: blocks that another copy vouches for, which are taken before the log's own.
        end: where the log ended, as far as others know; the log itself may know better.
    """
    own, told = _whole_blocks(path)
    have = {stored.offset: stored for stored in own}
    have.update({stored.offset: stored for stored in elsewhere()})
    blocks = [have[offset] for offset in sorted(have) if have[offset].end > needed]
    end = max([end, told, needed, *(stored.end for stored in blocks)])
    lost: list[tuple[int, int]] = []
    at = start = min([needed, *(stored.offset for stored in blocks[:1])])
    for stored in blocks:
        if stored.offset > at:
            lost.append((at, stored.offset))
        at = max(at, stored.end)
    if at < end:
        lost.append((at, end))
    return Salvage(start, end, blocks, lost)


def _whole_blocks(path: Path) -> tuple[list[Stored], int]:
    """The blocks that fit behind the sum of the one before, and where the log says that it ends."""
    blocks: list[Stored] = []
    end = 0
    try:
        with sqlite.errors(path):
            connection = sqlite.connect_reader(path)
            try:
                previous = sqlite.one_row(connection, "SELECT first_crc FROM log")[0]
                head = head_row(connection)
                end = head[0] if head is not None else 0
                for row in connection.execute(f"SELECT {COLUMNS} FROM block ORDER BY offset"):
                    block = fitting(row, previous)
                    if block is not None:
                        blocks.append(Stored(row[0], block))
                    previous = row[3]
            finally:
                connection.close()
    except (TailorbirdError, apsw.Error):
        pass  # what was read until then was checked
    return blocks, end


def write_anew(path: Path, partition: str, found: Salvage, aside: Path) -> None:
    """Put a log of these blocks in the place of the one that is damaged, which is kept in `aside`."""
    draft = path.with_name(f"mended-{path.name}")
    for part in _parts(draft):
        part.unlink(missing_ok=True)
    with (
        embedded.open_writer(draft, partition=partition, first=found.start) as writer,
        writer.transaction(),
    ):
        for stored in found.blocks:
            writer.skip_to(stored.offset)
            writer.append([stored.block])
        writer.skip_to(found.end)
    for part in _parts(path):
        if part.exists():
            durable.move_aside(part, aside)
    draft.replace(path)
    for part in _parts(draft):
        part.unlink(missing_ok=True)
    draft.with_name(draft.name + ".lock").unlink(missing_ok=True)
    durable.sync_folder(path.parent)


def _parts(path: Path) -> list[Path]:
    return [path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")]


def spans(lost: list[tuple[int, int]]) -> str:
    """Rows as text.

    >>> spans([(3, 9), (12, 13)])
    'rows 3 to 8, 12'
    """
    return "rows " + ", ".join(
        f"{first:,}" if end == first + 1 else f"{first:,} to {end - 1:,}" for first, end in lost
    )

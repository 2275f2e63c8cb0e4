"""Compare the content of archive and tables: each archived row must have the event_id, or if
refused the bytes, of the row that was made of it.

`lake.verify` runs it with `deep`, once files and row counts are right. It reads the archive in
pieces, so memory does not grow with the lake. Rows that an erasure rewrote have other ids on
purpose and are skipped.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow.dataset as ds

from tailorbird.events.contract.contract import ERASED_BODY, split_body
from tailorbird.events.contract.verdict import Receipt
from tailorbird.lake.files.archive import Archive, ArchiveFile
from tailorbird.lake.lake import Lake
from tailorbird.stream import StoredBlock

GROUP_ROWS = 200_000
UNLINKED_PREFIX = "erased-"  # prefix of the ids of erased people's events
_SHOWN_MAX = 5


class _EventId(msgspec.Struct):
    event_id: Any = None


_decode_event_id = msgspec.json.Decoder(_EventId).decode
_decode_receipt = msgspec.json.Decoder(Receipt).decode


def content_differences(
    reader: Lake, archive: Archive, progress: Callable[[int], None] = lambda size: None
) -> Iterator[tuple[str, str]]:
    """Yield, for each partition with archived rows that differ from the tables' rows, where and
    what differs.
    """
    for partition in archive.positions():
        files = [file for file in archive.files if file.partition == partition]
        differing_rows = [
            row
            for file_group in _group_files(files)
            for row in _group_differences(reader, archive, file_group, progress)
        ]
        if differing_rows:
            shown = ", ".join(map(str, differing_rows[:_SHOWN_MAX]))
            yield (
                f"raw rows of {partition}",
                f"{len(differing_rows)} are in the tables with another content than in the "
                "archive, "
                f"such as {shown}",
            )


def _group_files(files: Sequence[ArchiveFile]) -> Iterator[list[ArchiveFile]]:
    file_group: list[ArchiveFile] = []
    for file in files:
        if (
            file_group
            and sum(grouped_file.rows for grouped_file in file_group) + file.rows > GROUP_ROWS
        ):
            yield file_group
            file_group = []
        file_group.append(file)
    if file_group:
        yield file_group


def _group_differences(
    reader: Lake,
    archive: Archive,
    file_group: Sequence[ArchiveFile],
    progress: Callable[[int], None],
) -> Iterator[int]:
    start = file_group[0].first
    end = file_group[-1].end
    rows_of_group = (
        (ds.field("raw_partition") == file_group[0].partition)
        & (ds.field("raw_offset") >= start)
        & (ds.field("raw_offset") < end)
    )
    # Indexed by the number of the raw row minus `start`.
    id_by_row = np.full(end - start, None, object)
    body_by_row = np.full(end - start, None, object)
    for table, column, target in (
        ("events", "event_id", id_by_row),
        ("duplicates", "event_id", id_by_row),
        ("quarantine", "body", body_by_row),
    ):
        _fill_rows(reader, table, column, rows_of_group, start, target)
    for file in file_group:
        for stored_block in archive.read(file):
            if stored_block.block.kind == "body":
                yield from _block_differences(stored_block, id_by_row, body_by_row, start)
        progress(file.size)


def _fill_rows(
    reader: Lake,
    table: str,
    column: str,
    where: ds.Expression,
    start: int,
    target: npt.NDArray[np.object_],
) -> None:
    """Set `target` to a column's values, at the number of their raw row minus `start`."""
    for batch in reader.batches(table, ["raw_offset", "raw_row", column], where):
        rows = batch.column("raw_offset").to_numpy() + batch.column("raw_row").to_numpy() - start
        is_in_range = rows < len(target)
        target[rows[is_in_range]] = np.array(batch.column(column).to_pylist(), object)[is_in_range]


def _block_differences(
    stored_block: StoredBlock,
    id_by_row: npt.NDArray[np.object_],
    body_by_row: npt.NDArray[np.object_],
    start: int,
) -> Iterator[int]:
    raw_events = split_body(
        stored_block.block.payload, _decode_receipt(stored_block.block.receipt).encoding
    )
    if len(raw_events) != stored_block.block.rows:
        yield stored_block.offset
        return
    for row, raw_event in enumerate(raw_events, stored_block.offset):
        id_ = id_by_row[row - start]
        body = body_by_row[row - start]
        if raw_event == ERASED_BODY or body == ERASED_BODY:
            continue
        if (id_ is not None and not _names_event(raw_event, id_)) or (
            body is not None and body != raw_event
        ):
            yield row


def _names_event(raw_event: bytes | memoryview, id_: str) -> bool:
    try:
        event_id = _decode_event_id(raw_event).event_id
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return (
        event_id == id_
        or id_.startswith(UNLINKED_PREFIX)
        or (isinstance(event_id, str) and event_id.startswith(UNLINKED_PREFIX))
    )

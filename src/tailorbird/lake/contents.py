"""The archive against the tables by what stands in them: each archived row has the event_id, or
refused the bytes, of the row made of it.

`lake.verify` asks for it by `deep`, once files and numbers of rows are right. It goes through the
archive in pieces, so that what is in memory does not grow with the lake. What an erasure wrote anew
has other ids on purpose, and is left out.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow.dataset as ds

from tailorbird.events.contract import ERASED, Receipt, split
from tailorbird.lake.archive import Archive, Archived
from tailorbird.lake.lake import Lake
from tailorbird.stream import Stored

PIECE_ROWS = 200_000
UNLINKED = (
    "erased-"  # what the ids of erased people's events begin with, see `privacy.rewrite_events`
)
_SHOWN_MAX = 5


class _Named(msgspec.Struct):
    event_id: Any = None


_named = msgspec.json.Decoder(_Named).decode
_receipt = msgspec.json.Decoder(Receipt).decode


def differing(
    reader: Lake, archive: Archive, told: Callable[[int], None] = lambda size: None
) -> Iterator[tuple[str, str]]:
    """Where, and what: for each partition the archived rows whose content is not that of the
    tables' row.
    """
    for partition in archive.positions():
        files = [file for file in archive.files if file.partition == partition]
        rows = [row for piece in _pieces(files) for row in _differing(reader, archive, piece, told)]
        if rows:
            shown = ", ".join(map(str, rows[:_SHOWN_MAX]))
            yield (
                f"raw rows of {partition}",
                f"{len(rows)} are in the tables with another content than in the archive, "
                f"such as {shown}",
            )


def _pieces(files: Sequence[Archived]) -> Iterator[list[Archived]]:
    piece: list[Archived] = []
    for file in files:
        if piece and sum(each.rows for each in piece) + file.rows > PIECE_ROWS:
            yield piece
            piece = []
        piece.append(file)
    if piece:
        yield piece


def _differing(
    reader: Lake, archive: Archive, piece: Sequence[Archived], told: Callable[[int], None]
) -> Iterator[int]:
    first, end = piece[0].first, piece[-1].end
    where = (
        (ds.field("raw_partition") == piece[0].partition)
        & (ds.field("raw_offset") >= first)
        & (ds.field("raw_offset") < end)
    )
    ids, refused = np.full(end - first, None, object), np.full(end - first, None, object)
    for table, column, held in (
        ("events", "event_id", ids),
        ("duplicates", "event_id", ids),
        ("quarantine", "body", refused),
    ):
        _fill(reader, table, column, where, first, held)
    for file in piece:
        for stored in archive.read(file):
            if stored.block.kind == "body":
                yield from _of_block(stored, ids, refused, first)
        told(file.size)


def _fill(
    reader: Lake,
    table: str,
    column: str,
    where: ds.Expression,
    first: int,
    held: npt.NDArray[np.object_],
) -> None:
    for batch in reader.batches(table, ["raw_offset", "raw_row", column], where):
        rows = batch.column("raw_offset").to_numpy() + batch.column("raw_row").to_numpy() - first
        fits = rows < len(held)
        held[rows[fits]] = np.array(batch.column(column).to_pylist(), object)[fits]


def _of_block(
    stored: Stored, ids: npt.NDArray[np.object_], refused: npt.NDArray[np.object_], first: int
) -> Iterator[int]:
    parts = split(stored.block.payload, _receipt(stored.block.receipt).encoding)
    if len(parts) != stored.block.rows:
        yield stored.offset
        return
    for row, part in enumerate(parts, stored.offset):
        id_, body = ids[row - first], refused[row - first]
        if part == ERASED or body == ERASED:
            continue
        if (id_ is not None and not _has(part, id_)) or (body is not None and body != part):
            yield row


def _has(part: bytes | memoryview, id_: str) -> bool:
    try:
        found = _named(part).event_id
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return (
        found == id_
        or id_.startswith(UNLINKED)
        or (isinstance(found, str) and found.startswith(UNLINKED))
    )

"""Route the archive again, to rebuild the routed log from everything that was ever received."""

import heapq
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import msgspec

from tailorbird.events.contract.verdict import Receipt
from tailorbird.lake.files.archive import Archive
from tailorbird.stream import (
    Address,
    EmbeddedWriter,
    StoredBlock,
    Stream,
    log_set,
    open_reader,
    open_writer,
    raw_path,
)

# Given a folder of raw logs, a router on it: each call routes what has been appended since.
RouteAgain = Callable[[Path], AbstractContextManager[Callable[[], None]]]


def route_archive(
    archive: Archive,
    stream: Stream,
    folder: Path,
    route_again: RouteAgain,
    step_ends: Collection[int] | None,
) -> None:
    """Route everything that was ever received into a new folder: the archive, then the raw logs.

    A routed row's position depends on which bodies the router took in one step. Each raw row makes
    one routed row, so routed positions tell where steps ended.

    Args:
        step_ends: routed positions at which a step ended; None for one step per body.

    Raises:
        DamageError: a file of the archive or a raw log is corrupt.
    """
    folder.mkdir(parents=True)
    live_logs = log_set(stream).raw_logs()
    partitions = sorted({file.partition for file in archive.files} | live_logs.keys())
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(open_writer(raw_path(folder, name), partition=name))
            for name in partitions
        }
        route = stack.enter_context(route_again(folder))
        pending_blocks: dict[str, list[StoredBlock]] = {name: [] for name in partitions}
        row_count = 0
        for _, name, stored_block in heapq.merge(
            *(_read_bodies(name, archive, live_logs.get(name)) for name in partitions),
            key=lambda entry: entry[:2],
        ):
            pending_blocks[name].append(stored_block)
            row_count += stored_block.block.rows
            if step_ends is None or row_count + 1 in step_ends:
                _append_blocks(writers, pending_blocks)
                route()
        _append_blocks(writers, pending_blocks)
        route()


def _read_bodies(
    name: str, archive: Archive, live_log: "Address | None"
) -> Iterator[tuple[int, str, StoredBlock]]:
    """Yield the bodies of a raw log, each with the newest time of receipt up to it."""
    newest_received_at = position = 0
    for file in archive.files:
        if file.partition == name:
            for stored_block in archive.read(file):
                newest_received_at = max(newest_received_at, _received_at(stored_block))
                position = stored_block.end
                yield newest_received_at, name, stored_block
    if live_log is None:
        return
    with open_reader(live_log) as reader:
        position = max(position, reader.start())
        while blocks := reader.read(position):
            for stored_block in blocks:
                newest_received_at = max(newest_received_at, _received_at(stored_block))
                position = stored_block.end
                yield newest_received_at, name, stored_block


def _received_at(stored_block: StoredBlock) -> int:
    return (
        msgspec.json.decode(stored_block.block.receipt, type=Receipt).received_at
        if stored_block.block.kind == "body"
        else 0
    )


def _append_blocks(
    writers: Mapping[str, EmbeddedWriter], pending_blocks: dict[str, list[StoredBlock]]
) -> None:
    for name, blocks in pending_blocks.items():
        if blocks:
            with writers[name].transaction():
                for stored_block in blocks:
                    writers[name].skip_to(stored_block.offset)
                    writers[name].append([stored_block.block])
            blocks.clear()

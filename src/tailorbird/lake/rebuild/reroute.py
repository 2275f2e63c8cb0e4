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
    cuts: Collection[int] | None,
) -> None:
    """Route everything that was ever received into a new folder: the archive, then the raw logs.

    A routed row's position depends on which bodies the router took in one step. Each raw row makes
    one routed row, so routed positions tell where steps ended.

    Args:
        cuts: routed positions at which a step ended; None for one step per body.

    Raises:
        DamageError: a file of the archive or a raw log is corrupt.
    """
    folder.mkdir(parents=True)
    live = log_set(stream).raw_logs()
    names = sorted({file.partition for file in archive.files} | live.keys())
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(open_writer(raw_path(folder, name), partition=name))
            for name in names
        }
        route = stack.enter_context(route_again(folder))
        waiting: dict[str, list[StoredBlock]] = {name: [] for name in names}
        rows = 0
        for _, name, stored in heapq.merge(
            *(_read_bodies(name, archive, live.get(name)) for name in names),
            key=lambda entry: entry[:2],
        ):
            waiting[name].append(stored)
            rows += stored.block.rows
            if cuts is None or rows + 1 in cuts:
                _append(writers, waiting)
                route()
        _append(writers, waiting)
        route()


def _read_bodies(
    name: str, archive: Archive, live: "Address | None"
) -> Iterator[tuple[int, str, StoredBlock]]:
    """Yield the bodies of a raw log, each with the newest time of receipt up to it."""
    newest = position = 0
    for file in archive.files:
        if file.partition == name:
            for stored in archive.read(file):
                newest, position = max(newest, _received_at(stored)), stored.end
                yield newest, name, stored
    if live is None:
        return
    with open_reader(live) as reader:
        position = max(position, reader.start())
        while blocks := reader.read(position):
            for stored in blocks:
                newest, position = max(newest, _received_at(stored)), stored.end
                yield newest, name, stored


def _received_at(stored: StoredBlock) -> int:
    return (
        msgspec.json.decode(stored.block.receipt, type=Receipt).received_at
        if stored.block.kind == "body"
        else 0
    )


def _append(writers: Mapping[str, EmbeddedWriter], waiting: dict[str, list[StoredBlock]]) -> None:
    for name, blocks in waiting.items():
        if blocks:
            with writers[name].transaction():
                for stored in blocks:
                    writers[name].skip_to(stored.offset)
                    writers[name].append([stored.block])
            blocks.clear()

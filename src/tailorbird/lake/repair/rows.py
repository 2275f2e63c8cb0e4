"""The rows that a commit of the lake held, from where they still are: their log, other tables, the
ledger.

They are made as `lake.role` made them. Who takes them holds what comes out against the ledger.
"""

import heapq
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.errors import TailorbirdError
from tailorbird.events.contract import Receipt
from tailorbird.events.schema import ROUTED
from tailorbird.lake import etl
from tailorbird.lake.archive import Archive
from tailorbird.lake.datafiles import split_by_partition
from tailorbird.lake.lake import Lake
from tailorbird.lake.ledger import Ledger, Line
from tailorbird.lake.tables import TableSpec
from tailorbird.stream import (
    Address,
    EmbeddedWriter,
    LogReader,
    Stored,
    Stream,
    answers_addresses,
    open_reader,
    open_writer,
    raw_addresses,
    raw_path,
    routed_address,
)

RouteAgain = Callable[
    [Path], AbstractContextManager[Callable[[], None]]
]  # a router on a folder, that routes what there is when called

_RAW = ["raw_partition", "raw_offset", "raw_row"]


def before(line: Line, known: dict[int, Line]) -> dict[str, int]:
    """For each log of a commit, the position behind which its rows stand."""
    earlier: dict[str, int] = {}
    for version in sorted(known):
        if version < line.version:
            earlier.update(known[version].positions)
    return {log: earlier.get(log, 0) for log in line.positions}


def from_log(stream: Stream, lake: Lake, table: str, line: Line, start: int) -> pa.Table | None:
    """A commit's rows from the log that fed it; None where the log does not hold them any more, or
    is damaged.
    """
    (log, end), *_ = line.positions.items()
    address = _address(stream, log)
    if address is None:
        return None
    try:
        with open_reader(address) as reader:
            blocks = _span(reader, start, end)
            return None if blocks is None else _made(blocks, lake, table, start, reader.partition)
    except TailorbirdError:
        return None


def from_events(lake: Lake, table: str, line: Line, start: int) -> pa.Table | None:
    """The rows of `users` or `items`, from the events that carry the profiles."""
    import pyarrow.dataset as ds

    where = (
        (ds.field("p") >= start)
        & (ds.field("p") < line.positions["routed"])
        & (ds.field("type") == table[:-1])
    )
    try:
        return etl.profiles(lake.table("events", ROUTED.names, where).sort_by("p"), table[:-1])
    except (TailorbirdError, OSError, pa.ArrowException):
        return None


def from_ledger(ledger: Ledger, line: Line, start: int) -> pa.Table | None:
    """The rows of `commits`; None where the ledger that held them was lost itself."""
    return (
        None
        if start < ledger.begin
        else etl.ledger_rows(ledger.told(start, line.positions["ledger"]))
    )


def part_of(rows: pa.Table, path: str, spec: TableSpec) -> pa.Table | None:
    """Of rows the part that a data file of this path was written of."""
    day = path.rpartition("/")[0].partition("=")[2] or None
    return dict(split_by_partition(rows, spec)).get(day)


def route_archive(
    archive: Archive,
    stream: Stream,
    folder: Path,
    route_again: RouteAgain,
    cuts: Collection[int] | None,
) -> None:
    """Route all that was ever received again, into a folder of its own: from the archive, and what
    is not in it yet from the logs.

    A routed row's position depends on which bodies the router took in one step. Each raw row made
    one routed row, so what is known of the steps is told in routed positions.

    Args:
        cuts: routed positions at which a step ended; None for a step with each body.
    Raises:
        DamageError: something of it is damaged.
    """
    folder.mkdir(parents=True)
    live = raw_addresses(stream)
    names = sorted({file.partition for file in archive.files} | live.keys())
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(open_writer(raw_path(folder, name), partition=name))
            for name in names
        }
        route = stack.enter_context(route_again(folder))
        waiting: dict[str, list[Stored]] = {name: [] for name in names}
        rows = 0
        for _, name, stored in heapq.merge(
            *(_received(name, archive, live.get(name)) for name in names), key=lambda each: each[:2]
        ):
            waiting[name].append(stored)
            rows += stored.block.rows
            if cuts is None or rows + 1 in cuts:
                _append(writers, waiting)
                route()
        _append(writers, waiting)
        route()


def _received(
    name: str, archive: Archive, live: "Address | None"
) -> Iterator[tuple[int, str, Stored]]:
    """The bodies of a raw log, each with when it came in."""
    newest = at = 0
    for file in archive.files:
        if file.partition == name:
            for stored in archive.read(file):
                newest, at = max(newest, _received_at(stored)), stored.end
                yield newest, name, stored
    if live is None:
        return
    with open_reader(live) as reader:
        at = max(at, reader.start())
        while blocks := reader.read(at):
            for stored in blocks:
                newest, at = max(newest, _received_at(stored)), stored.end
                yield newest, name, stored


def _received_at(stored: Stored) -> int:
    return (
        msgspec.json.decode(stored.block.receipt, type=Receipt).received_at
        if stored.block.kind == "body"
        else 0
    )


def _append(writers: Mapping[str, EmbeddedWriter], waiting: dict[str, list[Stored]]) -> None:
    for name, blocks in waiting.items():
        if blocks:
            with writers[name].transaction():
                for stored in blocks:
                    writers[name].skip_to(stored.offset)
                    writers[name].append([stored.block])
            blocks.clear()


def _address(stream: Stream, log: str) -> "Address | None":
    if log == "routed":
        return routed_address(stream)
    return {address.stem: address for address in answers_addresses(stream).values()}.get(log)


def _span(reader: LogReader, start: int, end: int) -> list[Stored] | None:
    first = reader.start()
    if first > max(start, 1) or reader.end() < end:
        return None
    blocks: list[Stored] = []
    at = max(start, first)
    while at < end and (more := reader.read(at)):
        blocks += [stored for stored in more if start <= stored.offset and stored.end <= end]
        at = more[-1].end
    return blocks


def _made(blocks: list[Stored], lake: Lake, table: str, start: int, producer: str) -> pa.Table:
    if table == "answers":
        return etl.answer_rows(blocks, producer)
    if table == "quarantine":
        return etl.routed_rows(blocks, table)
    events = etl.behind(etl.routed_rows(blocks, "events"), start)
    if table == "duplicates":
        # What the lake itself dropped: imports and replays that repeat what is older than the
        # router's index.
        dropped = _without(events, lake, "events")
        return pa.concat_tables([etl.routed_rows(blocks, table), etl.as_duplicates(dropped)])
    events = _without(events, lake, "duplicates")
    return etl.with_day(events) if table == "events" else etl.profiles(events, table[:-1])


def _without(events: pa.Table, lake: Lake, table: str) -> pa.Table:
    """The events that do not stand in a table as a raw row."""
    imported = pc.is_in(events.column("raw_partition"), value_set=pa.array(etl.PAST_PARTITIONS))
    if not pc.any(imported).as_py():
        return events if table == "duplicates" else events.slice(0, 0)
    known: set[tuple] = set()
    with suppress(TailorbirdError, OSError, pa.ArrowException):
        known = set(
            zip(*(lake.table(table, _RAW).column(name).to_pylist() for name in _RAW), strict=True)
        )
    keys = zip(*(events.column(name).to_pylist() for name in _RAW), strict=True)
    return events.filter(pa.array([key not in known for key in keys], pa.bool_()))

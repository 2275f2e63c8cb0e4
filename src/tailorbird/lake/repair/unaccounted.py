"""Raw rows that were routed and are in no table: what was made of them, from where it still is.

A lost commit leaves none: its files are looked for as others are. These were passed over, by
positions that said more than was true. The routed log has what the router made of them, until it is
deleted; then the archive is routed again. What stands at a p that the lake has for another row is
not what it was, and is not taken.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.errors import TailorbirdError
from tailorbird.lake import etl
from tailorbird.lake.lake import Lake
from tailorbird.stream import Stream, open_reader, routed_address

Wanted = Mapping[str, frozenset[int]]  # by raw partition, the numbers of rows
_EVERY_P = 1 << 62
_KINDS = ("events", "quarantine", "duplicates")


@dataclass(frozen=True)
class Back:
    """Rows that can be had again, by the table that they belong to, and from where.

    Attributes:
        places: raw partition and number of each row.
    """

    source: str
    rows: dict[str, pa.Table]
    places: frozenset[tuple[str, int]]


def find(
    stream: Stream, lake: Lake, wanted: Wanted, routed_again: Iterable[Path]
) -> Iterator[Back]:
    """What can be had of the rows, from the routed log first; what one source has is not asked of
    the next.
    """
    left = {(partition, row) for partition, rows in wanted.items() for row in rows}
    yield from _found(stream, lake, "the routed log, which still has the rows", left)
    if left:
        for folder in routed_again:
            yield from _found(folder, lake, "the archive, routed again", left)
            if not left:
                return


def _found(stream: Stream, lake: Lake, source: str, left: set[tuple[str, int]]) -> Iterator[Back]:
    try:
        kinds = _read(stream, left)
    except TailorbirdError:
        return
    events = _free(lake, kinds["events"])
    # What repeated one of these since then stands in the table as if it were the first: so whatever
    # is there counts.
    kept, repeats = etl.split_repeats(
        events, lambda days, _: lake.rows_of_days(days, _EVERY_P, list(etl.KEY_COLUMNS))
    )
    rows = {
        "users": etl.profiles(kept, "user"),
        "items": etl.profiles(kept, "item"),
        "events": etl.with_day(kept),
        "quarantine": kinds["quarantine"],
        "duplicates": pa.concat_tables([kinds["duplicates"], etl.as_duplicates(repeats)]),
    }
    places = frozenset(
        place
        for table in (events, kinds["quarantine"], kinds["duplicates"])
        for place in _places(table)
    )
    if places:
        left -= places
        yield Back(source, {name: table for name, table in rows.items() if len(table)}, places)


def _read(stream: Stream, left: set[tuple[str, int]]) -> dict[str, pa.Table]:
    """What the routed log has of these raw rows, by kind, in its order."""
    found: dict[str, list[pa.Table]] = {kind: [etl.routed_rows((), kind)] for kind in _KINDS}
    with open_reader(routed_address(stream)) as reader:
        position = reader.start()
        while blocks := reader.read(position):
            position = blocks[-1].end
            for kind in _KINDS:
                rows = etl.routed_rows(blocks, kind)
                if len(rows):
                    found[kind].append(
                        rows.filter(
                            pa.array([place in left for place in _places(rows)], pa.bool_())
                        )
                    )
    return {kind: pa.concat_tables(tables) for kind, tables in found.items()}


def _free(lake: Lake, events: pa.Table) -> pa.Table:
    """The events at whose p the lake has no other."""
    if not len(events):
        return events
    taken = lake.table("events", ["p"])["p"]
    return events.filter(pc.invert(pc.is_in(events["p"], value_set=pc.unique(taken))))


def _places(rows: pa.Table) -> list[tuple[str, int]]:
    numbers = rows["raw_offset"].to_numpy() + rows["raw_row"].to_numpy().astype(np.int64)
    return list(zip(rows["raw_partition"].to_pylist(), numbers.tolist(), strict=True))

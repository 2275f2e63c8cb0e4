"""Recover the rows that no intact file of the tables holds.

    events, quarantine, duplicates  from the routed log, else from the archive, routed again
    users, items                    from the events that carry the profiles
    answers                         from the answer logs

The archive routed again counts only if it agrees with the tables: each event that both have must
stand at the same p, with the same id, person and count. The steps of the router decide p, and only
the positions of commits tell where they ended.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.errors import TailorbirdError
from tailorbird.lake.rebuild.intact import IntactRows
from tailorbird.lake.tables import TABLES
from tailorbird.lake.write import etl
from tailorbird.stream import Stream, log_set, open_reader

RAW_COLUMNS = ["raw_partition", "raw_offset", "raw_row"]
RAW_TABLES = ("events", "quarantine", "duplicates")  # each raw row is in one of them
PROFILE_TABLES = ("users", "items")
ROUTED_LOG_SOURCE = "the routed log"
ARCHIVE_SOURCE = "the archive, routed again"
EVENTS_SOURCE = "the events that carry the profiles"
RESPONSE_LOGS_SOURCE = "the answer logs"
_ROUTED_COLUMNS = ("p", "event_id", "person", "counts")  # what the router decides of an event
_NO_ROWS = np.empty(0, np.int64)


@dataclass(frozen=True)
class RecoveredRows:
    """Rows that one source still has, by table.

    Attributes:
        raw_rows: for each raw partition, the numbers of the rows that they were made of.
    """

    source: str
    tables: dict[str, pa.Table]
    raw_rows: dict[str, npt.NDArray[np.int64]]


def raw_rows(rows: pa.Table) -> dict[str, npt.NDArray[np.int64]]:
    """Return for each raw partition the numbers of the raw rows that these rows were made of."""
    if not len(rows):
        return {}
    numbers = _raw_row_numbers(rows)
    partitions = rows["raw_partition"].combine_chunks().dictionary_encode()
    codes = partitions.indices.to_numpy()
    return {
        str(name): numbers[codes == code]
        for code, name in enumerate(partitions.dictionary.to_pylist())
    }


def recover_routed(
    stream: Stream,
    intact: IntactRows,
    end_by_table: Mapping[str, int],
    route_archive_again: Callable[[], Iterable[Stream]],
    is_complete: Callable[[], bool],
) -> Iterator[RecoveredRows]:
    """Find the routed rows that no intact file holds, and add them.

    Args:
        end_by_table: for each table the position up to which it was loaded; the role loads later
            rows.
        route_archive_again: folders with the archive routed again, each made when it is asked for.
        is_complete: whether no row is missing any more.
    """
    yield from _recover_from(stream, intact, end_by_table, ROUTED_LOG_SOURCE)
    if is_complete():
        return
    for folder in route_archive_again():
        if _agrees_with_tables(folder, intact, max(end_by_table.values())):
            yield from _recover_from(folder, intact, end_by_table, ARCHIVE_SOURCE)
            return


def _recover_from(
    stream: Stream, intact: IntactRows, end_by_table: Mapping[str, int], source: str
) -> Iterator[RecoveredRows]:
    try:
        rows_by_kind = _read_missing(stream, intact, end_by_table)
    except TailorbirdError:
        return
    events = _without_taken_positions(intact, rows_by_kind["events"])
    # A later repeat of a missing event is in the table as if it were the first one, so the
    # rows at any position count here.
    first_copies, repeated_rows = etl.split_repeats(
        events, lambda days, _: _events_of_days(intact, days, list(etl.KEY_COLUMNS))
    )
    repeated_rows = etl.as_duplicates(_rows_before(repeated_rows, end_by_table["duplicates"]))
    tables = {
        "events": etl.with_day(_rows_before(first_copies, end_by_table["events"])),
        "quarantine": rows_by_kind["quarantine"],
        "duplicates": pa.concat_tables([rows_by_kind["duplicates"], repeated_rows]),
    }
    tables = {name: rows for name, rows in tables.items() if len(rows)}
    if not tables:
        return
    for name, rows in tables.items():
        intact.add_rows(name, rows)
    numbers = raw_rows(pa.concat_tables([rows.select(RAW_COLUMNS) for rows in tables.values()]))
    yield RecoveredRows(source, tables, numbers)


def _rows_before(events: pa.Table, end: int) -> pa.Table:
    return events.filter(pc.less(events["p"], end))


def _read_missing(
    stream: Stream, intact: IntactRows, end_by_table: Mapping[str, int]
) -> dict[str, pa.Table]:
    """Read the loaded rows of a routed log whose raw row no table holds, by their kind."""
    present_rows_by_partition = present_raw_rows(intact)
    # The lake makes duplicates of events too.
    end_by_table = {
        **end_by_table,
        "events": max(end_by_table["events"], end_by_table["duplicates"]),
    }
    end = max(end_by_table.values())
    missing_by_kind = {kind: [etl.routed_rows((), kind)] for kind in RAW_TABLES}
    with open_reader(log_set(stream).routed) as reader:
        position = reader.start()
        while position < end and (blocks := reader.read(position)):
            position = blocks[-1].end
            for kind in RAW_TABLES:
                loaded_blocks = [
                    stored_block
                    for stored_block in blocks
                    if stored_block.offset < end_by_table[kind]
                ]
                rows = etl.routed_rows(loaded_blocks, kind)
                if len(rows):
                    missing_by_kind[kind].append(
                        rows.filter(pa.array(~_is_present(rows, present_rows_by_partition)))
                    )
    return {kind: pa.concat_tables(tables) for kind, tables in missing_by_kind.items()}


def present_raw_rows(intact: IntactRows) -> dict[str, npt.NDArray[np.int64]]:
    """Return for each raw partition the sorted numbers of the raw rows that a table holds."""
    rows_by_partition: dict[str, list[npt.NDArray[np.int64]]] = {}
    for name in RAW_TABLES:
        for partition, rows in raw_rows(intact.table(name, RAW_COLUMNS)).items():
            rows_by_partition.setdefault(partition, []).append(rows)
    return {
        partition: np.unique(np.concatenate(rows)) for partition, rows in rows_by_partition.items()
    }


def _is_present(
    rows: pa.Table, present_rows_by_partition: dict[str, npt.NDArray[np.int64]]
) -> npt.NDArray[np.bool_]:
    numbers = _raw_row_numbers(rows)
    partitions = rows["raw_partition"].combine_chunks().dictionary_encode()
    codes = partitions.indices.to_numpy()
    is_present = np.zeros(len(rows), bool)
    for code, name in enumerate(partitions.dictionary.to_pylist()):
        is_in_partition = codes == code
        is_present[is_in_partition] = np.isin(
            numbers[is_in_partition], present_rows_by_partition.get(name, _NO_ROWS)
        )
    return is_present


def _raw_row_numbers(rows: pa.Table) -> npt.NDArray[np.int64]:
    return rows["raw_offset"].to_numpy() + rows["raw_row"].to_numpy().astype(np.int64)


def _without_taken_positions(intact: IntactRows, events: pa.Table) -> pa.Table:
    """Drop the events at whose p the table has another one."""
    if not len(events):
        return events
    taken_positions = pc.unique(intact.table("events", ["p"])["p"])
    return events.filter(pc.invert(pc.is_in(events["p"], value_set=taken_positions)))


def _events_of_days(intact: IntactRows, days: list[int], columns: list[str]) -> pa.Table:
    day_values = pa.array(days, pa.int32()).cast(pa.date32())
    return intact.table("events", columns, pc.field("day").isin(day_values))


def _agrees_with_tables(folder: Stream, intact: IntactRows, end: int) -> bool:
    """Return whether each event that the tables and a routed log have is the same in both."""
    columns = [*RAW_COLUMNS, *_ROUTED_COLUMNS]
    routed_batches = [etl.routed_rows((), "events").select(columns)]
    try:
        with open_reader(log_set(folder).routed) as reader:
            position = reader.start()
            while position < end and (blocks := reader.read(position)):
                position = blocks[-1].end
                routed_batches.append(etl.routed_rows(blocks, "events").select(columns))
    except TailorbirdError:
        return False
    expected = intact.table("events", columns)
    actual = pa.concat_tables(routed_batches)
    joined = expected.join(actual, RAW_COLUMNS, join_type="inner", right_suffix="_again")
    return all(
        _are_columns_equal(joined[name], joined[f"{name}_again"]) for name in _ROUTED_COLUMNS
    )


def _are_columns_equal(left: pa.ChunkedArray, right: pa.ChunkedArray) -> bool:
    """Return whether two columns are equal, where a null equals a null."""
    are_both_null = pc.and_(pc.is_null(left), pc.is_null(right))
    is_equal = pc.or_(are_both_null, pc.fill_null(pc.equal(left, right), False))
    return pc.all(is_equal, min_count=0).as_py()


def recover_profiles(intact: IntactRows, name: str, new_events: pa.Table, end: int) -> pa.Table:
    """Return the rows that `users` or `items` lacks, made of the events that carry them.

    Args:
        new_events: the events that were recovered; a table without a corrupt file lacks only the
            profiles that they carry.
        end: the position up to which the table was loaded.
    """
    events = intact.table("events") if intact.corrupt_files(name) else new_events
    rows = etl.profile_versions(_rows_before(events, end).sort_by("p"), name.removesuffix("s"))
    taken_positions = pc.unique(intact.table(name, ["p"])["p"])
    return rows.filter(pc.invert(pc.is_in(rows["p"], value_set=taken_positions)))


def recover_responses(stream: Stream, intact: IntactRows, end_by_log: dict[str, int]) -> pa.Table:
    """Return the rows that `answers` lacks and the answer logs still have.

    Args:
        end_by_log: by log, the position up to which the table has it.
    """
    present_keys = intact.table("answers", ["producer", "offset"])
    missing_rows = [TABLES["answers"].schema.empty_table()]
    for producer, address in log_set(stream).response_logs().items():
        end = end_by_log.get(address.stem, 0)
        try:
            with open_reader(address) as reader:
                position = reader.start()
                while position < end and (blocks := reader.read(position)):
                    position = blocks[-1].end
                    blocks_before = [block for block in blocks if block.offset < end]
                    missing_rows.append(
                        _without_present_responses(
                            etl.response_rows(blocks_before, producer), present_keys
                        )
                    )
        except TailorbirdError:
            continue
    return pa.concat_tables(missing_rows)


def _without_present_responses(rows: pa.Table, present_keys: pa.Table) -> pa.Table:
    if not len(rows):
        return rows
    taken_offsets = present_keys.filter(pc.equal(present_keys["producer"], rows["producer"][0]))[
        "offset"
    ]
    return rows.filter(pc.invert(pc.is_in(rows["offset"], value_set=pc.unique(taken_offsets))))

"""Turn blocks of the logs into rows of the tables. Pure functions; `lake.write.loading` calls them
and commits.

    routed "events"      → events, and from profile events users and items
    routed "quarantine"  → quarantine
    routed "duplicates"  → duplicates
    answers              → answers

The router drops repeats within its horizon. Imports and replays may repeat older events: for them
`split_repeats` drops an event if the table has its id and subject (user, visitor or item) on the
same day at a smaller p. The result does not depend on how rows are batched, so a repeated append
drops the same rows.
"""

import json
from collections.abc import Callable, Iterable, Sequence

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.errors import DamageError
from tailorbird.events.answer_record import ResponseRecord, decode_responses
from tailorbird.events.clock import DAY
from tailorbird.events.contract.schema import QUARANTINE, ROUTED, number_rows
from tailorbird.lake.files.ledger import LedgerLine
from tailorbird.lake.tables import (
    COMMITS_SCHEMA,
    DUPLICATES_SCHEMA,
    PROFILES_SCHEMA,
    RESPONSES_SCHEMA,
    TABLES,
)
from tailorbird.stream import HISTORICAL_PRODUCERS, StoredBlock

HISTORICAL_PARTITIONS = (*HISTORICAL_PRODUCERS, "raw-import")
ROUTED_TABLES = ("events", "quarantine", "duplicates", "users", "items")

KEY_COLUMNS = (
    "event_id",
    "user_id",
    "anonymous_id",
    "item_id",
    "ts",
)  # of `events`, for `split_repeats`

_SCHEMA_BY_KIND = {"events": ROUTED, "quarantine": QUARANTINE, "duplicates": DUPLICATES_SCHEMA}


def routed_rows(blocks: Iterable[StoredBlock], kind: str) -> pa.Table:
    """Return the rows of the blocks of one kind, in log order. Raises DamageError if a block has
    other columns.
    """
    schema = _SCHEMA_BY_KIND[kind]
    tables: list[pa.Table] = []
    for stored_block in blocks:
        if stored_block.block.kind != kind:
            continue
        try:
            with pa.ipc.open_stream(stored_block.block.payload) as reader:
                table = reader.read_all().select(schema.names)
            table = number_rows(table, stored_block.offset) if kind == "events" else table
            tables.append(table if table.schema.equals(schema) else table.cast(schema))
        except (pa.ArrowException, KeyError) as error:
            raise DamageError(
                f"the block at {stored_block.offset} is not {kind} as this version knows them: "
                f"{error}",
                where="routed log",
                fix="run router and lake of the same version",
            ) from error
    return pa.concat_tables(tables) if tables else schema.empty_table()


def with_day(events: pa.Table) -> pa.Table:
    """Return events with the partition column of the table."""
    days = (events.column("ts").cast(pa.int64()).to_numpy() // DAY).astype(np.int32)
    return events.append_column(
        TABLES["events"].schema.field("day"), pa.array(days).cast(pa.date32())
    )


def profile_versions(events: pa.Table, kind: str) -> pa.Table:
    """Return the profile versions of one kind, "user" or "item", that events carry."""
    rows = events.filter(pc.equal(events.column("type"), kind))
    columns = {
        "id": rows.column(f"{kind}_id"),
        "valid_from": rows.column("ts"),
        "version": rows.column("event_id"),
        "attributes": rows.column("properties"),
        "timeless": rows.column("timeless"),
        "p": rows.column("p"),
        "received_at": rows.column("received_at"),
    }
    return pa.table(columns, schema=PROFILES_SCHEMA)


def split_repeats(
    events: pa.Table, read_earlier_events: Callable[[list[int], int], pa.Table]
) -> tuple[pa.Table, pa.Table]:
    """Split events into first occurrences and repeats by imports and replays.

    Args:
        events: in log order.
        read_earlier_events: return, for days (since 1970) and a position, the table's rows of these
            days below that position, with `KEY_COLUMNS`.
    """
    is_imported = pc.is_in(
        events.column("raw_partition"), value_set=pa.array(HISTORICAL_PARTITIONS)
    )
    if not pc.any(is_imported).as_py():
        return events, ROUTED.empty_table()
    imported_events = events.filter(is_imported)
    days = np.unique(imported_events.column("ts").cast(pa.int64()).to_numpy() // DAY).tolist()
    earlier_events = read_earlier_events(days, events.column("p")[0].as_py())
    is_repeat = (
        pc.is_in(_identity_keys(events), value_set=pc.unique(_identity_keys(earlier_events)))
        if earlier_events.num_rows
        else pa.array(np.zeros(len(events), bool))
    )
    key_codes = pc.dictionary_encode(_identity_keys(events)).combine_chunks().indices.to_numpy()
    is_first = np.zeros(len(key_codes), bool)
    is_first[np.unique(key_codes, return_index=True)[1]] = True
    is_dropped = pc.and_(is_imported, pc.or_(is_repeat, pa.array(~is_first)))
    if not pc.any(is_dropped).as_py():
        return events, ROUTED.empty_table()
    return events.filter(pc.invert(is_dropped)), events.filter(is_dropped)


def raw_end_by_partition(*tables: pa.Table) -> dict[str, int]:
    """Return for each raw partition the position after its last row in any of these tables."""
    rows = pa.concat_tables(
        [table.select(["raw_partition", "raw_offset", "raw_row"]) for table in tables]
    )
    row_numbers = pc.add(rows.column("raw_offset"), pc.cast(rows.column("raw_row"), pa.int64()))
    last_rows = (
        pa.table({"partition": rows.column("raw_partition"), "row": row_numbers})
        .group_by("partition")
        .aggregate([("row", "max")])
    )
    return {
        partition: row + 1
        for partition, row in zip(
            *(last_rows.column(name).to_pylist() for name in ("partition", "row_max")), strict=True
        )
    }


class _ReadPositions(msgspec.Struct, frozen=True):
    """Content of a block of kind "progress": how far router `partition`, of `count`, has read the
    raw logs that all routers share.
    """

    partition: int
    count: int
    offsets: dict[str, int]


def offsets_read_by_all(
    blocks: Iterable[StoredBlock], offsets_by_router: dict[str, dict[str, int]]
) -> dict[str, int]:
    """Return for each raw log that several routers share the position that all have reached.

    Args:
        offsets_by_router: by log and router number, the position reached; updated in place.
    """
    end_by_log: dict[str, int] = {}
    for stored_block in blocks:
        if stored_block.block.kind != "progress":
            continue
        positions = msgspec.json.decode(stored_block.block.payload, type=_ReadPositions)
        for log, offset in positions.offsets.items():
            router_offsets = offsets_by_router.setdefault(log, {})
            router_offsets[str(positions.partition)] = max(
                offset, router_offsets.get(str(positions.partition), 0)
            )
            end_by_log[log] = min(
                router_offsets.get(str(number), 0) for number in range(positions.count)
            )
    return end_by_log


def as_duplicates(repeats: pa.Table) -> pa.Table:
    """Return events that the lake dropped as rows of `duplicates`, without the row they repeat."""
    columns = {name: repeats.column(name) for name in DUPLICATES_SCHEMA.names[:4]}
    columns |= {
        field.name: pa.nulls(len(repeats), field.type)
        for field in DUPLICATES_SCHEMA
        if field.name not in columns
    }
    return pa.table(columns, schema=DUPLICATES_SCHEMA)


def events_from(events: pa.Table, start_position: int) -> pa.Table:
    """Return the events from `start_position` on, of a table in log order."""
    if len(events) == 0 or events.column("p")[0].as_py() >= start_position:
        return events
    return events.slice(int(np.searchsorted(events.column("p").to_numpy(), start_position)))


def _identity_keys(events: pa.Table) -> pa.ChunkedArray:
    """Return each event's identity: its id, day and subject (user, else visitor, else item)."""
    subjects = [
        pc.binary_join_element_wise(pa.scalar(prefix), events.column(name), "")
        for prefix, name in (("u", "user_id"), ("a", "anonymous_id"), ("i", "item_id"))
    ]
    day = pc.cast(pc.floor_temporal(events.column("ts"), unit="day"), pa.int64()).cast(pa.string())
    return pc.binary_join_element_wise(
        events.column("event_id"), pc.coalesce(*subjects, pa.scalar("")), day, "\x1f"
    )


def response_rows(blocks: Sequence[StoredBlock], producer: str) -> pa.Table:
    """Return the records of an answer log as rows of `answers`. Raises DamageError if a block does
    not decode.
    """
    records: list[ResponseRecord] = []
    offsets: list[int] = []
    for stored_block in blocks:
        if stored_block.block.kind != "answers":
            continue
        try:
            block_records = decode_responses(stored_block.block.payload)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise DamageError(
                f"the block at {stored_block.offset} holds no answers: {error}",
                where=f"answers-{producer}",
                fix="run serve and lake of the same version",
            ) from error
        records += block_records
        offsets += range(stored_block.offset, stored_block.offset + len(block_records))
    columns: dict[str, object] = {
        field.name: _response_column(records, field)
        for field in RESPONSES_SCHEMA
        if field.name not in ("producer", "offset")
    }
    columns["producer"] = pa.array([producer] * len(records), pa.string())
    columns["offset"] = pa.array(offsets, pa.int64())
    return pa.table(columns, schema=RESPONSES_SCHEMA)


def _response_column(records: list[ResponseRecord], field: pa.Field) -> pa.Array:
    values = [getattr(record, field.name) for record in records]
    if field.name == "categorical":
        values = [np.array(value, np.uint64).view(np.int64) for value in values]
    elif field.name == "positions":
        values = [value or None for value in values]
    return pa.array(values, field.type)


def ledger_rows(lines: Sequence[LedgerLine]) -> pa.Table:
    """Return lines of the ledger as rows of `commits`."""
    columns = {
        "table": [line.table for line in lines],
        "version": [line.version for line in lines],
        "rows": [line.rows for line in lines],
        "positions": [json.dumps(line.positions, sort_keys=True) for line in lines],
        "written_at": [line.written_at for line in lines],
    }
    return pa.table(
        {
            name: pa.array(values, COMMITS_SCHEMA.field(name).type)
            for name, values in columns.items()
        },
        schema=COMMITS_SCHEMA,
    )

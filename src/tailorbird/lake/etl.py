"""From blocks of the logs to rows of the tables. Pure functions; when they are called, and what is
committed, stands in `lake.role`.

    routed "events"      → events, and from profile events users and items
    routed "quarantine"  → quarantine
    routed "duplicates"  → duplicates
    answers              → answers

Repeats within its horizon are dropped by the router. Imports and replays may repeat what is older:
for them `split_repeats` drops an event whose id and subject (user, visitor or item) stand in the
table on the same day at a smaller p. It is a function of the rows below, however they are cut into
batches, so that an append that is repeated drops the same.
"""

import json
from collections.abc import Callable, Iterable, Sequence

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.errors import DamageError
from tailorbird.events.answer_record import AnswerRecord, decode_answers
from tailorbird.events.clock import DAY
from tailorbird.events.schema import QUARANTINE, ROUTED, numbered
from tailorbird.lake.ledger import Line
from tailorbird.lake.tables import ANSWERS, COMMITS, DUPLICATES, PROFILES, TABLES
from tailorbird.stream import PAST, Stored

PAST_PARTITIONS = (*PAST, "raw-import")
ROUTED_TABLES = ("events", "quarantine", "duplicates", "users", "items")

KEY_COLUMNS = (
    "event_id",
    "user_id",
    "anonymous_id",
    "item_id",
    "ts",
)  # of `events`, for `split_repeats`

_SCHEMAS = {"events": ROUTED, "quarantine": QUARANTINE, "duplicates": DUPLICATES}


def routed_rows(blocks: Iterable[Stored], kind: str) -> pa.Table:
    """The rows of the blocks of one kind, in log order. Raises DamageError if a block holds other
    columns.
    """
    schema = _SCHEMAS[kind]
    tables: list[pa.Table] = []
    for stored in blocks:
        if stored.block.kind != kind:
            continue
        try:
            with pa.ipc.open_stream(stored.block.payload) as reader:
                table = reader.read_all().select(schema.names)
            table = numbered(table, stored.offset) if kind == "events" else table
            tables.append(table if table.schema.equals(schema) else table.cast(schema))
        except (pa.ArrowException, KeyError) as error:
            raise DamageError(
                f"the block at {stored.offset} is not {kind} as this version knows them: {error}",
                where="routed log",
                fix="run router and lake of the same version",
            ) from error
    return pa.concat_tables(tables) if tables else schema.empty_table()


def with_day(events: pa.Table) -> pa.Table:
    """Events with the column by which the table is partitioned."""
    days = (events.column("ts").cast(pa.int64()).to_numpy() // DAY).astype(np.int32)
    return events.append_column(
        TABLES["events"].schema.field("day"), pa.array(days).cast(pa.date32())
    )


def profiles(events: pa.Table, kind: str) -> pa.Table:
    """The versions of the profiles of one kind, "user" or "item", that these events carry."""
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
    return pa.table(columns, schema=PROFILES)


def split_repeats(
    events: pa.Table, known: Callable[[list[int], int], pa.Table]
) -> tuple[pa.Table, pa.Table]:
    """The events without what imports and replays repeat, and the repeats.

    Args:
        events: in log order.
        known: gives, for days (since 1970) and a p, the table's rows of these days below that p,
            with `KEY_COLUMNS`.
    """
    imported = pc.is_in(events.column("raw_partition"), value_set=pa.array(PAST_PARTITIONS))
    if not pc.any(imported).as_py():
        return events, ROUTED.empty_table()
    candidates = events.filter(imported)
    days = np.unique(candidates.column("ts").cast(pa.int64()).to_numpy() // DAY).tolist()
    earlier = known(days, events.column("p")[0].as_py())
    repeated = (
        pc.is_in(_keys(events), value_set=pc.unique(_keys(earlier)))
        if earlier.num_rows
        else pa.array(np.zeros(len(events), bool))
    )
    codes = pc.dictionary_encode(_keys(events)).combine_chunks().indices.to_numpy()
    first = np.zeros(len(codes), bool)
    first[np.unique(codes, return_index=True)[1]] = True
    drop = pc.and_(imported, pc.or_(repeated, pa.array(~first)))
    if not pc.any(drop).as_py():
        return events, ROUTED.empty_table()
    return events.filter(pc.invert(drop)), events.filter(drop)


def raw_ends(*tables: pa.Table) -> dict[str, int]:
    """For each raw partition, the position behind the last row that is in any of these tables."""
    rows = pa.concat_tables(
        [table.select(["raw_partition", "raw_offset", "raw_row"]) for table in tables]
    )
    positions = pc.add(rows.column("raw_offset"), pc.cast(rows.column("raw_row"), pa.int64()))
    newest = (
        pa.table({"partition": rows.column("raw_partition"), "row": positions})
        .group_by("partition")
        .aggregate([("row", "max")])
    )
    return {
        partition: row + 1
        for partition, row in zip(
            *(newest.column(n).to_pylist() for n in ("partition", "row_max")), strict=True
        )
    }


class _Taken(msgspec.Struct, frozen=True):
    """Of a block of kind "taken": how far router `partition`, of `count`, has taken the raw logs
    that all of them share.
    """

    partition: int
    count: int
    offsets: dict[str, int]


def taken_by_all(blocks: Iterable[Stored], known: dict[str, dict[str, int]]) -> dict[str, int]:
    """For each raw log that several routers share, the position that all of them are behind.

    `known` says how far each router, by its number, has taken each log; it is brought up to date.
    """
    ends: dict[str, int] = {}
    for stored in blocks:
        if stored.block.kind != "taken":
            continue
        taken = msgspec.json.decode(stored.block.payload, type=_Taken)
        for log, offset in taken.offsets.items():
            each = known.setdefault(log, {})
            each[str(taken.partition)] = max(offset, each.get(str(taken.partition), 0))
            ends[log] = min(each.get(str(number), 0) for number in range(taken.count))
    return ends


def as_duplicates(repeats: pa.Table) -> pa.Table:
    """Events that the lake dropped as rows of `duplicates`; of what they repeat only the id is
    known.
    """
    columns = {name: repeats.column(name) for name in DUPLICATES.names[:4]}
    columns |= {
        field.name: pa.nulls(len(repeats), field.type)
        for field in DUPLICATES
        if field.name not in columns
    }
    return pa.table(columns, schema=DUPLICATES)


def behind(events: pa.Table, p: int) -> pa.Table:
    """The events from `p` on, of a table in log order."""
    if len(events) == 0 or events.column("p")[0].as_py() >= p:
        return events
    return events.slice(int(np.searchsorted(events.column("p").to_numpy(), p)))


def _keys(events: pa.Table) -> pa.ChunkedArray:
    """What makes an event the same event: its id, its day, and whose it is: the user's, else the
    visitor's, else the item's.
    """
    subjects = [
        pc.binary_join_element_wise(pa.scalar(mark), events.column(name), "")
        for mark, name in (("u", "user_id"), ("a", "anonymous_id"), ("i", "item_id"))
    ]
    day = pc.cast(pc.floor_temporal(events.column("ts"), unit="day"), pa.int64()).cast(pa.string())
    return pc.binary_join_element_wise(
        events.column("event_id"), pc.coalesce(*subjects, pa.scalar("")), day, "\x1f"
    )


def answer_rows(blocks: Sequence[Stored], producer: str) -> pa.Table:
    """The records of an answer log as rows of `answers`. Raises DamageError if a block is not what
    it says.
    """
    records: list[AnswerRecord] = []
    offsets: list[int] = []
    for stored in blocks:
        if stored.block.kind != "answers":
            continue
        try:
            found = decode_answers(stored.block.payload)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise DamageError(
                f"the block at {stored.offset} holds no answers: {error}",
                where=f"answers-{producer}",
                fix="run serve and lake of the same version",
            ) from error
        records += found
        offsets += range(stored.offset, stored.offset + len(found))
    columns: dict[str, object] = {
        field.name: _answer_column(records, field)
        for field in ANSWERS
        if field.name not in ("producer", "offset")
    }
    columns["producer"] = pa.array([producer] * len(records), pa.string())
    columns["offset"] = pa.array(offsets, pa.int64())
    return pa.table(columns, schema=ANSWERS)


def _answer_column(records: list[AnswerRecord], field: pa.Field) -> pa.Array:
    values = [getattr(record, field.name) for record in records]
    if field.name == "categorical":
        values = [np.array(value, np.uint64).view(np.int64) for value in values]
    elif field.name == "positions":
        values = [value or None for value in values]
    return pa.array(values, field.type)


def ledger_rows(lines: Sequence[Line]) -> pa.Table:
    """Rows of `commits`."""
    columns = {
        "table": [line.table for line in lines],
        "version": [line.version for line in lines],
        "rows": [line.rows for line in lines],
        "positions": [json.dumps(line.positions, sort_keys=True) for line in lines],
        "written_at": [line.written_at for line in lines],
    }
    return pa.table(
        {name: pa.array(values, COMMITS.field(name).type) for name, values in columns.items()},
        schema=COMMITS,
    )

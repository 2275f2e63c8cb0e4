"""Blocks that the router writes: the columns of duplicates, and conversion of tables to bytes.

    kind "events"       Arrow IPC of events.ROUTED; row i of the block has p = offset + i
    kind "quarantine"   Arrow IPC of events.QUARANTINE
    kind "duplicates"   Arrow IPC of DUPLICATES
    kind "progress"        JSON of SharedProgress, where there are several routers

All rows take positions in the log, so every row of the raw logs is accounted for. A block's receipt
is JSON: the versions of the plan and of the contract that decided, and the profile attributes that
events carry.
"""

from collections.abc import Sequence

import msgspec
import pyarrow as pa

from tailorbird.events import QUARANTINE, Refusal
from tailorbird.stream import Block

DUPLICATES = pa.schema(
    [
        ("event_id", pa.string()),
        ("raw_partition", pa.string()),
        ("raw_offset", pa.int64()),
        ("raw_row", pa.int32()),
        ("first_partition", pa.string()),  # where the event stands that was accepted
        ("first_offset", pa.int64()),
        ("first_row", pa.int32()),
    ]
)
_IPC_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4")


class RoutedReceipt(msgspec.Struct, frozen=True):
    """The receipt of a routed block; `received_at` is when the newest body of the step came in."""

    plan: str
    contract: int
    user_attributes: tuple[str, ...]
    item_attributes: tuple[str, ...]
    received_at: int = 0


class RefusedRow(msgspec.Struct, frozen=True):
    """A refusal and the position of its row."""

    refusal: Refusal
    received_at: int
    source: str
    partition: str
    offset: int


def encode_block(kind: str, batch: pa.RecordBatch, receipt: RoutedReceipt) -> Block:
    """Encode a batch as a block of the routed log."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=_IPC_OPTIONS) as writer:
        writer.write_batch(batch)
    return Block(kind, batch.num_rows, sink.getvalue().to_pybytes(), msgspec.json.encode(receipt))


class SharedProgress(msgspec.Struct, frozen=True):
    """Progress of router `partition` of `count` in the logs that all routers share."""

    partition: int
    count: int
    offsets: dict[str, int]


def encode_progress(partition: int, count: int, offsets: dict[str, int]) -> Block:
    """Encode a block of kind "progress", which the lake reads."""
    return Block("progress", 1, msgspec.json.encode(SharedProgress(partition, count, offsets)))


def to_table(block: Block) -> pa.Table:
    """Decode the rows of a routed block."""
    return pa.ipc.open_stream(block.payload).read_all()


def build_quarantine_batch(rows: Sequence[RefusedRow]) -> pa.RecordBatch:
    """Convert refused rows to events.QUARANTINE."""
    columns = {
        "received_at": [row.received_at for row in rows],
        "source": [row.source for row in rows],
        "code": [row.refusal.code for row in rows],
        "path": [row.refusal.path for row in rows],
        "message": [row.refusal.message for row in rows],
        "body": [row.refusal.body for row in rows],
        "raw_partition": [row.partition for row in rows],
        "raw_offset": [row.offset for row in rows],
        "raw_row": [row.refusal.row for row in rows],
    }
    return pa.RecordBatch.from_arrays(
        [pa.array(columns[column.name], column.type) for column in QUARANTINE], schema=QUARANTINE
    )

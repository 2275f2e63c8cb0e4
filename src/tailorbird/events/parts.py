"""Partitioning: the partition of an event, and splitting a body by partition.

    item, user, merge          0, which every router follows: any event may name any item or user
    anonymous_id               its hash64: `identify` of a visitor precedes the visitor's events
    else user_id               its hash64
    neither, or unreadable     0

A pure function of the event, so a retried event reaches the same partition.
"""

from collections.abc import Sequence

import msgspec

from tailorbird.events.contract.checked_batch import EventColumns
from tailorbird.events.contract.contract import split_body
from tailorbird.events.contract.plan import SHARED_TYPES
from tailorbird.events.contract.verdict import Receipt
from tailorbird.events.keys import hash64


class _PartitionFields(msgspec.Struct, frozen=True, gc=False):
    """The fields of an event that decide its partition."""

    type: str = ""
    user_id: str | None = None
    anonymous_id: str | None = None


_decode = msgspec.json.Decoder(_PartitionFields).decode


def partition_of(type_: str, user_id: str | None, anonymous_id: str | None, count: int) -> int:
    """Return the partition of an event, out of `count`.

    >>> partition_of("click", "u1", "a1", 4) == partition_of("identify", "u2", "a1", 4)
    True
    >>> partition_of("item", None, None, 4), partition_of("user", "u1", None, 4)
    (0, 0)
    """
    id_ = anonymous_id or user_id
    if id_ is None or type_ in SHARED_TYPES:
        return 0
    return hash64(id_) % count


def partition_rows(fields: EventColumns, number: int, count: int) -> list[int]:
    """Return the rows of the events that belong to partition `number` of `count`."""
    subjects = enumerate(zip(fields.type, fields.user_id, fields.anonymous_id, strict=True))
    return [row for row, subject in subjects if partition_of(*subject, count) == number]


def split_by_partition(body: bytes, receipt: Receipt, count: int) -> dict[int, tuple[bytes, int]]:
    """Split a body by partition, keeping the order of rows.

    Also return the row count of each part.

    A body whose rows all belong to one partition stays as received, byte for byte.
    """
    rows = split_body(body, receipt.encoding)
    partitions = [_partition_of_row(row, count) for row in rows]
    if len(set(partitions)) == 1:
        return {partitions[0]: (body, len(rows))}
    parts: dict[int, list[bytes]] = {}
    for partition, row in zip(partitions, rows, strict=True):
        parts.setdefault(partition, []).append(bytes(row))
    return {
        partition: (_join_rows(lines, receipt.encoding), len(lines))
        for partition, lines in sorted(parts.items())
    }


def _partition_of_row(row: bytes | memoryview, count: int) -> int:
    try:
        event = _decode(row)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return 0  # it will be refused
    return partition_of(event.type, event.user_id, event.anonymous_id, count)


def _join_rows(rows: Sequence[bytes], encoding: str) -> bytes:
    return b"\n".join(rows) if encoding == "ndjson" else b"[" + b",".join(rows) + b"]"

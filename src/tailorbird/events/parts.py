"""Partitioning: the partition of an event, and splitting a body by partition.

    item, user, merge          0, which every router follows: any event may name any item or user
    anonymous_id               its hash64: `identify` of a visitor precedes the visitor's events
    else user_id               its hash64
    neither, or unreadable     0

A pure function of the event, so a retried event reaches the same partition.
"""

import msgspec

from tailorbird.events.contract.checked_batch import EventColumns
from tailorbird.events.contract.codes import DECODE_ERRORS
from tailorbird.events.contract.contract import join_rows, split_body
from tailorbird.events.contract.plan import SHARED_TYPES
from tailorbird.events.contract.verdict import Receipt
from tailorbird.events.keys import hash64


class _PartitionFields(msgspec.Struct, frozen=True, gc=False):
    """The fields of an event that decide its partition."""

    type: str = ""
    user_id: str | None = None
    anonymous_id: str | None = None


_decode = msgspec.json.Decoder(_PartitionFields).decode


def partition_of(
    type_: str, user_id: str | None, anonymous_id: str | None, partition_count: int
) -> int:
    """Return the partition of an event, out of `partition_count`.

    >>> partition_of("click", "u1", "a1", 4) == partition_of("identify", "u2", "a1", 4)
    True
    >>> partition_of("item", None, None, 4), partition_of("user", "u1", None, 4)
    (0, 0)
    """
    id_ = anonymous_id or user_id
    if id_ is None or type_ in SHARED_TYPES:
        return 0
    return hash64(id_) % partition_count


def select_partition_rows(fields: EventColumns, partition: int, partition_count: int) -> list[int]:
    """Return the rows of the events that belong to partition `partition` of `partition_count`."""
    subjects = enumerate(zip(fields.type, fields.user_id, fields.anonymous_id, strict=True))
    return [
        row for row, subject in subjects if partition_of(*subject, partition_count) == partition
    ]


def split_by_partition(
    body: bytes, receipt: Receipt, partition_count: int
) -> dict[int, tuple[bytes, int]]:
    """Split a body by partition, keeping the order of rows.

    Also return the row count of each part.

    A body whose rows all belong to one partition stays as received, byte for byte.
    """
    rows = split_body(body, receipt.encoding)
    partitions = [_partition_of_row(row, partition_count) for row in rows]
    if len(set(partitions)) == 1:
        return {partitions[0]: (body, len(rows))}
    rows_by_partition: dict[int, list[bytes]] = {}
    for partition, row in zip(partitions, rows, strict=True):
        rows_by_partition.setdefault(partition, []).append(bytes(row))
    return {
        partition: (join_rows(lines, body, receipt.encoding), len(lines))
        for partition, lines in sorted(rows_by_partition.items())
    }


def _partition_of_row(row: bytes | memoryview, partition_count: int) -> int:
    try:
        event = _decode(row)
    except DECODE_ERRORS:
        return 0  # it will be refused
    return partition_of(event.type, event.user_id, event.anonymous_id, partition_count)

"""The format of copied records: each with its previous version, for readers of the previous head.

    head      epoch u64 | sequence u64 | current_at u64
    record    epoch u64 | sequence u64 | previous_sequence u64 | two lengths i32
              | value as of `sequence` | value between `previous_sequence` and `sequence`

`store.published` creates them, and `store.valkey` stores them.
"""

import struct
from dataclasses import dataclass, field

from tailorbird.errors import DamageError
from tailorbird.store.protocol import SnapshotExpiredError

_HEAD_FORMAT = struct.Struct("<3Q")
_RECORD_FORMAT = struct.Struct("<3Q2i")
# lengths: the record was absent; it is unknown
_ABSENT_LENGTH = -1
_UNKNOWN_LENGTH = -2


@dataclass(frozen=True)
class CommitHead:
    """The newest complete commit. Sequences of different epochs are not comparable.

    `current_at` is when it was last known to be newest, by the publisher's clock, in microseconds.
    """

    epoch: int
    sequence: int
    current_at: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Change:
    """A record now and as of the previous head; None where it is absent.

    `has_old` is whether `old` is known.
    """

    key: bytes
    new: bytes | None
    old: bytes | None = None
    has_old: bool = False


def encode_versions(change: Change, epoch: int, sequence: int, previous_sequence: int) -> bytes:
    """Encode the two versions of a record."""
    new_value = change.new or b""
    old_value = (change.old or b"") if change.has_old else b""
    new_length = _ABSENT_LENGTH if change.new is None else len(new_value)
    old_length = (
        _UNKNOWN_LENGTH
        if not change.has_old
        else _ABSENT_LENGTH
        if change.old is None
        else len(old_value)
    )
    return (
        _RECORD_FORMAT.pack(epoch, sequence, previous_sequence, new_length, old_length)
        + new_value
        + old_value
    )


def version_at(record: bytes, head: CommitHead) -> bytes | None:
    """Return the record as of the head.

    Raises:
        SnapshotExpiredError: it is known only as of a later commit.
        DamageError: the bytes are no record of ours.
    """
    if len(record) < _RECORD_FORMAT.size:
        raise DamageError(
            f"a record of {len(record)} bytes is none of ours",
            fix="another program writes under these keys",
        )
    epoch, sequence, previous_sequence, new_length, old_length = _RECORD_FORMAT.unpack_from(record)
    start = _RECORD_FORMAT.size
    if (
        len(record) != start + max(new_length, 0) + max(old_length, 0)
        or new_length < _ABSENT_LENGTH
        or old_length < _UNKNOWN_LENGTH
    ):
        raise DamageError("a record is cut short", fix="tailorbird run worker publishes it anew")
    if epoch == head.epoch and sequence <= head.sequence:
        return None if new_length == _ABSENT_LENGTH else record[start : start + new_length]
    if epoch == head.epoch and old_length != _UNKNOWN_LENGTH and previous_sequence <= head.sequence:
        return None if old_length == _ABSENT_LENGTH else record[start + max(new_length, 0) :]
    raise SnapshotExpiredError("the record was written again while it was read")


def encode_head(head: CommitHead) -> bytes:
    """Encode the head."""
    return _HEAD_FORMAT.pack(head.epoch, head.sequence, head.current_at)


def decode_head(head_bytes: bytes | None) -> CommitHead | None:
    """Decode a stored head; None if it is absent or not one of ours."""
    return (
        None
        if head_bytes is None or len(head_bytes) != _HEAD_FORMAT.size
        else CommitHead(*_HEAD_FORMAT.unpack(head_bytes))
    )


def is_of_epoch(record: bytes, epoch: int) -> bool:
    """Return whether a record was written under this epoch."""
    return len(record) >= 8 and int.from_bytes(record[:8], "little") == epoch

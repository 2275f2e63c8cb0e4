"""The format of copied records: each with its previous version, for readers of the previous head.

    head      epoch u64 | sequence u64 | at u64
    record    epoch u64 | sequence u64 | before u64 | two lengths i32
              | value as of `sequence` | value between `before` and `sequence`

`store.published` creates them, and `store.valkey` stores them.
"""

import struct
from dataclasses import dataclass, field

from tailorbird.errors import DamageError
from tailorbird.store.protocol import SnapshotExpiredError

_HEAD = struct.Struct("<3Q")
_VERSIONS = struct.Struct("<3Q2i")
_ABSENT, _UNKNOWN = -1, -2  # lengths: the record was absent; it is unknown


@dataclass(frozen=True)
class Head:
    """The newest complete commit. Sequences of different epochs are not comparable.

    `at` is when it was last known to be newest, by the publisher's clock, in microseconds.
    """

    epoch: int
    sequence: int
    at: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Change:
    """A record now and as of the previous head; None where it is absent."""

    key: bytes
    new: bytes | None
    old: bytes | None = None
    has_old: bool = False


def encode_versions(change: Change, epoch: int, sequence: int, before: int) -> bytes:
    """Encode the two versions of a record."""
    new, old = change.new or b"", (change.old or b"") if change.has_old else b""
    new_length = _ABSENT if change.new is None else len(new)
    old_length = _UNKNOWN if not change.has_old else _ABSENT if change.old is None else len(old)
    return _VERSIONS.pack(epoch, sequence, before, new_length, old_length) + new + old


def version_at(stored: bytes, head: Head) -> bytes | None:
    """Return the record as of the head.

    Raises:
        SnapshotExpiredError: it is known only as of a later commit.
        DamageError: the bytes are no record of ours.
    """
    if len(stored) < _VERSIONS.size:
        raise DamageError(
            f"a record of {len(stored)} bytes is none of ours",
            fix="another program writes under these keys",
        )
    epoch, sequence, before, new, old = _VERSIONS.unpack_from(stored)
    start = _VERSIONS.size
    if len(stored) != start + max(new, 0) + max(old, 0) or new < _ABSENT or old < _UNKNOWN:
        raise DamageError("a record is cut short", fix="tailorbird run worker publishes it anew")
    if epoch == head.epoch and sequence <= head.sequence:
        return None if new == _ABSENT else stored[start : start + new]
    if epoch == head.epoch and old != _UNKNOWN and before <= head.sequence:
        return None if old == _ABSENT else stored[start + max(new, 0) :]
    raise SnapshotExpiredError("the record was written again while it was read")


def encode_head(head: Head) -> bytes:
    """Encode the head."""
    return _HEAD.pack(head.epoch, head.sequence, head.at)


def decode_head(stored: bytes | None) -> Head | None:
    """Decode a stored head; None if it is absent or not one of ours."""
    return None if stored is None or len(stored) != _HEAD.size else Head(*_HEAD.unpack(stored))


def is_of_epoch(stored: bytes, epoch: int) -> bool:
    """Return whether a record was written under this epoch."""
    return len(stored) >= 8 and int.from_bytes(stored[:8], "little") == epoch

"""How a record is copied: with the version before it, so that who read the head a moment ago still
finds what belongs to it.

    head      epoch u64 | sequence u64 | at u64
    record    epoch u64 | sequence u64 | before u64 | two lengths i32 | value as of `sequence` | value between `before` and `sequence`

`store.valkey` keeps them under keys; `store.published` makes them.
"""

import struct
from dataclasses import dataclass, field

from tailorbird.errors import DamageError
from tailorbird.store.protocol import MovedError

_HEAD = struct.Struct("<3Q")
_VERSIONS = struct.Struct("<3Q2i")
_ABSENT, _UNKNOWN = -1, -2  # lengths: the record was not there; nobody knows whether it was


@dataclass(frozen=True)
class Head:
    """The newest commit that is there whole. Another epoch is another copying: sequences of two do
    not compare.

    `at`: when there was nothing newer yet, by the publisher's clock, in microseconds.
    """

    epoch: int
    sequence: int
    at: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Change:
    """A record as it is now, and as it was at the head before; None: it is not there. `known`:
    whether `old` is known.
    """

    key: bytes
    new: bytes | None
    old: bytes | None = None
    is_old_known: bool = False


def encode_versions(change: Change, epoch: int, sequence: int, before: int) -> bytes:
    """The two versions of a record as they are stored."""
    new, old = change.new or b"", (change.old or b"") if change.is_old_known else b""
    new_length = _ABSENT if change.new is None else len(new)
    old_length = (
        _UNKNOWN if not change.is_old_known else _ABSENT if change.old is None else len(old)
    )
    return _VERSIONS.pack(epoch, sequence, before, new_length, old_length) + new + old


def version_at(stored: bytes, head: Head) -> bytes | None:
    """The record as of the head.

    Raises:
        MovedError: it is known only as of a later commit.
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
    raise MovedError("the record was written again while it was read")


def encode_head(head: Head) -> bytes:
    """The head as it is stored."""
    return _HEAD.pack(head.epoch, head.sequence, head.at)


def decode_head(stored: bytes | None) -> Head | None:
    """The head that is stored; None if nothing of ours is."""
    return None if stored is None or len(stored) != _HEAD.size else Head(*_HEAD.unpack(stored))


def is_of_epoch(stored: bytes, epoch: int) -> bool:
    """Whether a record was written by this copying."""
    return len(stored) >= 8 and int.from_bytes(stored[:8], "little") == epoch

"""Protocols of a log. `stream.embedded` implements them in SQLite, `stream.kafka` in topics.

A log is one partition: blocks in append order, one writer, any number of readers. A position is a
number of rows: block `k` begins where block `k - 1` ended, or later, since positions may have gaps.

    offset 0        3    4              9           end = 11
           │ 3 rows │ 1  │ 5 rows       │ 2 rows    │
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, Self

import msgspec


class Block(msgspec.Struct, frozen=True):
    """A unit of appending and reading.

    Attributes:
        kind: type of the payload, opaque to the log.
        rows: number of positions that the block takes, at least 1.
        payload: the content.
        receipt: the writer's notes beside the payload.
    """

    kind: str
    rows: int
    payload: bytes
    receipt: bytes = b""


class StoredBlock(msgspec.Struct, frozen=True):
    """A block and the position of its first row."""

    offset: int
    block: Block

    @property
    def end(self) -> int:
        """The position after the block's last row, where reading continues."""
        return self.offset + self.block.rows


BACKLOG_RECEIPTS = 4  # number of receipts that `LogReader.backlog_after` returns


class Backlog(msgspec.Struct, frozen=True):
    """Unread rows after a position, their blocks (messages), and the receipts of the first blocks.

    `rows_past_end` is the number of rows by which the position is past the end of a log that was lost.
    """

    rows: int
    blocks: int
    receipts: tuple[bytes, ...] = ()
    rows_past_end: int = 0


class BacklogReader(Protocol):
    """The part of `LogReader` that shows how much waits."""

    def backlog_after(self, position: int) -> Backlog:
        """Return what a reader at `position` has yet to read, without pruned rows."""
        ...

    def close(self) -> None: ...


class LogReader(BacklogReader, Protocol):
    """A reader of one partition; its consumer keeps the position, in its own transaction.

    Guarantees: blocks come whole, checked against the checksum chain, in append order, and only
    once they are durable. A read holds nothing open when it returns. One thread at a time.
    """

    partition: str

    def read(self, start: int, *, bytes_max: int = 8 << 20) -> list[StoredBlock]:
        """Read the block that holds row `start` and later ones, up to `bytes_max` of payload.

        At least one block is returned if there is one.

        Raises:
            DamageError: a block does not match its checksum, or the log ends before `start`.
            InputError: rows at `start` were pruned; `start()` is where the log begins now.
        """
        ...

    def start(self) -> int:
        """Return the first position that was not pruned."""
        ...

    def has_pruned_rows(self) -> bool:
        """Return whether rows before `start()` were pruned; false for a log that began there."""
        ...

    def end(self) -> int:
        """Return the position after the last durable row."""
        ...

    def has_changed(self) -> bool:
        """Return whether the writer has committed since the last call; true at first.

        Cheap enough to poll.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class RawWriter(Protocol):
    """The one writer of a collector's log, in one partition or in several.

    Guarantees: when `append` (or the transaction around it) returns, the blocks survive a crash of
    the process and a power loss. In each partition it is all of them or none.
    """

    def append(self, blocks: Iterable[Block]) -> object:
        """Append blocks as one, durably.

        Raises:
            StorageError: the disk or the broker refused; nothing may be acknowledged.
        """
        ...

    def transaction(self) -> AbstractContextManager[object]:
        """Commit all appends as one when the block ends, and none if it raises."""
        ...

    def prune_partitions(self, before_positions: Sequence[int]) -> int:
        """Delete some blocks that end at or before the position of their partition.

        Returns how many were deleted.
        """
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class LogWriter(RawWriter, Protocol):
    """The one writer of a partition.

    Guarantees: those of `RawWriter`; offsets are never reused, not even those of pruned blocks.
    After a failed write the outcome is unknown, and the writer refuses everything until it is
    reopened. Only after a full disk nothing was written, and it may continue. One thread at a time.
    """

    partition: str

    def append(self, blocks: Iterable[Block]) -> int:
        """Append blocks as one, durably, and return the offset of the first.

        Raises:
            StorageError: the disk refused; nothing may be acknowledged.
        """
        ...

    def end(self) -> int:
        """Return the position after the last row."""
        ...

    def prune(self, before: int) -> int:
        """Delete the blocks that end at or before `before` and return how many there were."""
        ...

    def prune_batch(self, before: int) -> int:
        """Delete some of these blocks, so that appends need not wait; return how many."""
        ...

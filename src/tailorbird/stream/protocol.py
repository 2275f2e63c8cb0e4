"""What a log promises, whoever implements it. `stream.embedded` does it in SQLite;
`stream.partitions` knows a project's files.

A log is one partition: blocks in append order, one writer, any number of readers. A position is a
number of rows: block `k` begins where block `k - 1` ended, or later, since positions may have
holes.

    offset 0        3    4              9           end = 11
           │ 3 rows │ 1  │ 5 rows       │ 2 rows    │
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Protocol

import msgspec


class Block(msgspec.Struct, frozen=True):
    """What is appended and read as one.

    Attributes:
        kind: what the payload is; the log does not look into it.
        rows: how many positions the block takes, at least 1.
        payload: the bytes.
        receipt: what the writer notes beside the payload.
    """

    kind: str
    rows: int
    payload: bytes
    receipt: bytes = b""


class Stored(msgspec.Struct, frozen=True):
    """A block and the position of its first row."""

    offset: int
    block: Block

    @property
    def end(self) -> int:
        """The position behind the block's last row, from where to read on."""
        return self.offset + self.block.rows


RECEIPTS = 4  # that `LogReader.waiting` shows


class Backlog(msgspec.Struct, frozen=True):
    """What lies behind a position: rows, the blocks (messages) that hold them, and the receipts of
    the first few blocks.

    `beyond` is by how many rows the position is behind the end, which only a log that was lost
    makes possible.
    """

    rows: int
    blocks: int
    receipts: tuple[bytes, ...] = ()
    beyond: int = 0


class LogReader(Protocol):
    """A reader of one partition. It keeps no position: its consumer does, in its own transaction.

    Promised: blocks come whole, checked against the checksum chain, in append order, and only once
    they are durable. A read holds nothing open when it returns. One thread at a time.
    """

    partition: str

    def read(self, start: int, *, bytes_max: int = 8 << 20) -> list[Stored]:
        """The block that holds row `start` and those behind it, up to `bytes_max` of payload, but
        at least one if there is one.

        Raises:
            DamageError: a block does not match its checksum, or the log ends before `start`: rows
                once read are gone.
            InputError: rows at `start` were pruned; `start()` says where the log begins now.
        """
        ...

    def start(self) -> int:
        """The first position that was not pruned."""
        ...

    def pruned(self) -> bool:
        """Whether rows below `start()` were here and were pruned; false for a log that was made
        there, behind one that was lost.
        """
        ...

    def end(self) -> int:
        """The position behind the last durable row."""
        ...

    def changed(self) -> bool:
        """Whether the writer has committed anything since this was last asked; true at first. Cheap
        enough to poll.
        """
        ...

    def waiting(self, position: int) -> Backlog:
        """What a reader that stands at `position` has yet to take; of what was pruned, nothing."""
        ...

    def close(self) -> None: ...


class LogWriter(Protocol):
    """The one writer of a partition.

    Promised: when `append` (or the transaction around it) returns, the blocks survive the death of
    the process and of the power; they are all there or none is; offsets are never given twice, not
    even to blocks that were pruned. After a failure to write the outcome is unknown: the writer
    refuses everything until it is opened again, except after a full disk, when nothing was written
    and it may go on. One thread at a time.
    """

    partition: str

    def append(self, blocks: Iterable[Block]) -> int:
        """Append blocks as one, durably; the offset of the first.

        Raises:
            StorageError: the disk refused; nothing may be acknowledged.
        """
        ...

    def transaction(self) -> AbstractContextManager[object]:
        """All appends within are committed as one when the block ends, and none if it raises."""
        ...

    def end(self) -> int:
        """The position behind the last row."""
        ...

    def prune(self, before: int) -> int:
        """Delete the blocks that end at or before `before`; how many there were."""
        ...

    def close(self) -> None: ...

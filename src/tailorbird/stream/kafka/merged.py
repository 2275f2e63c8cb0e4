"""Several partitions as one log: an order log names the rows that come next, and so numbers them.

    order        (0: 1–40) │ (2: 1–7) │ (0: 41–90) │ …      one position for each named row
    routed[0]    1 … 40 │ 41 … 90                           merged positions 1 … 40, 48 … 97
    routed[2]    1 … 7                                      merged positions 41 … 47

All readers of the routed log use this order, so `p` is the same for all, and workers, lake and
recomputation work as with one partition. `router.partitions.order` writes the order.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import apsw
import msgspec

from tailorbird.stream.kafka.address import KafkaLog
from tailorbird.stream.kafka.reader import KafkaReader
from tailorbird.stream.kafka.topic_backlog import BacklogClient, LogBacklog
from tailorbird.stream.protocol import Backlog, Block, LogWriter, StoredBlock

_ORDER_BYTES = 1 << 16  # of the order, read at once: some hundred blocks
ORDER = "order"  # the kind of the blocks of the order log


class OrderEntry(msgspec.Struct, frozen=True, array_like=True):
    """An entry of the order log.

    Attributes:
        partition, first: the next rows, as many as the block has positions, begin at `first` of
            this partition.
        ends: end of each partition after this entry.
    """

    partition: int
    first: int
    ends: tuple[int, ...]


_decode = msgspec.json.Decoder(OrderEntry).decode


def decode_entry(block: Block) -> OrderEntry:
    """Decode a block of the order log."""
    return _decode(block.payload)


def encode_entry(run: OrderEntry, rows: int, receipt: bytes = b"") -> Block:
    """Encode a block of the order log."""
    return Block(ORDER, rows, msgspec.json.encode(run), receipt)


@dataclass(frozen=True)
class MergedLog:
    """The addresses of a log in several partitions and of its order."""

    order: KafkaLog
    parts: tuple[KafkaLog, ...]
    stem: str = "routed"

    is_derived: bool = False

    @property
    def topic(self) -> str:
        return self.parts[0].topic

    @property
    def label(self) -> str:
        return self.topic

    def open_reader(self) -> "MergedReader":
        return MergedReader(self)

    def open_writer(
        self,
        *,
        partition: str,
        first_position: int,
        damaged_tail: str,
        expected_ends: Mapping[str, int],
    ) -> LogWriter:
        raise ValueError("each partition is written by itself, and the order by router.order")

    def set_aside_files(self) -> list[Path]:
        return []

    def open_backlog(self, client: BacklogClient | None) -> LogBacklog:
        return self.order.open_backlog(client)

    def pruned_summary(
        self, start: int
    ) -> AbstractContextManager[tuple[apsw.Connection | None, int]]:
        return self.parts[0].pruned_summary(start)

    def __str__(self) -> str:
        return f"kafka://{self.order.cluster.servers}/{self.parts[0].name}"


class MergedReader:
    """A reader of several partitions in their order. Raises NotReadyError without an order."""

    def __init__(self, address: MergedLog) -> None:
        self.address, self.partition = address, address.stem
        self._order = KafkaReader(address.order)
        self._parts: dict[int, KafkaReader] = {}

    def read(self, start: int, *, bytes_max: int = 8 << 20) -> list[StoredBlock]:
        """Read blocks, see `LogReader.read`."""
        blocks: list[StoredBlock] = []
        for entry in self._order.read(start, bytes_max=_ORDER_BYTES):
            run = decode_entry(entry.block)
            position, end = run.first + max(0, start - entry.offset), run.first + entry.block.rows
            while position < end:
                blocks_of_part = self._open_part(run.partition).between(
                    position, end, bytes_max=max(1, bytes_max)
                )
                if not blocks_of_part:  # a newly elected leader may not have its high watermark yet
                    return blocks
                for stored in blocks_of_part:
                    bytes_max -= len(stored.block.payload)
                    if blocks and bytes_max < 0:
                        return blocks
                    blocks.append(
                        StoredBlock(entry.offset + stored.offset - run.first, stored.block)
                    )
                    position = stored.end
        return blocks

    def _open_part(self, number: int) -> KafkaReader:
        if number not in self._parts:
            self._parts[number] = KafkaReader(self.address.parts[number])
        return self._parts[number]

    def ends(self) -> tuple[int, ...]:
        """Return the end of each partition in the order; empty before the first row."""
        end = self._order.end()
        if end <= self._order.start():
            return ()
        return decode_entry(self._order.read(end - 1)[-1].block).ends

    def start(self) -> int:
        return self._order.start()

    def pruned(self) -> bool:
        return self._order.pruned()

    def end(self) -> int:
        return self._order.end()

    def changed(self) -> bool:
        return self._order.changed()

    def backlog_after(self, position: int) -> Backlog:
        return self._order.backlog_after(position)

    def close(self) -> None:
        self._order.close()
        for reader in self._parts.values():
            reader.close()

    def __enter__(self) -> "MergedReader":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

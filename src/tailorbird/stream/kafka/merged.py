"""Several partitions as one log: an order log names the rows that come next, and so numbers them.

    order        (0: 1–40) │ (2: 1–7) │ (0: 41–90) │ …      one position for each named row
    routed[0]    1 … 40 │ 41 … 90                           merged positions 1 … 40, 48 … 97
    routed[2]    1 … 7                                      merged positions 41 … 47

All readers of the routed log use this order, so the `log_position` is the same for all. Workers,
lake and recomputation work as with one partition. `router.partitions.order` writes the order.
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

_ORDER_READ_BYTES = 1 << 16  # of the order, read at once: some hundred blocks
ORDER_KIND = "order"  # the kind of the blocks of the order log


class OrderEntry(msgspec.Struct, frozen=True, array_like=True):
    """An entry of the order log.

    Attributes:
        partition, first_row: the next rows, as many as the block has positions, begin at
            `first_row` of this partition.
        ends: end of each partition after this entry.
    """

    partition: int
    first_row: int
    ends: tuple[int, ...]


_decode_order_entry = msgspec.json.Decoder(OrderEntry).decode


def decode_entry(block: Block) -> OrderEntry:
    """Decode a block of the order log."""
    return _decode_order_entry(block.payload)


def encode_entry(entry: OrderEntry, rows: int, receipt: bytes = b"") -> Block:
    """Encode a block of the order log."""
    return Block(ORDER_KIND, rows, msgspec.json.encode(entry), receipt)


@dataclass(frozen=True)
class MergedLog:
    """The addresses of a log in several partitions and of its order."""

    order: KafkaLog
    partitions: tuple[KafkaLog, ...]
    stem: str = "routed"

    is_derived: bool = False

    @property
    def topic(self) -> str:
        return self.partitions[0].topic

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
        on_damaged_tail: str,
        expected_ends: Mapping[str, int],
    ) -> LogWriter:
        raise ValueError("each partition is written by itself, and the order by router.order")

    def damaged_tail_files(self) -> list[Path]:
        return []

    def open_backlog(self, client: BacklogClient | None) -> LogBacklog:
        return self.order.open_backlog(client)

    def pruned_summary(
        self, start: int
    ) -> AbstractContextManager[tuple[apsw.Connection | None, int]]:
        return self.partitions[0].pruned_summary(start)

    def __str__(self) -> str:
        return f"kafka://{self.order.cluster.servers}/{self.partitions[0].name}"


class MergedReader:
    """A reader of several partitions in their order. Raises NotReadyError without an order."""

    def __init__(self, address: MergedLog) -> None:
        self.address = address
        self.partition = address.stem
        self._order_reader = KafkaReader(address.order)
        self._partition_readers: dict[int, KafkaReader] = {}

    def read(self, start: int, *, bytes_max: int = 8 << 20) -> list[StoredBlock]:
        """Read blocks, see `LogReader.read`."""
        blocks: list[StoredBlock] = []
        for stored_entry in self._order_reader.read(start, bytes_max=_ORDER_READ_BYTES):
            order_entry = decode_entry(stored_entry.block)
            position = order_entry.first_row + max(0, start - stored_entry.offset)
            end = order_entry.first_row + stored_entry.block.rows
            while position < end:
                partition_blocks = self._open_partition(order_entry.partition).read_between(
                    position, end, bytes_max=max(1, bytes_max)
                )
                if (
                    not partition_blocks
                ):  # a newly elected leader may not have its high watermark yet
                    return blocks
                for stored_block in partition_blocks:
                    bytes_max -= len(stored_block.block.payload)
                    if blocks and bytes_max < 0:
                        return blocks
                    blocks.append(
                        StoredBlock(
                            stored_entry.offset + stored_block.offset - order_entry.first_row,
                            stored_block.block,
                        )
                    )
                    position = stored_block.end
        return blocks

    def _open_partition(self, number: int) -> KafkaReader:
        if number not in self._partition_readers:
            self._partition_readers[number] = KafkaReader(self.address.partitions[number])
        return self._partition_readers[number]

    def ends(self) -> tuple[int, ...]:
        """Return the end of each partition in the order; empty before the first row."""
        end = self._order_reader.end()
        if end <= self._order_reader.start():
            return ()
        return decode_entry(self._order_reader.read(end - 1)[-1].block).ends

    def start(self) -> int:
        return self._order_reader.start()

    def has_pruned_rows(self) -> bool:
        return self._order_reader.has_pruned_rows()

    def end(self) -> int:
        return self._order_reader.end()

    def has_changed(self) -> bool:
        return self._order_reader.has_changed()

    def backlog_after(self, position: int) -> Backlog:
        return self._order_reader.backlog_after(position)

    def close(self) -> None:
        self._order_reader.close()
        for reader in self._partition_readers.values():
            reader.close()

    def __enter__(self) -> "MergedReader":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

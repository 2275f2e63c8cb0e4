"""The raw log of one collector over several partitions: bodies are split by visitor.

    append ──► split (events.parts) ──► raw.PRODUCER[0], [1], …: written concurrently

An append is acknowledged once all partitions have acknowledged. It is atomic in each partition, not
over all: after a failure some may have their part. The collector then acknowledges nothing, the
client sends the body again, to the same partitions, and each router drops duplicates.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from tailorbird.events import Receipt
from tailorbird.events.parts import split_by_partition
from tailorbird.stream.kafka.address import KafkaLog
from tailorbird.stream.kafka.cluster import Cluster
from tailorbird.stream.kafka.writer import KafkaWriter
from tailorbird.stream.protocol import Block

_decode_receipt = msgspec.json.Decoder(Receipt).decode


@dataclass(frozen=True)
class KeyedLog:
    """The address of a collector's log: its partitions, in order."""

    logs: tuple[KafkaLog, ...]

    @property
    def cluster(self) -> Cluster:
        return self.logs[0].cluster

    def open_writer(
        self,
        *,
        partition: str,
        first_position: int,
        on_damaged_tail: str,
        expected_ends: Mapping[str, int],
    ) -> "KeyedWriter":
        return KeyedWriter(self, expected_ends)

    def damaged_tail_files(self) -> list[Path]:
        return []

    def __str__(self) -> str:
        return f"kafka://{self.cluster.servers}/{self.logs[0].name}"


class KeyedWriter:
    """The one writer of a collector's log; a transaction is atomic for each partition.

    Raises:
        LockedError, ConfigError, StorageError: as `KafkaWriter`.
    """

    def __init__(self, address: KeyedLog, expected_ends: Mapping[str, int] | None = None) -> None:
        self.address = address
        self._waiting_blocks: list[Block] | None = None
        self._pool = ThreadPoolExecutor(len(address.logs), thread_name_prefix="partition")
        self._writers: list[KafkaWriter] = []
        try:
            openers = [
                partial(KafkaWriter, log, expected_end=(expected_ends or {}).get(log.stem, 0))
                for log in address.logs
            ]
            self._writers.append(
                openers[0]()
            )  # alone at first, to learn whether another writer has the log
            open_futures = [self._pool.submit(open_writer) for open_writer in openers[1:]]
            errors = [open_future.exception() for open_future in open_futures]
            self._writers += [
                open_future.result()
                for open_future, error in zip(open_futures, errors, strict=True)
                if error is None
            ]
            for error in errors:
                if error is not None:
                    raise error
        except BaseException:
            self.close()
            raise

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Send all appends when the block ends."""
        self._waiting_blocks = []
        try:
            yield
            blocks = self._waiting_blocks
        finally:
            self._waiting_blocks = None
        self._commit(blocks)

    def append(self, blocks: Iterable[Block]) -> None:
        """Append bodies, durably; within `transaction()` they become durable with it."""
        if self._waiting_blocks is None:
            self._commit(list(blocks))
        else:
            self._waiting_blocks += blocks

    def _commit(self, blocks: Sequence[Block]) -> None:
        blocks_by_partition: dict[int, list[Block]] = {}
        for block in blocks:
            for number, (body, rows) in split_by_partition(
                block.payload, _decode_receipt(block.receipt), len(self._writers)
            ).items():
                blocks_by_partition.setdefault(number, []).append(
                    Block(block.kind, rows, body, block.receipt)
                )
        append_futures = [
            self._pool.submit(self._writers[number].append, partition_blocks)
            for number, partition_blocks in sorted(blocks_by_partition.items())
        ]
        errors = [
            append_future.exception() for append_future in append_futures
        ]  # wait for all before an error is raised
        for error in errors:
            if error is not None:
                raise error

    def prune_partitions(self, before_positions: Sequence[int]) -> int:
        """Prune each partition, see `KafkaWriter.prune_batch`."""
        return sum(
            writer.prune_batch(position)
            for writer, position in zip(self._writers, before_positions, strict=True)
        )

    def close(self) -> None:
        """Close all partitions and release their locks."""
        self._pool.shutdown(wait=True)
        for writer in self._writers:
            writer.close()
        self._writers = []

    def __enter__(self) -> "KeyedWriter":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

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

_receipt = msgspec.json.Decoder(Receipt).decode


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
        damaged_tail: str,
        expected_ends: Mapping[str, int],
    ) -> "KeyedWriter":
        return KeyedWriter(self, expected_ends)

    def set_aside_files(self) -> list[Path]:
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
            openings = [self._pool.submit(opener) for opener in openers[1:]]
            errors = [opening.exception() for opening in openings]
            self._writers += [
                opening.result()
                for opening, error in zip(openings, errors, strict=True)
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
        parts: dict[int, list[Block]] = {}
        for block in blocks:
            for number, (body, rows) in split_by_partition(
                block.payload, _receipt(block.receipt), len(self._writers)
            ).items():
                parts.setdefault(number, []).append(Block(block.kind, rows, body, block.receipt))
        deliveries = [
            self._pool.submit(self._writers[number].append, part_blocks)
            for number, part_blocks in sorted(parts.items())
        ]
        errors = [
            delivery.exception() for delivery in deliveries
        ]  # wait for all before an error is raised
        for error in errors:
            if error is not None:
                raise error

    def prune_partitions(self, before: Sequence[int]) -> int:
        """Prune each partition, see `KafkaWriter.prune_batch`."""
        return sum(
            writer.prune_batch(until) for writer, until in zip(self._writers, before, strict=True)
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

"""The order of several partitions: one writer decides step by step which rows of which partition
come next for all readers.

    routed[0] ─┐
    routed[1] ─┼─► how far each has come ──► order: (1: 8–20) (0: 3–9) …
    routed[2] ─┘

It reads no events, only where partitions end. The process with partition 0 runs it. The log has one
writer like any other (`stream.kafka.frames`), so that of two rivals one continues. Each row is
named once, in the order of its partition: a new writer continues after the last block of the order.
"""

import logging
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from tailorbird.errors import ConfigError, NotReadyError, StorageError, TailorbirdError
from tailorbird.events import Clock
from tailorbird.stream import Block, LogReader, open_reader, open_writer
from tailorbird.stream.kafka import KafkaLog
from tailorbird.stream.kafka.merged import MergedLog, OrderEntry, decode_entry, encode_entry

if TYPE_CHECKING:
    from pathlib import Path

    from tailorbird.stream.kafka.logs import KafkaLogSet

log = logging.getLogger(__name__)

FIRST_LOG_POSITION = 1
POLL_S = 0.005


class _OrderReceipt(msgspec.Struct, frozen=True):
    """The receipt of a block of the order: the time at which it was written."""

    received_at: int


class Sequencer:
    """The writer of the order of `stream`.

    Args:
        folder: holds its lock against another sequencer on this machine.
    Raises:
        LockedError: another sequencer runs.
        ConfigError: the order is of another number of partitions.
    """

    def __init__(self, stream: "KafkaLogSet", folder: "Path", *, clock: Clock) -> None:
        merged_log = stream.merged_log
        self._partition_logs = merged_log.partitions
        self._clock = clock
        self._readers: dict[int, LogReader] = {}
        self._writer = open_writer(
            stream.order_log(folder), partition="order", first_position=FIRST_LOG_POSITION
        )
        try:
            self._ends = self._load_ends(merged_log)
        except BaseException:
            self.close()
            raise

    def _load_ends(self, merged_log: MergedLog) -> list[int]:
        with open_reader(merged_log.order) as reader:
            end = reader.end()
            if end <= reader.start():
                return [FIRST_LOG_POSITION] * len(self._partition_logs)
            ends = decode_entry(reader.read(end - 1)[-1].block).ends
        if len(ends) != len(self._partition_logs):
            raise ConfigError(
                f"the order is of {len(ends)} partitions, stream.partitions says "
                f"{len(self._partition_logs)}",
                where=str(merged_log.order),
                fix="set stream.partitions back: the number is fixed when the topics are made",
            )
        return list(ends)

    def step(self) -> int:
        """Append newly routed rows to the order, durably, and return how many there were."""
        ends = list(self._ends)
        blocks = []
        for partition in range(len(self._partition_logs)):
            end = self._get_partition_end(partition)
            if end > ends[partition]:
                first_row = ends[partition]
                ends[partition] = end
                blocks.append(self._build_block(partition, first_row, ends))
        if blocks:
            self._writer.append(blocks)
        ordered_rows = sum(ends) - sum(self._ends)
        self._ends = ends
        return ordered_rows

    def _build_block(self, partition: int, first_row: int, ends: list[int]) -> Block:
        receipt = msgspec.json.encode(_OrderReceipt(self._clock.now()))
        return encode_entry(
            OrderEntry(partition, first_row, tuple(ends)), ends[partition] - first_row, receipt
        )

    def _get_partition_end(self, partition: int) -> int:
        if partition not in self._readers:
            try:
                self._readers[partition] = open_reader(self._partition_logs[partition])
            except NotReadyError:  # no router has begun with it
                return self._ends[partition]
        reader = self._readers[partition]
        return reader.end() if reader.has_changed() else self._ends[partition]

    def end(self) -> int:
        """Return the position after the last ordered row."""
        return self._writer.end()

    def close(self) -> None:
        """Close all logs."""
        self._writer.close()
        for reader in self._readers.values():
            reader.close()

    def __enter__(self) -> "Sequencer":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def restart_order(
    order: KafkaLog, starts: Sequence[int], ends: Sequence[int], clock: Clock
) -> None:
    """Write the first blocks of an order that was reset: the rows of each partition from its start.

    Does nothing if the order has blocks already.
    """
    with (
        open_writer(order, partition="order", first_position=FIRST_LOG_POSITION) as writer,
        open_reader(order) as reader,
    ):
        if writer.end() > reader.start():
            return
        ends_so_far = list(starts)
        blocks = []
        for partition, (start, end) in enumerate(zip(starts, ends, strict=True)):
            ends_so_far[partition] = end
            receipt = msgspec.json.encode(_OrderReceipt(clock.now()))
            blocks.append(
                encode_entry(OrderEntry(partition, start, tuple(ends_so_far)), end - start, receipt)
            )
        writer.append(blocks)


class SequencerThread:
    """A sequencer in a thread beside the router of partition 0.

    Attributes:
        error: the error that stopped it, if any.
    """

    def __init__(self, stream: "KafkaLogSet", folder: "Path", *, clock: Clock) -> None:
        self._sequencer = Sequencer(stream, folder, clock=clock)
        self.error: TailorbirdError | None = None
        self._stop_event = threading.Event()
        self._thread = threading.Thread(target=self._run, name="order", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stop_event.is_set():
                if not self._sequencer.step():
                    self._stop_event.wait(POLL_S)
        except TailorbirdError as error:
            self.error = error
        except Exception as error:  # A swallowed error would stall the order for all readers.
            log.exception("the order of partitions cannot be written")
            self.error = StorageError(
                f"{type(error).__name__}: {error}", where="the order of partitions"
            )

    def close(self) -> None:
        """Stop and release the log."""
        self._stop_event.set()
        self._thread.join()
        self._sequencer.close()

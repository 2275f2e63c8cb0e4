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

FIRST_P = 1
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
        routed = stream.merged
        self._parts, self._clock = routed.parts, clock
        self._readers: dict[int, LogReader] = {}
        self._writer = open_writer(stream.order(folder), partition="order", first_position=FIRST_P)
        try:
            self._ends = self._load_ends(routed)
        except BaseException:
            self.close()
            raise

    def _load_ends(self, routed: MergedLog) -> list[int]:
        with open_reader(routed.order) as reader:
            end = reader.end()
            if end <= reader.start():
                return [FIRST_P] * len(self._parts)
            ends = decode_entry(reader.read(end - 1)[-1].block).ends
        if len(ends) != len(self._parts):
            raise ConfigError(
                f"the order is of {len(ends)} partitions, stream.partitions says "
                f"{len(self._parts)}",
                where=str(routed.order),
                fix="set stream.partitions back: the number is fixed when the topics are made",
            )
        return list(ends)

    def step(self) -> int:
        """Append newly routed rows to the order, durably, and return how many there were."""
        ends, blocks = list(self._ends), []
        for number in range(len(self._parts)):
            end = self._end_of_part(number)
            if end > ends[number]:
                first_row, ends[number] = ends[number], end
                blocks.append(self._build_block(number, first_row, ends))
        if blocks:
            self._writer.append(blocks)
        count = sum(ends) - sum(self._ends)
        self._ends = ends
        return count

    def _build_block(self, number: int, first_row: int, ends: list[int]) -> Block:
        receipt = msgspec.json.encode(_OrderReceipt(self._clock.now()))
        return encode_entry(
            OrderEntry(number, first_row, tuple(ends)), ends[number] - first_row, receipt
        )

    def _end_of_part(self, number: int) -> int:
        if number not in self._readers:
            try:
                self._readers[number] = open_reader(self._parts[number])
            except NotReadyError:  # no router has begun with it
                return self._ends[number]
        reader = self._readers[number]
        return reader.end() if reader.changed() else self._ends[number]

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
        open_writer(order, partition="order", first_position=FIRST_P) as writer,
        open_reader(order) as reader,
    ):
        if writer.end() > reader.start():
            return
        ends_so_far, blocks = list(starts), []
        for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
            ends_so_far[number] = end
            receipt = msgspec.json.encode(_OrderReceipt(clock.now()))
            blocks.append(
                encode_entry(OrderEntry(number, start, tuple(ends_so_far)), end - start, receipt)
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
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="order", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                if not self._sequencer.step():
                    self._stop.wait(POLL_S)
        except TailorbirdError as error:
            self.error = error
        except Exception as error:  # A swallowed error would stall the order for all readers.
            log.exception("the order of partitions cannot be written")
            self.error = StorageError(
                f"{type(error).__name__}: {error}", where="the order of partitions"
            )

    def close(self) -> None:
        """Stop and release the log."""
        self._stop.set()
        self._thread.join()
        self._sequencer.close()

"""The reader of a log in a topic, by `assign`, from a position that its consumer keeps.

`stream.kafka.frames` decides which messages count.
"""

import time
from collections import deque
from typing import Any

from tailorbird.errors import DamageError, InputError, NotReadyError, StorageError
from tailorbird.stream.kafka.client import KafkaError, TopicPartition
from tailorbird.stream.kafka.cluster import KafkaTopic, storage_error, translate_errors
from tailorbird.stream.kafka.frames import RunAssembler, decode_message
from tailorbird.stream.kafka.tail import MessageReader, create_consumer
from tailorbird.stream.protocol import BACKLOG_RECEIPTS, Backlog, StoredBlock

_BATCH_MESSAGES = 64  # messages; one may have a megabyte


class KafkaReader:
    """A reader of a log in a topic, with a buffer of blocks read ahead.

    Raises:
        NotReadyError: there is no such topic, or it is still empty.
    """

    def __init__(self, address: KafkaTopic) -> None:
        self.address = address
        self.partition = address.partition
        self._message_reader = MessageReader(address)
        self._consumer: Any = None
        self._buffer: deque[StoredBlock] = deque()
        self._buffered_bytes = 0
        self._buffer_start = (
            -1
        )  # the position from which on the buffer has everything; -1: it has nothing
        self._next_offset = 0  # of the next message to take
        self._assembler = RunAssembler(0)
        self._last_seen_high = -1
        try:
            if self._message_reader.watermarks()[1] == 0:
                raise NotReadyError(
                    "this topic holds no log yet", where=str(address), fix="start its writer first"
                )
            self._consumer = create_consumer(address)
        except BaseException:
            self._message_reader.close()
            raise

    def read(self, start: int, *, bytes_max: int = 8 << 20) -> list[StoredBlock]:
        """Read blocks, see `LogReader.read`."""
        high = self._message_reader.watermarks()[1]
        if self._buffer_start < 0 or not self._buffer_start <= start <= self._assembler.end:
            self._seek(start)
        self._fill_buffer(high, start, bytes_max)
        if start > self._assembler.end and self._next_offset >= high:
            raise DamageError(
                f"the log ends at {self._assembler.end}, but was read up to {start} before: "
                "rows were lost",
                where=str(self.address),
                fix="was the topic deleted, or an unclean leader elected? See `doctor`; "
                'if it is lost for good: docs/how-to/kafka.md, "When topics are lost for good"',
            )
        blocks: list[StoredBlock] = []
        for stored_block in self._buffer:
            bytes_max -= len(stored_block.block.payload)
            if blocks and bytes_max < 0:
                break
            blocks.append(stored_block)
        return blocks

    def read_between(self, start: int, end: int, *, bytes_max: int) -> list[StoredBlock]:
        """Read blocks before `end`, without asking the broker for buffered rows."""
        if not 0 <= self._buffer_start <= start < self._assembler.end:
            self.read(start, bytes_max=bytes_max)
        self._discard_before(start)
        blocks: list[StoredBlock] = []
        for stored_block in self._buffer:
            bytes_max -= len(stored_block.block.payload)
            if stored_block.offset >= end or (blocks and bytes_max < 0):
                break
            blocks.append(stored_block)
        return blocks

    def _seek(self, start: int) -> None:
        offset = self._message_reader.find_offset(start)
        first_part = (
            self._message_reader.read_part(offset)
            if offset < self._message_reader.watermarks()[1]
            else None
        )
        self._buffer.clear()
        self._buffered_bytes = 0
        self._next_offset = offset
        self._assembler = RunAssembler(
            first_part.run_start if first_part is not None else start, str(self.address)
        )
        self._buffer_start = start
        with translate_errors(self.address):
            self._consumer.assign(
                [TopicPartition(self.address.name, self.address.partition_number, offset)]
            )

    def _discard_before(self, start: int) -> None:
        while self._buffer and self._buffer[0].end <= start:
            self._buffered_bytes -= len(self._buffer.popleft().block.payload)
        self._buffer_start = max(self._buffer_start, start)

    def _fill_buffer(self, high: int, start: int, bytes_max: int) -> None:
        """Fill the buffer up to `bytes_max` after `start`, or with all there is."""
        self._discard_before(start)
        deadline = time.monotonic() + self.address.cluster.timeout_s
        while self._next_offset < high and (self._buffered_bytes < bytes_max or not self._buffer):
            with translate_errors(self.address):
                messages = self._consumer.consume(
                    min(high - self._next_offset, _BATCH_MESSAGES), timeout=0.05
                )
            for message in messages:
                if message.error() is not None:
                    self._raise_unless_retriable(message.error(), start)
                    continue
                self._next_offset = message.offset() + 1
                part = decode_message(
                    message.headers(), message.value() or b"", f"{self.address}@{message.offset()}"
                )
                for stored_block in self._assembler.feed(message.offset(), part):
                    if stored_block.end > start:
                        self._buffer.append(stored_block)
                        self._buffered_bytes += len(stored_block.block.payload)
                deadline = time.monotonic() + self.address.cluster.timeout_s
            if not messages and time.monotonic() > deadline:
                raise StorageError(
                    f"nothing came in {self.address.cluster.timeout_s:g} s, though there are "
                    f"{high - self._next_offset} messages to read",
                    where=str(self.address),
                    fix="is the broker running, and is its advertised address reachable from here?",
                )

    def _raise_unless_retriable(self, error: Any, start: int) -> None:
        code = error.code()
        if (
            code in (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT)
            or error.retriable()
        ):
            return  # the client retries, and the caller has the deadline
        self._buffer_start = -1
        if code in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            raise InputError(
                f"rows at {start} were pruned",
                where=str(self.address),
                fix="read them from the lake, then go on here",
            )
        raise storage_error(error, self.address)

    def start(self) -> int:
        return self._message_reader.start()

    def has_pruned_rows(self) -> bool:
        return self._message_reader.watermarks()[0] > 0

    def end(self) -> int:
        if self._buffer_start >= 0 and self._next_offset == self._message_reader.watermarks()[1]:
            return self._assembler.end
        return self._message_reader.find_end().end or 0

    def backlog_after(self, position: int) -> Backlog:
        high = self._message_reader.watermarks()[1]
        end = self.end()
        requested_position = position
        position = max(position, self.start())
        if position >= end:
            return Backlog(0, 0, rows_past_end=max(0, requested_position - end))
        first_blocks = self.read(position, bytes_max=BACKLOG_RECEIPTS << 14)[:BACKLOG_RECEIPTS]
        return Backlog(
            end - position,
            high - self._message_reader.find_offset(position),
            tuple(stored_block.block.receipt for stored_block in first_blocks),
        )

    def has_changed(self) -> bool:
        high = self._message_reader.watermarks()[1]
        has_changed = high != self._last_seen_high
        self._last_seen_high = high
        return has_changed

    def close(self) -> None:
        self._message_reader.close()
        if self._consumer is not None:
            self._consumer.close()

    def __enter__(self) -> "KafkaReader":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

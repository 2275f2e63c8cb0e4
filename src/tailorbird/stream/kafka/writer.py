"""The writer of a log in a topic: an idempotent producer, acknowledged by all in-sync replicas.

A writer begins with a message that names it. Every message carries the offset at which it must
stand (`stream.kafka.frames`), so a replaced writer learns of it with its next message, before it
acknowledges anything, and stops.
"""

import os
import secrets
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tailorbird import faults
from tailorbird.errors import DamageError, InputError, LockedError, StorageError, TailorbirdError
from tailorbird.file_lock import FileLock
from tailorbird.stream.kafka.client import Producer
from tailorbird.stream.kafka.cluster import KafkaTopic, ensure_topic, translate_errors
from tailorbird.stream.kafka.frames import OPENED_KIND, MessagePart, split_run
from tailorbird.stream.kafka.pruning import RecordDeleter, RecordDeletionThread
from tailorbird.stream.kafka.tail import MessageReader
from tailorbird.stream.protocol import Block

_ATTEMPTS_MAX = 5


class KafkaWriter:
    """The one writer of a log in a topic.

    Args:
        first_position: position of the first row of a new log.
        expected_end: highest position that a reader has read, see `stream.locked`.
    Raises:
        LockedError: another writer of this machine has it.
        ConfigError: the topic exists and cannot be a log.
        DamageError: the log ends before `expected_end`; nothing is written to it.
        StorageError: the broker cannot be reached.
    """

    def __init__(
        self, address: KafkaTopic, *, first_position: int = 0, expected_end: int = 0
    ) -> None:
        self.address = address
        self.partition = address.partition
        self._timeout_s = address.cluster.timeout_s
        self._name = secrets.token_hex(6)
        self._failure = ""
        self._is_fenced = False
        self._pending_blocks: list[Block] | None = None
        self._deleter = RecordDeletionThread(address)
        self._lock = None if address.folder is None else FileLock(address.folder / address.stem)
        self._message_reader: MessageReader | None = None
        self._producer: Any = None
        try:
            self._bytes_max = ensure_topic(address)
            self._message_reader = MessageReader(address)
            self._producer = address.cluster.client(Producer, self._producer_conf())
            with translate_errors(address, self._producer):
                # Otherwise the first message waits a second for metadata.
                self._producer.list_topics(address.name, timeout=self._timeout_s)
            self._write_opening_message(first_position, expected_end)
        except BaseException:
            self.close()
            raise

    def _producer_conf(self) -> dict[str, Any]:
        return self.address.cluster.conf(
            enable_idempotence=True,
            acks="all",
            # keeps a run's messages in a row
            max_in_flight_requests_per_connection=1,
            linger_ms=0,
            message_timeout_ms=int(self._timeout_s * 1000),
            request_timeout_ms=int(self._timeout_s * 1000),
            message_max_bytes=self._bytes_max + 16_384,
            batch_size=self._bytes_max,
            compression_type="none",  # routed blocks are compressed already
        )

    def _write_opening_message(self, first_position: int, expected_end: int) -> None:
        """Write the opening message, which fences messages of other writers in flight."""
        assert self._message_reader is not None
        process_name = f"process {os.getpid()} of {socket.gethostname()}"
        for _ in range(_ATTEMPTS_MAX):
            log_end = self._message_reader.find_end()
            end = first_position if log_end.end is None else log_end.end
            if end < expected_end:
                raise DamageError(
                    f"the topic ends at {end}, but was read up to {expected_end} before: it was "
                    "lost, or this is another cluster",
                    where=str(self.address),
                    fix="see stream.url and the broker's disk, and bring the topics back; "
                    "nothing is taken until then. "
                    'If they are lost for good: docs/how-to/kafka.md, "When topics are lost '
                    'for good"',
                )
            opening_part = MessagePart(
                expected_offset=log_end.offset,
                run_start=end,
                index=0,
                run_length=1,
                is_continued=False,
                run_rows=0,
                writer=self._name,
                kind=OPENED_KIND,
                rows=0,
                receipt=process_name.encode(),
                payload=b"",
            )
            offsets = self._send([opening_part])
            if self._is_in_place([opening_part], offsets):
                self._next_offset = offsets[0] + 1
                self._end = end
                return
        raise LockedError(
            "others begin to write at the same time",
            where=str(self.address),
            fix="start one writer a log",
        )

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Send all appends as one run when the block ends."""
        self._check_usable()
        previous_end = self._end
        self._pending_blocks = []
        try:
            yield
        except BaseException:
            self._end = previous_end
            self._pending_blocks = None
            raise
        blocks = self._pending_blocks
        self._pending_blocks = None
        self._end = previous_end
        self._commit(blocks)

    def append(self, blocks: Iterable[Block]) -> int:
        """Append blocks, see `LogWriter.append`; within `transaction()` they are sent with it."""
        if self._pending_blocks is None:
            with self.transaction():
                return self._buffer_blocks(blocks)
        return self._buffer_blocks(blocks)

    def _buffer_blocks(self, blocks: Iterable[Block]) -> int:
        faults.fire_if_armed("stream.before_append")
        assert self._pending_blocks is not None
        start = self._end
        for block in blocks:
            if block.rows < 1:
                raise ValueError(f"a block takes at least one position, got rows={block.rows}")
            if len(block.receipt) + len(block.kind) > 8_192:
                raise InputError(
                    f"a receipt of {len(block.receipt)} bytes does not fit into a message",
                    where=str(self.address),
                )
            self._pending_blocks.append(block)
            self._end += block.rows
        faults.fire_if_armed("stream.after_append")
        return start

    def _commit(self, blocks: Sequence[Block]) -> None:
        if not blocks:
            return
        try:
            faults.fire_if_armed("stream.before_commit")
            last_offset = self._send_run(blocks)
            faults.fire_if_armed("stream.after_commit")
        except BaseException as error:
            self._failure = (
                error.message
                if isinstance(error, TailorbirdError)
                else f"{type(error).__name__}: {error}"
            )
            if isinstance(error, OSError):
                raise StorageError(
                    f"writing failed: {error}", where=str(self.address), fix="start again"
                ) from error
            raise
        self._next_offset = last_offset + 1
        self._end += sum(block.rows for block in blocks)

    def _send_run(self, blocks: Sequence[Block]) -> int:
        """Send a run until it is in place, and return the offset of its last message."""
        for _ in range(_ATTEMPTS_MAX):
            run = split_run(
                blocks,
                expected_offset=self._next_offset,
                run_start=self._end,
                writer=self._name,
                bytes_max=self._bytes_max,
            )
            offsets = self._send(run)
            if self._is_in_place(run, offsets):
                return offsets[-1]
            self._skip_uncounted_messages()
        raise StorageError(
            "others write in between again and again",
            where=str(self.address),
            fix="stop those that were told to stop",
        )

    def _skip_uncounted_messages(self) -> None:
        """Move to the end of the topic if the messages in between do not count.

        Raises:
            LockedError: another writer's messages count.
        """
        assert self._message_reader is not None
        _, high = self._message_reader.watermarks()
        if high < self._next_offset:  # the topic was reset, see `stream.kafka.topic_reset`
            self._is_fenced = True
            raise self._fenced_error()
        for offset in range(self._next_offset, high):
            part = self._message_reader.read_part(offset)
            if part is not None and part.expected_offset == offset and part.writer != self._name:
                self._is_fenced = True
                raise self._fenced_error()
        self._next_offset = high

    def _is_in_place(self, run: Sequence[MessagePart], offsets: Sequence[int]) -> bool:
        """Return whether every message of the run stands at its expected offset.

        A broker that stored a message twice, after a retry, reports the second offset.
        """
        assert self._message_reader is not None
        for part, offset in zip(run, offsets, strict=True):
            if offset == part.expected_offset:
                continue
            stored_part = (
                self._message_reader.read_part(part.expected_offset)
                if offset > part.expected_offset
                else None
            )
            if stored_part is None or (
                stored_part.expected_offset,
                stored_part.writer,
                stored_part.index,
            ) != (part.expected_offset, self._name, part.index):
                return False
        return True

    def _send(self, run: Sequence[MessagePart]) -> list[int]:
        """Send messages and return their offsets once all in-sync replicas have them.

        Raises:
            StorageError: the outcome is unknown.
        """
        offsets: dict[int, int] = {}
        failures: list[Any] = []

        def record_delivery(error: Any, message: Any, index: int) -> None:
            if error is not None:
                failures.append(error)
            else:
                offsets[index] = message.offset()

        deadline = time.monotonic() + self._timeout_s + 1
        for index, part in enumerate(run):
            self._produce(
                part,
                lambda error, message, index=index: record_delivery(error, message, index),
                deadline,
            )
        while len(offsets) + len(failures) < len(run) and time.monotonic() < deadline:
            self._producer.poll(0.05)
        if len(offsets) == len(run):
            return [offsets[index] for index in range(len(run))]
        if self._is_stored(run, deadline):
            return [part.expected_offset for part in run]
        reason = (
            f"{failures[0].str()} ({failures[0].name()})"
            if failures
            else f"no answer in {self._timeout_s:g} s"
        )
        raise StorageError(
            f"Kafka did not acknowledge: {reason}; whether the blocks are there is unknown",
            where=str(self.address),
            fix="is the broker running, with as many replicas in sync as min.insync.replicas "
            "asks for?",
        )

    def _is_stored(self, run: Sequence[MessagePart], deadline: float) -> bool:
        """Return whether an unacknowledged run is stored; if not, it may still be in flight.

        Sending and checking share one deadline, so that a dead broker is not waited for twice.
        """
        assert self._message_reader is not None
        try:
            if self._message_reader.watermarks(deadline)[1] <= run[-1].expected_offset:
                return False
            stored_parts = [self._message_reader.read_part(part.expected_offset) for part in run]
        except TailorbirdError:
            return False
        identities = [
            None if part is None else (part.expected_offset, part.writer, part.index)
            for part in stored_parts
        ]
        return identities == [(part.expected_offset, self._name, part.index) for part in run]

    def _produce(self, part: MessagePart, on_delivery: Any, deadline: float) -> None:
        while True:
            try:
                with translate_errors(self.address):
                    self._producer.produce(
                        self.address.name,
                        part.payload,
                        partition=self.address.partition_number,
                        headers=part.headers(),
                        on_delivery=on_delivery,
                    )
                return
            except BufferError:  # the client's queue is full: wait for reports until the deadline
                if time.monotonic() > deadline:
                    raise StorageError(
                        "the client's queue stays full",
                        where=str(self.address),
                        fix="is the broker running?",
                    ) from None
                self._producer.poll(0.05)

    def end(self) -> int:
        return self._end

    def check_sole_writer(self) -> None:
        """Raise LockedError if another writer has taken over."""
        self._check_usable()
        self._skip_uncounted_messages()

    def prune(self, before: int) -> int:
        """Prune the log, see `LogWriter.prune`, and return the number of messages.

        Returns 0 from a broker that cannot delete records, which is logged.
        """
        self._check_usable()
        deleter = RecordDeleter(self.address)
        try:
            return deleter.delete(before)
        finally:
            deleter.close()

    def prune_partitions(self, before_positions: Sequence[int]) -> int:
        """Prune the one partition, see `prune_batch`."""
        return self.prune_batch(before_positions[0])

    def prune_batch(self, before: int) -> int:
        """Request deletion before the run that holds row `before` from a thread, and return 0."""
        self._check_usable()
        self._deleter.request_deletion(before)
        return 0

    def _fenced_error(self) -> LockedError:
        return LockedError(
            f"{self._find_successor()} writes this log now; it can have one writer",
            where=str(self.address),
            fix="stop one of the two, or start this one under another name",
        )

    def _find_successor(self) -> str:
        """Return the writer that took over, according to the last messages."""
        assert self._message_reader is not None
        try:
            _, high = self._message_reader.watermarks()
            for offset in range(self._next_offset, high):
                part = self._message_reader.read_part(offset)
                if part is not None and part.kind == OPENED_KIND:
                    return part.receipt.decode(errors="replace")
        except TailorbirdError:
            pass
        return "another process"

    def _check_usable(self) -> None:
        if self._is_fenced:
            raise self._fenced_error()
        if self._failure:
            raise StorageError(
                f"an earlier write failed and its outcome is unknown: {self._failure}",
                where=str(self.address),
                fix="start this process again",
            )
        if self._pending_blocks is not None:
            raise ValueError("a transaction is open already")

    def close(self) -> None:
        """Close the producer and release the lock."""
        self._deleter.close()
        if self._producer is not None:
            self._producer.purge()
            self._producer.flush(0)
            self._producer = None
        if self._message_reader is not None:
            self._message_reader.close()
            self._message_reader = None
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> "KafkaWriter":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

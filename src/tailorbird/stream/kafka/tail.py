"""Access to single messages of a topic: its start and end, and the offset of a position."""

import time
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from tailorbird.errors import DamageError, InputError, StorageError
from tailorbird.stream.kafka.client import Consumer, TopicPartition, require_client
from tailorbird.stream.kafka.cluster import (
    KafkaTopic,
    check_topic_exists,
    storage_error,
    translate_errors,
)
from tailorbird.stream.kafka.frames import MessagePart, decode_message

_RETRY_S = 0.05
_SCAN_MESSAGES_MAX = 10_000  # bound of the search for a message that counts at the end


@dataclass(frozen=True)
class TopicEnd:
    """The end of a topic: the next offset, and the position after the last row that counts."""

    offset: int
    end: int | None  # None: the topic is empty


def create_consumer(address: KafkaTopic, **settings: Any) -> Any:
    """Create a consumer with manual assignment that commits nothing."""
    require_client()
    conf = address.cluster.conf(
        group_id="tailorbird",  # never joined
        enable_auto_commit=False,
        enable_auto_offset_store=False,
        auto_offset_reset="error",  # never skip silently
        isolation_level="read_committed",
        fetch_error_backoff_ms=20,
        queued_max_messages_kbytes=32_768,
        check_crcs=True,
        **{"fetch_wait_max_ms": 20, "fetch_queue_backoff_ms": 5, **settings},
    )
    return address.cluster.client(Consumer, conf)


def create_tail_consumer(address: KafkaTopic) -> Any:
    """Create a consumer for single messages at random offsets."""
    return create_consumer(
        address, fetch_wait_max_ms=5, queued_min_messages=1, fetch_queue_backoff_ms=1
    )


class MessageReader:
    """A reader of single messages of a topic. One thread at a time.

    Args:
        consumer: shared by several in turn, and closed by its owner; None creates one.
    Raises:
        NotReadyError: there is no such topic.
    """

    def __init__(self, address: KafkaTopic, consumer: Any = None) -> None:
        self.address = address
        self._owns_consumer = consumer is None
        self._timeout_s = address.cluster.timeout_s
        self._consumer = create_tail_consumer(address) if consumer is None else consumer
        self._partition = TopicPartition(address.name, address.partition_number)
        self._cache: dict[int, MessagePart | None] = {}
        try:
            check_topic_exists(self._consumer, address)
        except BaseException:
            self.close()
            raise

    def watermarks(self, retry_until: float = 0.0) -> tuple[int, int]:
        """Return the first offset and the next one, and wait for a broker that is briefly away.

        Args:
            retry_until: deadline by the monotonic clock, with at least two short attempts; 0 is the
                cluster's timeout.
        """
        deadline = retry_until or time.monotonic() + self._timeout_s
        attempts = 0
        while True:
            attempts += 1
            try:
                remaining_s = max(deadline - time.monotonic(), min(1.0, self._timeout_s / 4))
                with translate_errors(self.address, self._consumer):
                    watermarks = self._consumer.get_watermark_offsets(
                        self._partition, timeout=remaining_s
                    )
                if watermarks is not None:
                    return watermarks
                raise StorageError(
                    f"no answer in {self._timeout_s:g} s",
                    where=str(self.address),
                    fix="is the broker running?",
                )
            except StorageError:
                if (
                    time.monotonic() > deadline and attempts > 1
                ):  # a process that was suspended has not waited for the broker
                    raise
                time.sleep(_RETRY_S)

    def find_end(self) -> TopicEnd:
        """Return the end of the log, without an incomplete run."""
        low, high = self.watermarks()
        for offset in range(high - 1, max(low, high - _SCAN_MESSAGES_MAX) - 1, -1):
            part = self.read_part(offset)
            if part is not None and part.expected_offset == offset:
                return TopicEnd(high, part.end)
        if high == 0:
            return TopicEnd(0, None)
        raise DamageError(
            f"none of the messages {max(low, high - _SCAN_MESSAGES_MAX)} to {high} is one of "
            "this log's",
            where=str(self.address),
            fix="did the topic's retention delete it, or does somebody else write here? Give the "
            "project another prefix",
        )

    def last_run_offset(self) -> int:
        """Return the offset at which the last run begins."""
        low, high = self.watermarks()
        for offset in range(high - 1, max(low, high - _SCAN_MESSAGES_MAX) - 1, -1):
            part = self.read_part(offset)
            if part is not None and part.expected_offset == offset:
                return part.expected_offset - part.index
        return low

    def start(self) -> int:
        """Return the position of the first row that was not pruned."""
        low, high = self.watermarks()
        first_part = self._find_first_valid(low, high)
        if first_part is None:
            return 0
        self._check_run_is_whole(first_part, low)
        return first_part.run_start

    def _check_run_is_whole(self, part: MessagePart, low: int) -> None:
        if part.index == 0 or part.expected_offset > low:
            return
        raise DamageError(
            "the topic begins within a run",
            where=str(self.address),
            fix="delete records only by way of Tailorbird",
        )

    def find_offset(self, position: int) -> int:
        """Return the offset of the first message of the run that holds `position`, or will."""
        low, high = self.watermarks()
        first_part = self._find_first_valid(low, high)
        if first_part is None:
            return high
        was_pruned = (
            low > 0 or first_part.run_start > 1
        )  # positions begin at 0 or 1, and later in a log that was reset
        if position < first_part.run_start and was_pruned:
            raise InputError(
                f"rows before {first_part.run_start} were pruned, asked for {position}",
                where=str(self.address),
                fix="read them from the lake, then go on here",
            )
        last_part = first_part
        left = first_part.expected_offset + 1
        right = high
        while left < right:
            middle = (left + right) // 2
            part = self._find_first_valid(middle, right)
            if part is None:
                right = middle
            elif part.run_start <= position:
                last_part = part
                left = part.expected_offset + 1
            else:
                right = middle
        return last_part.expected_offset - last_part.index

    def _find_first_valid(self, low: int, high: int) -> MessagePart | None:
        """Return the first message from `low` on that stands at its expected offset."""
        for offset in range(low, high):
            part = self.read_part(offset)
            if part is not None and part.expected_offset == offset:
                return part
        return None

    def read_part(self, offset: int) -> MessagePart | None:
        """Return the message at an offset without its payload; None if it is not one of ours."""
        if offset not in self._cache:
            if len(self._cache) > 64:
                self._cache.clear()
            self._cache[offset] = self._fetch(offset)
        return self._cache[offset]

    def _fetch(self, offset: int) -> MessagePart | None:
        message = self._read_message(offset)
        if message.offset() != offset:  # a gap left by a foreign transaction
            return None
        part = decode_message(message.headers(), message.value() or b"", f"{self.address}@{offset}")
        return part and replace(part, payload=b"")

    def _read_message(self, offset: int) -> Any:
        with translate_errors(self.address):
            self._consumer.assign(
                [TopicPartition(self.address.name, self.address.partition_number, offset)]
            )
            message = self._consumer.poll(self._timeout_s)
            self._consumer.unassign()
        if message is None:
            raise StorageError(
                f"no message {offset} in {self._timeout_s:g} s",
                where=str(self.address),
                fix="is the broker running?",
            )
        if message.error() is not None:
            raise storage_error(message.error(), self.address)
        return message

    def close(self) -> None:
        if self._owns_consumer:
            self._consumer.close()

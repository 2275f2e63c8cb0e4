"""What waits for the collector's writer, in order of arrival."""

import os
import time
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from threading import Condition

from tailorbird.events.answer_record import ResponseRecord
from tailorbird.serving.collector.decisions import BusyError, ClosedError, Decision, DiskFullError
from tailorbird.stream import Block

BATCH_BYTES_MAX = 8 << 20
RESERVE_BYTES = 256 << 20
RESERVE_DIVISOR = 20  # at most this fraction of a small disk
CHECK_INTERVAL_S = 0.2


class DiskReserve:
    """Watches the disk space that events leave to the other roles, which could not even delete files
    on a full disk. Cheap enough to check before every body; thread-safe.

        free < min(reserve, a twentieth of the disk)  → events are refused with Retry-After
    """

    def __init__(self, folder: Path, reserve_bytes: int = RESERVE_BYTES) -> None:
        self._folder = folder
        self._reserve_bytes = reserve_bytes
        self._checked_at = -CHECK_INTERVAL_S
        self._is_low = False

    def is_low(self) -> bool:
        """Return whether less is free than has to stay free."""
        now = time.monotonic()
        if self._reserve_bytes and now - self._checked_at >= CHECK_INTERVAL_S:
            self._checked_at = now
            disk = os.statvfs(self._folder)
            self._is_low = disk.f_bavail * disk.f_frsize < min(
                self._reserve_bytes, disk.f_blocks * disk.f_frsize // RESERVE_DIVISOR
            )
        return self._is_low


@dataclass(slots=True, frozen=True)
class QueueEntry:
    """A body that waits for its commit."""

    block: Block
    decisions: Sequence[Decision]
    done_future: "Future[None] | None"  # None: an answer, which nobody waits for


class CollectorQueue:
    """The state that submitters share with the writer; use it while holding `condition`.

    Attributes:
        entries: bodies of events and of answers, in order of arrival.
        records: records of answers that are not written yet, in the order of their entries.
        writable_records: the number of first records whose entries are in the raw log.
        oldest_record_at: monotonic time of the oldest waiting answer.
        size: bytes of the entries that are not acknowledged.
        events_waiting: the number of bodies of events in `entries`.
        prune_requests: raw offsets and answer offset before which blocks are to be deleted.
        accepted, refused: events that were acknowledged, and refused by code.
        dropped_responses: answers that were given up.
        failure: why the log cannot be written, "" if it can.
        is_closing: whether the collector is closing.
    """

    def __init__(self, bytes_max: int, reserve: DiskReserve) -> None:
        self.condition = Condition()
        self.entries: deque[QueueEntry] = deque()
        self.records: deque[ResponseRecord] = deque()
        self.writable_records = 0
        self.oldest_record_at = 0.0
        self.size = self.events_waiting = 0
        self.prune_requests: list[tuple[Sequence[int], int]] = []
        self.accepted = self.dropped_responses = 0
        self.refused: Counter[str] = Counter()
        self.failure = ""
        self.is_closing = False
        self._bytes_max = bytes_max
        self._reserve = reserve

    def has_room(self, size: int) -> bool:
        """Return whether a body of `size` bytes fits into the queue."""
        return self.size + size <= self._bytes_max

    def is_open(self) -> bool:
        """Return whether the log takes writes and the disk has room."""
        return not (self.failure or self.is_closing or self._reserve.is_low())

    def require_room(self, size: int) -> None:
        """Raise if a body of `size` bytes cannot be taken.

        Raises:
            BusyError: the queue is full.
            DiskFullError: the disk is almost full.
            ClosedError: the log cannot be written.
        """
        if self.is_closing:
            raise ClosedError(
                "the server is stopping", fix="send the events again, they will be taken once"
            )
        if self.failure:
            raise ClosedError(
                f"the log cannot be written ({self.failure})", fix="send the events again later"
            )
        if self._reserve.is_low():
            raise DiskFullError(
                "the disk is almost full",
                fix="free some space; events are taken again as soon as there is some",
            )
        if not self.has_room(size):
            raise BusyError(
                "events come in faster than the disk takes them",
                fix="send the events again in a second",
            )

    def add_events(self, entry: QueueEntry) -> None:
        """Queue a body of events, and wake the writer.

        Raises:
            BusyError, DiskFullError, ClosedError: as `require_room` does.
        """
        self.require_room(len(entry.block.payload))
        self.entries.append(entry)
        self.size += len(entry.block.payload)
        self.events_waiting += 1
        self.condition.notify_all()

    def add_response(self, block: Block, record: ResponseRecord) -> None:
        """Queue an answer and its record; only the first one wakes the writer."""
        if not self.records:
            self.oldest_record_at = time.monotonic()
        self.entries.append(QueueEntry(block, (), None))
        self.records.append(record)
        self.size += len(block.payload)
        if len(self.records) == 1:
            self.condition.notify_all()

    def next_batch(self) -> list[QueueEntry]:
        """Take the next batch in order of arrival, so that answers precede their clicks."""
        entries: list[QueueEntry] = []
        size = 0
        while self.entries and size < BATCH_BYTES_MAX:
            entry = self.entries.popleft()
            size += len(entry.block.payload)
            self.events_waiting -= entry.done_future is not None
            entries.append(entry)
        return entries

    def count_committed(self, entries: Sequence[QueueEntry]) -> None:
        """Count entries that are in the raw log, and make room for others."""
        for entry in entries:
            self.size -= len(entry.block.payload)
            self.writable_records += entry.done_future is None
            refused = [decision.code for decision in entry.decisions if not decision.accepted]
            self.accepted += len(entry.decisions) - len(refused)
            self.refused.update(refused)
        self.condition.notify_all()

    def clear(self) -> tuple[list[QueueEntry], int]:
        """Give up all that waits; return the entries, and the number of answers."""
        entries = list(self.entries)
        response_count = len(self.records)
        self.entries.clear()
        self.records.clear()
        self.size = self.events_waiting = self.writable_records = 0
        self.dropped_responses += response_count
        self.condition.notify_all()
        return entries, response_count

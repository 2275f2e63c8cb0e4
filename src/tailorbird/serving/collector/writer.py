"""The one thread that writes a collector's logs and acknowledges what is on the disk.

A failed commit refuses its whole batch and closes the file. The kernel has marked the lost pages as
clean, so a second fsync would falsely succeed. The log is written again only after it was reopened,
and so verified.
"""

import logging
import threading
import time
from collections.abc import Sequence

import msgspec

from tailorbird import faults
from tailorbird.errors import TailorbirdError
from tailorbird.events import Receipt
from tailorbird.events.answer_record import encode_responses
from tailorbird.serving.collector.answer_count import ResponseCount
from tailorbird.serving.collector.decisions import ClosedError, UnknownOutcomeError
from tailorbird.serving.collector.logs import CollectorLogs
from tailorbird.serving.collector.queue import CollectorQueue, QueueEntry
from tailorbird.serving.collector.receipt_times import ReceiptTimes
from tailorbird.stream import Block

log = logging.getLogger(__name__)
_receipt_encoder = msgspec.json.Encoder()


class CollectorWriter:
    """Writes what waits in the queue, in a thread of its own.

    Args:
        flush_s: how long an answer may wait for its sync.
        reopen_after_s: how long after a failed commit the log is reopened.

    Attributes:
        batch_count, failures: commits of the raw log, and those that failed.
    """

    def __init__(
        self,
        queue: CollectorQueue,
        logs: CollectorLogs,
        response_count: ResponseCount,
        receipt_times: ReceiptTimes,
        *,
        flush_s: float,
        reopen_after_s: float,
    ) -> None:
        self._queue = queue
        self._logs = logs
        self._response_count = response_count
        self._receipt_times = receipt_times
        self._flush_s = flush_s
        self._reopen_after_s = reopen_after_s
        self.batch_count = self.failures = 0
        self._failed_at = 0.0
        self._is_superseded = False
        self._thread = threading.Thread(
            target=self._run, name=f"collector-{logs.producer}", daemon=True
        )
        self._thread.start()

    @property
    def set_aside(self) -> int:
        """Number of files with damaged ends of the logs, and with lost logs."""
        return self._logs.set_aside

    def close(self) -> None:
        """Wait until the thread of a closing queue has written what waits, and close the logs."""
        self._thread.join()
        self._logs.close()

    def _run(self) -> None:
        while True:
            with self._queue.condition:
                self._wait_for_work()
                is_closing = self._queue.is_closing
                entries = self._queue.next_batch()
                prune_requests = self._queue.prune_requests
                self._queue.prune_requests = []
            if self._queue.failure:
                self._reject(entries)
                if not is_closing:
                    self._try_reopen()
            else:
                self._write(entries, prune_requests)
            if is_closing and not self._queue.entries:
                return

    def _wait_for_work(self) -> None:
        """Sleep until events wait, or something is due.

        Answers alone do not wake the writer before their flush is due.
        """
        while not (
            self._queue.events_waiting or self._queue.prune_requests or self._queue.is_closing
        ):
            sleep_s = self._sleep_s()
            if sleep_s is not None and sleep_s <= 0:
                return
            self._queue.condition.wait(sleep_s)

    def _is_flush_due(self) -> bool:
        return (
            bool(self._queue.records)
            and time.monotonic() - self._queue.oldest_record_at >= self._flush_s
        )

    def _sleep_s(self) -> float | None:
        """Return how long the writer may sleep, or None for no bound.

        It wakes at the end of the oldest answer's wait, or when the log is to be reopened.
        """
        if self._is_superseded:
            return None
        if self._queue.failure:
            return max(0.0, self._failed_at + self._reopen_after_s - time.monotonic())
        if self._queue.records:
            return max(0.0, self._queue.oldest_record_at + self._flush_s - time.monotonic())
        return None

    def _write(
        self, entries: list[QueueEntry], prune_requests: list[tuple[Sequence[int], int]]
    ) -> None:
        try:
            if entries:
                self._commit(entries)
            if self._is_flush_due() or self._queue.is_closing:
                self._commit_records()
            for raw_before, responses_before in prune_requests:
                deleted_raw_count = self._logs.raw.prune_partitions(raw_before)
                if deleted_raw_count + self._logs.response_log.prune_batch(responses_before):
                    # Continue after events that arrived meanwhile.
                    with self._queue.condition:
                        self._queue.prune_requests.append((raw_before, responses_before))
                        self._queue.condition.notify_all()
        except Exception as error:  # after any error the log is closed, never retried
            self._fail(error, entries)

    def _commit(self, entries: list[QueueEntry]) -> None:
        acknowledges_early = faults.is_disabled(
            "collector.sync_before_ack"
        )  # a fault that the durability test must detect
        if acknowledges_early:
            self._acknowledge(entries)
        faults.fire_if_armed("collector.before_append")
        with self._logs.raw.transaction():
            self._logs.raw.append([entry.block for entry in entries])
            faults.fire_if_armed("collector.before_sync")
        faults.fire_if_armed("collector.before_ack")
        self.batch_count += 1
        if not acknowledges_early:
            self._acknowledge(entries)

    def _commit_records(self) -> None:
        """Write the records of those answers whose events are in the raw log, which comes first."""
        with self._queue.condition:
            records = [
                self._queue.records[position] for position in range(self._queue.writable_records)
            ]
        if not records:
            return
        faults.fire_if_armed("collector.before_records")
        receipt = _receipt_encoder.encode(Receipt(self._receipt_times.newest, "server"))
        self._logs.response_log.append(
            [Block("answers", len(records), encode_responses(records), receipt)]
        )
        faults.fire_if_armed("collector.after_records")
        with self._queue.condition:
            for _ in records:
                self._queue.records.popleft()
            self._queue.writable_records -= len(records)
            self._queue.oldest_record_at = time.monotonic()
            self._response_count.record_settled(len(records))

    def _acknowledge(self, entries: list[QueueEntry]) -> None:
        with self._queue.condition:
            self._queue.count_committed(entries)
        for entry in entries:
            if entry.done_future is not None and not entry.done_future.done():
                entry.done_future.set_result(None)

    def _fail(self, error: Exception, entries: list[QueueEntry]) -> None:
        with self._queue.condition:
            self.failures += 1
            self._queue.failure = (
                error.message
                if isinstance(error, TailorbirdError)
                else f"{type(error).__name__}: {error}"
            )
            self._failed_at = time.monotonic()
            self._is_superseded = self._logs.is_superseded(error)
        if self._is_superseded:  # reclaiming the log would start an endless fight
            log.error(
                "%s; this process takes no more events. Do two machines have the same name?", error
            )
        self._logs.close()
        self._reject(entries, in_flight=True)

    def _reject(self, entries: list[QueueEntry], *, in_flight: bool = False) -> None:
        """Fail all waiting submissions, and give up and count the answers.

        Entries that were being written have an unknown outcome, while those queued behind them are
        not in the log.
        """
        with self._queue.condition:
            queued_entries, response_count = self._queue.clear()
            self._response_count.record_settled(response_count)
        for error_type, rejected_entries in (
            (UnknownOutcomeError if in_flight else ClosedError, entries),
            (ClosedError, queued_entries),
        ):
            for entry in rejected_entries:
                if entry.done_future is not None and not entry.done_future.done():
                    entry.done_future.set_exception(
                        error_type(
                            f"the log cannot be written ({self._queue.failure})",
                            fix=error_type.retry_advice,
                        )
                    )

    def _try_reopen(self) -> None:
        if self._is_superseded or time.monotonic() - self._failed_at < self._reopen_after_s:
            return
        try:
            self._logs = self._logs.reopen()
        except Exception as error:  # still broken: report it, and retry later
            if self._logs.is_superseded(error):
                self._fail(error, [])
                return
            with self._queue.condition:
                self._queue.failure = str(error)
                self._failed_at = time.monotonic()
            return
        with self._queue.condition:
            self._queue.failure = ""

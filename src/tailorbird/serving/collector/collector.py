"""The collector accepts bodies of events, decides on each event, and acknowledges only what is
on the disk.

One thread writes. A submitter waits for the commit that contains its body, and all bodies that
arrive during one commit share the next one (group commit). The server's own answers go through the
same queue, so that an answer is in the log before any click on it. Nobody waits for those: they are
written with the next batch of events or flushed within 50 ms.

    submit ──check──► queue ──► append … COMMIT (one fsync) ──► acknowledge
    record_response ──► the same queue, and afterwards answers-<producer>.db

`serving.collector.body_check` checks, `serving.collector.writer` writes. HTTP is in
`serving.http.app`, and the contract of an event in `events.contract.contract`.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future

import msgspec

from tailorbird.errors import StorageError
from tailorbird.events import Clock, Receipt, RoutePlan
from tailorbird.events.answer_record import ResponseRecord
from tailorbird.events.contract.contract import count_rows
from tailorbird.events.log_clock import LogClock
from tailorbird.events.pseudonyms import Pseudonyms
from tailorbird.events.suppression import SuppressionList
from tailorbird.serving.collector.answer_count import ResponseCount
from tailorbird.serving.collector.body_check import BodyCheck
from tailorbird.serving.collector.decisions import AdmissionCheck, CollectorFigures, Decision
from tailorbird.serving.collector.logs import CollectorLogs
from tailorbird.serving.collector.queue import (
    RESERVE_BYTES,
    CollectorQueue,
    DiskReserve,
    QueueEntry,
)
from tailorbird.serving.collector.receipt_times import ReceiptTimes
from tailorbird.serving.collector.writer import CollectorWriter
from tailorbird.storage_paths import StoragePath
from tailorbird.stream import Block, Stream, log_set

FLUSH_S = 0.05  # how long an answer may wait for its sync; a crash loses those
QUEUE_BYTES_MAX = 64 << 20
CHECK_INLINE_BYTES = 16_384  # larger bodies are checked in a thread
_receipt_encoder = msgspec.json.Encoder()


class EventCollector:
    """The one writer of raw-<producer>.db and answers-<producer>.db in the folder `stream`.
    Thread-safe.

    Args:
        record_timeout_s: how long `record_response` waits for room in the queue before it gives an
            answer up and counts it.
        pseudonyms: hides the people of every body before it is checked and written.
        suppression_list: people whose old events are not taken again, see `events.suppression`.
        reopen_after_s: how long after a failed commit the log is reopened.
        lake: knows how much of these logs it holds. A log that ends before that is never silently
            restarted, see
        `stream.locked`.
        log_clock: the same as `clock` where it may lag behind; the first event with today's time
            makes it go live.
        reserve_bytes: disk space that stays free for the other roles; 0 for none. See
            `serving.collector.queue.DiskReserve`.
    Raises:
        LockedError: another process is this producer.
        DamageError: a topic ends before what router or lake hold of it.
    """

    def __init__(
        self,
        stream: Stream,
        producer: str,
        plan: RoutePlan,
        clock: Clock,
        *,
        queue_bytes_max: int = QUEUE_BYTES_MAX,
        flush_s: float = FLUSH_S,
        record_timeout_s: float = 0.02,
        reopen_after_s: float = 5.0,
        reserve_bytes: int = RESERVE_BYTES,
        pseudonyms: Pseudonyms | None = None,
        suppression_list: SuppressionList | None = None,
        lake: StoragePath | None = None,
        log_clock: LogClock | None = None,
    ) -> None:
        self.producer = producer
        self._body_check = BodyCheck(plan, clock, pseudonyms, suppression_list, log_clock)
        self._record_timeout_s = record_timeout_s
        logs = log_set(stream)
        self.raw_names = list(logs.raw_names_by_stem(producer).values())
        self._receipt_times = ReceiptTimes(clock, plan.skew_us)
        folder = logs.folder
        folder.mkdir(parents=True, exist_ok=True)
        reserve = DiskReserve(folder, 0 if logs.is_remote else reserve_bytes)
        self._queue = CollectorQueue(queue_bytes_max, reserve)
        open_logs = CollectorLogs.open(logs, producer, lake)
        self._response_count = ResponseCount(folder / f"answers-{producer}.count")
        self._lost_responses = self._response_count.settle()
        self._writer = CollectorWriter(
            self._queue,
            open_logs,
            self._response_count,
            self._receipt_times,
            flush_s=flush_s,
            reopen_after_s=reopen_after_s,
        )

    def submit(
        self,
        body: bytes,
        encoding: str = "json",
        *,
        source: str = "collector",
        format_: str = "",
        admission: AdmissionCheck | None = None,
    ) -> list[Decision]:
        """Check, append and sync a body, and return one decision for each event, in order.

        Returns after the sync. `format_` names the foreign format from which an adapter made the
        lines. `admission` may refuse the whole body, see `decisions.AdmissionCheck`.

        Refused events are appended as well: the router finds them by the same check and quarantines
        them. A row that is dropped because its person was erased gets an ordinary decision, so that
        no sender can find out who was erased.

        Raises:
            BusyError: the queue is full.
            DiskFullError: the disk is almost full.
            ClosedError: the log cannot be written. Nothing was acknowledged.
        """
        decisions, done_future = self._admit_and_queue(body, encoding, source, format_, admission)
        done_future.result()
        return decisions

    async def submit_async(
        self,
        body: bytes,
        encoding: str = "json",
        *,
        source: str = "collector",
        format_: str = "",
        admission: AdmissionCheck | None = None,
    ) -> list[Decision]:
        """Submit a body from an event loop: large bodies are checked in a thread, and nothing
        blocks the loop.
        """
        if len(body) > CHECK_INLINE_BYTES:
            decisions, done_future = await asyncio.to_thread(
                self._admit_and_queue, body, encoding, source, format_, admission
            )
        else:
            decisions, done_future = self._admit_and_queue(
                body, encoding, source, format_, admission
            )
        await asyncio.wrap_future(done_future)
        return decisions

    def record_response(self, event_body: bytes, record: ResponseRecord) -> bool:
        """Queue an answer with its event and the features that it read. Return before the sync.

        Return False if it was given up. An answer never fails because it cannot be logged, but the
        loss is counted.
        """
        queue = self._queue
        size = len(event_body)
        with queue.condition:
            if not queue.has_room(size) and not queue.failure:
                queue.condition.wait_for(lambda: queue.has_room(size), self._record_timeout_s)
            self._response_count.record_given()
            if not queue.is_open() or not queue.has_room(size):
                queue.dropped_responses += 1
                self._response_count.record_settled(1)
                return False
            receipt = _receipt_encoder.encode(Receipt(self._receipt_times.next(), "server"))
            self._receipt_times.note_response(record.ts)
            queue.add_response(Block("body", 1, event_body, receipt), record)
        return True

    def prune(self, raw_before: int | Sequence[int], responses_before: int = 0) -> None:
        """Let the writer delete the blocks before these offsets, one raw offset for each of
        `raw_names`.

        The caller guarantees that they are no longer needed.
        """
        raw_offsets = (raw_before,) if isinstance(raw_before, int) else raw_before
        with self._queue.condition:
            self._queue.prune_requests.append((raw_offsets, responses_before))
            self._queue.condition.notify_all()

    def figures(self) -> CollectorFigures:
        """Return the counters for metrics and tests."""
        queue = self._queue
        with queue.condition:
            return CollectorFigures(
                accepted=queue.accepted,
                refused=dict(queue.refused),
                batches=self._writer.batch_count,
                failures=self._writer.failures,
                responses=self._response_count.given_total,
                responses_waiting=len(queue.records),
                responses_dropped=queue.dropped_responses,
                responses_lost=self._lost_responses,
                responses_ahead=self._receipt_times.ahead_count,
                clock_set_back=self._receipt_times.set_back_count,
                set_aside=self._writer.set_aside,
                queue_bytes=queue.size,
                open=not queue.failure and not queue.is_closing,
            )

    def close(self) -> None:
        """Write what waits, close the files and release their locks. Later bodies are refused."""
        with self._queue.condition:
            if self._queue.is_closing:
                return
            self._queue.is_closing = True
            self._queue.condition.notify_all()
        self._writer.close()
        self._response_count.close()

    def __enter__(self) -> "EventCollector":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _admit_and_queue(
        self,
        body: bytes,
        encoding: str,
        source: str,
        format_: str,
        admission: AdmissionCheck | None,
    ) -> tuple[list[Decision], "Future[None]"]:
        if admission is None:
            return self._check_and_queue(body, encoding, source, format_, None)
        # This precedes the check of the queue: a sender beyond its own limit gets that error, and
        # does not fill the queue for others.
        admission.charge_rows(count_rows(body, encoding))
        try:
            return self._check_and_queue(body, encoding, source, format_, admission)
        except StorageError:
            admission.refund()
            raise

    def _check_and_queue(
        self,
        body: bytes,
        encoding: str,
        source: str,
        format_: str,
        admission: AdmissionCheck | None,
    ) -> tuple[list[Decision], "Future[None]"]:
        self._queue.require_room(len(body))  # before the check, because shedding must be cheap
        checked_body = self._body_check.check(body, encoding, source, format_, admission)
        done_future: Future[None] = Future()
        done_future.set_running_or_notify_cancel()  # a cancelled caller cannot withdraw its events
        with self._queue.condition:
            received_at = self._receipt_times.next(checked_body.receipt.received_at)
            if received_at != checked_body.receipt.received_at:
                # Another thread came first, or the clock was set back meanwhile. The router decides
                # by the stored receipt, so the decision is repeated with that one.
                checked_body = self._body_check.decide_again(checked_body, received_at)
            receipt = _receipt_encoder.encode(checked_body.receipt)
            block = Block("body", len(checked_body.decisions), checked_body.body, receipt)
            self._queue.add_events(QueueEntry(block, checked_body.decisions, done_future))
        return checked_body.sender_decisions, done_future

"""The collector accepts bodies of events, decides on each event, and acknowledges only what is
on the disk.

One thread writes. A submitter waits for the commit that contains its body, and all bodies that
arrive during one commit share the next one (group commit). The server's own answers go through the
same queue, so that an answer is in the log before any click on it. Nobody waits for those: they are
written with the next batch of events or flushed within 50 ms. HTTP is in `serving.http.app`, and the
contract of an event in `events.contract.contract`.

    submit ──check──► queue ──► append … COMMIT (one fsync) ──► acknowledge
    record_answer ──► the same queue, and afterwards answers-<producer>.db

A failed commit refuses its whole batch and closes the file. The kernel has marked the lost pages as
clean, so a second fsync would falsely succeed. The collector accepts writes again only after it has
reopened, and so verified, the log.
"""

import asyncio
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import msgspec

from tailorbird import faults
from tailorbird.errors import StorageError, TailorbirdError
from tailorbird.events import Clock, Receipt, RoutePlan
from tailorbird.events.answer_record import AnswerRecord, encode_answers
from tailorbird.events.contract.columnwise import Contract
from tailorbird.events.contract.contract import count_rows
from tailorbird.events.log_clock import LogClock
from tailorbird.events.pseudonyms import Pseudonyms
from tailorbird.events.suppression import SuppressionList
from tailorbird.serving.collector.answer_count import AnswerCount
from tailorbird.serving.collector.decisions import (
    AdmissionCheck,
    BusyError,
    ClosedError,
    CollectorFigures,
    Decision,
    DiskFullError,
    UnknownOutcomeError,
    decide,
)
from tailorbird.serving.collector.disk_reserve import RESERVE_BYTES, DiskReserve
from tailorbird.serving.collector.logs import CollectorLogs
from tailorbird.serving.collector.receipt_times import ReceiptTimes
from tailorbird.storage_paths import Storage
from tailorbird.stream import Block, Stream, log_set

FLUSH_S = 0.05  # how long an answer may wait for its sync; a crash loses those
BATCH_BYTES_MAX = 8 << 20
QUEUE_BYTES_MAX = 64 << 20
_FUTURE_TS_CODE = "ts_in_future"
CHECK_INLINE_BYTES = 16_384  # larger bodies are checked in a thread
_RECEIPT = msgspec.json.Encoder()
log = logging.getLogger(__name__)


@dataclass(slots=True, frozen=True)
class _QueueEntry:
    block: Block
    decisions: Sequence[Decision]
    done: "Future[None] | None"  # None: an answer, which nobody waits for


class EventCollector:
    """The one writer of raw-<producer>.db and answers-<producer>.db in the folder `stream`.
    Thread-safe.

    Args:
        record_timeout_s: how long `record_answer` waits for room in the queue before it gives an
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
            `serving.collector.disk_reserve`.
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
        lake: Storage | None = None,
        log_clock: LogClock | None = None,
    ) -> None:
        self.producer, self._plan, self._clock, self._log_clock = producer, plan, clock, log_clock
        self._contract = Contract(plan)
        self._queue_bytes_max, self._flush_s = queue_bytes_max, flush_s
        self._pseudonyms, self._suppression_list = (
            pseudonyms,
            suppression_list or SuppressionList(b""),
        )
        self._record_timeout_s, self._reopen_after_s = record_timeout_s, reopen_after_s
        self._queue: deque[_QueueEntry] = deque()
        self._answer_records: deque[AnswerRecord] = deque()
        logs = log_set(stream)
        self.raw_names = list(logs.raw_stems(producer).values())
        self._prunes: list[tuple[Sequence[int], int]] = []
        self._queue_bytes = self._events_waiting = self._writable_records = 0
        self._oldest_answer = 0.0  # monotonic time of the oldest waiting answer
        self._receipt_times = ReceiptTimes(clock, plan.skew_us)
        self._accepted = self._batches = self._failures = self._dropped_answers = 0
        self._refused: Counter[str] = Counter()
        self._condition = threading.Condition()
        self._failure: str = ""
        self._failed_at = 0.0
        self._is_superseded = False
        self._closing = False
        folder = logs.folder
        folder.mkdir(parents=True, exist_ok=True)
        self._reserve = DiskReserve(folder, 0 if logs.is_remote else reserve_bytes)
        self._logs = CollectorLogs.open(logs, producer, lake)
        self._answer_count = AnswerCount(folder / f"answers-{producer}.count")
        self._lost_answers = self._answer_count.settle()
        self._thread = threading.Thread(target=self._run, name=f"door-{producer}", daemon=True)
        self._thread.start()

    def submit(
        self,
        body: bytes,
        encoding: str = "json",
        *,
        source: str = "door",
        format_: str = "",
        admit: AdmissionCheck | None = None,
    ) -> list[Decision]:
        """Check, append and sync a body, and return one decision for each event, in order.

        Returns after the sync. `format_` names the foreign format from which an adapter made the
        lines. `admit` may refuse the whole body, see `decisions.AdmissionCheck`.

        Refused events are appended as well: the router finds them by the same check and quarantines
        them. A row that is dropped because its person was erased gets an ordinary decision, so that
        no sender can find out who was erased.

        Raises:
            BusyError: the queue is full.
            DiskFullError: the disk is almost full.
            ClosedError: the log cannot be written. Nothing was acknowledged.
        """
        decisions, done = self._enqueue(body, encoding, source, format_, admit)
        done.result()
        return decisions

    async def submit_async(
        self,
        body: bytes,
        encoding: str = "json",
        *,
        source: str = "door",
        format_: str = "",
        admit: AdmissionCheck | None = None,
    ) -> list[Decision]:
        """Submit a body from an event loop: large bodies are checked in a thread, and nothing
        blocks the loop.
        """
        if len(body) > CHECK_INLINE_BYTES:
            decisions, done = await asyncio.to_thread(
                self._enqueue, body, encoding, source, format_, admit
            )
        else:
            decisions, done = self._enqueue(body, encoding, source, format_, admit)
        await asyncio.wrap_future(done)
        return decisions

    def record_answer(self, event_body: bytes, record: AnswerRecord) -> bool:
        """Queue an answer with its event and the features that it read. Return before the sync.

        Return False if it was given up. An answer never fails because it cannot be logged, but the
        loss is counted.
        """
        size = len(event_body)
        with self._condition:
            if self._queue_bytes + size > self._queue_bytes_max and not self._failure:
                self._condition.wait_for(
                    lambda: self._queue_bytes + size <= self._queue_bytes_max,
                    self._record_timeout_s,
                )
            self._answer_count.record_given()
            if (
                self._failure
                or self._closing
                or self._reserve.is_low()
                or self._queue_bytes + size > self._queue_bytes_max
            ):
                self._dropped_answers += 1
                self._answer_count.record_settled(1)
                return False
            receipt = _RECEIPT.encode(Receipt(self._receipt_times.next(), "server"))
            self._receipt_times.note_answer(record.ts)
            if not self._answer_records:
                self._oldest_answer = time.monotonic()
            self._queue.append(_QueueEntry(Block("body", 1, event_body, receipt), (), None))
            self._answer_records.append(record)
            self._queue_bytes += size
            if len(self._answer_records) == 1:
                self._condition.notify_all()
        return True

    def prune(self, raw_before: int | Sequence[int], answers_before: int = 0) -> None:
        """Let the writer delete the blocks before these offsets, one raw offset for each of
        `raw_names`.

        The caller guarantees that they are no longer needed.
        """
        with self._condition:
            self._prunes.append(
                ((raw_before,) if isinstance(raw_before, int) else raw_before, answers_before)
            )
            self._condition.notify_all()

    def figures(self) -> CollectorFigures:
        """Return the counters for metrics and tests."""
        with self._condition:
            return CollectorFigures(
                accepted=self._accepted,
                refused=dict(self._refused),
                batches=self._batches,
                failures=self._failures,
                answers=self._answer_count.total,
                answers_waiting=len(self._answer_records),
                answers_dropped=self._dropped_answers,
                answers_lost=self._lost_answers,
                answers_ahead=self._receipt_times.ahead,
                clock_set_back=self._receipt_times.set_back,
                set_aside=self._logs.set_aside,
                queue_bytes=self._queue_bytes,
                open=not self._failure and not self._closing,
            )

    def close(self) -> None:
        """Write what waits, close the files and release their locks. Later bodies are refused."""
        with self._condition:
            if self._closing:
                return
            self._closing = True
            self._condition.notify_all()
        self._thread.join()
        self._logs.close()
        self._answer_count.close()

    def __enter__(self) -> "EventCollector":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Below: the queue (any thread), then the writer (its own thread only).

    def _enqueue(
        self, body: bytes, encoding: str, source: str, format_: str, admit: AdmissionCheck | None
    ) -> tuple[list[Decision], "Future[None]"]:
        if admit is None:
            return self._check_and_queue(body, encoding, source, format_, None)
        # This precedes the check of the queue: a sender beyond its own limit gets that error, and
        # does not fill the queue for others.
        admit.charge_rows(count_rows(body, encoding))
        try:
            return self._check_and_queue(body, encoding, source, format_, admit)
        except StorageError:
            admit.refund()
            raise

    def _check_and_queue(
        self, body: bytes, encoding: str, source: str, format_: str, admit: AdmissionCheck | None
    ) -> tuple[list[Decision], "Future[None]"]:
        self._refuse_if_full(len(body))  # before the check, because shedding must be cheap
        if self._pseudonyms is not None:
            body = self._pseudonyms.pseudonymise_body(
                body, encoding, foreign=bool(format_), types=self._plan.event_types
            )
        receipt = Receipt(self._clock.now(), source, encoding, format_)
        original_body, body = body, self._suppression_list.without(body, receipt)
        sender_decisions, decisions = self._decide(original_body, body, receipt, admit)
        if (
            self._log_clock is not None
            and self._log_clock.behind
            and self._is_present_time(original_body, body, receipt, decisions)
        ):
            self._log_clock.go_live()
            log.warning(
                "the first event of today came in: this project goes by today's time from now on"
            )
            receipt = Receipt(self._clock.now(), source, encoding, format_)
            sender_decisions, decisions = self._decide(original_body, body, receipt)
        done: Future[None] = Future()
        done.set_running_or_notify_cancel()  # a cancelled caller cannot withdraw its events
        with self._condition:
            self._refuse_if_full(len(body))
            received_at = self._receipt_times.next(receipt.received_at)
            if received_at != receipt.received_at:
                # Another thread came first, or the clock was set back meanwhile. The router decides
                # by the stored receipt, so the decision is repeated with that one.
                receipt = Receipt(received_at, source, encoding, format_)
                sender_decisions, decisions = self._decide(original_body, body, receipt)
            self._queue.append(
                _QueueEntry(
                    Block("body", len(decisions), body, _RECEIPT.encode(receipt)), decisions, done
                )
            )
            self._queue_bytes += len(body)
            self._events_waiting += 1
            self._condition.notify_all()
        return sender_decisions, done

    def _decide(
        self,
        original_body: bytes,
        body: bytes,
        receipt: Receipt,
        admit: AdmissionCheck | None = None,
    ) -> tuple[list[Decision], list[Decision]]:
        """Return the decisions that the sender sees, and those on the body without the suppressed
        rows.
        """
        sender_decisions = decide(original_body, receipt, self._contract, admit)
        return sender_decisions, sender_decisions if body is original_body else decide(
            body, receipt, self._contract
        )

    def _is_present_time(
        self, original_body: bytes, body: bytes, receipt: Receipt, decisions: list[Decision]
    ) -> bool:
        """Return whether events show that the project has left the past of an old log.

        That is the case if they come from a page of the site, or carry a time that is in the future
        of the old log's clock but not of today's.
        """
        if receipt.source.startswith("browser"):
            return True
        ahead = sum(decision.code == _FUTURE_TS_CODE for decision in decisions)
        if not ahead or self._log_clock is None:
            return False
        today = msgspec.structs.replace(receipt, received_at=self._log_clock.machine_now())
        return (
            sum(
                decision.code == _FUTURE_TS_CODE
                for decision in self._decide(original_body, body, today)[1]
            )
            < ahead
        )

    def _refuse_if_full(self, size: int) -> None:
        if self._closing:
            raise ClosedError(
                "the server is stopping", fix="send the events again, they will be taken once"
            )
        if self._failure:
            raise ClosedError(
                f"the log cannot be written ({self._failure})", fix="send the events again later"
            )
        if self._reserve.is_low():
            raise DiskFullError(
                "the disk is almost full",
                fix="free some space; events are taken again as soon as there is some",
            )
        if self._queue_bytes + size > self._queue_bytes_max:
            raise BusyError(
                "events come in faster than the disk takes them",
                fix="send the events again in a second",
            )

    def _run(self) -> None:
        while True:
            with self._condition:
                self._wait()
                closing = self._closing
                entries = self._next_batch()
                prunes, self._prunes = self._prunes, []
            if self._failure:
                self._reject(entries)
                if not closing:
                    self._try_reopen()
            else:
                self._write(entries, prunes)
            if closing and not self._queue:
                return

    def _wait(self) -> None:
        """Sleep until events wait, or something is due.

        Answers alone do not wake the writer before their flush is due.
        """
        while not (self._events_waiting or self._prunes or self._closing):
            sleep_s = self._sleep_s()
            if sleep_s is not None and sleep_s <= 0:
                return
            self._condition.wait(sleep_s)

    def _flush_due(self) -> bool:
        return (
            bool(self._answer_records) and time.monotonic() - self._oldest_answer >= self._flush_s
        )

    def _sleep_s(self) -> float | None:
        """Return how long the writer may sleep, or None for no bound.

        It wakes at the end of the oldest answer's wait, or when the log is to be reopened.
        """
        if self._is_superseded:
            return None
        if self._failure:
            return max(0.0, self._failed_at + self._reopen_after_s - time.monotonic())
        if self._answer_records:
            return max(0.0, self._oldest_answer + self._flush_s - time.monotonic())
        return None

    def _next_batch(self) -> list[_QueueEntry]:
        """Return the next batch in order of arrival, so that answers precede their clicks."""
        entries: list[_QueueEntry] = []
        size = 0
        while self._queue and size < BATCH_BYTES_MAX:
            entry = self._queue.popleft()
            size += len(entry.block.payload)
            self._events_waiting -= entry.done is not None
            entries.append(entry)
        return entries

    def _write(self, entries: list[_QueueEntry], prunes: list[tuple[Sequence[int], int]]) -> None:
        try:
            if entries:
                self._commit(entries)
            if self._flush_due() or self._closing:
                self._commit_records()
            for raw_before, answers_before in prunes:
                if self._prune_raw(raw_before) + self._logs.answers.prune_some(answers_before):
                    self.prune(
                        raw_before, answers_before
                    )  # continue after events that arrived meanwhile
        except Exception as error:  # after any error the log is closed, never retried
            self._fail(error, entries)

    def _prune_raw(self, before: Sequence[int]) -> int:
        return self._logs.raw.prune_each(before)

    def _commit(self, entries: list[_QueueEntry]) -> None:
        acknowledge_early = faults.is_disabled(
            "door.sync_before_ack"
        )  # a fault that the durability test must detect
        if acknowledge_early:
            self._acknowledge(entries)
        faults.at("door.before_append")
        with self._logs.raw.transaction():
            self._logs.raw.append([entry.block for entry in entries])
            faults.at("door.before_sync")
        faults.at("door.before_ack")
        self._batches += 1
        if not acknowledge_early:
            self._acknowledge(entries)

    def _commit_records(self) -> None:
        """Write the records of those answers whose events are in the raw log, which comes first."""
        with self._condition:
            records = [self._answer_records[position] for position in range(self._writable_records)]
        if not records:
            return
        faults.at("door.before_records")
        receipt = _RECEIPT.encode(Receipt(self._receipt_times.newest, "server"))
        self._logs.answers.append(
            [Block("answers", len(records), encode_answers(records), receipt)]
        )
        faults.at("door.after_records")
        with self._condition:
            for _ in records:
                self._answer_records.popleft()
            self._writable_records -= len(records)
            self._oldest_answer = time.monotonic()
            self._answer_count.record_settled(len(records))

    def _acknowledge(self, entries: list[_QueueEntry]) -> None:
        with self._condition:
            for entry in entries:
                self._queue_bytes -= len(entry.block.payload)
                self._writable_records += entry.done is None
                refused = [decision.code for decision in entry.decisions if not decision.accepted]
                self._accepted += len(entry.decisions) - len(refused)
                self._refused.update(refused)
            self._condition.notify_all()
        for entry in entries:
            if entry.done is not None and not entry.done.done():
                entry.done.set_result(None)

    def _fail(self, error: Exception, entries: list[_QueueEntry]) -> None:
        with self._condition:
            self._failures += 1
            self._failure = (
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

    def _reject(self, entries: list[_QueueEntry], *, in_flight: bool = False) -> None:
        """Fail all waiting submissions, and give up and count the answers.

        Entries that were being written have an unknown outcome, while those queued behind them are
        not in the log.
        """
        with self._condition:
            queued = list(self._queue)
            self._queue.clear()
            self._queue_bytes = self._events_waiting = 0
            self._dropped_answers += len(self._answer_records)
            self._answer_count.record_settled(len(self._answer_records))
            self._answer_records.clear()
            self._writable_records = 0
            self._condition.notify_all()
        for error_type, rejected in (
            (UnknownOutcomeError if in_flight else ClosedError, entries),
            (ClosedError, queued),
        ):
            for entry in rejected:
                if entry.done is not None and not entry.done.done():
                    entry.done.set_exception(
                        error_type(
                            f"the log cannot be written ({self._failure})",
                            fix=error_type.retry_advice,
                        )
                    )

    def _try_reopen(self) -> None:
        if self._is_superseded or time.monotonic() - self._failed_at < self._reopen_after_s:
            return
        try:
            self._logs = self._logs.reopened()
        except Exception as error:  # still broken: report it, and retry later
            if self._logs.is_superseded(error):
                self._fail(error, [])
                return
            with self._condition:
                self._failure, self._failed_at = str(error), time.monotonic()
            return
        with self._condition:
            self._failure = ""

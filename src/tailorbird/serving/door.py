"""The door: takes bodies of events, decides on each event, and acknowledges only what is on the
disk.

One thread writes. Whoever submits waits for the commit that holds its body, and all bodies that
came in during one commit share the next one (group commit). Answers that the server gave go through
the same queue, so that an answer stands in the log before any click on it; nobody waits for those,
they ride with the next batch of events or are flushed within 50 ms. HTTP is in `serving.app`; what
an event must look like, in `events.contract`.

    submit ──check──► queue ──► append … COMMIT (one fsync) ──► acknowledge
    record_answer ──► the same queue, and afterwards answers-<producer>.db

A failed commit refuses its whole batch and closes the file: the kernel has marked the lost pages as
clean, so a second fsync would lie. The door takes writes again only after it has opened (and so
verified) the log anew.
"""

import asyncio
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from tailorbird import faults
from tailorbird.errors import LockedError, StorageError, TailorbirdError
from tailorbird.events import Clock, Receipt, RoutePlan
from tailorbird.events.answer_record import AnswerRecord, encode_answers
from tailorbird.events.columnwise import Contract
from tailorbird.events.contract import count_rows
from tailorbird.events.log_clock import LogClock
from tailorbird.events.pseudonyms import Pseudonyms
from tailorbird.events.suppression import SuppressionList
from tailorbird.places import Place
from tailorbird.serving.answer_count import AnswerCount
from tailorbird.serving.decisions import (
    Admit,
    BusyError,
    ClosedError,
    Decision,
    DiskFullError,
    DoorFigures,
    UnknownError,
    decide,
)
from tailorbird.serving.door_logs import DoorLogs
from tailorbird.serving.receipt_times import ReceiptTimes
from tailorbird.serving.reserve import RESERVE_BYTES, Reserve
from tailorbird.stream import Block, Stream, folder_of, raw_names

FLUSH_S = 0.05  # how long an answer may wait for its sync: what a crash may lose of them
BATCH_BYTES_MAX = 8 << 20
QUEUE_BYTES_MAX = 64 << 20
_AHEAD = "ts_in_future"
CHECK_INLINE_BYTES = 16_384  # larger bodies are checked off the event loop
_RECEIPT = msgspec.json.Encoder()
log = logging.getLogger(__name__)


@dataclass(slots=True, frozen=True)
class _Entry:
    block: Block
    decisions: Sequence[Decision]
    done: "Future[None] | None"  # None: an answer, nobody waits for it


class Door:
    """The one writer of raw-<producer>.db and answers-<producer>.db in the folder `stream`. Safe to
    call from any thread.

    Args:
        patience_s: how long `record_answer` waits for room in the queue before it gives an answer
            up and counts it.
        pseudonyms: hides the people of every body before it is checked and written.
        stopped: of whom nothing old is taken again, see `events.suppression`.
        reopen_after_s: how long after a failed commit the log is opened anew.
        lake: which says how far it has these logs; one that ends before that is never begun anew in
            silence, see `stream.held`.
        log_clock: the same as `clock`, where it may lie back: the first event that says today's
            time ends that.
        reserve_bytes: how much of the disk stays free for the other roles; 0 for none. See
            `serving.reserve`.
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
        patience_s: float = 0.02,
        reopen_after_s: float = 5.0,
        reserve_bytes: int = RESERVE_BYTES,
        pseudonyms: Pseudonyms | None = None,
        stopped: SuppressionList | None = None,
        lake: Place | None = None,
        log_clock: LogClock | None = None,
    ) -> None:
        self.producer, self._plan, self._clock, self._log_clock = producer, plan, clock, log_clock
        self._contract = Contract(plan)
        self._queue_bytes_max, self._flush_s = queue_bytes_max, flush_s
        self._pseudonyms, self._stopped = pseudonyms, stopped or SuppressionList(b"")
        self._patience_s, self._reopen_after_s = patience_s, reopen_after_s
        self._queue: deque[_Entry] = deque()
        self._records: deque[AnswerRecord] = deque()
        self.raw_names = raw_names(stream, producer)
        self._prunes: list[tuple[Sequence[int], int]] = []
        self._queue_bytes = self._events_waiting = self._records_ready = 0
        self._oldest_answer = 0.0  # monotonic time at which the oldest waiting answer came
        self._times = ReceiptTimes(clock, plan.skew_us)
        self._accepted = self._batches = self._failures = self._dropped = 0
        self._refused: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._failure: str = ""
        self._failed_at = 0.0
        self._replaced = False
        self._closing = False
        folder = folder_of(stream)
        folder.mkdir(parents=True, exist_ok=True)
        self._reserve = Reserve(folder, reserve_bytes if isinstance(stream, Path) else 0)
        self._logs = DoorLogs.open(stream, producer, lake)
        self._ledger = AnswerCount(folder / f"answers-{producer}.count")
        self._lost = self._ledger.settle()
        self._thread = threading.Thread(target=self._run, name=f"door-{producer}", daemon=True)
        self._thread.start()

    def submit(
        self,
        body: bytes,
        encoding: str = "json",
        *,
        source: str = "door",
        format_: str = "",
        admit: Admit | None = None,
    ) -> list[Decision]:
        """Check, append and sync a body; one decision for each event, in order. Returns after the
        sync.

        `format_` says from which other format an adapter made the lines; `admit` may refuse the
        whole, see `decisions.Admit`.

        Refused events are appended as well: the router finds them by the same check and keeps them
        in quarantine. Of a row that is kept out since somebody was erased the decision is that of
        anybody's: whoever may send events could else ask who was.

        Raises:
            BusyError: the queue is full. DiskFullError: the disk almost is. ClosedError: the log
                cannot be written. Nothing of it was acknowledged.
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
        admit: Admit | None = None,
    ) -> list[Decision]:
        """As `submit`, for an event loop: a large body is checked in a thread, and nothing blocks
        the loop.
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
        """Queue an answer that was given: its event and the features that it read. Returns before
        the sync.

        False if it had to be given up: an answer is never failed because it cannot be logged, but
        it is counted.
        """
        size = len(event_body)
        with self._changed:
            if self._queue_bytes + size > self._queue_bytes_max and not self._failure:
                self._changed.wait_for(
                    lambda: self._queue_bytes + size <= self._queue_bytes_max, self._patience_s
                )
            self._ledger.given()
            if (
                self._failure
                or self._closing
                or self._reserve.short()
                or self._queue_bytes + size > self._queue_bytes_max
            ):
                self._dropped += 1
                self._ledger.kept(1)
                return False
            receipt = _RECEIPT.encode(Receipt(self._times.next(), "server"))
            self._times.note_answer(record.ts)
            if not self._records:
                self._oldest_answer = time.monotonic()
            self._queue.append(_Entry(Block("body", 1, event_body, receipt), (), None))
            self._records.append(record)
            self._queue_bytes += size
            if len(self._records) == 1:
                self._changed.notify_all()
        return True

    def prune(self, raw_before: int | Sequence[int], answers_before: int = 0) -> None:
        """Let the writer delete blocks before these offsets, of raw one for each of `raw_names`;
        the caller vouches that they can go.
        """
        with self._changed:
            self._prunes.append(
                ((raw_before,) if isinstance(raw_before, int) else raw_before, answers_before)
            )
            self._changed.notify_all()

    def figures(self) -> DoorFigures:
        """What went through the door, for metrics and tests."""
        with self._changed:
            return DoorFigures(
                accepted=self._accepted,
                refused=dict(self._refused),
                batches=self._batches,
                failures=self._failures,
                answers=self._ledger.total,
                answers_waiting=len(self._records),
                answers_dropped=self._dropped,
                answers_lost=self._lost,
                answers_ahead=self._times.ahead,
                clock_set_back=self._times.set_back,
                set_aside=self._logs.set_aside,
                queue_bytes=self._queue_bytes,
                open=not self._failure and not self._closing,
            )

    def close(self) -> None:
        """Write what waits, close the files and give up their locks. What comes later is refused."""
        with self._changed:
            if self._closing:
                return
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self._logs.close()
        self._ledger.close()

    def __enter__(self) -> "Door":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Below: the queue (any thread), then the writer (its own thread only).

    def _enqueue(
        self, body: bytes, encoding: str, source: str, format_: str, admit: Admit | None
    ) -> tuple[list[Decision], "Future[None]"]:
        if admit is None:
            return self._queued(body, encoding, source, format_, None)
        # Before the queue is looked at: who sends beyond its own limit is told so, and does not
        # fill it for the others.
        admit.rows(count_rows(body, encoding))
        try:
            return self._queued(body, encoding, source, format_, admit)
        except StorageError:
            admit.give_back()
            raise

    def _queued(
        self, body: bytes, encoding: str, source: str, format_: str, admit: Admit | None
    ) -> tuple[list[Decision], "Future[None]"]:
        self._refuse_if_full(len(body))  # before the work of checking: shedding must be cheap
        if self._pseudonyms is not None:
            body = self._pseudonyms.body(
                body, encoding, foreign=bool(format_), types=self._plan.event_types
            )
        receipt = Receipt(self._clock.now(), source, encoding, format_)
        sent, body = body, self._stopped.without(body, receipt)
        told, decisions = self._decided(sent, body, receipt, admit)
        if (
            self._log_clock is not None
            and self._log_clock.behind
            and self._is_of_today(sent, body, receipt, decisions)
        ):
            self._log_clock.go_live()
            log.warning(
                "the first event of today came in: this project goes by today's time from now on"
            )
            receipt = Receipt(self._clock.now(), source, encoding, format_)
            told, decisions = self._decided(sent, body, receipt)
        done: Future[None] = Future()
        done.set_running_or_notify_cancel()  # a caller that goes away cannot take its events back
        with self._changed:
            self._refuse_if_full(len(body))
            at = self._times.next(receipt.received_at)
            if at != receipt.received_at:
                # Another thread came in between, or the clock was set back meanwhile. The router
                # decides by the stored receipt, so the decision is made again by that one.
                receipt = Receipt(at, source, encoding, format_)
                told, decisions = self._decided(sent, body, receipt)
            self._queue.append(
                _Entry(
                    Block("body", len(decisions), body, _RECEIPT.encode(receipt)), decisions, done
                )
            )
            self._queue_bytes += len(body)
            self._events_waiting += 1
            self._changed.notify_all()
        return told, done

    def _decided(
        self, sent: bytes, body: bytes, receipt: Receipt, admit: Admit | None = None
    ) -> tuple[list[Decision], list[Decision]]:
        """What the sender is told of a body, and what is decided on it without the rows that are
        kept out.
        """
        told = decide(sent, receipt, self._contract, admit)
        return told, told if body is sent else decide(body, receipt, self._contract)

    def _is_of_today(
        self, sent: bytes, body: bytes, receipt: Receipt, decisions: list[Decision]
    ) -> bool:
        """Whether events come from a page of the site, or say a time that lies in the future of an
        old log's clock and not of today's.
        """
        if receipt.source.startswith("browser"):
            return True
        ahead = sum(each.code == _AHEAD for each in decisions)
        if not ahead or self._log_clock is None:
            return False
        today = msgspec.structs.replace(receipt, received_at=self._log_clock.today())
        return sum(each.code == _AHEAD for each in self._decided(sent, body, today)[1]) < ahead

    def _refuse_if_full(self, size: int) -> None:
        if self._closing:
            raise ClosedError(
                "the server is stopping", fix="send the events again, they will be taken once"
            )
        if self._failure:
            raise ClosedError(
                f"the log cannot be written ({self._failure})", fix="send the events again later"
            )
        if self._reserve.short():
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
            with self._changed:
                self._wait()
                closing = self._closing
                entries = self._take()
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
        """Sleep until events wait, or something is due; answers alone do not wake the writer before
        their time.
        """
        while not (self._events_waiting or self._prunes or self._closing):
            pause_s = self._pause_s()
            if pause_s is not None and pause_s <= 0:
                return
            self._changed.wait(pause_s)

    def _flush_due(self) -> bool:
        return bool(self._records) and time.monotonic() - self._oldest_answer >= self._flush_s

    def _pause_s(self) -> float | None:
        """How long the writer may sleep: to the end of the oldest answer's wait, or until the log
        is opened anew.
        """
        if self._replaced:
            return None
        if self._failure:
            return max(0.0, self._failed_at + self._reopen_after_s - time.monotonic())
        if self._records:
            return max(0.0, self._oldest_answer + self._flush_s - time.monotonic())
        return None

    def _take(self) -> list[_Entry]:
        """The next batch, first in first out, so that answers stand before what came after them."""
        entries: list[_Entry] = []
        size = 0
        while self._queue and size < BATCH_BYTES_MAX:
            entry = self._queue.popleft()
            size += len(entry.block.payload)
            self._events_waiting -= entry.done is not None
            entries.append(entry)
        return entries

    def _write(self, entries: list[_Entry], prunes: list[tuple[Sequence[int], int]]) -> None:
        try:
            if entries:
                self._commit(entries)
            if self._flush_due() or self._closing:
                self._commit_records()
            for raw_before, answers_before in prunes:
                if self._prune_raw(raw_before) + self._logs.answers.prune_some(answers_before):
                    self.prune(
                        raw_before, answers_before
                    )  # go on behind the events that came meanwhile
        except (
            Exception
        ) as error:  # whatever the disk or SQLite raises: the log is closed, never retried
            self._fail(error, entries)

    def _prune_raw(self, before: Sequence[int]) -> int:
        prune: Callable[[Any], int] = self._logs.raw.prune_some
        return prune(before if len(before) > 1 else before[0])

    def _commit(self, entries: list[_Entry]) -> None:
        early = faults.cut(
            "door.sync_before_ack"
        )  # the mutant that a test of durability must catch
        if early:
            self._acknowledge(entries)
        faults.at("door.before_append")
        with self._logs.raw.transaction():
            self._logs.raw.append([entry.block for entry in entries])
            faults.at("door.before_sync")
        faults.at("door.before_ack")
        self._batches += 1
        if not early:
            self._acknowledge(entries)

    def _commit_records(self) -> None:
        """The records of those answers whose events are in the raw log, which comes first."""
        with self._changed:
            records = [self._records[index] for index in range(self._records_ready)]
        if not records:
            return
        faults.at("door.before_records")
        receipt = _RECEIPT.encode(Receipt(self._times.newest, "server"))
        self._logs.answers.append(
            [Block("answers", len(records), encode_answers(records), receipt)]
        )
        faults.at("door.after_records")
        with self._changed:
            for _ in records:
                self._records.popleft()
            self._records_ready -= len(records)
            self._oldest_answer = time.monotonic()
            self._ledger.kept(len(records))

    def _acknowledge(self, entries: list[_Entry]) -> None:
        with self._changed:
            for entry in entries:
                self._queue_bytes -= len(entry.block.payload)
                self._records_ready += entry.done is None
                refused = [decision.code for decision in entry.decisions if not decision.accepted]
                self._accepted += len(entry.decisions) - len(refused)
                self._refused.update(refused)
            self._changed.notify_all()
        for entry in entries:
            if entry.done is not None and not entry.done.done():
                entry.done.set_result(None)

    def _fail(self, error: Exception, entries: list[_Entry]) -> None:
        with self._changed:
            self._failures += 1
            self._failure = (
                error.message
                if isinstance(error, TailorbirdError)
                else f"{type(error).__name__}: {error}"
            )
            self._failed_at = time.monotonic()
            self._replaced = isinstance(error, LockedError) and not isinstance(
                self._logs.stream, Path
            )
        if self._replaced:  # to take the log back would begin a fight that neither wins
            log.error(
                "%s; this process takes no more events. Do two machines have the same name?", error
            )
        self._logs.close()
        self._reject(entries, under_way=True)

    def _reject(self, entries: list[_Entry], *, under_way: bool = False) -> None:
        """Tell everybody who waits that nothing was acknowledged; give up the answers and count
        them.

        Of entries that were being written nobody knows whether they are in the log; of those behind
        them, that they are not.
        """
        with self._changed:
            queued = list(self._queue)
            self._queue.clear()
            self._queue_bytes = self._events_waiting = 0
            self._dropped += len(self._records)
            self._ledger.kept(len(self._records))
            self._records.clear()
            self._records_ready = 0
            self._changed.notify_all()
        for kind, waiting in (
            (UnknownError if under_way else ClosedError, entries),
            (ClosedError, queued),
        ):
            for entry in waiting:
                if entry.done is not None and not entry.done.done():
                    entry.done.set_exception(
                        kind(f"the log cannot be written ({self._failure})", fix=kind.again)
                    )

    def _try_reopen(self) -> None:
        if self._replaced or time.monotonic() - self._failed_at < self._reopen_after_s:
            return
        try:
            self._logs = self._logs.reopened()
        except Exception as error:  # still broken: say so, and look again later
            if isinstance(error, LockedError) and not isinstance(self._logs.stream, Path):
                self._fail(error, [])
                return
            with self._changed:
                self._failure, self._failed_at = str(error), time.monotonic()
            return
        with self._changed:
            self._failure = ""

"""Tracked events that are not yet sent: batched, and kept while no server takes them, optionally
on a disk.

Only the sender gives an event up: a full outbox raises `OutboxFullError` rather than drop older
events. An event is decided once the server has answered for it. A body that is refused as a whole
(wrong key, wrong address, a proxy's page) is kept and retried, and reported once. A process that is
killed loses the events since the last batch, and without a spool all that wait. Where that matters,
use `send`, which returns only when the event is durable.

    add ──► waiting ──► batch ──► send ──► decided
               ▲          ▲        │ not taken: at once ──► spool/*.ndjson, and back off ─────┐
               │          └──────────── once a server takes them, the oldest first ◄──────────┘
               └ without a spool they wait here
"""

import asyncio
import logging
import os
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from pathlib import Path

from tailorbird.atomic_write import atomic_write
from tailorbird.client.retries import backoff_s
from tailorbird.client.transport import RefusedError, UnreachableError
from tailorbird.errors import StorageError, TailorbirdError, fix_for_os_error
from tailorbird.serving.messages import Receipts

BATCH_MAX = 500
QUEUE_MAX = 50_000
GATHER_S = 0.2
TOO_LARGE = 413  # HTTP status of a body beyond the server's limit
log = logging.getLogger(__name__)


class OutboxFullError(TailorbirdError):
    """Too many events wait, because no server has answered for long. The event was not taken."""

    code = "outbox_full"


class Outbox:
    """Sends what is added, in the background of one event loop. `add` may be called from any
    thread.

    Args:
        send: sends events, each one JSON object, and returns the decisions.
        batch_max, queue_max: events in one call of `send`, and events that may wait in memory.
        gather_s: how long a batch that is not full waits for more events.
        spool: a folder of this client's own for what could not be sent; None keeps it in memory
            only.
    Raises:
        StorageError: the spool cannot be written.
    """

    def __init__(
        self,
        send: Callable[[Sequence[bytes]], Awaitable[Receipts]],
        *,
        batch_max: int = BATCH_MAX,
        queue_max: int = QUEUE_MAX,
        gather_s: float = GATHER_S,
        spool: Path | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._send = send
        self._batch_max = batch_max
        self._queue_max = queue_max
        self._gather_s = gather_s
        self._spool_folder = spool
        self._rng = rng or random.Random()
        self._file_numbers = count()
        self._waiting_events: deque[bytes] = deque()
        self._loop = asyncio.get_running_loop()
        self._wake_event = asyncio.Event()
        self._idle_event = asyncio.Event()
        self._idle_event.set()
        self._is_closing = False
        if spool is not None:
            try:
                spool.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StorageError(
                    f"cannot be made: {error.strerror}",
                    where=str(spool),
                    fix=fix_for_os_error(error, "name a folder that can be written"),
                ) from None
        self.accepted = self.refused = self.lost = 0
        self._sender_task = self._loop.create_task(self._run())
        self._wake_event.set()  # an earlier process may have left something in the spool

    def __len__(self) -> int:
        """Count the events in memory and in the spool that no server has decided on."""
        return len(self._waiting_events) + self._count_spooled()

    def _count_spooled(self) -> int:
        paths = self._spool_folder.glob("*.ndjson") if self._spool_folder is not None else ()
        return sum(path.read_bytes().count(b"\n") for path in paths)

    def add(self, event: bytes) -> None:
        """Queue an event. Raises OutboxFullError."""
        if len(self._waiting_events) >= self._queue_max:
            raise OutboxFullError(
                f"{self._queue_max} events wait to be sent",
                fix="is the server up? a spool folder holds more",
            )
        self._waiting_events.append(event)
        self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._idle_event.clear()
        self._wake_event.set()

    async def flush(self, timeout_s: float) -> bool:
        """Wait up to `timeout_s` until all that was added is decided, and return whether it is."""
        await asyncio.sleep(0)  # let additions of other threads take effect first
        try:
            await asyncio.wait_for(self._idle_event.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    async def close(self, timeout_s: float) -> int:
        """Send what waits, spool the rest, and return the number of lost events."""
        self._is_closing = True
        await self.flush(timeout_s)
        self._sender_task.cancel()
        await asyncio.gather(self._sender_task, return_exceptions=True)
        self._spool_waiting_events()
        return len(self._waiting_events) + self.lost

    async def _run(self) -> None:
        attempt_count = 0
        while True:
            await self._wake_event.wait()
            if not self._is_closing and len(self._waiting_events) < self._batch_max:
                await asyncio.sleep(self._gather_s)
            try:
                await self._send_spooled()
                await self._send_waiting_events()
            except Exception as error:  # after any error the events are kept and retried
                attempt_count += 1
                self._log_failure(error, attempt_count)
                self._spool_waiting_events()
                await asyncio.sleep(backoff_s(attempt_count, self._rng))
                continue
            if attempt_count:
                log.warning("events are taken again")
            attempt_count = 0
            if not self._waiting_events:
                self._wake_event.clear()
                self._idle_event.set()

    def _log_failure(self, error: Exception, attempt_count: int) -> None:
        """Log that events wait: once, or each time for an unexpected error."""
        if not isinstance(error, UnreachableError | RefusedError):
            log.error("events could not be sent", exc_info=error)
        elif attempt_count == 1:
            log.warning("events wait, since no server takes them: %s %s", error.code, error.message)

    async def _send_waiting_events(self) -> None:
        while self._waiting_events:
            batch = [
                self._waiting_events[index]
                for index in range(min(self._batch_max, len(self._waiting_events)))
            ]
            await self._deliver_batch(batch)
            for _ in batch:
                self._waiting_events.popleft()

    async def _deliver_batch(self, batch: Sequence[bytes]) -> None:
        """Send a batch, in halves where it is too large for the server.

        Raises what `send` raises: then none of it counts as decided.
        """
        try:
            receipts = await self._send(batch)
        except RefusedError as error:
            if error.status != TOO_LARGE:
                raise
            if len(batch) == 1:
                self.refused += 1
                log.error("an event is larger than the server takes: %s", error.message)
                self._store_refused_event(batch[0])
                return
            for half in (batch[: len(batch) // 2], batch[len(batch) // 2 :]):
                await self._deliver_batch(half)
            return
        self.accepted += receipts.accepted
        self.refused += receipts.refused
        for code in sorted(
            {decision.code for decision in receipts.events if not decision.accepted}
        ):
            log.warning("events were refused: %s (they are in the server's quarantine)", code)

    async def _send_spooled(self) -> None:
        for path in (
            sorted(self._spool_folder.glob("*.ndjson")) if self._spool_folder is not None else ()
        ):
            events = path.read_bytes().splitlines()
            for start in range(0, len(events), self._batch_max):
                await self._deliver_batch(events[start : start + self._batch_max])
            path.unlink(missing_ok=True)

    def _spool_waiting_events(self) -> None:
        """Move what waits into the spool, if it can be written; else keep it in memory."""
        if not self._waiting_events or self._spool_folder is None:
            return
        events = list(self._waiting_events)
        try:
            atomic_write(
                self._spool_folder
                / f"{time.time_ns():020d}-{os.getpid()}-{next(self._file_numbers)}.ndjson",
                b"\n".join(events) + b"\n",
            )
        except OSError as error:
            log.error("the spool cannot be written, events wait in memory: %s", error.strerror)
            return
        for _ in events:
            self._waiting_events.popleft()

    def _store_refused_event(self, event: bytes) -> None:
        """Move an event that no server will take to the spool, or count it as lost."""
        if self._spool_folder is None:
            self.lost += 1
            return
        atomic_write(
            self._spool_folder
            / "refused"
            / f"{time.time_ns():020d}-{os.getpid()}-{next(self._file_numbers)}.json",
            event,
        )

"""Periodic background tasks whose thread survives unexpected errors.

An unexpected error is logged with its traceback and counted, and the task runs again. Without that
the thread would end silently and its results would stay stale. Expected errors are for the function
of the task to handle.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

RETRY_S = 1.0  # After a failure, unless the interval is longer.
log = logging.getLogger(__name__)


class PeriodicTask:
    """Calls `tick` periodically in a thread.

    Args:
        run_at_start: run the first tick at once instead of after one interval.
        on_failure: called after a failed tick, to drop resources that may be broken.
    Attributes:
        name: name of the thread, in the log and in metrics.
        failure_count: number of ticks that raised.
        last_success_at: monotonic time of the last successful tick; 0 before the first.

    >>> task = PeriodicTask("example", lambda: None, interval_s=0.01)
    >>> task.start(); task.stop(); task.failure_count
    0
    """

    def __init__(
        self,
        name: str,
        tick: Callable[[], object],
        *,
        interval_s: float,
        run_at_start: bool = True,
        on_failure: Callable[[], object] | None = None,
    ) -> None:
        self.name = name
        self._tick = tick
        self._interval_s = interval_s
        self._run_at_start = run_at_start
        self._on_failure = on_failure
        self.failure_count = 0
        self.last_success_at = 0.0
        self._stop_event = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the task after the current tick; does nothing if it was not started."""
        self._stop_event.set()
        if self._thread is not None:
            self._thread.join()

    @property
    def is_stopping(self) -> bool:
        """Return whether `stop` was called, so that a long tick can end early."""
        return self._stop_event.is_set()

    def pause(self, seconds: float) -> None:
        """Wait inside a tick, but not beyond `stop`."""
        self._stop_event.wait(seconds)

    def _run(self) -> None:
        if not self._run_at_start and self._stop_event.wait(self._interval_s):
            return
        while not self._stop_event.is_set():
            wait_s = self._interval_s
            try:
                self._tick()
                self.last_success_at = time.monotonic()
            except Exception:
                self.failure_count += 1
                log.exception(
                    "%s failed (failure %d) and is run again", self.name, self.failure_count
                )
                wait_s = max(RETRY_S, wait_s)
                self._handle_failure()
            self._stop_event.wait(wait_s)

    def _handle_failure(self) -> None:
        try:
            if self._on_failure is not None:
                self._on_failure()
        except Exception:
            log.exception("%s could not clean up after the failure", self.name)


def exit_process(status: int) -> NoReturn:
    """Flush all output and end the process without running destructors.

    Threads of deltalake and DuckDB can abort a process that exits normally ("terminate called
    without an active exception") although its work is done. A supervisor would take that for a
    failure.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

"""Threads that look after something until they are told to stop, and that no error ends: it is
logged whole, counted, and they go on.

What is expected to fail, and how it is told, is for the function that looks; here comes only what
nobody thought of. Such a thread would otherwise end in silence, and what it looks after would stay
as it was last for ever.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

RETRY_S = 1.0  # after a failure, or as long as it rests anyway, if that is longer
log = logging.getLogger(__name__)


class PeriodicTask:
    """Calls `look` again and again in a thread.

    Args:
        first: look at once, rather than after the first rest.
        failed: called after a failure, to let go of what may be broken.
    Attributes:
        name: of the thread, as it stands in the log and in metrics.
        failures: how often `look` raised.
        done_at: when it last ended well, monotonic; 0 before that.

    >>> loop = Loop("example", lambda: None, every_s=0.01)
    >>> loop.start(); loop.stop(); loop.failures
    0
    """

    def __init__(
        self,
        name: str,
        look: Callable[[], object],
        *,
        interval_s: float,
        run_at_start: bool = True,
        on_failure: Callable[[], object] | None = None,
    ) -> None:
        self.name, self._look, self._every_s, self._first, self._failed = (
            name,
            look,
            interval_s,
            run_at_start,
            on_failure,
        )
        self.failures = 0
        self.done_at = 0.0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it, once the look under way is over; harmless where it was not started."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    @property
    def is_stopping(self) -> bool:
        """Whether it was told to stop: for a look that takes long."""
        return self._stop.is_set()

    def pause(self, seconds: float) -> None:
        """Wait, within a look, but not beyond the end."""
        self._stop.wait(seconds)

    def _run(self) -> None:
        if not self._first and self._stop.wait(self._every_s):
            return
        while not self._stop.is_set():
            rest_s = self._every_s
            try:
                self._look()
                self.done_at = time.monotonic()
            except Exception:  # whatever it is
                self.failures += 1
                log.exception("%s failed for the %d. time, and goes on", self.name, self.failures)
                rest_s = max(RETRY_S, rest_s)
                self._let_go()
            self._stop.wait(rest_s)

    def _let_go(self) -> None:
        try:
            if self._failed is not None:
                self._failed()
        except Exception:  # as above
            log.exception("%s could not let go of what failed", self.name)


def exit_process(status: int) -> NoReturn:
    """End the process at once, after everything was flushed.

    The threads of deltalake and DuckDB may abort a process that ends in the usual way ("terminate
    called without an active exception"), after its work was done; a supervisor would take that for
    a failure.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

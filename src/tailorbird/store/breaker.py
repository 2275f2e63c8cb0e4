"""A circuit breaker: who is asked again and again and does not answer is left alone for a while, so
that nobody waits for it in vain.

closed  ── failures in a row ──►  open for a while: every question fails at once
open    ── the while is over ──►  one question is let through; answered, it closes, else it is open for another while
"""

import threading
import time
from collections.abc import Callable

FAILURES = 3  # in a row: one answer that is late is no outage
OPEN_S = 1.0


class Breaker:
    """Shared by all threads that ask the same server. `opened` is how often it was given up.

    >>> moment = [0.0]
    >>> breaker = Breaker(failures=2, open_s=1.0, now=lambda: moment[0])
    >>> breaker.failed(), breaker.lets(), breaker.failed(), breaker.lets()
    (None, True, None, False)
    >>> moment[0] = 1.0
    >>> breaker.lets(), breaker.lets()  # one to try, the others go on failing at once
    (True, False)
    >>> breaker.answered(), breaker.lets()
    (None, True)
    """

    def __init__(
        self,
        *,
        failures: int = FAILURES,
        open_s: float = OPEN_S,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._failures, self._open_s, self._now = failures, open_s, now
        self._lock = threading.Lock()
        self._failure_count = 0
        self._retry_at = 0.0
        self.opened = 0

    @property
    def open(self) -> bool:
        """Whether it is left alone."""
        return self._failure_count >= self._failures

    def lets(self) -> bool:
        """Whether to ask now."""
        with self._lock:
            if self._failure_count < self._failures:
                return True
            if self._now() < self._retry_at:
                return False
            self._retry_at = self._now() + self._open_s
            return True

    def answered(self) -> None:
        """It answers, whatever the answer was."""
        with self._lock:
            self._failure_count = 0

    def failed(self) -> None:
        """It could not be reached, or took too long."""
        with self._lock:
            self._failure_count += 1
            self.opened += self._failure_count == self._failures
            self._retry_at = self._now() + self._open_s

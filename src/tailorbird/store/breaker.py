"""A circuit breaker: calls to a server that does not answer fail at once for a while.

closed  ── consecutive failures ──►  open: every call fails at once
open    ── after `open_s` ─────────►  one call is allowed; success closes, failure reopens
"""

import threading
import time
from collections.abc import Callable

FAILURES_MAX = 3  # consecutive; one late response is no outage
OPEN_S = 1.0


class CircuitBreaker:
    """A circuit breaker shared by all callers of a server; `open_count` counts its openings.

    >>> moment = [0.0]
    >>> breaker = CircuitBreaker(failures_max=2, open_s=1.0, monotonic=lambda: moment[0])
    >>> breaker.record_failure(), breaker.allow(), breaker.record_failure(), breaker.allow()
    (None, True, None, False)
    >>> moment[0] = 1.0
    >>> breaker.allow(), breaker.allow()  # one probe, the others fail at once
    (True, False)
    >>> breaker.record_success(), breaker.allow()
    (None, True)
    """

    def __init__(
        self,
        *,
        failures_max: int = FAILURES_MAX,
        open_s: float = OPEN_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._failures_max = failures_max
        self._open_s = open_s
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._failure_count = 0
        self._retry_at = 0.0
        self.open_count = 0

    @property
    def is_open(self) -> bool:
        """True while calls fail at once."""
        return self._failure_count >= self._failures_max

    def allow(self) -> bool:
        """Return whether a call may be made now."""
        with self._lock:
            if self._failure_count < self._failures_max:
                return True
            if self._monotonic() < self._retry_at:
                return False
            self._retry_at = self._monotonic() + self._open_s
            return True

    def record_success(self) -> None:
        """Record a response, whatever it was."""
        with self._lock:
            self._failure_count = 0

    def record_failure(self) -> None:
        """Record a failed or late call."""
        with self._lock:
            self._failure_count += 1
            self.open_count += self._failure_count == self._failures_max
            self._retry_at = self._monotonic() + self._open_s

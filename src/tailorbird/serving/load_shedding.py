"""Load shedding: refuse requests at once, by the expected cost of those that wait, so that admitted
ones are quick.

    expected wait = seconds of admitted and unfinished work  ÷  threads  ×  correction

The cost of each kind of request is measured as it is answered. The correction is how much longer
than expected the last requests waited: threads share the interpreter and the machine's cores with
others, so that together they do less than each of them alone. A request that would have to wait
longer than `wait_s` is refused before its body is read, because nobody would want its answer by
then. One that a page can do without (an item, a list) is refused at half of that. One that has
waited for twice as long nevertheless is not started. Retry-After is the time until the present
backlog is done.
"""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from tailorbird.errors import StorageError

WAIT_S = 0.25
WAITING_MAX = 256  # requests that run or wait, regardless of cost
UNMEASURED_COST_S = 0.005  # cost of a kind that has not been measured yet
_SMOOTHING = 0.1
_OUTLIER_RATIO = 5.0  # bound of one measurement, as a multiple of the average
_CORRECTION_MAX = 10.0
_SHORT_S = 0.02  # waits around it and below say nothing about the correction
_SECONDARY_SHARE = 0.5  # fraction of the wait that secondary requests may take


class OverloadedError(StorageError):
    """Too much work waits already."""

    code = "overloaded"

    def __init__(self, retry_after_s: int) -> None:
        super().__init__("too many requests wait already", fix="ask again as told in Retry-After")
        self.retry_after_s = retry_after_s


@dataclass
class AdmittedRequest:
    """One admitted request: its kind, relative size, expected cost and wait, and time."""

    kind: str
    units: float
    cost_s: float
    wait_s: float  # without the correction
    admitted_at_s: float


class Shedder:
    """Admits requests, or refuses them. The event loop admits; threads start and finish.

    Args:
        threads: that answer.
        wait_s: how long a request may have to wait for one of them.

    >>> now_s = [0.0]
    >>> shedder = Shedder(threads=1, wait_s=0.01, read_clock_s=lambda: now_s[0])
    >>> tickets = [shedder.admit("answer") for _ in range(3)]
    >>> shedder.expected_wait_s()
    0.015
    >>> try:
    ...     shedder.admit("answer")
    ... except OverloadedError as error:
    ...     print(error.retry_after_s)
    1
    """

    def __init__(
        self,
        threads: int,
        wait_s: float = WAIT_S,
        *,
        read_clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._threads = max(1, threads)
        self._wait_s = wait_s
        self._read_clock_s = read_clock_s
        self._unit_s_by_kind: dict[str, float] = {}
        self._backlog_s = 0.0
        self._correction = 1.0
        self._lock = threading.Lock()
        self.waiting = 0
        self.refused = 0

    def expected_wait_s(self, arriving: int = 0) -> float:
        """Return how long a request that came now would have to wait.

        `arriving` requests have come before it and are not admitted yet; each counts as much as
        those that wait.
        """
        unit_s = self._backlog_s / self.waiting if self.waiting else UNMEASURED_COST_S
        return (self._backlog_s + arriving * unit_s) / self._threads * self._correction

    def is_full(self, *, is_primary: bool = True, arriving: int = 0) -> bool:
        """Return whether a request would wait too long; `is_primary`: a page depends on it."""
        wait_max_s = self._wait_s * (1.0 if is_primary else _SECONDARY_SHARE)
        return self.expected_wait_s(arriving) > wait_max_s or self.waiting + arriving >= WAITING_MAX

    def record_refusal(self) -> int:
        """Count a refused request, and return the seconds after which it may come again."""
        self.refused += 1
        return max(1, math.ceil(self.expected_wait_s()))

    def require_room(self, *, is_primary: bool = True) -> None:
        """Raise OverloadedError if there is no room, see `is_full`."""
        if self.is_full(is_primary=is_primary):
            raise OverloadedError(self.record_refusal())

    def admit(self, kind: str, units: float = 1.0, *, is_primary: bool = True) -> AdmittedRequest:
        """Admit a request of `units` times the usual size of its kind. Raise OverloadedError as
        `require_room`.
        """
        self.require_room(is_primary=is_primary)
        cost_s = units * self._unit_s_by_kind.get(kind, UNMEASURED_COST_S)
        with self._lock:
            wait_s = self._backlog_s / self._threads
            self._backlog_s += cost_s
            self.waiting += 1
        return AdmittedRequest(kind, units, cost_s, wait_s, self._read_clock_s())

    def start(self, request: AdmittedRequest) -> float:
        """Start it in a thread, and return the seconds waited. Raise OverloadedError if that is too
        long.
        """
        waited_s = self._read_clock_s() - request.admitted_at_s
        ratio = (waited_s + _SHORT_S) / (request.wait_s + _SHORT_S)
        with self._lock:
            self._correction += _SMOOTHING * (min(ratio, _CORRECTION_MAX) - self._correction)
            self._correction = max(1.0, self._correction)
        if waited_s > 2 * self._wait_s:
            raise OverloadedError(self.record_refusal())
        return waited_s

    def finish(self, request: AdmittedRequest, seconds: float | None) -> None:
        """Record that it finished after so many seconds of work; None: it was not started."""
        with self._lock:
            self.waiting -= 1
            self._backlog_s = max(0.0, self._backlog_s - request.cost_s) if self.waiting else 0.0
            if seconds is not None:
                previous_s = self._unit_s_by_kind.get(request.kind, UNMEASURED_COST_S)
                # A request that stalled, or that was the first and warmed things up, says little
                # about the next one.
                unit_s = min(seconds / max(request.units, 1e-9), _OUTLIER_RATIO * previous_s)
                self._unit_s_by_kind[request.kind] = previous_s + _SMOOTHING * (unit_s - previous_s)

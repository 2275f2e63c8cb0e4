"""Hedged reads: one that takes longer than nineteen of twenty lately is asked a second time, and
who answers first is believed.

A server that collects garbage, a packet that is lost, or a processor that is busy elsewhere make
one read in a hundred wait; two in a row wait far less often (Dean and Barroso, "The Tail at Scale",
CACM 56(2), 2013). At most `share` of the reads are asked twice, so that a server that is slow for
all is not asked twice as much. Where nothing answers, the deadline of a read holds as without.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

SHARE = 0.05
QUANTILE = 0.95
READS_MIN = 100  # before there is an idea of how long a read takes
READS_MAX = 1_000
REFRESH_READS = 50
WAIT_MIN_S = 0.0005  # below it a second question costs more than it saves
CREDIT_MAX = 10.0  # second questions that may be saved up


class Hedge:
    """When to ask twice. One for each server, shared by all threads.

    Attributes:
        reads, asked_twice, won: how many reads there were, how many were asked twice, and of how
        many the second answer came first.

    >>> hedge = Hedge(share=0.125)
    >>> hedge.wait_s() is None
    True
    >>> for _ in range(100): hedge.took(0.002)
    >>> round(hedge.wait_s(), 4), [hedge.may() for _ in range(11)].count(True)
    (0.002, 10)
    """

    def __init__(self, share: float = SHARE) -> None:
        self._share = share
        self._seconds: deque[float] = deque(maxlen=READS_MAX)
        self._wait_s: float | None = None
        self._credit = 0.0
        self._lock = threading.Lock()
        self.reads = self.asked_twice = self.won = 0

    def wait_s(self) -> float | None:
        """After how long to ask a second time; None while nobody knows."""
        return self._wait_s

    def try_hedge(self) -> bool:
        """Whether a second question may be asked now; it counts as asked."""
        with self._lock:
            if self._credit < 1:
                return False
            self._credit -= 1
            self.asked_twice += 1
            return True

    def record(self, seconds: float, *, won: bool = False) -> None:
        """A read was answered after so long; `won`: by the second question."""
        with self._lock:
            self.reads += 1
            self.won += won
            self._credit = min(CREDIT_MAX, self._credit + self._share)
            self._seconds.append(seconds)
            if self.reads % REFRESH_READS == 0 and len(self._seconds) >= READS_MIN:
                self._wait_s = max(
                    WAIT_MIN_S, sorted(self._seconds)[int(QUANTILE * len(self._seconds))]
                )


@dataclass(frozen=True)
class HedgeRequest:
    """What is asked the second time, perhaps of a replica, which may lag: `accepts` gives the
    values, or None where they are too old.
    """

    client: Any
    keys: Sequence[bytes]
    accepts: Callable[[list[bytes | None]], list[bytes | None] | None]

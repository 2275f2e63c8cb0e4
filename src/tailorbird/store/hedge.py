"""Hedged reads: a read slower than 95 % of recent ones is sent again, and the first response wins.

Garbage collection, a lost packet or a busy processor delay one read in a hundred, and rarely two at
once (Dean and Barroso, "The Tail at Scale", CACM 56(2), 2013). At most `share` of the reads are
hedged, so that a slow server does not get twice the load. The deadline of a read is unchanged.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

HEDGED_SHARE = 0.05
QUANTILE = 0.95
READS_MIN = 100  # reads before the quantile is known
READS_MAX = 1_000
REFRESH_READS = 50
WAIT_MIN_S = 0.0005  # below it a second request costs more than it saves
CREDIT_MAX = 10.0  # bound of saved second requests


class Hedge:
    """Decides when to send a second request. One for each server, shared by all threads.

    Attributes:
        read_count, hedged_count, won_count: number of reads, of hedged reads, and of those that the
            second response won.

    >>> hedge = Hedge(share=0.125)
    >>> hedge.delay_s() is None
    True
    >>> for _ in range(100): hedge.record(0.002)
    >>> round(hedge.delay_s(), 4), [hedge.try_hedge() for _ in range(11)].count(True)
    (0.002, 10)
    """

    def __init__(self, share: float = HEDGED_SHARE) -> None:
        self._share = share
        self._seconds: deque[float] = deque(maxlen=READS_MAX)
        self._delay_s: float | None = None
        self._hedge_credit = 0.0
        self._lock = threading.Lock()
        self.read_count = self.hedged_count = self.won_count = 0

    def delay_s(self) -> float | None:
        """Return the delay before the second request; None while unknown."""
        return self._delay_s

    def try_hedge(self) -> bool:
        """Return whether a second request may be sent now, and count it."""
        with self._lock:
            if self._hedge_credit < 1:
                return False
            self._hedge_credit -= 1
            self.hedged_count += 1
            return True

    def record(self, seconds: float, *, won: bool = False) -> None:
        """Record the duration of a read; `won` if the second request answered first."""
        with self._lock:
            self.read_count += 1
            self.won_count += won
            self._hedge_credit = min(CREDIT_MAX, self._hedge_credit + self._share)
            self._seconds.append(seconds)
            if self.read_count % REFRESH_READS == 0 and len(self._seconds) >= READS_MIN:
                self._delay_s = max(
                    WAIT_MIN_S, sorted(self._seconds)[int(QUANTILE * len(self._seconds))]
                )


@dataclass(frozen=True)
class HedgeRequest:
    """A second request, perhaps to a replica that lags.

    `accept_values` returns the values, or None where they are too old.
    """

    client: Any
    keys: Sequence[bytes]
    accept_values: Callable[[list[bytes | None]], list[bytes | None] | None]

"""Time as an argument. Every role takes a `Clock`; nothing else in the package asks the operating system for the date.

Times are UTC, int64 microseconds since 1970. Latency is measured on the monotonic clock, never on these.
"""

import time
from datetime import UTC, datetime
from typing import Protocol

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR


class Clock(Protocol):
    """What a role asks for the time: microseconds since 1970, UTC. Never goes back within a process."""

    def now(self) -> int: ...


class SystemClock:
    """The machine's clock, held still while the machine's own is set back."""

    def __init__(self) -> None:
        self._newest = 0

    def now(self) -> int:
        self._newest = max(self._newest, time.time_ns() // 1_000)
        return self._newest


class SimulatedClock:
    """A clock that moves only when told to, for history, simulations and tests."""

    def __init__(self, start: int) -> None:
        self._now = start

    def now(self) -> int:
        return self._now

    def advance_to(self, moment: int) -> None:
        """Move to `moment`; raises ValueError if that is in this clock's past."""
        if moment < self._now:
            raise ValueError(f"a clock cannot go back from {self._now} to {moment}")
        self._now = moment


def to_iso(moment: int) -> str:
    """`2026-11-25T12:00:00.000000Z` for a time in microseconds; used in reports and messages."""
    return datetime.fromtimestamp(moment / SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

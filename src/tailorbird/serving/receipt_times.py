"""When a body came in, by the door's clock: in the order of its log, and back with a clock that was
set back.

    10:00  10:01 │ a day ahead  a day ahead │ 10:03  10:04       the clock, as set right after it was wrong
    10:00  10:01 │ a day ahead  a day ahead │ 10:03  10:04       times of receipt
    10:00  10:01    10:00.5 → 10:01                              of a clock that goes back by two seconds at most, as by NTP

The router puts an answer before its clicks by these times, so within a log they do not go back for
nothing. But were they held at the newest of a clock that was ahead, all that comes until then would
be dated ahead, with nobody told.
"""

import logging

from tailorbird.events import SECOND, SET_BACK, Clock, show_duration

log = logging.getLogger(__name__)


class ReceiptTimes:
    """The times of one door; call it under the door's lock.

    Attributes:
        newest: the time of the newest receipt.
        set_back: how often the clock was set back, and times with it.
        ahead: answers that read of something further ahead of the clock than a client's clock may
            be.
    """

    def __init__(self, clock: Clock, skew_us: int) -> None:
        self._clock, self._skew_us = clock, skew_us
        self.newest = self.set_back = self.ahead = 0

    def next(self, at: int | None = None) -> int:
        """The time of what is queued now: `at`, when it came in, if the order and the clock still
        allow it.
        """
        now = self._clock.now()
        if now < self.newest - SET_BACK:
            self.set_back += 1
            log.warning(
                "the clock was set back by %s, and times of receipt with it; what came in "
                "while it was ahead keeps times that are ahead",
                _format_span(self.newest - now),
            )
            self.newest = now
        is_valid = at is not None and self.newest <= at <= now + SET_BACK
        self.newest = at if is_valid else max(now, self.newest)
        return self.newest

    def note_answer(self, t: int) -> None:
        """Count an answer whose time is ahead, and say so of the first."""
        ahead = t - self.newest
        if ahead <= self._skew_us:
            return
        self.ahead += 1
        if self.ahead == 1:
            text = (
                "an answer is dated %s ahead of the clock, since events that it read of are; "
                "so will be others until then"
            )
            log.warning(text, _format_span(ahead))


def _format_span(span: int) -> str:
    return show_duration(max(1, round(span / SECOND)) * SECOND)

"""What is made of the last events of who asks: the current session, and the gaps between events.

A run is a person's sequence within the horizon, oldest first; many runs, of one request each, lie one after the other.
Reading has one of them, a backfill all of its requests'.

    ts        10 20 | 5 | | 7 8 9        offsets  0 2 3 3 6

The current session is what has the request's session id; without one, the run of events that ends within 30 minutes of t.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tailorbird.events.keys import hash64
from tailorbird.features.declare import SESSION_GAP
from tailorbird.features.layout import Step

Int64s = npt.NDArray[np.int64]
Intps = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float64]
Keys = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]

# Operations of `layout.Step` that are finished here.
OF_RUN = ("session", "length", "depth", "duration", "gap")


@dataclass(frozen=True)
class Runs:
    """Runs of m requests with n events in all.

    Attributes:
        offsets: shape (m + 1,), where each run begins and the last ends.
        ts, item, type, session: shape (n,), hashes where they are texts, 0 where missing.
        t: shape (m,), when each request reads.
        asked: shape (m,), the hash of each request's session id, 0 without one.
    """

    offsets: Int64s
    ts: Int64s
    item: Keys
    type: Keys
    session: Keys
    t: Int64s
    asked: Keys

    def value(self, step: Step) -> Floats:
        """The column of a step, shape (m,)."""
        if step.operation == "gap":
            return self.gap_mean()
        types = np.array([hash64(one) for one in step.types or (step.text,)], np.uint64)
        events = np.flatnonzero(self.current & np.isin(self.type, types))
        if step.operation == "duration":
            return self._since_first(events)
        if step.operation == "depth":
            return self._different_items(events)
        return np.bincount(self._owner[events], minlength=len(self.t)).astype(np.float64)

    @cached_property
    def current(self) -> Bools:
        """The events of each request's current session."""
        following = np.append(self.ts[1:], self.t[-1:])[: len(self.ts)]
        ends = self.offsets[1:][np.diff(self.offsets) > 0] - 1
        following[ends] = self.t[self._owner[ends]]
        breaks = np.flatnonzero(following - self.ts > SESSION_GAP)
        last_break = np.full(len(self.t), -1, np.int64)
        np.maximum.at(last_break, self._owner[breaks], breaks)
        named = self.asked[self._owner]
        return np.where(named != 0, self.session == named, np.arange(len(self.ts)) > last_break[self._owner])

    def gap_mean(self) -> Floats:
        """(newest − oldest) / (different times − 1) in seconds, missing with fewer than two times."""
        another = np.ones(len(self.ts), np.bool_)
        another[1:] = (self.ts[1:] != self.ts[:-1]) | (self._owner[1:] != self._owner[:-1])
        times = np.bincount(self._owner[another], minlength=len(self.t)).astype(np.float64)
        several = np.flatnonzero(times > 1)
        span = self.ts[self.offsets[several + 1] - 1] - self.ts[self.offsets[several]]
        found = np.full(len(self.t), np.nan)
        found[several] = span.astype(np.float64) / 1e6 / (times[several] - 1.0)
        return found

    @cached_property
    def _owner(self) -> Intps:
        """The request of each event."""
        return np.repeat(np.arange(len(self.t)), np.diff(self.offsets))

    def _since_first(self, events: Intps) -> Floats:
        owners, first = np.unique(self._owner[events], return_index=True)
        found = np.full(len(self.t), np.nan)
        found[owners] = (self.t[owners] - self.ts[events[first]]).astype(np.float64) / 1e6
        return found

    def _different_items(self, events: Intps) -> Floats:
        events = events[self.item[events] != 0]
        owner, item = self._owner[events], self.item[events]
        order = np.lexsort((item, owner))
        owner, item = owner[order], item[order]
        another = np.ones(len(order), np.bool_)
        another[1:] = (item[1:] != item[:-1]) | (owner[1:] != owner[:-1])
        return np.bincount(owner[another], minlength=len(self.t)).astype(np.float64)

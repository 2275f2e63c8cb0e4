"""Measures over a person's last events: the current session, and the gaps between events.

A run is a person's sequence within the horizon, oldest first; the runs of many requests are
concatenated. Reading has a single run, a backfill those of all its requests.

    ts        10 20 | 5 | | 7 8 9        offsets  0 2 3 3 6

The current session has the request's session id; without one, it is the run of events that ends
within 30 minutes of t.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from tailorbird.events.clock import SESSION_GAP
from tailorbird.events.keys import hash64
from tailorbird.features.layout.layout import Step

Int64s = npt.NDArray[np.int64]
Intps = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float64]
Keys = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]

GAPS = ("gap_min", "gap_max", "gap_deviation", "gap_last")
# Operations of `layout.Step` that are finished here.
RUN_OPERATIONS = (
    "session",
    "length",
    "depth",
    "duration",
    "refinements",
    "gap",
    *GAPS,
    "favourite",
    "seen",
)


@dataclass(frozen=True)
class Runs:
    """Runs of m requests with n events in all.

    Attributes:
        offsets: shape (m + 1,), the bounds of each run.
        ts, item, type, session: shape (n,), hashes of texts, 0 where missing.
        t: shape (m,), the time of each request.
        request_session: shape (m,), the hash of each request's session id, 0 without one.
        value: shape (n,), what `favourite` and `seen` compare; the item, unless the step asks for
            another.
    """

    offsets: Int64s
    ts: Int64s
    item: Keys
    type: Keys
    session: Keys
    t: Int64s
    request_session: Keys
    value: Keys

    def column(self, step: Step) -> Floats | Keys:
        """Return the column of a step, shape (m,); `seen` has one for each candidate instead."""
        if step.operation == "gap":
            return self.gap_mean()
        if step.operation in GAPS:
            return self.gap_of(step.operation)
        if step.operation == "favourite":
            return self.favourite()
        events = np.flatnonzero(self.current & _has_type(self.type, step.types or (step.text,)))
        if step.operation == "duration":
            return self._since_first(events)
        if step.operation == "depth":
            return self._count_distinct_items(events)
        if step.operation == "refinements":
            events = self._trailing_searches(events)
        return np.bincount(self._owner[events], minlength=len(self.t)).astype(np.float64)

    @cached_property
    def current(self) -> Bools:
        """The events of each request's current session."""
        next_ts = np.append(self.ts[1:], self.t[-1:])[: len(self.ts)]
        last_positions = self.offsets[1:][np.diff(self.offsets) > 0] - 1
        next_ts[last_positions] = self.t[self._owner[last_positions]]
        session_breaks = np.flatnonzero(next_ts - self.ts > SESSION_GAP)
        last_break = np.full(len(self.t), -1, np.int64)
        np.maximum.at(last_break, self._owner[session_breaks], session_breaks)
        own_session = self.request_session[self._owner]
        return np.where(
            own_session != 0,
            self.session == own_session,
            np.arange(len(self.ts)) > last_break[self._owner],
        )

    def gap_mean(self) -> Floats:
        """Return (newest − oldest) / (different times − 1) in seconds, missing with fewer than two
        times.
        """
        is_new_time = np.ones(len(self.ts), np.bool_)
        is_new_time[1:] = (self.ts[1:] != self.ts[:-1]) | (self._owner[1:] != self._owner[:-1])
        times = np.bincount(self._owner[is_new_time], minlength=len(self.t)).astype(np.float64)
        rows = np.flatnonzero(times > 1)
        span = self.ts[self.offsets[rows + 1] - 1] - self.ts[self.offsets[rows]]
        gap_means = np.full(len(self.t), np.nan)
        gap_means[rows] = span.astype(np.float64) / 1e6 / (times[rows] - 1.0)
        return gap_means

    def gap_of(self, operation: str) -> Floats:
        """Return a measure of the gaps between different times, in seconds; missing without any."""
        column = np.full(len(self.t), np.nan)
        gap_ends = (
            np.flatnonzero((self.ts[1:] != self.ts[:-1]) & (self._owner[1:] == self._owner[:-1]))
            + 1
        )
        if not len(gap_ends):
            return column
        gap, owner = (
            (self.ts[gap_ends] - self.ts[gap_ends - 1]).astype(np.float64) / 1e6,
            self._owner[gap_ends],
        )
        run_starts = np.flatnonzero(np.append(True, owner[1:] != owner[:-1]))
        if operation == "gap_deviation":
            deviations = gap - self.gap_mean()[owner]
            # `bincount` adds in order, whereas `np.add.reduceat` adds in pairs.
            squares = np.bincount(owner, weights=deviations * deviations, minlength=len(self.t))[
                owner[run_starts]
            ]
            column[owner[run_starts]] = np.sqrt(
                squares / np.diff(np.append(run_starts, len(gap))).astype(np.float64)
            )
        elif operation == "gap_last":
            column[owner] = gap  # The last assignment wins.
        else:
            column[owner[run_starts]] = (
                np.minimum if operation == "gap_min" else np.maximum
            ).reduceat(gap, run_starts)
        return column

    def favourite(self) -> Keys:
        """Return the most frequent value; ties go to the latest; 0 without any."""
        events = np.flatnonzero(self.value)
        owner, value = self._owner[events], self.value[events]
        order = np.lexsort((value, owner))  # stable, so the events of a value stay in order of time
        owner, value = owner[order], value[order]
        last_positions = np.flatnonzero(
            np.append(
                (value[1:] != value[:-1]) | (owner[1:] != owner[:-1]),
                np.ones(min(len(owner), 1), np.bool_),
            )
        )
        count, newest = np.diff(last_positions, prepend=-1), events[order[last_positions]]
        best = np.lexsort((newest, count, owner[last_positions]))
        favourites = np.zeros(len(self.t), np.uint64)
        favourites[owner[last_positions[best]]] = value[
            last_positions[best]
        ]  # The last assignment to an index wins.
        return favourites

    def seen(self, request: Intps, candidate: Keys) -> Floats:
        """Return how many events of its request's run have the value of each candidate (rows,).

        Missing where the candidate has no value.
        """
        unique, value = np.unique(self.value, return_inverse=True)
        index = np.searchsorted(unique, candidate)
        is_present = index < len(unique)
        is_present[is_present] = unique[index[is_present]] == candidate[is_present]
        width = max(len(unique), 1)
        pairs = np.sort(self._owner * width + value)
        targets = request * width + np.where(is_present, index, 0)
        count = np.searchsorted(pairs, targets, side="right") - np.searchsorted(pairs, targets)
        return np.where(candidate != 0, np.where(is_present, count, 0).astype(np.float64), np.nan)

    @cached_property
    def _owner(self) -> Intps:
        """The request of each event."""
        return np.repeat(np.arange(len(self.t)), np.diff(self.offsets))

    def _trailing_searches(self, events: Intps) -> Intps:
        """Return the searches among `events` with nothing else after them."""
        search = self.type[events] == np.uint64(hash64("search"))
        last_other = np.full(len(self.t), -1, np.int64)
        np.maximum.at(last_other, self._owner[events[~search]], events[~search])
        return events[events > last_other[self._owner[events]]]

    def _since_first(self, events: Intps) -> Floats:
        owners, first_events = np.unique(self._owner[events], return_index=True)
        durations = np.full(len(self.t), np.nan)
        durations[owners] = (self.t[owners] - self.ts[events[first_events]]).astype(
            np.float64
        ) / 1e6
        return durations

    def _count_distinct_items(self, events: Intps) -> Floats:
        events = events[self.item[events] != 0]
        owner, item = self._owner[events], self.item[events]
        order = np.lexsort((item, owner))
        owner, item = owner[order], item[order]
        is_new_item = np.ones(len(order), np.bool_)
        is_new_item[1:] = (item[1:] != item[:-1]) | (owner[1:] != owner[:-1])
        return np.bincount(owner[is_new_item], minlength=len(self.t)).astype(np.float64)


class SingleRun(Runs):
    """The run of a single request: the same columns in fewer operations."""

    def column(self, step: Step) -> Floats | Keys:
        if step.operation not in ("session", "length", "depth"):
            return super().column(step)
        events = self.current & _has_type(self.type, step.types or (step.text,))
        if step.operation == "depth":
            return np.full(1, float(len(set(self.item[events].tolist()) - {0})))
        return np.full(1, float(np.count_nonzero(events)))

    @cached_property
    def current(self) -> Bools:
        if self.request_session[0]:
            return self.session == self.request_session[0]
        current = np.ones(len(self.ts), np.bool_)
        session_breaks = np.flatnonzero(
            np.append(self.ts[1:], self.t)[: len(self.ts)] - self.ts > SESSION_GAP
        )
        if len(session_breaks):
            current[: session_breaks[-1] + 1] = False
        return current

    def gap_mean(self) -> Floats:
        times = np.count_nonzero(self.ts[1:] != self.ts[:-1]) + 1
        return np.full(
            1, float(self.ts[-1] - self.ts[0]) / 1e6 / (times - 1.0) if times > 1 else np.nan
        )


def _has_type(type: Keys, names: tuple[str, ...]) -> Bools:
    """Return which events have one of these types; there are few."""
    first_mask, *other_masks = [type == type_hash for type_hash in _hash_names(names)]
    for mask in other_masks:
        first_mask |= mask
    return first_mask


@lru_cache(maxsize=1_024)
def _hash_names(names: tuple[str, ...]) -> list[np.uint64]:
    return [np.uint64(hash64(name)) for name in names]

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

GAP_OPERATIONS = ("gap_min", "gap_max", "gap_deviation", "gap_last")
# Operations of `layout.Step` that are finished here.
RUN_OPERATIONS = (
    "session",
    "length",
    "depth",
    "duration",
    "refinements",
    "gap",
    *GAP_OPERATIONS,
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
        if step.operation in GAP_OPERATIONS:
            return self.measure_gaps(step.operation)
        if step.operation == "favourite":
            return self.favourite()
        events = np.flatnonzero(self.in_session & _has_type(self.type, step.types or (step.text,)))
        if step.operation == "duration":
            return self._seconds_since_first(events)
        if step.operation == "depth":
            return self._count_distinct_items(events)
        if step.operation == "refinements":
            events = self._trailing_searches(events)
        return np.bincount(self._request_of_event[events], minlength=len(self.t)).astype(np.float64)

    @cached_property
    def in_session(self) -> Bools:
        """The events of each request's current session."""
        next_ts = np.append(self.ts[1:], self.t[-1:])[: len(self.ts)]
        last_events = self.offsets[1:][np.diff(self.offsets) > 0] - 1
        next_ts[last_events] = self.t[self._request_of_event[last_events]]
        session_breaks = np.flatnonzero(next_ts - self.ts > SESSION_GAP)
        last_break = np.full(len(self.t), -1, np.int64)
        np.maximum.at(last_break, self._request_of_event[session_breaks], session_breaks)
        own_session = self.request_session[self._request_of_event]
        return np.where(
            own_session != 0,
            self.session == own_session,
            np.arange(len(self.ts)) > last_break[self._request_of_event],
        )

    def gap_mean(self) -> Floats:
        """Return (newest − oldest) / (different times − 1) in seconds, missing with fewer than two
        times.
        """
        is_new_time = np.ones(len(self.ts), np.bool_)
        is_new_time[1:] = (self.ts[1:] != self.ts[:-1]) | (
            self._request_of_event[1:] != self._request_of_event[:-1]
        )
        time_counts = np.bincount(
            self._request_of_event[is_new_time], minlength=len(self.t)
        ).astype(np.float64)
        rows = np.flatnonzero(time_counts > 1)
        span = self.ts[self.offsets[rows + 1] - 1] - self.ts[self.offsets[rows]]
        gap_means = np.full(len(self.t), np.nan)
        gap_means[rows] = span.astype(np.float64) / 1e6 / (time_counts[rows] - 1.0)
        return gap_means

    def measure_gaps(self, operation: str) -> Floats:
        """Return a measure of the gaps between different times, in seconds; missing without any."""
        column = np.full(len(self.t), np.nan)
        gap_ends = (
            np.flatnonzero(
                (self.ts[1:] != self.ts[:-1])
                & (self._request_of_event[1:] == self._request_of_event[:-1])
            )
            + 1
        )
        if not len(gap_ends):
            return column
        gap = (self.ts[gap_ends] - self.ts[gap_ends - 1]).astype(np.float64) / 1e6
        request = self._request_of_event[gap_ends]
        run_starts = np.flatnonzero(np.append(True, request[1:] != request[:-1]))
        if operation == "gap_deviation":
            deviations = gap - self.gap_mean()[request]
            # `bincount` adds in order, whereas `np.add.reduceat` adds in pairs.
            squared_sums = np.bincount(
                request, weights=deviations * deviations, minlength=len(self.t)
            )[request[run_starts]]
            column[request[run_starts]] = np.sqrt(
                squared_sums / np.diff(np.append(run_starts, len(gap))).astype(np.float64)
            )
        elif operation == "gap_last":
            column[request] = gap  # The last assignment wins.
        else:
            column[request[run_starts]] = (
                np.minimum if operation == "gap_min" else np.maximum
            ).reduceat(gap, run_starts)
        return column

    def favourite(self) -> Keys:
        """Return the most frequent value; ties go to the latest; 0 without any."""
        events = np.flatnonzero(self.value)
        request = self._request_of_event[events]
        value = self.value[events]
        order = np.lexsort(
            (value, request)
        )  # stable, so the events of a value stay in order of time
        request = request[order]
        value = value[order]
        last_of_value = np.flatnonzero(
            np.append(
                (value[1:] != value[:-1]) | (request[1:] != request[:-1]),
                np.ones(min(len(request), 1), np.bool_),
            )
        )
        count = np.diff(last_of_value, prepend=-1)
        newest_event = events[order[last_of_value]]
        order_by_count = np.lexsort((newest_event, count, request[last_of_value]))
        favourites = np.zeros(len(self.t), np.uint64)
        favourites[request[last_of_value[order_by_count]]] = value[
            last_of_value[order_by_count]
        ]  # The last assignment to an index wins.
        return favourites

    def seen(self, request: Intps, candidate: Keys) -> Floats:
        """Return how many events of its request's run have the value of each candidate (rows,).

        Missing where the candidate has no value.
        """
        unique_values, value_of_event = np.unique(self.value, return_inverse=True)
        value_index = np.searchsorted(unique_values, candidate)
        is_present = value_index < len(unique_values)
        is_present[is_present] = unique_values[value_index[is_present]] == candidate[is_present]
        value_count = max(len(unique_values), 1)
        event_pairs = np.sort(self._request_of_event * value_count + value_of_event)
        candidate_pairs = request * value_count + np.where(is_present, value_index, 0)
        count = np.searchsorted(event_pairs, candidate_pairs, side="right") - np.searchsorted(
            event_pairs, candidate_pairs
        )
        return np.where(candidate != 0, np.where(is_present, count, 0).astype(np.float64), np.nan)

    @cached_property
    def _request_of_event(self) -> Intps:
        """The request of each event."""
        return np.repeat(np.arange(len(self.t)), np.diff(self.offsets))

    def _trailing_searches(self, events: Intps) -> Intps:
        """Return the searches among `events` with nothing else after them."""
        is_search = self.type[events] == np.uint64(hash64("search"))
        last_other = np.full(len(self.t), -1, np.int64)
        np.maximum.at(last_other, self._request_of_event[events[~is_search]], events[~is_search])
        return events[events > last_other[self._request_of_event[events]]]

    def _seconds_since_first(self, events: Intps) -> Floats:
        requests, first_events = np.unique(self._request_of_event[events], return_index=True)
        durations = np.full(len(self.t), np.nan)
        durations[requests] = (self.t[requests] - self.ts[events[first_events]]).astype(
            np.float64
        ) / 1e6
        return durations

    def _count_distinct_items(self, events: Intps) -> Floats:
        events = events[self.item[events] != 0]
        request = self._request_of_event[events]
        item = self.item[events]
        order = np.lexsort((item, request))
        request = request[order]
        item = item[order]
        is_new_item = np.ones(len(order), np.bool_)
        is_new_item[1:] = (item[1:] != item[:-1]) | (request[1:] != request[:-1])
        return np.bincount(request[is_new_item], minlength=len(self.t)).astype(np.float64)


class SingleRun(Runs):
    """The run of a single request: the same columns in fewer operations."""

    def column(self, step: Step) -> Floats | Keys:
        if step.operation not in ("session", "length", "depth"):
            return super().column(step)
        events = self.in_session & _has_type(self.type, step.types or (step.text,))
        if step.operation == "depth":
            return np.full(1, float(len(set(self.item[events].tolist()) - {0})))
        return np.full(1, float(np.count_nonzero(events)))

    @cached_property
    def in_session(self) -> Bools:
        if self.request_session[0]:
            return self.session == self.request_session[0]
        in_session = np.ones(len(self.ts), np.bool_)
        session_breaks = np.flatnonzero(
            np.append(self.ts[1:], self.t)[: len(self.ts)] - self.ts > SESSION_GAP
        )
        if len(session_breaks):
            in_session[: session_breaks[-1] + 1] = False
        return in_session

    def gap_mean(self) -> Floats:
        time_count = np.count_nonzero(self.ts[1:] != self.ts[:-1]) + 1
        return np.full(
            1,
            float(self.ts[-1] - self.ts[0]) / 1e6 / (time_count - 1.0)
            if time_count > 1
            else np.nan,
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

"""Offline replay: lake events and requests interleaved in log order, as of each request's time.

    for indices, lists in replay_requests(contract, events, replay, names): ...

A request sees the newest epoch of each group of tables at or before its position. Responses log
their epochs. Older history has regular ones, in the log's own time: every `EPOCH_INTERVAL_US` by
group, or less often where there would be too many.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tailorbird.candidates.batch import EventBatch, to_event_batch
from tailorbird.candidates.contract import Contract
from tailorbird.candidates.fold import CandidateFold, FoldTables
from tailorbird.candidates.own import OWN_KIND
from tailorbird.candidates.protocol import (
    BOARDS,
    NEIGHBOURS,
    NO_TABLES,
    SESSIONS,
    CandidateRequest,
    rank_items,
)
from tailorbird.candidates.query import RequestLists, live_sources, source_of, table_group
from tailorbird.candidates.session_knn.query import LIST_MAX as SESSION_SIZE
from tailorbird.events.clock import MINUTE
from tailorbird.events.contract.schema import micros

Int64s = npt.NDArray[np.int64]

EPOCH_INTERVAL_US = {BOARDS: MINUTE, NEIGHBOURS: MINUTE, SESSIONS: 10 * MINUTE}
# Maximum number of epochs per group. More cost more than the resolution is worth. The session table
# is rebuilt for each.
EPOCHS_MAX = {BOARDS: 2_000, NEIGHBOURS: 2_000, SESSIONS: 1_000}
BATCH_ROWS = 100_000


@dataclass(frozen=True)
class ReplayRequests:
    """Requests to replay, with the log position that each one sees, by group of tables."""

    requests: Sequence[CandidateRequest]
    epochs: Mapping[str, Int64s]


def regular_epochs(log_p: Int64s, log_ts: Int64s, p: Int64s, every_us: int) -> Int64s:
    """Return the epoch positions, (n,), of requests in a log that recorded none.

    The k-th epoch ends before the first event at which the log's monotonic time reaches k ·
    every_us.

    Args:
        log_p, log_ts: positions, ascending, and times of the log's events.
        p: (n,): positions up to which the log is known to each request.
    """
    if not len(log_p):
        return np.zeros(len(p), np.int64)
    newest = np.maximum.accumulate(log_ts)
    newest_known = np.searchsorted(log_p, p, side="right") - 1  # the last event that is known
    edge = (
        np.where(newest_known >= 0, newest[np.maximum(newest_known, 0)], 0) // every_us * every_us
    )
    last = np.searchsorted(newest, edge, side="left") - 1
    return np.where(last >= 0, log_p[np.maximum(last, 0)], 0)


def epochs_by_group(events: pa.Table, p: Int64s) -> dict[str, Int64s]:
    """Return the regular epochs of requests at log positions, by group of tables."""
    log_p, log_ts = positions_and_times(events)
    newest_known = np.searchsorted(log_p, p, side="right") - 1
    request_ts = log_ts[newest_known[newest_known >= 0]] if len(log_p) else log_ts
    span = int(request_ts.max() - request_ts.min()) if len(request_ts) else 0
    intervals = {
        group: max(least, -(-span // EPOCHS_MAX[group]))
        for group, least in EPOCH_INTERVAL_US.items()
    }
    return {
        group: regular_epochs(log_p, log_ts, p, interval) for group, interval in intervals.items()
    }


def replay_requests(
    contract: Contract,
    events: pa.Table,
    replay: ReplayRequests,
    names: Sequence[str],
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[tuple[Int64s, list[RequestLists]]]:
    """Yield the indices and lists of requests, those of one moment at a time.

    Read any further list before the next step.

    Args:
        events: columns `batch.COLUMNS` of routed events, in order of p, from the beginning.
        names: the live sources that any request names.
    """
    sources = live_sources(names)
    request_states = [RequestLists(NO_TABLES, request) for request in replay.requests]
    groups = [
        group
        for group in (SESSIONS, NEIGHBOURS)
        if any(table_group(name) == group for name in sources)
    ]
    fold, batches = CandidateFold(contract), _Batches(events, contract)
    groups_left = np.full(len(request_states), len(groups) + 1)
    for p, group, indices in _order_stops(replay, (*groups, BOARDS)):
        for batch in batches.until(p):
            fold.update(batch)
        tables = fold.tables()
        request_lists: list[RequestLists] = [request_states[index] for index in indices.tolist()]
        for lists in request_lists:
            lists.tables = tables
        groups_left[indices] -= 1
        if group == SESSIONS:
            _query_sessions(request_lists, tables, sources)
            for lists in request_lists:
                _query_own(lists, sources, SESSIONS)
        elif group == NEIGHBOURS:
            for lists in request_lists:
                assert lists.neighbours is not None  # Read now, and cached.
                _query_own(lists, sources, NEIGHBOURS)
        elif groups_left[indices].any():  # a later epoch is wanted of another group
            for lists in request_lists:
                for name in sources:
                    if table_group(name) == BOARDS:
                        lists.get(name)
        ready_indices = indices[groups_left[indices] == 0]
        if len(ready_indices):
            yield ready_indices, [request_states[index] for index in ready_indices.tolist()]
            for index in ready_indices.tolist():
                request_states[index] = _NO_LISTS
            progress(int(np.count_nonzero(groups_left == 0)), len(request_states))


_NO_LISTS = RequestLists(NO_TABLES, CandidateRequest())


def _order_stops(
    replay: ReplayRequests, groups: Sequence[str]
) -> Iterator[tuple[int, str, Int64s]]:
    """Yield the positions at which a group's tables are read, ascending, and by which requests.

    Leaderboards come last at each position.
    """
    stops: list[tuple[int, int, Int64s]] = []
    for group_index, group in enumerate(groups):
        epochs = replay.epochs[group]
        order = np.argsort(epochs, kind="stable")
        epoch_starts = np.flatnonzero(np.diff(epochs[order], prepend=-1))
        parts = np.split(order, epoch_starts[1:])
        stops += [
            (int(epochs[order[cut]]), group_index, indices)
            for cut, indices in zip(epoch_starts, parts, strict=True)
        ]
    for p, group_index, indices in sorted(stops, key=lambda stop: stop[:2]):
        yield p, groups[group_index], np.sort(indices)


def _query_own(lists: RequestLists, sources: Sequence[str], group: str) -> None:
    """Query the project's sources that read a group, while the tables are of its epoch."""
    for name in sources:
        if source_of(name).kind == OWN_KIND and table_group(name) == group:
            lists.get(name)


def _query_sessions(
    request_lists: list[RequestLists], tables: FoldTables, sources: Sequence[str]
) -> None:
    """Query the sessions for many requests at once."""
    sessions = tables.sessions()
    if sessions is None:
        return
    sizes = [len(lists.request.recent) for lists in request_lists]
    offsets = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    keys = np.concatenate([lists.request.recent for lists in request_lists])
    ts = np.concatenate([lists.request.recent_ts for lists in request_lists])
    for name in sources:
        if table_group(name) != SESSIONS or source_of(name).kind == OWN_KIND:
            continue
        similar_lists = sessions.find_similar(source_of(name).kind, offsets, keys, ts)
        for index, lists in enumerate(request_lists):
            entries = slice(similar_lists.offsets[index], similar_lists.offsets[index + 1])
            lists.by_source[name] = rank_items(
                similar_lists.keys[entries], similar_lists.scores[entries], SESSION_SIZE
            )


class _Batches:
    """Batches of the log, consumed a few rows at a time."""

    def __init__(self, events: pa.Table, contract: Contract) -> None:
        self._events, self._contract = events, contract
        self._p = events["p"].to_numpy()
        self._next_event = 0  # row of `events` at which the next batch starts
        self._batch: EventBatch | None = None
        self._next_row = 0  # next row of the batch

    def until(self, p: int) -> Iterator[EventBatch]:
        """Yield the rows after the previous call's position up to p, inclusive."""
        while True:
            if self._batch is None:
                if self._next_event >= len(self._p) or self._p[self._next_event] > p:
                    return
                end = min(self._next_event + BATCH_ROWS, len(self._p))
                self._batch = to_event_batch(
                    self._events.slice(self._next_event, end - self._next_event),
                    self._contract,
                    int(self._p[end - 1]),
                )
                self._next_event, self._next_row = end, 0
            batch = self._batch
            high = int(np.searchsorted(batch.p, p, side="right"))
            if high > self._next_row or p >= batch.end:
                yield batch.slice(self._next_row, high, min(p, batch.end))
            self._next_row = high
            if batch.end > p:
                return
            self._batch = None


def positions_and_times(events: pa.Table) -> tuple[Int64s, Int64s]:
    """Return p and ts of events in log order; a timeless event has the time 0."""
    ts = micros(events["ts"])
    timeless = (
        events["timeless"].to_numpy(zero_copy_only=False)
        if "timeless" in events.column_names
        else np.zeros(len(ts), bool)
    )
    return events["p"].to_numpy(), np.where(timeless.astype(bool), 0, ts)

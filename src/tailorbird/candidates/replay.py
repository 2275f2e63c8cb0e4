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
from tailorbird.candidates.query import RequestLists, select_live_sources, source_of, table_group
from tailorbird.candidates.session_knn.query import LIST_MAX as SESSION_LIST_MAX
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
    epochs_by_group: Mapping[str, Int64s]


def regular_epochs(
    log_positions: Int64s, log_ts: Int64s, request_log_positions: Int64s, interval_us: int
) -> Int64s:
    """Return the epoch positions, (n,), of requests in a log that recorded none.

    The k-th epoch ends before the first event at which the log's monotonic time reaches k ·
    interval_us.

    Args:
        log_positions, log_ts: positions, ascending, and times of the log's events.
        request_log_positions: (n,): positions up to which the log is known to each request.
    """
    if not len(log_positions):
        return np.zeros(len(request_log_positions), np.int64)
    running_ts = np.maximum.accumulate(log_ts)
    last_event_index = (
        np.searchsorted(log_positions, request_log_positions, side="right") - 1
    )  # newest event at or before the request
    epoch_ts = (
        np.where(last_event_index >= 0, running_ts[np.maximum(last_event_index, 0)], 0)
        // interval_us
        * interval_us
    )
    epoch_event_index = np.searchsorted(running_ts, epoch_ts, side="left") - 1
    return np.where(epoch_event_index >= 0, log_positions[np.maximum(epoch_event_index, 0)], 0)


def assign_regular_epochs(events: pa.Table, request_log_positions: Int64s) -> dict[str, Int64s]:
    """Return the regular epochs of requests at log positions, by group of tables."""
    log_positions, log_ts = positions_and_times(events)
    last_event_index = np.searchsorted(log_positions, request_log_positions, side="right") - 1
    request_ts = log_ts[last_event_index[last_event_index >= 0]] if len(log_positions) else log_ts
    span_us = int(request_ts.max() - request_ts.min()) if len(request_ts) else 0
    interval_by_group = {
        group: max(interval_min_us, -(-span_us // EPOCHS_MAX[group]))
        for group, interval_min_us in EPOCH_INTERVAL_US.items()
    }
    return {
        group: regular_epochs(log_positions, log_ts, request_log_positions, interval)
        for group, interval in interval_by_group.items()
    }


def replay_requests(
    contract: Contract,
    events: pa.Table,
    requests_to_replay: ReplayRequests,
    source_names: Sequence[str],
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[tuple[Int64s, list[RequestLists]]]:
    """Yield the indices and lists of requests, those of one moment at a time.

    Read any further list before the next step.

    Args:
        events: columns `batch.EVENT_COLUMNS` of routed events, in order of p, from the beginning.
        source_names: the live sources that any request names.
    """
    live_sources = select_live_sources(source_names)
    lists_by_request = [RequestLists(NO_TABLES, request) for request in requests_to_replay.requests]
    groups = [
        group
        for group in (SESSIONS, NEIGHBOURS)
        if any(table_group(name) == group for name in live_sources)
    ]
    fold = CandidateFold(contract)
    batch_reader = _BatchReader(events, contract)
    pending_group_counts = np.full(len(lists_by_request), len(groups) + 1)
    for log_position, group, request_indexes in _order_table_reads(
        requests_to_replay, (*groups, BOARDS)
    ):
        for batch in batch_reader.read_until(log_position):
            fold.update(batch)
        tables = fold.tables()
        request_lists: list[RequestLists] = [
            lists_by_request[index] for index in request_indexes.tolist()
        ]
        for lists in request_lists:
            lists.tables = tables
        pending_group_counts[request_indexes] -= 1
        if group == SESSIONS:
            _query_sessions(request_lists, tables, live_sources)
            for lists in request_lists:
                _query_own(lists, live_sources, SESSIONS)
        elif group == NEIGHBOURS:
            for lists in request_lists:
                assert lists.recent_neighbours is not None  # Read now, and cached.
                _query_own(lists, live_sources, NEIGHBOURS)
        elif pending_group_counts[
            request_indexes
        ].any():  # a later epoch is wanted of another group
            for lists in request_lists:
                for name in live_sources:
                    if table_group(name) == BOARDS:
                        lists.get(name)
        ready_indexes = request_indexes[pending_group_counts[request_indexes] == 0]
        if len(ready_indexes):
            yield ready_indexes, [lists_by_request[index] for index in ready_indexes.tolist()]
            for index in ready_indexes.tolist():
                lists_by_request[index] = _NO_LISTS
            progress(int(np.count_nonzero(pending_group_counts == 0)), len(lists_by_request))


_NO_LISTS = RequestLists(NO_TABLES, CandidateRequest())


def _order_table_reads(
    requests_to_replay: ReplayRequests, groups: Sequence[str]
) -> Iterator[tuple[int, str, Int64s]]:
    """Yield the positions at which a group's tables are read, ascending, and by which requests.

    Leaderboards come last at each position.
    """
    table_reads: list[tuple[int, int, Int64s]] = []
    for group_index, group in enumerate(groups):
        epochs = requests_to_replay.epochs_by_group[group]
        order = np.argsort(epochs, kind="stable")
        epoch_starts = np.flatnonzero(np.diff(epochs[order], prepend=-1))
        indexes_by_epoch = np.split(order, epoch_starts[1:])
        table_reads += [
            (int(epochs[order[epoch_start]]), group_index, request_indexes)
            for epoch_start, request_indexes in zip(epoch_starts, indexes_by_epoch, strict=True)
        ]
    for log_position, group_index, request_indexes in sorted(
        table_reads, key=lambda table_read: table_read[:2]
    ):
        yield log_position, groups[group_index], np.sort(request_indexes)


def _query_own(lists: RequestLists, source_names: Sequence[str], group: str) -> None:
    """Query the project's sources that read a group, while the tables are of its epoch."""
    for name in source_names:
        if source_of(name).kind == OWN_KIND and table_group(name) == group:
            lists.get(name)


def _query_sessions(
    request_lists: list[RequestLists], tables: FoldTables, source_names: Sequence[str]
) -> None:
    """Query the sessions for many requests at once."""
    sessions = tables.sessions()
    if sessions is None:
        return
    sizes = [len(lists.request.recent) for lists in request_lists]
    offsets = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    keys = np.concatenate([lists.request.recent for lists in request_lists])
    ts = np.concatenate([lists.request.recent_ts for lists in request_lists])
    for name in source_names:
        if table_group(name) != SESSIONS or source_of(name).kind == OWN_KIND:
            continue
        similar_lists = sessions.find_similar(source_of(name).kind, offsets, keys, ts)
        for index, lists in enumerate(request_lists):
            entries = slice(similar_lists.offsets[index], similar_lists.offsets[index + 1])
            lists.list_by_source[name] = rank_items(
                similar_lists.keys[entries], similar_lists.scores[entries], SESSION_LIST_MAX
            )


class _BatchReader:
    """Batches of the log, consumed a few rows at a time."""

    def __init__(self, events: pa.Table, contract: Contract) -> None:
        self._events = events
        self._contract = contract
        self._log_positions = events["p"].to_numpy()
        self._next_event = 0  # row of `events` at which the next batch starts
        self._batch: EventBatch | None = None
        self._next_row = 0  # next row of the batch

    def read_until(self, log_position: int) -> Iterator[EventBatch]:
        """Yield the rows after the previous call's position up to `log_position`, inclusive."""
        while True:
            if self._batch is None:
                if (
                    self._next_event >= len(self._log_positions)
                    or self._log_positions[self._next_event] > log_position
                ):
                    return
                end_row = min(self._next_event + BATCH_ROWS, len(self._log_positions))
                self._batch = to_event_batch(
                    self._events.slice(self._next_event, end_row - self._next_event),
                    self._contract,
                    int(self._log_positions[end_row - 1]),
                )
                self._next_event = end_row
                self._next_row = 0
            batch = self._batch
            stop_row = int(np.searchsorted(batch.log_position, log_position, side="right"))
            if stop_row > self._next_row or log_position >= batch.end_position:
                yield batch.slice(self._next_row, stop_row, min(log_position, batch.end_position))
            self._next_row = stop_row
            if batch.end_position > log_position:
                return
            self._batch = None


def positions_and_times(events: pa.Table) -> tuple[Int64s, Int64s]:
    """Return p and ts of events in log order; a timeless event has the time 0."""
    ts = micros(events["ts"])
    is_timeless = (
        events["timeless"].to_numpy(zero_copy_only=False)
        if "timeless" in events.column_names
        else np.zeros(len(ts), bool)
    )
    return events["p"].to_numpy(), np.where(is_timeless.astype(bool), 0, ts)

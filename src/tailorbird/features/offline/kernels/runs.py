"""Loops of the backfill over last events: sequences, sessions, gaps, the newest event.

They follow the rules of `features.offline.kernels.windows`. Each query walks back from its edge
over the events of a series (`series.Series`, in order of entity and time) and skips what was not
known yet. A query's events are between `floor` and `edge`, positions in the timeline. A walk that
skips more than `SKIPPED_MAX` events gives up, and the query is left to the caller.

    series   … a b c d | e      edge |, 2 events: c d, where p is early enough
                                events_before[edge]: number of events of the series before it
"""

import numpy as np
import numpy.typing as npt

from tailorbird.features.offline.kernels.windows import Bools, Floats, Int64s, Intps, Keys, compiled

SKIPPED_MAX = 256  # events in flight that are skipped one by one
SESSION, DEPTH, DURATION, REFINEMENTS, GAP = range(5)  # operations of `write_run_columns`
SEARCH_BIT = 62  # the bit of searches; lower bits mark the steps that use an event's type


@compiled
def walk_back(
    floor: int,
    stop: int,
    since: int,
    query_log_position: int,
    times: Int64s,
    log_position: Int64s,
    run: Intps,
) -> int:
    """Write the newest known positions of [floor, stop) at or after `since` into `run`, newest
    first.

    Returns their number, or −1 if the walk gave up.
    """
    count = skipped = 0
    position = stop
    while position > floor and count < len(run):
        position -= 1
        if times[position] < since:
            break
        if log_position[position] > query_log_position:
            skipped += 1
            if skipped > SKIPPED_MAX:
                return -1
        else:
            run[count] = position
            count += 1
    return count


@compiled
def write_newest(
    low: int,
    high: int,
    order: Intps,
    floor: Intps,
    edge: Intps,
    query_log_position: Int64s,
    events_before: Intps,
    log_position: Int64s,
    events: Intps,
    out: Intps,
    is_deferred: Bools,
) -> None:
    """Write the event at the newest known position of each query, −1 without one."""
    for query in range(low, high):
        row = order[query]
        first_position = events_before[floor[query]]
        position = events_before[edge[query]] - 1
        last_scanned = max(first_position, position - SKIPPED_MAX)
        while position >= last_scanned and log_position[position] > query_log_position[query]:
            position -= 1
        out[row] = events[position] if position >= last_scanned else -1
        is_deferred[row] = position < last_scanned and last_scanned > first_position


@compiled
def write_run_sizes(
    low: int,
    high: int,
    order: Intps,
    floor: Intps,
    edge: Intps,
    t: Int64s,
    query_log_position: Int64s,
    events_before: Intps,
    times: Int64s,
    log_position: Int64s,
    length: int,
    look_back_us: int,
    sizes: Int64s,
) -> None:
    """Write how many events the run of each query has; −1 if the walk gave up."""
    run = np.empty(length, np.intp)
    for query in range(low, high):
        first_position = events_before[floor[query]]
        stop = events_before[edge[query]]
        sizes[order[query]] = walk_back(
            first_position,
            stop,
            t[query] - look_back_us,
            query_log_position[query],
            times,
            log_position,
            run,
        )


@compiled
def write_run_events(
    low: int,
    high: int,
    order: Intps,
    floor: Intps,
    edge: Intps,
    t: Int64s,
    query_log_position: Int64s,
    events_before: Intps,
    times: Int64s,
    log_position: Int64s,
    length: int,
    look_back_us: int,
    offsets: Int64s,
    item: Keys,
    type_: Keys,
    run_positions: Intps,
    run_ts: Int64s,
    run_item: Keys,
    run_type: Keys,
) -> None:
    """Write the positions of each run, oldest first, from its offset on, with the columns of each
    event.
    """
    run = np.empty(length, np.intp)
    for query in range(low, high):
        first_position = events_before[floor[query]]
        stop = events_before[edge[query]]
        count = walk_back(
            first_position,
            stop,
            t[query] - look_back_us,
            query_log_position[query],
            times,
            log_position,
            run,
        )
        end = offsets[order[query] + 1] - 1
        for steps_back in range(count):
            position = run[steps_back]
            run_positions[end - steps_back] = position
            run_ts[end - steps_back] = times[position]
            run_item[end - steps_back] = item[position]
            run_type[end - steps_back] = type_[position]


@compiled
def write_run_columns(
    low: int,
    high: int,
    order: Intps,
    floor: Intps,
    edge: Intps,
    t: Int64s,
    query_log_position: Int64s,
    events_before: Intps,
    times: Int64s,
    log_position: Int64s,
    length: int,
    look_back_us: int,
    request_session: Keys,
    item: Keys,
    session: Keys,
    step_bits: Keys,
    operation: Int64s,
    session_gap_us: int,
    out: Floats,
    is_deferred: Bools,
) -> None:
    """Write the value of each operation over a run, as defined by `runs.Runs`.

    `request_session` is in the order of queries, `out` (q, operations).
    """
    run = np.empty(length, np.intp)
    session_positions = np.empty(length, np.intp)
    seen_items = np.empty(length, np.uint64)
    for query in range(low, high):
        row = order[query]
        time = t[query]
        first_position = events_before[floor[query]]
        stop = events_before[edge[query]]
        count = walk_back(
            first_position,
            stop,
            time - look_back_us,
            query_log_position[query],
            times,
            log_position,
            run,
        )
        if count < 0:
            is_deferred[row] = True
            continue
        own_session = request_session[query]
        next_time = time
        session_length = 0
        for steps_back in range(count):
            position = run[steps_back]
            if own_session != 0:
                if session[position] != own_session:
                    continue
            elif next_time - times[position] > session_gap_us:
                break
            next_time = times[position]
            session_positions[session_length] = position
            session_length += 1
        for step in range(len(operation)):
            if operation[step] == GAP:
                out[row, step] = _mean_gap(times, run, count)
            else:
                out[row, step] = _session_measure(
                    operation[step],
                    np.uint64(step),
                    times,
                    time,
                    session_positions[:session_length],
                    item,
                    step_bits,
                    seen_items,
                )


@compiled
def _mean_gap(times: Int64s, run: Intps, count: int) -> float:
    time_count = min(count, 1)
    for steps_back in range(1, count):
        time_count += times[run[steps_back]] != times[run[steps_back - 1]]
    if time_count < 2:
        return np.nan
    return float(times[run[0]] - times[run[count - 1]]) / 1e6 / (float(time_count) - 1.0)


@compiled
def _session_measure(
    operation: int,
    step: np.uint64,
    times: Int64s,
    time: int,
    positions: npt.NDArray[np.intp],
    item: Keys,
    step_bits: Keys,
    seen_items: Keys,
) -> float:
    """Return a measure of the current session, whose positions are given newest first."""
    count = 0
    oldest = np.int64(-1)
    for position in positions:
        if (step_bits[position] >> step) & np.uint64(1) == 0:
            continue
        if operation == DEPTH:
            if item[position] == 0:
                continue
            is_repeated = False
            for seen_index in range(count):
                if seen_items[seen_index] == item[position]:
                    is_repeated = True
                    break
            if is_repeated:
                continue
            seen_items[count] = item[position]
        elif (
            operation == REFINEMENTS
            and (step_bits[position] >> np.uint64(SEARCH_BIT)) & np.uint64(1) == 0
        ):
            break
        count += 1
        oldest = position
    if operation == DURATION:
        return float(time - times[oldest]) / 1e6 if oldest >= 0 else np.nan
    return float(count)

"""Loops of the backfill, compiled by Numba: window edges, window sums, and a thread pool for them.

Only the offline half imports this module; `features.offline.asof` explains what the loops compute,
and `features.offline.kernels.groups` groups keys and sorts entries into groups. Each loop covers a
range of groups or of queries, from `low` to `high`, without the interpreter's lock, so that
`run_parallel` runs one on each core. They are compiled at first use and cached on disk. Integers
wrap around like NumPy's, and no float operation is fused or reordered.

    group   0: ts ts ts … | 1: ts ts …      starts[g] … starts[g + 1]: the positions of group g,
                                            in order of ts
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]
Intps = npt.NDArray[np.intp]
Keys = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

THREADS = os.cpu_count() or 1
_SHARE_ENTRIES_MIN = 1 << 14  # entries below which a second thread does not pay

compiled: Callable[[Callable[..., Any]], Callable[..., Any]] = numba.njit(
    nogil=True, cache=True, error_model="numpy"
)


def run_parallel(
    loop: Callable[..., Any], count: int, *arguments: Any, bounds: Sequence[int] | None = None
) -> list[Any]:
    """Run `loop(low, high, *arguments)` over 0 to `count`, or the `bounds`, on all cores."""
    share_count = min(THREADS, 1 + count // _SHARE_ENTRIES_MIN)
    bounds_of_shares = (
        list(bounds)
        if bounds is not None
        else [count * share // share_count for share in range(share_count + 1)]
    )
    spans = [(low, high) for low, high in pairwise(bounds_of_shares) if low < high]
    if len(spans) < 2:
        return [loop(low, high, *arguments) for low, high in spans]
    # The caller's thread takes a share too: starting a thread costs more than a short loop.
    futures = [_get_thread_pool(os.getpid()).submit(loop, *span, *arguments) for span in spans[1:]]
    return [loop(*spans[0], *arguments), *(future.result() for future in futures)]


@lru_cache(maxsize=1)
def _get_thread_pool(process_id: int) -> ThreadPoolExecutor:
    """Return this process's threads for loops that never block, so that they cannot wait for each
    other.
    """
    return ThreadPoolExecutor(THREADS, thread_name_prefix=f"loops-{process_id}")


def share_bounds(starts: Int64s) -> list[int]:
    """Return the groups at which to split so that each core has about as many entries."""
    share_count = min(THREADS, 1 + int(starts[-1]) // _SHARE_ENTRIES_MIN)
    inner_bounds = [
        int(np.searchsorted(starts, starts[-1] * share // share_count))
        for share in range(1, share_count)
    ]
    return [0, *inner_bounds, len(starts) - 1]


def gather_parallel(values: npt.NDArray, indices: Intps) -> npt.NDArray:
    """Return `values[indices]`, computed on all cores."""
    gathered_values = np.empty(len(indices), values.dtype)
    run_parallel(gather, len(indices), np.ascontiguousarray(values), indices, gathered_values)
    return gathered_values


@compiled
def find_ties(starts: Int64s, times: Int64s) -> Bools:
    """Return for each position whether another one of the group has its time."""
    is_tied = np.zeros(len(times), np.bool_)
    for group in range(len(starts) - 1):
        for position in range(starts[group] + 1, starts[group + 1]):
            if times[position - 1] == times[position]:
                is_tied[position - 1] = is_tied[position] = True
    return is_tied


@compiled
def write_running_maximum(
    low: int, high: int, starts: Int64s, log_position: Int64s, running_log_position: Int64s
) -> None:
    """Write for each position the largest p of its group so far."""
    for group in range(low, high):
        largest = np.int64(-(2**63))
        for position in range(starts[group], starts[group + 1]):
            largest = max(largest, log_position[position])
            running_log_position[position] = largest


@compiled
def gather(low: int, high: int, values: Int64s, order: Intps, out: Int64s) -> None:
    for position in range(low, high):
        out[position] = values[order[position]]


@compiled
def count_before(positions: Intps, counts_before: Intps) -> None:
    """Write how many of the ascending positions are less than each position."""
    count = len(positions)
    index = 0
    for position in range(len(counts_before)):
        while index < count and positions[index] < position:
            index += 1
        counts_before[position] = index


@compiled
def accumulate_sums(sums: Int64s) -> None:
    for index in range(1, len(sums)):
        sums[index] += sums[index - 1]


@compiled
def advance(times: Int64s, position: int, stop: int, time: int) -> int:
    """Return the first position in [position, stop] whose time is not before `time`.

    Searches by single steps, then by doubling steps, then by bisection.
    """
    for _ in range(
        4
    ):  # The target is mostly near, and an unpredictable branch costs more than a step.
        if position == stop or times[position] >= time:
            return position
        position += 1
    step = 1
    while position + step <= stop and times[position + step - 1] < time:
        position += step
        step *= 2
    high = min(position + step - 1, stop)
    while position < high:
        middle = (position + high) >> 1
        if times[middle] < time:
            position = middle + 1
        else:
            high = middle
    return position


@compiled
def tile_of(time: int, hop: int, hops_per_us: float) -> "int | np.int64":
    """Return time // hop, where `hops_per_us` is 1 / hop.

    A product that may be one hop off, then corrected, takes a fraction of the time of a division.
    """
    if not -(1 << 53) < time < 1 << 53:
        return time // hop
    tile = np.int64(time * hops_per_us)
    while tile * hop > time:
        tile -= 1
    while time - tile * hop >= hop:
        tile += 1
    return tile


@compiled
def first_above(values: Int64s, low: int, high: int, bound: int) -> int:
    """Return the first position of [low, high) above the bound, where values do not decrease."""
    while low < high:
        middle = (low + high) >> 1
        if values[middle] > bound:
            high = middle
        else:
            low = middle + 1
    return low


@compiled
def write_edges(
    low: int, high: int, group: Int32s, cutoffs: Int64s, starts: Int64s, times: Int64s, out: Intps
) -> None:
    """Write the first position of the group that is not before a cutoff, queries in order of
    (group, t).

    Fast where the cutoffs increase as well.
    """
    last_group = -1
    last_time = 0
    position = 0
    for query in range(low, high):
        own_group = group[query]
        time = cutoffs[query]
        if own_group != last_group or time < last_time:
            position = starts[own_group]
        last_group = own_group
        last_time = time
        position = advance(times, position, starts[own_group + 1], time)
        out[query] = position


@compiled
def write_window_edges(
    low: int,
    high: int,
    group: Int32s,
    t: Int64s,
    starts: Int64s,
    times: Int64s,
    hop: int,
    length: int,
    out: Intps,
) -> None:
    """Write the `write_edges` of t // hop · hop − length."""
    last_group = -1
    last_time = 0
    position = 0
    for query in range(low, high):
        own_group = group[query]
        time = t[query] // hop * hop - length
        if own_group != last_group or time < last_time:
            position = starts[own_group]
        last_group = own_group
        last_time = time
        position = advance(times, position, starts[own_group + 1], time)
        out[query] = position


@compiled
def write_first_in_flight(
    low: int,
    high: int,
    start: Int64s,
    edge: Intps,
    query_log_position: Int64s,
    running_log_position: Int64s,
    first_in_flight: Intps,
) -> None:
    """Write the first position before the edge that was not known at p, or the edge itself."""
    for query in range(low, high):
        stop = edge[query]
        if stop > start[query] and running_log_position[stop - 1] > query_log_position[query]:
            stop = first_above(running_log_position, start[query], stop, query_log_position[query])
        first_in_flight[query] = stop


@compiled
def write_window_sums(
    low: int,
    high: int,
    order: Intps,
    group: Int32s,
    t: Int64s,
    query_log_position: Int64s,
    starts: Int64s,
    times: Int64s,
    event_log_position: Int64s,
    running_log_position: Int64s,
    prefixes: Int64s,
    hops: Int64s,
    lengths: Int64s,
    prefix_indexes: Intps,
    in_flight_max: int,
    sums: Int64s,
    is_deferred: Bools,
) -> None:
    """Write each window's sum over the known events in [t // hop · hop − length, t).

    Queries come in order of (group, t), while `sums` (q, windows) and `is_deferred` (q,) are in
    input order. Stretches in flight longer than `in_flight_max` are deferred to the caller.
    """
    window_count = len(hops)
    hops_per_us = 1.0 / hops
    positions = np.zeros(window_count, np.int64)
    stop = last_group = np.int64(-1)
    for query in range(low, high):
        own_group = group[query]
        time = t[query]
        position_max = query_log_position[query]
        row = order[query]
        start = starts[own_group]
        end = starts[own_group + 1]
        if start == end:
            for window in range(window_count):
                sums[row, window] = 0
            continue
        if own_group != last_group:
            last_group = own_group
            stop = start
            for window in range(window_count):
                positions[window] = start
        stop = advance(times, stop, end, time)
        for window in range(window_count):
            since = (
                tile_of(time, hops[window], hops_per_us[window]) * hops[window] - lengths[window]
            )
            positions[window] = advance(times, positions[window], end, since)
        if stop == start or running_log_position[stop - 1] <= position_max:
            for window in range(window_count):
                prefix_index = prefix_indexes[window]
                sums[row, window] = (
                    prefixes[prefix_index, stop] - prefixes[prefix_index, positions[window]]
                )
            continue
        first_in_flight = first_above(running_log_position, start, stop, position_max)
        if stop - first_in_flight > in_flight_max:
            is_deferred[row] = True
            continue
        for window in range(window_count):
            prefix_index = prefix_indexes[window]
            sums[row, window] = (
                prefixes[prefix_index, first_in_flight] - prefixes[prefix_index, positions[window]]
                if positions[window] < first_in_flight
                else 0
            )
        for event in range(first_in_flight, stop):
            if event_log_position[event] <= position_max:
                for window in range(window_count):
                    if event >= positions[window]:
                        sums[row, window] += (
                            prefixes[prefix_indexes[window], event + 1]
                            - prefixes[prefix_indexes[window], event]
                        )

"""Further loops of the backfill: decays, peaks, unions of sketches.

They follow the rules of `features.offline.kernels.windows`. All iterate over queries in order of
(group, t), from `low` to `high`; `order` gives the input index of each query, where its result is
written.
"""

import numpy as np
import numpy.typing as npt

from tailorbird.features.offline.kernels.windows import (
    Bools,
    Floats,
    Int32s,
    Int64s,
    Intps,
    advance,
    compiled,
    tile_of,
)

Registers = npt.NDArray[np.uint8]

_SCAN_MAX = 256  # events of a window that are scanned instead of using the tree
_DECAY_SCAN_MAX = 32  # events of a decay that are scanned instead of using tiles
BLOCK_EVENTS = 64  # events; a scan of so many costs about as much as a union of registers


@compiled
def write_decayed_sums(
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
    prefix: Int64s,
    hop: int,
    weights: Floats,
    in_flight_max: int,
    totals: Floats,
    is_deferred: Bools,
) -> None:
    """Write the sum of tiles times their weights by age, oldest first.

    Queries with more than `in_flight_max` events in flight are deferred. A tile without events adds
    0.0, which changes no bit, so short windows are scanned event by event.
    """
    tiles = len(weights) - 1
    hops_per_us = 1.0 / hop
    slots = max(tiles, 1)
    scan_limit = min(in_flight_max, _DECAY_SCAN_MAX)
    ring = np.zeros(slots)
    newest_tile = filled_until = np.int64(0)
    ring_group = np.int64(-1)
    position = stop = np.int64(0)
    last_group = np.int64(-1)
    for query in range(low, high):
        own_group = group[query]
        time = t[query]
        bound = query_log_position[query]
        row = order[query]
        start = starts[own_group]
        end = starts[own_group + 1]
        total = 0.0
        if start < end:
            if own_group != last_group:
                last_group = own_group
                position = start
                stop = start
            tile = tile_of(time, hop, hops_per_us)
            stop = advance(times, stop, end, time)
            position = advance(times, position, end, (tile - tiles) * hop)
            has_in_flight = stop > position and running_log_position[stop - 1] > bound
            if stop - position <= (in_flight_max if has_in_flight else scan_limit):
                units = np.int64(0)
                age = np.int64(-1)
                tile_end = np.int64(0)
                for event in range(position, stop):
                    if has_in_flight and event_log_position[event] > bound:
                        continue
                    if age < 0 or times[event] >= tile_end:
                        if age >= 0:
                            total += float(units) * weights[age]
                        event_tile = tile_of(times[event], hop, hops_per_us)
                        units = np.int64(0)
                        age = tile - event_tile
                        tile_end = (event_tile + 1) * hop
                    units += prefix[event + 1] - prefix[event]
                if age >= 0:
                    total += float(units) * weights[age]
            elif has_in_flight:
                is_deferred[row] = True
            else:
                # A query reuses the tiles of the previous one and adds those since.
                if own_group != ring_group or tile - newest_tile > tiles:
                    ring_group = own_group
                    newest_tile = tile - tiles - 1
                    filled_until = position
                while newest_tile < tile - 1:
                    newest_tile += 1
                    edge = advance(times, filled_until, end, (newest_tile + 1) * hop)
                    ring[newest_tile % slots] = float(prefix[edge] - prefix[filled_until])
                    filled_until = edge
                for tile_index in range(tiles):
                    total += ring[(tile - tiles + tile_index) % slots] * weights[tiles - tile_index]
                total += float(prefix[stop] - prefix[filled_until]) * weights[0]
        totals[row] = total


@compiled
def find_largest(tree_nodes: Int64s, level_starts: Int64s, low: int, high: int) -> np.int64:
    """Return the largest value of the positions [low, high) in a tree of maxima, 0 for none."""
    largest = np.int64(0)
    level = 0
    while low < high:
        level_start = level_starts[level]
        if low & 1:
            largest = max(largest, tree_nodes[level_start + low])
            low += 1
        if high & 1:
            high -= 1
            largest = max(largest, tree_nodes[level_start + high])
        low >>= 1
        high >>= 1
        level += 1
    return largest


@compiled
def write_peaks(
    low: int,
    high: int,
    order: Intps,
    window_start: Intps,
    edge: Intps,
    first_in_flight: Intps,
    query_log_position: Int64s,
    event_log_position: Int64s,
    tree_nodes: Int64s,
    level_starts: Int64s,
    peaks: Int64s,
) -> None:
    """Write the largest value of the known events of each window; those before `first_in_flight`
    are settled, known without a look at their p.
    """
    for query in range(low, high):
        start = window_start[query]
        stop = edge[query]
        bound = query_log_position[query]
        settled_stop = max(first_in_flight[query], start)
        largest = find_largest(tree_nodes, level_starts, start, min(settled_stop, stop))
        # Scan only if any of the others, known or not, is larger.
        if (
            settled_stop < stop
            and find_largest(tree_nodes, level_starts, settled_stop, stop) > largest
        ):
            for event in range(settled_stop, stop):
                if event_log_position[event] <= bound:
                    largest = max(largest, tree_nodes[event])
        peaks[order[query]] = largest


@compiled
def write_unions(
    low: int,
    high: int,
    order: Intps,
    window_start: Intps,
    edge: Intps,
    first_in_flight: Intps,
    query_log_position: Int64s,
    event_log_position: Int64s,
    register: Registers,
    rank: Registers,
    tree_nodes: Registers,
    level_starts: Int64s,
    rank_max: int,
    empty_registers_out: Int64s,
    rank_sums: Int64s,
) -> None:
    """Write `sketch.summarise_registers` of the union of the known events of each window.

    `tree_nodes` (blocks, registers) is a tree of unions.
    """
    registers = tree_nodes.shape[1]
    union = np.zeros(registers, np.uint8)
    empty_rank_sum = np.int64(registers) << rank_max
    for query in range(low, high):
        start = window_start[query]
        stop = edge[query]
        bound = query_log_position[query]
        row = order[query]
        settled_stop = min(max(first_in_flight[query], start), stop)
        if stop - start <= _SCAN_MAX:
            empty_registers = np.int64(registers)
            rank_sum = empty_rank_sum
            for event in range(start, stop):
                if rank[event] > union[register[event]] and (
                    event < settled_stop or event_log_position[event] <= bound
                ):
                    previous_rank = union[register[event]]
                    empty_registers -= previous_rank == 0
                    rank_sum += (np.int64(1) << np.int64(rank_max - rank[event])) - (
                        np.int64(1) << np.int64(rank_max - previous_rank)
                    )
                    union[register[event]] = rank[event]
            for event in range(start, stop):
                union[register[event]] = 0
            empty_registers_out[row] = empty_registers
            rank_sums[row] = rank_sum
            continue
        left = (start + BLOCK_EVENTS - 1) // BLOCK_EVENTS
        right = settled_stop // BLOCK_EVENTS
        middle = settled_stop if left >= right else left * BLOCK_EVENTS
        for event in range(start, middle):
            union[register[event]] = max(union[register[event]], rank[event])
        if left < right:
            for event in range(right * BLOCK_EVENTS, settled_stop):
                union[register[event]] = max(union[register[event]], rank[event])
        level = 0
        while left < right:
            level_start = level_starts[level]
            if left & 1:
                for index in range(registers):
                    union[index] = max(union[index], tree_nodes[level_start + left, index])
                left += 1
            if right & 1:
                right -= 1
                for index in range(registers):
                    union[index] = max(union[index], tree_nodes[level_start + right, index])
            left >>= 1
            right >>= 1
            level += 1
        for event in range(settled_stop, stop):
            if event_log_position[event] <= bound:
                union[register[event]] = max(union[register[event]], rank[event])
        empty_registers = np.int64(0)
        rank_sum = np.int64(0)
        for index in range(registers):
            empty_registers += union[index] == 0
            rank_sum += np.int64(1) << np.int64(rank_max - union[index])
            union[index] = 0
        empty_registers_out[row] = empty_registers
        rank_sums[row] = rank_sum


@compiled
def write_block_unions(
    low: int, high: int, register: Registers, rank: Registers, tree_nodes: Registers
) -> None:
    """Write the registers of each complete block of events."""
    for block in range(low, high):
        for event in range(block * BLOCK_EVENTS, (block + 1) * BLOCK_EVENTS):
            tree_nodes[block, register[event]] = max(
                tree_nodes[block, register[event]], rank[event]
            )

"""Further loops of the backfill: decays, peaks, unions of sketches.

They follow the rules of `features.offline.kernels.windows`. All iterate over moments in order of
(group, t), from `low` to `high`; `order` gives the input index of each moment, where its result is
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
BLOCK = 64  # events; a scan of so many costs about as much as a union of registers


@compiled
def decayed_sums(
    low: int,
    high: int,
    order: Intps,
    group: Int32s,
    t: Int64s,
    p: Int64s,
    starts: Int64s,
    times: Int64s,
    event_p: Int64s,
    running_p: Int64s,
    prefix: Int64s,
    hop: int,
    weights: Floats,
    limit: int,
    totals: Floats,
    is_deferred: Bools,
) -> None:
    """Write the sum of tiles times their weights by age, oldest first.

    Moments with more than `limit` events in flight are deferred. A tile without events adds 0.0,
    which changes no bit, so short windows are scanned event by event.
    """
    tiles = len(weights) - 1
    per_hop = 1.0 / hop
    slots = max(tiles, 1)
    scan_limit = min(limit, _DECAY_SCAN_MAX)
    ring = np.zeros(slots)
    newest = filled = np.int64(0)
    ring_group = np.int64(-1)
    position = stop = np.int64(0)
    last_group = np.int64(-1)
    for moment in range(low, high):
        own_group, time, bound, row = group[moment], t[moment], p[moment], order[moment]
        start, end = starts[own_group], starts[own_group + 1]
        total = 0.0
        if start < end:
            if own_group != last_group:
                last_group, position, stop = own_group, start, start
            tile = tile_of(time, hop, per_hop)
            stop = advance(times, stop, end, time)
            position = advance(times, position, end, (tile - tiles) * hop)
            slow = stop > position and running_p[stop - 1] > bound
            if stop - position <= (limit if slow else scan_limit):
                units, age, tile_end = np.int64(0), np.int64(-1), np.int64(0)
                for event in range(position, stop):
                    if slow and event_p[event] > bound:
                        continue
                    if age < 0 or times[event] >= tile_end:
                        if age >= 0:
                            total += float(units) * weights[age]
                        of_event = tile_of(times[event], hop, per_hop)
                        units, age, tile_end = np.int64(0), tile - of_event, (of_event + 1) * hop
                    units += prefix[event + 1] - prefix[event]
                if age >= 0:
                    total += float(units) * weights[age]
            elif slow:
                is_deferred[row] = True
            else:
                # A moment reuses the tiles of the previous one and adds those since.
                if own_group != ring_group or tile - newest > tiles:
                    ring_group, newest, filled = own_group, tile - tiles - 1, position
                while newest < tile - 1:
                    newest += 1
                    edge = advance(times, filled, end, (newest + 1) * hop)
                    ring[newest % slots] = float(prefix[edge] - prefix[filled])
                    filled = edge
                for younger in range(tiles):
                    total += ring[(tile - tiles + younger) % slots] * weights[tiles - younger]
                total += float(prefix[stop] - prefix[filled]) * weights[0]
        totals[row] = total


@compiled
def find_largest(flat: Int64s, levels: Int64s, low: int, high: int) -> np.int64:
    """Return the largest value of the positions [low, high) in a tree of maxima, 0 for none."""
    largest = np.int64(0)
    level = 0
    while low < high:
        base = levels[level]
        if low & 1:
            largest = max(largest, flat[base + low])
            low += 1
        if high & 1:
            high -= 1
            largest = max(largest, flat[base + high])
        low >>= 1
        high >>= 1
        level += 1
    return largest


@compiled
def write_peaks(
    low: int,
    high: int,
    order: Intps,
    begin: Intps,
    edge: Intps,
    first_in_flight: Intps,
    p: Int64s,
    event_p: Int64s,
    flat: Int64s,
    levels: Int64s,
    out: Int64s,
) -> None:
    """Write the largest value of the known events of [begin, edge); `first_in_flight` is the first one in
    flight.
    """
    for moment in range(low, high):
        start, stop, bound = begin[moment], edge[moment], p[moment]
        settled_stop = max(first_in_flight[moment], start)
        largest = find_largest(flat, levels, start, min(settled_stop, stop))
        # Scan only if any of the others, known or not, is larger.
        if settled_stop < stop and find_largest(flat, levels, settled_stop, stop) > largest:
            for event in range(settled_stop, stop):
                if event_p[event] <= bound:
                    largest = max(largest, flat[event])
        out[order[moment]] = largest


@compiled
def write_unions(
    low: int,
    high: int,
    order: Intps,
    begin: Intps,
    edge: Intps,
    first_in_flight: Intps,
    p: Int64s,
    event_p: Int64s,
    register: Registers,
    rank: Registers,
    flat: Registers,
    levels: Int64s,
    rank_max: int,
    empty: Int64s,
    weight: Int64s,
) -> None:
    """Write the `sketch.summary` of the union of the known events of [begin, edge).

    `flat` (blocks, registers) is a tree of unions.
    """
    registers = flat.shape[1]
    union = np.zeros(registers, np.uint8)
    empty_weight = np.int64(registers) << rank_max
    for moment in range(low, high):
        start, stop, bound, row = begin[moment], edge[moment], p[moment], order[moment]
        settled_stop = min(max(first_in_flight[moment], start), stop)
        if stop - start <= _SCAN_MAX:
            empty_registers, sum_ = np.int64(registers), empty_weight
            for event in range(start, stop):
                if rank[event] > union[register[event]] and (
                    event < settled_stop or event_p[event] <= bound
                ):
                    before = union[register[event]]
                    empty_registers -= before == 0
                    sum_ += (np.int64(1) << np.int64(rank_max - rank[event])) - (
                        np.int64(1) << np.int64(rank_max - before)
                    )
                    union[register[event]] = rank[event]
            for event in range(start, stop):
                union[register[event]] = 0
            empty[row], weight[row] = empty_registers, sum_
            continue
        left, right = (start + BLOCK - 1) // BLOCK, settled_stop // BLOCK
        middle = settled_stop if left >= right else left * BLOCK
        for event in range(start, middle):
            union[register[event]] = max(union[register[event]], rank[event])
        if left < right:
            for event in range(right * BLOCK, settled_stop):
                union[register[event]] = max(union[register[event]], rank[event])
        level = 0
        while left < right:
            base = levels[level]
            if left & 1:
                for index in range(registers):
                    union[index] = max(union[index], flat[base + left, index])
                left += 1
            if right & 1:
                right -= 1
                for index in range(registers):
                    union[index] = max(union[index], flat[base + right, index])
            left >>= 1
            right >>= 1
            level += 1
        for event in range(settled_stop, stop):
            if event_p[event] <= bound:
                union[register[event]] = max(union[register[event]], rank[event])
        empty_registers, sum_ = np.int64(0), np.int64(0)
        for index in range(registers):
            empty_registers += union[index] == 0
            sum_ += np.int64(1) << np.int64(rank_max - union[index])
            union[index] = 0
        empty[row], weight[row] = empty_registers, sum_


@compiled
def union_of_blocks(
    low: int, high: int, register: Registers, rank: Registers, flat: Registers
) -> None:
    """Write the registers of each complete block of events."""
    for block in range(low, high):
        for event in range(block * BLOCK, (block + 1) * BLOCK):
            flat[block, register[event]] = max(flat[block, register[event]], rank[event])

"""Compiled loops of the folds: a hash table, co-occurrence rows and a ring of sessions.

Only the candidates role and training import this module; servers need no Numba. Everything runs
event by event, in log order, so that the result does not depend on how a log is cut into batches.
Floats are added in that order and never fused.
"""

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]
Keys = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]
UInt8s = npt.NDArray[np.uint8]

compiled: Callable[[Callable[..., Any]], Callable[..., Any]] = numba.njit(
    nogil=True, cache=True, error_model="numpy"
)

STEPS = 64  # of a half-life: weights are constant between
# 2 ** (i / 64), rounded to 40 bits: the same on every processor.
POWERS: Floats = np.array([round(2.0 ** (i / STEPS) * 2**40) / 2**40 for i in range(STEPS)])
SHIFT = 512  # halvings after which all weights are scaled by 2**-SHIFT, which is exact


@compiled
def assign(keys: Keys, table: Int64s, row_keys: Keys, count: int, rows: Int64s) -> int:
    """Assign each key its row, new ones the next free row; return the number of rows.

    Args:
        keys: (n,): 0 has no row, which is −1.
        table: open addressing, a power of two, at least twice the rows; −1 is empty.
        row_keys: keys by row, with room for all new ones.
        rows: (n,), written.
    """
    mask = np.uint64(len(table) - 1)
    for i in range(len(keys)):
        key = keys[i]
        if key == 0:
            rows[i] = -1
            continue
        at = key & mask
        while True:
            row = table[at]
            if row < 0:
                table[at] = count
                row_keys[count] = key
                rows[i] = count
                count += 1
                break
            if row_keys[row] == key:
                rows[i] = row
                break
            at = (at + np.uint64(1)) & mask
    return count


@compiled
def find(keys: Keys, table: Int64s, row_keys: Keys, rows: Int64s) -> None:
    """Find the row of each key, −1 for unknown keys."""
    mask = np.uint64(len(table) - 1)
    for i in range(len(keys)):
        key, rows[i] = keys[i], -1
        at = key & mask
        while key != 0:
            row = table[at]
            if row < 0:
                break
            if row_keys[row] == key:
                rows[i] = row
                break
            at = (at + np.uint64(1)) & mask


@compiled
def fill_table(table: Int64s, row_keys: Keys, count: int) -> None:
    """Insert all rows into an empty table."""
    mask = np.uint64(len(table) - 1)
    for row in range(count):
        at = row_keys[row] & mask
        while table[at] >= 0:
            at = (at + np.uint64(1)) & mask
        table[at] = row


@compiled
def _add(
    row: int,
    other: int,
    weight: float,
    cap: int,
    start: Int64s,
    room: Int32s,
    size: Int32s,
    total: Floats,
    items: Int32s,
    weights: Floats,
    free: Int64s,
) -> int:
    """Add to the weight of a neighbour; return 1 if another one was evicted.

    `free[0]` is the start of the unused part of the pool.
    """
    total[row] += weight
    begin, count = start[row], size[row]
    for at in range(begin, begin + count):
        if items[at] == other:
            weights[at] += weight
            return 0
    if count == room[row] and count < cap:
        capacity = min(max(4 * count, 8), cap)
        new_start = free[0]
        items[new_start : new_start + count] = items[begin : begin + count]
        weights[new_start : new_start + count] = weights[begin : begin + count]
        start[row], room[row] = new_start, capacity
        free[0] += capacity
        begin = new_start
    if count < room[row]:
        items[begin + count], weights[begin + count] = other, weight
        size[row] += 1
        return 0
    least = begin
    for at in range(begin + 1, begin + count):
        # Of equal ones the first in the row: an order that only the log decides.
        if weights[at] < weights[least]:
            least = at
    items[least] = other
    weights[least] += weight
    return 1


@compiled
def cooccur(
    person: Int64s,
    item: Int64s,
    ts: Int64s,
    newest: Int64s,
    begin: int,
    recent: Int32s,
    recent_count: UInt8s,
    recent_ts: Int64s,
    start: Int64s,
    room: Int32s,
    size: Int32s,
    total: Floats,
    items: Int32s,
    weights: Floats,
    free: Int64s,
    dirty: UInt8s,
    landmark: Int64s,
    gap: int,
    half_life: int,
    backward: float,
    cap: int,
    powers: Floats,
    evicted: Int64s,
) -> int:
    """Count co-occurrences of events from `begin` on.

    Returns the index of the next event, which lies before the end if the pool has no room for its
    pairs.

    Args:
        newest: (n,): the largest ts of the log before or at each event.
        recent: (people, distance): the last items of each person, oldest first, of which
            `recent_count` are there.
        landmark: of forward decay: [time, whether it is set].
    """
    distance = recent.shape[1]
    for i in range(begin, len(item)):
        user, current, t = person[i], item[i], ts[i]
        if user < 0:
            continue
        if free[0] + 2 * distance * cap > len(items):
            return i
        count = recent_count[user]
        if count and (t - recent_ts[user] > gap or newest[i] - recent_ts[user] > gap):
            count = 0
        if count and recent[user, count - 1] == current:
            recent_ts[user], recent_count[user] = t, count
            continue
        unit = 1.0
        if half_life:
            if not landmark[1]:
                landmark[0], landmark[1] = t, 1
            steps = (t - landmark[0]) * 64 // half_life
            while steps > SHIFT * STEPS:
                weights[: free[0]] *= 2.0**-SHIFT
                total[:] *= 2.0**-SHIFT
                landmark[0] += SHIFT * half_life
                steps = (t - landmark[0]) * 64 // half_life
            if steps < -1000 * 64:
                steps = -1000 * 64
            unit = powers[steps & 63] * math.ldexp(1.0, steps >> 6)
        for steps_back in range(1, count + 1):
            other = recent[user, count - steps_back]
            if other == current:
                continue
            evicted[0] += _add(
                other,
                current,
                unit / steps_back,
                cap,
                start,
                room,
                size,
                total,
                items,
                weights,
                free,
            )
            dirty[other] = 1
            if backward > 0.0:
                evicted[0] += _add(
                    current,
                    other,
                    backward * unit / steps_back,
                    cap,
                    start,
                    room,
                    size,
                    total,
                    items,
                    weights,
                    free,
                )
                dirty[current] = 1
        if count == distance:
            for position in range(1, distance):
                recent[user, position - 1] = recent[user, position]
            count -= 1
        recent[user, count] = current
        recent_count[user] = count + 1
        recent_ts[user] = t
    return len(item)


@compiled
def sessions(
    person: Int64s,
    item: Int64s,
    ts: Int64s,
    newest: Int64s,
    current: Int64s,
    owner: Int64s,
    last_ts: Int64s,
    size: Int32s,
    entries: Int32s,
    head: Int64s,
    gap: int,
) -> None:
    """Add events to the sessions of their users; a new session replaces the oldest one.

    Args:
        current: (users,): the slot of each user's session, −1 without one; another session may
            have taken it since.
        owner, last_ts, size: (ring,): each session's user, newest event and number of entries;
            owner −1 is free.
        entries: (ring, length): items of each session, oldest first.
        head: [how many sessions were begun].
    """
    length = entries.shape[1]
    for i in range(len(item)):
        user, t = person[i], ts[i]
        if user < 0:
            continue
        at = current[user]
        if at < 0 or owner[at] != user or t - last_ts[at] > gap or newest[i] - last_ts[at] > gap:
            at = head[0] % len(owner)
            head[0] += 1
            owner[at], size[at], last_ts[at] = user, 0, t
            current[user] = at
        count = size[at]
        if count == length:
            for position in range(1, length):
                entries[at, position - 1] = entries[at, position]
            count -= 1
        entries[at, count] = item[i]
        size[at] = count + 1
        last_ts[at] = max(last_ts[at], t)


@compiled
def distinct_entries(
    order: Int64s,
    size: Int32s,
    entries: Int32s,
    last_ts: Int64s,
    starts: Int64s,
    ends: Int64s,
    item_numbers: Int32s,
    positions: Int32s,
    used: Int32s,
) -> tuple[int, int]:
    """Write the sessions with at least two items, each item at its last position.

    Returns the number of sessions and of distinct items.

    Args:
        order: the sessions, in the order in which to number them.
        starts, ends: (sessions + 1,), written: the start of each session's entries, and the time
            of its last event.
        item_numbers, positions: (entries,), written: items numbered by first appearance, and
            their positions.
        used: (items,), zeros; written: 1 + the number of each item that occurs.
    """
    count, written, item_count = 0, 0, 0
    last = np.full(len(used), -1, np.int64)
    for at in range(len(order)):
        session = order[at]
        length = size[session]
        distinct = 0
        for entry in range(length):
            item = entries[session, entry]
            if last[item] < at * 256:
                distinct += 1
            last[item] = at * 256 + entry
        if distinct < 2:
            continue
        starts[count], ends[count] = written, last_ts[session]
        for entry in range(length):
            item = entries[session, entry]
            if last[item] == at * 256 + entry:
                if not used[item]:
                    item_count += 1
                    used[item] = item_count
                item_numbers[written], positions[written] = used[item] - 1, entry + 1
                written += 1
        count += 1
    starts[count] = written
    return count, item_count

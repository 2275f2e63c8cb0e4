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

STEPS_PER_HALF_LIFE = 64  # weights are constant between two steps
# 2 ** (i / STEPS_PER_HALF_LIFE), rounded to 40 bits: the same on every processor.
FRACTIONAL_POWERS: Floats = np.array(
    [round(2.0 ** (i / STEPS_PER_HALF_LIFE) * 2**40) / 2**40 for i in range(STEPS_PER_HALF_LIFE)]
)
POSITIONS_MAX = (
    256  # above the items of a session, so that number · POSITIONS_MAX + position is unique
)
RESCALE_HALVINGS = 512  # half-lives after which all weights are divided by 2**512, which is exact


@compiled
def assign_rows(keys: Keys, table: Int64s, row_keys: Keys, count: int, rows: Int64s) -> int:
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
        slot = key & mask
        while True:
            row = table[slot]
            if row < 0:
                table[slot] = count
                row_keys[count] = key
                rows[i] = count
                count += 1
                break
            if row_keys[row] == key:
                rows[i] = row
                break
            slot = (slot + np.uint64(1)) & mask
    return count


@compiled
def find_rows(keys: Keys, table: Int64s, row_keys: Keys, rows: Int64s) -> None:
    """Find the row of each key, −1 for unknown keys."""
    mask = np.uint64(len(table) - 1)
    for i in range(len(keys)):
        key = keys[i]
        rows[i] = -1
        slot = key & mask
        while key != 0:
            row = table[slot]
            if row < 0:
                break
            if row_keys[row] == key:
                rows[i] = row
                break
            slot = (slot + np.uint64(1)) & mask


@compiled
def fill_table(table: Int64s, row_keys: Keys, count: int) -> None:
    """Insert all rows into an empty table."""
    mask = np.uint64(len(table) - 1)
    for row in range(count):
        slot = row_keys[row] & mask
        while table[slot] >= 0:
            slot = (slot + np.uint64(1)) & mask
        table[slot] = row


@compiled
def _add_weight(
    row: int,
    neighbour: int,
    weight: float,
    neighbours_max: int,
    row_starts: Int64s,
    row_capacities: Int32s,
    row_sizes: Int32s,
    row_weight_sums: Floats,
    neighbour_rows: Int32s,
    neighbour_weights: Floats,
    pool_end: Int64s,
) -> int:
    """Add to the weight of a neighbour; return 1 if another one was evicted.

    `pool_end[0]` is the start of the unused part of the pool.
    """
    row_weight_sums[row] += weight
    row_start = row_starts[row]
    count = row_sizes[row]
    for entry in range(row_start, row_start + count):
        if neighbour_rows[entry] == neighbour:
            neighbour_weights[entry] += weight
            return 0
    if count == row_capacities[row] and count < neighbours_max:
        new_capacity = min(max(4 * count, 8), neighbours_max)
        new_start = pool_end[0]
        neighbour_rows[new_start : new_start + count] = neighbour_rows[
            row_start : row_start + count
        ]
        neighbour_weights[new_start : new_start + count] = neighbour_weights[
            row_start : row_start + count
        ]
        row_starts[row] = new_start
        row_capacities[row] = new_capacity
        pool_end[0] += new_capacity
        row_start = new_start
    if count < row_capacities[row]:
        neighbour_rows[row_start + count] = neighbour
        neighbour_weights[row_start + count] = weight
        row_sizes[row] += 1
        return 0
    weakest = row_start
    for entry in range(row_start + 1, row_start + count):
        # Of equal ones the first in the row: an order that only the log decides.
        if neighbour_weights[entry] < neighbour_weights[weakest]:
            weakest = entry
    neighbour_rows[weakest] = neighbour
    neighbour_weights[weakest] += weight
    return 1


@compiled
def count_cooccurrences(
    user_rows: Int64s,
    item_rows: Int64s,
    ts: Int64s,
    newest_ts: Int64s,
    first_event: int,
    recent_items: Int32s,
    recent_counts: UInt8s,
    recent_ts: Int64s,
    row_starts: Int64s,
    row_capacities: Int32s,
    row_sizes: Int32s,
    row_weight_sums: Floats,
    neighbour_rows: Int32s,
    neighbour_weights: Floats,
    pool_end: Int64s,
    is_changed: UInt8s,
    landmark: Int64s,
    gap_us: int,
    half_life_us: int,
    backward: float,
    neighbours_max: int,
    fractional_powers: Floats,
    eviction_count: Int64s,
) -> int:
    """Count co-occurrences of events from `first_event` on.

    Returns the index of the next event, which lies before the end if the pool has no room for its
    pairs.

    Args:
        newest_ts: (n,): the largest ts of the log before or at each event.
        recent_items: (people, distance): the last items of each person, oldest first, of which
            `recent_counts` are there.
        landmark: of forward decay: [time, whether it is set].
    """
    distance = recent_items.shape[1]
    for i in range(first_event, len(item_rows)):
        user = user_rows[i]
        current_item = item_rows[i]
        t = ts[i]
        if user < 0:
            continue
        if pool_end[0] + 2 * distance * neighbours_max > len(neighbour_rows):
            return i
        count = recent_counts[user]
        if count and (t - recent_ts[user] > gap_us or newest_ts[i] - recent_ts[user] > gap_us):
            count = 0
        if count and recent_items[user, count - 1] == current_item:
            recent_ts[user] = t
            recent_counts[user] = count
            continue
        event_weight = 1.0
        if half_life_us:
            if not landmark[1]:
                landmark[0] = t
                landmark[1] = 1
            decay_steps = (t - landmark[0]) * STEPS_PER_HALF_LIFE // half_life_us
            while decay_steps > RESCALE_HALVINGS * STEPS_PER_HALF_LIFE:
                neighbour_weights[: pool_end[0]] *= 2.0**-RESCALE_HALVINGS
                row_weight_sums[:] *= 2.0**-RESCALE_HALVINGS
                landmark[0] += RESCALE_HALVINGS * half_life_us
                decay_steps = (t - landmark[0]) * STEPS_PER_HALF_LIFE // half_life_us
            if decay_steps < -1000 * STEPS_PER_HALF_LIFE:
                decay_steps = -1000 * STEPS_PER_HALF_LIFE
            event_weight = fractional_powers[decay_steps % STEPS_PER_HALF_LIFE] * math.ldexp(
                1.0, decay_steps // STEPS_PER_HALF_LIFE
            )
        for steps_back in range(1, count + 1):
            earlier_item = recent_items[user, count - steps_back]
            if earlier_item == current_item:
                continue
            eviction_count[0] += _add_weight(
                earlier_item,
                current_item,
                event_weight / steps_back,
                neighbours_max,
                row_starts,
                row_capacities,
                row_sizes,
                row_weight_sums,
                neighbour_rows,
                neighbour_weights,
                pool_end,
            )
            is_changed[earlier_item] = 1
            if backward > 0.0:
                eviction_count[0] += _add_weight(
                    current_item,
                    earlier_item,
                    backward * event_weight / steps_back,
                    neighbours_max,
                    row_starts,
                    row_capacities,
                    row_sizes,
                    row_weight_sums,
                    neighbour_rows,
                    neighbour_weights,
                    pool_end,
                )
                is_changed[current_item] = 1
        if count == distance:
            for position in range(1, distance):
                recent_items[user, position - 1] = recent_items[user, position]
            count -= 1
        recent_items[user, count] = current_item
        recent_counts[user] = count + 1
        recent_ts[user] = t
    return len(item_rows)


@compiled
def add_to_sessions(
    user_rows: Int64s,
    item_rows: Int64s,
    ts: Int64s,
    newest_ts: Int64s,
    session_of_user: Int64s,
    session_user: Int64s,
    session_last_ts: Int64s,
    session_sizes: Int32s,
    session_items: Int32s,
    sessions_started: Int64s,
    gap_us: int,
) -> None:
    """Add events to the sessions of their users; a new session replaces the oldest one.

    Args:
        session_of_user: (users,): the slot of each user's session, −1 without one; another session
            may have taken it since.
        session_user, session_last_ts, session_sizes: (ring,): each session's user, newest event and
            number of entries; the user −1 is a free slot.
        session_items: (ring, length): items of each session, oldest first.
        sessions_started: [number of sessions begun so far].
    """
    length = session_items.shape[1]
    for i in range(len(item_rows)):
        user = user_rows[i]
        t = ts[i]
        if user < 0:
            continue
        session = session_of_user[user]
        if (
            session < 0
            or session_user[session] != user
            or t - session_last_ts[session] > gap_us
            or newest_ts[i] - session_last_ts[session] > gap_us
        ):
            session = sessions_started[0] % len(session_user)
            sessions_started[0] += 1
            session_user[session] = user
            session_sizes[session] = 0
            session_last_ts[session] = t
            session_of_user[user] = session
        count = session_sizes[session]
        if count == length:
            for position in range(1, length):
                session_items[session, position - 1] = session_items[session, position]
            count -= 1
        session_items[session, count] = item_rows[i]
        session_sizes[session] = count + 1
        session_last_ts[session] = max(session_last_ts[session], t)


@compiled
def number_sessions(
    session_order: Int64s,
    session_sizes: Int32s,
    session_items: Int32s,
    last_ts: Int64s,
    offsets: Int64s,
    end_ts: Int64s,
    item_numbers: Int32s,
    positions: Int32s,
    number_by_item: Int32s,
) -> tuple[int, int]:
    """Write the sessions with at least two items, each item at its last position.

    Returns the number of sessions and of distinct items.

    Args:
        session_order: the sessions, in the order in which to number them.
        offsets, end_ts: (sessions + 1,), written: the start of each session's entries, and the time
            of its last event.
        item_numbers, positions: (entries,), written: items numbered by first appearance, and
            their positions.
        number_by_item: (items,), zeros; written: 1 + the number of each item that occurs.
    """
    session_count = 0
    entries_written = 0
    item_count = 0
    last_position = np.full(len(number_by_item), -1, np.int64)
    for number in range(len(session_order)):
        session = session_order[number]
        length = session_sizes[session]
        distinct_count = 0
        for entry in range(length):
            item = session_items[session, entry]
            if last_position[item] < number * POSITIONS_MAX:
                distinct_count += 1
            last_position[item] = number * POSITIONS_MAX + entry
        if distinct_count < 2:
            continue
        offsets[session_count] = entries_written
        end_ts[session_count] = last_ts[session]
        for entry in range(length):
            item = session_items[session, entry]
            if last_position[item] == number * POSITIONS_MAX + entry:
                if not number_by_item[item]:
                    item_count += 1
                    number_by_item[item] = item_count
                item_numbers[entries_written] = number_by_item[item] - 1
                positions[entries_written] = entry + 1
                entries_written += 1
        session_count += 1
    offsets[session_count] = entries_written
    return session_count, item_count

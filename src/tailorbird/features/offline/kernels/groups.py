"""Loops of the backfill that group entries: keys to numbers, and entries sorted by (group, time).

They follow the rules of `features.offline.kernels.windows`. Many entries of many groups are first
distributed to buckets of neighbouring groups, and then sorted bucket by bucket. Writing them one by
one would touch another cache line for each, which costs more than everything else. A share is
what one thread processes.

    entries ──by share, in order──► buckets of groups ──in the cache──► group 0: ts ts … | group 1:
    ts ts …
"""

import numpy as np
import numpy.typing as npt

from tailorbird.features.offline.kernels.windows import (
    THREADS,
    Int32s,
    Int64s,
    Intps,
    Keys,
    compiled,
    run_parallel,
    share_bounds,
)

_ENTRIES_MIN = 1 << 16  # entries from which buckets pay
_GROUPS_MIN = 1 << 12  # groups from which they pay
_BUCKET_BITS = 9

Slots = npt.NDArray[
    np.uint64
]  # (slots, 2): a key and its number + 1, in one cache line; 0 is empty


class KeyNumbering:
    """Distinct keys, numbered from 0 in order of first occurrence.

    Attributes:
        count: number of distinct keys.
        first: shape (count,), the first index of each.
        numbers: shape (n,), the number of each of the input keys.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self.numbers: Int32s = np.empty(len(keys), np.int32)
        slot_bits = 12
        count = 0
        row = 0
        first_rows = np.empty(1 << 11, np.int64)
        slots = np.zeros((1 << slot_bits, 2), np.uint64)
        while row < len(keys):
            row, count = _number_keys(keys, slots, first_rows, self.numbers, row, count)
            if row < len(keys):
                slot_bits += 2 if slot_bits < 16 else 1
                first_rows = np.concatenate(
                    (first_rows, np.empty((1 << (slot_bits - 1)) - len(first_rows), np.int64))
                )
                slots = np.zeros((1 << slot_bits, 2), np.uint64)
                _fill_slots(keys, slots, first_rows, count)
        self._slots = slots
        self.count = int(count)
        self.first = first_rows[:count].copy()

    def lookup(self, keys: Keys) -> Int32s:
        """Return the number of each key, or `count` for an unknown one."""
        if keys is self._keys:
            return self.numbers
        numbers = np.empty(len(keys), np.int32)
        run_parallel(_find_keys, len(keys), keys, self._slots, self.count, numbers)
        return numbers


@compiled
def _find_slot(key: np.uint64, slots: Slots) -> np.int64:
    """Return the slot of a key, or the empty slot where it belongs."""
    mask = len(slots) - 1
    slot = np.int64(key ^ (key >> np.uint64(32))) & mask
    while slots[slot, 1] != 0 and slots[slot, 0] != key:
        slot = (slot + 1) & mask
    return slot


@compiled
def _number_keys(
    keys: Keys, slots: Slots, first_rows: Int64s, numbers: Int32s, row: int, count: int
) -> tuple[int, int]:
    """Number the keys from `row` on, until the slots run out.

    Returns the next row and the number of distinct keys.
    """
    while row < len(keys):
        slot = _find_slot(keys[row], slots)
        if slots[slot, 1] == 0:
            if count == len(first_rows):
                break
            first_rows[count] = row
            count += 1
            slots[slot, 0] = keys[row]
            slots[slot, 1] = np.uint64(count)
        numbers[row] = np.int32(slots[slot, 1]) - 1
        row += 1
    return row, count


@compiled
def _fill_slots(keys: Keys, slots: Slots, first_rows: Int64s, count: int) -> None:
    for number in range(count):
        key = keys[first_rows[number]]
        slot = _find_slot(key, slots)
        slots[slot, 0] = key
        slots[slot, 1] = np.uint64(number + 1)


@compiled
def _find_keys(
    low: int, high: int, keys: Keys, slots: Slots, missing: int, numbers: Int32s
) -> None:
    for row in range(low, high):
        number = np.int64(slots[_find_slot(keys[row], slots), 1])
        numbers[row] = number - 1 if number > 0 else missing


def group_entries(
    group: Int32s, group_count: int, times: Int64s, log_position: Int64s
) -> tuple[Int64s, Intps, Int64s, Int64s]:
    """Sort entries by (group, time), stably, and drop those of the group `group_count`.

    Returns: starts (groups + 1,), and for each position (m,) the index of its entry, its time and
    its p.
    """
    if len(group) >= _ENTRIES_MIN and group_count >= _GROUPS_MIN:
        return _group_by_buckets(group, group_count, times, log_position)
    counts = np.zeros(group_count + 1, np.int64)
    _count_groups(group, counts)
    starts = np.concatenate(([0], np.cumsum(counts[:-1])))
    entry_count = int(starts[-1])
    order = np.empty(entry_count, np.intp)
    sorted_times = np.empty(entry_count, np.int64)
    sorted_log_position = np.empty(entry_count, np.int64)
    bounds_of_shares = share_bounds(starts)
    run_parallel(
        _scatter_entries,
        group_count,
        group,
        starts[:-1].copy(),
        times,
        log_position,
        order,
        sorted_times,
        sorted_log_position,
        bounds=bounds_of_shares,
    )
    run_parallel(
        _sort_groups,
        group_count,
        starts,
        order,
        sorted_times,
        sorted_log_position,
        bounds=bounds_of_shares,
    )
    return starts, order, sorted_times, sorted_log_position


def _group_by_buckets(
    group: Int32s, group_count: int, times: Int64s, log_position: Int64s
) -> tuple[Int64s, Intps, Int64s, Int64s]:
    shift = max(0, group_count.bit_length() - _BUCKET_BITS)
    bucket_count = ((group_count - 1) >> shift) + 1
    bounds_of_shares = [len(group) * share // THREADS for share in range(THREADS + 1)]
    counts = np.zeros((THREADS, bucket_count), np.int64)
    run_parallel(
        _count_buckets,
        len(group),
        group,
        group_count,
        shift,
        np.array(bounds_of_shares),
        counts,
        bounds=bounds_of_shares,
    )
    ends = np.cumsum(counts.T.ravel())  # ordered by bucket, then share
    entry_count = int(ends[-1])
    next_slots = np.ascontiguousarray((ends - counts.T.ravel()).reshape(bucket_count, THREADS).T)
    bounds = np.append(next_slots[0], entry_count)
    bucket_entries = np.empty((entry_count, 3), np.int64)
    run_parallel(
        _fill_buckets,
        len(group),
        group,
        group_count,
        shift,
        np.array(bounds_of_shares),
        times,
        log_position,
        next_slots,
        bucket_entries,
        bounds=bounds_of_shares,
    )
    starts = np.empty(group_count + 1, np.int64)
    order = np.empty(entry_count, np.intp)
    sorted_times = np.empty(entry_count, np.int64)
    sorted_log_position = np.empty(entry_count, np.int64)
    run_parallel(
        _sort_buckets,
        bucket_count,
        bucket_entries,
        bounds,
        group_count,
        shift,
        starts,
        order,
        sorted_times,
        sorted_log_position,
        bounds=share_bounds(bounds),
    )
    return starts, order, sorted_times, sorted_log_position


@compiled
def _count_buckets(
    low: int,
    high: int,
    group: Int32s,
    group_count: int,
    shift: int,
    bounds_of_shares: Int64s,
    counts: Int64s,
) -> None:
    own_counts = counts[np.searchsorted(bounds_of_shares, low, side="right") - 1]
    for row in range(low, high):
        if group[row] < group_count:
            own_counts[group[row] >> shift] += 1


@compiled
def _fill_buckets(
    low: int,
    high: int,
    group: Int32s,
    group_count: int,
    shift: int,
    bounds_of_shares: Int64s,
    times: Int64s,
    log_position: Int64s,
    next_slots: Int64s,
    bucket_entries: Int64s,
) -> None:
    """Copy entries, as (group and row, time, p), into the slots of this share in their buckets, in
    order.
    """
    own_next_slots = next_slots[np.searchsorted(bounds_of_shares, low, side="right") - 1]
    for row in range(low, high):
        own_group = np.int64(group[row])
        if own_group < group_count:
            slot = own_next_slots[own_group >> shift]
            own_next_slots[own_group >> shift] = slot + 1
            bucket_entries[slot, 0] = own_group << 32 | row
            bucket_entries[slot, 1] = times[row]
            bucket_entries[slot, 2] = log_position[row]


@compiled
def _sort_buckets(
    low: int,
    high: int,
    bucket_entries: Int64s,
    bounds: Int64s,
    group_count: int,
    shift: int,
    starts: Int64s,
    order: Intps,
    sorted_times: Int64s,
    sorted_log_position: Int64s,
) -> None:
    """Sort the entries of some buckets by (group, time)."""
    next_slots = np.empty(1 << shift, np.int64)
    for bucket in range(low, high):
        first_group = bucket << shift
        start = bounds[bucket]
        stop = bounds[bucket + 1]
        stop_group = min(first_group + (1 << shift), group_count)
        next_slots[:] = 0
        for entry in range(start, stop):
            next_slots[(bucket_entries[entry, 0] >> 32) - first_group] += 1
        position = start
        for group in range(first_group, stop_group):
            starts[group] = position
            position += next_slots[group - first_group]
            next_slots[group - first_group] = starts[group]
        starts[stop_group] = stop
        for entry in range(start, stop):
            group = (bucket_entries[entry, 0] >> 32) - first_group
            target_slot = next_slots[group]
            next_slots[group] = target_slot + 1
            order[target_slot] = bucket_entries[entry, 0] & 0xFFFFFFFF
            sorted_times[target_slot] = bucket_entries[entry, 1]
            sorted_log_position[target_slot] = bucket_entries[entry, 2]
        _sort_groups(first_group, stop_group, starts, order, sorted_times, sorted_log_position)


@compiled
def _count_groups(group: Int32s, counts: Int64s) -> None:
    for row in range(len(group)):
        counts[group[row]] += 1


@compiled
def _scatter_entries(
    low: int,
    high: int,
    group: Int32s,
    next_slots: Int64s,
    times: Int64s,
    log_position: Int64s,
    order: Intps,
    sorted_times: Int64s,
    sorted_log_position: Int64s,
) -> None:
    for row in range(len(group)):
        own_group = group[row]
        if low <= own_group < high:
            slot = next_slots[own_group]
            next_slots[own_group] = slot + 1
            order[slot] = row
            sorted_times[slot] = times[row]
            sorted_log_position[slot] = log_position[row]


@compiled
def _sort_groups(
    low: int, high: int, starts: Int64s, order: Intps, times: Int64s, log_position: Int64s
) -> None:
    """Sort each group stably; entries in order of time, as a lake's nearly are, cost one pass."""
    for group in range(low, high):
        start = starts[group]
        stop = starts[group + 1]
        is_unsorted = False
        for index in range(start + 1, stop):
            if times[index] < times[index - 1]:
                is_unsorted = True
                break
        if not is_unsorted:
            continue
        if stop - start <= 32:
            for index in range(start + 1, stop):
                time = times[index]
                row = order[index]
                own_log_position = log_position[index]
                target_slot = index
                while target_slot > start and times[target_slot - 1] > time:
                    times[target_slot] = times[target_slot - 1]
                    order[target_slot] = order[target_slot - 1]
                    log_position[target_slot] = log_position[target_slot - 1]
                    target_slot -= 1
                times[target_slot] = time
                order[target_slot] = row
                log_position[target_slot] = own_log_position
        else:
            time_order = np.argsort(times[start:stop], kind="mergesort")
            times[start:stop] = times[start:stop][time_order]
            order[start:stop] = order[start:stop][time_order]
            log_position[start:stop] = log_position[start:stop][time_order]

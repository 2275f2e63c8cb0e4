"""Co-occurrence rows, updated event by event.

    w[i, j] += 2 ** ((ts − landmark) / half-life) / k    if j is a user's k-th item after i
    w[j, i] += the same × backward                       for k <= distance

    value[i, j] = w[i, j] / (Σ of all additions to row i + damping)    as of the row's newest event

Weights grow with time instead of fading (forward decay: Cormode et al., ICDE 2009), so that no
entry is rewritten. A row keeps at most `neighbours` entries; beyond that the weakest is evicted,
and its successor inherits its weight (Space-Saving: Metwally et al., ICDT 2005). The damping of 10
events keeps rows with few events small. A published row is a function of the log alone, not of the
current time.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from tailorbird.candidates.contract import ItemKnn
from tailorbird.candidates.kernels import (
    FRACTIONAL_POWERS,
    STEPS_PER_HALF_LIFE,
    count_cooccurrences,
)
from tailorbird.candidates.keytable import KeyTable, grow_array
from tailorbird.candidates.protocol import Neighbours
from tailorbird.candidates.ragged import expand_ranges

Keys = npt.NDArray[np.uint64]
Int64s = npt.NDArray[np.int64]

DAMPING = 10.0
ENTRY_MIN = 1e-6  # of a value: less is not published
_POOL_ENTRIES_MIN = 1 << 16
# Arrays of a snapshot, and their attributes.
_ROW_ARRAYS = {
    "start": "_start",
    "room": "_capacity",
    "size": "_size",
    "total": "_weight_sum",
    "at": "_newest_ts",
}
_PERSON_ARRAYS = {"recent": "_recent", "recent_count": "_recent_count", "recent_ts": "_recent_ts"}
_OTHER_ARRAYS = {"landmark": "_landmark", "evicted": "_evicted", "dirty": "_dirty"}


class ItemKnnFold:
    """Rows of neighbours by item; `items` and the user rows are shared with the other folds.

    Attributes:
        eviction_count: how many neighbours gave way to others.
    """

    def __init__(self, settings: ItemKnn, item_table: KeyTable) -> None:
        self._settings = settings
        self._item_table = item_table
        # By user row: the newest items, their number, and the time of the newest.
        self._recent = np.zeros((0, settings.distance), np.int32)
        self._recent_count = np.zeros(0, np.uint8)
        self._recent_ts = np.zeros(0, np.int64)
        # By item row: where its entries are in the pool, its sum of weights, its newest event, and
        # whether it changed since it was published.
        self._start = np.zeros(0, np.int64)
        self._capacity = np.zeros(0, np.int32)
        self._size = np.zeros(0, np.int32)
        self._weight_sum = np.zeros(0)
        self._newest_ts = np.zeros(0, np.int64)
        self._dirty = np.zeros(0, np.uint8)
        # The pool: the entries of all rows, in two arrays.
        self._neighbour = np.zeros(_POOL_ENTRIES_MIN, np.int32)
        self._weight = np.zeros(_POOL_ENTRIES_MIN)
        self._pool_end = np.zeros(1, np.int64)
        self._landmark = np.zeros(2, np.int64)
        self._evicted = np.zeros(1, np.int64)

    @property
    def eviction_count(self) -> int:
        return int(self._evicted[0])

    def update(
        self, user_rows: Int64s, item_rows: Int64s, ts: Int64s, newest_ts: Int64s, person_count: int
    ) -> None:
        """Apply interests in log order.

        The arrays hold user rows (−1: none), item rows, times, and the largest time of the log so
        far.
        """
        self._reserve(person_count, self._item_table.count)
        next_event = 0
        while True:
            next_event = count_cooccurrences(
                user_rows,
                item_rows,
                ts,
                newest_ts,
                next_event,
                self._recent,
                self._recent_count,
                self._recent_ts,
                self._start,
                self._capacity,
                self._size,
                self._weight_sum,
                self._neighbour,
                self._weight,
                self._pool_end,
                self._dirty,
                self._landmark,
                self._settings.gap_us,
                self._settings.half_life_us,
                self._settings.backward,
                self._settings.neighbours,
                FRACTIONAL_POWERS,
                self._evicted,
            )
            if next_event == len(item_rows):
                break
            self._compact()
        has_user = user_rows >= 0
        np.maximum.at(self._newest_ts, item_rows[has_user], ts[has_user])

    def _reserve(self, person_count: int, item_count: int) -> None:
        self._recent = grow_array(self._recent, person_count)
        self._recent_count = grow_array(self._recent_count, person_count)
        self._recent_ts = grow_array(self._recent_ts, person_count)
        self._start = grow_array(self._start, item_count)
        self._capacity = grow_array(self._capacity, item_count)
        self._size = grow_array(self._size, item_count)
        self._weight_sum = grow_array(self._weight_sum, item_count)
        self._newest_ts = grow_array(self._newest_ts, item_count)
        self._dirty = grow_array(self._dirty, item_count)

    def _compact(self) -> None:
        """Compact the pool, and grow it where that is not enough."""
        entries, _ = expand_ranges(self._start, self._size.astype(np.int64))
        needed_entries = len(entries) + 2 * self._settings.distance * self._settings.neighbours
        capacity = max(len(self._neighbour), 1 << (2 * needed_entries).bit_length())
        neighbour_pool = np.zeros(capacity, np.int32)
        weight_pool = np.zeros(capacity)
        neighbour_pool[: len(entries)] = self._neighbour[entries]
        weight_pool[: len(entries)] = self._weight[entries]
        self._start[:] = np.cumsum(self._size) - self._size
        self._capacity[:] = self._size
        self._neighbour = neighbour_pool
        self._weight = weight_pool
        self._pool_end[0] = len(entries)

    def take_changed_rows(self) -> Int64s:
        """Return the rows of items that changed since the last call, and mark them unchanged."""
        rows = np.flatnonzero(self._dirty)
        self._dirty[rows] = 0
        return rows

    def take_all_rows(self) -> Int64s:
        """Return the rows of all items that have neighbours, and mark all rows unchanged."""
        self._dirty[:] = 0
        return np.flatnonzero(self._size)

    def build_neighbours(self, rows: Int64s) -> Neighbours:
        """Return the neighbours of item rows, strongest first, ties by key; −1 has none."""
        rows = np.where(rows < len(self._size), rows, -1)
        safe_rows = np.maximum(rows, 0)
        entry_counts = (
            np.where(rows >= 0, self._size[safe_rows], 0).astype(np.int64)
            if len(self._size)
            else np.zeros(len(rows), np.int64)
        )
        entries, row_index = expand_ranges(
            self._start[safe_rows] if len(self._size) else np.zeros(len(rows), np.int64),
            entry_counts,
        )
        scale = self._scale_factors(safe_rows)
        weight_sums = (
            self._weight_sum[safe_rows] * scale if len(self._weight_sum) else np.zeros(len(rows))
        )
        values = (
            self._weight[entries] * scale[row_index] / (weight_sums[row_index] + DAMPING)
        ).astype(np.float32)
        keys = self._item_table.keys[self._neighbour[entries]]
        order = np.lexsort((keys, -values, row_index))
        order = order[values[order] >= ENTRY_MIN]
        offsets = np.concatenate(
            ([0], np.cumsum(np.bincount(row_index[order], minlength=len(rows))))
        ).astype(np.int64)
        return Neighbours(offsets, keys[order], values[order])

    def _scale_factors(self, rows: Int64s) -> npt.NDArray[np.float64]:
        """Return the factors that scale weights from the landmark to each row's newest event."""
        half_life = self._settings.half_life_us
        if not half_life or not len(self._newest_ts):
            return np.ones(len(rows))
        steps = np.clip(
            (self._newest_ts[rows] - self._landmark[0]) * STEPS_PER_HALF_LIFE // half_life,
            -1000 * STEPS_PER_HALF_LIFE,
            1000 * STEPS_PER_HALF_LIFE,
        )
        return np.ldexp(
            1.0 / FRACTIONAL_POWERS[steps % STEPS_PER_HALF_LIFE],
            -(steps // STEPS_PER_HALF_LIFE).astype(np.int32),
        )

    def renumber_people(self, row_map: Int64s, person_count: int) -> None:
        """Renumber users: the new row of each old one, −1 to drop it."""
        retained_rows = np.flatnonzero(row_map >= 0)
        retained_rows = retained_rows[retained_rows < len(self._recent_ts)]
        for attribute in _PERSON_ARRAYS.values():
            array = getattr(self, attribute)
            renumbered_array = np.zeros((person_count, *array.shape[1:]), array.dtype)
            renumbered_array[row_map[retained_rows]] = array[retained_rows]
            setattr(self, attribute, renumbered_array)

    def renumber_items(self, row_map: Int64s, item_count: int) -> None:
        """Renumber items; entries that name a dropped item are dropped."""
        self._reserve(0, len(row_map))
        entries, row_of_entry = expand_ranges(self._start, self._size.astype(np.int64))
        neighbours = row_map[self._neighbour[entries]]
        is_retained = neighbours >= 0
        # Their published rows still name the dropped item.
        self._dirty[row_of_entry[~is_retained]] = 1
        entries = entries[is_retained]
        row_of_entry = row_of_entry[is_retained]
        neighbours = neighbours[is_retained]
        entry_counts = np.bincount(row_of_entry, minlength=len(self._size))
        retained_rows = np.flatnonzero(row_map >= 0)
        entries = entries[row_map[row_of_entry] >= 0]
        neighbours = neighbours[row_map[row_of_entry] >= 0]
        renumbered_arrays = {
            attribute: np.zeros(item_count, getattr(self, attribute).dtype)
            for attribute in _ROW_ARRAYS.values()
        }
        renumbered_arrays["_size"][:] = entry_counts[retained_rows]
        renumbered_arrays["_capacity"][:] = entry_counts[retained_rows]
        renumbered_arrays["_start"][:] = (
            np.cumsum(entry_counts[retained_rows]) - entry_counts[retained_rows]
        )
        renumbered_arrays["_weight_sum"][:], renumbered_arrays["_newest_ts"][:] = (
            self._weight_sum[retained_rows],
            self._newest_ts[retained_rows],
        )
        is_changed = self._dirty[retained_rows].copy()
        pool_size = max(len(self._neighbour), len(entries))
        neighbour_pool = np.zeros(pool_size, np.int32)
        weight_pool = np.zeros(pool_size)
        neighbour_pool[: len(entries)] = neighbours
        weight_pool[: len(entries)] = self._weight[entries]
        for attribute, array in renumbered_arrays.items():
            setattr(self, attribute, array)
        self._dirty = is_changed
        self._neighbour = neighbour_pool
        self._weight = weight_pool
        self._pool_end[0] = len(entries)
        self._drop_recent_items(row_map)

    def _drop_recent_items(self, row_map: Int64s) -> None:
        """Remove dropped items from the recent items of users."""
        old_counts = self._recent_count.astype(np.int64)
        person_rows = np.repeat(np.arange(len(old_counts)), old_counts)
        position = np.arange(len(person_rows)) - np.repeat(
            np.cumsum(old_counts) - old_counts, old_counts
        )
        item_rows = row_map[self._recent[person_rows, position]]
        is_retained = item_rows >= 0
        new_counts = np.bincount(person_rows[is_retained], minlength=len(old_counts))
        position = np.arange(int(is_retained.sum())) - np.repeat(
            np.cumsum(new_counts) - new_counts, new_counts
        )
        self._recent = np.zeros_like(self._recent)
        self._recent[person_rows[is_retained], position] = item_rows[is_retained]
        self._recent_count = new_counts.astype(np.uint8)

    def arrays(self) -> dict[str, npt.NDArray]:
        """Return the state as arrays, of which `restore` makes it again."""
        self._compact()
        used_entries = int(self._pool_end[0])
        names = _PERSON_ARRAYS | _ROW_ARRAYS | _OTHER_ARRAYS
        state = {name: getattr(self, attribute) for name, attribute in names.items()}
        return state | {
            "entry": self._neighbour[:used_entries],
            "weight": self._weight[:used_entries],
        }

    def restore(self, arrays: Mapping[str, npt.NDArray]) -> None:
        for name, attribute in (_PERSON_ARRAYS | _ROW_ARRAYS | _OTHER_ARRAYS).items():
            setattr(self, attribute, arrays[name].copy())
        used_entries = len(arrays["entry"])
        size = max(_POOL_ENTRIES_MIN, 1 << (2 * used_entries).bit_length())
        self._neighbour = np.zeros(size, np.int32)
        self._weight = np.zeros(size)
        self._neighbour[:used_entries], self._weight[:used_entries], self._pool_end[0] = (
            arrays["entry"],
            arrays["weight"],
            used_entries,
        )

"""Dense row numbers for keys, in order of first appearance.

A plain hash table over arrays, see `kernels`.
"""

import numpy as np
import numpy.typing as npt

from tailorbird.candidates.kernels import assign_rows, fill_table, find_rows

Keys = npt.NDArray[np.uint64]
Int64s = npt.NDArray[np.int64]

_ROWS_MIN = 1 << 10


class KeyTable:
    """A table that numbers keys in order of first appearance.

    Attributes:
        count: how many there are.
    """

    def __init__(self, keys: Keys | None = None) -> None:
        self.count = 0
        self._row_keys: Keys = np.zeros(_ROWS_MIN, np.uint64)
        self._slots: Int64s = np.full(2 * _ROWS_MIN, -1, np.int64)
        if keys is not None and len(keys):
            self.assign(keys)

    @property
    def keys(self) -> Keys:
        """The keys by row."""
        return self._row_keys[: self.count]

    def assign(self, keys: Keys) -> Int64s:
        """Return the row of each key, (n,), adding new keys; −1 for the key 0."""
        self._reserve(len(keys))
        rows = np.empty(len(keys), np.int64)
        self.count = assign_rows(
            np.ascontiguousarray(keys), self._slots, self._row_keys, self.count, rows
        )
        return rows

    def find(self, keys: Keys) -> Int64s:
        """Return the row of each key, (n,); −1 for an unknown key."""
        rows = np.empty(len(keys), np.int64)
        find_rows(np.ascontiguousarray(keys), self._slots, self._row_keys, rows)
        return rows

    def retain(self, is_retained: npt.NDArray[np.bool_]) -> Int64s:
        """Drop all rows but the selected ones and renumber these in order.

        Returns the new row of each old one, −1 if it was dropped.
        """
        retained_keys = self.keys[is_retained].copy()
        row_map = np.full(self.count, -1, np.int64)
        row_map[is_retained] = np.arange(len(retained_keys))
        self.__init__(retained_keys)
        return row_map

    def _reserve(self, new_key_count: int) -> None:
        needed_rows = self.count + new_key_count
        if needed_rows <= len(self._row_keys):
            return
        capacity = 1 << (needed_rows - 1).bit_length()
        row_keys = np.zeros(capacity, np.uint64)
        row_keys[: self.count] = self.keys
        slots = np.full(2 * capacity, -1, np.int64)
        fill_table(slots, row_keys, self.count)
        self._row_keys = row_keys
        self._slots = slots


def grow_array(array: npt.NDArray, row_count: int, fill: float = 0) -> npt.NDArray:
    """Return an array with room for so many rows.

    This is the array itself, or a copy of twice the length whose new rows hold `fill`.
    """
    if row_count <= len(array):
        return array
    capacity = max(1 << (row_count - 1).bit_length(), _ROWS_MIN)
    grown_array = np.full((capacity, *array.shape[1:]), fill, array.dtype)
    grown_array[: len(array)] = array
    return grown_array

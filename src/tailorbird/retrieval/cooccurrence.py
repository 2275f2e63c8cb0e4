"""Which items follow which: a sparse matrix over items, built from sequences and asked by row.

    M[i, j] = sum of 1/k over each time that j is the k-th item after or before i in a person's sequence, k <= 10,
              divided by (the sum of row i) + 10; the best 100 of a row are kept

The damping of 10 keeps rows with few events small. Repeats of an item right after itself are dropped, and a sequence is
cut where more than a day passes. Everything is counted in units of 1/2520 (which all of 1..10 divide), so the result
does not depend on the order of the events.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.retrieval.stretches import spread

Rows = npt.NDArray[np.intp]

DISTANCE_MAX = 10
DAMPING = 10.0
ROW_MAX = 100
RECENT_MAX = 10  # what goes with a person is asked of so many of the newest items,
RECENT_DECAY = 0.8  # the newest first, weighted by this to the power of their age
UNIT = 2520
DENSE_MAX = 1 << 22  # pairs of items that are counted in a table of all, which needs no sorting: up to 2,048 items


@dataclass(frozen=True)
class Cooccurrence:
    """The matrix by rows: the entries of row i are at indptr[i]:indptr[i + 1], ascending by column.

    Attributes:
        indptr: int64 (n + 1,).
        items: int32 (entries,): columns.
        weights: float32 (entries,).
    """

    indptr: npt.NDArray[np.int64]
    items: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]

    def check(self, rows: int) -> None:
        """Raise ValueError unless this is a matrix of so many rows and columns, whose every entry can be looked up."""
        if (self.indptr.dtype, self.items.dtype, self.weights.dtype) != (np.int64, np.int32, np.float32):
            raise ValueError("the item-to-item matrix has other types of numbers")
        shape_fits = self.indptr.shape == (rows + 1,) and self.items.shape == self.weights.shape == (self.indptr[-1],)
        if not shape_fits or self.indptr[0] != 0 or (np.diff(self.indptr) < 0).any():
            raise ValueError("the item-to-item matrix has another shape than the items")
        if self.items.size and not (int(self.items.min()) >= 0 and int(self.items.max()) < rows):
            raise ValueError("the item-to-item matrix names an item that does not exist")

    def entries(self, rows: Rows) -> tuple[Rows, Rows]:
        """The entries of several rows: where each is in `items`, and which of `rows` it belongs to."""
        starts = self.indptr[rows]
        return spread(starts, self.indptr[rows + 1] - starts)

    def lookup(self, left: Rows, right: Rows) -> npt.NDArray[np.float32]:
        """M[left, right], element by element, 0 where there is no entry or a row is negative. O(n log 100)."""
        known = (left >= 0) & (right >= 0)
        row = np.where(known, left, 0)
        low, end = self.indptr[row], self.indptr[row + 1]
        high = end
        if not self.items.size:
            return np.zeros(left.shape, np.float32)
        for _ in range(ROW_MAX.bit_length()):
            middle = (low + high) >> 1
            below = (low < high) & (self.items[np.minimum(middle, self.items.size - 1)] < right)
            low, high = np.where(below, middle + 1, low), np.where(below | (low >= high), high, middle)
        at = np.minimum(low, self.items.size - 1)
        found = known & (low < end) & (self.items[at] == right)
        return np.where(found, self.weights[at], np.float32(0))

    def lookup_row(self, row: int, right: Rows) -> npt.NDArray[np.float32]:
        """M[row, right]: the same as `lookup`, faster where one row is asked for many columns."""
        if row < 0:
            return np.zeros(right.shape, np.float32)
        start, end = self.indptr[row : row + 2]
        dense = np.zeros(self.indptr.size, np.float32)  # one longer than the columns, so that -1 finds a zero
        dense[self.items[start:end]] = self.weights[start:end]
        return dense[right]

    def widened(self, total: int) -> "Cooccurrence":
        """The same matrix over more items, whose rows are empty."""
        more = np.full(total + 1 - self.indptr.size, self.indptr[-1])
        return Cooccurrence(np.concatenate([self.indptr, more]), self.items, self.weights)


def cooccurrence(
    sequence: npt.NDArray[np.int64],
    item: npt.NDArray[np.int64],
    ts: npt.NDArray[np.int64],
    *,
    items: int,
    gap_us: int,
    backward: bool = True,
) -> Cooccurrence:
    """Build the matrix from events ordered by (sequence, time).

    Args:
        sequence: (n,): whose sequence an event belongs to, in runs.
        item: (n,): the row of the item.
        ts: (n,): its time.
        items: how many items there are.
        gap_us: a longer pause cuts a sequence.
        backward: whether i also counts as following j, where j follows i.
    """
    repeat = (sequence[1:] == sequence[:-1]) & (item[1:] == item[:-1])
    kept = np.concatenate([[True], ~repeat]) if item.size else np.zeros(0, bool)
    sequence, item, ts = sequence[kept], item[kept], ts[kept]
    cut = np.ones(item.size, bool)
    cut[1:] = (sequence[1:] != sequence[:-1]) | (ts[1:] - ts[:-1] > gap_us)
    run = np.cumsum(cut)

    dense = items * items <= DENSE_MAX
    keys: list[npt.NDArray[np.int64]] = []
    sums: list[npt.NDArray[np.int64]] = []
    every = np.zeros(items * items if dense else 0, np.int64)
    for k in range(1, min(DISTANCE_MAX, item.size - 1) + 1):
        near = (run[k:] == run[:-k]) & (item[k:] != item[:-k])
        i, j = item[:-k][near], item[k:][near]
        pairs = [i * items + j, j * items + i] if backward else [i * items + j]
        for pair in pairs:
            if dense:
                every += np.bincount(pair, minlength=every.size) * (UNIT // k)
                continue
            key, count = np.unique(pair, return_counts=True)
            keys.append(key)
            sums.append(count * (UNIT // k))
    if dense:
        key = np.flatnonzero(every)
        return _normalised(key, every[key], items)
    return _normalised(*_added_up(keys, sums), items) if keys else _normalised(every, every, items)


def _added_up(
    keys: Sequence[npt.NDArray[np.int64]], sums: Sequence[npt.NDArray[np.int64]]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Keys of several ascending runs, ascending and each once, with the sum of what stands beside them."""
    key, weight = np.concatenate(keys), np.concatenate(sums)
    order = np.argsort(key, kind="stable")  # merges the runs
    key, weight = key[order], weight[order]
    first = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]])) if key.size else np.zeros(0, np.intp)
    return key[first], np.add.reduceat(weight, first) if first.size else weight


def _normalised(key: npt.NDArray[np.int64], weight: npt.NDArray[np.int64], items: int) -> Cooccurrence:
    """Divide rows by their sums and keep the best of each; keys ascend."""
    starts = np.searchsorted(key, np.arange(items + 1) * items)
    sizes = np.diff(starts)
    row = np.repeat(np.arange(items), sizes)
    column = key - row * items
    total = np.bincount(row, weights=weight, minlength=items) / UNIT  # exact below 2**53
    kept = _best(row, weight, sizes)
    row, column, weight = row[kept], column[kept], weight[kept]
    value = (weight / UNIT) / (total[row] + DAMPING)
    indptr = np.concatenate([[0], np.cumsum(np.minimum(sizes, ROW_MAX))]).astype(np.int64)
    return Cooccurrence(indptr, column.astype(np.int32), value.astype(np.float32))


def _best(row: Rows, weight: npt.NDArray[np.int64], sizes: Rows) -> npt.NDArray[np.bool_]:
    """Which entries are among the best of their row, of equal ones the first; entries lie by row, and only crowded rows are sorted."""
    kept = np.ones(row.size, bool)
    crowded = np.flatnonzero(sizes[row] > ROW_MAX)
    if not crowded.size:
        return kept
    order = crowded[np.lexsort((-weight[crowded], row[crowded]))]
    sizes = np.where(sizes > ROW_MAX, sizes, 0)
    rank = np.arange(order.size) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    kept[order[rank >= ROW_MAX]] = False
    return kept

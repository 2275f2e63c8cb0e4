"""Extra labels of drawn requests, matched by person and item, as no request is named."""

import numpy as np
import numpy.typing as npt

from tailorbird.models.interactions import Interactions
from tailorbird.training.dataset.dataset import Dataset

Ints = npt.NDArray[np.int64]


class OutcomeIndex:
    """Index of outcomes by person, item and time, for labels beyond the one drawn for.

    Args:
        interactions: events of one target.
        amount: amount that each of them adds, where the target is an amount.
    """

    def __init__(
        self, interactions: Interactions, amount: npt.NDArray[np.float64] | None = None
    ) -> None:
        has_ids = (interactions.person >= 0) & (interactions.item >= 0)
        self._item_count = interactions.item_count
        pair = interactions.person[has_ids] * self._item_count + interactions.item[has_ids]
        self._sorted_times, time_rank = np.unique(interactions.ts[has_ids], return_inverse=True)
        self._rank_bits = len(self._sorted_times).bit_length()
        self._sorted_pairs, pair_code = np.unique(pair, return_inverse=True)
        # One sortable integer: the pair's code in the high bits, the rank of the time below.
        packed = (pair_code << self._rank_bits) | time_rank
        order = np.argsort(packed, kind="stable")
        self._packed_keys = packed[order]
        amounts = np.ones(len(order)) if amount is None else amount[has_ids][order]
        self._running_totals = np.concatenate(([0.0], np.cumsum(amounts)))

    def __len__(self) -> int:
        return len(self._packed_keys)

    def has_outcome(self, data: Dataset, window: int) -> npt.NDArray[np.bool_]:
        """Return whether the row's person and item have an outcome in [t, t + window), (n,)."""
        start, end = self._event_ranges(data, window)
        return end > start

    def total_amount(self, data: Dataset, window: int) -> npt.NDArray[np.float32]:
        """Return the amount for the row's person and item in [t, t + window), shape (rows,)."""
        start, end = self._event_ranges(data, window)
        return np.where(
            end > start, self._running_totals[end] - self._running_totals[start], 0.0
        ).astype(np.float32)

    def _event_ranges(self, data: Dataset, window: int) -> tuple[Ints, Ints]:
        """Return the range of each row's outcomes as start and end; equal where there are none."""
        if not len(self):
            return np.zeros(data.row_count, np.int64), np.zeros(data.row_count, np.int64)
        person = data.person_codes[data.request_index]
        t = data.t[data.request_index]
        pair = person * self._item_count + data.item_codes
        pair_code = np.minimum(
            np.searchsorted(self._sorted_pairs, pair), len(self._sorted_pairs) - 1
        )
        start, end = (
            np.searchsorted(
                self._packed_keys,
                (pair_code << self._rank_bits) | np.searchsorted(self._sorted_times, bound),
            )
            for bound in (t, t + window)
        )
        return start, np.where((self._sorted_pairs[pair_code] == pair) & (person >= 0), end, start)

"""What else came of requests that were drawn: further targets, by the person and the item alone,
since nothing names the request.
"""

import numpy as np
import numpy.typing as npt

from tailorbird.models.interactions import Interactions
from tailorbird.training.dataset import Dataset

Ints = npt.NDArray[np.int64]


class Happened:
    """When people did something with items, to label drawn rows with more than what was drawn for.

    Args:
        interactions: events of the one target.
        amount: what each of them adds to it, where it is an amount.
    """

    def __init__(
        self, interactions: Interactions, amount: npt.NDArray[np.float64] | None = None
    ) -> None:
        known = (interactions.person >= 0) & (interactions.item >= 0)
        self._items = interactions.items
        pair = interactions.person[known] * self._items + interactions.item[known]
        self._times, rank = np.unique(interactions.ts[known], return_inverse=True)
        self._bits = len(self._times).bit_length()
        self._pairs, code = np.unique(pair, return_inverse=True)
        packed = (code << self._bits) | rank
        order = np.argsort(packed, kind="stable")
        self._packed = packed[order]
        amounts = np.ones(len(order)) if amount is None else amount[known][order]
        self._running = np.concatenate(([0.0], np.cumsum(amounts)))

    def __len__(self) -> int:
        return len(self._packed)

    def within(self, data: Dataset, span: int) -> npt.NDArray[np.bool_]:
        """Whether it happened to the row's person and item in [t, t + span), shape (rows,)."""
        start, end = self._between(data, span)
        return end > start

    def total(self, data: Dataset, span: int) -> npt.NDArray[np.float32]:
        """How much of it there was for the row's person and item in [t, t + span), shape (rows,)."""
        start, end = self._between(data, span)
        return np.where(end > start, self._running[end] - self._running[start], 0.0).astype(
            np.float32
        )

    def _between(self, data: Dataset, span: int) -> tuple[Ints, Ints]:
        """Of each row the places of its events: from … to, the same where there is none."""
        if not len(self):
            return np.zeros(data.rows, np.int64), np.zeros(data.rows, np.int64)
        person, t = data.person[data.request], data.t[data.request]
        pair = person * self._items + data.item
        code = np.minimum(np.searchsorted(self._pairs, pair), len(self._pairs) - 1)
        start, end = (
            np.searchsorted(self._packed, (code << self._bits) | np.searchsorted(self._times, at))
            for at in (t, t + span)
        )
        return start, np.where((self._pairs[code] == pair) & (person >= 0), end, start)

"""What sessions like each person's newest one went on to, for many requests at once, from the newest index that each may see.

The same lists that an index gives for one request (`Index.like_sessions`), with items by code.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.models.baselines import History
from tailorbird.retrieval import Index
from tailorbird.retrieval.neighbours import CONTEXT_MAX

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RollingSessions:
    """Indexes by the moment of which they are, ascending; `keys`: of items by code."""

    moments: Ints
    indexes: Sequence[Index]
    keys: npt.NDArray[np.uint64]

    def best(self, source: str, history: History, t: Ints, person: Ints, n: int) -> tuple[Ints, Ints]:
        """The best `n` items of each request: (request, item), the best first within a request, ties by row of the index."""
        place = np.searchsorted(self.moments, t, side="right") - 1
        parts = [np.zeros((2, 0), np.int64)]
        for number in np.unique(place[place >= 0]).tolist():
            chosen, index = np.flatnonzero(place == number), self.indexes[number]
            if index.sessions is None:
                continue
            item, ts, offsets = history.recent_with_times(person[chosen], t[chosen], CONTEXT_MAX)
            row = index.find(self.keys)
            near = index.sessions.near(source, offsets, np.where(item >= 0, row[item], -1), ts)
            request = near.key // near.items
            order = np.lexsort((near.row, -near.gain, request))
            request = request[order]
            kept = np.arange(len(order)) - np.searchsorted(request, request) < n
            code = np.full(near.items, -1, np.int64)
            known = np.flatnonzero((row >= 0) & (row < near.items))
            code[row[known]] = known
            item = code[near.row[order][kept]]
            parts.append(np.stack([chosen[request[kept]], item])[:, item >= 0])
        request, item = np.concatenate(parts, axis=1)
        return request, item

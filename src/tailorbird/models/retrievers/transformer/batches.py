"""Windows of sequences as padded arrays, the newest item last.

    target     row − length + 1 … row of one sequence    the items to predict
    input      the item before each target; START before the first; PADDING_CODE (0) further left
    gap        see `retrieval.sequences`

Item code c is stored as c + 1. Every draw is a function of the seed and the step.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.models.interactions import Interactions
from tailorbird.models.retrievers.protocol import Contexts
from tailorbird.retrieval.sequences import GAPS, NO_GAP, START, gap_of, recent_windows

__all__ = ["GAPS", "NO_GAP", "PADDING_CODE", "SequenceWindows", "codes_of", "gap_of", "inputs_of"]

Ints = npt.NDArray[np.int64]

PADDING_CODE = 0


@dataclass(frozen=True)
class SequenceWindows:
    """Interactions by sequence and time, from which windows are cut.

    Attributes:
        item, ts: shape (n,).
        begin: shape (n,): the first row of each row's sequence.
    """

    item: Ints
    ts: Ints
    begin: Ints
    items: int

    @classmethod
    def from_interactions(cls, interactions: Interactions) -> "SequenceWindows":
        valid_rows = np.flatnonzero((interactions.person >= 0) & (interactions.item >= 0))
        order = valid_rows[
            np.lexsort((interactions.ts[valid_rows], interactions.person[valid_rows]))
        ]
        person = interactions.person[order]
        window_starts = (
            np.flatnonzero(np.concatenate(([True], person[1:] != person[:-1])))
            if len(person)
            else np.zeros(0, np.int64)
        )
        begin = np.repeat(window_starts, np.diff(np.concatenate((window_starts, [len(person)]))))
        return cls(interactions.item[order], interactions.ts[order], begin, interactions.items)

    def batch(self, seed: int, step: int, size: int, length: int) -> tuple[Ints, Ints, Ints]:
        """Return inputs, gaps and targets (0 for none), shape (size, length) each.

        The windows end at rows drawn uniformly.
        """
        last = np.random.default_rng((seed, step)).integers(0, len(self.item), size)
        row = last[:, None] + np.arange(1 - length, 1)[None, :]
        begin = self.begin[last][:, None]
        inside = row >= begin
        rows = np.where(inside, row, 0)
        target = np.where(inside, self.item[rows] + 1, PADDING_CODE)
        before = np.maximum(rows - 1, 0)
        source = np.where(
            row > begin, self.item[before] + 1, np.where(row == begin, self.items + 1, PADDING_CODE)
        )
        gap = np.where(
            row - 1 > begin, gap_of(self.ts[before] - self.ts[np.maximum(before - 1, 0)]), NO_GAP
        )
        gap[:, 0] = NO_GAP  # as in `retrieval.sequences`
        return source, gap, target


def inputs_of(contexts: Contexts, items: int, length: int) -> tuple[Ints, Ints]:
    """Return inputs and gaps of queries, shape (queries, length).

    They equal a window that ends with the query.
    """
    row, gap = recent_windows(
        contexts.offsets, np.where(contexts.item < items, contexts.item, -1), contexts.ts, length
    )
    return codes_of(row, items), gap


def codes_of(row: Ints, items: int) -> Ints:
    """Convert rows of `retrieval.sequences` to inputs."""
    return np.where(row >= 0, row + 1, np.where(row == START, items + 1, PADDING_CODE))

"""Stretches of sequences as padded arrays, the newest item last.

    target     row − length + 1 … row of one sequence        what is to be named
    input      the item before each target; START before a sequence's first; PAD (0) further left
    gap        see `retrieval.sequences`

Item code c stands as c + 1. Every draw is a function of the seed and the step.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.models.interactions import Interactions
from tailorbird.models.retrievers.protocol import Contexts
from tailorbird.retrieval.sequences import GAPS, NO_GAP, START, gap_of, windows

__all__ = ["GAPS", "NO_GAP", "PAD", "Stretches", "codes_of", "gap_of", "inputs_of"]

Ints = npt.NDArray[np.int64]

PAD = 0


@dataclass(frozen=True)
class Stretches:
    """Interactions by sequence and time, from which stretches are cut.

    Attributes:
        item, ts: shape (n,); begin: shape (n,): the first row of each row's sequence.
    """

    item: Ints
    ts: Ints
    begin: Ints
    items: int

    @classmethod
    def of(cls, seen: Interactions) -> "Stretches":
        known = np.flatnonzero((seen.person >= 0) & (seen.item >= 0))
        order = known[np.lexsort((seen.ts[known], seen.person[known]))]
        person = seen.person[order]
        first = (
            np.flatnonzero(np.concatenate(([True], person[1:] != person[:-1])))
            if len(person)
            else np.zeros(0, np.int64)
        )
        begin = np.repeat(first, np.diff(np.concatenate((first, [len(person)]))))
        return cls(seen.item[order], seen.ts[order], begin, seen.items)

    def batch(self, seed: int, step: int, size: int, length: int) -> tuple[Ints, Ints, Ints]:
        """Inputs, gaps and targets (0 where there is none), shape (size, length) each, of stretches
        that end at rows drawn evenly.
        """
        last = np.random.default_rng((seed, step)).integers(0, len(self.item), size)
        row = last[:, None] + np.arange(1 - length, 1)[None, :]
        begin = self.begin[last][:, None]
        inside = row >= begin
        at = np.where(inside, row, 0)
        target = np.where(inside, self.item[at] + 1, PAD)
        before = np.maximum(at - 1, 0)
        source = np.where(
            row > begin, self.item[before] + 1, np.where(row == begin, self.items + 1, PAD)
        )
        gap = np.where(
            row - 1 > begin, gap_of(self.ts[before] - self.ts[np.maximum(before - 1, 0)]), NO_GAP
        )
        gap[:, 0] = NO_GAP  # as `retrieval.sequences` cuts what is asked
        return source, gap, target


def inputs_of(contexts: Contexts, items: int, length: int) -> tuple[Ints, Ints]:
    """Inputs and gaps of questions, shape (questions, length): the same as a stretch that ends with
    what is asked.
    """
    row, gap = windows(
        contexts.offsets, np.where(contexts.item < items, contexts.item, -1), contexts.ts, length
    )
    return codes_of(row, items), gap


def codes_of(row: Ints, items: int) -> Ints:
    """Rows of `retrieval.sequences` as inputs."""
    return np.where(row >= 0, row + 1, np.where(row == START, items + 1, PAD))

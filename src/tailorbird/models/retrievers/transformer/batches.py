"""Windows of sequences as padded arrays, the newest item last.

    target     row − length + 1 … row of one sequence    the items to predict
    input      the item before each target; START_ROW before the first; PADDING_CODE (0) left of it
    gap        bucket of the time since the item before it, see `retrieval.sequences`

Item code c is stored as c + 1. Every draw is a function of the seed and the step.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.models.interactions import Interactions
from tailorbird.models.retrievers.protocol import Contexts
from tailorbird.retrieval.sequences import GAP_COUNT, NO_GAP, START_ROW, gap_bucket, recent_windows

__all__ = [
    "GAP_COUNT",
    "NO_GAP",
    "PADDING_CODE",
    "SequenceWindows",
    "build_inputs",
    "gap_bucket",
    "to_input_codes",
]

Ints = npt.NDArray[np.int64]

PADDING_CODE = 0


@dataclass(frozen=True)
class SequenceWindows:
    """Interactions by sequence and time, from which windows are cut.

    Attributes:
        item, ts: shape (n,).
        sequence_start: shape (n,): the first row of each row's sequence.
    """

    item: Ints
    ts: Ints
    sequence_start: Ints
    item_count: int

    @classmethod
    def from_interactions(cls, interactions: Interactions) -> "SequenceWindows":
        valid_rows = np.flatnonzero((interactions.person >= 0) & (interactions.item >= 0))
        sorted_rows = valid_rows[
            np.lexsort((interactions.ts[valid_rows], interactions.person[valid_rows]))
        ]
        person = interactions.person[sorted_rows]
        starts = (
            np.flatnonzero(np.concatenate(([True], person[1:] != person[:-1])))
            if len(person)
            else np.zeros(0, np.int64)
        )
        sequence_start = np.repeat(starts, np.diff(np.concatenate((starts, [len(person)]))))
        return cls(
            interactions.item[sorted_rows],
            interactions.ts[sorted_rows],
            sequence_start,
            interactions.item_count,
        )

    def draw_batch(self, seed: int, step: int, size: int, length: int) -> tuple[Ints, Ints, Ints]:
        """Return inputs, gaps and targets (0 for none), shape (size, length) each.

        The windows end at rows drawn uniformly.
        """
        last_row = np.random.default_rng((seed, step)).integers(0, len(self.item), size)
        row = last_row[:, None] + np.arange(1 - length, 1)[None, :]
        first_row = self.sequence_start[last_row][:, None]
        is_inside = row >= first_row
        valid_row = np.where(is_inside, row, 0)
        target = np.where(is_inside, self.item[valid_row] + 1, PADDING_CODE)
        previous_row = np.maximum(valid_row - 1, 0)
        input_code = np.where(
            row > first_row,
            self.item[previous_row] + 1,
            np.where(row == first_row, self.item_count + 1, PADDING_CODE),
        )
        gap = np.where(
            row - 1 > first_row,
            gap_bucket(self.ts[previous_row] - self.ts[np.maximum(previous_row - 1, 0)]),
            NO_GAP,
        )
        gap[:, 0] = NO_GAP  # as in `retrieval.sequences`
        return input_code, gap, target


def build_inputs(contexts: Contexts, item_count: int, length: int) -> tuple[Ints, Ints]:
    """Return inputs and gaps of queries, shape (queries, length).

    They equal a window that ends with the query.
    """
    row, gap = recent_windows(
        contexts.offsets,
        np.where(contexts.item < item_count, contexts.item, -1),
        contexts.ts,
        length,
    )
    return to_input_codes(row, item_count), gap


def to_input_codes(row: Ints, item_count: int) -> Ints:
    """Convert rows of `retrieval.sequences` to inputs."""
    return np.where(row >= 0, row + 1, np.where(row == START_ROW, item_count + 1, PADDING_CODE))

"""Sequences as a tower reads them: windows of the newest items, the newest last, one row a
question.

    row     rows of an index; START before a sequence's first item; PAD further left
    gap     ⌊log2(1 + seconds between an item and the one before it)⌋, at most 31; NO_GAP where there is none, and at the oldest place:
            a state may hold no item before those of the window

Learning (`models.retrievers.transformer`) and serving (`ranking.tower`) cut windows by this one
function.
"""

import numpy as np
import numpy.typing as npt

from tailorbird.events.clock import SECOND

Ints = npt.NDArray[np.int64]

PAD, START = -1, -2
NO_GAP = 32
GAPS = NO_GAP + 1


def windows(offsets: Ints, row: Ints, ts: Ints, length: int) -> tuple[Ints, Ints]:
    """Rows and gaps, shape (questions, length) each. Items that are not known are skipped.

    Args:
        offsets: shape (questions + 1,): question q owns entries offsets[q]:offsets[q + 1], oldest
        first. row, ts: shape (n,): what was done and when, microseconds; row −1 is an item that is
        not known.
    """
    known = row >= 0
    if not known.all():
        offsets = np.concatenate(([0], np.cumsum(known)))[offsets].astype(np.int64)
        row, ts = row[known], ts[known]
    if not len(row):
        row, ts = np.zeros(1, np.int64), np.zeros(1, np.int64)
    end, begin = offsets[1:, None], offsets[:-1, None]
    at = end + np.arange(-length, 0)[None, :]
    inside = at >= begin
    place = np.clip(at, 0, len(row) - 1)
    rows = np.where(inside, row[place], np.where(at == begin - 1, START, PAD))
    gap = np.where(at > begin, gap_of(ts[place] - ts[np.maximum(place - 1, 0)]), NO_GAP)
    gap[:, 0] = NO_GAP
    return rows, np.where(inside, gap, NO_GAP)


def gap_of(passed: Ints) -> Ints:
    """The bucket of a time between two interactions."""
    seconds = np.maximum(passed, 0) // SECOND
    return np.minimum(np.floor(np.log2(seconds + 1.0)).astype(np.int64), NO_GAP - 1)

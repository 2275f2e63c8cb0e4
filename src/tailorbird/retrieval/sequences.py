"""Windows of the newest items of a sequence, as a tower reads them, the newest last.

    row     rows of an index; START before a sequence's first item; PAD further left
    gap     ⌊log2(1 + seconds since the previous item)⌋, at most 31; NO_GAP if there is none,
            and at the oldest position, since a state may hold no items before the window

Training (`models.retrievers.transformer`) and serving (`ranking.tower`) both use this function.
"""

import numpy as np
import numpy.typing as npt

from tailorbird.events.clock import SECOND

Ints = npt.NDArray[np.int64]

PAD, START = -1, -2
NO_GAP = 32
GAPS = NO_GAP + 1


def recent_windows(offsets: Ints, row: Ints, ts: Ints, length: int) -> tuple[Ints, Ints]:
    """Return rows and gaps, shape (sequences, length) each; unknown items are skipped.

    Args:
        offsets: shape (sequences + 1,): sequence s owns entries offsets[s]:offsets[s + 1], oldest
            first.
        row, ts: shape (n,): items and times in microseconds; row −1 is an unknown item.
    """
    is_known_item = row >= 0
    if not is_known_item.all():
        offsets = np.concatenate(([0], np.cumsum(is_known_item)))[offsets].astype(np.int64)
        row, ts = row[is_known_item], ts[is_known_item]
    if not len(row):
        row, ts = np.zeros(1, np.int64), np.zeros(1, np.int64)
    stop, start = offsets[1:, None], offsets[:-1, None]
    positions = stop + np.arange(-length, 0)[None, :]
    is_inside = positions >= start
    clipped = np.clip(positions, 0, len(row) - 1)
    rows = np.where(is_inside, row[clipped], np.where(positions == start - 1, START, PAD))
    gap = np.where(positions > start, gap_of(ts[clipped] - ts[np.maximum(clipped - 1, 0)]), NO_GAP)
    gap[:, 0] = NO_GAP
    return rows, np.where(is_inside, gap, NO_GAP)


def gap_of(elapsed_us: Ints) -> Ints:
    """Return the bucket of the time between two interactions."""
    seconds = np.maximum(elapsed_us, 0) // SECOND
    return np.minimum(np.floor(np.log2(seconds + 1.0)).astype(np.int64), NO_GAP - 1)

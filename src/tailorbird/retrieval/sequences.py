"""Windows of the newest items of a sequence, as a tower reads them, the newest last.

    row     rows of an index; START_ROW before a sequence's first item; PAD_ROW further left
    gap     ⌊log2(1 + seconds since the previous item)⌋, at most 31; NO_GAP if there is none,
            and at the oldest position, since a state may hold no items before the window

Training (`models.retrievers.transformer`) and serving (`ranking.tower`) both use this function.
"""

import numpy as np
import numpy.typing as npt

from tailorbird.events.clock import SECOND

Ints = npt.NDArray[np.int64]

PAD_ROW = -1
START_ROW = -2
NO_GAP = 32
GAP_COUNT = NO_GAP + 1


def recent_windows(offsets: Ints, item_rows: Ints, ts: Ints, length: int) -> tuple[Ints, Ints]:
    """Return rows and gaps, shape (sequences, length) each; unknown items are skipped.

    Args:
        offsets: shape (sequences + 1,): sequence s owns entries offsets[s]:offsets[s + 1], oldest
            first.
        item_rows, ts: shape (n,): items and times in microseconds; row −1 is an unknown item.
    """
    is_indexed = item_rows >= 0
    if not is_indexed.all():
        offsets = np.concatenate(([0], np.cumsum(is_indexed)))[offsets].astype(np.int64)
        item_rows = item_rows[is_indexed]
        ts = ts[is_indexed]
    if not len(item_rows):
        item_rows = np.zeros(1, np.int64)
        ts = np.zeros(1, np.int64)
    stop = offsets[1:, None]
    start = offsets[:-1, None]
    positions = stop + np.arange(-length, 0)[None, :]
    is_inside = positions >= start
    clipped_positions = np.clip(positions, 0, len(item_rows) - 1)
    window_rows = np.where(
        is_inside,
        item_rows[clipped_positions],
        np.where(positions == start - 1, START_ROW, PAD_ROW),
    )
    window_gaps = np.where(
        positions > start,
        gap_bucket(ts[clipped_positions] - ts[np.maximum(clipped_positions - 1, 0)]),
        NO_GAP,
    )
    window_gaps[:, 0] = NO_GAP
    return window_rows, np.where(is_inside, window_gaps, NO_GAP)


def gap_bucket(elapsed_us: Ints) -> Ints:
    """Return the bucket of the time between two interactions."""
    seconds = np.maximum(elapsed_us, 0) // SECOND
    return np.minimum(np.floor(np.log2(seconds + 1.0)).astype(np.int64), NO_GAP - 1)

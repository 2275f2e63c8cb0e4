"""Ragged arrays: runs of indices of different lengths, cut into chunks."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]
Intps = npt.NDArray[np.intp]

_RAGGED_MAX = 1 << 22  # entries of a ragged intermediate in memory


@dataclass(frozen=True)
class EventRuns:
    """For each query a run of events, oldest first.

    `events[offsets[i]:offsets[i + 1]]` are indices of the n events.
    """

    offsets: Int64s
    events: Intps


def concatenate_ranges(start: Intps, stop: Intps) -> tuple[Intps, Int64s]:
    """Return the concatenated positions of all ranges [start, stop), and the offsets (q + 1,) of
    each.
    """
    sizes = np.maximum(stop - start, 0)
    offsets = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    positions = np.arange(offsets[-1], dtype=np.intp) + np.repeat(start - offsets[:-1], sizes)
    return positions, offsets


def split_chunks(rows: Intps, width: int) -> Iterator[Intps]:
    """Yield `rows` in chunks whose ragged arrays, of up to `width` entries a row, fit in memory."""
    size = max(1, _RAGGED_MAX // width)
    for start in range(0, len(rows), size):
        yield rows[start : start + size]

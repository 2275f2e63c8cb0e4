"""Ragged arrays: lists concatenated in one array."""

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Rows = npt.NDArray[np.intp]


def expand_ranges(starts: Ints, sizes: Ints) -> tuple[Rows, Rows]:
    """Return the positions of consecutive ranges, and the range that each position belongs to."""
    range_index = np.repeat(np.arange(len(sizes)), sizes)
    return np.arange(len(range_index)) - np.repeat(
        np.cumsum(sizes) - sizes - starts, sizes
    ), range_index

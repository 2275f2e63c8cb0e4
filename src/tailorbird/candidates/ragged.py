"""Ragged arrays: lists that lie one after another in one array."""

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Rows = npt.NDArray[np.intp]


def spread(starts: Ints, sizes: Ints) -> tuple[Rows, Rows]:
    """Return the positions of stretches, one after another, and which stretch each position belongs
    to.
    """
    nth = np.repeat(np.arange(len(sizes)), sizes)
    return np.arange(len(nth)) - np.repeat(np.cumsum(sizes) - sizes - starts, sizes), nth

"""Lists that lie one after the other in an array, of which some are looked at together."""

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Rows = npt.NDArray[np.intp]


def spread(starts: Ints, sizes: Ints) -> tuple[Rows, Rows]:
    """The places of stretches, one after the other, and which stretch each is of."""
    nth = np.repeat(np.arange(len(sizes)), sizes)
    return np.arange(len(nth)) - np.repeat(np.cumsum(sizes) - sizes - starts, sizes), nth

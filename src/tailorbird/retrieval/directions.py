"""Vectors of length 1 brought together: k-means on directions, for clusters of items and for lists
of neighbours.
"""

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.intp]
Matrix = npt.NDArray[np.float32]

_AT_ONCE = 16_384


def spherical_kmeans(units: Matrix, at: Matrix, rounds: int) -> Matrix:
    """Where clusters come to lie, (k, width), of length 1: k-means on directions (spherical,
    Dhillon and Modha, 2001).

    Args:
        units: (n, width), of length 1.
        at: where they begin. A cluster that loses all its members stays where it was.
        rounds: after which it ends, even if they still move.
    """
    for _ in range(rounds):
        sums = np.zeros_like(at)
        np.add.at(sums, nearest_of(units, at), units)
        length = np.linalg.norm(sums, axis=1, keepdims=True)
        moved = np.where(length > 0, sums / np.maximum(length, 1e-12), at).astype(np.float32)
        if np.allclose(moved, at, atol=1e-6):
            break
        at = moved
    return at


def nearest_of(units: Matrix, at: Matrix) -> Rows:
    """The nearest of `at` for each, some at a time: all products at once would be as many as items
    times clusters.
    """
    parts = [
        np.argmax(units[low : low + _AT_ONCE] @ at.T, axis=1)
        for low in range(0, len(units), _AT_ONCE)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, np.intp)

"""k-means on unit vectors, for clusters of items and for inverted lists."""

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.intp]
Matrix = npt.NDArray[np.float32]

_CHUNK_ROWS = 16_384


def spherical_kmeans(units: Matrix, centroids: Matrix, max_rounds: int) -> Matrix:
    """Return cluster centroids, (k, width), of unit length, by spherical k-means.

    Source: Dhillon and Modha, 2001.

    Args:
        units: vectors, (n, width), of unit length.
        centroids: initial centroids. A cluster that loses all its members keeps its centroid.
        max_rounds: maximum number of iterations.
    """
    for _ in range(max_rounds):
        sums = np.zeros_like(centroids)
        np.add.at(sums, nearest_centroids(units, centroids), units)
        length = np.linalg.norm(sums, axis=1, keepdims=True)
        updated = np.where(length > 0, sums / np.maximum(length, 1e-12), centroids).astype(
            np.float32
        )
        if np.allclose(updated, centroids, atol=1e-6):
            break
        centroids = updated
    return centroids


def nearest_centroids(units: Matrix, centroids: Matrix) -> Rows:
    """Return the nearest centroid of each vector.

    Works in chunks, since one matrix of all products would have items times clusters entries.
    """
    chunks = [
        np.argmax(units[start : start + _CHUNK_ROWS] @ centroids.T, axis=1)
        for start in range(0, len(units), _CHUNK_ROWS)
    ]
    return np.concatenate(chunks) if chunks else np.zeros(0, np.intp)

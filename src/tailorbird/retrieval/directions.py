"""k-means on unit vectors, for clusters of items and for inverted lists."""

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.intp]
Matrix = npt.NDArray[np.float32]

_CHUNK_ROWS = 16_384


def spherical_kmeans(unit_vectors: Matrix, centroids: Matrix, max_rounds: int) -> Matrix:
    """Return cluster centroids, (k, width), of unit length, by spherical k-means.

    Source: Dhillon and Modha, 2001.

    Args:
        unit_vectors: vectors, (n, width), of unit length.
        centroids: initial centroids. A cluster that loses all its members keeps its centroid.
        max_rounds: maximum number of iterations.
    """
    for _ in range(max_rounds):
        sums = np.zeros_like(centroids)
        np.add.at(sums, nearest_centroids(unit_vectors, centroids), unit_vectors)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        new_centroids = np.where(norms > 0, sums / np.maximum(norms, 1e-12), centroids).astype(
            np.float32
        )
        if np.allclose(new_centroids, centroids, atol=1e-6):
            break
        centroids = new_centroids
    return centroids


def nearest_centroids(unit_vectors: Matrix, centroids: Matrix) -> Rows:
    """Return the nearest centroid of each vector.

    Works in chunks, since one matrix of all products would have items times clusters entries.
    """
    chunks = [
        np.argmax(unit_vectors[start : start + _CHUNK_ROWS] @ centroids.T, axis=1)
        for start in range(0, len(unit_vectors), _CHUNK_ROWS)
    ]
    return np.concatenate(chunks) if chunks else np.zeros(0, np.intp)

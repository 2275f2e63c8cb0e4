"""Clusters of items by content, for recommendations to people with little history.

    clusters.npy    int16 (n,): the cluster of each item; −1 if nothing is known about it
    clusters_at.npy float32 (k, 32): the centroids, so that a new item gets a cluster at once

    weight of a cluster = 1/k + Σ over the last items i, the newest first,
                          of 0.8**age · [i is in the cluster]
    score of an item    = its share of the interest in its cluster
                          (events of 7 days + 1) · the weight of the cluster

Without history all clusters have the same weight, and the most popular item of each comes first.
After one event, the cluster of that item outweighs all others together. An item's position is the
normalised mean of random directions of its tokens, which roughly preserves angles (Achlioptas,
2003).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tailorbird.retrieval.arrays import array_bytes, read_array
from tailorbird.retrieval.columns import Column
from tailorbird.retrieval.directions import nearest_centroids, spherical_kmeans
from tailorbird.retrieval.vectors import Content, build_content

Rows = npt.NDArray[np.intp]
Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

FILE_NAMES = ("clusters.npy", "clusters_at.npy")
CLUSTERS_MAX = 24
POSITION_WIDTH = 32
ROUNDS_MAX = 20
ITEMS_PER_CLUSTER = 10  # Minimum on average.
SAMPLE_SIZE = 200_000  # Sample that the clusters are learned from.


@dataclass(frozen=True)
class Clusters:
    """The cluster of each item. Immutable.

    Attributes:
        labels: int16 (n,): the cluster of each item, −1 without one.
        centroids: float32 (k, POSITION_WIDTH), of unit length.
    """

    labels: npt.NDArray[np.int16]
    centroids: Matrix

    def scores(
        self,
        event_counts: npt.NDArray[np.int64],
        recent_rows: Rows,
        decay_weights: npt.NDArray[np.floating],
    ) -> Floats:
        """Return the scores of all items, (n,); 0 for an item without a cluster.

        Args:
            event_counts: number of events of each item, (n,).
            recent_rows, decay_weights: rows of the newest items of a person, and the weight of
                each.
        """
        interest = np.where(self.labels >= 0, event_counts + 1.0, 0.0)
        item_labels = np.maximum(self.labels, 0).astype(np.intp)
        cluster_interest = np.bincount(item_labels, interest, minlength=len(self.centroids))
        has_cluster = self.labels[recent_rows] >= 0
        cluster_weights = 1 / max(len(self.centroids), 1) + np.bincount(
            self.labels[recent_rows[has_cluster]].astype(np.intp),
            decay_weights[has_cluster],
            minlength=len(self.centroids),
        )
        return (
            interest / np.maximum(cluster_interest, 1.0)[item_labels] * cluster_weights[item_labels]
        )

    def extended(
        self,
        old_attributes: Mapping[str, Column],
        new_attributes: Mapping[str, Column],
        item_count: int,
    ) -> "Clusters":
        """Return clusters with rows up to `item_count`, which are new items.

        `old_attributes` has the attributes that the clusters were found by.
        """
        new_labels = _nearest_labels(
            _compute_positions(
                _content_without_titles(old_attributes),
                new_attributes,
                np.arange(len(self.labels), item_count),
            ),
            self.centroids,
        )
        return replace(self, labels=np.concatenate([self.labels, new_labels]))

    def files(self) -> dict[str, bytes]:
        """Return file name → bytes."""
        return dict(
            zip(FILE_NAMES, (array_bytes(self.labels), array_bytes(self.centroids)), strict=True)
        )

    @classmethod
    def read(cls, files: Mapping[str, bytes | memoryview], item_count: int) -> "Clusters | None":
        """Read the clusters of an index; None if it has none.

        Raises ValueError or KeyError if the files are damaged.
        """
        if not any(name in files for name in FILE_NAMES):
            return None
        labels, centroids = (read_array(files[name]) for name in FILE_NAMES)
        if (
            labels.dtype != np.int16
            or labels.shape != (item_count,)
            or centroids.dtype != np.float32
            or centroids.ndim != 2
            or centroids.shape[1] != POSITION_WIDTH
        ):
            raise ValueError("the clusters have another shape than the items")
        if not np.isfinite(centroids).all() or (
            item_count and not (int(labels.min()) >= -1 and int(labels.max()) < len(centroids))
        ):
            raise ValueError("the clusters name one that does not exist")
        return cls(labels, centroids)


def find_clusters(attributes: Mapping[str, Column], item_count: int, *, seed: int = 0) -> Clusters:
    """Find clusters of `item_count` items by their attributes."""
    positions = _compute_positions(
        _content_without_titles(attributes), attributes, np.arange(item_count)
    )
    positioned_rows = np.flatnonzero(positions.any(axis=1))
    rng = np.random.default_rng(seed)
    sample = positions[
        positioned_rows
        if len(positioned_rows) <= SAMPLE_SIZE
        else np.sort(rng.choice(positioned_rows, SAMPLE_SIZE, replace=False))
    ]
    distinct_positions = np.unique(sample, axis=0)
    if not len(distinct_positions):
        return Clusters(
            np.full(item_count, -1, np.int16), np.zeros((0, POSITION_WIDTH), np.float32)
        )
    centroids = distinct_positions[
        rng.choice(
            len(distinct_positions),
            min(CLUSTERS_MAX, len(distinct_positions), max(item_count // ITEMS_PER_CLUSTER, 1)),
            replace=False,
        )
    ]
    centroids = spherical_kmeans(sample, centroids, ROUNDS_MAX)
    return Clusters(_nearest_labels(positions, centroids), centroids)


def _content_without_titles(attributes: Mapping[str, Column]) -> Content:
    """Return the content of items without titles, or with titles if there is nothing else."""
    content = build_content(attributes)
    parts = tuple(part for part in content.parts if part.attribute != "title")
    return Content(parts) if parts else content


def _compute_positions(content: Content, attributes: Mapping[str, Column], rows: Rows) -> Matrix:
    """Return the unit position of each item, (n, POSITION_WIDTH); 0 if nothing is known."""
    token_directions = np.random.default_rng(1).choice(
        np.array([-1.0, 1.0], np.float32), (content.size, POSITION_WIDTH)
    )
    token_directions[0] = 0
    sums = token_directions[content.tokens(attributes, rows)].sum(axis=1)
    return (sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)).astype(
        np.float32
    )


def _nearest_labels(positions: Matrix, centroids: Matrix) -> npt.NDArray[np.int16]:
    if not len(centroids):
        return np.full(len(positions), -1, np.int16)
    return np.where(positions.any(axis=1), nearest_centroids(positions, centroids), -1).astype(
        np.int16
    )

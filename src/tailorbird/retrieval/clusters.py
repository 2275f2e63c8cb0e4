"""Clusters of items by what they are, for people of whom little is known: something of everything,
and soon more of what they take up.

    clusters.npy    int16 (n,): the cluster of each item; −1 where nothing is known of it
    clusters_at.npy float32 (k, 32): where the clusters lie, so that a new item has one at once

    weight of a cluster = 1/k + Σ over the last items i, the newest first, of 0.8**age · [i is of it]
    score of an item    = its share of the interest in its cluster (events of 7 days + 1) · the weight of the cluster

Without any event all clusters weigh alike, each with its most popular first; after one, that item's
cluster weighs more than all others together. Items lie where the mean of random directions of their
tokens points, which keeps angles about as they are (Achlioptas, 2003).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tailorbird.retrieval.arrays import array_bytes, read_array
from tailorbird.retrieval.columns import Column
from tailorbird.retrieval.directions import nearest_of, spherical_kmeans
from tailorbird.retrieval.vectors import Content, content_of

Rows = npt.NDArray[np.intp]
Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

FILES = ("clusters.npy", "clusters_at.npy")
CLUSTERS, WIDTH, ROUNDS = 24, 32, 20
ITEMS_EACH = 10  # at least, on average
ITEMS_AT_ONCE = 200_000  # that clusters are learned from


@dataclass(frozen=True)
class Clusters:
    """Which items belong together. It never changes.

    Attributes:
        of: int16 (n,).
        at: float32 (k, WIDTH), of length 1.
    """

    of: npt.NDArray[np.int16]
    at: Matrix

    def scores(
        self, counts: npt.NDArray[np.int64], recent: Rows, decay: npt.NDArray[np.floating]
    ) -> Floats:
        """Scores of all items, (n,); 0 for one of no cluster.

        Args:
            counts: (n,): events with each item.
            recent: rows of a person's newest items, and `decay`: what each weighs.
        """
        interest = np.where(self.of >= 0, counts + 1.0, 0.0)
        mine = np.maximum(self.of, 0).astype(np.intp)
        whole = np.bincount(mine, interest, minlength=len(self.at))
        known = self.of[recent] >= 0
        weight = 1 / max(len(self.at), 1) + np.bincount(
            self.of[recent[known]].astype(np.intp), decay[known], minlength=len(self.at)
        )
        return interest / np.maximum(whole, 1.0)[mine] * weight[mine]

    def extended(
        self, before: Mapping[str, Column], attributes: Mapping[str, Column], total: int
    ) -> "Clusters":
        """With rows up to `total`, which are new items; `before`: the attributes that clusters were
        found by.
        """
        new = _nearest(
            _directions(_told_by(before), attributes, np.arange(len(self.of), total)), self.at
        )
        return replace(self, of=np.concatenate([self.of, new]))

    def files(self) -> dict[str, bytes]:
        return dict(zip(FILES, (array_bytes(self.of), array_bytes(self.at)), strict=True))

    @classmethod
    def read(cls, files: Mapping[str, bytes], rows: int) -> "Clusters | None":
        """From the files of an index, None where it has none. Raises ValueError or KeyError if they
        are damaged.
        """
        if not any(name in files for name in FILES):
            return None
        of, at = (read_array(files[name]) for name in FILES)
        if (
            of.dtype != np.int16
            or of.shape != (rows,)
            or at.dtype != np.float32
            or at.ndim != 2
            or at.shape[1] != WIDTH
        ):
            raise ValueError("the clusters have another shape than the items")
        if not np.isfinite(at).all() or (
            rows and not (int(of.min()) >= -1 and int(of.max()) < len(at))
        ):
            raise ValueError("the clusters name one that does not exist")
        return cls(of, at)


def find_clusters(attributes: Mapping[str, Column], rows: int, *, seed: int = 0) -> Clusters:
    """Clusters of `rows` items."""
    units = _directions(_told_by(attributes), attributes, np.arange(rows))
    known = np.flatnonzero(units.any(axis=1))
    rng = np.random.default_rng(seed)
    some = units[
        known
        if len(known) <= ITEMS_AT_ONCE
        else np.sort(rng.choice(known, ITEMS_AT_ONCE, replace=False))
    ]
    distinct = np.unique(some, axis=0)
    if not len(distinct):
        return Clusters(np.full(rows, -1, np.int16), np.zeros((0, WIDTH), np.float32))
    at = distinct[
        rng.choice(
            len(distinct), min(CLUSTERS, len(distinct), max(rows // ITEMS_EACH, 1)), replace=False
        )
    ]
    at = spherical_kmeans(some, at, ROUNDS)
    return Clusters(_nearest(units, at), at)


def _told_by(attributes: Mapping[str, Column]) -> Content:
    """What items are, without their titles where there is anything else."""
    content = content_of(attributes)
    others = tuple(part for part in content.parts if part.attribute != "title")
    return Content(others) if others else content


def _directions(content: Content, attributes: Mapping[str, Column], rows: Rows) -> Matrix:
    """Where items lie, (n, WIDTH), of length 1, or 0 where nothing is known."""
    table = np.random.default_rng(1).choice(
        np.array([-1.0, 1.0], np.float32), (content.size, WIDTH)
    )
    table[0] = 0
    made = table[content.tokens(attributes, rows)].sum(axis=1)
    return (made / np.maximum(np.linalg.norm(made, axis=1, keepdims=True), 1e-12)).astype(
        np.float32
    )


def _nearest(units: Matrix, at: Matrix) -> npt.NDArray[np.int16]:
    if not len(at):
        return np.full(len(units), -1, np.int16)
    return np.where(units.any(axis=1), nearest_of(units, at), -1).astype(np.int16)

"""Which columns stand for each other: clusters by rank correlation, or by shared information where
codes are involved.

Two numeric columns are as near as |Spearman's ρ| over the rows in which both are there, times the
share of rows in which both are among those in which either is: a column that is mostly missing
cannot stand for one that is not. With codes it is the mutual information as a share of the larger
entropy. A cluster is such that each two of it are near (complete linkage).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import fcluster, leaves_list, linkage
from scipy.spatial.distance import squareform
from scipy.stats import rankdata

from tailorbird.training.binning import entropy, information, learn_bins

Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

NEAR = 0.9
ROWS_MAX = 20_000
CODES_MAX, RANGES = 60, 20


@dataclass(frozen=True)
class Clusters:
    """Attributes:
    nearness: shape (columns, columns), in [0, 1].
    tree: SciPy's linkage matrix, for a dendrogram.
    order: columns as they stand under the tree.
    cluster: shape (columns,), a number for each cluster.
    """

    nearness: Floats
    tree: Floats
    order: tuple[int, ...]
    cluster: Ints

    def groups(self) -> list[list[int]]:
        """The clusters of two or more columns, in order of their first column."""
        found = (np.flatnonzero(self.cluster == one).tolist() for one in np.unique(self.cluster))
        return sorted(group for group in found if len(group) > 1)


def find_clusters(
    matrix: Matrix, categorical: Sequence[int], *, near: float = NEAR, seed: int = 0
) -> Clusters:
    """Clusters of a matrix's columns; `categorical`: places of those that hold codes."""
    if len(matrix) > ROWS_MAX:
        matrix = matrix[
            np.sort(np.random.default_rng(seed).choice(len(matrix), ROWS_MAX, replace=False))
        ]
    nearness = _by_rank(matrix)
    _by_information(matrix, categorical, nearness)
    np.fill_diagonal(nearness, 1.0)
    if len(nearness) < 2:
        return Clusters(
            nearness, np.zeros((0, 4)), tuple(range(len(nearness))), np.arange(len(nearness))
        )
    tree = linkage(squareform(np.clip(1.0 - nearness, 0.0, 1.0), checks=False), "complete")
    order = tuple(int(place) for place in leaves_list(tree))
    return Clusters(nearness, tree, order, fcluster(tree, 1.0 - near, "distance").astype(np.int64))


def _by_rank(matrix: Matrix) -> Floats:
    """|ρ| times the overlap, for each two columns, as products of matrices; ranks are of the whole
    column.
    """
    there = ~np.isnan(matrix)
    rank = np.zeros(matrix.shape)
    for place in range(matrix.shape[1]):
        mine = there[:, place]
        rank[mine, place] = rankdata(matrix[mine, place]) if mine.any() else 0.0
    mask = there.astype(np.float64)
    count = mask.T @ mask
    total, square = (
        rank.T @ mask,
        (rank**2).T @ mask,
    )  # of the row's column, where the column's is there
    with np.errstate(all="ignore"):
        covariance = rank.T @ rank - total * total.T / count
        spread = square - total**2 / count
        rho = covariance / np.sqrt(spread * spread.T)
    either = mask.sum(axis=0)[:, None] + mask.sum(axis=0)[None, :] - count
    share = np.divide(count, either, out=np.zeros_like(count), where=either > 0)
    return np.where(np.isfinite(rho), np.clip(np.abs(rho), 0.0, 1.0) * share, 0.0)


def _by_information(matrix: Matrix, categorical: Sequence[int], nearness: Floats) -> None:
    """Fill in the pairs of which one or both hold codes."""
    if not categorical:
        return
    codes = set(categorical)
    size, binned = [], []
    for place in range(matrix.shape[1]):
        bins = learn_bins(
            matrix[:, place],
            categorical=place in codes,
            bins_max=CODES_MAX if place in codes else RANGES,
        )
        size.append(bins.size)
        binned.append(bins.place(matrix[:, place]))
    bits = [entropy(place, bins) for place, bins in zip(binned, size, strict=True)]
    for first in codes:
        for second in range(matrix.shape[1]):
            most = max(bits[first], bits[second])
            share = (
                information(binned[first], binned[second], size[first], size[second]) / most
                if most > 0
                else 0.0
            )
            nearness[first, second] = nearness[second, first] = min(max(share, 0.0), 1.0)

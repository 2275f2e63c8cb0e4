"""Redundant columns: clusters by rank correlation, or by mutual information for codes.

The nearness of two numeric columns is |Spearman's ρ| over the rows in which both are present, times
the share of those rows among the rows in which either is: a column that is mostly missing cannot
replace one that is not. With codes it is the mutual information as a share of the larger entropy.
Every two columns of a cluster are near (complete linkage).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import fcluster, leaves_list, linkage
from scipy.spatial.distance import squareform
from scipy.stats import rankdata

from tailorbird.training.selection.binning import entropy, learn_bins, mutual_information

Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

NEARNESS_MIN = 0.9
ROWS_MAX = 20_000
CODES_MAX, RANGES_MAX = 60, 20


@dataclass(frozen=True)
class Clusters:
    """Clusters of columns.

    Attributes:
        nearness: shape (columns, columns), in [0, 1].
        linkage_tree: SciPy's linkage matrix, for a dendrogram.
        leaf_order: columns in the order of the tree's leaves.
        cluster: shape (columns,), the cluster number of each column.
    """

    nearness: Floats
    linkage_tree: Floats
    leaf_order: tuple[int, ...]
    cluster: Ints

    def groups(self) -> list[list[int]]:
        """Return the clusters of two or more columns, in order of their first column."""
        members = (
            np.flatnonzero(self.cluster == number).tolist() for number in np.unique(self.cluster)
        )
        return sorted(group for group in members if len(group) > 1)


def find_clusters(
    matrix: Matrix, categorical: Sequence[int], *, nearness_min: float = NEARNESS_MIN, seed: int = 0
) -> Clusters:
    """Cluster the columns of a matrix; `categorical` has the indices of code columns."""
    if len(matrix) > ROWS_MAX:
        matrix = matrix[
            np.sort(np.random.default_rng(seed).choice(len(matrix), ROWS_MAX, replace=False))
        ]
    nearness = _rank_nearness(matrix)
    _fill_information_nearness(matrix, categorical, nearness)
    np.fill_diagonal(nearness, 1.0)
    if len(nearness) < 2:
        return Clusters(
            nearness, np.zeros((0, 4)), tuple(range(len(nearness))), np.arange(len(nearness))
        )
    linkage_tree = linkage(squareform(np.clip(1.0 - nearness, 0.0, 1.0), checks=False), "complete")
    leaf_order = tuple(int(leaf) for leaf in leaves_list(linkage_tree))
    return Clusters(
        nearness,
        linkage_tree,
        leaf_order,
        fcluster(linkage_tree, 1.0 - nearness_min, "distance").astype(np.int64),
    )


def _rank_nearness(matrix: Matrix) -> Floats:
    """Return |ρ| times the overlap for every two columns; ranks are of the full column."""
    is_present = ~np.isnan(matrix)
    rank = np.zeros(matrix.shape)
    for index in range(matrix.shape[1]):
        present = is_present[:, index]
        rank[present, index] = rankdata(matrix[present, index]) if present.any() else 0.0
    mask = is_present.astype(np.float64)
    count = mask.T @ mask
    # Sums over the rows in which the other column is present.
    total, square = rank.T @ mask, (rank**2).T @ mask
    with np.errstate(all="ignore"):
        covariance = rank.T @ rank - total * total.T / count
        spread = square - total**2 / count
        rho = covariance / np.sqrt(spread * spread.T)
    either = mask.sum(axis=0)[:, None] + mask.sum(axis=0)[None, :] - count
    share = np.divide(count, either, out=np.zeros_like(count), where=either > 0)
    return np.where(np.isfinite(rho), np.clip(np.abs(rho), 0.0, 1.0) * share, 0.0)


def _fill_information_nearness(
    matrix: Matrix, categorical: Sequence[int], nearness: Floats
) -> None:
    """Fill in the pairs with at least one code column."""
    if not categorical:
        return
    codes = set(categorical)
    size, binned = [], []
    for index in range(matrix.shape[1]):
        bins = learn_bins(
            matrix[:, index],
            categorical=index in codes,
            bins_max=CODES_MAX if index in codes else RANGES_MAX,
        )
        size.append(bins.size)
        binned.append(bins.assign(matrix[:, index]))
    bits = [entropy(bin_index, bins) for bin_index, bins in zip(binned, size, strict=True)]
    for first in codes:
        for second in range(matrix.shape[1]):
            larger_entropy = max(bits[first], bits[second])
            share = (
                mutual_information(binned[first], binned[second], size[first], size[second])
                / larger_entropy
                if larger_entropy > 0
                else 0.0
            )
            nearness[first, second] = nearness[second, first] = min(max(share, 0.0), 1.0)

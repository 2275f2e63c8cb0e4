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
CODE_BINS_MAX = 60
NUMERIC_BINS_MAX = 20


@dataclass(frozen=True)
class Clusters:
    """Clusters of columns.

    Attributes:
        nearness: shape (columns, columns), in [0, 1].
        linkage_tree: SciPy's linkage matrix, for a dendrogram.
        leaf_order: columns in the order of the tree's leaves.
        cluster_by_column: shape (columns,), the cluster number of each column.
    """

    nearness: Floats
    linkage_tree: Floats
    leaf_order: tuple[int, ...]
    cluster_by_column: Ints

    def groups(self) -> list[list[int]]:
        """Return the clusters of two or more columns, in order of their first column."""
        members = (
            np.flatnonzero(self.cluster_by_column == number).tolist()
            for number in np.unique(self.cluster_by_column)
        )
        return sorted(group for group in members if len(group) > 1)


def find_clusters(
    matrix: Matrix,
    categorical_indexes: Sequence[int],
    *,
    nearness_min: float = NEARNESS_MIN,
    seed: int = 0,
) -> Clusters:
    """Cluster the columns of a matrix; `categorical_indexes` has the indices of code columns."""
    if len(matrix) > ROWS_MAX:
        matrix = matrix[
            np.sort(np.random.default_rng(seed).choice(len(matrix), ROWS_MAX, replace=False))
        ]
    nearness = _measure_rank_nearness(matrix)
    _fill_information_nearness(matrix, categorical_indexes, nearness)
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


def _measure_rank_nearness(matrix: Matrix) -> Floats:
    """Return |ρ| times the overlap for every two columns; ranks are of the full column."""
    is_present = ~np.isnan(matrix)
    ranks = np.zeros(matrix.shape)
    for index in range(matrix.shape[1]):
        present_rows = is_present[:, index]
        ranks[present_rows, index] = (
            rankdata(matrix[present_rows, index]) if present_rows.any() else 0.0
        )
    presence = is_present.astype(np.float64)
    pair_counts = presence.T @ presence
    # Sums over the rows in which the other column is present.
    rank_sums = ranks.T @ presence
    square_sums = (ranks**2).T @ presence
    with np.errstate(all="ignore"):
        covariance = ranks.T @ ranks - rank_sums * rank_sums.T / pair_counts
        spread = square_sums - rank_sums**2 / pair_counts
        rho = covariance / np.sqrt(spread * spread.T)
    either_counts = presence.sum(axis=0)[:, None] + presence.sum(axis=0)[None, :] - pair_counts
    overlap = np.divide(
        pair_counts, either_counts, out=np.zeros_like(pair_counts), where=either_counts > 0
    )
    return np.where(np.isfinite(rho), np.clip(np.abs(rho), 0.0, 1.0) * overlap, 0.0)


def _fill_information_nearness(
    matrix: Matrix, categorical_indexes: Sequence[int], nearness: Floats
) -> None:
    """Fill in the pairs with at least one code column."""
    if not categorical_indexes:
        return
    code_columns = set(categorical_indexes)
    bin_counts = []
    bin_indexes = []
    for index in range(matrix.shape[1]):
        bins = learn_bins(
            matrix[:, index],
            is_categorical=index in code_columns,
            bins_max=CODE_BINS_MAX if index in code_columns else NUMERIC_BINS_MAX,
        )
        bin_counts.append(bins.bin_count)
        bin_indexes.append(bins.assign(matrix[:, index]))
    entropies = [
        entropy(bin_index, bin_count)
        for bin_index, bin_count in zip(bin_indexes, bin_counts, strict=True)
    ]
    for first in code_columns:
        for second in range(matrix.shape[1]):
            larger_entropy = max(entropies[first], entropies[second])
            share = (
                mutual_information(
                    bin_indexes[first], bin_indexes[second], bin_counts[first], bin_counts[second]
                )
                / larger_entropy
                if larger_entropy > 0
                else 0.0
            )
            nearness[first, second] = nearness[second, first] = min(max(share, 0.0), 1.0)

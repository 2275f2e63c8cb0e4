"""Importance of columns: loss on later data without a column, and gain of trees over chance.

*Permutation*: the column's values are exchanged and the model scores again. Importance is the drop
of the metric, paired by request. It is specific to one model, which regards each of several
redundant columns as superfluous, so groups are permuted together too. Source: Breiman, Machine
Learning 45 (2001), section 10.

*Null importance*: the gain that trees get from a column, compared with the gain when labels are
shuffled within requests. Trees favour columns with many values even if they carry no information,
and both gains contain this bias. Source: Altmann et al., Bioinformatics 26 (2010).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tailorbird.models.gbdt import Gbdt, GbdtSettings, Sample, fit_gbdt
from tailorbird.training.evaluation import metrics
from tailorbird.training.evaluation.figures import TOP_K
from tailorbird.training.selection.shuffles import shuffle_across_requests, shuffle_within_requests
from tailorbird.training.selection.signal_rows import SignalRows

Floats = npt.NDArray[np.float64]
Matrix = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

# Null fits have the same number of trees whatever the labels are.
NULL_SETTINGS = GbdtSettings(trees=60, rate=0.1, patience=0)


def measure_request_ndcg(model: Gbdt, matrix: Matrix, rows: SignalRows) -> Floats:
    """Return NDCG of each request, shape (requests,); NaN without a positive."""
    ranked_lists = metrics.rank_lists(model.score(matrix), rows.label, rows.offsets, k=TOP_K)
    return np.where(rows.has_both_classes, metrics.ndcg(ranked_lists, TOP_K), np.nan)


@dataclass(frozen=True)
class Permuter:
    """Measures the loss when columns of one model are permuted.

    Attributes:
        columns: indices of the model's columns in `rows.matrix`.
        rows: rows later than the model's training data; requests without a positive only cost time.
        is_request_level: shape (columns of the matrix,): whether a column is constant within
            requests.
    """

    model: Gbdt
    columns: Sequence[int]
    rows: SignalRows
    is_request_level: Bools
    repeats: int
    seed: int

    def measure_loss(self, columns: Sequence[int], unpermuted_ndcg: Floats) -> Floats:
        """Return the mean drop of each request when columns of the matrix are permuted together.

        Args:
            columns: indices of the columns.
            unpermuted_ndcg: `measure_request_ndcg` of the model on the unchanged rows.
        """
        permuted_matrix = np.ascontiguousarray(self.rows.matrix[:, self.columns])
        split_counts = self.model.booster.feature_importance("split", iteration=self.model.trees)
        used_columns = {
            column
            for column, split_count in zip(self.columns, split_counts, strict=True)
            if split_count
        }
        positions_and_columns = [
            (list(self.columns).index(column), column)
            for column in columns
            if column in used_columns
        ]
        total_drop = np.zeros(self.rows.request_count)
        if not positions_and_columns:
            return np.where(np.isnan(unpermuted_ndcg), np.nan, total_drop)
        original_matrix = permuted_matrix.copy()
        for repeat in range(self.repeats):
            rng = np.random.default_rng((self.seed, repeat, *columns))
            within_requests = shuffle_within_requests(self.rows.request_index, rng)
            across_requests = shuffle_across_requests(self.rows.offsets, rng)
            for position, column in positions_and_columns:
                permuted_matrix[:, position] = original_matrix[
                    across_requests if self.is_request_level[column] else within_requests, position
                ]
            total_drop += unpermuted_ndcg - measure_request_ndcg(
                self.model, permuted_matrix, self.rows
            )
        return total_drop / self.repeats


def measure_tree_gains(sample: Sample, columns: Sequence[str], settings: GbdtSettings) -> Floats:
    """Return the gain that small trees get from each column, shape (columns,)."""
    no_rows = Sample(sample.matrix[:0], sample.label[:0], None, None)
    booster = fit_gbdt(sample, no_rows, columns, settings).booster
    return booster.feature_importance("gain").astype(np.float64)


def shuffle_labels(sample: Sample, request: Ints, seed: int) -> Sample:
    """Return the rows with labels and weights shuffled within each request."""
    order = shuffle_within_requests(request, np.random.default_rng((seed, 1)))
    weight = None if sample.weight is None else sample.weight[order]
    return Sample(sample.matrix, sample.label[order], sample.lengths, weight)


def build_gain_fits(
    sample: Sample,
    request: Ints,
    columns: Sequence[str],
    *,
    real_count: int,
    null_count: int,
    seed: int,
) -> tuple[list[Callable[[], Floats]], list[Callable[[], Floats]]]:
    """Return deferred fits: with real labels under several seeds, and with shuffled labels."""

    def build_fit(seed_offset: int, is_shuffled: bool) -> Callable[[], Floats]:
        settings = replace(NULL_SETTINGS, seed=seed + seed_offset)
        return lambda: measure_tree_gains(
            shuffle_labels(sample, request, seed + seed_offset) if is_shuffled else sample,
            columns,
            settings,
        )

    return [build_fit(seed_offset, False) for seed_offset in range(real_count)], [
        build_fit(seed_offset, True) for seed_offset in range(null_count)
    ]

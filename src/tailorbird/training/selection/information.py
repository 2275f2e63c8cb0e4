"""Mutual information of single columns and the target, corrected for chance, and leaking columns.

Mutual information is biased upwards, more so with more bins. The null distribution is the same
figure after a shuffle: of labels within requests for item columns, of whole requests for request
columns. `bits` is the difference from the null's mean. A user column may tell how much the user
clicks and still nothing about which item.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.training.leakage.columns import find_leaking_columns
from tailorbird.training.selection.binning import entropy, learn_bins, mutual_information
from tailorbird.training.selection.shuffles import shuffle_across_requests, shuffle_within_requests
from tailorbird.training.selection.signal_rows import SignalRows

Bools = npt.NDArray[np.bool_]

BINS = 16
LEAK_SHARE = 0.5  # share of the target's entropy that an honest column rarely explains


@dataclass(frozen=True)
class ColumnInformation:
    """Mutual information of a column and the target.

    Attributes:
        bits: mutual information minus the mean of its null; about 0 for noise, and may be negative.
        z: distance to the null's mean in standard deviations of the null.
        entropy_share: `bits` as a share of the target's entropy.
    """

    bits: float
    z: float
    entropy_share: float


def measure_information(
    rows: SignalRows,
    categorical_indexes: Sequence[int],
    is_request_level: Bools,
    *,
    shuffle_count: int = 20,
    seed: int = 0,
) -> list[ColumnInformation]:
    """Measure the mutual information of each column and the label.

    Args:
        categorical_indexes: indices of the columns that hold codes.
        is_request_level: shape (columns,): whether a column is constant within each request.
        shuffle_count: number of shuffles that make the null distribution.
    """
    label = rows.label.astype(np.int64)
    label_entropy = entropy(label, 2)
    shuffled_labels_and_rows = []
    for shuffle_number in range(shuffle_count):
        rng = np.random.default_rng((seed, 2, shuffle_number))
        shuffled_labels_and_rows.append(
            (
                label[shuffle_within_requests(rows.request_index, rng)],
                shuffle_across_requests(rows.offsets, rng),
            )
        )
    information_by_column = []
    for column_index in range(rows.matrix.shape[1]):
        values = rows.matrix[:, column_index]
        bins = learn_bins(values, is_categorical=column_index in categorical_indexes, bins_max=BINS)
        bin_index = bins.assign(values)
        bin_count = bins.bin_count
        bits = mutual_information(bin_index, label, bin_count, 2)
        if is_request_level[column_index]:
            null_bits = np.array(
                [
                    mutual_information(bin_index[shuffled_rows], label, bin_count, 2)
                    for _, shuffled_rows in shuffled_labels_and_rows
                ]
            )
        else:
            null_bits = np.array(
                [
                    mutual_information(bin_index, shuffled_labels, bin_count, 2)
                    for shuffled_labels, _ in shuffled_labels_and_rows
                ]
            )
        excess_bits = bits - float(null_bits.mean())
        null_spread = float(null_bits.std(ddof=1))
        information_by_column.append(
            ColumnInformation(
                excess_bits,
                excess_bits / null_spread if null_spread > 1e-12 else 0.0,
                excess_bits / label_entropy if label_entropy > 0 else 0.0,
            )
        )
    return information_by_column


def find_leaks(
    column_names: Sequence[str],
    rows: SignalRows,
    information_by_column: Sequence[ColumnInformation],
) -> dict[str, str]:
    """Return columns that look like target leakage, with the reason."""
    reasons = find_leaking_columns(column_names, rows.matrix, rows.label)
    for name, information in zip(column_names, information_by_column, strict=True):
        if information.entropy_share >= LEAK_SHARE and name not in reasons:
            reasons[name] = (
                f"alone it tells {information.entropy_share:.0%} of what there is "
                "to know of the target"
            )
    return reasons

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
        share: `bits` as a share of the target's entropy.
    """

    bits: float
    z: float
    share: float


def measure_information(
    rows: SignalRows,
    categorical: Sequence[int],
    is_request_level: Bools,
    *,
    shuffle_count: int = 20,
    seed: int = 0,
) -> list[ColumnInformation]:
    """Measure the mutual information of each column and the label.

    Args:
        categorical: indices of the columns that hold codes.
        is_request_level: shape (columns,): whether a column is constant within each request.
        shuffle_count: number of shuffles that make the null distribution.
    """
    label = rows.label.astype(np.int64)
    label_entropy = entropy(label, 2)
    shuffles = []
    for number in range(shuffle_count):
        rng = np.random.default_rng((seed, 2, number))
        shuffles.append(
            (
                label[shuffle_within_requests(rows.request, rng)],
                shuffle_across_requests(rows.offsets, rng),
            )
        )
    measures = []
    for column in range(rows.matrix.shape[1]):
        values = rows.matrix[:, column]
        bins = learn_bins(values, categorical=column in categorical, bins_max=BINS)
        bin_index, size = bins.assign(values), bins.size
        bits = mutual_information(bin_index, label, size, 2)
        if is_request_level[column]:
            null = np.array(
                [mutual_information(bin_index[across], label, size, 2) for _, across in shuffles]
            )
        else:
            null = np.array(
                [mutual_information(bin_index, shuffled, size, 2) for shuffled, _ in shuffles]
            )
        excess = bits - float(null.mean())
        spread = float(null.std(ddof=1))
        measures.append(
            ColumnInformation(
                excess,
                excess / spread if spread > 1e-12 else 0.0,
                excess / label_entropy if label_entropy > 0 else 0.0,
            )
        )
    return measures


def find_leaks(
    names: Sequence[str], rows: SignalRows, measures: Sequence[ColumnInformation]
) -> dict[str, str]:
    """Return columns that look like target leakage, with the reason."""
    reasons = find_leaking_columns(names, rows.matrix, rows.label)
    for name, measure in zip(names, measures, strict=True):
        if measure.share >= LEAK_SHARE and name not in reasons:
            reasons[name] = (
                f"alone it tells {measure.share:.0%} of what there is to know of the target"
            )
    return reasons

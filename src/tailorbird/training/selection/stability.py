"""Stability of columns: drift of the distribution since the first period, and missing values.

    ├ 1st ┤ 2nd ┤ 3rd ┤ 4th ┤ … training   ├ later ┤

Bins are learned on the first period and stay fixed. Only requests drawn independently of their
outcome are used, since requests with a click differ at any time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from tailorbird.training.selection.binning import learn_bins, population_stability
from tailorbird.training.selection.signal_rows import SignalRows

Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

PERIODS = 4  # of the training part
STABILITY_INDEX_MAX = 0.25  # conventional limit of another population


@dataclass(frozen=True)
class Stability:
    """Drift and missing values of columns.

    Attributes:
        drift: shape (columns, periods), PSI of each period after the first; the last period is
            later than training.
        period_starts: start of each of these periods, microseconds.
        missing_shares: shape (columns,), share of later rows in which the column is missing.
    """

    drift: Floats
    period_starts: tuple[int, ...]
    missing_shares: Floats

    @property
    def worst_drift(self) -> Floats:
        """Return the largest drift of each column."""
        return self.drift.max(axis=1)


def measure_stability(
    train: SignalRows,
    later: SignalRows,
    categorical_indexes: Sequence[int],
    is_request_level: Bools,
) -> Stability:
    """Measure drift and missing values; request-level columns count once per request.

    Args:
        later: rows after those of training.
    """
    period_bounds = np.linspace(0, train.request_count, PERIODS + 1).astype(np.int64)
    request_number = np.arange(train.request_count)
    rows_by_period = [
        train.take((request_number >= first_request) & (request_number < end_request))
        for first_request, end_request in pairwise(period_bounds)
    ]
    rows_by_period.append(later.take(later.is_uniform_draw))
    drift = np.zeros((len(is_request_level), len(rows_by_period) - 1))
    missing_shares = np.zeros(len(is_request_level))
    for column in range(len(is_request_level)):
        values_by_period = [
            _select_column_values(rows, column, is_request_level[column]) for rows in rows_by_period
        ]
        bins = learn_bins(values_by_period[0], is_categorical=column in categorical_indexes)
        bins_by_period = [bins.assign(column_values) for column_values in values_by_period]
        drift[column] = [
            population_stability(bins_by_period[0], period_bins, bins.bin_count)
            for period_bins in bins_by_period[1:]
        ]
        missing_shares[column] = np.mean(bins_by_period[-1] == 0)
    return Stability(drift, tuple(int(rows.t[0]) for rows in rows_by_period[1:]), missing_shares)


def _select_column_values(
    rows: SignalRows, column: int, is_request_level: bool
) -> npt.NDArray[np.float32]:
    return rows.matrix[rows.offsets[:-1], column] if is_request_level else rows.matrix[:, column]

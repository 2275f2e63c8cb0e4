"""Whether a column is still the same population later: drift of its distribution from the first
period on, and how often it is missing.

    ├ 1st ┤ 2nd ┤ 3rd ┤ 4th ┤ … training   ├ later ┤        bins are learned on the first, and constant

Only requests that were drawn whatever came of them are looked at: those with a click are others at
any time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from tailorbird.training.binning import drift, learn_bins
from tailorbird.training.signal_rows import SignalRows

Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

PERIODS = 4  # of the training part
UNSTABLE = 0.25  # by custom: another population


@dataclass(frozen=True)
class Stability:
    """Attributes:
    drift: shape (columns, periods): of each period after the first against the first; the last one
    is later than training. periods: when each of these begins, microseconds. missing: shape
    (columns,), share of later rows in which the column is missing.
    """

    drift: Floats
    periods: tuple[int, ...]
    missing: Floats

    @property
    def worst(self) -> Floats:
        """The largest drift of each column."""
        return self.drift.max(axis=1)


def stability(
    train: SignalRows, later: SignalRows, categorical: Sequence[int], of_request: Bools
) -> Stability:
    """Drift of all columns; of one value for each request where the column is of the request."""
    cuts = np.linspace(0, train.requests, PERIODS + 1).astype(np.int64)
    number = np.arange(train.requests)
    sets = [train.take((number >= low) & (number < high)) for low, high in pairwise(cuts)]
    sets.append(later.take(later.evenly))
    table = np.zeros((len(of_request), len(sets) - 1))
    missing = np.zeros(len(of_request))
    for column in range(len(of_request)):
        values = [_values(rows, column, of_request[column]) for rows in sets]
        bins = learn_bins(values[0], categorical=column in categorical)
        places = [bins.place(each) for each in values]
        table[column] = [drift(places[0], each, bins.size) for each in places[1:]]
        missing[column] = np.mean(places[-1] == 0)
    return Stability(table, tuple(int(rows.t[0]) for rows in sets[1:]), missing)


def _values(rows: SignalRows, column: int, of_request: bool) -> npt.NDArray[np.float32]:
    return rows.matrix[rows.offsets[:-1], column] if of_request else rows.matrix[:, column]

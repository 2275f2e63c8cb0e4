"""What a column alone tells of the target, beside what it would seem to tell by chance; and whether
it tells too much.

Mutual information is biased upwards, the more so the more bins. Its null is the same figure after a
shuffle: of labels within requests for columns of the item, of whole requests for columns of who
asks. `bits` is the difference to the null's mean. A column of the person may tell how much that
person clicks, and still nothing of which item.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.training.binning import entropy, information, learn_bins
from tailorbird.training.giveaways import suspicious
from tailorbird.training.shuffling import among_requests, within_requests
from tailorbird.training.signal_rows import SignalRows

Bools = npt.NDArray[np.bool_]

BINS = 16
LEAK_SHARE = 0.5  # of the target's entropy: what is left to guess, an honest column rarely halves


@dataclass(frozen=True)
class Told:
    """Attributes:
    bits: mutual information with the target less the mean of its null; about 0 for noise, and may
    fall below. z: how many standard deviations of the null it lies above the null. share: `bits` as
    a share of the target's entropy.
    """

    bits: float
    z: float
    share: float


def told_by(
    rows: SignalRows,
    categorical: Sequence[int],
    of_request: Bools,
    *,
    nulls: int = 20,
    seed: int = 0,
) -> list[Told]:
    """For each column what it tells of the label."""
    label = rows.label.astype(np.int64)
    whole = entropy(label, 2)
    shuffles = []
    for number in range(nulls):
        rng = np.random.default_rng((seed, 2, number))
        shuffles.append(
            (label[within_requests(rows.request, rng)], among_requests(rows.offsets, rng))
        )
    found = []
    for column in range(rows.matrix.shape[1]):
        values = rows.matrix[:, column]
        bins = learn_bins(values, categorical=column in categorical, bins_max=BINS)
        place, size = bins.place(values), bins.size
        bits = information(place, label, size, 2)
        if of_request[column]:
            null = np.array([information(place[across], label, size, 2) for _, across in shuffles])
        else:
            null = np.array([information(place, shuffled, size, 2) for shuffled, _ in shuffles])
        above = bits - float(null.mean())
        spread = float(null.std(ddof=1))
        found.append(
            Told(
                above,
                above / spread if spread > 1e-12 else 0.0,
                above / whole if whole > 0 else 0.0,
            )
        )
    return found


def leaks(names: Sequence[str], rows: SignalRows, told: Sequence[Told]) -> dict[str, str]:
    """Columns that look as if they knew the answer, with why."""
    found = suspicious(names, rows.matrix, rows.label)
    for name, one in zip(names, told, strict=True):
        if one.share >= LEAK_SHARE and name not in found:
            found[name] = f"alone it tells {one.share:.0%} of what there is to know of the target"
    return found

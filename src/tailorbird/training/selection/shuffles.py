"""Shuffles of values within their request, or of whole requests.

An item column tells which of a request's items is better, so its values are exchanged within the
request. A user column is constant within a request, so requests exchange their values. Either way
every value is one that occurs.
"""

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def shuffle_within_requests(request: Ints, rng: np.random.Generator) -> Ints:
    """Return for each row the row of its request to take the value from; `request` ascends."""
    return np.lexsort((rng.random(len(request)), request))


def shuffle_across_requests(offsets: Ints, rng: np.random.Generator) -> Ints:
    """Return for each row the first row of another request, the same for the whole request."""
    request_order = rng.permutation(len(offsets) - 1)
    return np.repeat(offsets[:-1][request_order], np.diff(offsets))

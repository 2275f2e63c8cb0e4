"""Shuffles that keep what must stay together: values within their request, or whole requests among
each other.

A column of the item says which of a request's items is better, so its values are exchanged within
the request; one of the person is the same for all of them, so requests exchange theirs. Either way
every value is one that does occur.
"""

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def within_requests(request: Ints, rng: np.random.Generator) -> Ints:
    """For each row the row whose value it takes, one of its own request; `request` (n,) ascends."""
    return np.lexsort((rng.random(len(request)), request))


def among_requests(offsets: Ints, rng: np.random.Generator) -> Ints:
    """For each row the row whose value it takes: the first of another request, the same for the
    whole request.
    """
    other = rng.permutation(len(offsets) - 1)
    return np.repeat(offsets[:-1][other], np.diff(offsets))

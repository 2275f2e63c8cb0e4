"""The value formula: what an item is worth to a slot, as a weighted sum of what is likely to happen.

value = sum over heads of weight * calibrated probability. A slot may change its weights without a new model.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from tailorbird.errors import BundleError

Floats = npt.NDArray[np.float64]


def missing_heads(objective: Mapping[str, float], heads: Iterable[str]) -> tuple[str, ...]:
    """The heads that an objective asks for and the bundle does not have."""
    known = set(heads)
    return tuple(head for head in objective if head not in known)


def value(heads: Mapping[str, Floats], objective: Mapping[str, float]) -> Floats:
    """The value (n,) of n items.

    A head that the bundle lacks is left out: an answer by clicks alone is better than none. Who changes an objective
    checks it with `missing_heads`.

    Raises:
        BundleError: the bundle has none of the heads.
    """
    present = [head for head in objective if head in heads]  # in the objective's order, so that the sum is the same each time
    if not present:
        raise BundleError(f"predicts {', '.join(heads) or 'nothing'}, while the objective asks for {', '.join(objective) or 'nothing'}")
    total = np.zeros_like(heads[present[0]])
    for head in present:
        total += float(objective[head]) * heads[head]
    return total

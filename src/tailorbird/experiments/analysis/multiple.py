"""Adjusted p-values for several arms."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def adjust_holm(p: npt.ArrayLike) -> Floats:
    """Return p-values adjusted so that any false rejection has at most the level's chance.

    A p-value that is NaN stays so, and does not count.

    >>> adjust_holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, np.float64)
    # NaN sorts last
    ascending_rows = np.argsort(values)
    count = np.isfinite(values).sum()
    adjusted = np.maximum.accumulate(values[ascending_rows] * (count - np.arange(len(values))))
    result = np.empty_like(values)
    result[ascending_rows] = np.minimum(adjusted, 1.0)
    return result

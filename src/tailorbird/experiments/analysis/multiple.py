"""Adjusted p-values for several metrics or arms."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def holm(p: npt.ArrayLike) -> Floats:
    """Return p-values adjusted so that any false rejection has at most the level's chance.

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, np.float64)
    order, count = np.argsort(values), len(values)
    adjusted = np.maximum.accumulate(values[order] * (count - np.arange(count)))
    return _restore(adjusted, order)


def benjamini_hochberg(p: npt.ArrayLike) -> Floats:
    """Return p-values adjusted so that the expected share of false rejections is at most the level.

    >>> benjamini_hochberg([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.04, 0.04]
    """
    values = np.asarray(p, np.float64)
    order, count = np.argsort(values), len(values)
    scaled = values[order] * count / np.arange(1, count + 1)
    return _restore(np.minimum.accumulate(scaled[::-1])[::-1], order)


def _restore(adjusted: Floats, order: npt.NDArray[np.intp]) -> Floats:
    result = np.empty_like(adjusted)
    result[order] = np.minimum(adjusted, 1.0)
    return result

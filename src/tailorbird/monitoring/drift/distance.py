"""Distances between histograms of one signal."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# A signal moves by the larger of its distance and the change in its share of missing values.
# In standard deviations of a normal feature, a distance of .03 is a shift by about a tenth.
SMALLEST_EFFECT = 0.03


def distances(counts: Floats, reference: Floats, *, is_category: bool) -> Floats:
    """Return the distance of each window to its reference.

    The first bin is for missing values, and is compared by its share. Numbers are compared by the
    Wasserstein distance after the reference's own quantile transform, which needs no unit: the mean
    difference of the distribution functions, between 0 and 0.5. Categories are compared by the
    root of the Jensen–Shannon divergence, in bits and halved, between 0 and 0.5.

    Args:
        counts, reference: shape (windows, bins).
    """
    missing_distance = np.abs(_share(counts)[:, 0] - _share(reference)[:, 0])
    p = _share(counts[:, 1:])
    q = _share(reference[:, 1:])
    if is_category:
        mixture = 0.5 * (p + q)
        divergence = 0.5 * (_relative_entropy(p, mixture) + _relative_entropy(q, mixture))
        bin_distance = 0.5 * np.sqrt(np.maximum(divergence, 0.0))
    else:
        below_p = np.cumsum(p, axis=1)
        below_q = np.cumsum(q, axis=1)
        # A bin counts by half of its mass on either side, so that ties move nothing.
        gap = np.abs((below_p - 0.5 * p) - (below_q - 0.5 * q))
        bin_distance = (gap * 0.5 * (p + q)).sum(axis=1)
    return np.maximum(bin_distance, missing_distance)


def _share(counts: Floats) -> Floats:
    total = counts.sum(axis=1, keepdims=True)
    return np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)


def _relative_entropy(p: Floats, q: Floats) -> Floats:
    ratio = np.divide(p, q, out=np.ones_like(p), where=(p > 0) & (q > 0))
    return (p * np.log2(ratio)).sum(axis=1)

"""Even sampling of indices."""

import numpy as np
import numpy.typing as npt


def thin_evenly(indices: npt.NDArray[np.int64], limit: int, seed: int) -> npt.NDArray[np.int64]:
    """Return at most `limit` of the indices, drawn evenly, in order; 0 keeps all."""
    if not limit or len(indices) <= limit:
        return indices
    return np.sort(np.random.default_rng(seed).choice(indices, limit, replace=False))

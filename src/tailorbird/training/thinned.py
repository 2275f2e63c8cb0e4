"""Some of many, drawn evenly."""

import numpy as np
import numpy.typing as npt


def thinned(chosen: npt.NDArray[np.int64], limit: int, seed: int) -> npt.NDArray[np.int64]:
    """Return at most `limit` of the indices, drawn evenly, in order; 0 keeps all."""
    if not limit or len(chosen) <= limit:
        return chosen
    return np.sort(np.random.default_rng(seed).choice(chosen, limit, replace=False))

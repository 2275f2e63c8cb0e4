"""What a similarity is, in plain Python: the meaning that `ranking.similarities` is tested against.

It shares nothing with what it checks: a table is a dictionary of dictionaries, a sequence a list.
"""

import struct
from collections.abc import Mapping, Sequence

from tailorbird.features.declare import Similarity

Table = Mapping[str, Mapping[str, float]]


def similarity(feature: Similarity, recent: Sequence[str | None], candidate: str, t: int, tables: Mapping[int, Table]) -> float:
    """How much a candidate goes with what somebody did last.

    Args:
        recent: the items of the sequence, oldest first; None for an event without one, which ages the others all the same.
        tables: by the moment until which each was trained: item → what goes with it → how much. An item that a table knows is in it.
    Returns:
        A float32; NaN where it is missing.
    """
    trained = [moment for moment in tables if moment <= t]
    if not trained:
        return float("nan")
    table = tables[max(trained)]
    weight, value, heard = 1.0, 0.0, False
    for item in list(reversed(recent))[: feature.length]:
        if item in table:
            heard = True
            worth = weight * table[item].get(candidate, 0.0)
            value = max(value, worth) if feature.how == "max" else value + worth
        weight *= feature.decay
    if not heard or candidate not in table:
        return float("nan")
    return struct.unpack("f", struct.pack("f", value))[0]

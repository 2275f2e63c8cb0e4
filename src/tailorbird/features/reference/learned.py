"""The definition of a similarity in plain Python, against which `ranking.encode.similarities` is
tested.

It shares no code with what it checks: a table is a dictionary of dictionaries, a sequence a list.
"""

import struct
from collections.abc import Mapping, Sequence

from tailorbird.features.declare.declarations import Similarity

Table = Mapping[str, Mapping[str, float]]


def similarity(
    feature: Similarity, recent_items: Sequence[str | None], candidate: str, table: Table
) -> float:
    """Return how much a candidate goes with what somebody did last.

    Args:
        recent_items: the items of the sequence, oldest first; None for an event without one,
            which ages the others all the same.
        table: item → what goes with it → how much, as of the request.
    Returns:
        A float32; NaN where it is missing.
    """
    weight = 1.0
    value = 0.0
    has_neighbours = False
    for item in list(reversed(recent_items))[: feature.length]:
        neighbours = table.get(item, {}) if item is not None else {}
        has_neighbours = has_neighbours or bool(neighbours)
        contribution = neighbours.get(candidate, 0.0) * weight
        value = max(value, contribution) if feature.how == "max" else value + contribution
        weight *= feature.decay
    return struct.unpack("f", struct.pack("f", value))[0] if has_neighbours else float("nan")

"""Facets: how the hits of a search divide by an attribute, for the lists of boxes beside them."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from tailorbird.retrieval.columns import TextColumn
from tailorbird.retrieval.index import Index, Rows

VALUES_MAX = 30


@dataclass(frozen=True)
class Facet:
    """What some items have of one attribute.

    Attributes:
        counts: value → how many items have it, the most frequent first, at most `VALUES_MAX`; an
            item with a list counts for each part. Empty where the attribute is a number.
        missing: how many items have none. low, high: of an attribute that is a number; None where
        it is not, or no item has it.
    """

    counts: dict[str, int]
    missing: int
    low: float | None = None
    high: float | None = None


def facet_of(index: Index, rows: Rows, name: str) -> Facet | None:
    """How the items at `rows` divide by the attribute `name`; None where no item of the index has
    such an attribute.
    """
    column = index.attributes.get(name)
    if column is None:
        return None
    if not isinstance(column, TextColumn):
        numbers = column[rows]
        there = numbers[~np.isnan(numbers)]
        low, high = (float(there.min()), float(there.max())) if there.size else (None, None)
        return Facet({}, int(numbers.size - there.size), low, high)
    codes = column.codes[rows]
    there, counts = np.unique(codes[codes >= 0], return_counts=True)
    parts: Counter[str] = Counter()
    for code, count in zip(there.tolist(), counts.tolist(), strict=True):
        for part in dict.fromkeys(column.values[code].split("|")):
            parts[part] += count
    best = sorted(parts.items(), key=lambda one: (-one[1], one[0]))[:VALUES_MAX]
    return Facet(dict(best), int((codes < 0).sum()))

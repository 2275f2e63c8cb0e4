"""Facets: counts of attribute values among the matches of a search."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from tailorbird.retrieval.columns import TextColumn
from tailorbird.retrieval.index import Index, Rows

FACET_VALUES_MAX = 30


@dataclass(frozen=True)
class Facet:
    """The distribution of one attribute over some items.

    Attributes:
        counts: value → number of items, the most frequent first, at most `FACET_VALUES_MAX`; an
            item with a list counts for each part. Empty if the attribute is numeric.
        missing: number of items without a value.
        low, high: range of a numeric attribute; None if it is not numeric or has no value.
    """

    counts: dict[str, int]
    missing: int
    low: float | None = None
    high: float | None = None


def compute_facet(index: Index, rows: Rows, name: str) -> Facet | None:
    """Return the facet of the items at `rows`; None if the index has no such attribute."""
    column = index.attributes.get(name)
    if column is None:
        return None
    if not isinstance(column, TextColumn):
        numbers = column[rows]
        present_numbers = numbers[~np.isnan(numbers)]
        low, high = (
            (float(present_numbers.min()), float(present_numbers.max()))
            if present_numbers.size
            else (None, None)
        )
        return Facet({}, int(numbers.size - present_numbers.size), low, high)
    codes = column.codes[rows]
    present_codes, counts = np.unique(codes[codes >= 0], return_counts=True)
    part_counts: Counter[str] = Counter()
    for code, count in zip(present_codes.tolist(), counts.tolist(), strict=True):
        for part in dict.fromkeys(column.values[code].split("|")):
            part_counts[part] += count
    most_frequent = sorted(part_counts.items(), key=lambda entry: (-entry[1], entry[0]))[
        :FACET_VALUES_MAX
    ]
    return Facet(dict(most_frequent), int((codes < 0).sum()))

"""Merging of the candidate lists of several sources without duplicates.

A source contributes up to its limit of items that no earlier source had, plus any shortfall of the
sources before it. So a request has as many candidates as the limits sum to, if enough exist.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float64]


CANDIDATES_MAX = 500  # of a request, from all sources together


def bound_limits(source_limits: Mapping[str, int]) -> dict[str, int]:
    """Scale the limits of a slot's sources so that they sum to at most `CANDIDATES_MAX`."""
    total = sum(source_limits.values())
    if total <= CANDIDATES_MAX:
        return dict(source_limits)
    return {name: limit * CANDIDATES_MAX // total for name, limit in source_limits.items()}


@dataclass(frozen=True)
class MergedItems:
    """Items to rank, each once, in the order in which sources gave them; arrays of shape (n,).

    Attributes:
        rows: numbers of the items.
        source_index: index into `source_names` of the first source that gave the item.
        scores: its score there; comparable within a source only.
        source_names: the requested sources.
    """

    rows: Rows
    source_index: npt.NDArray[np.intp]
    scores: Floats
    source_names: tuple[str, ...] = ()

    @property
    def contributed_counts(self) -> Mapping[str, int]:
        """The number of items that each source contributed first."""
        return dict(
            zip(
                self.source_names,
                np.bincount(self.source_index, minlength=len(self.source_names)).tolist(),
                strict=True,
            )
        )

    def item_source_names(self) -> list[str]:
        return [self.source_names[code] for code in self.source_index.tolist()]


class ListMerger:
    """A merger of candidate lists; call `add` in the slot's order.

    Args:
        item_count: rows are below this.
    """

    def __init__(self, item_count: int) -> None:
        self._is_merged = np.zeros(item_count, bool)
        self._lists: list[tuple[str, Rows, Floats]] = []
        self._unused_limit = 0
        self.merged_count = 0

    def add(self, name: str, limit: int, rows: Rows, scores: Floats) -> None:
        """Add the next source's list: eligible rows, best first, each once."""
        self._unused_limit += limit
        new_positions = np.flatnonzero(~self._is_merged[rows])[: self._unused_limit]
        rows = rows[new_positions]
        self._is_merged[rows] = True
        self._lists.append((name, rows, scores[new_positions]))
        self._unused_limit -= len(new_positions)
        self.merged_count += len(new_positions)

    def result(self) -> MergedItems:
        names = tuple(name for name, _, _ in self._lists)
        rows = np.concatenate([np.zeros(0, np.intp), *(rows for _, rows, _ in self._lists)])
        all_scores = np.concatenate([np.zeros(0), *(scores for _, _, scores in self._lists)])
        return MergedItems(
            rows,
            np.repeat(np.arange(len(names)), [len(rows) for _, rows, _ in self._lists]),
            all_scores,
            names,
        )

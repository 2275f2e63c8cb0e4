"""Candidates of one request: the lists of several sources, merged without repeats.

A source gives as many items as its limit that none before it had, and what one lacks the next may
give more. So a request has as many candidates as the limits add up to, as long as anything is left.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float64]


CANDIDATES_MAX = 500  # of a request, from all sources together


def bounded(sources: Mapping[str, int]) -> dict[str, int]:
    """Return the sources of a slot with limits that add up to at most `CANDIDATES_MAX`."""
    total = sum(sources.values())
    if total <= CANDIDATES_MAX:
        return dict(sources)
    return {name: limit * CANDIDATES_MAX // total for name, limit in sources.items()}


@dataclass(frozen=True)
class Merged:
    """Items to be ranked, each once, in the order in which sources gave them; (n,) each.

    Attributes:
        rows: numbers of the items.
        source: index into `names` of the first source that gave the item.
        score: its score there; comparable within a source only.
        names: of the sources that were asked.
    """

    rows: Rows
    source: npt.NDArray[np.intp]
    score: Floats
    names: tuple[str, ...] = ()

    @property
    def contributed(self) -> Mapping[str, int]:
        """By source, how many items came first from it."""
        return dict(
            zip(
                self.names,
                np.bincount(self.source, minlength=len(self.names)).tolist(),
                strict=True,
            )
        )

    def source_names(self) -> list[str]:
        return [self.names[code] for code in self.source.tolist()]


class Merge:
    """Puts lists together; `add` them in the slot's order.

    Args:
        items: rows are below this.
    """

    def __init__(self, items: int) -> None:
        self._had = np.zeros(items, bool)
        self._parts: list[tuple[str, Rows, Floats]] = []
        self._owed = 0
        self.size = 0

    def add(self, name: str, limit: int, rows: Rows, scores: Floats) -> None:
        """Take the next source's list: rows that may be shown, best first, each once."""
        self._owed += limit
        new = np.flatnonzero(~self._had[rows])[: self._owed]
        rows = rows[new]
        self._had[rows] = True
        self._parts.append((name, rows, scores[new]))
        self._owed -= len(new)
        self.size += len(new)

    def all(self) -> Merged:
        names = tuple(name for name, _, _ in self._parts)
        rows = np.concatenate([np.zeros(0, np.intp), *(rows for _, rows, _ in self._parts)])
        score = np.concatenate([np.zeros(0), *(scores for _, _, scores in self._parts)])
        return Merged(
            rows,
            np.repeat(np.arange(len(names)), [len(rows) for _, rows, _ in self._parts]),
            score,
            names,
        )

"""Candidates of one request: several sources asked at once, merged without repeats, with what each contributed.

The sources of a slot are declared in `ranking.slot`; rules and scores come after, in `ranking`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.retrieval.index import RECENT_MAX, Found, Index, Keys, Rows

# A source's code is its place here; new ones go to the end, since codes are logged.
SOURCES = ("item_to_item", "popular", "popular_in_category", "fresh", "search", "given")
_NOTHING = Found(np.zeros(0, np.intp), np.zeros(0))


@dataclass(frozen=True)
class Candidates:
    """Items to be ranked, each once.

    Attributes:
        rows: (n,): rows of the index.
        source: uint8 (n,): code of the first source, in the slot's order, that had the item; see `SOURCES`.
        also: uint16 (n,): bit c is set if the source with code c had it too.
        score: float64 (n,): its score in that first source; comparable within a source only.
        contributed: source → how many items came first from it.
    """

    rows: Rows
    source: npt.NDArray[np.uint8]
    also: npt.NDArray[np.uint16]
    score: npt.NDArray[np.float64]
    contributed: Mapping[str, int]

    def take(self, kept: npt.NDArray[np.bool_] | Rows) -> "Candidates":
        """Some of the candidates, by mask or position; `contributed` stays as it was."""
        return Candidates(self.rows[kept], self.source[kept], self.also[kept], self.score[kept], self.contributed)

    def source_names(self) -> list[str]:
        """The name of each candidate's first source."""
        return [SOURCES[code] for code in self.source.tolist()]


def candidates(
    index: Index,
    sources: Mapping[str, int],
    *,
    recent: Keys | None = None,
    category: str | None = None,
    query: str | None = None,
    given: Rows | None = None,
) -> Candidates:
    """Ask the sources and merge what they found.

    Args:
        index: what to ask.
        sources: source → how many at most, as in `Slot.sources`; earlier ones own what several found.
        recent: keys of the person's newest items, oldest first.
        category: for `popular_in_category`; without it, the category most frequent among the recent items.
        query: for `search`.
        given: rows of the caller's own candidates, which come first.
    """
    recent = np.zeros(0, np.uint64) if recent is None else recent
    found: dict[str, Found] = {}
    if given is not None:
        found["given"] = Found(given, np.zeros(given.size))
    for source, limit in sources.items():
        found[source] = _ask(index, source, limit, recent, category, query)
    return _merge(found)


def _ask(index: Index, source: str, limit: int, recent: Keys, category: str | None, query: str | None) -> Found:
    if source == "item_to_item":
        return index.item_to_item(recent, limit)
    if source == "popular":
        return index.popular(limit)
    if source == "popular_in_category":
        category = category if category is not None else _favourite(index, recent)
        return index.popular(limit, category) if category else _NOTHING
    if source == "fresh":
        return index.fresh(limit)
    if source == "search":
        return index.search(query, limit) if query else _NOTHING
    return _NOTHING


def _favourite(index: Index, recent: Keys) -> str:
    """The category most frequent among the newest items, "" if none has one."""
    rows = index.find(recent[-RECENT_MAX:])
    codes = index.category.codes[rows[rows >= 0]]
    codes = codes[codes >= 0]
    return index.category.values[int(np.bincount(codes).argmax())] if codes.size else ""


def _merge(found: Mapping[str, Found]) -> Candidates:
    rows = np.concatenate([each.rows for each in found.values()] or [_NOTHING.rows])
    scores = np.concatenate([each.scores for each in found.values()] or [_NOTHING.scores])
    codes = np.repeat(np.array([SOURCES.index(name) for name in found], np.uint8), [each.rows.size for each in found.values()])
    unique, first, position = np.unique(rows, return_index=True, return_inverse=True)
    also = np.zeros(unique.size, np.uint16)
    np.bitwise_or.at(also, position, np.left_shift(np.uint16(1), codes.astype(np.uint16)))
    order = np.argsort(first, kind="stable")  # as the sources gave them
    source = codes[first][order]
    counts = np.bincount(source, minlength=len(SOURCES))
    contributed = {name: int(counts[SOURCES.index(name)]) for name in found}
    return Candidates(unique[order], source, also[order], scores[first][order], contributed)

"""Candidates of one request: several sources asked one after the other, merged without repeats, with what each contributed.

A source gives as many items as its limit that none before it had, and what one of them lacks the next may give more: a request has as many
candidates as the limits add up to, as long as anything is left.

The sources of a slot are declared in `ranking.slot`; rules and scores come after, in `ranking`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from tailorbird.retrieval import sessions
from tailorbird.retrieval.cooccurrence import RECENT_DECAY
from tailorbird.retrieval.index import Found, Index, Keys, Rows, Times
from tailorbird.retrieval.synonyms import Words

# A source's code is its place here; new ones go to the end, since codes are logged.
SOURCES = ("item_to_item", "popular", "popular_in_category", "fresh", "search", "given", "pinned", "sequence", "clusters")
SOURCES += (*sessions.SOURCES, "trending", "own_history", "editorial", "popular_by", "trending_by")
EDITORIAL = "editorial"  # of which a slot names a list: `editorial:summer`
# Of which a slot names a field: `popular_by:country`. Over which time they count, and what is asked where a segment says nothing.
BY_SEGMENT = {"popular_by": ("7d", "popular"), "trending_by": ("1h", "trending")}
SHARES = (1 / 3, 2 / 3)  # of a slot's candidates, that may come from vectors where there are some: training chooses
Lists = Mapping[str, Keys]  # name → items, the first first
_NOTHING = Found(np.zeros(0, np.intp), np.zeros(0))


@dataclass(frozen=True)
class Candidates:
    """Items to be ranked, each once.

    Attributes:
        rows: (n,): rows of the index.
        source: uint8 (n,): code of the first source, in the slot's order, that had the item; see `SOURCES`.
        also: uint16 (n,): bit c is set if the source with code c had it too.
        score: float64 (n,): its score in that first source; comparable within a source only.
        contributed: source, as the slot names it → how many items came first from it.
        left_out: sources that were not asked, for want of time.
    """

    rows: Rows
    source: npt.NDArray[np.uint8]
    also: npt.NDArray[np.uint16]
    score: npt.NDArray[np.float64]
    contributed: Mapping[str, int]
    left_out: tuple[str, ...] = ()

    def take(self, kept: npt.NDArray[np.bool_] | Rows) -> "Candidates":
        """Some of the candidates, by mask or position; `contributed` stays as it was."""
        return Candidates(self.rows[kept], self.source[kept], self.also[kept], self.score[kept], self.contributed, self.left_out)

    def source_names(self) -> list[str]:
        """The name of each candidate's first source."""
        return [SOURCES[code] for code in self.source.tolist()]


def with_sequence(sources: Mapping[str, int], share: float = SHARES[0]) -> dict[str, int]:
    """The sources of a slot where people have vectors: as many candidates, a share of them by `sequence`, unless the slot says how many.

    A slot that does not ask for what goes with a person's items is left as it is.
    """
    if "sequence" in sources or "item_to_item" not in sources:
        return dict(sources)
    total = sum(sources.values())
    near = int(total * share)
    return {"sequence": near} | {name: limit * (total - near) // total for name, limit in sources.items()}


def candidates(
    index: Index,
    sources: Mapping[str, int],
    *,
    recent: Keys | None = None,
    recent_ts: Times | None = None,
    around: Keys | None = None,
    category: str | None = None,
    query: str | None = None,
    beside: Sequence[Words] = (),
    given: Rows | None = None,
    lists: Lists = MappingProxyType({}),
    context: Mapping[str, str | None] = MappingProxyType({}),
    late: Callable[[], bool] = lambda: False,
    near: Callable[[int], Found] | None = None,
) -> Candidates:
    """Ask the sources and merge what they found.

    Args:
        index: what to ask.
        sources: source → how many it adds to those before it, as in `Slot.sources`; earlier ones own what several found.
        recent: keys of the person's newest items, oldest first.
        recent_ts: when these were, for `sessions` and `stan`; without it they are one session.
        around: keys of all that is known to have been before the person, oldest first; `recent`, unless told. See `in_order`.
        category: for `popular_in_category`; without it, the categories of the items `around`.
        query: for `search`.
        beside: phrases that mean the same as the query.
        given: rows of the caller's own candidates, which come first.
        lists: for `editorial:NAME`; one that is not there is empty.
        context: `country` and `device` of who asks, for `popular_by` and `trending_by`.
        late: asked before each source once one has found something; no more sources are asked when it is true.
        near: for `sequence`: so many items nearest to the person's vector; None where nobody has one.
    """
    recent = np.zeros(0, np.uint64) if recent is None else recent
    recent_ts = np.zeros(0, np.int64) if recent_ts is None else recent_ts
    around = recent if around is None else around
    merged, left_out, owed = _Merged(len(index)), [], 0
    if given is not None:
        merged.add("given", Found(given, np.zeros(given.size)), given.size, "given")
    for source, limit in sources.items():
        if left_out or (late() and merged.size):
            left_out.append(source)
            continue
        owed += limit
        # As many more as were found before: so many of what it gives may be known.
        asked = owed + merged.size if owed else 0
        kind = kind_of(source)
        if kind == EDITORIAL:
            answer = _listed(index, lists.get(source.partition(":")[2]), asked)
        elif kind in BY_SEGMENT:
            kind, answer = by_segment(index, source, context, asked)
        else:
            answer = _ask(index, source, asked, recent, recent_ts, around, category, query, beside, near)
        owed -= merged.add(source, answer, owed, kind)
    return merged.all(tuple(left_out))


def by_segment(index: Index, source: str, context: Mapping[str, str | None], limit: int) -> tuple[str, Found]:
    """What `popular_by:FIELD` or `trending_by:FIELD` finds, and which kind of source gave it: the same for everybody where the segment
    is not known or too small."""
    kind, _, field = source.partition(":")
    window, instead = BY_SEGMENT[kind]
    found = index.popular_by(field, context.get(field), limit, window=window)
    return (kind, found) if found is not None else (instead, index.popular(limit, window=window))


def kind_of(source: str) -> str:
    """`editorial` of `editorial:summer`; others are their own."""
    return source.partition(":")[0]


class _Merged:
    """What sources found so far, each item once."""

    def __init__(self, items: int) -> None:
        self._had = np.zeros(items, np.uint16)  # by row, the bits of the sources that had it
        self._parts: dict[str, Found] = {}
        self._codes: list[int] = []  # of the kind that gave each part
        self.size = 0

    def add(self, source: str, found: Found, most: int, kind: str) -> int:
        """Take at most so many items that are new, with what of it was known before them; how many were new."""
        code = SOURCES.index(kind)
        rows, bit = found.rows, np.uint16(1 << code)
        new = np.flatnonzero(self._had[rows] == 0)
        if new.size > most:
            rows, new = rows[: new[most]], new[:most]
        self._had[rows] |= bit
        self._parts[source] = Found(rows[new], found.scores[new])
        self._codes.append(code)
        self.size += new.size
        return new.size

    def all(self, left_out: tuple[str, ...]) -> Candidates:
        parts = [*self._parts.values(), _NOTHING]
        rows = np.concatenate([each.rows for each in parts])
        contributed = {name: each.rows.size for name, each in self._parts.items()}
        source = np.repeat(np.array(self._codes, np.uint8), list(contributed.values()))
        return Candidates(rows, source, self._had[rows], np.concatenate([each.scores for each in parts]), contributed, left_out)


def in_order(sequences: Sequence[tuple[Keys, npt.NDArray[np.int64]]]) -> Keys:
    """The keys of several sequences (keys, times) of a person as one, the newest last; an event that is in more than one counts once."""
    item, ts = (np.concatenate(parts) for parts in zip(*sequences, strict=True))
    order = np.lexsort((item, ts))
    item, ts = item[order], ts[order]
    again = (item[1:] == item[:-1]) & (ts[1:] == ts[:-1])
    return item[np.concatenate([[True], ~again])] if item.size else item


def _ask(
    index: Index,
    source: str,
    limit: int,
    recent: Keys,
    recent_ts: Times,
    around: Keys,
    category: str | None,
    query: str | None,
    beside: Sequence[Words],
    near: Callable[[int], Found] | None,
) -> Found:
    if source == "sequence":
        return near(limit) if near is not None else _NOTHING
    if source in sessions.SOURCES:
        return index.like_sessions(source, recent, recent_ts, limit)
    if source == "clusters":
        return index.clusters(recent, limit)
    if source == "item_to_item":
        return index.item_to_item(recent, limit)
    if source == "popular":
        return index.popular(limit)
    if source == "popular_in_category":
        return index.popular_among(around, limit) if category is None else index.popular(limit, category)
    if source == "trending":
        return index.popular(limit, window="1h")
    if source == "own_history":
        return _own_history(index, recent, limit)
    if source == "fresh":
        return index.fresh(limit)
    if source == "search":
        return index.search(query, limit, beside) if query else _NOTHING
    return _NOTHING


def _listed(index: Index, keys: Keys | None, limit: int) -> Found:
    """The items of a list, in its order."""
    rows = index.find(keys) if keys is not None else np.zeros(0, np.intp)
    rows = rows[rows >= 0]
    if index.shown is not None:
        rows = rows[index.shown[rows]]
    return Found(rows[:limit], np.arange(float(rows.size), 0.0, -1.0)[:limit])


def _own_history(index: Index, recent: Keys, limit: int) -> Found:
    """The items of a sequence themselves, the newest first."""
    rows = index.find(recent[::-1])
    rows = rows[rows >= 0]
    rows = rows[np.sort(np.unique(rows, return_index=True)[1])]
    if index.shown is not None:
        rows = rows[index.shown[rows]]
    return Found(rows[:limit], RECENT_DECAY ** np.arange(float(rows.size))[:limit])

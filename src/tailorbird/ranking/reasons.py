"""Why an item is there: a stable code for machines and one short sentence for people. Cheap: ten look-ups an item shown."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tailorbird.events.keys import hash64
from tailorbird.retrieval import Index
from tailorbird.retrieval.index import RECENT_DECAY, RECENT_MAX

Keys = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.intp]

CODES = (
    "promoted",
    "explore",
    "search",
    "related",
    "new",
    "popular_in_category",
    "popular",
    "for_you",
    "editorial",
    "popular_in_segment",
    "more",
)
_VERBS = {
    hash64("purchase"): "you bought",
    hash64("cart"): "you put it in your cart:",
    hash64("like"): "you liked",
    hash64("rating"): "you rated",
    hash64("share"): "you shared",
}


class RecentLike(Protocol):
    """The person's recent sequence, oldest first: `features.Sequence`."""

    @property
    def item(self) -> Keys: ...
    @property
    def type(self) -> Keys: ...


@dataclass(frozen=True)
class Reason:
    """`code` is one of `CODES`; `item_id` is the item that led here, "" if none did."""

    code: str
    text: str
    item_id: str = ""


FOR_YOU = Reason("for_you", "Picked for you")
MORE = Reason("more", "More to see")  # of an item that no model put there, and of which nothing else is known


def reasons(
    index: Index,
    rows: Rows,
    sources: Sequence[str],
    *,
    recent: RecentLike | None = None,
    query: str | None = None,
    explored: Collection[int] = (),
    otherwise: Reason = FOR_YOU,
) -> list[Reason]:
    """A reason for each shown item.

    Args:
        rows: (k,): the shown items, best first.
        sources: the candidate source of each, see `retrieval.SOURCES`.
        recent: the person's recent sequence.
        query: what was searched for.
        explored: the positions of `exploration.Choice`.
        otherwise: the reason of an item to which nothing of this led.
    """
    anchors, types = _anchors(index, rows, recent)
    told: list[Reason] = []
    for place, (row, source) in enumerate(zip(rows.tolist(), sources, strict=True)):
        if source == "pinned":
            told.append(Reason("promoted", "A choice of the shop"))
        elif place + 1 in explored:
            told.append(Reason("explore", "Something different"))
        elif source == "search" and query:
            told.append(Reason("search", f"Matches “{query[:60]}”"))
        elif anchors[place] >= 0:
            verb = _VERBS.get(types[place], "you looked at")
            told.append(Reason("related", f"Because {verb} {index.title(int(anchors[place]))}", index.ids[anchors[place]]))
        else:
            told.append(_without_anchor(index, row, source) or otherwise)
    return told


def _without_anchor(index: Index, row: int, source: str) -> Reason | None:
    category = index.category.text(row)
    if source == "fresh":
        return Reason("new", f"New in {category}" if category else "New")
    if source == "editorial":
        return Reason("editorial", "Selected by hand")
    if source in ("popular_by", "trending_by"):
        return Reason("popular_in_segment", f"Popular with visitors like you {'this week' if source == 'popular_by' else 'right now'}")
    if source == "trending":
        return Reason("popular", "Popular right now")
    if source in ("sessions", "stan"):
        return Reason("related", "Where others went on to from here")
    if source in ("popular", "popular_in_category") and index.counts["7d"][row] > 0:
        if source == "popular_in_category" and category:
            return Reason("popular_in_category", f"Popular in {category} this week")
        return Reason("popular", "Popular this week")
    return None


def _anchors(index: Index, rows: Rows, recent: RecentLike | None) -> tuple[Rows, list[int]]:
    """For each shown item the recent item that speaks most for it (-1 if none does), and the type of that event."""
    if recent is None or not recent.item.size or not rows.size:
        return np.full(rows.size, -1, np.intp), [0] * rows.size
    newest = slice(-1, -RECENT_MAX - 1, -1)
    known = index.find(recent.item[newest])
    decay = RECENT_DECAY ** np.arange(known.size)
    left, right = np.repeat(known, rows.size), np.tile(rows, known.size)
    pull = index.item_item.lookup(left, right).reshape(known.size, rows.size) * decay[:, None]
    best = np.argmax(pull, axis=0)
    there = pull[best, np.arange(rows.size)] > 0
    return np.where(there, known[best], -1), recent.type[newest][best].tolist()

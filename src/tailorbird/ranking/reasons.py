"""Reasons for shown items: a stable code for machines and a short sentence for users.

Cheap: ten lookups per shown item.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tailorbird.candidates.contract import SOURCE_KINDS
from tailorbird.candidates.item_knn.query import RECENT_MAX
from tailorbird.candidates.popularity.query import segment_board
from tailorbird.candidates.query import RequestLists, source_of
from tailorbird.events.clock import DAY, HOUR
from tailorbird.events.keys import hash64
from tailorbird.retrieval import Index

Keys = npt.NDArray[np.uint64]
PERIOD_PHRASES = (
    (6 * HOUR, "right now"),
    (DAY, "today"),
    (7 * DAY, "this week"),
    (31 * DAY, "this month"),
    (92 * DAY, "in the last three months"),
    (366 * DAY, "this year"),
)
Rows = npt.NDArray[np.intp]
_DECAY = 0.8  # decay of a recent item's weight, by age

REASON_CODES = (
    "promoted",
    "explore",
    "search",
    "related",
    "new",
    "popular_in_category",
    "popular",
    "for_you",
    "again",
    "editorial",
    "popular_in_segment",
    "more",
)
# Minimum lift: how much more often an item co-occurs with another than it occurs at all.
LIFT_MIN = 2.0
# Event type → the phrase for a related item, and for the item itself.
_EVENT_PHRASES = {
    hash64("purchase"): ("Because you bought {}", "You bought it before"),
    hash64("cart"): ("Because you added {} to your cart", "You had it in your cart"),
    hash64("like"): ("Because you liked {}", "You liked it"),
    hash64("rating"): ("Because you rated {}", "You rated it"),
    hash64("share"): ("Because you shared {}", "You shared it"),
}
_RANK_BY_EVENT = {event_type: rank for rank, event_type in enumerate(_EVENT_PHRASES)}
_DEFAULT_PHRASES = ("Because you looked at {}", "You looked at it before")


class RecentLike(Protocol):
    """The user's recent sequence, oldest first: `features.Sequence`."""

    @property
    def item(self) -> Keys: ...
    @property
    def type(self) -> Keys: ...


@dataclass(frozen=True)
class Reason:
    """The reason for an item.

    Attributes:
        code: one of `REASON_CODES`.
        text: the sentence for users.
        item_id: the item that led here, "" if none did.
    """

    code: str
    text: str
    item_id: str = ""


FOR_YOU = Reason("for_you", "Picked for you")
OTHER_REASON = Reason(
    "more", "More to see"
)  # The reason for an item without a model and without any other reason.


def explain_items(
    index: Index,
    index_rows: Rows,
    sources: Sequence[str],
    lists: RequestLists,
    *,
    recent_events: RecentLike | None = None,
    query: str | None = None,
    explored_positions: Collection[int] = (),
    default_reason: Reason = FOR_YOU,
) -> list[Reason]:
    """Return a reason for each shown item.

    Args:
        index_rows: (k,): the shown items, best first.
        sources: the candidate source of each.
        lists: of the request.
        recent_events: the person's recent sequence.
        query: what was searched for.
        explored_positions: the positions of `exploration.Slate`.
        default_reason: the reason of an item without any of these.
    """
    anchors, anchor_types, is_related = _find_anchors(index, index_rows, lists, recent_events)
    past_events = _past_events(index.keys[index_rows], recent_events)
    explanations: list[Reason] = []
    for rank, (row, source) in enumerate(zip(index_rows.tolist(), sources, strict=True)):
        if source == "pinned":
            explanations.append(Reason("promoted", "A choice of the shop"))
        elif rank + 1 in explored_positions:
            explanations.append(Reason("explore", "Something different"))
        elif source == "search" and query:
            explanations.append(Reason("search", f"Matches “{query[:60]}”"))
        elif past_events[rank]:
            explanations.append(
                Reason("again", _EVENT_PHRASES.get(past_events[rank], _DEFAULT_PHRASES)[1])
            )
        elif source == "repeat":  # longer ago than the sequence reaches
            explanations.append(Reason("again", SOURCE_KINDS["repeat"].text))
        elif anchors[rank] >= 0:
            text = _EVENT_PHRASES.get(anchor_types[rank], _DEFAULT_PHRASES)[0].format(
                index.title(int(anchors[rank]))
            )
            explanations.append(Reason("related", text, index.ids[anchors[rank]]))
        else:
            explanations.append(
                _source_reason(index, row, source, lists, is_related=bool(is_related[rank]))
                or default_reason
            )
    return explanations


def _past_events(keys: Keys, recent: RecentLike | None) -> list[int]:
    """Return the user's strongest past event with each item, in the order of `_EVENT_PHRASES`.

    0 for none.
    """
    if recent is None:
        return [0] * len(keys)
    strongest_by_item: dict[int, int] = {}
    for key, event_type in zip(recent.item.tolist(), recent.type.tolist(), strict=True):
        strongest_by_item[key] = min(
            strongest_by_item.get(key, event_type),
            event_type,
            key=lambda candidate: _RANK_BY_EVENT.get(candidate, len(_RANK_BY_EVENT)),
        )
    return [strongest_by_item.get(key, 0) for key in keys.tolist()]


def _source_reason(
    index: Index, row: int, source: str, lists: RequestLists, *, is_related: bool
) -> Reason | None:
    """Return the reason that the item's source gives.

    `is_related` is whether it is related to an item that is no longer in the index.
    """
    category = index.category.text(row)
    parsed_source = source_of(source) if source not in ("given", "pinned") else None
    if parsed_source is None:
        return None
    if parsed_source.board is None:
        kind = SOURCE_KINDS[parsed_source.kind]
        if not kind.text or (kind.name == "item_knn" and not is_related):
            return None
        in_category = f" in {category}" if kind.name == "new_items" and category else ""
        return Reason(kind.reason, kind.text + in_category)
    period = next(
        (words for limit_us, words in PERIOD_PHRASES if parsed_source.board.window_us <= limit_us),
        "of all time",
    )
    if parsed_source.board.segment == "category":
        return Reason(
            "popular_in_category",
            f"Popular in {category} {period}" if category else f"Popular {period}",
        )
    if segment_board(lists.tables, lists.request, parsed_source.board) is not None:
        return Reason("popular_in_segment", f"Popular with visitors like you {period}")
    return Reason("popular", f"Popular {period}")


def _find_anchors(
    index: Index, rows: Rows, lists: RequestLists, recent: RecentLike | None
) -> tuple[Rows, list[int], npt.NDArray[np.bool_]]:
    """Return each shown item's strongest anchor (-1: none), its event type, and a mask of matches.

    Ubiquitous items co-occur with everything. So an item anchors another one only if that co-occurs
    with it `LIFT_MIN` times as often as it occurs.
    """
    if recent is None or not recent.item.size or not rows.size:
        return np.full(rows.size, -1, np.intp), [0] * rows.size, np.zeros(rows.size, bool)
    newest_slice = slice(-1, -RECENT_MAX - 1, -1)
    recent_rows = index.find(recent.item[newest_slice])
    keys = index.keys[rows]
    neighbours = lists.neighbours_of(recent.item[newest_slice])
    traffic_shares = lists.traffic_shares(keys)
    attraction = np.zeros((recent_rows.size, rows.size))
    for age in range(recent_rows.size):
        neighbour_scores = neighbours.list_for(age).scores_of(keys)
        attraction[age] = (
            np.where(neighbour_scores >= LIFT_MIN * traffic_shares, neighbour_scores, 0.0)
            * _DECAY**age
        )
    strongest_recent = np.argmax(attraction, axis=0)
    is_related = attraction[strongest_recent, np.arange(rows.size)] > 0
    return (
        np.where(
            is_related & (recent_rows[strongest_recent] >= 0), recent_rows[strongest_recent], -1
        ),
        recent.type[newest_slice][strongest_recent].tolist(),
        is_related,
    )

"""Move requests before the visit that led to a choice, to keep the visit from leaking.

    view A ───── view A ── cart A          t
    ▲                      ▲
    request                not here

A request just before the cart would see that A was viewed a moment ago. A model that finds A this
way tells what people end up with, not what to offer. The request is therefore placed just before
the visit to A began.

A visit is a run of events with the same item, each within half an hour of the previous one. A
response is credited with what follows within the slot's attribution window. A choice whose visit
began earlier than that belongs to no request and is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tailorbird.errors import NotReadyError
from tailorbird.events import MINUTE, format_duration, micros
from tailorbird.events.clock import SESSION_GAP
from tailorbird.training.dataset.codes import INTERACTION_TYPES, interaction_mask
from tailorbird.training.dataset.dataset import Dataset, select_context

Ints = npt.NDArray[np.int64]

MOVED_SHARE_MIN = 0.5  # of the choices must follow a visit for requests to be moved
PRE_VISIT_KEY = "asked"  # key in `Dataset.scheme` of requests that were moved


@dataclass(frozen=True)
class MovedRequests:
    """Requests moved before the visits that led to the choices.

    Attributes:
        share: share of the choices that followed a visit to the same item.
        left_out: requests dropped because the visit began before the attribution window.
    """

    data: Dataset
    share: float
    left_out: int

    @property
    def summary(self) -> str:
        """Describe the move in one sentence."""
        visit_note = (
            f"before {self.share:.0%} of these the person had looked at the very item within "
            f"{SESSION_GAP // MINUTE} min"
        )
        dropped_note = (
            f"; {self.left_out:,} whose looks began longer before than the slot's "
            "attribution are left out"
            if self.left_out
            else ""
        )
        return (
            f"{visit_note}, so each is asked just before that look, and what came of it is "
            f"predicted{dropped_note}"
        )


def move_before_visits(
    events: pa.Table, data: Dataset, type_: str, attribution: int
) -> MovedRequests | None:
    """Move requests before the visits that led to their choices; None if most followed no visit.

    Args:
        events: the lake's `events`.
        data: requests for events of `type_`, from `clicks.draw_requests`.
        attribution: attribution window of the slot, microseconds.

    Raises:
        NotReadyError: every visit began before the attribution window.
    """
    visits = _ItemVisits.of(
        events, data, [type_name for type_name in INTERACTION_TYPES if type_name != type_]
    )
    visit_rows = visits.visit_rows(data)
    if (share := float(np.mean(visit_rows >= 0))) < MOVED_SHARE_MIN:
        return None
    # The request of a basket stands before the earliest visit to any of its items.
    ts = np.where(
        visit_rows >= 0, visits.ts[visit_rows] + 1, data.t[data.request]
    )  # just behind what came before it, as `clicks.choices` has it
    order = np.lexsort((ts, data.request))
    first_choices = order[data.offsets[:-1]]
    visit, is_moved = visit_rows[first_choices], visit_rows[first_choices] >= 0
    p = np.where(is_moved, visits.p[visit] - 1, data.p)
    context = pa.concat_tables([data.context, visits.context]).take(
        pa.array(np.where(is_moved, data.requests + visit, np.arange(data.requests)))
    )
    moved = replace(
        data,
        t=ts[first_choices],
        p=p,
        context=context,
        scheme={**data.scheme, PRE_VISIT_KEY: "before the look that led to it"},
    )
    attributable = np.flatnonzero(data.t - moved.t < attribution)
    if not len(attributable):
        problem = (
            f"people looked at each of the {data.requests:,} things that they chose ({type_}) "
            "longer before than the slot's attribution"
        )
        raise NotReadyError(
            f"{problem}, {format_duration(attribution)}", fix="lengthen the slot's attribution"
        )
    attributable = attributable[np.lexsort((moved.p[attributable], moved.t[attributable]))]
    return MovedRequests(moved.take(attributable), share, data.requests - len(attributable))


@dataclass(frozen=True)
class _ItemVisits:
    """Events with items, sorted by user, item and time; shape (m,) each.

    Attributes:
        pair: code of user and item, ascending.
        first_row: first row of the visit that each event belongs to.
        context: a table with as many rows.
    """

    pair: Ints
    ts: Ints
    p: Ints
    first_row: Ints
    context: pa.Table
    items: int

    @classmethod
    def of(cls, events: pa.Table, data: Dataset, types: Sequence[str]) -> "_ItemVisits":
        interactions = events.filter(interaction_mask(events, types))
        person, item, items = (
            data.people.encode(interactions["person"]),
            data.items.encode(interactions["item_id"]),
            len(data.items),
        )
        ts, p, pair = (
            micros(interactions["ts"]),
            interactions["p"].to_numpy(),
            person * items + item,
        )
        order = np.lexsort((p, ts, pair))
        order = order[person[order] >= 0]
        pair, ts = pair[order], ts[order]
        is_start = (np.diff(pair, prepend=-1) != 0) | (np.diff(ts, prepend=0) > SESSION_GAP)
        first_row = np.maximum.accumulate(np.where(is_start, np.arange(len(ts)), 0))
        return cls(
            pair, ts, p[order], first_row, select_context(interactions).take(pa.array(order)), items
        )

    def visit_rows(self, data: Dataset) -> Ints:
        """Return the first row of the visit before each choice, −1 without one; shape (rows,)."""
        person, t = data.person[data.request], data.t[data.request] - 1  # when it was chosen
        if not len(self.ts):
            return np.full(data.rows, -1, np.int64)
        pairs, code = np.unique(self.pair, return_inverse=True)
        times, rank = np.unique(self.ts, return_inverse=True)
        bits = len(times).bit_length()
        pair_key = person * self.items + data.item
        pair_code = np.minimum(np.searchsorted(pairs, pair_key), len(pairs) - 1)
        last = (
            np.searchsorted((code << bits) | rank, (pair_code << bits) | np.searchsorted(times, t))
            - 1
        )  # the last one before t
        index = np.maximum(last, 0)
        followed = (
            (last >= 0)
            & (person >= 0)
            & (self.pair[index] == pair_key)
            & (t - self.ts[index] <= SESSION_GAP)
        )
        return np.where(followed, self.first_row[index], -1)

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

VISIT_SHARE_MIN = 0.5  # of the choices must follow a visit for requests to be moved
PRE_VISIT_KEY = "asked"  # key in `Dataset.provenance` of requests that were moved


@dataclass(frozen=True)
class MovedRequests:
    """Requests moved before the visits that led to the choices.

    Attributes:
        visit_share: share of the choices that followed a visit to the same item.
        dropped_count: requests dropped because the visit began before the attribution window.
    """

    data: Dataset
    visit_share: float
    dropped_count: int

    @property
    def summary(self) -> str:
        """Describe the move in one sentence."""
        visit_note = (
            f"before {self.visit_share:.0%} of these the person had looked at the very item within "
            f"{SESSION_GAP // MINUTE} min"
        )
        dropped_note = (
            f"; {self.dropped_count:,} whose looks began longer before than the slot's "
            "attribution are left out"
            if self.dropped_count
            else ""
        )
        return (
            f"{visit_note}, so each is asked just before that look, and what came of it is "
            f"predicted{dropped_note}"
        )


def move_before_visits(
    events: pa.Table, data: Dataset, event_type: str, attribution_us: int
) -> MovedRequests | None:
    """Move requests before the visits that led to their choices; None if most followed no visit.

    Args:
        events: the lake's `events`.
        data: requests for events of `event_type`, from `clicks.draw_requests`.
        attribution_us: attribution window of the slot, microseconds.

    Raises:
        NotReadyError: every visit began before the attribution window.
    """
    visits = _ItemVisits.of(
        events, data, [type_name for type_name in INTERACTION_TYPES if type_name != event_type]
    )
    visit_rows = visits.visit_rows(data)
    if (visit_share := float(np.mean(visit_rows >= 0))) < VISIT_SHARE_MIN:
        return None
    # The request of a basket stands before the earliest visit to any of its items.
    ts = np.where(
        visit_rows >= 0, visits.ts[visit_rows] + 1, data.t[data.request_index]
    )  # just behind what came before it, as in `clicks.draw_requests`
    order = np.lexsort((ts, data.request_index))
    first_choices = order[data.offsets[:-1]]
    first_visit_row = visit_rows[first_choices]
    is_moved = visit_rows[first_choices] >= 0
    log_position = np.where(is_moved, visits.log_position[first_visit_row] - 1, data.log_position)
    context = pa.concat_tables([data.context, visits.context]).take(
        pa.array(
            np.where(is_moved, data.request_count + first_visit_row, np.arange(data.request_count))
        )
    )
    moved_data = replace(
        data,
        t=ts[first_choices],
        log_position=log_position,
        context=context,
        provenance={**data.provenance, PRE_VISIT_KEY: "before the look that led to it"},
    )
    attributable_requests = np.flatnonzero(data.t - moved_data.t < attribution_us)
    if not len(attributable_requests):
        problem = (
            f"people looked at each of the {data.request_count:,} things that they chose "
            f"({event_type}) "
            "longer before than the slot's attribution"
        )
        raise NotReadyError(
            f"{problem}, {format_duration(attribution_us)}", fix="lengthen the slot's attribution"
        )
    attributable_requests = attributable_requests[
        np.lexsort(
            (moved_data.log_position[attributable_requests], moved_data.t[attributable_requests])
        )
    ]
    return MovedRequests(
        moved_data.take(attributable_requests),
        visit_share,
        data.request_count - len(attributable_requests),
    )


@dataclass(frozen=True)
class _ItemVisits:
    """Events with items, sorted by user, item and time; shape (m,) each.

    Attributes:
        pair_code: code of user and item, ascending.
        first_row: first row of the visit that each event belongs to.
        context: a table with as many rows.
    """

    pair_code: Ints
    ts: Ints
    log_position: Ints
    first_row: Ints
    context: pa.Table
    item_count: int

    @classmethod
    def of(cls, events: pa.Table, data: Dataset, types: Sequence[str]) -> "_ItemVisits":
        interactions = events.filter(interaction_mask(events, types))
        person_code = data.person_vocabulary.encode(interactions["person"])
        item_code = data.item_vocabulary.encode(interactions["item_id"])
        item_count = len(data.item_vocabulary)
        ts = micros(interactions["ts"])
        log_position = interactions["p"].to_numpy()
        pair_code = person_code * item_count + item_code
        order = np.lexsort((log_position, ts, pair_code))
        order = order[person_code[order] >= 0]
        pair_code = pair_code[order]
        ts = ts[order]
        is_start = (np.diff(pair_code, prepend=-1) != 0) | (np.diff(ts, prepend=0) > SESSION_GAP)
        first_row = np.maximum.accumulate(np.where(is_start, np.arange(len(ts)), 0))
        return cls(
            pair_code,
            ts,
            log_position[order],
            first_row,
            select_context(interactions).take(pa.array(order)),
            item_count,
        )

    def visit_rows(self, data: Dataset) -> Ints:
        """Return the first row of the visit before each choice, −1 without one; shape (rows,)."""
        # when it was chosen
        person_codes = data.person_codes[data.request_index]
        choice_ts = data.t[data.request_index] - 1
        if not len(self.ts):
            return np.full(data.row_count, -1, np.int64)
        unique_pair_codes, pair_ranks = np.unique(self.pair_code, return_inverse=True)
        unique_ts, ts_ranks = np.unique(self.ts, return_inverse=True)
        rank_bits = len(unique_ts).bit_length()
        choice_pair_codes = person_codes * self.item_count + data.item_codes
        choice_pair_ranks = np.minimum(
            np.searchsorted(unique_pair_codes, choice_pair_codes), len(unique_pair_codes) - 1
        )
        preceding_event = (
            np.searchsorted(
                (pair_ranks << rank_bits) | ts_ranks,
                (choice_pair_ranks << rank_bits) | np.searchsorted(unique_ts, choice_ts),
            )
            - 1
        )  # the last event before the choice
        event_index = np.maximum(preceding_event, 0)
        follows_visit = (
            (preceding_event >= 0)
            & (person_codes >= 0)
            & (self.pair_code[event_index] == choice_pair_codes)
            & (choice_ts - self.ts[event_index] <= SESSION_GAP)
        )
        return np.where(follows_visit, self.first_row[event_index], -1)

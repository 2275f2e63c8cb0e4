"""Count from the lake's `events` what each person was shown in each arm of a slot, and did.

`experiments.outcomes` attributes clicks to responses, as for training. An impression of twelve
items counts twelve, one with a single item counts one. An item of a response counts as seen,
clicked and bought once each. Everything counts for the person of the response. Crawlers are left
out.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events.clock import ATTRIBUTION_WINDOW
from tailorbird.events.contract.schema import micros
from tailorbird.experiments.outcomes import (
    CLICK,
    COLUMNS,
    IMPRESSION,
    PURCHASE,
    RESPONSE,
    encode_values,
    match_outcomes,
)

__all__ = ["COLUMNS", "Counts", "count_events"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Counts:
    """One row for each response, and for each item seen, clicked or bought; shapes (n,).

    Rows are unordered. `person` and `arm` index `persons` and `arms`. `is_response` marks responses.
    """

    ts: Ints
    person: Ints
    arm: Ints
    persons: list[str]
    arms: list[str]
    is_response: npt.NDArray[np.bool_]
    impressions: Floats
    clicks: Floats
    purchases: Floats

    def select(self, selection: npt.NDArray[np.bool_] | Ints) -> "Counts":
        """Return some rows, by mask or index; persons and arms keep their indices."""
        row_columns = ("ts", "person", "arm", "is_response", "impressions", "clicks", "purchases")
        return Counts(
            persons=self.persons,
            arms=self.arms,
            **{name: getattr(self, name)[selection] for name in row_columns},
        )

    def per_person(self, arm: int, count_name: str) -> Floats:
        """Return each person's total of a measure in an arm, shape (persons,)."""
        rows = self.arm == arm
        return np.bincount(
            self.person[rows], weights=getattr(self, count_name)[rows], minlength=len(self.persons)
        ).astype(np.float64)

    def exposed_persons(self, arm: int) -> npt.NDArray[np.bool_]:
        """Return who got a response or an impression in an arm, shape (persons,)."""
        rows = (self.arm == arm) & (self.is_response | (self.impressions > 0))
        is_exposed = np.zeros(len(self.persons), bool)
        is_exposed[self.person[rows]] = True
        return is_exposed


def count_events(
    events: pa.Table,
    slot: str,
    *,
    experiment: str | None = None,
    denominator: str = "impression",
    attribution: int = ATTRIBUTION_WINDOW,
) -> Counts:
    """Count a slot's events.

    Args:
        events: with at least `COLUMNS`, from the lake's `events`. Start `attribution` before the
            time of interest, so that the responses of the first clicks are included.
        slot: the slot of the site.
        experiment: only its responses; None takes all arms of the slot.
        denominator: what counts as shown, "impression" or "answer".
        attribution: the slot's attribution window, microseconds.
    """
    outcomes = match_outcomes(events, slot, attribution)
    table = outcomes.table
    responses = np.flatnonzero(outcomes.kind == RESPONSE)
    event_row = np.concatenate([responses, outcomes.event_row])
    response_rows = np.concatenate([responses, outcomes.response_row])
    if experiment is not None:
        in_experiment = pc.fill_null(pc.equal(table["experiment"], experiment), False).to_numpy()[
            response_rows
        ]
        event_row = event_row[in_experiment]
        response_rows = response_rows[in_experiment]
    event_kind = outcomes.kind[event_row]
    response_size = pc.fill_null(pc.list_value_length(table["items"]), 0).to_numpy()
    shown_items = (
        (event_kind == IMPRESSION)
        if denominator == "impression"
        else np.where(event_kind == RESPONSE, response_size[event_row], 0)
    )
    person, persons = encode_values(table["person"])
    arm, arms = encode_values(pc.fill_null(table["arm"], ""))
    return Counts(
        ts=micros(table["ts"])[event_row],
        person=person[response_rows],
        arm=arm[response_rows],
        persons=persons,
        arms=arms,
        is_response=event_kind == RESPONSE,
        impressions=shown_items.astype(np.float64),
        clicks=(event_kind == CLICK).astype(np.float64),
        purchases=(event_kind == PURCHASE).astype(np.float64),
    )

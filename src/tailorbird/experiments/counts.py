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

from tailorbird.events.clock import ATTRIBUTION
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

    Rows are unordered. `person` and `arm` index `persons` and `arms`. `exposed` marks responses.
    """

    ts: Ints
    person: Ints
    arm: Ints
    persons: list[str]
    arms: list[str]
    exposed: npt.NDArray[np.bool_]
    impressions: Floats
    clicks: Floats
    purchases: Floats

    def select(self, rows: npt.NDArray[np.bool_] | Ints) -> "Counts":
        """Return some rows, by mask or index; persons and arms keep their indices."""
        columns = ("ts", "person", "arm", "exposed", "impressions", "clicks", "purchases")
        return Counts(
            persons=self.persons,
            arms=self.arms,
            **{name: getattr(self, name)[rows] for name in columns},
        )

    def per_person(self, arm: int, measure: str) -> Floats:
        """Return each person's total of a measure in an arm, shape (persons,)."""
        rows = self.arm == arm
        return np.bincount(
            self.person[rows], weights=getattr(self, measure)[rows], minlength=len(self.persons)
        ).astype(np.float64)

    def exposed_persons(self, arm: int) -> npt.NDArray[np.bool_]:
        """Return who got a response or an impression in an arm, shape (persons,)."""
        rows = (self.arm == arm) & (self.exposed | (self.impressions > 0))
        is_exposed = np.zeros(len(self.persons), bool)
        is_exposed[self.person[rows]] = True
        return is_exposed


def count_events(
    events: pa.Table,
    slot: str,
    *,
    experiment: str | None = None,
    denominator: str = "impression",
    attribution: int = ATTRIBUTION,
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
    table, responses = outcomes.table, np.flatnonzero(outcomes.kind == RESPONSE)
    row, response = (
        np.concatenate([responses, outcomes.row]),
        np.concatenate([responses, outcomes.response]),
    )
    if experiment is not None:
        in_experiment = pc.fill_null(pc.equal(table["experiment"], experiment), False).to_numpy()[
            response
        ]
        row, response = row[in_experiment], response[in_experiment]
    kind = outcomes.kind[row]
    size = pc.fill_null(pc.list_value_length(table["items"]), 0).to_numpy()
    shown = (
        (kind == IMPRESSION)
        if denominator == "impression"
        else np.where(kind == RESPONSE, size[row], 0)
    )
    person, persons = encode_values(table["person"])
    arm, arms = encode_values(pc.fill_null(table["arm"], ""))
    return Counts(
        ts=micros(table["ts"])[row],
        person=person[response],
        arm=arm[response],
        persons=persons,
        arms=arms,
        exposed=kind == RESPONSE,
        impressions=shown.astype(np.float64),
        clicks=(kind == CLICK).astype(np.float64),
        purchases=(kind == PURCHASE).astype(np.float64),
    )

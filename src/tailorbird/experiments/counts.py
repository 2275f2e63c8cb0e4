"""From the lake's `events` to counts: what each person was shown in each arm of a slot, and what it
did.

Which answer a click belongs to is decided in `experiments.outcomes`, as it is for training. An
impression of twelve items counts twelve, one that names a single item counts one; an item of an
answer counts as seen, clicked and bought once each. All of it counts for the person that the answer
was given to. Crawlers are left out.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events import MINUTE
from tailorbird.events.schema import micros
from tailorbird.experiments.outcomes import (
    ANSWER,
    CLICK,
    COLUMNS,
    IMPRESSION,
    PURCHASE,
    codes,
    what_followed,
)

__all__ = ["ATTRIBUTION", "COLUMNS", "Counts", "count_events"]

ATTRIBUTION = 30 * MINUTE  # a slot's window, unless it says otherwise

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Counts:
    """One row for each answer, and for each item that was seen, clicked or bought, in no particular
    order; shapes (n,).

    `person` and `arm` are indexes into `persons` and `arms`. `exposed` marks the answers.
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

    def where(self, rows: npt.NDArray[np.bool_] | Ints) -> "Counts":
        """Some of the rows, by mask or number; persons and arms keep their indexes."""
        columns = ("ts", "person", "arm", "exposed", "impressions", "clicks", "purchases")
        return Counts(
            persons=self.persons,
            arms=self.arms,
            **{name: getattr(self, name)[rows] for name in columns},
        )

    def per_person(self, arm: int, measure: str) -> Floats:
        """Each person's total of a measure in an arm, shape (persons,)."""
        rows = self.arm == arm
        return np.bincount(
            self.person[rows], weights=getattr(self, measure)[rows], minlength=len(self.persons)
        ).astype(np.float64)

    def persons_of(self, arm: int) -> npt.NDArray[np.bool_]:
        """Who was answered or shown anything in an arm, shape (persons,)."""
        rows = (self.arm == arm) & (self.exposed | (self.impressions > 0))
        there = np.zeros(len(self.persons), bool)
        there[self.person[rows]] = True
        return there


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
        events: with at least `COLUMNS`, as the lake's `events` has them. Begin it `attribution`
            before the time of interest, so that the answers are there which the first clicks belong
            to.
        slot: the place of the site.
        experiment: only what was decided under it; None takes all arms of the slot.
        denominator: "impression" or "answer": which of them counts as shown.
        attribution: the slot's window, microseconds; what comes later after its answer does not
            count.
    """
    found = what_followed(events, slot, attribution)
    table, answers = found.table, np.flatnonzero(found.kind == ANSWER)
    row, source = np.concatenate([answers, found.row]), np.concatenate([answers, found.answer])
    if experiment is not None:
        wanted = pc.fill_null(pc.equal(table["experiment"], experiment), False).to_numpy()[source]
        row, source = row[wanted], source[wanted]
    kind = found.kind[row]
    size = pc.fill_null(pc.list_value_length(table["items"]), 0).to_numpy()
    shown = (
        (kind == IMPRESSION)
        if denominator == "impression"
        else np.where(kind == ANSWER, size[row], 0)
    )
    person, persons = codes(table["person"])
    arm, arms = codes(pc.fill_null(table["arm"], ""))
    return Counts(
        ts=micros(table["ts"])[row],
        person=person[source],
        arm=arm[source],
        persons=persons,
        arms=arms,
        exposed=kind == ANSWER,
        impressions=shown.astype(np.float64),
        clicks=(kind == CLICK).astype(np.float64),
        purchases=(kind == PURCHASE).astype(np.float64),
    )

"""From the lake's `events` to counts: what each person was shown in each arm of a slot, and what it did.

Only routed columns are read: the router has attached slot, experiment, arm and agent class to what followed an answer.
An impression that shows twelve items counts twelve. Crawlers are left out.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

COLUMNS = ("type", "ts", "person", "agent", "slot", "experiment", "arm", "items")

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Counts:
    """One row an event that was shown or done in the slot, in the order of the table; shapes (n,).

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
        return Counts(persons=self.persons, arms=self.arms, **{name: getattr(self, name)[rows] for name in columns})

    def per_person(self, arm: int, measure: str) -> Floats:
        """Each person's total of a measure in an arm, shape (persons,)."""
        rows = self.arm == arm
        return np.bincount(self.person[rows], weights=getattr(self, measure)[rows], minlength=len(self.persons)).astype(np.float64)

    def persons_of(self, arm: int) -> npt.NDArray[np.bool_]:
        """Who was answered or shown anything in an arm, shape (persons,)."""
        rows = (self.arm == arm) & (self.exposed | (self.impressions > 0))
        there = np.zeros(len(self.persons), bool)
        there[self.person[rows]] = True
        return there


def count_events(events: pa.Table, slot: str, *, experiment: str | None = None, denominator: str = "impression") -> Counts:
    """Count a slot's events.

    Args:
        events: with at least `COLUMNS`, as the lake's `events` has them.
        slot: the place of the site.
        experiment: only what was decided under it; None takes all arms of the slot.
        denominator: "impression" or "answer": which of them counts as shown.
    """
    wanted = pc.equal(events["slot"], slot)
    if experiment is not None:
        wanted = pc.and_kleene(wanted, pc.equal(events["experiment"], experiment))
    wanted = pc.and_kleene(wanted, pc.not_equal(pc.fill_null(events["agent"], "person"), "bot"))
    wanted = pc.and_kleene(wanted, pc.is_in(events["type"], pa.array(["answer", "impression", "click", "purchase"])))
    wanted = pc.and_kleene(wanted, pc.is_valid(events["person"]))
    table = events.select(COLUMNS).filter(wanted)  # null in the mask drops the row
    kind = np.asarray(table["type"].to_pylist(), dtype=object)
    shown = np.nan_to_num(pc.fill_null(pc.list_value_length(table["items"]), 0).to_numpy().astype(np.float64))
    person, persons = _codes(table["person"])
    arm, arms = _codes(pc.fill_null(table["arm"], ""))
    return Counts(
        ts=table["ts"].cast(pa.int64()).to_numpy(),
        person=person,
        arm=arm,
        persons=persons,
        arms=arms,
        exposed=kind == "answer",
        impressions=np.where(kind == denominator, shown, 0.0),
        clicks=(kind == "click").astype(np.float64),
        purchases=(kind == "purchase").astype(np.float64),
    )


def _codes(column: pa.ChunkedArray) -> tuple[Ints, list[str]]:
    if not len(column):
        return np.empty(0, np.int64), []
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()

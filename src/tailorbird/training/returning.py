"""Whether people came back after a request: labels with a gap and a window, and unknown (NaN) where
that is not over.

    ●───── gap ─────┼───────── window ─────────┼──► ts        1: there at least once in [t + gap, t + until)
    t                                        t + until        NaN: until lies behind what is known, or nobody is known

A row near a border of a split whose window reaches over it is unknown too, positive or not: to keep
the positives alone, which are known early, would teach that everybody returns. What a head's name
means stands in `ranking.targets`.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events import micros
from tailorbird.models.interactions import Counter
from tailorbird.ranking.targets import Return, return_of
from tailorbird.training.coding import INTERESTS, Codes, people_only

Ints = npt.NDArray[np.int64]
Label = npt.NDArray[np.float32]

PRESENT = (
    *INTERESTS,
    "search",
    "impression",
)  # what shows that somebody is there; an answer alone does not


class Returns:
    """When each person was there.

    Args:
        people: codes of persons.
        known: the moment up to which the log is complete.
    """

    def __init__(self, events: pa.Table, people: Codes, known: int) -> None:
        kept = pc.and_(
            pc.is_in(events["type"], pa.array(PRESENT, pa.string())), people_only(events)
        )
        for name, wanted in (("counts", True), ("timeless", False)):
            if name in events.column_names:
                kept = pc.and_(kept, pc.equal(pc.fill_null(events[name], wanted), wanted))
        there = events.filter(kept)
        self._counter = Counter.over(people.encode(there["person"]), micros(there["ts"]))
        self._known = known

    def label(self, asked: Return, person: Ints, t: Ints) -> Label:
        """1, 0 or NaN for each request, shape (n,).

        Args:
            person: shape (n,), −1 for nobody.
            t: shape (n,), microseconds.
        """
        times = self._counter.count(
            person, t + asked.until, np.arange(len(t)), asked.until - asked.gap
        )
        known = (person >= 0) & (t + asked.until <= self._known)
        return np.where(known, times > 0, np.nan).astype(np.float32)


def censored(labels: Mapping[str, npt.NDArray], t: Ints, moment: int) -> dict[str, npt.NDArray]:
    """The same labels as far as they were known at a moment; those of other heads stay.

    Args:
        labels: head → shape (n,).
        t: shape (n,), of each row.
    """
    found = dict(labels)
    for head, asked in of_return(labels).items():
        found[head] = np.where(t + asked.until <= moment, labels[head], np.float32(np.nan))
    return found


def of_return(heads: Iterable[str]) -> dict[str, Return]:
    """The heads of returning among some."""
    return {head: asked for head in heads if (asked := return_of(head)) is not None}

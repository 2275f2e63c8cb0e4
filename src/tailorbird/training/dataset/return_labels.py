"""Return labels: whether people came back after a request; NaN while the window is open.

    ●───── gap ─────┼───────── window ─────────┼──► t
    t            t + gap                   t + until

    1    at least one event in [t + gap, t + until)
    0    none
    NaN  t + until is later than the log is complete, or the person is unknown

Rows whose window reaches over a border of a split are unknown, positive or not. Positives are known
early, and keeping them alone would teach that everybody returns. `ranking.policy.targets` defines
the names of heads.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events import micros
from tailorbird.models.interactions import Counter
from tailorbird.ranking.policy.targets import ReturnTarget, parse_return
from tailorbird.training.dataset.codes import INTERACTION_TYPES, Codes, human_mask

Ints = npt.NDArray[np.int64]
Label = npt.NDArray[np.float32]

# Event types that show that somebody is present; a response alone does not.
PRESENCE_TYPES = (*INTERACTION_TYPES, "search", "impression")


class PresenceIndex:
    """Times at which each person was present.

    Args:
        people: codes of persons.
        complete_until: moment up to which the log is complete.
    """

    def __init__(self, events: pa.Table, people: Codes, complete_until: int) -> None:
        mask = pc.and_(
            pc.is_in(events["type"], pa.array(PRESENCE_TYPES, pa.string())), human_mask(events)
        )
        for name, expected in (("counts", True), ("timeless", False)):
            if name in events.column_names:
                mask = pc.and_(mask, pc.equal(pc.fill_null(events[name], expected), expected))
        present = events.filter(mask)
        self._counter = Counter.from_keys(people.encode(present["person"]), micros(present["ts"]))
        self._complete_until = complete_until

    def label(self, target: ReturnTarget, person: Ints, t: Ints) -> Label:
        """Return 1, 0 or NaN for each request, shape (n,).

        Args:
            person: shape (n,), −1 if unknown.
            t: shape (n,), microseconds.
        """
        visits = self._counter.count(
            person, t + target.until, np.arange(len(t)), target.until - target.gap
        )
        is_complete = (person >= 0) & (t + target.until <= self._complete_until)
        return np.where(is_complete, visits > 0, np.nan).astype(np.float32)


def censor_labels(
    labels: Mapping[str, npt.NDArray], t: Ints, moment: int
) -> dict[str, npt.NDArray]:
    """Set return labels to NaN that were unknown at a moment; other heads keep theirs.

    Args:
        labels: head → shape (n,).
        t: shape (n,), time of each row.
    """
    visible_labels = dict(labels)
    for head, target in return_targets(labels).items():
        visible_labels[head] = np.where(
            t + target.until <= moment, labels[head], np.float32(np.nan)
        )
    return visible_labels


def return_targets(heads: Iterable[str]) -> dict[str, ReturnTarget]:
    """Return the return targets among some heads."""
    return {head: target for head in heads if (target := parse_return(head)) is not None}

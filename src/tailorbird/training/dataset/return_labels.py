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
from tailorbird.models.interactions import WindowCounter
from tailorbird.ranking.policy.targets import ReturnTarget, parse_return
from tailorbird.training.dataset.codes import INTERACTION_TYPES, IdVocabulary, human_mask

Ints = npt.NDArray[np.int64]
Label = npt.NDArray[np.float32]

# Event types that show that somebody is present; a response alone does not.
PRESENCE_TYPES = (*INTERACTION_TYPES, "search", "impression")


class PresenceIndex:
    """Times at which each person was present.

    Args:
        person_vocabulary: codes of persons.
        complete_until: moment up to which the log is complete.
    """

    def __init__(
        self, events: pa.Table, person_vocabulary: IdVocabulary, complete_until: int
    ) -> None:
        mask = pc.and_(
            pc.is_in(events["type"], pa.array(PRESENCE_TYPES, pa.string())), human_mask(events)
        )
        for name, expected in (("counts", True), ("timeless", False)):
            if name in events.column_names:
                mask = pc.and_(mask, pc.equal(pc.fill_null(events[name], expected), expected))
        presence_events = events.filter(mask)
        self._counter = WindowCounter.from_keys(
            person_vocabulary.encode(presence_events["person"]), micros(presence_events["ts"])
        )
        self._complete_until = complete_until

    def label(self, target: ReturnTarget, person_code: Ints, t: Ints) -> Label:
        """Return 1, 0 or NaN for each request, shape (n,).

        Args:
            person_code: shape (n,), −1 if unknown.
            t: shape (n,), microseconds.
        """
        event_counts = self._counter.count(
            person_code, t + target.until_us, np.arange(len(t)), target.until_us - target.gap_us
        )
        is_complete = (person_code >= 0) & (t + target.until_us <= self._complete_until)
        return np.where(is_complete, event_counts > 0, np.nan).astype(np.float32)


def censor_labels(labels: Mapping[str, npt.NDArray], t: Ints, as_of: int) -> dict[str, npt.NDArray]:
    """Set return labels to NaN that were unknown at `as_of`; other heads keep theirs.

    Args:
        labels: head → shape (n,).
        t: shape (n,), time of each row.
    """
    visible_labels = dict(labels)
    for head, target in return_targets(labels).items():
        visible_labels[head] = np.where(
            t + target.until_us <= as_of, labels[head], np.float32(np.nan)
        )
    return visible_labels


def return_targets(heads: Iterable[str]) -> dict[str, ReturnTarget]:
    """Return the return targets among some heads."""
    return {head: target for head in heads if (target := parse_return(head)) is not None}

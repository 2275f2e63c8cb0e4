"""Who is somebody else by a merge, and when: such a user's silence says nothing of a person, who
goes on under another name.

41 merged into 42 at b, taken back at e        41 is elsewhere in (b, e]; at a cut, by the merges before it: b < cut ≤ e
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events import micros
from tailorbird.events.merges import Merge, merge_rows, merges_of, survivor
from tailorbird.training.coding import Codes

Ints = npt.NDArray[np.int64]

OPEN = 1 << 62  # the end of what was not taken back


@dataclass(frozen=True)
class Merged:
    """The merges of a log, by (ts, p).

    Attributes:
        people: whose codes are asked about; users without any activity may stand between two of
            them.
        user: whom each merge is of.
        received: when each was known.
    """

    people: Codes
    user: tuple[str, ...]
    merge: tuple[Merge, ...]
    received: Ints

    @classmethod
    def of(cls, events: pa.Table, people: Codes, known: int) -> "Merged":
        """The merges in a table of events; `known`: when, at the latest, all of it was."""
        if not {"user_id", "p"} <= set(events.column_names):
            return cls(people, (), (), np.zeros(0, np.int64))
        rows = merge_rows(events)
        told = merges_of(rows)
        received = micros(pc.coalesce(rows["received_at"], rows["ts"]))
        return cls(
            people,
            tuple(user for user, _ in told),
            tuple(merge for _, merge in told),
            np.minimum(received, known),
        )

    def as_of(self, moment: int) -> "Merged":
        """What was known at a moment; may still have merges of after it, about which nobody may
        ask.
        """
        known = self.received <= moment
        if all(known[place] for place, each in enumerate(self.merge) if each.ts < moment):
            return self  # with the spans that were made already
        places = np.flatnonzero(known).tolist()
        return Merged(
            self.people,
            tuple(self.user[k] for k in places),
            tuple(self.merge[k] for k in places),
            self.received[known],
        )

    def elsewhere(self, person: Ints, since: Ints, until: Ints) -> npt.NDArray[np.bool_]:
        """Which people were somebody else at some moment from `since` to `until`, by the merges
        before it; shape (n,) each.
        """
        found = np.zeros(len(person), bool)
        who, begin, end = self._spans
        place = np.searchsorted(who, person)
        while len(who) and len(
            rows := np.flatnonzero(
                (place < len(who)) & (who[np.minimum(place, len(who) - 1)] == person)
            )
        ):
            at = place[rows]
            found[rows] |= (begin[at] < until[rows]) & (end[at] >= since[rows])
            place[rows] += 1
        return found

    @cached_property
    def _spans(self) -> tuple[Ints, Ints, Ints]:
        """Person, begin and end of each time that somebody was somebody else, by person."""
        newest: dict[str, Merge] = {}
        named_by: dict[str, set[str]] = {}
        away: dict[str, int] = {}
        spans: list[tuple[str, int, int]] = []
        for user, merge in zip(self.user, self.merge, strict=True):
            if user in newest:
                named_by[newest[user].into].discard(user)
            newest[user] = merge
            named_by.setdefault(merge.into, set()).add(user)
            for each in _all_behind(user, named_by):
                other = survivor(each, newest.get)[0] != each
                if other and each not in away:
                    away[each] = merge.ts
                elif not other and each in away:
                    spans.append((each, away.pop(each), merge.ts))
        spans += [(each, begin, OPEN) for each, begin in away.items()]
        who = self.people.encode(pa.array([each for each, _, _ in spans], pa.string()))
        begin, end = (np.array([span[k] for span in spans], np.int64) for k in (1, 2))
        order = np.argsort(who, kind="stable")
        order = order[who[order] >= 0]
        return who[order], begin[order], end[order]


def _all_behind(user: str, named_by: dict[str, set[str]]) -> set[str]:
    """A user and all whose way leads through it: those of whom its merge may say something else."""
    found, open_ = {user}, [user]
    while open_:
        for each in named_by.get(open_.pop(), ()):
            if each not in found:
                found.add(each)
                open_.append(each)
    return found

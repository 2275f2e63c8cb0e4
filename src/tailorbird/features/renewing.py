"""Reading records that run out: windows move on though nothing happens, so what is read of an
entity changed lately is made anew in time.

A worker looks each second which of them are due, and renews some between two steps: many are at
once, whenever a tile ends, and no event shall wait for all. Which entities are kept in mind, and
until when, is in `features.applying` (`Hot`).
"""

from collections import deque
from collections.abc import Sequence

import numpy as np

from tailorbird.features.applying import Change, HotKeys
from tailorbird.features.columns import Keys
from tailorbird.features.layout import NEWEST
from tailorbird.features.state import Records
from tailorbird.store import Transaction

RENEW_MAX = 500  # reading records between two steps: some 5 ms


class RenewalQueue:
    """Of each kind of entity, by its place in `records`, those that were changed lately (`hot`),
    and those that are due.
    """

    def __init__(self, records: Sequence[Records], hot: Sequence[HotKeys]) -> None:
        self._records, self._hot = records, hot
        self._due: deque[tuple[int, Keys]] = deque()

    @property
    def is_pending(self) -> bool:
        """Whether any was found to be due, and not renewed yet."""
        return bool(self._due)

    def record_changes(self, keys: Sequence[Keys], changes: Sequence[Change]) -> None:
        """Keep in mind what a commit changed of each kind."""
        for hot, changed_keys, changed in zip(self._hot, keys, changes, strict=True):
            hot.note(changed_keys, changed.next_change)

    def collect_due(self, now: int) -> None:
        """Find those that are due."""
        for index, hot in enumerate(self._hot):
            due = hot.pop_due(now)
            self._due += [
                (index, due[start : start + RENEW_MAX]) for start in range(0, len(due), RENEW_MAX)
            ]

    def pop(self) -> tuple[Records, Keys]:
        """Some of those that are due, at most `RENEW_MAX`, with their kind."""
        index, keys = self._due.popleft()
        return self._records[index], keys


def renew(transaction: Transaction, records: Records, keys: Keys, now: int, commit: int) -> int:
    """Make the reading records of these entities anew, as of `now`; how many were looked at."""
    stored = records.held(transaction, keys)
    existing = np.flatnonzero(stored.sizes)  # others went meanwhile
    keys, states = keys[existing], stored.states[existing]
    readings = records.finish(
        states, np.maximum(states[:, NEWEST] + 1, now), commit, sequences=False
    )
    transaction.put_many(records.published(keys, readings))
    return len(stored.sizes)

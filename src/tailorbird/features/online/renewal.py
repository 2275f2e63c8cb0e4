"""Renewal of reading records that go out of date: windows move on even if nothing happens.

A worker collects every second the recently changed entities whose records are due, and renews some
of them between two steps: many are due at once whenever a tile ends, and no event should wait for
all. `features.online.apply.HotKeys` decides which entities are remembered, and until when.
"""

from collections import deque
from collections.abc import Sequence

import numpy as np

from tailorbird.features.event_columns.columns import Keys
from tailorbird.features.layout.layout import NEWEST_LANE
from tailorbird.features.online.apply import AppliedChange, HotKeys
from tailorbird.features.state.state import Records
from tailorbird.store import Transaction

RENEWALS_MAX = 500  # reading records between two steps: about 5 ms


class RenewalQueue:
    """The recently changed keys of each kind of entity, by index in `records`, and the keys that
    are due.
    """

    def __init__(self, records: Sequence[Records], hot_keys: Sequence[HotKeys]) -> None:
        self._records = records
        self._hot_keys = hot_keys
        self._due_keys: deque[tuple[int, Keys]] = deque()

    @property
    def is_pending(self) -> bool:
        """True if any key is due and not renewed yet."""
        return bool(self._due_keys)

    def record_changes(self, keys: Sequence[Keys], changes: Sequence[AppliedChange]) -> None:
        """Remember what a commit changed of each kind."""
        for hot_keys, changed_keys, change in zip(self._hot_keys, keys, changes, strict=True):
            hot_keys.record(changed_keys, change.next_change)

    def collect_due(self, now: int) -> None:
        """Queue the keys that are due by `now`."""
        for kind_index, hot_keys in enumerate(self._hot_keys):
            due_keys = hot_keys.pop_due(now)
            self._due_keys += [
                (kind_index, due_keys[start : start + RENEWALS_MAX])
                for start in range(0, len(due_keys), RENEWALS_MAX)
            ]

    def pop(self) -> tuple[Records, Keys]:
        """Remove and return some due keys, at most `RENEWALS_MAX`, with their records."""
        kind_index, keys = self._due_keys.popleft()
        return self._records[kind_index], keys


def renew_readings(
    transaction: Transaction, records: Records, keys: Keys, now: int, commit: int
) -> int:
    """Rewrite these reading records as of `now`, and return how many were examined."""
    stored_states = records.read_states(transaction, keys)
    existing_rows = np.flatnonzero(stored_states.sizes)  # Others were deleted meanwhile.
    keys = keys[existing_rows]
    states = stored_states.states[existing_rows]
    readings = records.compute_readings(
        states, np.maximum(states[:, NEWEST_LANE] + 1, now), commit, sequences=False
    )
    transaction.put_many(records.reading_records(keys, readings))
    return len(stored_states.sizes)

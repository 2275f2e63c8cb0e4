"""The newest sessions, updated event by event in a ring buffer.

The table of a moment is derived from it, see `sessions`.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from tailorbird.candidates.contract import SessionKnn
from tailorbird.candidates.kernels import add_to_sessions, number_sessions
from tailorbird.candidates.keytable import KeyTable, grow_array
from tailorbird.candidates.session_knn.sessions import DEFAULT_STAN, Sessions

Int64s = npt.NDArray[np.int64]

# Arrays of a snapshot by session, and their attributes.
_RING_ARRAYS = {
    "owner": "_session_user",
    "last_ts": "_last_ts",
    "size": "_size",
    "entries": "_entries",
}


class SessionKnnFold:
    """Sessions in the order in which they began.

    `items` and the user rows are shared with the other folds.
    """

    def __init__(self, settings: SessionKnn, item_table: KeyTable) -> None:
        self._settings = settings
        self._item_table = item_table
        self._session_of_user = np.zeros(0, np.int64)
        # By slot of the ring: each session's user, newest event, size and items.
        self._session_user = np.full(settings.sessions_max, -1, np.int64)
        self._last_ts = np.zeros(settings.sessions_max, np.int64)
        self._size = np.zeros(settings.sessions_max, np.int32)
        self._entries = np.zeros((settings.sessions_max, settings.length), np.int32)
        self._sessions_started = np.zeros(1, np.int64)

    def update(
        self, user_rows: Int64s, item_rows: Int64s, ts: Int64s, newest_ts: Int64s, person_count: int
    ) -> None:
        """Apply interests in log order.

        The arrays hold user rows (−1: none), item rows, times, and the largest time of the log so
        far.
        """
        self._session_of_user = grow_array(self._session_of_user, person_count, fill=-1)
        add_to_sessions(
            user_rows,
            item_rows,
            ts,
            newest_ts,
            self._session_of_user,
            self._session_user,
            self._last_ts,
            self._size,
            self._entries,
            self._sessions_started,
            self._settings.gap_us,
        )

    def build_sessions(self) -> Sessions:
        """Return the current sessions, ordered by the time of their last event."""
        started_count = int(self._sessions_started[0])
        capacity = self._settings.sessions_max
        session_slots = (
            np.arange(max(started_count - capacity, 0), started_count) % capacity
        )  # in order of their start
        newest_ts = int(self._last_ts[session_slots].max(initial=0))
        session_slots = session_slots[
            (self._size[session_slots] >= 2)
            & (self._last_ts[session_slots] >= newest_ts - self._settings.within_us)
        ]
        session_order = session_slots[np.argsort(self._last_ts[session_slots], kind="stable")]
        entry_count = int(self._size[session_order].sum())
        offsets = np.zeros(len(session_order) + 1, np.int64)
        end_ts = np.zeros(len(session_order) + 1, np.int64)
        item_numbers = np.zeros(entry_count, np.int32)
        positions = np.zeros(entry_count, np.int32)
        # By item row, from 1 in order of appearance; 0 for an item that no session holds.
        number_by_row = np.zeros(max(self._item_table.count, 1), np.int32)
        session_count, item_count = number_sessions(
            session_order,
            self._size,
            self._entries,
            self._last_ts,
            offsets,
            end_ts,
            item_numbers,
            positions,
            number_by_row,
        )
        used_entries = int(offsets[session_count])
        row_by_number = np.zeros(item_count, np.int64)
        rows = np.flatnonzero(number_by_row)
        row_by_number[number_by_row[rows] - 1] = rows
        keys = self._item_table.keys[row_by_number]
        key_order = np.argsort(keys)
        key_rank = np.empty(item_count, np.int32)
        key_rank[key_order] = np.arange(item_count, dtype=np.int32)
        age_weight = np.exp(-(newest_ts - end_ts[:session_count]) / DEFAULT_STAN.recency_us)
        return Sessions(
            item_keys=keys[key_order],
            offsets=offsets[: session_count + 1],
            item_index=key_rank[item_numbers[:used_entries]],
            positions=positions[:used_entries],
            age_weights=age_weight,
            gap_us=self._settings.gap_us,
        )

    def renumber_people(self, row_map: Int64s, person_count: int) -> None:
        """Renumber users: the new row of each old one, −1 to drop it.

        Sessions of dropped users stay, without an owner.
        """
        session_of_user = np.full(person_count, -1, np.int64)
        retained_rows = np.flatnonzero(row_map >= 0)
        retained_rows = retained_rows[retained_rows < len(self._session_of_user)]
        session_of_user[row_map[retained_rows]] = self._session_of_user[retained_rows]
        self._session_of_user = session_of_user
        is_used = self._session_user >= 0
        self._session_user[is_used] = row_map[self._session_user[is_used]]
        # A session of an evicted user is not free. It has no owner until it is overwritten.
        self._session_user[is_used & (self._session_user < 0)] = -2

    def renumber_items(self, row_map: Int64s, item_count: int) -> None:
        """Renumber items; a dropped item is removed from its sessions."""
        length = self._settings.length
        is_used = np.arange(length)[None, :] < self._size[:, None]
        item_rows = np.where(is_used, row_map[np.where(is_used, self._entries, 0)], -1)
        order = np.argsort(item_rows < 0, axis=1, kind="stable")
        self._entries = np.maximum(np.take_along_axis(item_rows, order, axis=1), 0).astype(np.int32)
        self._size = (item_rows >= 0).sum(axis=1).astype(np.int32)

    def arrays(self) -> dict[str, npt.NDArray]:
        """Return the state as arrays, from which `restore` rebuilds it."""
        count = min(int(self._sessions_started[0]), self._settings.sessions_max)
        state = {name: getattr(self, attribute)[:count] for name, attribute in _RING_ARRAYS.items()}
        return state | {"current": self._session_of_user, "head": self._sessions_started}

    def restore(self, arrays: Mapping[str, npt.NDArray]) -> None:
        for name, attribute in _RING_ARRAYS.items():
            getattr(self, attribute)[: len(arrays[name])] = arrays[name]
        self._session_of_user = arrays["current"].copy()
        self._sessions_started = arrays["head"].copy()

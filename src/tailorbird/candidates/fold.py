"""The fold of a contract over one log: shared item and user numbers, and the state of each source.

    fold = CandidateFold(contract)
    fold.update(batch)             # in log order
    tables = fold.tables()         # `protocol.CandidateTables` as of fold.position

The time of the tables: just after the newest event.

Every 65,536 positions of the log, users idle for longer than any source looks back are evicted, and
so are the items idle longest where there are too many. These positions are fixed, so a batch that
spans one is split there.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tailorbird.candidates.batch import IMPRESSION, INTEREST, PROFILE, EventBatch
from tailorbird.candidates.contract import Board, Contract
from tailorbird.candidates.item_knn.fold import ItemKnnFold
from tailorbird.candidates.keytable import KeyTable, grow_array
from tailorbird.candidates.new_items.query import newest_items
from tailorbird.candidates.popularity.fold import PopularityFold
from tailorbird.candidates.protocol import (
    ALL_USERS,
    GROUPS,
    NO_TABLES,
    BoardTable,
    Epoch,
    ItemFacts,
    Keys,
    Neighbours,
    RankedList,
)
from tailorbird.candidates.session_knn.fold import SessionKnnFold
from tailorbird.candidates.session_knn.sessions import Sessions

Int64s = npt.NDArray[np.int64]

EVICTION_INTERVAL = 1 << 16  # positions
ITEMS_AFTER_EVICTION_SHARE = 0.9  # of `items_max`, after the items idle longest went
_ITEM_ARRAY_NAMES = ("first_seen", "last_seen", "category", "clicks", "shown")
NEVER_TS = np.iinfo(np.int64).max


class CandidateFold:
    """The state of the sources of a contract.

    One writer; `tables` is read between updates.

    Attributes:
        contract: what is kept.
        position: up to which the routed log was taken in.
        newest_ts: the largest ts so far.
        evicted_counts: how many items and people were forgotten because there were too many.
    """

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self.position = self.newest_ts = 0
        self.evicted_counts = {"items": 0, "people": 0}
        self.item_table = KeyTable()
        self._person_table = KeyTable()
        self._person_last_seen = np.zeros(0, np.int64)
        self._first_seen = np.zeros(0, np.int64)
        self._last_seen = np.zeros(0, np.int64)
        self._category: Keys = np.zeros(0, np.uint64)
        self._clicks = np.zeros(0, np.int64)
        self._shown = np.zeros(0, np.int64)
        self._ids: list[str] = []
        self._changed_rows: list[Int64s] = []
        self._evicted_keys: list[Keys] = []
        self.popularity = PopularityFold(contract.boards, self.item_table)
        self.item_knn = (
            ItemKnnFold(contract.item_knn, self.item_table) if contract.item_knn else None
        )
        self.session_knn = (
            SessionKnnFold(contract.session_knn, self.item_table) if contract.session_knn else None
        )

    @property
    def idle_max_us(self) -> int:
        """The longest idle time after which a user still differs from a new one."""
        return max(
            (
                settings.gap_us
                for settings in (self.contract.item_knn, self.contract.session_knn)
                if settings is not None
            ),
            default=0,
        )

    # Updates

    def update(self, batch: EventBatch) -> None:
        """Apply events that follow those already applied."""
        start = 0
        while start < len(batch):
            next_eviction = (
                max(int(batch.log_position[start]), self.position) // EVICTION_INTERVAL + 1
            ) * EVICTION_INTERVAL
            stop = int(np.searchsorted(batch.log_position, next_eviction))
            if (
                int(batch.log_position[start]) // EVICTION_INTERVAL
                > self.position // EVICTION_INTERVAL
            ):
                self._evict()
            self._apply(batch.slice(start, stop, batch.end_position))
            self.position = int(batch.log_position[stop - 1])
            start = stop
        if batch.end_position // EVICTION_INTERVAL > self.position // EVICTION_INTERVAL:
            self._evict()
        self.position = max(self.position, batch.end_position)

    def _apply(self, batch: EventBatch) -> None:
        count_before = self.item_table.count
        item_rows = self.item_table.assign(batch.item_keys)
        self._register_items(batch, item_rows, count_before)
        newest_ts = np.maximum.accumulate(np.maximum(batch.ts, self.newest_ts))
        categories = self._update_categories(batch, item_rows)
        interest_indexes = np.flatnonzero(batch.kind == INTEREST)
        interest_rows = item_rows[interest_indexes]
        interest_ts = batch.ts[interest_indexes]
        user_keys = batch.person_keys[interest_indexes]
        user_rows = self._person_table.assign(user_keys)
        self._person_last_seen = grow_array(self._person_last_seen, self._person_table.count)
        has_user = user_rows >= 0
        np.maximum.at(
            self._person_last_seen, user_rows[has_user], newest_ts[interest_indexes][has_user]
        )
        np.add.at(self._clicks, interest_rows, 1)
        np.add.at(self._shown, item_rows[batch.kind == IMPRESSION], 1)
        segment_keys = {
            name: keys[interest_indexes] for name, keys in batch.segment_keys.items()
        } | {"category": categories[interest_indexes]}
        self.popularity.update(interest_rows, interest_ts, segment_keys)
        for fold in (self.item_knn, self.session_knn):
            if fold is not None:
                fold.update(
                    user_rows,
                    interest_rows,
                    interest_ts,
                    newest_ts[interest_indexes],
                    self._person_table.count,
                )
        self.newest_ts = int(newest_ts[-1])
        self.popularity.advance(self.ts)

    def _register_items(self, batch: EventBatch, item_rows: Int64s, count_before: int) -> None:
        item_count = self.item_table.count
        self._first_seen = grow_array(self._first_seen, item_count, fill=NEVER_TS)
        for name in _ITEM_ARRAY_NAMES[1:]:
            setattr(self, f"_{name}", grow_array(getattr(self, f"_{name}"), item_count))
        if item_count > count_before:
            _, first_rows = np.unique(item_rows, return_index=True)
            new_rows = np.sort(first_rows[item_rows[first_rows] >= count_before])
            self._ids += batch.item_ids.take(pa.array(new_rows)).to_pylist()
        has_ts = batch.ts > 0
        rows_seen_earlier = np.flatnonzero(has_ts & (batch.ts < self._first_seen[item_rows]))
        np.minimum.at(self._first_seen, item_rows[has_ts], batch.ts[has_ts])
        np.maximum.at(self._last_seen, item_rows, batch.ts)
        self._changed_rows.append(
            np.concatenate([np.arange(count_before, item_count), item_rows[rows_seen_earlier]])
        )

    def _update_categories(self, batch: EventBatch, item_rows: Int64s) -> Keys:
        """Return the category of each row's item at that moment, and store the newest per item."""
        is_profile = batch.kind == PROFILE
        categories = self._category[item_rows]
        if not is_profile.any():
            return categories
        order = np.lexsort((np.arange(len(item_rows)), item_rows))
        profile_rows = np.where(is_profile[order], np.arange(len(order)), -1)
        group_starts = np.flatnonzero(np.diff(item_rows[order], prepend=-1))
        row_group_start = np.repeat(group_starts, np.diff(np.append(group_starts, len(order))))
        last_profile = np.maximum.accumulate(
            np.maximum(
                profile_rows, np.where(np.arange(len(order)) == row_group_start, -1, profile_rows)
            )
        )
        has_profile = (
            last_profile >= row_group_start
        )  # a profile of the same item precedes, or is this row
        categories[order[has_profile]] = batch.category_keys[order[last_profile[has_profile]]]
        profile_index = np.flatnonzero(is_profile)
        is_changed = self._category[item_rows[profile_index]] != batch.category_keys[profile_index]
        self._category[item_rows[profile_index]] = batch.category_keys[
            profile_index
        ]  # of several profiles the last one wins
        self._changed_rows.append(item_rows[profile_index[is_changed]])
        return categories

    @property
    def ts(self) -> int:
        """The time of the tables: just after the newest event."""
        return self.newest_ts + 1

    # Publishing

    def tables(self) -> "FoldTables":
        """Return the tables as of now, to be read before the next update."""
        return FoldTables(self)

    def changed_items(self, *, everything: bool = False) -> Int64s:
        """Return the rows of items whose facts changed since the last call, or of all items."""
        rows = np.unique(np.concatenate([np.zeros(0, np.int64), *self._changed_rows]))
        self._changed_rows = []
        return np.arange(self.item_table.count) if everything else rows

    def evicted_items(self) -> Keys:
        """Return the keys of items evicted since the last call."""
        keys = np.concatenate([np.zeros(0, np.uint64), *self._evicted_keys])
        self._evicted_keys = []
        return keys

    def facts_of(self, rows: Int64s) -> ItemFacts:
        """Return the facts of items by row; −1 is an unknown item."""
        if not self.item_table.count:
            return ItemFacts(np.zeros(len(rows), np.int64), np.zeros(len(rows), np.uint64))
        clipped_rows = np.maximum(rows, 0)
        is_present = rows >= 0
        first_seen = self._first_seen[clipped_rows]
        first_seen = np.where(is_present & (first_seen < NEVER_TS), first_seen, 0)
        return ItemFacts(
            first_seen, np.where(is_present, self._category[clipped_rows], np.uint64(0))
        )

    def ids_of(self, rows: Int64s) -> list[str]:
        return [self._ids[row] for row in rows.tolist()]

    def new_items(self) -> RankedList:
        """Return the recently added items, see `new_items.query`."""
        count = self.item_table.count
        first_seen = np.where(self._first_seen[:count] < NEVER_TS, self._first_seen[:count], 0)
        return newest_items(
            keys=self.item_table.keys,
            first_seen=first_seen,
            click_counts=self._clicks[:count],
            impression_counts=self._shown[:count],
            t=self.ts,
            within_us=self.contract.new_within_us,
        )

    # Eviction

    def _evict(self) -> None:
        is_idle = (
            self.newest_ts - self._person_last_seen[: self._person_table.count] > self.idle_max_us
        )
        excess_count = int((~is_idle).sum()) - self.contract.people_max
        if excess_count > 0:
            last_seen = np.where(is_idle, -1, self._person_last_seen[: self._person_table.count])
            oldest_rows = np.argsort(last_seen, kind="stable")[int(is_idle.sum()) :][:excess_count]
            is_idle[oldest_rows] = True
            self.evicted_counts["people"] += excess_count
        if is_idle.any():
            self._retain_people(~is_idle)
        if self.item_table.count > self.contract.items_max:
            retained_count = int(self.contract.items_max * ITEMS_AFTER_EVICTION_SHARE)
            evicted_rows = np.argsort(self._last_seen[: self.item_table.count], kind="stable")[
                : self.item_table.count - retained_count
            ]
            is_retained = np.ones(self.item_table.count, bool)
            is_retained[evicted_rows] = False
            self.evicted_counts["items"] += len(evicted_rows)
            self._retain_items(is_retained)

    def _retain_people(self, is_retained: npt.NDArray[np.bool_]) -> None:
        retained_last_seen = self._person_last_seen[: self._person_table.count][is_retained]
        row_map = self._person_table.retain(is_retained)
        self._person_last_seen = retained_last_seen
        for fold in (self.item_knn, self.session_knn):
            if fold is not None:
                fold.renumber_people(row_map, self._person_table.count)

    def _retain_items(self, is_retained: npt.NDArray[np.bool_]) -> None:
        count = self.item_table.count
        self._ids = [self._ids[row] for row in np.flatnonzero(is_retained).tolist()]
        for name in _ITEM_ARRAY_NAMES:
            setattr(self, f"_{name}", getattr(self, f"_{name}")[:count][is_retained].copy())
        touched_rows = self.changed_items()
        self._evicted_keys.append(self.item_table.keys[~is_retained].copy())
        row_map = self.item_table.retain(is_retained)
        self._changed_rows.append(row_map[touched_rows][row_map[touched_rows] >= 0])
        self.popularity.renumber_items(row_map, self.item_table.count)
        for fold in (self.item_knn, self.session_knn):
            if fold is not None:
                fold.renumber_items(row_map, self.item_table.count)

    # Snapshots

    def arrays(self) -> dict[str, npt.NDArray]:
        """Return the state as arrays, from which `restore` rebuilds it."""
        count = self.item_table.count
        state: dict[str, Any] = {
            f"items/{name}": getattr(self, f"_{name}")[:count] for name in _ITEM_ARRAY_NAMES
        }
        state |= {
            "items/keys": self.item_table.keys,
            "items/ids": np.frombuffer("\0".join(self._ids).encode(), np.uint8),
        }
        state |= {
            "people/keys": self._person_table.keys,
            "people/seen": self._person_last_seen[: self._person_table.count],
        }
        state |= {"touched": np.concatenate([np.zeros(0, np.int64), *self._changed_rows])}
        state |= {"gone": np.concatenate([np.zeros(0, np.uint64), *self._evicted_keys])}
        state["position"] = np.array(
            [
                self.position,
                self.newest_ts,
                self.evicted_counts["items"],
                self.evicted_counts["people"],
            ]
        )
        fold_by_name = {
            "popularity": self.popularity,
            "item_knn": self.item_knn,
            "session_knn": self.session_knn,
        }
        for name, fold in fold_by_name.items():
            if fold is not None:
                state |= {f"{name}/{key}": array for key, array in fold.arrays().items()}
        return state

    @classmethod
    def restore(cls, contract: Contract, arrays: Mapping[str, npt.NDArray]) -> "CandidateFold":
        """Rebuild a fold from the arrays of another one of the same contract."""
        fold = cls(contract)
        (
            fold.position,
            fold.newest_ts,
            fold.evicted_counts["items"],
            fold.evicted_counts["people"],
        ) = (int(number) for number in arrays["position"])
        fold._changed_rows = [arrays["touched"]]
        fold._evicted_keys = [arrays["gone"]]
        fold.item_table.assign(arrays["items/keys"])
        fold._person_table.assign(arrays["people/keys"])
        fold._person_last_seen = arrays["people/seen"].copy()
        for name in _ITEM_ARRAY_NAMES:
            setattr(fold, f"_{name}", arrays[f"items/{name}"].copy())
        fold._ids = (
            arrays["items/ids"].tobytes().decode().split("\0") if fold.item_table.count else []
        )
        fold_by_name = {
            "popularity": fold.popularity,
            "item_knn": fold.item_knn,
            "session_knn": fold.session_knn,
        }
        for name, source_fold in fold_by_name.items():
            if source_fold is not None:
                prefix = f"{name}/"
                source_fold.restore(
                    {
                        key.removeprefix(prefix): array
                        for key, array in arrays.items()
                        if key.startswith(prefix)
                    }
                )
        return fold


class FoldTables:
    """Tables read directly from the fold, for replays and publishing.

    Implements `protocol.CandidateTables`.
    """

    def __init__(self, fold: CandidateFold) -> None:
        self._fold = fold
        self.epochs: Mapping[str, Epoch] = dict.fromkeys(GROUPS, Epoch(fold.position, fold.ts))
        self._boards: dict[tuple[Board, int], BoardTable] = {}
        self._sessions: Sessions | None = None
        self._new_items: RankedList | None = None

    def leaderboard(self, board: Board, segment: int = ALL_USERS) -> BoardTable:
        table = self._boards.get((board, segment))
        if table is None:
            table = self._boards[board, segment] = self._fold.popularity.build_board(board, segment)
        return table

    def new_items(self) -> RankedList:
        if self._new_items is None:
            self._new_items = self._fold.new_items()
        return self._new_items

    def neighbours(self, keys: Keys) -> Neighbours:
        knn = self._fold.item_knn
        if knn is None:
            return NO_TABLES.neighbours(keys)
        return knn.build_neighbours(self._fold.item_table.find(keys))

    def sessions(self) -> Sessions | None:
        if self._sessions is None and self._fold.session_knn is not None:
            self._sessions = self._fold.session_knn.build_sessions()
        return self._sessions

    def facts(self, keys: Keys) -> ItemFacts:
        return self._fold.facts_of(self._fold.item_table.find(keys))

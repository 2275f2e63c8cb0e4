"""From a micro-batch to changed records, in the worker's transaction.

A frame is split into what it adds to each entity, and the states absorb that.

    frame ─ additions() ─► distinct keys; for each accumulator its events, in order of their key
                             │ in chunks of some hundred keys: unpacked states stay in the cache
                             ▼
    read and unpack states ─► update ─► finish readings ─► pack, write both

`features.online.worker` decides when a batch is applied and committed.
`features.state.accumulators` defines what events do to a state.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.features.event_columns.columns import Frame, Keys
from tailorbird.features.event_columns.extracts import Extract
from tailorbird.features.layout.layout import NEWEST_LANE, NEXT_CHANGE_LANE
from tailorbird.features.state.accumulators import Accumulator, AccumulatorUpdate, Additions
from tailorbird.features.state.key_partition import ALL_KEYS, KeyPart
from tailorbird.features.state.state import Records
from tailorbird.features.state.tiles import NEVER_TS, FilledLanes
from tailorbird.store import Transaction

Int64s = npt.NDArray[np.int64]
Rows = npt.NDArray[np.intp]

CHUNK_BYTES = 4 << 20  # unpacked states per chunk
# Number of entities of a kind whose reading records are renewed in time, rather than finished by
# each request that finds them out of date:
HOT_KEYS_OF_ONE_ROW = 20_000  # a request reads one entity of the kind
HOT_KEYS_OF_MANY_ROWS = 200_000  # a request reads hundreds of the kind


@dataclass(frozen=True)
class EntityBatch:
    """The additions of a frame to one entity kind: distinct ascending keys, and events per
    accumulator.

    Attributes:
        newest_ts: shape (keys,), the newest ts of the batch.
        updates: accumulator, the index among the keys of each of its events, ascending, and the
            events.
    """

    keys: Keys
    newest_ts: Int64s
    updates: list[AccumulatorUpdate]

    def split(self, keys_max: int) -> Iterator["EntityBatch"]:
        """Yield the batch in chunks of at most `keys_max` keys."""
        for start in range(0, len(self.keys), keys_max):
            end = min(start + keys_max, len(self.keys))
            chunk_by_additions: dict[int, tuple[Rows, Additions]] = {}
            for _, rows, additions in self.updates:
                if id(additions) not in chunk_by_additions:
                    low, high = np.searchsorted(rows, (start, end))
                    chunk_by_additions[id(additions)] = (
                        rows[low:high] - start,
                        additions.take(slice(low, high)),
                    )
            updates = [
                (accumulator, *chunk_by_additions[id(additions)])
                for accumulator, _, additions in self.updates
            ]
            yield EntityBatch(self.keys[start:end], self.newest_ts[start:end], updates)


@dataclass(frozen=True)
class AppliedChange:
    """The effect of applying a batch.

    Attributes:
        next_change: shape (keys,), when each key's reading next changes without an event.
        new_keys: number of keys that had no record.
        added_bytes: growth of the states.
    """

    next_change: Int64s
    new_keys: int
    added_bytes: int


def compute_additions(records: Records, frame: Frame, part: KeyPart = ALL_KEYS) -> EntityBatch:
    """Return what the frame adds to the entities of the part."""
    extracts = _compute_extracts(records, frame, part)
    distinct_additions = {id(additions): additions for _, additions in extracts}
    keys, key_indices = np.unique(
        np.concatenate([additions.key for additions in distinct_additions.values()]),
        return_inverse=True,
    )
    newest_ts = np.zeros(len(keys), np.int64)
    rows_by_additions: dict[int, tuple[Rows, Additions]] = {}
    for accumulator, additions in extracts:
        if (
            id(accumulator) in records.readable_accumulator_ids
            and isinstance(additions, Extract)
            and len(additions)
        ):
            additions.frame.ids(
                additions.rows
            )  # These store ids: hash them for the batch, not for each chunk.
    start = 0
    for additions_id, additions in distinct_additions.items():
        rows = key_indices[start : start + len(additions.key)]
        start += len(additions.key)
        order = np.argsort(rows, kind="stable")
        rows = rows[order]
        additions = additions.take(order)
        rows_by_additions[additions_id] = rows, additions
        if len(rows):
            entity_starts = np.flatnonzero(np.append(True, rows[1:] != rows[:-1]))
            newest_ts[rows[entity_starts]] = np.maximum(
                newest_ts[rows[entity_starts]], np.maximum.reduceat(additions.ts, entity_starts)
            )
    return EntityBatch(
        keys,
        newest_ts,
        [(accumulator, *rows_by_additions[id(additions)]) for accumulator, additions in extracts],
    )


def _compute_extracts(
    records: Records, frame: Frame, part: KeyPart
) -> list[tuple[Accumulator[Any], Additions]]:
    """Return the extract of each accumulator; identical sources share one extract."""
    extracts = [
        (accumulator, accumulator.extract_additions(frame)) for accumulator in records.accumulators
    ]
    if part.is_complete:
        return extracts
    own_extracts = {
        id(additions): additions.take(np.flatnonzero(part.contains(additions.key)))
        for additions in {id(additions): additions for _, additions in extracts}.values()
    }
    return [(accumulator, own_extracts[id(additions)]) for accumulator, additions in extracts]


def apply_batch(
    transaction: Transaction, records: Records, batch: EntityBatch, commit: int
) -> AppliedChange:
    """Bring the states of the batch's keys up to date and publish their readings."""
    keys_max = max(64, CHUNK_BYTES // records.layout.state_bytes)
    changes = [_apply_chunk(transaction, records, chunk, commit) for chunk in batch.split(keys_max)]
    next_change = np.concatenate(
        [np.zeros(0, np.int64), *(change.next_change for change in changes)]
    )
    return AppliedChange(
        next_change,
        sum(change.new_keys for change in changes),
        sum(change.added_bytes for change in changes),
    )


def _apply_chunk(
    transaction: Transaction, records: Records, batch: EntityBatch, commit: int
) -> AppliedChange:
    stored_states = records.read_states(transaction, batch.keys)
    states = stored_states.states
    newest_ts = np.maximum(states[:, NEWEST_LANE], batch.newest_ts)
    records.update(stored_states, newest_ts, batch.updates)
    filled_lanes = FilledLanes.from_states(states)
    readings = records.compute_readings(
        states, newest_ts + 1, commit, sequences=False, filled_lanes=filled_lanes
    )
    packed_states = records.pack(states, filled_lanes)
    transaction.put_many(zip(records.keys(b"s", batch.keys), packed_states, strict=True))
    transaction.put_many(records.reading_records(batch.keys, readings))
    added_bytes = sum(map(len, packed_states)) - int(stored_states.sizes.sum())
    return AppliedChange(
        readings[:, NEXT_CHANGE_LANE], int(np.count_nonzero(stored_states.sizes == 0)), added_bytes
    )


class HotKeys:
    """Recently changed entities of a kind, and when the reading of each changes without an event.

    A step only appends its changes. They are deduplicated on demand, or when many have accumulated.

    Args:
        keys_max: how many of the most recently changed entities are remembered.
    """

    def __init__(self, keys_max: int) -> None:
        self._keys_max = keys_max
        self._keys: list[Keys] = []
        self._next_changes: list[Int64s] = []

    @classmethod
    def of_kind(cls, *, is_one_row: bool) -> "HotKeys":
        """Return an empty one for a kind, by whether a request reads one entity of it, or many."""
        return cls(HOT_KEYS_OF_ONE_ROW if is_one_row else HOT_KEYS_OF_MANY_ROWS)

    def record(self, keys: Keys, next_change: Int64s) -> None:
        """Record that these keys changed now; `NEVER_TS` where a reading does not change without an
        event.
        """
        self._keys.append(keys)
        self._next_changes.append(next_change)
        if sum(map(len, self._keys)) > 4 * self._keys_max:
            self._compact()

    def pop_due(self, now: int) -> Keys:
        """Remove and return the keys whose reading is out of date by `now`."""
        keys, next_change = self._compact()
        is_due = next_change <= now
        self._keys = [keys[~is_due]]
        self._next_changes = [next_change[~is_due]]
        return keys[is_due]

    def _compact(self) -> tuple[Keys, Int64s]:
        """Deduplicate to the last change of each key, ordered by time, and drop the oldest ones."""
        keys, next_change = (
            np.concatenate([np.zeros(0, dtype), *columns])
            for dtype, columns in ((np.uint64, self._keys), (np.int64, self._next_changes))
        )
        last_indexes = np.sort(len(keys) - 1 - np.unique(keys[::-1], return_index=True)[1])
        last_indexes = last_indexes[next_change[last_indexes] != NEVER_TS][-self._keys_max :]
        self._keys = [keys[last_indexes]]
        self._next_changes = [next_change[last_indexes]]
        return keys[last_indexes], next_change[last_indexes]

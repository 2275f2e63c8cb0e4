"""From a micro-batch to changed records: what a frame adds to each entity, and how states take it
up, in the worker's transaction.

    frame ─ additions() ─► keys, each once; for each accumulator its events, in order of their key
                             │ in pieces of some hundred keys, so that the unpacked states stay in the processor's cache
                             ▼
    read and unpack states ─► update ─► finish readings ─► pack, write both

When a batch is applied and committed is the business of `features.worker`; what events do to a
state, of `features.accumulators`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.features.accumulators import Accumulator, Additions, Part
from tailorbird.features.columns import Frame, Keys
from tailorbird.features.extracts import Extract
from tailorbird.features.keypart import WHOLE, KeyPart
from tailorbird.features.layout import NEWEST, NEXT_CHANGE
from tailorbird.features.state import Records
from tailorbird.features.tiles import NEVER, Filled
from tailorbird.store import Transaction

Int64s = npt.NDArray[np.int64]
Rows = npt.NDArray[np.intp]

PIECE_BYTES = 4 << 20  # of unpacked states at a time
# Entities of a kind whose reading records are renewed when they run out, rather than finished by
# each request that finds them so:
HOT_ONE = 20_000  # of a kind of which a request reads one
HOT_MANY = 200_000  # of a kind of which it reads hundreds


@dataclass(frozen=True)
class Batch:
    """What a frame adds to one entity kind: its keys, each once and ascending, and what each
    accumulator takes up.

    Attributes:
        newest: shape (keys,), the newest ts of the batch.
        parts: accumulator, the place among the keys of each of its events, ascending, and the
            events.
    """

    keys: Keys
    newest: Int64s
    parts: list[Part]

    def pieces(self, keys_max: int) -> Iterator["Batch"]:
        """The batch in pieces of at most so many keys."""
        for start in range(0, len(self.keys), keys_max):
            end = min(start + keys_max, len(self.keys))
            cut: dict[int, tuple[Rows, Additions]] = {}
            for _, rows, added in self.parts:
                if id(added) not in cut:
                    first, last = np.searchsorted(rows, (start, end))
                    cut[id(added)] = rows[first:last] - start, added.part(slice(first, last))
            parts = [(one, *cut[id(added)]) for one, _, added in self.parts]
            yield Batch(self.keys[start:end], self.newest[start:end], parts)


@dataclass(frozen=True)
class Change:
    """What applying a batch did: when each key's reading next changes by itself, how many keys are
    new, by how many bytes states grew.
    """

    soonest: Int64s
    new: int
    bytes: int


def additions(records: Records, frame: Frame, part: KeyPart = WHOLE) -> Batch:
    """What the frame adds to entities of the part."""
    taken = _taken(records, frame, part)
    distinct = {id(batch): batch for _, batch in taken}
    keys, places = np.unique(
        np.concatenate([batch.key for batch in distinct.values()]), return_inverse=True
    )
    newest = np.zeros(len(keys), np.int64)
    ordered: dict[int, tuple[Rows, Additions]] = {}
    for one, batch in taken:
        if id(one) in records.readable and isinstance(batch, Extract) and len(batch):
            batch.frame.ids(
                batch.rows
            )  # they keep ids: hashed for the batch, not for each piece of it
    start = 0
    for name, batch in distinct.items():
        rows = places[start : start + len(batch.key)]
        start += len(batch.key)
        order = np.argsort(rows, kind="stable")
        rows, batch = rows[order], batch.part(order)
        ordered[name] = rows, batch
        if len(rows):
            first = np.flatnonzero(np.append(True, rows[1:] != rows[:-1]))
            newest[rows[first]] = np.maximum(
                newest[rows[first]], np.maximum.reduceat(batch.ts, first)
            )
    return Batch(keys, newest, [(one, *ordered[id(batch)]) for one, batch in taken])


def _taken(
    records: Records, frame: Frame, part: KeyPart
) -> list[tuple[Accumulator[Any], Additions]]:
    """What each accumulator takes of the frame; sources that are the same give one extract."""
    taken = [(one, one.take(frame)) for one in records.accumulators]
    if part.is_whole:
        return taken
    kept = {
        id(batch): batch.part(np.flatnonzero(part.has(batch.key)))
        for batch in {id(batch): batch for _, batch in taken}.values()
    }
    return [(one, kept[id(batch)]) for one, batch in taken]


def apply(transaction: Transaction, records: Records, batch: Batch, commit: int) -> Change:
    """Bring the states of the batch's keys up to date and publish their readings."""
    keys_max = max(64, PIECE_BYTES // records.layout.state_bytes)
    changes = [_apply(transaction, records, piece, commit) for piece in batch.pieces(keys_max)]
    soonest = np.concatenate([np.zeros(0, np.int64), *(one.soonest for one in changes)])
    return Change(soonest, sum(one.new for one in changes), sum(one.bytes for one in changes))


def _apply(transaction: Transaction, records: Records, batch: Batch, commit: int) -> Change:
    held = records.held(transaction, batch.keys)
    states = held.states
    new = np.maximum(states[:, NEWEST], batch.newest)
    records.update(held, new, batch.parts)
    filled = Filled.of(states)
    readings = records.finish(states, new + 1, commit, sequences=False, filled=filled)
    packed = records.packed(states, filled)
    transaction.put_many(zip(records.keys(b"s", batch.keys), packed, strict=True))
    transaction.put_many(records.published(batch.keys, readings))
    grown = sum(map(len, packed)) - int(held.sizes.sum())
    return Change(readings[:, NEXT_CHANGE], int(np.count_nonzero(held.sizes == 0)), grown)


class Hot:
    """Entities of a kind that were changed lately, and when the reading of each changes by itself.

    What a step changed is only noted; which of it still holds is found out when somebody asks, or
    when there is much of it.

    Args:
        most: how many are remembered, those that were changed last.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._keys: list[Keys] = []
        self._change: list[Int64s] = []

    def note(self, keys: Keys, change: Int64s) -> None:
        """These were changed now; `NEVER` where a reading does not change by itself."""
        self._keys.append(keys)
        self._change.append(change)
        if sum(map(len, self._keys)) > 4 * self._most:
            self._settle()

    def due(self, now: int) -> Keys:
        """The keys that have run out by now; they are forgotten."""
        keys, change = self._settle()
        over = change <= now
        self._keys, self._change = [keys[~over]], [change[~over]]
        return keys[over]

    def _settle(self) -> tuple[Keys, Int64s]:
        """What was noted last of each key, of those that were changed last; in order of time."""
        keys, change = (
            np.concatenate([np.zeros(0, kind), *some])
            for kind, some in ((np.uint64, self._keys), (np.int64, self._change))
        )
        last = np.sort(len(keys) - 1 - np.unique(keys[::-1], return_index=True)[1])
        last = last[change[last] != NEVER][-self._most :]
        self._keys, self._change = [keys[last]], [change[last]]
        return keys[last], change[last]

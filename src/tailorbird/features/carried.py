"""What is kept of events that are gone through in order of time: how a backfill answers about a key
whose events do not fit into memory.

    events before c ─┬─ in flight (p above one still to be asked)            ─► kept
                     ├─ could still be asked for itself                      ─► kept
                     └─ the rest: known to all that is still to be asked     ─► added to the sums of their tiles

Kept for itself is, of each key and source, what a question could pick out: the newest events, the
first ones, the largest or smallest of each tile, and of sketches one event for each register of
each tile; the newest of profiles. A sum over a window is then that of the events that are kept,
which `features.records` finds, and that of the tiles, whole ones, since a window begins on the edge
of a tile. So a value is equal to the one that all events together would give. What is kept does not
grow with the events of a key, but by the tiles of its windows, and by what is in flight.
`features.shards` says when this is done.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events.schema import micros
from tailorbird.features.extracts import Extract, measured
from tailorbird.features.hashing import identities
from tailorbird.features.layout import PEAKS, EntityLayout, Profile, Ring, Source, Spot
from tailorbird.features.records import Frames, sources_of
from tailorbird.features.sketch import places

Int64s = npt.NDArray[np.int64]
Intps = npt.NDArray[np.intp]
Keys = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]


class Tiles:
    """The sums of tiles of many keys."""

    def __init__(self) -> None:
        self._key, self._tile, self._total = (
            np.zeros(0, np.uint64),
            np.zeros(0, np.int64),
            np.zeros(0, np.int64),
        )
        self._index()

    def __len__(self) -> int:
        return len(self._key)

    def add(self, key: Keys, tile: Int64s, value: Int64s, oldest: int) -> None:
        """Add to the tiles of these keys, and forget the tiles before `oldest`."""
        key, tile = np.concatenate((self._key, key)), np.concatenate((self._tile, tile))
        value = np.concatenate((self._total, value))
        order = np.lexsort((tile, key))
        order = order[tile[order] >= oldest]
        key, tile, value = key[order], tile[order], value[order]
        first = np.flatnonzero(_changes(key, tile))
        self._key, self._tile = key[first], tile[first]
        self._total = np.add.reduceat(value, first) if len(first) else value
        self._index()

    def since(self, key: Keys, tile: Int64s) -> Int64s:
        """The sum of each key's tiles from `tile` on."""
        if not len(self):
            return np.zeros(len(key), np.int64)
        number, known = self._numbers(key)
        start = np.searchsorted(
            self._code, number * self._span + np.clip(tile - self._low, 0, self._span)
        )
        end = np.searchsorted(self._code, (number + 1) * self._span)
        return np.where(known, self._prefix[end] - self._prefix[start], 0)

    def at(self, key: Keys, tile: Int64s) -> Int64s:
        """The sum of each key's tile."""
        return self.since(key, tile) - self.since(key, tile + 1)

    def _index(self) -> None:
        self._low = int(self._tile.min()) if len(self) else 0
        self._span = int(self._tile.max()) - self._low + 1 if len(self) else 1
        self._keys, number = np.unique(self._key, return_inverse=True)
        self._code = number * self._span + (self._tile - self._low)
        self._prefix = np.append(0, np.cumsum(self._total))

    def _numbers(self, key: Keys) -> tuple[Intps, Bools]:
        number = np.minimum(np.searchsorted(self._keys, key), len(self._keys) - 1)
        return number, self._keys[number] == key


class Carried:
    """What is kept of the events up to a time, about some entities, for the keys (by entity) that
    will be asked about.
    """

    def __init__(
        self, entities: Sequence[EntityLayout], asked: Mapping[int, Keys], empty: pa.Table
    ) -> None:
        self.events = empty
        self._entities = entities
        self._asked = {entity: np.unique(keys) for entity, keys in asked.items()}
        self._tiles: dict[tuple[int, Ring], Tiles] = {}

    def advance(self, frames: Frames, t: int, p: int) -> None:
        """Take in the events of the frames, which are those kept so far and all up to t, for what
        is asked at or after t and p.
        """
        frame, kept = frames.frame, np.zeros(frames.events.num_rows, np.bool_)
        passing: list[tuple[EntityLayout, Source, Extract, Intps]] = []
        for layout in self._entities:
            key, _ = frame.key(layout.entity)
            wanted = _among(self._asked[layout.index], key)
            for source in sources_of(layout):
                taken = frames.taken(source)
                mine = np.flatnonzero(wanted[taken.rows])
                settled = frame.p[taken.rows[mine]] <= p
                kept[frame.event(taken.rows[mine[~settled]])] = True
                mine = mine[settled]
                passing.append((layout, source, taken, mine))
                rows = taken.rows[mine]
                for some in _picked(
                    layout, source, key[rows], frame.ts[rows], taken.value[mine], t
                ):
                    kept[frame.event(rows[some])] = True
            if layout.profile is not None:
                self._keep_profiles(layout.profile, self._asked[layout.index], frames, p, kept)
        for layout, source, taken, mine in passing:
            gone = mine[~kept[frame.event(taken.rows[mine])]]
            rows, value = taken.rows[gone], taken.value[gone]
            key = frame.key(layout.entity)[0][rows]
            for ring, tiles in _summed(layout).items():
                if ring.source == source:
                    held = self._tiles.setdefault((layout.index, ring), Tiles())
                    held.add(
                        key,
                        frame.ts[rows] // ring.hop,
                        measured(ring.measure, value),
                        t // ring.hop - tiles,
                    )
        self.events = frames.events.filter(pa.array(kept)).combine_chunks()

    def add_to(
        self, layout: EntityLayout, key: Keys, t: Int64s, values: dict[Spot, Int64s]
    ) -> None:
        """Add what is no longer among the events to the windows' sums of keys at t."""
        for window in layout.windows:
            ring = layout.rings[window.ring]
            tiles = self._tiles.get((layout.index, ring))
            if tiles is not None:
                spot = Spot(layout.index, window.reading_lane)
                values[spot] = values[spot] + tiles.since(key, t // ring.hop - window.tiles)

    def tiles_of(self, layout: EntityLayout, ring: Ring, key: Keys) -> Callable[[Int64s], Int64s]:
        """What is no longer among the events of a tile of each key."""
        tiles = self._tiles.get((layout.index, ring), Tiles())
        return lambda tile: tiles.at(key, tile)

    def _keep_profiles(
        self, profile: Profile, asked: Keys, frames: Frames, p: int, kept: Bools
    ) -> None:
        """The profiles in flight and the newest ones."""
        table = frames.events
        of_type = pc.and_(pc.equal(table["type"], profile.type), table["counts"]).to_numpy()
        events = np.flatnonzero(of_type)
        ids = table["item_id" if profile.type == "item" else "user_id"].take(pa.array(events))
        key = identities(ids, start=frames.start)
        mine = _among(asked, key)
        events, key = events[mine], key[mine]
        settled = table["p"].to_numpy()[events] <= p
        kept[events[~settled]] = True
        events, key = events[settled], key[settled]
        kept[events[_newest(key, micros(table["ts"])[events], 1)]] = True


def _summed(layout: EntityLayout) -> dict[Ring, int]:
    """The rings that are summed up, with how many tiles back they are asked for."""
    found: dict[Ring, int] = {}
    for one in (*layout.windows, *layout.decays):
        ring = layout.rings[one.ring]
        if ring.measure not in PEAKS:
            found[ring] = max(found.get(ring, 0), one.tiles)
    return found


def _picked(
    layout: EntityLayout, source: Source, key: Keys, ts: Int64s, value: Int64s, t: int
) -> list[Intps]:
    """Of a source's events those that a question could pick out; where times are equal, all of
    them.
    """
    found = [_newest(key, ts, 1) for one in layout.lasts if one.source == source]
    found += [_newest(key, ts, one.length) for one in layout.sequences if one.source == source]
    found += [
        _newest(key, -ts, 1)
        for one in (*layout.firsts, *layout.first_values)
        if one.source == source
    ]
    for place, ring in enumerate(layout.rings):
        if ring.source == source and ring.measure in PEAKS:
            reach = max((one.tiles for one in layout.windows if one.ring == place), default=0)
            tile = ts // ring.hop
            late = np.flatnonzero(tile >= t // ring.hop - reach)
            found.append(late[_largest(measured(ring.measure, value[late]), key[late], tile[late])])
    for number, sketch in enumerate(layout.sketches):
        if sketch.source == source:
            reach = max((one.tiles for one in layout.distincts if one.sketch == number), default=0)
            tile = ts // sketch.hop
            late = np.flatnonzero(tile >= t // sketch.hop - reach)
            register, rank = places(value[late].view(np.uint64), sketch.precision)
            found.append(late[_largest(rank, key[late], tile[late], register)])
    return found


def _newest(key: Keys, ts: Int64s, length: int) -> Intps:
    """The events as new as the one that has `length` − 1 newer ones of its key, or newer."""
    order = np.lexsort((ts, key))
    key = key[order]
    ends = np.flatnonzero(np.append(key[1:] != key[:-1], np.ones(min(len(key), 1), np.bool_)))
    starts = np.append(0, ends + 1)[: len(ends)]
    least = ts[order[np.maximum(ends - length + 1, starts)]] if len(ends) else np.zeros(0, np.int64)
    return order[ts[order] >= np.repeat(least, ends + 1 - starts)]


def _largest(value: npt.NDArray, *of: npt.NDArray) -> Intps:
    """One event with the largest value of each."""
    order = np.lexsort((value, *of))
    return order[
        np.append(_changes(*(one[order] for one in of))[1:], np.ones(min(len(order), 1), np.bool_))
    ]


def _changes(*columns: npt.NDArray) -> Bools:
    """Where a row differs from the one before it."""
    found = np.ones(len(columns[0]), np.bool_)
    found[1:] = np.logical_or.reduce([one[1:] != one[:-1] for one in columns])
    return found


def _among(keys: Keys, some: Keys) -> Bools:
    """Which of some are among the keys, which ascend."""
    if not len(keys):
        return np.zeros(len(some), np.bool_)
    return keys[np.minimum(np.searchsorted(keys, some), len(keys) - 1)] == some

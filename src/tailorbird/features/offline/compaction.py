"""Compaction of events processed in order of time, for keys whose events do not fit into memory.

    events before c ─┬─ in flight (p above that of a later request)       ─► retained
                     ├─ could still be selected individually               ─► retained
                     └─ the rest: known to all later requests              ─► added to tile sums

Events are retained individually, for each key and source, if a request could select them: the
newest events, the first ones, the largest or smallest of each tile, one event for each register of
each tile of a sketch, and the newest profiles. A sum over a window is then the sum of the retained
events, which `features.offline.timelines` computes, plus the sum of the window's tiles, which are
complete since a window begins on the edge of a tile. Values are therefore equal to those computed
from all events together. Memory does not grow with the number of events of a key, only with the
tiles of its windows and the events in flight. `features.offline.shards` decides when this is used.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events.contract.schema import micros
from tailorbird.features.arithmetic.sketch import registers_and_ranks
from tailorbird.features.event_columns.extracts import Extract, tile_values
from tailorbird.features.layout.layout import (
    PEAK_MEASURES,
    EntityLayout,
    Profile,
    RecordLane,
    Ring,
    Source,
)
from tailorbird.features.offline.events.frames import FrameCache
from tailorbird.features.offline.hashing import identify_texts
from tailorbird.features.offline.timelines import sources_of

Int64s = npt.NDArray[np.int64]
Intps = npt.NDArray[np.intp]
Keys = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]


class TileSums:
    """The sums of tiles of many keys."""

    def __init__(self) -> None:
        self._key = np.zeros(0, np.uint64)
        self._tile = np.zeros(0, np.int64)
        self._sums = np.zeros(0, np.int64)
        self._build_index()

    def __len__(self) -> int:
        return len(self._key)

    def add(self, key: Keys, tile: Int64s, value: Int64s, oldest_tile: int) -> None:
        """Add values to the tiles of these keys, and drop the tiles before `oldest_tile`."""
        key = np.concatenate((self._key, key))
        tile = np.concatenate((self._tile, tile))
        value = np.concatenate((self._sums, value))
        order = np.lexsort((tile, key))
        order = order[tile[order] >= oldest_tile]
        key = key[order]
        tile = tile[order]
        value = value[order]
        tile_starts = np.flatnonzero(_mark_changes(key, tile))
        self._key = key[tile_starts]
        self._tile = tile[tile_starts]
        self._sums = np.add.reduceat(value, tile_starts) if len(tile_starts) else value
        self._build_index()

    def sum_since(self, key: Keys, tile: Int64s) -> Int64s:
        """Return the sum of each key's tiles from `tile` on."""
        if not len(self):
            return np.zeros(len(key), np.int64)
        key_index, is_present = self._find_keys(key)
        start = np.searchsorted(
            self._key_tile_codes,
            key_index * self._tile_span + np.clip(tile - self._first_tile, 0, self._tile_span),
        )
        end = np.searchsorted(self._key_tile_codes, (key_index + 1) * self._tile_span)
        return np.where(is_present, self._prefix[end] - self._prefix[start], 0)

    def sum_at(self, key: Keys, tile: Int64s) -> Int64s:
        """Return the sum of one tile of each key."""
        return self.sum_since(key, tile) - self.sum_since(key, tile + 1)

    def _build_index(self) -> None:
        self._first_tile = int(self._tile.min()) if len(self) else 0
        self._tile_span = int(self._tile.max()) - self._first_tile + 1 if len(self) else 1
        self._keys, key_index = np.unique(self._key, return_inverse=True)
        self._key_tile_codes = key_index * self._tile_span + (self._tile - self._first_tile)
        self._prefix = np.append(0, np.cumsum(self._sums))

    def _find_keys(self, key: Keys) -> tuple[Intps, Bools]:
        """Return the index of each key among the distinct ones, and whether it is there."""
        key_index = np.minimum(np.searchsorted(self._keys, key), len(self._keys) - 1)
        return key_index, self._keys[key_index] == key


class CompactedHistory:
    """The compacted events before a time, for the keys (by entity) that will be requested."""

    def __init__(
        self,
        entities: Sequence[EntityLayout],
        request_keys: Mapping[int, Keys],
        empty_events: pa.Table,
    ) -> None:
        self.events = empty_events
        self._entities = entities
        self._request_keys = {entity: np.unique(keys) for entity, keys in request_keys.items()}
        self._tile_sums: dict[tuple[int, Ring], TileSums] = {}

    def absorb(self, frame_cache: FrameCache, t: int, log_position: int) -> None:
        """Absorb the events of a frame, for requests at or after t and p.

        The frame contains the events retained so far and all further ones up to t.
        """
        frame = frame_cache.frame
        is_retained = np.zeros(frame_cache.events.num_rows, np.bool_)
        extracts: list[tuple[EntityLayout, Source, Extract, Intps]] = []
        for layout in self._entities:
            key, _ = frame.key(layout.entity)
            is_requested = _is_among(self._request_keys[layout.index], key)
            for source in sources_of(layout):
                extract = frame_cache.extract(source)
                requested_rows = np.flatnonzero(is_requested[extract.rows])
                # Settled events are not in flight: all later requests know them.
                is_settled = frame.log_position[extract.rows[requested_rows]] <= log_position
                is_retained[frame.event(extract.rows[requested_rows[~is_settled]])] = True
                requested_rows = requested_rows[is_settled]
                extracts.append((layout, source, extract, requested_rows))
                rows = extract.rows[requested_rows]
                for selected_rows in _retained_events(
                    layout,
                    source,
                    key=key[rows],
                    ts=frame.ts[rows],
                    value=extract.value[requested_rows],
                    t=t,
                ):
                    is_retained[frame.event(rows[selected_rows])] = True
            if layout.profile is not None:
                self._retain_profiles(
                    layout.profile,
                    self._request_keys[layout.index],
                    frame_cache,
                    log_position,
                    is_retained,
                )
        for layout, source, extract, requested_rows in extracts:
            absorbed_rows = requested_rows[~is_retained[frame.event(extract.rows[requested_rows])]]
            rows = extract.rows[absorbed_rows]
            value = extract.value[absorbed_rows]
            key = frame.key(layout.entity)[0][rows]
            for ring, tiles_back in _summed_rings(layout).items():
                if ring.source == source:
                    tile_sums = self._tile_sums.setdefault((layout.index, ring), TileSums())
                    tile_sums.add(
                        key,
                        frame.ts[rows] // ring.hop,
                        tile_values(ring.measure, value),
                        t // ring.hop - tiles_back,
                    )
        self.events = frame_cache.events.filter(pa.array(is_retained)).combine_chunks()

    def add_compacted_sums(
        self, layout: EntityLayout, key: Keys, t: Int64s, values: dict[RecordLane, Int64s]
    ) -> None:
        """Add what was compacted away to the windows' sums of keys at t."""
        for window in layout.windows:
            ring = layout.rings[window.ring]
            tile_sums = self._tile_sums.get((layout.index, ring))
            if tile_sums is not None:
                record_lane = RecordLane(layout.index, window.reading_lane)
                values[record_lane] = values[record_lane] + tile_sums.sum_since(
                    key, t // ring.hop - window.tiles
                )

    def tile_lookup(
        self, layout: EntityLayout, ring: Ring, key: Keys
    ) -> Callable[[Int64s], Int64s]:
        """Return a function from a tile to each key's compacted sum in that tile."""
        tile_sums = self._tile_sums.get((layout.index, ring), TileSums())
        return lambda tile: tile_sums.sum_at(key, tile)

    def _retain_profiles(
        self,
        profile: Profile,
        request_keys: Keys,
        frame_cache: FrameCache,
        log_position: int,
        is_retained: Bools,
    ) -> None:
        """Retain the profiles in flight and the newest ones."""
        table = frame_cache.events
        is_profile = pc.and_(pc.equal(table["type"], profile.type), table["counts"]).to_numpy()
        events = np.flatnonzero(is_profile)
        ids = table["item_id" if profile.type == "item" else "user_id"].take(pa.array(events))
        key = identify_texts(ids, seed=frame_cache.seed)
        is_requested = _is_among(request_keys, key)
        events = events[is_requested]
        key = key[is_requested]
        is_settled = table["p"].to_numpy()[events] <= log_position
        is_retained[events[~is_settled]] = True
        events = events[is_settled]
        key = key[is_settled]
        is_retained[events[_newest_events(key, micros(table["ts"])[events], 1)]] = True


def _summed_rings(layout: EntityLayout) -> dict[Ring, int]:
    """Return the rings that are summed, with the number of tiles that they are read back."""
    tiles_by_ring: dict[Ring, int] = {}
    for window in (*layout.windows, *layout.decays):
        ring = layout.rings[window.ring]
        if ring.measure not in PEAK_MEASURES:
            tiles_by_ring[ring] = max(tiles_by_ring.get(ring, 0), window.tiles)
    return tiles_by_ring


def _retained_events(
    layout: EntityLayout, source: Source, key: Keys, ts: Int64s, value: Int64s, t: int
) -> list[Intps]:
    """Return the events of a source that a request could select; ties in time are all included."""
    retained_rows = [_newest_events(key, ts, 1) for last in layout.lasts if last.source == source]
    retained_rows += [
        _newest_events(key, ts, sequence.length)
        for sequence in layout.sequences
        if sequence.source == source
    ]
    retained_rows += [
        _newest_events(key, -ts, 1)
        for first in (*layout.firsts, *layout.first_values)
        if first.source == source
    ]
    for index, ring in enumerate(layout.rings):
        if ring.source == source and ring.measure in PEAK_MEASURES:
            tiles_back = max(
                (window.tiles for window in layout.windows if window.ring == index), default=0
            )
            tile = ts // ring.hop
            readable_rows = np.flatnonzero(tile >= t // ring.hop - tiles_back)
            retained_rows.append(
                readable_rows[
                    _largest_events(
                        tile_values(ring.measure, value[readable_rows]),
                        key[readable_rows],
                        tile[readable_rows],
                    )
                ]
            )
    for index, sketch in enumerate(layout.sketches):
        if sketch.source == source:
            tiles_back = max(
                (distinct.tiles for distinct in layout.distincts if distinct.sketch == index),
                default=0,
            )
            tile = ts // sketch.hop
            readable_rows = np.flatnonzero(tile >= t // sketch.hop - tiles_back)
            register, rank = registers_and_ranks(
                value[readable_rows].view(np.uint64), sketch.precision
            )
            retained_rows.append(
                readable_rows[
                    _largest_events(rank, key[readable_rows], tile[readable_rows], register)
                ]
            )
    return retained_rows


def _newest_events(key: Keys, ts: Int64s, length: int) -> Intps:
    """Return the events that are among the `length` newest of their key, including ties."""
    order = np.lexsort((ts, key))
    key = key[order]
    ends = np.flatnonzero(np.append(key[1:] != key[:-1], np.ones(min(len(key), 1), np.bool_)))
    starts = np.append(0, ends + 1)[: len(ends)]
    oldest_retained = (
        ts[order[np.maximum(ends - length + 1, starts)]] if len(ends) else np.zeros(0, np.int64)
    )
    return order[ts[order] >= np.repeat(oldest_retained, ends + 1 - starts)]


def _largest_events(value: npt.NDArray, *group_columns: npt.NDArray) -> Intps:
    """Return one event with the largest value of each group."""
    order = np.lexsort((value, *group_columns))
    return order[
        np.append(
            _mark_changes(*(group[order] for group in group_columns))[1:],
            np.ones(min(len(order), 1), np.bool_),
        )
    ]


def _mark_changes(*columns: npt.NDArray) -> Bools:
    """Return where a row differs from the one before it."""
    differs = np.ones(len(columns[0]), np.bool_)
    differs[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return differs


def _is_among(keys: Keys, candidates: Keys) -> Bools:
    """Return which of the candidates are among the keys, which are ascending."""
    if not len(keys):
        return np.zeros(len(candidates), np.bool_)
    return keys[np.minimum(np.searchsorted(keys, candidates), len(keys) - 1)] == candidates

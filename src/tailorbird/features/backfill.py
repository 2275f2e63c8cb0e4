"""Features of past requests, recomputed from routed events: training sets, and the check of what serving logged.

    events ──Frame──► extract of each source ──► one Timeline an entity ──► lanes at (t, p) ──finish──► columns

Each value is what a reader would have got at time t from a state that had applied everything routed up to p. Nothing is
shared with the stream but what defines a value: which events count (`features.columns`) and how a column is finished
(`features.finish`). How sums and newest events at (t, p) are found is in `features.asof`.

What belongs to the request (user, session, everyone) is computed once a request, what belongs to the item once a row.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.errors import UsageError
from tailorbird.events.keys import hash64, hash64s
from tailorbird.features import finish
from tailorbird.features.asof import Moments, Ragged, Timeline
from tailorbird.features.columns import Extract, Frame, entity_key, extract, extract_profiles
from tailorbird.features.declare import HORIZON, SESSION_GAP, Amount, Derived, Feature
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.layout import EntityLayout, LastEvents, Layout, Profile, Source, Spot, Step, compile_layout

Int64s = npt.NDArray[np.int64]
Intps = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float64]
Keys = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]
Texts = Sequence[str | None] | pa.Array | pa.ChunkedArray

# Columns of an event that any feature needs; expressions and entities add theirs.
_BASE_COLUMNS = ("p", "event_id", "type", "ts", "user_id", "anonymous_id", "person", "item_id", "items", "counts")


@dataclass(frozen=True)
class Requests:
    """What was asked: m requests, and n rows, each an item of one of them.

    Attributes:
        t, p: shape (m,), the two times of each request: events with ts < t, routed at or before p.
        person: m ids as the router decides them: a user's id, `anon:…`, or None.
        session_id, device, country, local_hour: m values each, None where unknown; None for the whole column: all unknown.
        row_request: shape (n,), which request each row belongs to.
        row_item: n item ids.
    """

    t: Int64s
    p: Int64s
    person: Texts
    row_request: Intps
    row_item: Texts
    session_id: Texts | None = None
    device: Texts | None = None
    country: Texts | None = None
    local_hour: Sequence[int | None] | pa.Array | pa.ChunkedArray | None = None

    def __post_init__(self) -> None:
        count = len(self.t)
        for name in ("p", "person", "session_id", "device", "country", "local_hour"):
            column = getattr(self, name)
            if column is not None and len(column) != count:
                raise UsageError(f"expected {count:,} values, one a request, got {len(column):,}", where=f"requests.{name}")
        if len(self.row_item) != len(self.row_request):
            raise UsageError(f"expected {len(self.row_request):,} items, one a row, got {len(self.row_item):,}", where="requests.row_item")
        if len(self.row_request) and not 0 <= self.row_request.min() <= self.row_request.max() < count:
            raise UsageError(f"a row names a request outside 0 to {count - 1}", where="requests.row_request")


@dataclass(frozen=True)
class RaggedSequence:
    """A sequence of each request: entries `offsets[i]` to `offsets[i + 1]`, oldest first. `item` 0 is none."""

    offsets: Int64s
    item: Keys
    type: Keys
    ts: Int64s


@dataclass(frozen=True)
class BackfilledRows:
    """What `Reader.read` would have answered.

    Attributes:
        numeric: float32, shape (n, len(numeric_names)); missing is NaN.
        categorical: hash64, shape (n, len(categorical_names)); 0 is missing.
        sequences: by name, one for each request.
    """

    numeric: npt.NDArray[np.float32]
    categorical: Keys
    sequences: dict[str, RaggedSequence]
    numeric_names: tuple[str, ...]
    categorical_names: tuple[str, ...]


def backfill(features: FeatureSet, events: pa.Table, requests: Requests, *, only: Sequence[str] | None = None) -> BackfilledRows:
    """The features of past requests, equal to the bit to what the stream gives.

    Args:
        events: columns of `events.schema.ROUTED`, at least those of `event_columns`; rows in any order.
        only: compute these columns only, in order of declaration; by default all.
    Raises:
        UsageError: `only` names no column, or a sequence is about the item.
    """
    chosen = features if only is None else _subset(features, only)
    layout = chosen.layout
    lanes = _Lanes(chosen, _needed(layout, events), requests)
    table, categories = finish.numeric(layout, lanes), finish.categorical(layout, lanes)
    sequences = {step.name: lanes.sequence(step) for step in layout.steps if step.kind == "sequence"}
    numeric, categorical = chosen.numeric, chosen.categorical
    if only is not None:  # what a derived column is made of was computed too
        kept = [index for index, name in enumerate(numeric) if name in only]
        table, numeric = table[:, kept], tuple(numeric[index] for index in kept)
    return BackfilledRows(table, categories, sequences, numeric, categorical)


def event_columns(features: FeatureSet) -> list[str]:
    """The columns of the events table that a backfill reads, so that no others need to be loaded."""
    names: set[str] = set()
    for one in features.layout.entities:
        names.update("session_id" if name == "session" else name for name in one.entity.fields if name not in ("user", "item"))
        names.update(["properties"] if one.profile else [], ["session_id"] if one.sequences else [])
        for source in _sources(one):
            value = source.value.of if isinstance(source.value, Amount) else source.value
            for expression in (source.where, value):
                names.update(() if expression is None else (name for name, _ in expression.names))
    plain = {name if "." not in name else _profile_column(name) for name in names}
    return [*_BASE_COLUMNS, *sorted(plain - set(_BASE_COLUMNS))]


def _profile_column(name: str) -> str:
    owner = name.partition(".")[0]
    return owner if owner == "properties" else f"{owner}_profile"


def _subset(features: FeatureSet, only: Sequence[str]) -> FeatureSet:
    """The declarations of some columns and of what these are derived from."""
    by_name = {feature.name: feature for feature in features.features}
    expressions = {step.name: step.expression for step in features.layout.steps if step.expression is not None}
    wanted: dict[str, Feature] = {}
    open_ = list(only)
    while open_:
        name = open_.pop()
        if name not in by_name:
            raise UsageError(f"{name!r} is no column", where="only", fix=f"use some of {', '.join(by_name)}")
        wanted[name] = by_name[name]
        if isinstance(by_name[name], Derived):
            open_ += [other for other, _ in expressions[name].names if other not in wanted]
    kept = tuple(feature for feature in features.features if feature.name in wanted)
    order = tuple(name for name in features.layout.derived_order if name in wanted)
    return FeatureSet(kept, compile_layout(kept, {name: expressions[name] for name in order}, order))


def _sources(layout: EntityLayout) -> list[Source]:
    """Each source of an entity once."""
    found = [*(ring.source for ring in layout.rings), *(one.source for one in (*layout.lasts, *layout.sequences))]
    return list(dict.fromkeys(found))


def _needed(layout: Layout, events: pa.Table) -> pa.Table:
    types = {name for one in layout.entities for source in _sources(one) for name in source.types}
    types.update(one.profile.type for one in layout.entities if one.profile)
    return events.filter(pc.is_in(events["type"], pa.array(sorted(types), pa.string())))


def _keys(texts: Texts | None, count: int) -> Keys:
    """hash64 of each text, 0 for None; each different one is hashed once."""
    if texts is None:
        return np.zeros(count, np.uint64)
    array = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else pa.array(texts, pa.string())
    encoded = array.dictionary_encode()
    hashes = np.append(hash64s(encoded.dictionary.to_pylist()), np.uint64(0))
    return hashes[pc.fill_null(encoded.indices, len(hashes) - 1).to_numpy(zero_copy_only=False)]


class _Lanes:
    """The lanes of all entities; implements `finish.Lanes` for the rows of many requests."""

    def __init__(self, features: FeatureSet, events: pa.Table, requests: Requests) -> None:
        self._features = features
        self._events = events
        self._frame = Frame(events)
        self._requests = requests
        self._row_request = np.asarray(requests.row_request, np.intp)
        self._times = np.asarray(requests.t, np.int64), np.asarray(requests.p, np.int64)
        self._values: dict[Spot, Int64s] = {}
        self._known: list[Bools] = [np.ones(1, np.bool_)] * len(features.layout.entities)
        self._runs: dict[Spot, _Runs] = {}
        self._by_row = [_is_by_row(one) for one in features.layout.entities]
        composite = {entity for entity, _ in features.composite_spots}
        for index in sorted(range(len(features.layout.entities)), key=lambda index: index in composite):
            self._compute(features.layout.entities[index])

    @property
    def rows(self) -> int:
        return len(self._row_request)

    @cached_property
    def t(self) -> Int64s:
        return self._times[0][self._row_request]

    def lane(self, spot: Spot) -> Int64s:
        return self._spread(self._values[spot], self._by_row[spot.entity])

    def known(self, entity: int) -> Bools:
        return self._spread(self._known[entity], self._by_row[entity])

    def session(self, step: Step) -> Floats:
        counts = self._runs[step.spots[0]].count_sessions(self._times[0], self._texts("session"), hash64(step.text))
        return counts[self._row_request]

    def sequence(self, step: Step) -> RaggedSequence:
        return self._runs[step.spots[0]].sequence()

    def context_number(self, field: str) -> Floats:
        column = getattr(self._requests, field)
        if column is None:
            return np.full(1, np.nan)
        numbers = pa.array(column) if not isinstance(column, pa.Array | pa.ChunkedArray) else column
        return pc.fill_null(numbers.cast(pa.float64()), np.nan).to_numpy()[self._row_request]

    def context_key(self, field: str) -> Keys:
        return self._texts(field)[self._row_request]

    def _spread(self, values: npt.NDArray, by_row: bool) -> npt.NDArray:
        return values if by_row else values[self._row_request]

    def _texts(self, name: str) -> Keys:
        """A text of each request as a key."""
        column = {"user": "person", "session": "session_id"}.get(name, name)
        return _keys(getattr(self._requests, column), len(self._times[0]))

    def _compute(self, layout: EntityLayout) -> None:
        """All lanes of one entity, at its requests or rows."""
        by_row = self._by_row[layout.index]
        key, known = self._entity_keys(layout, by_row)
        self._known[layout.index] = known
        t, p = (times[self._row_request] if by_row else times for times in self._times)
        if layout.profile is not None:
            self._profile(layout, layout.profile, key, t, p)
        if not _sources(layout):
            return
        history = _History(layout, self._events, self._frame, key)
        moments = history.timeline.at(key, t, p)
        for spot, values in history.windows(moments, t) + history.lasts(moments):
            self._values[spot] = values
        for one in layout.sequences:
            if by_row:
                raise UsageError("a sequence belongs to the request, so it is about user, session, device or country", where=layout.entity.name)
            spot = Spot(layout.index, one.reading_lane)
            self._runs[spot] = history.runs(moments, one, t)

    def _entity_keys(self, layout: EntityLayout, by_row: bool) -> tuple[Keys, Bools]:
        count = self.rows if by_row else len(self._times[0])
        parts: list[Keys] = []
        for place, name in enumerate(layout.entity.fields):
            if name == "item":
                parts.append(_keys(self._requests.row_item, self.rows))
            elif "." in name:
                spot = self._features.composite_spots[layout.index, place]
                values = self.lane(spot) if by_row else self._values[spot]
                parts.append(values.view(np.uint64))
            else:
                parts.append(self._spread(self._texts(name), not by_row))
        known = np.ones(count, np.bool_)
        for part in parts:
            known &= part != 0
        return np.ascontiguousarray(np.broadcast_to(entity_key(layout.entity, parts), (count,))), known

    def _profile(self, layout: EntityLayout, profile: Profile, key: Keys, t: Int64s, p: Int64s) -> None:
        frame = Frame(self._events.filter(pc.equal(self._events["type"], profile.type)))
        found = extract_profiles(profile.type, profile.attributes, frame)
        timeline = Timeline(key, found.key, found.ts, found.p, tie=lambda rows: (found.id[rows],))
        newest = timeline.series(np.ones(len(found.key), np.bool_)).newest(timeline.at(key, t, p))
        for place, (_, kind) in enumerate(profile.attributes):
            missing = np.array(np.nan).view(np.int64) if kind == "numeric" else np.int64(0)
            values = np.append(found.values[:, place], missing)[newest]  # −1, no profile, is the last
            self._values[Spot(layout.index, profile.reading_lane + place)] = values


def _is_by_row(layout: EntityLayout) -> bool:
    return any(name == "item" or name.startswith("item.") for name in layout.entity.fields)


class _History:
    """The events of one entity: the rows of the frame that any of its sources counts, as one timeline."""

    def __init__(self, layout: EntityLayout, events: pa.Table, frame: Frame, asked: Keys) -> None:
        self._layout = layout
        self._frame = frame
        self._taken: dict[Source, Extract] = {source: extract(source, frame) for source in _sources(layout)}
        chosen = np.zeros(len(frame), np.bool_)
        for taken in self._taken.values():
            chosen[taken.rows] = True
        self._rows = np.flatnonzero(chosen)
        self._place = np.cumsum(chosen) - 1  # row of the frame → its place among the chosen ones
        tie = _TieBreak(events, frame, self._rows) if layout.lasts or layout.sequences else None
        key, _ = frame.key(layout.entity)
        self.timeline = Timeline(asked, key[self._rows], frame.ts[self._rows], frame.p[self._rows], tie)

    def windows(self, moments: Moments, t: Int64s) -> list[tuple[Spot, Int64s]]:
        """The sum of each window at its spot. Edges are shared by windows of one length and hop, prefix sums by all."""
        layout = self._layout
        prefixes = [self.timeline.prefix(self._measure(ring.source, ring.measure)) for ring in layout.rings]
        upper = moments.before().sums(prefixes)
        edges: dict[tuple[int, int], list[int]] = {}
        for index, window in enumerate(layout.windows):
            edges.setdefault((layout.rings[window.ring].hop, window.tiles), []).append(index)

        def at_edge(edge: tuple[int, int]) -> list[tuple[Spot, Int64s]]:
            hop, tiles = edge
            rings = [layout.windows[index].ring for index in edges[edge]]
            lower = moments.before(t // hop * hop - hop * tiles).sums([prefixes[ring] for ring in rings])
            return [
                (Spot(layout.index, layout.windows[index].reading_lane), moments.restore(upper[ring] - below))
                for index, ring, below in zip(edges[edge], rings, lower, strict=True)
            ]

        # NumPy lets go of the interpreter in searches and sums, so edges run on all cores.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return [found for some in pool.map(at_edge, edges) for found in some]

    def lasts(self, moments: Moments) -> list[tuple[Spot, Int64s]]:
        """Time and value of the newest event of each source, 0 without one."""
        found = []
        for one in self._layout.lasts:
            taken = self._taken[one.source]
            newest = self._series(one.source).newest(moments)
            value = self._measure(one.source, "sum")
            for lane, column in enumerate((self._frame.ts[self._rows], value)):
                spot = Spot(self._layout.index, one.reading_lane + lane)
                found.append((spot, np.where(newest >= 0, column[newest], 0) if len(taken) else np.zeros(len(newest), np.int64)))
        return found

    def runs(self, moments: Moments, sequence: LastEvents, t: Int64s) -> "_Runs":
        run = self._series(sequence.source).last(moments, sequence.length, t - HORIZON)
        return _Runs(self._frame, run, self._rows[run.events])

    def _series(self, source: Source):
        chosen = np.zeros(len(self._rows), np.bool_)
        chosen[self._place[self._taken[source].rows]] = True
        return self.timeline.series(chosen)

    def _measure(self, source: Source, measure: str) -> Int64s:
        """What each of the entity's events adds; 0 where the source does not count it."""
        taken = self._taken[source]
        values = np.zeros(len(self._rows), np.int64)
        values[self._place[taken.rows]] = 1 if measure == "count" else taken.value
        return values


class _TieBreak:
    """The ids of some events. Hashing them is dear, so only the few that share a time with another are hashed."""

    def __init__(self, events: pa.Table, frame: Frame, rows: Intps) -> None:
        self._events, self._frame, self._rows = events, frame, rows

    def __call__(self, tied: Intps) -> tuple[Keys]:
        rows = self._rows[tied]
        event = np.cumsum(self._frame.index == 0)[rows] - 1
        unique, place = np.unique(event, return_inverse=True)
        some = Frame(self._events.take(pa.array(unique)))
        first = some.id[some.index == 0]
        with np.errstate(over="ignore"):
            return (first[place] + self._frame.index[rows].astype(np.uint64),)


@dataclass(frozen=True)
class _Runs:
    """The last events of each request, as rows of the frame."""

    frame: Frame
    run: Ragged
    rows: Intps

    def sequence(self) -> RaggedSequence:
        frame, rows = self.frame, self.rows
        return RaggedSequence(self.run.offsets, frame.text("item")[rows], frame.text("type")[rows], frame.ts[rows])

    def count_sessions(self, t: Int64s, session: Keys, type: int) -> Floats:
        """As `finish.count_session`, of many requests: `session` (m,) is 0 where none was given."""
        offsets, ts = self.run.offsets, self.frame.ts[self.rows]
        owner = np.repeat(np.arange(len(t)), np.diff(offsets))
        following = np.append(ts[1:], 0)
        ends = offsets[1:][np.diff(offsets) > 0] - 1
        following[ends] = t[owner[ends]]
        breaks = np.flatnonzero(following - ts > SESSION_GAP)
        last_break = np.full(len(t), -1, np.int64)
        np.maximum.at(last_break, owner[breaks], breaks)
        named = session[owner]
        current = np.where(named != 0, self.frame.text("session")[self.rows] == named, np.arange(len(ts)) > last_break[owner])
        counted = owner[current & (self.frame.text("type")[self.rows] == np.uint64(type))]
        return np.bincount(counted, minlength=len(t)).astype(np.float64)

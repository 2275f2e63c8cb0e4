"""The lanes of reading records as they were at each of many past (t, p), computed from all events instead of kept.

What belongs to the request (user, session, everyone) is computed once a request, what belongs to the item once a row. The
events of an entity are one `asof.Timeline`, which all its windows, lasts and sequences share.
"""

import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.errors import UsageError
from tailorbird.features.asof import Moments, Ragged, Series, Timeline, ragged
from tailorbird.features.asof_peaks import Peaks
from tailorbird.features.asof_sketches import Unions
from tailorbird.features.bulk import RaggedSequence, Requests, Texts
from tailorbird.features.columns import (
    PEAK_ZERO,
    Extract,
    Frame,
    ProfileExtract,
    chosen_of,
    entity_key,
    extract_profiles,
    extracted,
    measured,
    query_keys,
    query_words,
    weekdays,
    whole_keys,
)
from tailorbird.features.declare import HORIZON, WHOLE_FIELDS, WORDS, Entity
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.finish import DECAY_WEIGHTS, values_of
from tailorbird.features.hashing import hashes, identities
from tailorbird.features.kernels import THREADS
from tailorbird.features.layout import PEAKS, EntityLayout, LastEvents, Profile, Source, Spot, Step, missing_bits
from tailorbird.features.runs import OF_RUN, Runs

Int64s = npt.NDArray[np.int64]
Intps = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float64]
Keys = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]


_RUNS_AT_ONCE = 1 << 13  # moments; each has up to a hundred events and more


class PastLanes:
    """The lanes of all entities for the rows of many requests, which are finished some at a time."""

    def __init__(self, features: FeatureSet, frames: "Frames", requests: Requests) -> None:
        self._features = features
        self._frames = frames
        self._requests = requests
        self._row_request = np.asarray(requests.row_request, np.intp)
        self._times = np.asarray(requests.t, np.int64), np.asarray(requests.p, np.int64)
        self._values: dict[Spot, Int64s] = {}
        self._known: list[Bools] = [np.ones(1, np.bool_)] * len(features.layout.entities)
        self._runs: dict[Spot, _LastEvents] = {}
        self._of_runs: dict[str, npt.NDArray] = {}
        self._numbers: dict[str, Floats] = {}
        self._contexts: dict[str, Keys] = {}
        self._by_row = [_is_by_row(one) for one in features.layout.entities]
        composite = {entity for entity, _ in features.composite_spots}
        # What was seen is compared with the item's own category, which then has to be there.
        seen = {step.spots[0].entity for step in features.layout.steps if step.operation == "seen"}
        for index in sorted(range(len(features.layout.entities)), key=lambda index: (index in composite, index in seen)):
            self._compute(features.layout.entities[index])

    @property
    def rows(self) -> int:
        return len(self._row_request)

    def sequence(self, step: Step) -> RaggedSequence:
        return self._runs[step.spots[0]].sequence(step)

    def some(self, start: int, stop: int) -> "LanesOfRows":
        return LanesOfRows(self, slice(start, stop))

    def _spread(self, values: npt.NDArray, by_row: bool) -> npt.NDArray:
        return values if by_row else values[self._row_request]

    def wholes(self, name: str) -> Floats:
        """A number of each request, NaN where it is unknown."""
        if name not in self._numbers:
            self._numbers[name] = self._wholes(name)
        return self._numbers[name]

    def context(self, name: str) -> Keys:
        """A text of each request, hashed."""
        if name not in self._contexts:
            self._contexts[name] = self._texts(name)
        return self._contexts[name]

    @cached_property
    def words(self) -> Keys:
        """The words of each request's query (m, WORDS)."""
        queries = self._requests.query
        return np.zeros((len(self._times[0]), WORDS), np.uint64) if queries is None else query_words(_array(queries))

    def _wholes(self, name: str) -> Floats:
        """A number of each request, NaN where it is unknown."""
        if name == "weekday":
            return weekdays(self._times[0], self.wholes("local_hour"))
        column = getattr(self._requests, name)
        if column is None:
            return np.full(len(self._times[0]), 1.0 if name == "position" else np.nan)
        numbers = pa.array(column) if not isinstance(column, pa.Array | pa.ChunkedArray) else column
        return pc.fill_null(numbers.cast(pa.float64()), np.nan).to_numpy()

    def _texts(self, name: str, keyed: Callable[[pa.Array], Keys] = hashes) -> Keys:
        """A text of each request as a key."""
        if name in WHOLE_FIELDS:
            return whole_keys(self.wholes(name))
        if name == "query":
            queries = self._requests.query
            return np.zeros(len(self._times[0]), np.uint64) if queries is None else query_keys(_array(queries))
        column = {"user": "person", "session": "session_id"}.get(name, name)
        return _keys(getattr(self._requests, column), len(self._times[0]), keyed)

    def _compute(self, layout: EntityLayout) -> None:
        """All lanes of one entity, at its requests or rows."""
        by_row = self._by_row[layout.index]
        key, known = self._entity_keys(layout, by_row)
        self._known[layout.index] = known
        t, p = (times[self._row_request] if by_row else times for times in self._times)
        if layout.profile is not None:
            self._profile(layout, layout.profile, key, t, p)
        if not sources_of(layout):
            return
        history = _Record(layout, self._frames, key)
        moments = history.timeline.at(key, t, p)
        for spot, values in history.values(moments, t):
            self._values[spot] = values
        for one in layout.sequences:
            if by_row:
                message = "a sequence belongs to the request: it is about user, session, device or country"
                raise UsageError(message, where=f"entity {layout.entity.name}")
            spot = Spot(layout.index, one.reading_lane)
            steps = [step for step in self._features.layout.steps if spot in step.spots[:1]]
            if any(step.kind == "sequence" for step in steps):
                self._runs[spot] = history.last_events(moments, one, t)
            self._of_run(history, moments, one, [step for step in steps if step.operation in OF_RUN], t)

    def _of_run(self, history: "_Record", moments: Moments, sequence: LastEvents, steps: list[Step], t: Int64s) -> None:
        """What steps make of the last events, for some moments at a time: all runs at once may be a hundred events a request."""
        if not steps:
            return
        asked = self._texts("session", partial(identities, start=self._frames.start))
        candidates = {step.name: self._candidates(step) for step in steps if step.operation == "seen"}
        for step in steps:
            size = self.rows if step.name in candidates else len(t)
            self._of_runs[step.name] = np.empty(size, np.uint64 if step.kind == "categorical" else np.float64)
        history.prepare(sequence)
        by_request = np.argsort(self._row_request, kind="stable") if candidates else self._row_request
        ends = np.cumsum(np.bincount(self._row_request, minlength=len(t)))

        def some(rows: Intps) -> None:
            runs = history.last_events(moments.some(rows), sequence, t[rows]).runs(sequence, t[rows], asked[rows])
            for step in steps:
                if step.name not in candidates:
                    self._of_runs[step.name][rows] = runs.column(step)
                    continue
                picks, offsets = ragged(np.append(0, ends)[rows], ends[rows])
                here = by_request[picks]
                request = np.repeat(np.arange(len(rows)), np.diff(offsets))
                self._of_runs[step.name][here] = runs.seen(request, candidates[step.name][here])

        cuts = range(_RUNS_AT_ONCE, len(t), _RUNS_AT_ONCE)
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(some, np.split(moments.order, list(cuts))))

    def _candidates(self, step: Step) -> Keys:
        """What each row's item has of what is looked for among the last events."""
        if len(step.spots) == 1:
            return _keys(self._requests.row_item, self.rows, hashes)
        return self._values[step.spots[1]].view(np.uint64)

    def _entity_keys(self, layout: EntityLayout, by_row: bool) -> tuple[Keys, Bools]:
        count = self.rows if by_row else len(self._times[0])
        parts: list[Keys] = []
        keyed = partial(identities, start=self._frames.start) if _of_plain_texts(layout.entity) else hashes
        for place, name in enumerate(layout.entity.fields):
            if name == "item":
                parts.append(_keys(self._requests.row_item, self.rows, keyed))
            elif "." in name:
                spot = self._features.composite_spots[layout.index, place]
                values = self._values[spot]
                values = self._spread(values, self._by_row[spot.entity]) if by_row else values
                parts.append(values.view(np.uint64))
            else:
                parts.append(self._spread(self._texts(name, keyed), not by_row))
        known = np.ones(count, np.bool_)
        for part in parts:
            known &= part != 0
        return np.ascontiguousarray(np.broadcast_to(entity_key(layout.entity, parts), (count,))), known

    def _profile(self, layout: EntityLayout, profile: Profile, key: Keys, t: Int64s, p: Int64s) -> None:
        found = self._frames.profiles(profile)
        timeline = Timeline(key, found.key, found.ts, found.p, tie=lambda rows: (found.id[rows],))
        newest = timeline.series(np.ones(len(found.key), np.bool_)).newest(timeline.at(key, t, p))
        for place, (_, kind) in enumerate(profile.attributes):
            values = np.append(found.values[:, place], missing_bits(kind))[newest]  # −1, no profile, is the last
            self._values[Spot(layout.index, profile.reading_lane + place)] = values


def _is_by_row(layout: EntityLayout) -> bool:
    return any(name == "item" or name.startswith("item.") for name in layout.entity.fields)


class LanesOfRows:
    """Some rows of `PastLanes`; implements `finish.Lanes`. Columns of few rows at a time are finished within the cache."""

    def __init__(self, all_rows: PastLanes, here: slice) -> None:
        self._all, self._here = all_rows, here
        self._request = all_rows._row_request[here]

    @property
    def rows(self) -> int:
        return len(self._request)

    @cached_property
    def t(self) -> Int64s:
        return self._all._times[0][self._request]

    def lane(self, spot: Spot) -> Int64s:
        return self._some(self._all._values[spot], spot.entity)

    def known(self, entity: int) -> Bools:
        return self._some(self._all._known[entity], entity)

    def of_run(self, step: Step) -> npt.NDArray:
        return self._all._of_runs[step.name][self._here if step.operation == "seen" else self._request]

    def query_words(self) -> Keys:
        return self._all.words[self._request]

    def context_number(self, field: str) -> Floats:
        return self._all.wholes(field)[self._request]

    def context_key(self, field: str) -> Keys:
        return self._all.context(field)[self._request]

    def _some(self, values: npt.NDArray, entity: int) -> npt.NDArray:
        return values[self._here if self._all._by_row[entity] else self._request]


class _PastFrame(Frame):
    """A frame whose entities that are made of plain texts have identities for keys: nothing but grouping looks at them."""

    def __init__(self, events: pa.Table, start: int) -> None:
        super().__init__(events, hashes)
        self._start = start
        self._identities: dict[str, Keys] = {}

    def part(self, entity: Entity, name: str) -> Keys:
        if not _of_plain_texts(entity):
            return super().part(entity, name)
        return self.identity(name)

    def identity(self, name: str) -> Keys:
        """A column of text as identities."""
        if name not in self._identities:
            self._identities[name] = self.of_text(name, partial(identities, start=self._start))
        return self._identities[name]

    def profile_keys(self, ids: pa.ChunkedArray) -> Keys:
        return identities(ids, start=self._start)


class Frames:
    """The events with what has been taken out of them so far."""

    def __init__(self, events: pa.Table) -> None:
        self.events = events
        self.start = secrets.randbits(64)
        self.frame = _PastFrame(events, self.start)
        self._taken: dict[Source, Extract] = {}
        self._profiles: dict[Profile, ProfileExtract] = {}

    def taken(self, source: Source) -> Extract:
        if source not in self._taken:
            self._taken[source] = extracted(source, self.frame)
        return self._taken[source]

    def profiles(self, profile: Profile) -> ProfileExtract:
        if profile not in self._profiles:
            frame = _PastFrame(self.events.filter(pc.equal(self.events["type"], profile.type)), self.start)
            self._profiles[profile] = extract_profiles(profile.type, profile.attributes, frame)
        return self._profiles[profile]

    def ids(self, rows: Intps) -> Keys:
        """What breaks ties in time. Hashing ids is dear, so only those of the rows that are tied are hashed."""
        event = self.frame.event(rows)
        unique, place = np.unique(event, return_inverse=True)
        some = Frame(self.events.take(pa.array(unique)), hashes)
        first = some.id[some.index == 0]
        with np.errstate(over="ignore"):
            return first[place] + self.frame.index[rows].astype(np.uint64)


class _Record:
    """The lanes of one entity: the rows of the frame that any of its sources counts, as one timeline."""

    def __init__(self, layout: EntityLayout, frames: Frames, asked: Keys) -> None:
        self._layout = layout
        self._frame = frame = frames.frame
        self._taken = {source: frames.taken(source) for source in sources_of(layout)}
        self._all_series: dict[Source, Series] = {}
        self._rows, self._place = _union([taken.rows for taken in self._taken.values()], len(frame))
        # Sums do not depend on the order of ties.
        tie = (lambda tied: (frames.ids(self._rows[tied]),)) if layout.lasts or layout.first_values or layout.sequences else None
        key, _ = frame.key(layout.entity)
        key, ts, p = (chosen_of(column, self._rows) for column in (key, frame.ts, frame.p))
        self.timeline = Timeline(asked, key, ts, p, tie)

    def values(self, moments: Moments, t: Int64s) -> list[tuple[Spot, Int64s]]:
        """Every lane that is one number."""
        over_tiles = (*self.windows(moments), *self.peaks(moments, t), *self.distincts(moments, t), *self.decays(moments))
        return [*over_tiles, *self.lasts(moments), *self.first_values(moments)]

    def windows(self, moments: Moments) -> list[tuple[Spot, Int64s]]:
        """The sum of each window at its spot."""
        layout = self._layout
        windows = [(one, layout.rings[one.ring]) for one in layout.windows if layout.rings[one.ring].measure not in PEAKS]
        # Rings that differ in nothing but their hop have one prefix sum.
        measures = list(dict.fromkeys((ring.source, ring.measure) for _, ring in windows))
        prefixes = self.timeline.prefixes([self._measure(source, measure) for source, measure in measures])
        asked = [(ring.hop, ring.hop * one.tiles, measures.index((ring.source, ring.measure))) for one, ring in windows]
        sums = moments.window_sums(prefixes, asked)
        return [(Spot(layout.index, one.reading_lane), sums[:, place]) for place, (one, _) in enumerate(windows)]

    def peaks(self, moments: Moments, t: Int64s) -> list[tuple[Spot, Int64s]]:
        """The code of the largest or smallest value of each window that asks for one, and of each first time."""
        found = []
        trees: dict[tuple[Source, str], Peaks] = {}
        for window in self._layout.windows:
            ring = self._layout.rings[window.ring]
            if ring.measure in PEAKS:
                if (ring.source, ring.measure) not in trees:
                    trees[ring.source, ring.measure] = Peaks(self.timeline, self._measure(ring.source, ring.measure))
                since = t // ring.hop * ring.hop - ring.hop * window.tiles
                found.append((Spot(self._layout.index, window.reading_lane), trees[ring.source, ring.measure].since(moments, since)))
        for one in self._layout.firsts:
            # The code of an earlier time is larger.
            codes = np.zeros(len(self._frame), np.int64)
            codes[self._taken[one.source].rows] = PEAK_ZERO - self._taken[one.source].ts
            found.append((Spot(self._layout.index, one.reading_lane), Peaks(self.timeline, codes[self._rows]).since(moments, t * 0)))
        return found

    def distincts(self, moments: Moments, t: Int64s) -> list[tuple[Spot, Int64s]]:
        """The summary of each window that counts different values."""
        found = []
        for number, sketch in enumerate(self._layout.sketches):
            hashes = self._measure(sketch.source, "sum").view(np.uint64)
            unions = Unions(self.timeline, hashes, self._chosen(sketch.source), sketch.precision)
            for window in (one for one in self._layout.distincts if one.sketch == number):
                both = unions.since(moments, t // sketch.hop * sketch.hop - sketch.hop * window.tiles)
                found += [(Spot(self._layout.index, window.reading_lane + place), values) for place, values in enumerate(both)]
        return found

    def decays(self, moments: Moments) -> list[tuple[Spot, Int64s]]:
        """The weighted sum of each decay at its spot: its tiles one after another, from the oldest."""
        found = []
        for decay in self._layout.decays:
            ring = self._layout.rings[decay.ring]
            prefix = self.timeline.prefix(self._measure(ring.source, ring.measure))
            total = moments.decayed_sums(prefix, ring.hop, np.array(DECAY_WEIGHTS[: decay.tiles + 1]))
            found.append((Spot(self._layout.index, decay.reading_lane), total.view(np.int64)))
        return found

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

    def first_values(self, moments: Moments) -> list[tuple[Spot, Int64s]]:
        """Coded time and value of the first event of each source, 0 without one."""
        found: list[tuple[Spot, Int64s]] = []
        order = self.timeline.order
        for one in self._layout.first_values:
            places = np.zeros(len(self._rows), np.int64)
            places[order] = np.arange(len(order), 0, -1)  # earlier is larger
            best = Peaks(self.timeline, np.where(self._chosen(one.source), places, 0)).since(moments, np.zeros_like(moments.t))
            event = np.append(order, -1)[len(order) - best]  # −1: none yet
            for lane, column in enumerate((PEAK_ZERO - self._frame.ts[self._rows], self._measure(one.source, "sum"))):
                found.append((Spot(self._layout.index, one.reading_lane + lane), np.append(column, 0)[event]))
        return found

    def last_events(self, moments: Moments, sequence: LastEvents, t: Int64s) -> "_LastEvents":
        run = self._series(sequence.source).last(moments, sequence.length, t - HORIZON)
        return _LastEvents(self._frame, run, self._rows[run.events])

    def prepare(self, sequence: LastEvents) -> None:
        """Make what `_LastEvents.runs` reads, before threads ask for it."""
        self._series(sequence.source)
        self._frame.text("item"), self._frame.text("type"), self._frame.identity("session")
        for one in sequence.of:
            self._frame.bits(one)

    def _series(self, source: Source) -> Series:
        if source not in self._all_series:
            self._all_series[source] = self.timeline.series(self._chosen(source))
        return self._all_series[source]

    def _chosen(self, source: Source) -> Bools:
        """Which of the entity's events the source counts."""
        chosen = np.zeros(len(self._rows), np.bool_)
        chosen[self._places(source)] = True
        return chosen

    def _measure(self, source: Source, measure: str) -> Int64s:
        """What each of the entity's events adds; 0 where the source does not count it."""
        added = measured(measure, self._taken[source].value)
        if len(added) == len(self._rows):
            return added
        values = np.zeros(len(self._rows), np.int64)
        values[self._places(source)] = added
        return values

    def _places(self, source: Source) -> Intps | slice:
        """Where the source's events stand among the entity's."""
        taken = self._taken[source]
        return slice(None) if self._place is None or len(taken) == len(self._rows) else self._place[taken.rows]


@dataclass(frozen=True)
class _LastEvents:
    """The last events of each request, as rows of the frame."""

    frame: _PastFrame
    run: Ragged
    rows: Intps

    def sequence(self, step: Step) -> RaggedSequence:
        frame, rows = self.frame, self.rows
        values = values_of(step, (frame.bits(one)[rows] for one in step.of))
        return RaggedSequence(self.run.offsets, frame.text("item")[rows], frame.text("type")[rows], frame.ts[rows], values)

    def runs(self, sequence: LastEvents, t: Int64s, asked: Keys) -> Runs:
        """Of requests at t (m,) that name the sessions `asked` (m,), identities, 0 where none was named."""
        frame, rows = self.frame, self.rows
        item, type, session = frame.text("item"), frame.text("type"), frame.identity("session")
        value = frame.bits(sequence.of[0]).view(np.uint64) if sequence.of else item
        return Runs(self.run.offsets, frame.ts[rows], item[rows], type[rows], session[rows], t, asked, value[rows])


def _union(parts: list[Intps], size: int) -> tuple[Intps, Intps | None]:
    """The rows that are in any part, in order, and where each row of the frame stands among them; None where that is not needed."""
    longest = max(parts, key=len)
    if len(parts) == 1 or len(longest) == size:
        return longest, None if len(parts) == 1 else np.arange(size)
    chosen = np.zeros(size, np.bool_)
    for rows in parts:
        chosen[rows] = True
    return np.flatnonzero(chosen), np.cumsum(chosen) - 1


def sources_of(layout: EntityLayout) -> list[Source]:
    """Each source of an entity once."""
    holders = (*layout.rings, *layout.sketches, *layout.lasts, *layout.firsts, *layout.first_values, *layout.sequences)
    return list(dict.fromkeys(one.source for one in holders))


def _array(texts: Texts) -> pa.Array:
    return texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else pa.array(texts, pa.string())


def _keys(texts: Texts | None, count: int, keyed: Callable[[pa.Array], Keys]) -> Keys:
    """A key of each text, 0 for None."""
    return np.zeros(count, np.uint64) if texts is None else keyed(_array(texts))


def _of_plain_texts(entity: Entity) -> bool:
    """Whether all parts are columns of text as they are, so that no stated hash is needed to compare events with requests."""
    return bool(entity.fields) and all(name in ("user", "item", "session", "device", "country") for name in entity.fields)

"""The lanes of reading records as they were at each of many past (t, p), computed from all events
instead of kept.

What belongs to the request (user, session, everyone) is computed once a request, what belongs to
the item once a row. The events of an entity are one `asof.Timeline`, which all its windows, lasts
and sequences share.
"""

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.errors import UsageError
from tailorbird.features.asof import Moments, Series, Timeline, ragged
from tailorbird.features.asof_runs import COMPILED, LastRuns
from tailorbird.features.bulk import RaggedSequence, Requests, Texts
from tailorbird.features.carried import Carried
from tailorbird.features.columns import entity_key
from tailorbird.features.declare import WHOLE_FIELDS, WORDS
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.fields import query_keys, query_words, weekdays, whole_keys
from tailorbird.features.hashing import hashes, identities
from tailorbird.features.kernels import THREADS
from tailorbird.features.layout import EntityLayout, LastEvents, Profile, Spot, Step, missing_bits
from tailorbird.features.positions import of_keys
from tailorbird.features.records import Frames, LaidEvents, Record, of_plain_texts, sources_of
from tailorbird.features.runs import OF_RUN

Int64s = npt.NDArray[np.int64]
Intps = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float64]
Keys = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]


_RUNS_AT_ONCE = 1 << 13  # moments; each has up to a hundred events and more


class PastLanes:
    """The lanes of all entities for the rows of many requests, which are finished some at a time."""

    def __init__(
        self,
        features: FeatureSet,
        frames: Frames | None,
        requests: Requests,
        *,
        entities: Collection[int] | None = None,
        held: Mapping[Spot, Int64s] | None = None,
        of_runs: Mapping[str, npt.NDArray] | None = None,
        carried: Carried | None = None,
    ) -> None:
        """Without frames, all lanes are `held`; else those of `entities` are computed, by default
        all, and some others may be held.

        Where there is something `carried`, the frames have what is kept of earlier events.
        """
        self._carried = carried
        self._features = features
        self._frames = frames
        self._start = 0 if frames is None else frames.start
        self._requests = requests
        self._row_request = np.asarray(requests.row_request, np.intp)
        count = len(requests.t)
        # Then nothing has to be looked up from request to row.
        self._one_row_each = len(self._row_request) == count and bool(
            (self._row_request == np.arange(count)).all()
        )
        self._times = np.asarray(requests.t, np.int64), np.asarray(requests.p, np.int64)
        self._values: dict[Spot, Int64s] = dict(held or {})
        self._known: list[Bools] = [np.ones(1, np.bool_)] * len(features.layout.entities)
        self._runs: dict[Spot, LaidEvents] = {}
        self._of_runs: dict[str, npt.NDArray] = dict(of_runs or {})
        self._numbers: dict[str, Floats] = {}
        self._contexts: dict[str, Keys] = {}
        self._by_row = [is_by_row(one) for one in features.layout.entities]
        composite = {entity for entity, _ in features.composite_spots}
        # What was seen is compared with the item's own category, which then has to be there.
        seen = {step.spots[0].entity for step in features.layout.steps if step.operation == "seen"}
        turns = [(one.index in composite, one.index in seen) for one in features.layout.entities]
        for turn in sorted(set(turns)):
            some = [one for one in features.layout.entities if turns[one.index] == turn]
            if frames is None and entities is None:
                for one in some:
                    self._known[one.index] = self._entity_keys(one, self._by_row[one.index])[1]
            elif frames is not None and entities is None:
                # What cannot be shared out of one entity's work is done while the other's goes on.
                with ThreadPoolExecutor(THREADS) as pool:
                    list(pool.map(partial(self._compute, frames=frames), some))
            elif frames is not None and entities is not None:
                # Little memory: one after another.
                for one in some:
                    if one.index in entities:
                        self._compute(one, frames)

    @property
    def rows(self) -> int:
        return len(self._row_request)

    def sequence(self, step: Step) -> RaggedSequence:
        return self._runs[step.spots[0]].sequence(step)

    def some(self, start: int, stop: int) -> "LanesOfRows":
        return LanesOfRows(self, slice(start, stop))

    def _spread(self, values: npt.NDArray, by_row: bool) -> npt.NDArray:
        return values if by_row or self._one_row_each else values[self._row_request]

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
        return (
            np.zeros((len(self._times[0]), WORDS), np.uint64)
            if queries is None
            else query_words(_array(queries))
        )

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
            return (
                np.zeros(len(self._times[0]), np.uint64)
                if queries is None
                else query_keys(_array(queries))
            )
        column = {"user": "person", "session": "session_id"}.get(name, name)
        return _keys(getattr(self._requests, column), len(self._times[0]), keyed)

    def _compute(self, layout: EntityLayout, frames: Frames) -> None:
        """All lanes of one entity, at its requests or rows."""
        by_row = self._by_row[layout.index]
        key, known = self._entity_keys(layout, by_row)
        self._known[layout.index] = known
        t, p = self._spread(self._times[0], not by_row), self._known_at(layout, by_row)
        if layout.profile is not None:
            self._profile(layout, layout.profile, frames, key, t, p)
        if not sources_of(layout):
            return
        history = Record(layout, frames, key)
        moments = history.timeline.at(key, t, p)
        carried = self._carried
        if carried is None:
            self._values.update(history.values(moments, t))
        else:
            values = dict(
                history.values(moments, t, lambda ring: carried.tiles_of(layout, ring, key))
            )
            carried.add_to(layout, key, t, values)
            self._values.update(values)
        for one in layout.sequences:
            if by_row:
                message = (
                    "a sequence belongs to the request: it is about user, session, device "
                    "or country"
                )
                raise UsageError(message, where=f"entity {layout.entity.name}")
            spot = Spot(layout.index, one.reading_lane)
            steps = [step for step in self._features.layout.steps if spot in step.spots[:1]]
            runs = history.last_runs(moments, one)
            if any(step.kind == "sequence" for step in steps):
                self._runs[spot] = history.laid(runs)
            self._made(
                history,
                runs,
                moments,
                one,
                [step for step in steps if step.operation in COMPILED],
                t,
            )
            rest = [
                step
                for step in steps
                if step.operation in OF_RUN and step.operation not in COMPILED
            ]
            self._of_run(history, moments, one, rest, t)

    def _made(
        self,
        history: Record,
        runs: LastRuns,
        moments: Moments,
        sequence: LastEvents,
        steps: list[Step],
        t: Int64s,
    ) -> None:
        """Columns that are made of each run as it is walked through."""
        if not steps:
            return
        asked = self._texts("session", partial(identities, start=self._start))
        columns, rest = runs.made(steps, asked)
        self._of_runs.update(
            (step.name, column) for step, column in zip(steps, columns.T, strict=True)
        )
        for start in range(0, len(rest), _RUNS_AT_ONCE):
            rows = rest[start : start + _RUNS_AT_ONCE]
            some = history.last_events(moments.some(rows), sequence, t[rows]).runs(
                sequence, t[rows], asked[rows]
            )
            for step in steps:
                self._of_runs[step.name][rows] = some.column(step)

    def _of_run(
        self,
        history: "Record",
        moments: Moments,
        sequence: LastEvents,
        steps: list[Step],
        t: Int64s,
    ) -> None:
        """What steps make of the last events, for some moments at a time: all runs at once may be a
        hundred events a request.
        """
        if not steps:
            return
        asked = self._texts("session", partial(identities, start=self._start))
        candidates = {
            step.name: self._candidates(step) for step in steps if step.operation == "seen"
        }
        for step in steps:
            size = self.rows if step.name in candidates else len(t)
            self._of_runs[step.name] = np.empty(
                size, np.uint64 if step.kind == "categorical" else np.float64
            )
        history.prepare(sequence)
        by_request = (
            np.argsort(self._row_request, kind="stable") if candidates else self._row_request
        )
        ends = np.cumsum(np.bincount(self._row_request, minlength=len(t)))

        def some(rows: Intps) -> None:
            runs = history.last_events(moments.some(rows), sequence, t[rows]).runs(
                sequence, t[rows], asked[rows]
            )
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

    def keys_of(self, entity: int) -> Keys:
        """The keys of an entity, at its requests or rows."""
        return self._entity_keys(self._features.layout.entities[entity], self._by_row[entity])[0]

    def _entity_keys(self, layout: EntityLayout, by_row: bool) -> tuple[Keys, Bools]:
        count = self.rows if by_row else len(self._times[0])
        keyed = partial(identities, start=self._start) if of_plain_texts(layout.entity) else hashes
        parts = [
            self.part(layout, place, by_row, keyed) for place in range(len(layout.entity.fields))
        ]
        known = np.ones(count, np.bool_)
        for part in parts:
            known &= part != 0
        return np.ascontiguousarray(
            np.broadcast_to(entity_key(layout.entity, parts), (count,))
        ), known

    def _known_at(self, layout: EntityLayout, by_row: bool) -> Int64s:
        """Up to which p the entity was known to each of its requests, or rows: that of its part,
        where several workers kept the state.
        """
        p = self._times[1]
        if p.ndim == 1:
            return self._spread(p, not by_row)
        parts = [
            self.part(layout, place, by_row, hashes) for place in range(len(layout.entity.fields))
        ]
        asked = self._row_request if by_row else np.arange(len(p))
        return of_keys(p, asked, np.broadcast_to(entity_key(layout.entity, parts), asked.shape))

    def part(
        self, layout: EntityLayout, place: int, by_row: bool, keyed: Callable[[pa.Array], Keys]
    ) -> Keys:
        """A part of the entity's key, at its requests or rows; 0 where it is missing."""
        name = layout.entity.fields[place]
        if name == "item":
            return _keys(self._requests.row_item, self.rows, keyed)
        if "." in name:
            spot = self._features.composite_spots[layout.index, place]
            values = self._values[spot]
            return (self._spread(values, self._by_row[spot.entity]) if by_row else values).view(
                np.uint64
            )
        return self._spread(self._texts(name, keyed), not by_row)

    def heard_of(self, layout: EntityLayout, until: int) -> Bools:
        """Of each row, whether anything of its entity happened up to `until`, and was known at the
        row's (t, p).
        """
        assert self._frames is not None
        by_row = self._by_row[layout.index]
        key, _ = self._entity_keys(layout, by_row)
        t, p = (
            self._times[0][self._row_request] if by_row else self._times[0],
            self._known_at(layout, by_row),
        )
        t, found = np.minimum(t, until + 1), np.zeros(len(key), np.bool_)
        timelines = [Record(layout, self._frames, key).timeline] if sources_of(layout) else []
        if layout.profile is not None:
            profiles = self._frames.profiles(layout.profile)
            timelines.append(Timeline(key, profiles.key, profiles.ts, profiles.p))
        for one in timelines:
            found |= Series(one, np.arange(len(one))).newest(one.at(key, t, p)) >= 0
        return found if by_row else found[self._row_request]

    def lanes_of(self, entity: int) -> dict[Spot, Int64s]:
        """What was computed of an entity, at its requests or rows."""
        return {spot: values for spot, values in self._values.items() if spot.entity == entity}

    def of_run(self, step: Step) -> npt.NDArray:
        """What the step makes of the last events, of each request; of each row, where it has to do
        with the item (`seen`).
        """
        return self._of_runs[step.name]

    def _profile(
        self,
        layout: EntityLayout,
        profile: Profile,
        frames: Frames,
        key: Keys,
        t: Int64s,
        p: Int64s,
    ) -> None:
        found = frames.profiles(profile)
        timeline = Timeline(key, found.key, found.ts, found.p, tie=lambda rows: (found.id[rows],))
        newest = timeline.series(np.ones(len(found.key), np.bool_)).newest(timeline.at(key, t, p))
        for place, (_, kind) in enumerate(profile.attributes):
            values = np.append(found.values[:, place], missing_bits(kind))[
                newest
            ]  # −1, no profile, is the last
            self._values[Spot(layout.index, profile.reading_lane + place)] = values


def is_by_row(layout: EntityLayout) -> bool:
    return any(name == "item" or name.startswith("item.") for name in layout.entity.fields)


class LanesOfRows:
    """Some rows of `PastLanes`; implements `finish.Lanes`. Columns of few rows at a time are
    finished within the cache.
    """

    def __init__(self, all_rows: PastLanes, here: slice) -> None:
        self._all, self._here = all_rows, here
        self._request: Intps | slice = (
            here if all_rows._one_row_each else all_rows._row_request[here]
        )

    @property
    def rows(self) -> int:
        return self._here.stop - self._here.start

    @cached_property
    def t(self) -> Int64s:
        return self._all._times[0][self._request]

    def lane(self, spot: Spot) -> Int64s:
        return self._some(self._all._values[spot], spot.entity)

    def known(self, entity: int) -> Bools:
        return self._some(self._all._known[entity], entity)

    def of_run(self, step: Step) -> npt.NDArray:
        return self._all._of_runs[step.name][
            self._here if step.operation == "seen" else self._request
        ]

    def query_words(self) -> Keys:
        return self._all.words[self._request]

    def context_number(self, field: str) -> Floats:
        return self._all.wholes(field)[self._request]

    def context_key(self, field: str) -> Keys:
        return self._all.context(field)[self._request]

    def _some(self, values: npt.NDArray, entity: int) -> npt.NDArray:
        return values[self._here if self._all._by_row[entity] else self._request]


def _array(texts: Texts) -> pa.Array:
    return (
        texts.combine_chunks()
        if isinstance(texts, pa.ChunkedArray)
        else pa.array(texts, pa.string())
    )


def _keys(texts: Texts | None, count: int, keyed: Callable[[pa.Array], Keys]) -> Keys:
    """A key of each text, 0 for None."""
    return np.zeros(count, np.uint64) if texts is None else keyed(_array(texts))

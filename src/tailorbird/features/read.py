"""Reading: the features of one person and many items, at a request, from one snapshot of the state.

    hashes → reading records of person, session, items (what needs no attribute) → categories of the items → the rest
           → t = max(now, 1 + newest ts of all) → state of those whose reading record has run out → columns

All records of an entity come as one array; nothing is done item by item but the look-up of its bytes. What the records
hold is in `features.layout`, the arithmetic in `features.finish`.
"""

from collections.abc import Sequence as Ids
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tailorbird.errors import NotReadyError
from tailorbird.events.keys import hash64, hash64s
from tailorbird.features import finish
from tailorbird.features.columns import entity_key
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.fields import query_words
from tailorbird.features.idle import read_swept
from tailorbird.features.layout import NEWEST, NEXT_CHANGE, READING_HEADER, SEQUENCE_READING, VALID_FROM, Spot, Step
from tailorbird.features.plain import asked_text, weekday
from tailorbird.features.request import ReadRequest, Rows, Sequence
from tailorbird.features.runs import Runs
from tailorbird.features.state import Position, Records, all_records, open_state, read_alias, read_position
from tailorbird.store import Snapshot
from tailorbird.store.protocol import MovedError
from tailorbird.store.valkey import CopiedStore, open_copies

Int64s = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

ATTEMPTS = 5  # to read copies that are written meanwhile
ANONYMOUS_PREFIX = "anon:"


class Reader:
    """Reads the features of a schema from the state that its worker keeps. Safe to use from several threads.

    Args:
        state: the folder of all states; the one of this schema is below it.
        copies: the address of a Valkey, to read from what the worker copied there instead.
    Raises:
        NotReadyError: there is none yet.
    """

    def __init__(self, state: Path, features: FeatureSet, *, copies: str = "") -> None:
        self.features = features
        self._store = CopiedStore(open_copies(copies, features.schema_hash)) if copies else open_state(state, features)
        self._records = all_records(features.layout)

    def read(self, request: ReadRequest, items: Ids[str], *, item_keys: Keys | None = None) -> Rows:
        """The features of `items` for the request, all of one commit and one time.

        Args:
            item_keys: hash64 of each item, where the caller has them; else they are made.
        Raises:
            NotReadyError: the state is still being built.
            MovedError: copies were written again and again while they were read.
        """
        for attempt in range(ATTEMPTS):
            try:
                return self._read(request, items, item_keys)
            except MovedError:
                if attempt == ATTEMPTS - 1:
                    raise
        raise AssertionError

    def _read(self, request: ReadRequest, items: Ids[str], item_keys: Keys | None) -> Rows:
        with self._store.snapshot() as snapshot:
            position = read_position(snapshot)
            if not position.ready:
                raise NotReadyError(f"the state of schema {self.features.schema_hash} is still being built")
            person, alias_ts = _person(snapshot, request)
            asked = replace(request, person=person)
            keys = hash64s(items) if item_keys is None else item_keys
            moment = _Moment(self.features, self._records, snapshot, asked, keys)
            return moment.rows_read(position, alias_ts)

    def position(self) -> Position:
        """How far the state is that the next read would see."""
        with self._store.snapshot() as snapshot:
            return read_position(snapshot)

    def close(self) -> None:
        self._store.close()


def _person(snapshot: Snapshot, request: ReadRequest) -> tuple[str | None, int]:
    """The person of a request, and the time of the identify that says so."""
    if request.person is not None or request.anonymous_id is None:
        return request.person, 0
    alias = read_alias(snapshot, request.anonymous_id)
    if alias is None:
        return ANONYMOUS_PREFIX + request.anonymous_id, 0
    return alias.user_id, alias.ts


class _Moment:
    """One request while it is read; implements `finish.Lanes`."""

    def __init__(self, features: FeatureSet, records: list[Records], snapshot: Snapshot, request: ReadRequest, items: Keys) -> None:
        self._features = features
        self._records = records
        self._snapshot = snapshot
        self._request = request
        self._items = items
        count = len(records)
        self._unique: list[Keys] = [items] * count  # keys that were read, each once
        self._readings: list[Int64s] = [np.zeros((0, READING_HEADER), np.int64)] * count
        self._place: list[npt.NDArray[np.intp] | None] = [None] * count  # row → place among them; None: as they are
        self._known: list[Bools] = [np.ones(1, np.bool_)] * count
        self._all_known = [True] * count
        self._runs: dict[Spot, Runs] = {}
        self.rows = len(items)
        self.t: Int64s = np.full(1, read_swept(snapshot), np.int64)

    def rows_read(self, position: Position, alias_ts: int) -> Rows:
        layout = self._features.layout
        composite = {entity for entity, _ in self._features.composite_spots}
        by_day = [one.index for one in layout.entities if "weekday" in one.entity.fields]
        for index in sorted(set(range(len(layout.entities))).difference(by_day), key=lambda index: index in composite):
            self._fetch(index)
        t = self._time(alias_ts)
        while by_day:  # the day decides what is read, and what is read may move t into another day
            day = weekday(t, self._request.local_hour)
            for index in by_day:
                self._fetch(index)
            t = self._time(alias_ts)
            if weekday(t, self._request.local_hour) == day:
                break
        stale = sum(self._renew(index) for index in range(len(layout.entities)))
        return Rows(
            numeric=finish.numeric(layout, self),
            categorical=finish.categorical(layout, self),
            sequences={step.name: self._sequence(step) for step in layout.steps if step.kind == "sequence"},
            t=t,
            commit=position.commit,
            p=position.p,
            person=self._request.person,
            stale=stale,
        )

    def _time(self, alias_ts: int) -> int:
        """The clock, or just after the newest of what was read so far; never before what has expired."""
        newest = max((int(readings[:, NEWEST].max(initial=0)) for readings in self._readings), default=0)
        t = max(self._request.now, 1 + newest, 1 + alias_ts, int(self.t[0]))
        self.t = np.full(1, t, np.int64)
        return t

    def lane(self, spot: Spot) -> Int64s:
        column, place = self._readings[spot.entity][:, spot.lane], self._place[spot.entity]
        if place is not None:
            column = column[place]
        return column if self._all_known[spot.entity] else np.where(self._known[spot.entity], column, 0)

    def known(self, entity: int) -> Bools:
        return self._known[entity]

    def of_run(self, step: Step) -> npt.NDArray:
        run = self._run(step)
        if step.operation != "seen":
            return run.column(step)
        candidate = self.lane(step.spots[1]).view(np.uint64) if len(step.spots) > 1 else self._items
        return run.seen(np.zeros(len(candidate), np.intp), candidate)

    def _run(self, step: Step) -> Runs:
        """The last events that a step looks at; made once for all steps that look at them."""
        run = self._runs.get(step.spots[0])
        if run is None:
            ts, item, types, sessions, *further = finish.recent(int(self.t[0]), *self._events(step))
            session_id = self._request.session_id
            asked = np.full(1, 0 if session_id is None else hash64(session_id), np.uint64)
            item, types, sessions = item.view(np.uint64), types.view(np.uint64), sessions.view(np.uint64)
            value = further[0].view(np.uint64) if further else item
            run = Runs(np.array([0, len(ts)]), ts, item, types, sessions, self.t, asked, value)
            self._runs[step.spots[0]] = run
        return run

    def query_words(self) -> Keys:
        return query_words(pa.array([self._request.query], pa.string()))

    def context_number(self, field: str) -> Floats:
        value = asked_text(self._request, field, int(self.t[0]))
        return np.full(1, np.nan if value is None else float(value))

    def context_key(self, field: str) -> Keys:
        value = asked_text(self._request, field, int(self.t[0]))
        return np.full(1, 0 if value is None else hash64(value), np.uint64)

    def _sequence(self, step: Step) -> Sequence:
        events = self._events(step)
        if not self._known[step.spots[0].entity].all():
            events = np.zeros_like(events)
        ts, item, types, _, *bits = finish.recent(int(self.t[0]), *events)
        return Sequence(item.view(np.uint64), types.view(np.uint64), ts, finish.values_of(step, bits))

    def _events(self, step: Step) -> Int64s:
        """Columns of the last events: ts, item, type, session, further values; (columns, length)."""
        spot, columns = step.spots[0], SEQUENCE_READING + len(step.of)
        return self._readings[spot.entity][0, spot.lane : spot.lane + columns * step.length].reshape(columns, step.length)

    def _fetch(self, index: int) -> None:
        """Read the reading records of an entity, each key once."""
        entity = self._features.layout.entities[index].entity
        parts = [self._part(index, place, name) for place, name in enumerate(entity.fields)]
        known = np.ones(1, np.bool_)
        for part in parts:
            known = known & (part != 0)
        key = np.atleast_1d(entity_key(entity, parts))
        unique = key
        if len(key) > 1 and "item" not in entity.fields:  # else no two rows have the same
            unique, self._place[index] = np.unique(key, return_inverse=True)
        self._unique[index], self._known[index], self._all_known[index] = unique, known, bool(known.all())
        self._readings[index] = self._records[index].readings(self._snapshot, unique)

    def _part(self, index: int, place: int, name: str) -> Keys:
        if name == "item":
            return self._items
        if "." in name:
            spot = self._features.composite_spots[index, place]
            return np.atleast_1d(self.lane(spot)).view(np.uint64)
        return self.context_key(name)

    def _renew(self, index: int) -> int:
        """Finish from the state what has changed since its reading record was written; the number of such records."""
        readings, t = self._readings[index], self.t[0]
        stale = np.flatnonzero((t < readings[:, VALID_FROM]) | (t >= readings[:, NEXT_CHANGE]))
        if len(stale):
            states = self._records[index].states(self._snapshot, self._unique[index][stale])
            self._readings[index] = readings = readings.copy()
            readings[stale] = self._records[index].finish(states, np.full(len(stale), t))
        return len(stale)

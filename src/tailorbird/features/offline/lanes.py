"""The lanes of reading records at each of many past (t, p), computed from all events.

Lanes of the request (user, session, everyone) are computed once a request, lanes of the item once a
row. The events of an entity are one `asof.Timeline`, which all its windows, lasts and sequences
share. A lane is one 64-bit number of a record, an operand of columns.
"""

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tailorbird.errors import UsageError
from tailorbird.features.arithmetic.runs import RUN_OPERATIONS
from tailorbird.features.event_columns.columns import entity_key
from tailorbird.features.event_columns.extracts import ProfileExtract
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.layout.layout import (
    EntityLayout,
    LastEvents,
    RecordLane,
    Step,
    missing_bits,
)
from tailorbird.features.offline.asof import AsOfQueries, Timeline
from tailorbird.features.offline.asof_runs import COMPILED_OPERATIONS, LastRuns
from tailorbird.features.offline.bulk import RaggedSequence, Requests
from tailorbird.features.offline.compaction import CompactedHistory
from tailorbird.features.offline.events.frames import AllRuns, FrameCache, has_text_keys
from tailorbird.features.offline.events.ragged import concatenate_ranges
from tailorbird.features.offline.events.series import Series
from tailorbird.features.offline.hashing import hash_texts, identify_texts
from tailorbird.features.offline.kernels.windows import THREADS
from tailorbird.features.offline.positions import positions_of_keys
from tailorbird.features.offline.request_context import RequestContext, keys_of_texts
from tailorbird.features.offline.timelines import EntityHistory, sources_of

Int64s = npt.NDArray[np.int64]
Intps = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float64]
Keys = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]

_CHUNK_QUERIES = 1 << 13  # queries, each with a hundred events or more


class PastLanes:
    """The lanes of all entities for the rows of many requests, whose columns are finished in
    chunks.
    """

    def __init__(
        self,
        features: FeatureSet,
        frame_cache: FrameCache | None,
        requests: Requests,
        *,
        entities: Collection[int] | None = None,
        precomputed: Mapping[RecordLane, Int64s] | None = None,
        run_columns: Mapping[str, npt.NDArray] | None = None,
        compacted: CompactedHistory | None = None,
    ) -> None:
        """Compute the lanes.

        Args:
            frame_cache: the events; None if all lanes are `precomputed`.
            entities: compute only these, by default all; other lanes may be precomputed.
            run_columns: precomputed columns over last events, by step.
            compacted: the sums of earlier events, whose retained ones are in its frame.
        """
        self._compacted = compacted
        self._features = features
        self._frame_cache = frame_cache
        seed = 0 if frame_cache is None else frame_cache.seed
        self._identify = partial(identify_texts, seed=seed)
        self._requests = requests
        self._row_request = np.asarray(requests.row_request, np.intp)
        count = len(requests.t)
        # Then request and row indices are the same.
        self._has_one_row_each = len(self._row_request) == count and bool(
            (self._row_request == np.arange(count)).all()
        )
        self._t = np.asarray(requests.t, np.int64)
        self._log_position = np.asarray(requests.log_position, np.int64)
        self._values: dict[RecordLane, Int64s] = dict(precomputed or {})
        self._is_present: list[Bools] = [np.ones(1, np.bool_)] * len(features.layout.entities)
        self._runs: dict[RecordLane, AllRuns] = {}
        self._run_columns: dict[str, npt.NDArray] = dict(run_columns or {})
        self.context = RequestContext(requests)
        self._is_per_row = [is_per_row(entity) for entity in features.layout.entities]
        composite_entities = {entity for entity, _ in features.key_part_lanes}
        steps = features.layout.steps
        # `seen` compares with the item's own category, which has to be computed before.
        seen_entities = {step.record_lanes[0].entity for step in steps if step.operation == "seen"}
        stages = [
            (entity.index in composite_entities, entity.index in seen_entities)
            for entity in features.layout.entities
        ]
        for stage in sorted(set(stages)):
            stage_entities = [
                entity for entity in features.layout.entities if stages[entity.index] == stage
            ]
            if frame_cache is None and entities is None:
                for stage_entity in stage_entities:
                    self._is_present[stage_entity.index] = self._entity_keys(
                        stage_entity, self._is_per_row[stage_entity.index]
                    )[1]
            elif frame_cache is not None and entities is None:
                # Serial work of one entity overlaps with that of another.
                with ThreadPoolExecutor(THREADS) as pool:
                    compute_entity = partial(self._compute_entity, frame_cache=frame_cache)
                    list(pool.map(compute_entity, stage_entities))
            elif frame_cache is not None and entities is not None:
                # Save memory by computing one after another.
                for stage_entity in stage_entities:
                    if stage_entity.index in entities:
                        self._compute_entity(stage_entity, frame_cache)

    @property
    def rows(self) -> int:
        return len(self._row_request)

    def sequence(self, step: Step) -> RaggedSequence:
        return self._runs[step.record_lanes[0]].sequence(step)

    def slice_rows(self, start: int, stop: int) -> "LanesOfRows":
        return LanesOfRows(self, slice(start, stop))

    def _to_rows(self, values: npt.NDArray, by_row: bool) -> npt.NDArray:
        return values if by_row or self._has_one_row_each else values[self._row_request]

    def _compute_entity(self, layout: EntityLayout, frame_cache: FrameCache) -> None:
        """Compute all lanes of one entity, at its requests or rows."""
        by_row = self._is_per_row[layout.index]
        key, is_present = self._entity_keys(layout, by_row)
        self._is_present[layout.index] = is_present
        t = self._to_rows(self._t, not by_row)
        log_position = self._position_of(layout, by_row)
        if layout.profile is not None:
            profiles = frame_cache.profiles(layout.profile)
            self._compute_profile(layout, profiles, key, t, log_position)
        if not sources_of(layout):
            return
        history = EntityHistory(layout, frame_cache, key)
        queries = history.timeline.queries_at(key, t, log_position)
        compacted = self._compacted
        if compacted is None:
            self._values.update(history.values(queries, t))
        else:
            values = dict(
                history.values(queries, t, lambda ring: compacted.tile_lookup(layout, ring, key))
            )
            compacted.add_compacted_sums(layout, key, t, values)
            self._values.update(values)
        for sequence in layout.sequences:
            if by_row:
                message = (
                    "a sequence belongs to the request: it is about user, session, device "
                    "or country"
                )
                raise UsageError(message, where=f"entity {layout.entity.name}")
            lane = RecordLane(layout.index, sequence.reading_lane)
            steps = [step for step in self._features.layout.steps if lane in step.record_lanes[:1]]
            runs = history.last_runs(queries, sequence)
            if any(step.kind == "sequence" for step in steps):
                self._runs[lane] = history.run_events(runs)
            compiled_steps = [step for step in steps if step.operation in COMPILED_OPERATIONS]
            self._compute_compiled_columns(history, runs, queries, sequence, compiled_steps)
            other_steps = [
                step
                for step in steps
                if step.operation in RUN_OPERATIONS and step.operation not in COMPILED_OPERATIONS
            ]
            self._compute_run_columns(history, queries, sequence, other_steps)

    def _compute_compiled_columns(
        self,
        history: EntityHistory,
        runs: LastRuns,
        queries: AsOfQueries,
        sequence: LastEvents,
        steps: list[Step],
    ) -> None:
        """Compute the columns that compiled loops derive from each run."""
        if not steps:
            return
        t = queries.t
        request_session = self.context.text_keys("session", self._identify)
        columns, deferred = runs.compute_columns(steps, request_session)
        self._run_columns.update(
            (step.name, column) for step, column in zip(steps, columns.T, strict=True)
        )
        for start in range(0, len(deferred), _CHUNK_QUERIES):
            rows = deferred[start : start + _CHUNK_QUERIES]
            runs_of_rows = history.last_events(queries.take(rows), sequence, t[rows]).runs(
                sequence, t[rows], request_session[rows]
            )
            for step in steps:
                self._run_columns[step.name][rows] = runs_of_rows.column(step)

    def _compute_run_columns(
        self,
        history: "EntityHistory",
        queries: AsOfQueries,
        sequence: LastEvents,
        steps: list[Step],
    ) -> None:
        """Compute other columns over last events, in chunks: a run may have 100 events."""
        if not steps:
            return
        t = queries.t
        request_session = self.context.text_keys("session", self._identify)
        candidates = {
            step.name: self._candidate_values(step) for step in steps if step.operation == "seen"
        }
        for step in steps:
            size = self.rows if step.name in candidates else len(t)
            self._run_columns[step.name] = np.empty(
                size, np.uint64 if step.kind == "categorical" else np.float64
            )
        history.prepare_columns(sequence)
        rows_by_request = (
            np.argsort(self._row_request, kind="stable") if candidates else self._row_request
        )
        ends = np.cumsum(np.bincount(self._row_request, minlength=len(t)))

        def compute_rows(rows: Intps) -> None:
            runs = history.last_events(queries.take(rows), sequence, t[rows]).runs(
                sequence, t[rows], request_session[rows]
            )
            for step in steps:
                if step.name not in candidates:
                    self._run_columns[step.name][rows] = runs.column(step)
                    continue
                picked_rows, offsets = concatenate_ranges(np.append(0, ends)[rows], ends[rows])
                candidate_rows = rows_by_request[picked_rows]
                request = np.repeat(np.arange(len(rows)), np.diff(offsets))
                self._run_columns[step.name][candidate_rows] = runs.seen(
                    request, candidates[step.name][candidate_rows]
                )

        chunk_starts = range(_CHUNK_QUERIES, len(t), _CHUNK_QUERIES)
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(compute_rows, np.split(queries.order, list(chunk_starts))))

    def _candidate_values(self, step: Step) -> Keys:
        """Return the value of each row's item that is compared with the last events."""
        if len(step.record_lanes) == 1:
            return keys_of_texts(self._requests.row_item, self.rows, hash_texts)
        return self._values[step.record_lanes[1]].view(np.uint64)

    def keys_of(self, entity: int) -> Keys:
        """Return the keys of an entity, at its requests or rows."""
        layout = self._features.layout.entities[entity]
        return self._entity_keys(layout, self._is_per_row[entity])[0]

    def _entity_keys(self, layout: EntityLayout, by_row: bool) -> tuple[Keys, Bools]:
        count = self.rows if by_row else len(self._t)
        to_keys = self._identify if has_text_keys(layout.entity) else hash_texts
        field_keys = [
            self.key_field(layout, index, by_row, to_keys)
            for index in range(len(layout.entity.fields))
        ]
        is_present = np.ones(count, np.bool_)
        for field_key in field_keys:
            is_present &= field_key != 0
        return np.ascontiguousarray(
            np.broadcast_to(entity_key(layout.entity, field_keys), (count,))
        ), is_present

    def _position_of(self, layout: EntityLayout, by_row: bool) -> Int64s:
        """Return the p up to which the entity was known to each of its requests or rows.

        Where several workers kept the state, this is the p of the entity's part.
        """
        log_position = self._log_position
        if log_position.ndim == 1:
            return self._to_rows(log_position, not by_row)
        field_keys = [
            self.key_field(layout, index, by_row, hash_texts)
            for index in range(len(layout.entity.fields))
        ]
        request_of = self._row_request if by_row else np.arange(len(log_position))
        keys = np.broadcast_to(entity_key(layout.entity, field_keys), request_of.shape)
        return positions_of_keys(log_position, request_of, keys)

    def key_field(
        self, layout: EntityLayout, index: int, by_row: bool, to_keys: Callable[[pa.Array], Keys]
    ) -> Keys:
        """Return a field of the entity's key, at its requests or rows; 0 where it is missing."""
        name = layout.entity.fields[index]
        if name == "item":
            return keys_of_texts(self._requests.row_item, self.rows, to_keys)
        if "." in name:
            lane = self._features.key_part_lanes[layout.index, index]
            values = self._values[lane]
            return (
                self._to_rows(values, self._is_per_row[lane.entity]) if by_row else values
            ).view(np.uint64)
        return self._to_rows(self.context.text_keys(name, to_keys), not by_row)

    def exempt_rows(self, layout: EntityLayout, dropped_ts: int) -> Bools:
        """Return the rows whose entity has a known event at or before `dropped_ts`."""
        assert self._frame_cache is not None
        by_row = self._is_per_row[layout.index]
        key, _ = self._entity_keys(layout, by_row)
        t = self._t[self._row_request] if by_row else self._t
        log_position = self._position_of(layout, by_row)
        t = np.minimum(t, dropped_ts + 1)
        has_events = np.zeros(len(key), np.bool_)
        timelines = (
            [EntityHistory(layout, self._frame_cache, key).timeline] if sources_of(layout) else []
        )
        if layout.profile is not None:
            profiles = self._frame_cache.profiles(layout.profile)
            timelines.append(Timeline(key, profiles.key, profiles.ts, profiles.log_position))
        for timeline in timelines:
            series = Series(timeline, np.arange(len(timeline)))
            has_events |= series.newest(timeline.queries_at(key, t, log_position)) >= 0
        return has_events if by_row else has_events[self._row_request]

    def lanes_of(self, entity: int) -> dict[RecordLane, Int64s]:
        """Return the computed lanes of an entity, at its requests or rows."""
        return {lane: values for lane, values in self._values.items() if lane.entity == entity}

    def run_values(self, step: Step) -> npt.NDArray:
        """Return a step's values over the last events, by request, or by row for `seen`."""
        return self._run_columns[step.name]

    def _compute_profile(
        self,
        layout: EntityLayout,
        profiles: ProfileExtract,
        key: Keys,
        t: Int64s,
        log_position: Int64s,
    ) -> None:
        profile = layout.profile
        assert profile is not None
        timeline = Timeline(
            key,
            profiles.key,
            profiles.ts,
            profiles.log_position,
            tie_break=lambda rows: (profiles.id[rows],),
        )
        all_profiles = Series(timeline, np.arange(len(timeline)))
        newest = all_profiles.newest(timeline.queries_at(key, t, log_position))
        for index, (_, kind) in enumerate(profile.attributes):
            values = np.append(profiles.values[:, index], missing_bits(kind))[
                newest
            ]  # −1 (no profile) selects the last entry.
            self._values[RecordLane(layout.index, profile.reading_lane + index)] = values


def is_per_row(layout: EntityLayout) -> bool:
    return any(name == "item" or name.startswith("item.") for name in layout.entity.fields)


class LanesOfRows:
    """Some rows of `PastLanes`, few enough for the cache; implements `finish.LaneSource`."""

    def __init__(self, all_lanes: PastLanes, row_slice: slice) -> None:
        self._all_lanes = all_lanes
        self._row_slice = row_slice
        self._request: Intps | slice = (
            row_slice if all_lanes._has_one_row_each else all_lanes._row_request[row_slice]
        )

    @property
    def rows(self) -> int:
        return self._row_slice.stop - self._row_slice.start

    @cached_property
    def t(self) -> Int64s:
        return self._all_lanes._t[self._request]

    def lane(self, record_lane: RecordLane) -> Int64s:
        return self._take(self._all_lanes._values[record_lane], record_lane.entity)

    def is_present(self, entity: int) -> Bools:
        return self._take(self._all_lanes._is_present[entity], entity)

    def run_values(self, step: Step) -> npt.NDArray:
        return self._all_lanes._run_columns[step.name][
            self._row_slice if step.operation == "seen" else self._request
        ]

    def query_words(self) -> Keys:
        return self._all_lanes.context.words[self._request]

    def context_number(self, field: str) -> Floats:
        return self._all_lanes.context.numbers(field)[self._request]

    def context_key(self, field: str) -> Keys:
        return self._all_lanes.context.keys(field)[self._request]

    def _take(self, values: npt.NDArray, entity: int) -> npt.NDArray:
        return values[self._row_slice if self._all_lanes._is_per_row[entity] else self._request]

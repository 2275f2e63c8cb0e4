"""The events of each entity as one `asof.Timeline`, prepared for queries about the past.

All windows, lasts and sequences of an entity share the timeline. `features.offline.lanes` decides
what is queried, and where the lanes go.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt

from tailorbird.features.arithmetic.finish import DECAY_WEIGHTS
from tailorbird.features.declare.limits import LOOK_BACK_MAX
from tailorbird.features.event_columns.columns import take_rows
from tailorbird.features.event_columns.extracts import PEAK_ZERO, tile_values
from tailorbird.features.layout.layout import (
    PEAK_MEASURES,
    EntityLayout,
    LastEvents,
    RecordLane,
    Ring,
    Source,
)
from tailorbird.features.offline.asof import AsOfQueries, Timeline
from tailorbird.features.offline.asof_peaks import MaximumTree
from tailorbird.features.offline.asof_runs import LastRuns, SeriesColumns
from tailorbird.features.offline.asof_sketches import SketchTree
from tailorbird.features.offline.events.frames import (
    AllRuns,
    Bools,
    ChunkRuns,
    FrameCache,
    Int64s,
    Intps,
    Keys,
)
from tailorbird.features.offline.events.series import Series
from tailorbird.features.offline.kernels import marks as kernels_marks
from tailorbird.features.offline.kernels.windows import THREADS, gather_parallel, run_parallel

Floats = npt.NDArray[np.float64]
CompactedTiles = Callable[
    [Ring], Callable[[Int64s], Int64s]
]  # ring → tile of each query's entity → sum


class EntityHistory:
    """The lanes of one entity: the rows that any of its sources counts, as one timeline."""

    def __init__(self, layout: EntityLayout, frame_cache: FrameCache, entity_keys: Keys) -> None:
        self._layout = layout
        self._frame = frame = frame_cache.frame
        self._extracts = {source: frame_cache.extract(source) for source in sources_of(layout)}
        self._all_series: dict[Source, Series] = {}
        self._rows, self._row_index = _union_rows(
            [extract.rows for extract in self._extracts.values()], len(frame)
        )
        # Sums do not depend on the order of ties.
        tie_break = (
            (lambda tied: (frame_cache.ids(self._rows[tied]),))
            if layout.lasts or layout.first_values or layout.sequences
            else None
        )
        key, _ = frame.key(layout.entity)
        key, ts, log_position = (
            take_rows(column, self._rows) for column in (key, frame.ts, frame.log_position)
        )
        self.timeline = Timeline(entity_keys, key, ts, log_position, tie_break)
        self._mark_arrays = self._mark_sources()

    def values(
        self, queries: AsOfQueries, t: Int64s, compacted: CompactedTiles | None = None
    ) -> list[tuple[RecordLane, Int64s]]:
        """Return every lane that is a single number.

        `compacted` returns what to add to each tile of a ring that decays.
        """
        tile_lanes = (
            *self.windows(queries),
            *self.peaks(queries, t),
            *self.distincts(queries),
            *self.decays(queries, compacted),
        )
        return [*tile_lanes, *self.lasts(queries), *self.first_values(queries)]

    def windows(self, queries: AsOfQueries) -> list[tuple[RecordLane, Int64s]]:
        """Return the sum of each window at its record_lane."""
        layout = self._layout
        windows_and_rings = [
            (window, layout.rings[window.ring])
            for window in layout.windows
            if layout.rings[window.ring].measure not in PEAK_MEASURES
        ]
        window_specs = [
            (
                ring.hop,
                ring.hop * window.tiles,
                self._summed_measures.index((ring.source, ring.measure)),
            )
            for window, ring in windows_and_rings
        ]
        sums = queries.window_sums(self._prefixes, window_specs)
        return [
            (RecordLane(layout.index, window.reading_lane), sums[:, index])
            for index, (window, _) in enumerate(windows_and_rings)
        ]

    @cached_property
    def _summed_measures(self) -> list[tuple[Source, str]]:
        """The sources and measures to sum; rings that differ only in hop share a prefix sum."""
        layout = self._layout
        rings = [layout.rings[window.ring] for window in (*layout.windows, *layout.decays)]
        return list(
            dict.fromkeys(
                (ring.source, ring.measure) for ring in rings if ring.measure not in PEAK_MEASURES
            )
        )

    @cached_property
    def _prefixes(self) -> Int64s:
        """A prefix sum of each of `_summed_measures`."""
        sums = np.empty((len(self._summed_measures), len(self.timeline) + 1), np.int64)

        def sum_measure(index: int) -> None:
            source, measure = self._summed_measures[index]
            marks, bit = self._marks_and_bit(source)
            if measure == "count" or source.value is None:
                kernels_marks.prefix_counts(marks, bit, sums[index])
            else:
                kernels_marks.prefix_sums(
                    marks, bit, self._tile_values(source, measure), self.timeline.order, sums[index]
                )

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(sum_measure, range(len(sums))))
        return sums

    def _mark_sources(self) -> list[kernels_marks.Marks]:
        """Return a bit for each source, 16 in an array, of each event of the timeline."""
        sources = list(self._extracts)
        all_marks = []
        if len(sources) == 1:  # Then it counts every event.
            return [np.ones(len(self.timeline), np.uint16)]
        for start in range(0, len(sources), 16):
            marks = np.zeros(len(self._frame), np.uint16)
            for bit, source in enumerate(sources[start : start + 16]):
                kernels_marks.mark_rows(self._extracts[source].rows, np.uint16(1 << bit), marks)
            sorted_marks = np.empty(len(self.timeline), np.uint16)
            run_parallel(
                kernels_marks.gather_marks,
                len(sorted_marks),
                take_rows(marks, self._rows),
                self.timeline.order,
                sorted_marks,
            )
            all_marks.append(sorted_marks)
        return all_marks

    def _marks_and_bit(self, source: Source) -> tuple[kernels_marks.Marks, np.uint16]:
        """Return the marks that contain a source's bit, and that bit."""
        array_index, bit = divmod(list(self._extracts).index(source), 16)
        return self._mark_arrays[array_index], np.uint16(1 << bit)

    def peaks(self, queries: AsOfQueries, t: Int64s) -> list[tuple[RecordLane, Int64s]]:
        """Return the code of the peak of each window that has one, and of each first time."""
        lanes = []
        tree_by_measure: dict[tuple[Source, str], MaximumTree] = {}
        for window in self._layout.windows:
            ring = self._layout.rings[window.ring]
            if ring.measure in PEAK_MEASURES:
                if (ring.source, ring.measure) not in tree_by_measure:
                    tree_by_measure[ring.source, ring.measure] = MaximumTree(
                        self.timeline, self._tile_values(ring.source, ring.measure)
                    )
                since = t // ring.hop * ring.hop - ring.hop * window.tiles
                lanes.append(
                    (
                        RecordLane(self._layout.index, window.reading_lane),
                        tree_by_measure[ring.source, ring.measure].largest_since(queries, since),
                    )
                )
        for first_time in self._layout.firsts:
            # The code of an earlier time is larger.
            reversed_ts = np.zeros(len(self._frame), np.int64)
            reversed_ts[self._extracts[first_time.source].rows] = (
                PEAK_ZERO - self._extracts[first_time.source].ts
            )
            lanes.append(
                (
                    RecordLane(self._layout.index, first_time.reading_lane),
                    MaximumTree(self.timeline, reversed_ts[self._rows]).largest_since(
                        queries, t * 0
                    ),
                )
            )
        return lanes

    def distincts(self, queries: AsOfQueries) -> list[tuple[RecordLane, Int64s]]:
        """Return the summary of each window that counts different values."""
        lanes = []
        for sketch_index, sketch in enumerate(self._layout.sketches):
            hashes = self._tile_values(sketch.source, "sum").view(np.uint64)
            sketch_tree = SketchTree(
                self.timeline, hashes, self._is_counted(sketch.source), sketch.precision
            )
            for window in (
                distinct for distinct in self._layout.distincts if distinct.sketch == sketch_index
            ):
                summary = sketch_tree.summary_from_positions(
                    queries, queries.window_start(sketch.hop, sketch.hop * window.tiles)
                )
                lanes += [
                    (RecordLane(self._layout.index, window.reading_lane + lane), values)
                    for lane, values in enumerate(summary)
                ]
        return lanes

    def decays(
        self, queries: AsOfQueries, compacted: CompactedTiles | None
    ) -> list[tuple[RecordLane, Int64s]]:
        """Return the weighted sum of each decay at its record_lane, added tile by tile from the
        oldest.
        """
        lanes = []
        for decay in self._layout.decays:
            ring = self._layout.rings[decay.ring]
            prefix = self._prefixes[self._summed_measures.index((ring.source, ring.measure))]
            weights = np.array(DECAY_WEIGHTS[: decay.tiles + 1])
            if compacted is None:
                total = queries.decayed_sums(prefix, ring.hop, weights)
            else:
                total = _decayed_sums_tile_by_tile(
                    queries, prefix, ring.hop, weights, compacted(ring)
                )
            lanes.append((RecordLane(self._layout.index, decay.reading_lane), total.view(np.int64)))
        return lanes

    def lasts(self, queries: AsOfQueries) -> list[tuple[RecordLane, Int64s]]:
        """Return time and value of the newest event of each source, 0 without one."""
        lanes = []
        for last in self._layout.lasts:
            extract = self._extracts[last.source]
            newest_events = self._series_of(last.source).newest(queries)
            value = self._tile_values(last.source, "sum")
            for lane, column in enumerate((self._frame.ts[self._rows], value)):
                record_lane = RecordLane(self._layout.index, last.reading_lane + lane)
                lanes.append(
                    (
                        record_lane,
                        np.where(newest_events >= 0, column[newest_events], 0)
                        if len(extract)
                        else np.zeros(len(newest_events), np.int64),
                    )
                )
        return lanes

    def first_values(self, queries: AsOfQueries) -> list[tuple[RecordLane, Int64s]]:
        """Return coded time and value of the first event of each source, 0 without one."""
        lanes: list[tuple[RecordLane, Int64s]] = []
        order = self.timeline.order
        for first_value in self._layout.first_values:
            ranks = np.zeros(len(self._rows), np.int64)
            ranks[order] = np.arange(len(order), 0, -1)  # earlier is larger
            first_ranks = MaximumTree(
                self.timeline, np.where(self._is_counted(first_value.source), ranks, 0)
            ).largest_since(queries, np.zeros_like(queries.t))
            first_events = np.append(order, -1)[len(order) - first_ranks]  # −1: none yet
            for lane, column in enumerate(
                (
                    PEAK_ZERO - self._frame.ts[self._rows],
                    self._tile_values(first_value.source, "sum"),
                )
            ):
                lanes.append(
                    (
                        RecordLane(self._layout.index, first_value.reading_lane + lane),
                        np.append(column, 0)[first_events],
                    )
                )
        return lanes

    def last_runs(self, queries: AsOfQueries, sequence: LastEvents) -> LastRuns:
        """Return the last events of each query, without materialising them."""
        series = self._series_of(sequence.source)
        frame = self._frame
        rows = gather_parallel(self._rows, series.events)
        columns = SeriesColumns(
            rows,
            partial(frame.text, "item"),
            partial(frame.text, "type"),
            partial(frame.identity, "session"),
        )
        return LastRuns(series, columns, queries, sequence.length)

    def run_events(self, runs: LastRuns) -> "AllRuns":
        return AllRuns(self._frame, runs.events(), runs.rows)

    def last_events(self, queries: AsOfQueries, sequence: LastEvents, t: Int64s) -> "ChunkRuns":
        event_runs = self._series_of(sequence.source).last(
            queries, sequence.length, t - LOOK_BACK_MAX
        )
        return ChunkRuns(self._frame, event_runs, self._rows[event_runs.events])

    def prepare_columns(self, sequence: LastEvents) -> None:
        """Compute the columns that `ChunkRuns.runs` reads, before threads use them."""
        self._series_of(sequence.source)
        self._frame.text("item"), self._frame.text("type"), self._frame.identity("session")
        for expression in sequence.of:
            self._frame.bits(expression)

    def _series_of(self, source: Source) -> Series:
        if source not in self._all_series:
            self._all_series[source] = Series(
                self.timeline, kernels_marks.marked_positions(*self._marks_and_bit(source))
            )
        return self._all_series[source]

    def _is_counted(self, source: Source) -> Bools:
        """Return which of the entity's events the source counts."""
        is_selected = np.zeros(len(self._rows), np.bool_)
        is_selected[self._indices_of_source(source)] = True
        return is_selected

    def _tile_values(self, source: Source, measure: str) -> Int64s:
        """Return what each of the entity's events adds; 0 where the source does not count it."""
        counted_values = tile_values(measure, self._extracts[source].value)
        if len(counted_values) == len(self._rows):
            return counted_values
        values = np.zeros(len(self._rows), np.int64)
        values[self._indices_of_source(source)] = counted_values
        return values

    def _indices_of_source(self, source: Source) -> Intps | slice:
        """Return the indices of the source's events among the entity's."""
        extract = self._extracts[source]
        return (
            slice(None)
            if self._row_index is None or len(extract) == len(self._rows)
            else self._row_index[extract.rows]
        )


def _decayed_sums_tile_by_tile(
    queries: AsOfQueries,
    prefix: Int64s,
    hop: int,
    weights: Floats,
    compacted_sum: Callable[[Int64s], Int64s],
) -> Floats:
    """Compute `AsOfQueries.decayed_sums` with the compacted sum added to each tile."""
    tile = queries.t // hop
    total = np.zeros(len(queries))
    sum_before_start = queries.before((tile - len(weights) + 1) * hop).sums([prefix])[0]
    for age in range(len(weights) - 1, -1, -1):
        edge = queries.before((tile - age + 1) * hop) if age else queries.before()
        sum_before_end = edge.sums([prefix])[0]
        total += (
            queries.to_input_order(sum_before_end - sum_before_start) + compacted_sum(tile - age)
        ).astype(np.float64) * weights[age]
        sum_before_start = sum_before_end
    return total


def _union_rows(rows_by_source: list[Intps], size: int) -> tuple[Intps, Intps | None]:
    """Return the sorted union of the rows, and each frame row's index in it if needed."""
    longest = max(rows_by_source, key=len)
    if len(rows_by_source) == 1 or len(longest) == size:
        return longest, None if len(rows_by_source) == 1 else np.arange(size)
    is_selected = np.zeros(size, np.bool_)
    for rows in rows_by_source:
        is_selected[rows] = True
    return np.flatnonzero(is_selected), np.cumsum(is_selected) - 1


def sources_of(layout: EntityLayout) -> list[Source]:
    """Return the distinct sources of an entity."""
    accumulators = (
        *layout.rings,
        *layout.sketches,
        *layout.lasts,
        *layout.firsts,
        *layout.first_values,
        *layout.sequences,
    )
    return list(dict.fromkeys(accumulator.source for accumulator in accumulators))

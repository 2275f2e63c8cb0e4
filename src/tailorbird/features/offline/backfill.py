"""Features of past requests, recomputed from routed events, for training sets and parity checks.

    events ──Frame──► extract of each source ──► one Timeline an entity ──► lanes at (t, p)
    ──finish──► columns

Each value is what a reader would have got at time t from a state that had applied everything routed
up to p. The stream shares no code with it except what defines a value: which events count
(`features.event_columns.extracts`) and how a column is finished (`features.arithmetic.finish`). The
lanes that columns are finished from are in `features.offline.lanes`; `features.offline.asof` finds
sums and newest events at (t, p).
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.errors import UsageError
from tailorbird.features.arithmetic import finish
from tailorbird.features.declare.declarations import Amount, Derived, Feature
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.layout.compile import compile_layout
from tailorbird.features.layout.layout import Layout, Step
from tailorbird.features.offline.bulk import BackfilledRows, RaggedSequence, Requests
from tailorbird.features.offline.events.frames import FrameCache
from tailorbird.features.offline.kernels.windows import THREADS
from tailorbird.features.offline.lanes import PastLanes
from tailorbird.features.offline.timelines import sources_of

__all__ = [
    "BackfilledRows",
    "History",
    "RaggedSequence",
    "Requests",
    "backfill",
    "event_columns",
    "subset_features",
]

_DICTIONARY_EVENTS_MIN = 1 << 16  # events from which types are dictionary-encoded
_FINISH_ROWS = 1 << 14  # rows, so that intermediates stay in the cache

# Columns of an event that any feature needs; expressions and entities add theirs.
_BASE_COLUMNS = (
    "p",
    "event_id",
    "type",
    "ts",
    "user_id",
    "anonymous_id",
    "person",
    "item_id",
    "items",
    "counts",
)


def backfill(
    features: FeatureSet,
    events: pa.Table,
    requests: Requests,
    *,
    only_columns: Sequence[str] | None = None,
) -> BackfilledRows:
    """Compute the features of past requests, bit for bit equal to those of the stream.

    Args:
        events: columns of `events.contract.schema.ROUTED`, at least those of `event_columns`; rows
            in any order.
        only_columns: compute these columns only, in order of declaration; by default all.
    Raises:
        UsageError: `only_columns` names an unknown column, or a sequence is about the item.
    """
    return History(features, events, only_columns=only_columns).rows(requests)


class History:
    """Events prepared to answer requests, one batch after another; arguments as for `backfill`.

    Hashes, parsed values and filters of the first batch are reused for the next.
    """

    def __init__(
        self, features: FeatureSet, events: pa.Table, *, only_columns: Sequence[str] | None = None
    ) -> None:
        self._features = (
            features if only_columns is None else subset_features(features, only_columns)
        )
        self._only_columns = self._features.numeric if only_columns is None else only_columns
        self._frame_cache = FrameCache(
            relevant_events(self._features.layout, with_dictionary_types(events))
        )

    def rows(self, requests: Requests) -> BackfilledRows:
        """Return the features of the requests' rows."""
        lanes = PastLanes(self._features, self._frame_cache, requests)
        steps = self._features.layout.steps
        return finish_columns(
            self._features,
            lanes,
            {step.name: lanes.sequence(step) for step in steps if step.kind == "sequence"},
            self._only_columns,
        )

    def exempt_rows(
        self, requests: Requests, dropped_ts_by_kind: Mapping[str, int]
    ) -> dict[str, npt.NDArray[np.bool_]]:
        """Return by column the rows that may depend on an entity that a cap has dropped.

        These are entities of the kinds in `dropped_ts_by_kind` with an event at or before the
        kind's time.
        """
        features = self._features
        lanes = PastLanes(features, self._frame_cache, requests)
        exempt_by_entity = {
            entity.index: lanes.exempt_rows(entity, dropped_ts_by_kind[entity.entity.name])
            for entity in features.layout.entities
            if entity.entity.name in dropped_ts_by_kind
        }
        exempt_rows: dict[str, npt.NDArray[np.bool_]] = {}
        for step in _dependency_order(features.layout):
            is_exempt = np.zeros(lanes.rows, np.bool_)
            for record_lane in step.record_lanes:
                lookup_entities = (
                    part_lane.entity
                    for (entity, _), part_lane in features.key_part_lanes.items()
                    if entity == record_lane.entity
                )
                for index in exempt_by_entity.keys() & {record_lane.entity, *lookup_entities}:
                    is_exempt |= exempt_by_entity[index]
            for name, _ in () if step.expression is None else step.expression.names:
                is_exempt |= exempt_rows.get(name, False)
            exempt_rows[step.name] = is_exempt
        return exempt_rows


def _dependency_order(layout: Layout) -> list[Step]:
    """Return the steps, each derived one after those that it reads."""
    step_by_name = {step.name: step for step in layout.steps}
    derived_steps = [step_by_name[name] for name in layout.derived_order]
    return [
        *(step for step in layout.steps if step.name not in layout.derived_order),
        *derived_steps,
    ]


def finish_columns(
    features: FeatureSet,
    lanes: PastLanes,
    sequences: dict[str, RaggedSequence],
    only_columns: Sequence[str] | None = None,
) -> BackfilledRows:
    """Compute the columns from lanes."""
    table = np.empty((lanes.rows, len(features.numeric)), np.float32)
    categories = np.empty((lanes.rows, len(features.categorical)), np.uint64)

    def finish_slice(start: int) -> None:
        chunk_lanes = lanes.slice_rows(start, min(start + _FINISH_ROWS, lanes.rows))
        table[start : start + chunk_lanes.rows] = finish.compute_numeric_columns(
            features.layout, chunk_lanes
        )
        categories[start : start + chunk_lanes.rows] = finish.compute_categorical_columns(
            features.layout, chunk_lanes
        )

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(finish_slice, range(0, lanes.rows, _FINISH_ROWS)))
    # Columns computed only for derived ones are left out unless requested.
    returned_indices = [
        index
        for index, name in enumerate(features.numeric)
        if only_columns is None or name in only_columns
    ]
    names = tuple(features.numeric[index] for index in returned_indices)
    return BackfilledRows(
        table[:, returned_indices] if len(returned_indices) < table.shape[1] else table,
        categories,
        sequences,
        names,
        features.categorical,
    )


def event_columns(features: FeatureSet) -> list[str]:
    """Return the columns of the events table that a backfill needs to load."""
    names: set[str] = set()
    for entity in features.layout.entities:
        names.update(
            "session_id" if name == "session" else name
            for name in entity.entity.fields
            if name not in ("user", "item")
        )
        names.update(["answer_query"] if "query" in entity.entity.fields else [])
        names.update(
            ["properties"] if entity.profile else [], ["session_id"] if entity.sequences else []
        )
        for source in sources_of(entity):
            value = source.value.of if isinstance(source.value, Amount) else source.value
            for expression in (source.where, value):
                names.update(() if expression is None else (name for name, _ in expression.names))
        names.update(
            name
            for sequence in entity.sequences
            for expression in sequence.of
            for name, _ in expression.names
        )
    names = {
        {"user": "person", "item": "item_id", "session": "session_id", "weekday": "local_hour"}.get(
            name, name
        )
        for name in names
    }
    columns = {name if "." not in name else _profile_column(name) for name in names}
    return [*_BASE_COLUMNS, *sorted(columns - set(_BASE_COLUMNS))]


def _profile_column(name: str) -> str:
    owner = name.partition(".")[0]
    return owner if owner == "properties" else f"{owner}_profile"


def subset_features(features: FeatureSet, only_columns: Sequence[str]) -> FeatureSet:
    """Return the declarations of some columns and of those that they are derived from."""
    feature_by_name = {feature.name: feature for feature in features.features}
    expressions = {
        step.name: step.expression for step in features.layout.steps if step.expression is not None
    }
    selected: dict[str, Feature] = {}
    unvisited_names = list(only_columns)
    while unvisited_names:
        name = unvisited_names.pop()
        if name not in feature_by_name:
            raise UsageError(
                f"{name!r} is no column",
                where="only",
                fix=f"use some of {', '.join(feature_by_name)}",
            )
        selected[name] = feature_by_name[name]
        if isinstance(feature_by_name[name], Derived):
            unvisited_names += [
                read_column
                for read_column, _ in expressions[name].names
                if read_column not in selected
            ]
    selected_features = tuple(feature for feature in features.features if feature.name in selected)
    derived_order = tuple(name for name in features.layout.derived_order if name in selected)
    return FeatureSet(
        selected_features,
        compile_layout(
            selected_features, {name: expressions[name] for name in derived_order}, derived_order
        ),
    )


def relevant_events(layout: Layout, events: pa.Table) -> pa.Table:
    """Return the events of the types that any feature uses."""
    types = {
        name for entity in layout.entities for source in sources_of(entity) for name in source.types
    }
    types.update(entity.profile.type for entity in layout.entities if entity.profile)
    column = events["type"]
    is_dictionary = pa.types.is_dictionary(column.type)
    present_types = (
        {type_name for chunk in column.chunks for type_name in chunk.dictionary.to_pylist()}
        if is_dictionary
        else set(pc.unique(column).to_pylist())
    )
    if present_types <= types:
        return events
    return events.filter(pc.is_in(events["type"], pa.array(sorted(types), pa.string())))


def with_dictionary_types(events: pa.Table) -> pa.Table:
    """Return the same events with a dictionary-encoded type column, so that types are compared
    once.

    The encoding runs on all cores.
    """
    column = events["type"]
    if pa.types.is_dictionary(column.type) or len(events) < _DICTIONARY_EVENTS_MIN:
        return events
    chunk_rows = -(-len(events) // THREADS)
    with ThreadPoolExecutor(THREADS) as pool:
        encoded_chunks = list(
            pool.map(
                lambda start: column.slice(start, chunk_rows).dictionary_encode(),
                range(0, len(events), chunk_rows),
            )
        )
    encoded_types = pa.chunked_array(
        [chunk for encoded_chunk in encoded_chunks for chunk in encoded_chunk.chunks]
    ).unify_dictionaries()
    return events.set_column(events.column_names.index("type"), "type", encoded_types)

"""The events that a comparison with the lake depends on, within a bound of rows or memory.

The continuous comparison bounds rows, `features verify` bounds memory.

    read_required_events   into memory, or None if there are more
    affordable_columns     columns that can be compared within a number of rows, entity by entity
    backfill_on_disk       all columns at any cost, by `features.offline.shards` in a folder

An event that shows several items is only needed if a requested item is among them. No filter of a
dataset can express that, so such rows are read chunk by chunk, and most are discarded at once.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events.contract.schema import ROUTED
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.offline.backfill import Requests, event_columns
from tailorbird.features.offline.partition.inputs import definitions
from tailorbird.features.offline.parts import BackfilledPart, read_parts
from tailorbird.features.offline.profile_join import JoinedEvents
from tailorbird.features.offline.shards import backfill_to
from tailorbird.features.parity.sampled import (
    dependent_columns,
    distinct_texts,
    is_narrow,
    required_filters,
)
from tailorbird.lake import Lake

_EVENT_FACTOR = 4  # memory of the computation per byte of events


def read_required_events(
    lake: Lake,
    features: FeatureSet,
    requests: Requests,
    *,
    rows_max: int | None = None,
    bytes_max: int | None = None,
) -> pa.Table | None:
    """Return the events that the values of `requests` depend on, or None if they exceed a bound."""
    columns = event_columns(features)
    event_tables: list[pa.Table] = []
    row_count = byte_count = 0
    for table in required_tables(lake, features, requests, columns):
        event_tables.append(table)
        row_count = row_count + table.num_rows
        byte_count = byte_count + _EVENT_FACTOR * table.nbytes
        if (rows_max is not None and row_count > rows_max) or (
            bytes_max is not None and byte_count > bytes_max
        ):
            return None
    return pa.concat_tables(event_tables) if event_tables else ROUTED.empty_table().select(columns)


def required_tables(
    lake: Lake, features: FeatureSet, requests: Requests, columns: Sequence[str]
) -> Iterator[pa.Table]:
    """Yield the same events table by table; `columns` must have `items`."""
    joined_events = JoinedEvents(lake, features)
    items = distinct_texts(requests.row_item)
    single_filter, list_filter = required_filters(features, requests)
    yield from joined_events.batches(columns, single_filter)
    if list_filter is not None:
        for table in joined_events.batches(columns, list_filter & ~single_filter):
            yield _rows_with_items(table, items)


def affordable_columns(
    lake: Lake, features: FeatureSet, requests: Requests, rows_max: int, rng: np.random.Generator
) -> list[str]:
    """Return columns whose events are together at most `rows_max`, chosen at random by `rng`.

    Columns about people and items come first.
    """
    entities = features.layout.entities
    shuffled_entities = [entities[index] for index in rng.permutation(len(entities))]
    included_entities: set[int] = set()
    for entity in sorted(shuffled_entities, key=lambda layout: not is_narrow(layout)):
        if (
            _count_events(lake, features, requests, included_entities | {entity.index}, rows_max)
            <= rows_max
        ):
            included_entities.add(entity.index)
    excluded_columns = dependent_columns(
        features, {entity.index for entity in entities} - included_entities
    )
    return [step.name for step in features.layout.steps if step.name not in excluded_columns]


def backfill_on_disk(
    lake: Lake, features: FeatureSet, requests: Requests, folder: Path, memory_bytes: int
) -> Iterator[BackfilledPart]:
    """Yield the columns of `requests`, part by part, from any number of events.

    `folder` takes what does not fit into memory.
    """
    tables = partial(required_tables, lake, features, requests)
    backfill_to(
        features,
        tables,
        requests,
        folder,
        memory_bytes=memory_bytes,
        version=f"p{int(requests.log_position.max(initial=0))}",
    )
    yield from read_parts(folder, definitions(features))


class KindExemptions:
    """Exemptions without a `History` in memory: all entities of an affected kind."""

    def __init__(self, features: FeatureSet) -> None:
        self._features = features

    def exempt_rows(
        self, requests: Requests, dropped_ts_by_kind: Mapping[str, int]
    ) -> dict[str, npt.NDArray[np.bool_]]:
        """Return by column the rows that may depend on a dropped entity, like
        `History.exempt_rows`.
        """
        affected_entities = {
            entity.index
            for entity in self._features.layout.entities
            if entity.entity.name in dropped_ts_by_kind
        }
        affected_columns = set(dependent_columns(self._features, affected_entities))
        return {
            step.name: np.full(len(requests.row_item), step.name in affected_columns)
            for step in self._features.layout.steps
        }


def _count_events(
    lake: Lake, features: FeatureSet, requests: Requests, entities: Collection[int], limit: int
) -> int:
    """Count the events that these entities need, and stop once past `limit`."""
    single_filter, list_filter = required_filters(features, requests, entities)
    rows = lake.count_matching("events", single_filter)
    if list_filter is not None:
        items = distinct_texts(requests.row_item)
        for batch in lake.batches("events", ["items"], list_filter & ~single_filter):
            if rows > limit:
                break
            rows += _rows_with_items(pa.Table.from_batches([batch]), items).num_rows
    return rows


def _rows_with_items(table: pa.Table, items: pa.Array) -> pa.Table:
    """Return the rows whose `items` contain one of `items`."""
    item_lists = table["items"].combine_chunks()
    matching_rows = pc.list_parent_indices(item_lists).filter(
        pc.is_in(pc.list_flatten(item_lists), items)
    )
    return table.take(pc.unique(matching_rows))

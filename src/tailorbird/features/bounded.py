"""The events that a comparison with the lake depends on, within a bound: rows for the one that
never ends, memory for `features verify`.

    read_wanted   into memory, or None where there are more
    affordable    which columns can be compared then: entity by entity, as far as a number of rows reaches
    spilled       all of them whatever they take, by `features.shards` in a folder

An event that shows several items is taken only if one of those asked about is among them, which no
filter of a dataset can say: so such rows are read piece by piece, and most are let go at once.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events.schema import ROUTED
from tailorbird.features.attached import AttachedEvents
from tailorbird.features.backfill import Requests, event_columns
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.sampled import depending, is_narrow, texts, wanted_parts
from tailorbird.features.shards import Part, backfill_to, definitions, read_parts
from tailorbird.lake import Lake

_EVENT_FACTOR = 4  # bytes that an event's bytes take while they are computed with


def read_wanted(
    lake: Lake,
    features: FeatureSet,
    requests: Requests,
    *,
    rows_max: int | None = None,
    bytes_max: int | None = None,
) -> pa.Table | None:
    """The events that the values of `requests` depend on, as a backfill takes them; None where they
    are more than may be loaded.
    """
    columns = event_columns(features)
    held: list[pa.Table] = []
    rows = size = 0
    for table in wanted_tables(lake, features, requests, columns):
        held.append(table)
        rows, size = rows + table.num_rows, size + _EVENT_FACTOR * table.nbytes
        if (rows_max is not None and rows > rows_max) or (
            bytes_max is not None and size > bytes_max
        ):
            return None
    return pa.concat_tables(held) if held else ROUTED.empty_table().select(columns)


def wanted_tables(
    lake: Lake, features: FeatureSet, requests: Requests, columns: Sequence[str]
) -> Iterator[pa.Table]:
    """The same events piece by piece; `columns` must have `items`."""
    events, items = AttachedEvents(lake, features), texts(requests.row_item)
    sure, lists = wanted_parts(features, requests)
    yield from events.batches(columns, sure)
    if lists is not None:
        for table in events.batches(columns, lists & ~sure):
            yield _showing(table, items)


def affordable(
    lake: Lake, features: FeatureSet, requests: Requests, rows_max: int, rng: np.random.Generator
) -> list[str]:
    """Columns whose events are together at most `rows_max`: those about people and items first, and
    of each sort as `rng` draws.
    """
    entities = features.layout.entities
    drawn = [entities[place] for place in rng.permutation(len(entities))]
    taken: set[int] = set()
    for one in sorted(drawn, key=lambda one: not is_narrow(one)):
        if _count(lake, features, requests, taken | {one.index}, rows_max) <= rows_max:
            taken.add(one.index)
    left_out = depending(features, {one.index for one in entities} - taken)
    return [step.name for step in features.layout.steps if step.name not in left_out]


def spilled(
    lake: Lake, features: FeatureSet, requests: Requests, folder: Path, memory_bytes: int
) -> Iterator[Part]:
    """The columns of `requests`, part by part, from however many events; `folder` takes what memory
    does not hold.
    """
    tables = partial(wanted_tables, lake, features, requests)
    backfill_to(
        features,
        tables,
        requests,
        folder,
        memory_bytes=memory_bytes,
        version=f"p{int(requests.p.max(initial=0))}",
    )
    yield from read_parts(folder, definitions(features))


class AnyOfKind:
    """In the place of a `History` whose events were not held: of a kind that lost some entities,
    any may be one of these.
    """

    def __init__(self, features: FeatureSet) -> None:
        self._features = features

    def heard_of(
        self, requests: Requests, until: Mapping[str, int]
    ) -> dict[str, npt.NDArray[np.bool_]]:
        """As of `History`: by column, the rows that may depend on a dropped entity."""
        kinds = {one.index for one in self._features.layout.entities if one.entity.name in until}
        names = set(depending(self._features, kinds))
        return {
            step.name: np.full(len(requests.row_item), step.name in names)
            for step in self._features.layout.steps
        }


def _count(
    lake: Lake, features: FeatureSet, requests: Requests, entities: Collection[int], enough: int
) -> int:
    """How many events these entities need; past `enough` it stops counting."""
    sure, lists = wanted_parts(features, requests, entities)
    rows = lake.rows("events", sure)
    if lists is not None:
        items = texts(requests.row_item)
        for batch in lake.batches("events", ["items"], lists & ~sure):
            if rows > enough:
                break
            rows += _showing(pa.Table.from_batches([batch]), items).num_rows
    return rows


def _showing(table: pa.Table, items: pa.Array) -> pa.Table:
    """The rows whose `items` have one of `items` among them."""
    lists = table["items"].combine_chunks()
    found = pc.list_parent_indices(lists).filter(pc.is_in(pc.list_flatten(lists), items))
    return table.take(pc.unique(found))

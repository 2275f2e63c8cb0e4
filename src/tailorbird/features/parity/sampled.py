"""Parity check of a sample: current reads of the state against a backfill of the lake's events.

    reads = read_sample(reader, requests, items)       from the state, each at its own (t, p)
    compare_reads(features, reads, history.rows(requests_of(reads)), report)

`required_events` narrows the lake's events to those that a sample can depend on, so that a large
lake is not read completely where the features are about people and items alone;
`features.parity.bounds` reads them within a bound. `features.parity.recompute` compares logged
responses with the lake, and `features.parity.watch` does so continuously.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from tailorbird.events.contract.schema import TIME_TYPE
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.layout.layout import EntityLayout
from tailorbird.features.offline.backfill import BackfilledRows, Requests
from tailorbird.features.offline.lanes import sources_of
from tailorbird.features.offline.positions import stack_positions
from tailorbird.features.online.read import Reader
from tailorbird.features.parity.recompute import (
    Difference,
    Exemptions,
    ParityReport,
    empty_report,
    find_unequal,
)
from tailorbird.features.request import ReadRequest, Rows
from tailorbird.lake import Lake
from tailorbird.stream import read_released_positions

_CONTEXT_COLUMNS = ("device", "country")


@dataclass(frozen=True)
class SampledRead:
    """A request with its items, and the rows that were read."""

    request: ReadRequest
    items: tuple[str, ...]
    rows: Rows


def read_sample(
    reader: Reader, requests: Sequence[ReadRequest], items: Sequence[Sequence[str]]
) -> list[SampledRead]:
    """Read each request with its items. Raises NotReadyError while the state is being built."""
    return [
        SampledRead(request, tuple(request_items), reader.read(request, list(request_items)))
        for request, request_items in zip(requests, items, strict=True)
    ]


@dataclass(frozen=True)
class Sample:
    """People as seen in events, with two items each: the event's own, and another."""

    requests: list[ReadRequest]
    items: list[tuple[str, ...]]


def draw_sample(lake: Lake, count: int, *, now: int, seed: int = 0) -> Sample:
    """Draw `count` events of people uniformly from the lake, with sessions and context, to read
    `now`.
    """
    next_position = max(read_released_positions(lake.path).routed_position(), 1)
    drawn_positions = (
        np.random.default_rng(seed).integers(1, next_position, 4 * count)
        if next_position > 1
        else np.zeros(0, np.int64)
    )
    columns = (
        "person",
        "session_id",
        "device",
        "country",
        "local_hour",
        "query",
        "item_id",
        "items",
    )
    where = ds.field("p").isin(pa.array(np.unique(drawn_positions))) & ds.field("person").is_valid()
    event_rows = lake.table("events", columns, where).slice(0, count).to_pylist()
    first_items = [row["item_id"] or (row["items"] or [None])[0] for row in event_rows]
    other_items = [item for item in first_items if item is not None] or ["-"]
    requests = [
        ReadRequest(
            row["person"],
            anonymous_id=None,
            session_id=row["session_id"],
            device=row["device"],
            country=row["country"],
            local_hour=row["local_hour"],
            now=now,
            query=row["query"],
        )
        for row in event_rows
    ]
    items = [
        tuple(dict.fromkeys((item or other_items[0], other_items[index % len(other_items)])))
        for index, item in enumerate(reversed(first_items))
    ]
    return Sample(requests, items)


def requests_of(reads: Sequence[SampledRead]) -> Requests:
    """Return the same requests for a backfill, each at the (t, p) at which it was read."""
    lengths = [len(read.items) for read in reads]
    return Requests(
        t=np.array([read.rows.t for read in reads], np.int64),
        log_position=stack_positions(
            [read.rows.log_positions or read.rows.log_position for read in reads]
        ),
        person=[read.rows.person for read in reads],
        session_id=[read.request.session_id for read in reads],
        device=[read.request.device for read in reads],
        country=[read.request.country for read in reads],
        local_hour=[read.request.local_hour for read in reads],
        query=[read.request.query for read in reads],
        position=[read.request.position for read in reads],
        row_request=np.repeat(np.arange(len(reads)), lengths),
        row_item=[item for read in reads for item in read.items],
    )


def required_events(features: FeatureSet, requests: Requests) -> ds.Expression:
    """Return a filter for the rows of the lake's `events` that the values of these requests depend
    on.
    """
    single_filter, list_filter = required_filters(features, requests)
    return single_filter if list_filter is None else single_filter | list_filter


def required_filters(
    features: FeatureSet, requests: Requests, entities: Collection[int] | None = None
) -> tuple[ds.Expression, ds.Expression | None]:
    """Return `required_events` in two filters.

    The first selects events that count whatever they show. The second selects events that show
    several items, which count where one of the requests' items is among them.

    Args:
        entities: for these alone, by index.
    """
    people = distinct_texts(requests.person)
    items = distinct_texts(requests.row_item)
    values_by_column = {
        "person": people,
        **{
            name: distinct_texts(getattr(requests, name))
            for name in (*_CONTEXT_COLUMNS, "session_id")
        },
    }
    routed_filter = ds.field("p") <= int(requests.log_position.max(initial=0))
    single_filters: list[ds.Expression] = []
    list_filters: list[ds.Expression] = []
    for entity in features.layout.entities:
        if entities is not None and entity.index not in entities:
            continue
        entity_filter = _entity_filter(entity, values_by_column)
        look_back_us = _look_back_us(entity)
        if look_back_us is not None and len(requests.t):
            entity_filter = entity_filter & (
                ds.field("ts") >= pa.scalar(max(0, int(requests.t.min()) - look_back_us), TIME_TYPE)
            )
        if "item" in entity.entity.fields:
            list_filters.append(entity_filter & ds.field("items").is_valid())
            entity_filter = entity_filter & ds.field("item_id").isin(items)
        single_filters.append(entity_filter)
        if entity.profile is not None:
            owner_filter = (
                ds.field("item_id").isin(items)
                if entity.profile.type == "item"
                else ds.field("user_id").isin(people)
            )
            single_filters.append((ds.field("type") == entity.profile.type) & owner_filter)
    single_filter = routed_filter & reduce(or_, single_filters) if single_filters else routed_filter
    return single_filter, routed_filter & reduce(or_, list_filters) if list_filters else None


def unselective_columns(features: FeatureSet) -> list[str]:
    """Return the columns that depend on everybody's events, too expensive on a huge lake."""
    return dependent_columns(
        features, {entity.index for entity in features.layout.entities if not is_narrow(entity)}
    )


def dependent_columns(features: FeatureSet, entities: Collection[int]) -> list[str]:
    """Return the columns that depend on any of these entities, by index."""
    lookup_entities: dict[int, set[int]] = {}
    for (entity, _), part_lane in features.key_part_lanes.items():
        lookup_entities.setdefault(entity, set()).add(part_lane.entity)
    entity_indexes = set(entities)
    columns = {
        step.name
        for step in features.layout.steps
        if any(
            entity_indexes & {record_lane.entity, *lookup_entities.get(record_lane.entity, ())}
            for record_lane in step.record_lanes
        )
    }
    for name in features.layout.derived_order:
        step = next(step for step in features.layout.steps if step.name == name)
        if step.expression is not None and any(
            part_lane in columns for part_lane, _ in step.expression.names
        ):
            columns.add(name)
    return [step.name for step in features.layout.steps if step.name in columns]


def compare_reads(
    features: FeatureSet,
    reads: Sequence[SampledRead],
    recomputed: BackfilledRows,
    report: ParityReport | None = None,
    *,
    exemptions: Exemptions | None = None,
    examples_max: int = 20,
) -> ParityReport:
    """Count, by column, the values that differ from the lake's; adds to `report` if given.

    Only the columns of `recomputed` are compared. Exempt values are counted separately.
    """
    report = empty_report(features) if report is None else report
    report.answers += len(reads)
    request_of_row = np.repeat(np.arange(len(reads)), [len(read.items) for read in reads])
    items = [item for read in reads for item in read.items]
    for names, column_names, recomputed_values, read_values in (
        (
            features.numeric,
            recomputed.numeric_names,
            recomputed.numeric,
            [read.rows.numeric for read in reads],
        ),
        (
            features.categorical,
            recomputed.categorical_names,
            recomputed.categorical,
            [read.rows.categorical for read in reads],
        ),
    ):
        values = (
            _select_columns(np.concatenate(read_values), names, column_names)
            if read_values
            else recomputed_values
        )
        is_unequal = find_unequal(values, recomputed_values)
        for column_index, name in enumerate(column_names):
            report.add_compared(name, len(recomputed_values))
            unequal_rows = np.flatnonzero(is_unequal[:, column_index])
            for row in (
                unequal_rows
                if exemptions is None
                else exemptions.non_exempt(name, unequal_rows, report)
            ):
                rows = reads[request_of_row[row]].rows
                read_and_recomputed = (
                    values[row, column_index].item(),
                    recomputed_values[row, column_index].item(),
                )
                report.add_difference(
                    Difference(
                        name,
                        "",
                        items[row],
                        *read_and_recomputed,
                        rows.person or "",
                        rows.t,
                        rows.log_position,
                        rows.log_positions,
                    ),
                    examples_max,
                )
    for index, sampled in enumerate(reads):
        for name, sequence in recomputed.sequences.items():
            report.add_compared(name, 1)
            read_values = sampled.rows.sequences[name].to_lists()
            recomputed_values = sequence.of(index).to_lists()
            if read_values != recomputed_values and not (
                exemptions is not None and exemptions.is_request_exempt(name, index, report)
            ):
                rows = sampled.rows
                report.add_difference(
                    Difference(
                        name,
                        request_id="",
                        item="",
                        logged=read_values,
                        recomputed=recomputed_values,
                        person=rows.person or "",
                        t=rows.t,
                        log_position=rows.log_position,
                        log_positions=rows.log_positions,
                    ),
                    examples_max,
                )
    return report


def _select_columns(
    values: np.ndarray, names: Sequence[str], column_names: Sequence[str]
) -> np.ndarray:
    return (
        values
        if tuple(names) == tuple(column_names)
        else values[:, [list(names).index(name) for name in column_names]]
    )


def distinct_texts(column: object) -> pa.Array:
    """Return the distinct texts of a column, as values for `isin`."""
    if column is None:
        return pa.array([], pa.string())
    values = (
        column.combine_chunks()
        if isinstance(column, pa.ChunkedArray)
        else pa.array(column, pa.string())
    )  # type: ignore[arg-type]
    return values.unique().drop_null()


def is_narrow(layout: EntityLayout) -> bool:
    """Return whether an entity is about a person, item or session, with few events."""
    return bool({"user", "item", "session"} & set(layout.entity.fields))


def _entity_filter(layout: EntityLayout, values_by_column: dict[str, pa.Array]) -> ds.Expression:
    """Return a filter for events that may count for the requested entities of this kind, of any
    item.
    """
    types = sorted({name for source in sources_of(layout) for name in source.types})
    condition = ds.field("type").isin(pa.array(types, pa.string()))
    for name in layout.entity.fields:
        column = {"user": "person", "session": "session_id"}.get(name, name)
        if column in values_by_column:
            condition = condition & ds.field(column).isin(values_by_column[column])
    return condition


def _look_back_us(layout: EntityLayout) -> int | None:
    """Return how far back, in microseconds, events can count; None: to the beginning."""
    if layout.lasts or layout.sequences or layout.firsts or layout.first_values:
        return None
    look_backs_us = [ring.hop * (ring.tiles + 1) for ring in (*layout.rings, *layout.sketches)]
    return max(look_backs_us, default=0)

"""Lanes of a partition's entities, computed shard by shard.

A partition is the entities whose events are split by one field into buckets (`spill`). A shard is
the buckets that fit into memory together, a piece some of its rows, and a stretch a period of a
bucket that does not fit. `own_rows` are rows of the requests, or where no entity is about the item
the requests themselves.
"""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from tailorbird.events.contract.schema import ROUTED
from tailorbird.features.arithmetic.runs import RUN_OPERATIONS
from tailorbird.features.declare.declarations import Entity
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.layout.layout import RecordLane, Step
from tailorbird.features.offline.backfill import event_columns
from tailorbird.features.offline.bulk import Requests
from tailorbird.features.offline.compaction import CompactedHistory
from tailorbird.features.offline.events.frames import FrameCache, has_text_keys
from tailorbird.features.offline.events.ragged import concatenate_ranges
from tailorbird.features.offline.hashing import hash_texts, identify_texts
from tailorbird.features.offline.lanes import PastLanes, is_per_row
from tailorbird.features.offline.partition.inputs import row_bytes
from tailorbird.features.offline.spill import IDENTITY_SEED, Partition, Spill, assign_buckets

Progress = Callable[[str, int, int | None], None]  # stage, done, of how many

Intps = npt.NDArray[np.intp]

EVENT_FACTOR = 4  # memory of the computation per byte of events


@dataclass(frozen=True)
class BackfillPlan:
    """A backfill to run; `features` are the missing columns and those that they derive from."""

    features: FeatureSet
    requests: Requests
    only_columns: list[str]
    memory_bytes: int
    progress: Progress

    def columns(self) -> list[str]:
        """Return the columns of the events to read."""
        return event_columns(self.features)


def compute_partition(
    plan: BackfillPlan, spill: Spill, partition_number: int, partition: Partition
) -> None:
    """Compute the lanes of a partition's entities, shard by shard."""
    features = plan.features
    bytes_max = plan.memory_bytes // (2 * EVENT_FACTOR)
    shards = spill.plan_shards(partition.field, bytes_max)
    earlier_lanes = {
        record_lane: _read_lane(plan, spill, record_lane)
        for record_lane in _find_needed_lanes(features, partition)
    }
    bucket = _assign_buckets(plan, earlier_lanes, partition)
    empty_table = ROUTED.empty_table().select(plan.columns())
    rows_max = max(1, plan.memory_bytes // (4 * row_bytes(features, partition.entities)))
    for shard, buckets in enumerate(shards):
        own_rows = np.flatnonzero((bucket >= buckets.start) & (bucket < buckets.stop))
        if spill.event_bytes(partition.field, buckets) > bytes_max:
            _compute_by_time(
                plan,
                spill,
                name=f"{partition_number}-{shard}",
                partition=partition,
                bucket=buckets.start,
                own_rows=own_rows,
                earlier_lanes=earlier_lanes,
            )
            plan.progress(f"shards by {partition.field or 'everyone'}", shard + 1, len(shards))
            continue
        row_chunks = [
            own_rows[start : start + rows_max] for start in range(0, len(own_rows), rows_max)
        ]
        piece_names = [f"{partition_number}-{shard}-{piece}" for piece in range(len(row_chunks))]
        if not all(spill.is_done(name) for name in piece_names):
            frame_cache = FrameCache(spill.read_events(partition.field, buckets, empty_table))
            for name, piece_rows in zip(piece_names, row_chunks, strict=True):
                if not spill.is_done(name):
                    _write_piece(
                        plan,
                        spill,
                        partition=partition,
                        frame_cache=frame_cache,
                        own_rows=piece_rows,
                        name=name,
                        earlier_lanes=earlier_lanes,
                    )
                    spill.mark_done(name)
        plan.progress(f"shards by {partition.field or 'everyone'}", shard + 1, len(shards))


def _compute_by_time(
    plan: BackfillPlan,
    spill: Spill,
    name: str,
    partition: Partition,
    bucket: int,
    own_rows: Intps,
    earlier_lanes: Mapping[RecordLane, npt.NDArray],
) -> None:
    """Compute the lanes of a bucket larger than memory: events and requests in order of time."""
    if spill.is_done(name) or not len(own_rows):
        return
    features = plan.features
    requests = plan.requests
    request_of_row = requests.row_request[own_rows] if partition.is_by_row else own_rows
    t = requests.t[request_of_row]
    log_position = requests.log_position[request_of_row]
    seed = secrets.randbits(64)
    empty_table = ROUTED.empty_table().select(plan.columns())
    compacted = CompactedHistory(
        [features.layout.entities[index] for index in partition.entities],
        _partition_keys(plan, partition, own_rows, earlier_lanes, seed),
        empty_table,
    )
    stretch_starts = spill.cut_by_time(
        partition.field, bucket, plan.memory_bytes // (4 * EVENT_FACTOR)
    )
    stretch_of_row = np.searchsorted(stretch_starts, t)
    rows_max = max(1, plan.memory_bytes // (8 * row_bytes(features, partition.entities)))
    for stretch_number in range(len(stretch_starts) + 1):
        frame_cache = FrameCache(spill.read_stretch(stretch_number, compacted.events), seed)
        stretch_rows = own_rows[stretch_of_row == stretch_number]
        for piece, first_row in enumerate(range(0, len(stretch_rows), rows_max)):
            piece_name = f"{name}-{stretch_number}-{piece}"
            if not spill.is_done(piece_name):
                _write_piece(
                    plan,
                    spill,
                    partition=partition,
                    frame_cache=frame_cache,
                    own_rows=stretch_rows[first_row : first_row + rows_max],
                    name=piece_name,
                    earlier_lanes=earlier_lanes,
                    compacted=compacted,
                )
                spill.mark_done(piece_name)
        is_later = stretch_of_row > stretch_number
        if not is_later.any():
            break
        compacted.absorb(frame_cache, int(t[is_later].min()), int(log_position[is_later].min()))
        plan.progress(
            f"stretches by {partition.field or 'everyone'}",
            stretch_number + 1,
            len(stretch_starts) + 1,
        )
    spill.mark_done(name)


def _partition_keys(
    plan: BackfillPlan,
    partition: Partition,
    own_rows: Intps,
    earlier_lanes: Mapping[RecordLane, npt.NDArray],
    seed: int,
) -> dict[int, npt.NDArray]:
    """Return the requested keys of each entity of a partition."""
    request_indices, rows, selected_lanes = _select_requests(
        plan, partition, own_rows, earlier_lanes
    )
    empty_frame_cache = FrameCache(ROUTED.empty_table().select(plan.columns()), seed)
    lanes = PastLanes(
        plan.features,
        empty_frame_cache,
        plan.requests.take(request_indices, rows),
        entities=(),
        precomputed=selected_lanes,
    )
    return {entity: lanes.keys_of(entity) for entity in partition.entities}


def _select_requests(
    plan: BackfillPlan,
    partition: Partition,
    own_rows: Intps,
    earlier_lanes: Mapping[RecordLane, npt.NDArray],
) -> tuple[Intps, Intps, dict[RecordLane, npt.NDArray]]:
    """Return requests and rows of some requests or rows, with their lanes that were computed
    earlier.
    """
    requests = plan.requests
    if partition.is_by_row:
        rows = own_rows
        request_indices = np.unique(requests.row_request[own_rows])
    else:
        first_request = np.searchsorted(requests.row_request, own_rows)
        last_request = np.searchsorted(requests.row_request, own_rows, side="right")
        rows = concatenate_ranges(first_request, last_request)[0]
        request_indices = own_rows
    by_row = [is_per_row(entity) for entity in plan.features.layout.entities]
    return (
        request_indices,
        rows,
        {
            record_lane: values[rows if by_row[record_lane.entity] else request_indices]
            for record_lane, values in earlier_lanes.items()
        },
    )


def _find_needed_lanes(features: FeatureSet, partition: Partition) -> set[RecordLane]:
    """Return the lanes of other partitions that this one's keys or `seen` columns need."""
    record_lanes = {
        record_lane
        for (entity, _), record_lane in features.key_part_lanes.items()
        if entity in partition.entities
    }
    record_lanes |= {
        record_lane
        for step in _steps_of(features, partition)
        if step.operation == "seen"
        for record_lane in step.record_lanes[1:]
    }
    return {
        record_lane for record_lane in record_lanes if record_lane.entity not in partition.entities
    }


def _steps_of(features: FeatureSet, partition: Partition) -> list[Step]:
    return [
        step
        for step in features.layout.steps
        if step.record_lanes and step.record_lanes[0].entity in partition.entities
    ]


def _read_lane(plan: BackfillPlan, spill: Spill, record_lane: RecordLane) -> npt.NDArray:
    """Return a lane at all requests or rows."""
    by_row = is_per_row(plan.features.layout.entities[record_lane.entity])
    size = len(plan.requests.row_request) if by_row else len(plan.requests.t)
    return spill.read_lanes(
        "rows" if by_row else "requests", slice(0, size), only_lane=record_lane
    ).get(record_lane, np.zeros(size, np.int64))


def _write_piece(
    plan: BackfillPlan,
    spill: Spill,
    partition: Partition,
    frame_cache: FrameCache,
    own_rows: Intps,
    name: str,
    earlier_lanes: Mapping[RecordLane, npt.NDArray],
    compacted: CompactedHistory | None = None,
) -> None:
    """Compute and write the lanes of some requests or rows of a shard."""
    features = plan.features
    request_indices, rows, selected_lanes = _select_requests(
        plan, partition, own_rows, earlier_lanes
    )
    by_row = [is_per_row(entity) for entity in features.layout.entities]
    lanes = PastLanes(
        features,
        frame_cache,
        plan.requests.take(request_indices, rows),
        entities=partition.entities,
        precomputed=selected_lanes,
        compacted=compacted,
    )
    row_columns: dict[RecordLane | str, npt.NDArray] = {}
    request_columns: dict[RecordLane | str, npt.NDArray] = {}
    for entity in partition.entities:
        for record_lane, values in lanes.lanes_of(entity).items():
            (row_columns if by_row[entity] else request_columns)[record_lane] = values
    for step in _steps_of(features, partition):
        if step.operation in RUN_OPERATIONS:
            (row_columns if step.operation == "seen" else request_columns)[step.name] = (
                lanes.run_values(step)
            )
        elif step.kind == "sequence":
            spill.write_sequence(
                features.layout.steps.index(step), name, request_indices, lanes.sequence(step)
            )
    for kind, positions, columns in (
        ("rows", rows, row_columns),
        ("requests", request_indices, request_columns),
    ):
        if columns:
            spill.write_lanes(kind, name, positions, columns)


def _assign_buckets(
    plan: BackfillPlan, earlier_lanes: Mapping[RecordLane, npt.NDArray], partition: Partition
) -> Intps:
    """Return the bucket of each row or request."""
    features = plan.features
    requests = plan.requests
    count = len(requests.row_request) if partition.is_by_row else len(requests.t)
    if partition.field is None:
        return np.zeros(count, np.intp)
    layout = features.layout.entities[partition.entities[0]]
    field_index = layout.entity.fields.index(partition.field)
    key_function = (
        partial(identify_texts, seed=IDENTITY_SEED)
        if has_text_keys(Entity((partition.field,)))
        else hash_texts
    )
    lanes = PastLanes(features, None, requests, entities=(), precomputed=dict(earlier_lanes))
    return assign_buckets(lanes.key_field(layout, field_index, partition.is_by_row, key_function))

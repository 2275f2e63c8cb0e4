"""Backfills larger than memory, into a folder of Parquet parts, resumable.

    events ─► split by keys ─► shard by shard: lanes ─► files ─► part by part: columns ─► folder
              (`spill`)        (`lanes`)                (`spill`)  (`finish`)          (`parts`)

Where the events fit into memory, requests are answered part by part. Columns that the folder has,
for the same definitions, events and requests, are not recomputed: adding a feature computes that
one alone. Where the events of one key do not fit (everyone's feature has a single key), they are
processed in order of time, and `carried` compacts them. Memory that the setting does not bound: the
requests themselves, a number for each where a key has an attribute in it, the events of one key at
one time, and a key's events that some later request did not know yet.
"""

import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from hashlib import blake2b
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as ds

from tailorbird.errors import UsageError
from tailorbird.events.contract.schema import ROUTED
from tailorbird.features.arithmetic.runs import OF_RUN
from tailorbird.features.declare.declarations import Entity
from tailorbird.features.event_columns.fields import floats
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.layout.layout import Spot, Step
from tailorbird.features.offline.asof import ragged
from tailorbird.features.offline.backfill import (
    History,
    event_columns,
    finish_columns,
    relevant_events,
    subset,
)
from tailorbird.features.offline.bulk import BackfilledRows, Requests
from tailorbird.features.offline.compaction import CompactedHistory
from tailorbird.features.offline.hashing import hashes, identities
from tailorbird.features.offline.lanes import PastLanes, is_by_row
from tailorbird.features.offline.parts import Folder, Manifest, Part, read_manifest, read_parts
from tailorbird.features.offline.spill import (
    IDENTITY_SEED,
    Partition,
    Spill,
    assign_buckets,
    partitions,
)
from tailorbird.features.offline.timelines import Frames, has_text_keys

__all__ = [
    "Events",
    "Part",
    "backfill_to",
    "definitions",
    "hash_inputs",
    "read_manifest",
    "read_parts",
]

# The events of a lake: a dataset, or a function from column names to the events with these,
# in any order, table by table. It is called more than once, and gives the same events each time.
Events = ds.Dataset | Callable[[Sequence[str]], Iterator[pa.Table]]
Progress = Callable[[str, int, int | None], None]  # stage, done, of how many

Intps = npt.NDArray[np.intp]

MEMORY_BYTES = 2 << 30
_EVENT_FACTOR = 4  # memory of the computation per byte of events


def backfill_to(
    features: FeatureSet,
    events: Events,
    requests: Requests,
    folder: Path,
    *,
    memory_bytes: int = MEMORY_BYTES,
    only: Sequence[str] | None = None,
    version: str = "",
    progress: Progress | None = None,
) -> Path:
    """Compute the features of past requests into `folder`; `read_parts` reads them.

    Existing columns are reused.

    Args:
        requests: rows in order of their requests.
        memory_bytes: memory for the computation, besides the requests themselves.
        only: compute these columns only, by default all.
        version: names the events, such as the version of a lake's table: another name recomputes
            everything. By default the file names of a dataset.
        progress: called with each stage and how far it is.
    Raises:
        UsageError: `only` names no column; rows are not in order of their requests.
    """
    if np.any(np.diff(requests.row_request) < 0):
        raise UsageError(
            "rows are not in order of their requests", where="requests.row_request", fix="sort them"
        )
    definitions_ = definitions(features, only)
    parts = Folder(
        Path(folder),
        _make_manifest(requests, events, version, memory_bytes // (2 * _row_bytes(features))),
    )
    missing = {
        name: definition
        for name, definition in definitions_.items()
        if parts.manifest.group_of(name, definition) is None
    }
    if not missing:
        return parts.path
    key = _hash(*(f"{name}={definition}" for name, definition in sorted(missing.items())))
    parts.begin(key, missing)
    plan = _BackfillPlan(
        subset(features, list(missing)),
        requests,
        list(missing),
        memory_bytes,
        progress or _no_progress,
    )
    pending = [part for part in range(parts.manifest.parts) if not parts.has_part(key, part)]
    for part, rows in _compute_parts(plan, events, parts, key, pending):
        parts.write(key, part, _select_columns(rows, missing))
        plan.progress("parts", part + 1, parts.manifest.parts)
    parts.end(key)
    shutil.rmtree(parts.path / key / "spill", ignore_errors=True)
    return parts.path


@dataclass(frozen=True)
class _BackfillPlan:
    """A backfill to run; `features` are the missing columns and those that they derive from."""

    features: FeatureSet
    requests: Requests
    only: list[str]
    memory_bytes: int
    progress: Progress

    def columns(self) -> list[str]:
        return event_columns(self.features)


def _compute_parts(
    plan: _BackfillPlan, events: Events, parts_folder: Folder, key: str, parts: list[int]
) -> Iterator[tuple[int, BackfilledRows]]:
    """Yield the rows of these parts, one after the other."""
    if not parts:
        return
    folder = parts_folder.path / key / "spill"
    spill = Spill(folder, plan.memory_bytes) if folder.exists() else None
    if spill is None or not spill.is_done("events"):
        tables, remaining = _read_events(
            plan, events, int(np.diff(parts_folder.manifest.row_cuts).max())
        )
        if remaining is None:
            history = History(plan.features, pa.concat_tables(tables), only=plan.only)
            for part in parts:
                yield part, history.rows(_part_requests(plan, parts_folder, part))
            return
        spill = Spill(folder, plan.memory_bytes)
        spill.write_buckets(
            {partition_.field for partition_ in partitions(plan.features)}, chain(tables, remaining)
        )
        del tables
    for number, partition in enumerate(partitions(plan.features)):
        _compute_partition(plan, spill, number, partition)
    for part in parts:
        part_requests = _part_requests(plan, parts_folder, part)
        requests, rows = (
            slice(*parts_folder.manifest.cuts[part : part + 2]),
            slice(*parts_folder.manifest.row_cuts[part : part + 2]),
        )
        tables = spill.read_lanes("requests", requests) | spill.read_lanes("rows", rows)
        by_spot = {spot: values for spot, values in tables.items() if isinstance(spot, Spot)}
        run_columns = {name: values for name, values in tables.items() if isinstance(name, str)}
        lanes = PastLanes(
            plan.features, None, part_requests, precomputed=by_spot, run_columns=run_columns
        )
        steps = enumerate(plan.features.layout.steps)
        sequences = {
            layout_step.name: spill.read_sequence(index, requests.start, requests.stop)
            for index, layout_step in steps
            if layout_step.kind == "sequence"
        }
        yield part, finish_columns(plan.features, lanes, sequences, plan.only)


def _read_events(
    plan: _BackfillPlan, events: Events, rows_of_part: int
) -> tuple[list[pa.Table], Iterator[pa.Table] | None]:
    """Return the tables that fit into memory, and the remaining ones, or None if there are none."""
    loaded: list[pa.Table] = []
    tables = (
        relevant_events(plan.features.layout, table) for table in _tables(events, plan.columns())
    )
    size = _row_bytes(plan.features) * rows_of_part
    for table in tables:
        loaded.append(table)
        size += _EVENT_FACTOR * table.nbytes
        if size > plan.memory_bytes:
            return loaded, tables
    return loaded or [ROUTED.empty_table().select(plan.columns())], None


def _compute_partition(
    plan: _BackfillPlan, spill: Spill, number: int, partition: Partition
) -> None:
    """Compute the lanes of a partition's entities, shard by shard."""
    features = plan.features
    bytes_max = plan.memory_bytes // (2 * _EVENT_FACTOR)
    shards = spill.plan_shards(partition.field, bytes_max)
    earlier_lanes = {
        spot: _read_lane(plan, spill, spot) for spot in _foreign_spots(features, partition)
    }
    bucket = _assign_buckets(plan, earlier_lanes, partition)
    empty = ROUTED.empty_table().select(plan.columns())
    rows_max = max(1, plan.memory_bytes // (4 * _row_bytes(features, partition.entities)))
    for shard, buckets in enumerate(shards):
        own_rows = np.flatnonzero((bucket >= buckets.start) & (bucket < buckets.stop))
        if spill.size(partition.field, buckets) > bytes_max:
            _compute_by_time(
                plan, spill, f"{number}-{shard}", partition, buckets.start, own_rows, earlier_lanes
            )
            plan.progress(f"shards by {partition.field or 'everyone'}", shard + 1, len(shards))
            continue
        row_chunks = [
            own_rows[start : start + rows_max] for start in range(0, len(own_rows), rows_max)
        ]
        piece_names = [f"{number}-{shard}-{piece}" for piece in range(len(row_chunks))]
        if not all(spill.is_done(name) for name in piece_names):
            frames = Frames(spill.read_events(partition.field, buckets, empty))
            for name, piece in zip(piece_names, row_chunks, strict=True):
                if not spill.is_done(name):
                    _write_piece(plan, spill, partition, frames, piece, name, earlier_lanes)
                    spill.mark_done(name)
        plan.progress(f"shards by {partition.field or 'everyone'}", shard + 1, len(shards))


def _compute_by_time(
    plan: _BackfillPlan,
    spill: Spill,
    name: str,
    partition: Partition,
    bucket: int,
    own_rows: Intps,
    earlier_lanes: Mapping[Spot, npt.NDArray],
) -> None:
    """Compute the lanes of a bucket larger than memory: events and requests in order of time."""
    if spill.is_done(name) or not len(own_rows):
        return
    features, requests = plan.features, plan.requests
    request_of = requests.row_request[own_rows] if partition.is_by_row else own_rows
    t, p = requests.t[request_of], requests.p[request_of]
    start = secrets.randbits(64)
    empty = ROUTED.empty_table().select(plan.columns())
    compacted = CompactedHistory(
        [features.layout.entities[index] for index in partition.entities],
        _partition_keys(plan, partition, own_rows, earlier_lanes, start),
        empty,
    )
    cuts = spill.cut_by_time(partition.field, bucket, plan.memory_bytes // (4 * _EVENT_FACTOR))
    stretch = np.searchsorted(cuts, t)
    rows_max = max(1, plan.memory_bytes // (8 * _row_bytes(features, partition.entities)))
    for number in range(len(cuts) + 1):
        frames = Frames(spill.read_stretch(number, compacted.events), start)
        stretch_rows = own_rows[stretch == number]
        for piece, first in enumerate(range(0, len(stretch_rows), rows_max)):
            piece_name = f"{name}-{number}-{piece}"
            if not spill.is_done(piece_name):
                _write_piece(
                    plan,
                    spill,
                    partition,
                    frames,
                    stretch_rows[first : first + rows_max],
                    piece_name,
                    earlier_lanes,
                    compacted,
                )
                spill.mark_done(piece_name)
        is_later = stretch > number
        if not is_later.any():
            break
        compacted.advance(frames, int(t[is_later].min()), int(p[is_later].min()))
        plan.progress(f"stretches by {partition.field or 'everyone'}", number + 1, len(cuts) + 1)
    spill.mark_done(name)


def _partition_keys(
    plan: _BackfillPlan,
    partition: Partition,
    own_rows: Intps,
    earlier_lanes: Mapping[Spot, npt.NDArray],
    start: int,
) -> dict[int, npt.NDArray]:
    """Return the requested keys of each entity of a partition."""
    request_rows, rows, lanes_read = _select_requests(plan, partition, own_rows, earlier_lanes)
    no_events = Frames(ROUTED.empty_table().select(plan.columns()), start)
    lanes = PastLanes(
        plan.features,
        no_events,
        plan.requests.take(request_rows, rows),
        entities=(),
        precomputed=lanes_read,
    )
    return {entity: lanes.keys_of(entity) for entity in partition.entities}


def _select_requests(
    plan: _BackfillPlan,
    partition: Partition,
    own_rows: Intps,
    earlier_lanes: Mapping[Spot, npt.NDArray],
) -> tuple[Intps, Intps, dict[Spot, npt.NDArray]]:
    """Return requests and rows of some requests or rows, with their lanes that were computed
    earlier.
    """
    requests = plan.requests
    if partition.is_by_row:
        rows, request_rows = own_rows, np.unique(requests.row_request[own_rows])
    else:
        first, last = (
            np.searchsorted(requests.row_request, own_rows),
            np.searchsorted(requests.row_request, own_rows, side="right"),
        )
        rows, request_rows = ragged(first, last)[0], own_rows
    by_row = [is_by_row(entity) for entity in plan.features.layout.entities]
    return (
        request_rows,
        rows,
        {
            spot: values[rows if by_row[spot.entity] else request_rows]
            for spot, values in earlier_lanes.items()
        },
    )


def _foreign_spots(features: FeatureSet, partition: Partition) -> set[Spot]:
    """Return the lanes of other partitions that this one's keys or `seen` columns need."""
    spots = {
        spot
        for (entity, _), spot in features.composite_spots.items()
        if entity in partition.entities
    }
    spots |= {
        spot
        for step in _steps_of(features, partition)
        if step.operation == "seen"
        for spot in step.spots[1:]
    }
    return {spot for spot in spots if spot.entity not in partition.entities}


def _steps_of(features: FeatureSet, partition: Partition) -> list[Step]:
    return [
        step
        for step in features.layout.steps
        if step.spots and step.spots[0].entity in partition.entities
    ]


def _read_lane(plan: _BackfillPlan, spill: Spill, spot: Spot) -> npt.NDArray:
    """Return a lane at all requests or rows."""
    by_row = is_by_row(plan.features.layout.entities[spot.entity])
    size = len(plan.requests.row_request) if by_row else len(plan.requests.t)
    return spill.read_lanes("rows" if by_row else "requests", slice(0, size), only=spot).get(
        spot, np.zeros(size, np.int64)
    )


def _write_piece(
    plan: _BackfillPlan,
    spill: Spill,
    partition: Partition,
    frames: Frames,
    own_rows: Intps,
    name: str,
    earlier_lanes: Mapping[Spot, npt.NDArray],
    compacted: CompactedHistory | None = None,
) -> None:
    """Compute and write the lanes of some requests or rows of a shard."""
    features = plan.features
    request_rows, rows, lanes_read = _select_requests(plan, partition, own_rows, earlier_lanes)
    by_row = [is_by_row(entity) for entity in features.layout.entities]
    lanes = PastLanes(
        features,
        frames,
        plan.requests.take(request_rows, rows),
        entities=partition.entities,
        precomputed=lanes_read,
        compacted=compacted,
    )
    row_columns: dict[Spot | str, npt.NDArray] = {}
    request_columns: dict[Spot | str, npt.NDArray] = {}
    for entity in partition.entities:
        for spot, values in lanes.lanes_of(entity).items():
            (row_columns if by_row[entity] else request_columns)[spot] = values
    for step in _steps_of(features, partition):
        if step.operation in OF_RUN:
            (row_columns if step.operation == "seen" else request_columns)[step.name] = (
                lanes.run_values(step)
            )
        elif step.kind == "sequence":
            spill.write_sequence(
                features.layout.steps.index(step), name, request_rows, lanes.sequence(step)
            )
    for kind, at, columns in (
        ("rows", rows, row_columns),
        ("requests", request_rows, request_columns),
    ):
        if columns:
            spill.write_lanes(kind, name, at, columns)


def _assign_buckets(
    plan: _BackfillPlan, earlier_lanes: Mapping[Spot, npt.NDArray], partition: Partition
) -> Intps:
    """Return the bucket of each row or request."""
    features, requests = plan.features, plan.requests
    count = len(requests.row_request) if partition.is_by_row else len(requests.t)
    if partition.field is None:
        return np.zeros(count, np.intp)
    layout = features.layout.entities[partition.entities[0]]
    field_index = layout.entity.fields.index(partition.field)
    key_function = (
        partial(identities, start=IDENTITY_SEED)
        if has_text_keys(Entity((partition.field,)))
        else hashes
    )
    lanes = PastLanes(features, None, requests, entities=(), precomputed=dict(earlier_lanes))
    return assign_buckets(lanes.key_field(layout, field_index, partition.is_by_row, key_function))


def _part_requests(plan: _BackfillPlan, parts_folder: Folder, part: int) -> Requests:
    start, stop = parts_folder.manifest.cuts[part : part + 2]
    return plan.requests.slice_requests(
        start, stop, slice(*parts_folder.manifest.row_cuts[part : part + 2])
    )


def _row_bytes(features: FeatureSet, entities: Sequence[int] | None = None) -> int:
    """Estimate the memory of a row while it is computed: lanes, the longest sequence, columns."""
    layout = features.layout
    lanes = sum(
        entity.reading_lanes
        for entity in layout.entities
        if entities is None or entity.index in entities
    )
    return 16 * (lanes + len(layout.steps) + 16)


def _no_progress(stage: str, done: int, total: int | None) -> None:
    pass


def definitions(features: FeatureSet, only: Sequence[str] | None = None) -> dict[str, str]:
    """Return each column's definition: the schema hash of it and of what it derives from."""
    names = [feature.name for feature in features.features] if only is None else only
    return {name: subset(features, [name]).schema_hash for name in names}


def _select_columns(rows: BackfilledRows, names: Mapping[str, str]) -> BackfilledRows:
    """Return the rows without sequences and categories that only served a derived column."""
    own_indices = [index for index, name in enumerate(rows.categorical_names) if name in names]
    return replace(
        rows,
        categorical=rows.categorical[:, own_indices],
        categorical_names=tuple(rows.categorical_names[index] for index in own_indices),
        sequences={name: sequence for name, sequence in rows.sequences.items() if name in names},
    )


def _tables(events: Events, columns: Sequence[str]) -> Iterator[pa.Table]:
    if isinstance(events, ds.Dataset):
        return (
            pa.Table.from_batches([batch]) for batch in events.to_batches(columns=list(columns))
        )
    return events(columns)


def _make_manifest(requests: Requests, events: Events, version: str, rows_max: int) -> Manifest:
    rows = len(requests.row_request)
    size = max(1, min(1 << 20, rows_max))
    first = requests.row_request[np.arange(size, rows, size)] if rows else np.zeros(0, np.intp)
    cuts = np.unique(np.concatenate(([0], first, [len(requests.t)]))).astype(np.int64)
    row_cuts = np.searchsorted(requests.row_request, cuts)
    events_name = version or (
        "\n".join(sorted(events.files)) if isinstance(events, ds.FileSystemDataset) else ""
    )
    return Manifest(hash_inputs(requests, events_name), cuts.tolist(), row_cuts.tolist())


def hash_inputs(requests: Requests, version: str) -> str:
    """Return a hash of the requests and events' name, which identifies a folder's inputs."""
    return _hash(version, *_request_bytes(requests))


def _request_bytes(requests: Requests) -> Iterator[bytes]:
    for field in fields(requests):
        value = getattr(requests, field.name)
        yield f"{field.name}:{0 if value is None else len(value)}".encode()
        if isinstance(value, np.ndarray):
            yield value.tobytes()
        elif value is not None:  # Hash by value: buffers of equal rows differ between files.
            array = value if isinstance(value, pa.Array | pa.ChunkedArray) else pa.array(value)
            numbers = pa.types.is_integer(array.type) or pa.types.is_floating(array.type)
            yield (
                floats(pa.chunked_array(array))
                if numbers
                else identities(array, start=IDENTITY_SEED)
            ).tobytes()


def _hash(*parts: str | bytes) -> str:
    state = blake2b(digest_size=8, person=b"tb-backfill")
    for part in parts:
        state.update(part.encode() if isinstance(part, str) else part)
        state.update(b"\0")
    return state.hexdigest()

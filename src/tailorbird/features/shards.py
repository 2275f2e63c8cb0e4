"""Backfills larger than memory: into a folder of Parquet parts, piece by piece, going on where one
was cut short.

    events ─► cut by keys ─► shard by shard: lanes of its entities ─► files ─► part by part: columns ─► folder
             (`spill`)       (`lanes`)                               (`spill`)  (`finish`)          (`parts`)

Where the events fit into memory, requests are answered part by part. Columns that the folder has,
as they are defined now and for the same events and requests, are not computed again: one feature
more computes that one alone. Where the events of one key, of which everyone's feature has a single
one, do not fit, they are gone through in order of time, and `carried` says what is kept of them.
What does not shrink with the setting: the requests themselves, a number of each where a key has an
attribute in it, and of one key the events of one time, and those that some later request did not
know of yet.
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
from tailorbird.events.schema import ROUTED
from tailorbird.features.asof import ragged
from tailorbird.features.backfill import History, event_columns, finish_columns, relevant_events, subset
from tailorbird.features.bulk import BackfilledRows, Requests
from tailorbird.features.carried import CompactedHistory
from tailorbird.features.declare import Entity
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.fields import floats
from tailorbird.features.hashing import hashes, identities
from tailorbird.features.lanes import PastLanes, is_by_row
from tailorbird.features.layout import Spot, Step
from tailorbird.features.parts import Folder, Manifest, Part, read_manifest, read_parts
from tailorbird.features.records import Frames, has_text_keys
from tailorbird.features.runs import OF_RUN
from tailorbird.features.spill import START, Partition, Spill, buckets_of, partitions

__all__ = [
    "Events",
    "Part",
    "backfill_to",
    "definitions",
    "inputs_of",
    "read_manifest",
    "read_parts",
]

# The events of a lake: a dataset, or a function from the names of columns to the events with those,
# in any order, table by table. It is called more than once, and gives the same events each time.
Events = ds.Dataset | Callable[[Sequence[str]], Iterator[pa.Table]]
Progress = Callable[[str, int, int | None], None]  # stage, done, of how many

Intps = npt.NDArray[np.intp]

MEMORY_BYTES = 2 << 30
_EVENT_FACTOR = 4  # bytes that an event's bytes take while they are computed with


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
    """Compute the features of past requests into `folder`, which `read_parts` reads. What is there
    already is kept.

    Args:
        requests: rows in order of their requests.
        memory_bytes: how much the computation may take beside the requests themselves.
        only: these columns only, by default all.
        version: names the events, as the version of a lake's table does: under another name all is
            computed again. Of a dataset, the names of its files are taken by default.
        progress: told of each stage how far it is.
    Raises:
        UsageError: `only` names no column; rows are not in order of their requests.
    """
    if np.any(np.diff(requests.row_request) < 0):
        raise UsageError(
            "rows are not in order of their requests", where="requests.row_request", fix="sort them"
        )
    wanted = definitions(features, only)
    place = Folder(
        Path(folder), _asked(requests, events, version, memory_bytes // (2 * _row_bytes(features)))
    )
    missing = {
        name: one for name, one in wanted.items() if place.manifest.group_of(name, one) is None
    }
    if not missing:
        return place.path
    key = _hash(*(f"{name}={one}" for name, one in sorted(missing.items())))
    place.begin(key, missing)
    plan = _Plan(
        subset(features, list(missing)), requests, list(missing), memory_bytes, progress or _untold
    )
    open_ = [part for part in range(place.manifest.parts) if not place.has_part(key, part)]
    for part, rows in _computed(plan, events, place, key, open_):
        place.write(key, part, _chosen(rows, missing))
        plan.progress("parts", part + 1, place.manifest.parts)
    place.end(key)
    shutil.rmtree(place.path / key / "spill", ignore_errors=True)
    return place.path


@dataclass(frozen=True)
class _Plan:
    """What is to be computed; `features` are the missing columns and what these are derived from."""

    features: FeatureSet
    requests: Requests
    only: list[str]
    memory_bytes: int
    progress: Progress

    def columns(self) -> list[str]:
        return event_columns(self.features)


def _computed(
    plan: _Plan, events: Events, place: Folder, key: str, parts: list[int]
) -> Iterator[tuple[int, BackfilledRows]]:
    """The rows of these parts, one after the other."""
    if not parts:
        return
    folder = place.path / key / "spill"
    spill = Spill(folder, plan.memory_bytes) if folder.exists() else None
    if spill is None or not spill.is_done("events"):
        held, rest = _read(plan, events, int(np.diff(place.manifest.row_cuts).max()))
        if rest is None:
            history = History(plan.features, pa.concat_tables(held), only=plan.only)
            for part in parts:
                yield part, history.rows(_requests_of(plan, place, part))
            return
        spill = Spill(folder, plan.memory_bytes)
        spill.cut({one.field for one in partitions(plan.features)}, chain(held, rest))
        del held
    for number, partition in enumerate(partitions(plan.features)):
        _compute(plan, spill, number, partition)
    for part in parts:
        asked = _requests_of(plan, place, part)
        requests, rows = (
            slice(*place.manifest.cuts[part : part + 2]),
            slice(*place.manifest.row_cuts[part : part + 2]),
        )
        held = spill.held("requests", requests) | spill.held("rows", rows)
        by_spot = {one: values for one, values in held.items() if isinstance(one, Spot)}
        of_runs = {one: values for one, values in held.items() if isinstance(one, str)}
        lanes = PastLanes(plan.features, None, asked, precomputed=by_spot, run_columns=of_runs)
        steps = enumerate(plan.features.layout.steps)
        sequences = {
            one.name: spill.sequence(step, requests.start, requests.stop)
            for step, one in steps
            if one.kind == "sequence"
        }
        yield part, finish_columns(plan.features, lanes, sequences, plan.only)


def _read(
    plan: _Plan, events: Events, rows_of_part: int
) -> tuple[list[pa.Table], Iterator[pa.Table] | None]:
    """The tables up to what memory holds, and the rest of them, None if there is none."""
    held: list[pa.Table] = []
    tables = (relevant_events(plan.features.layout, table) for table in _tables(events, plan.columns()))
    size = _row_bytes(plan.features) * rows_of_part
    for table in tables:
        held.append(table)
        size += _EVENT_FACTOR * table.nbytes
        if size > plan.memory_bytes:
            return held, tables
    return held or [ROUTED.empty_table().select(plan.columns())], None


def _compute(plan: _Plan, spill: Spill, number: int, partition: Partition) -> None:
    """The lanes of a partition's entities, shard by shard."""
    features = plan.features
    bytes_max = plan.memory_bytes // (2 * _EVENT_FACTOR)
    shards = spill.shards(partition.field, bytes_max)
    earlier = {spot: _whole(plan, spill, spot) for spot in _needed_of_others(features, partition)}
    bucket = _buckets(plan, earlier, partition)
    empty = ROUTED.empty_table().select(plan.columns())
    rows_max = max(1, plan.memory_bytes // (4 * _row_bytes(features, partition.entities)))
    for shard, buckets in enumerate(shards):
        mine = np.flatnonzero((bucket >= buckets.start) & (bucket < buckets.stop))
        if spill.size(partition.field, buckets) > bytes_max:
            _compute_by_time(
                plan, spill, f"{number}-{shard}", partition, buckets.start, mine, earlier
            )
            plan.progress(f"shards by {partition.field or 'everyone'}", shard + 1, len(shards))
            continue
        pieces = [mine[start : start + rows_max] for start in range(0, len(mine), rows_max)]
        named = [f"{number}-{shard}-{piece}" for piece in range(len(pieces))]
        if not all(spill.is_done(name) for name in named):
            frames = Frames(spill.events(partition.field, buckets, empty))
            for name, piece in zip(named, pieces, strict=True):
                if not spill.is_done(name):
                    _put(plan, spill, partition, frames, piece, name, earlier)
                    spill.done(name)
        plan.progress(f"shards by {partition.field or 'everyone'}", shard + 1, len(shards))


def _compute_by_time(
    plan: _Plan,
    spill: Spill,
    name: str,
    partition: Partition,
    bucket: int,
    mine: Intps,
    earlier: Mapping[Spot, npt.NDArray],
) -> None:
    """The same of a bucket that does not fit into memory: its events in order of time, and the
    requests with them.
    """
    if spill.is_done(name) or not len(mine):
        return
    features, requests = plan.features, plan.requests
    at = requests.row_request[mine] if partition.of_rows else mine
    t, p = requests.t[at], requests.p[at]
    start = secrets.randbits(64)
    empty = ROUTED.empty_table().select(plan.columns())
    carried = CompactedHistory(
        [features.layout.entities[one] for one in partition.entities],
        _keys(plan, partition, mine, earlier, start),
        empty,
    )
    cuts = spill.cut_by_time(partition.field, bucket, plan.memory_bytes // (4 * _EVENT_FACTOR))
    stretch = np.searchsorted(cuts, t)
    rows_max = max(1, plan.memory_bytes // (8 * _row_bytes(features, partition.entities)))
    for place in range(len(cuts) + 1):
        frames = Frames(spill.stretch(place, carried.events), start)
        here = mine[stretch == place]
        for piece, first in enumerate(range(0, len(here), rows_max)):
            named = f"{name}-{place}-{piece}"
            if not spill.is_done(named):
                _put(
                    plan,
                    spill,
                    partition,
                    frames,
                    here[first : first + rows_max],
                    named,
                    earlier,
                    carried,
                )
                spill.done(named)
        later = stretch > place
        if not later.any():
            break
        carried.advance(frames, int(t[later].min()), int(p[later].min()))
        plan.progress(f"stretches by {partition.field or 'everyone'}", place + 1, len(cuts) + 1)
    spill.done(name)


def _keys(
    plan: _Plan, partition: Partition, mine: Intps, earlier: Mapping[Spot, npt.NDArray], start: int
) -> dict[int, npt.NDArray]:
    """Of each entity of a partition, the keys that its requests, or rows, ask about."""
    asked, rows, held = _asked_of(plan, partition, mine, earlier)
    nothing = Frames(ROUTED.empty_table().select(plan.columns()), start)
    lanes = PastLanes(
        plan.features, nothing, plan.requests.take(asked, rows), entities=(), precomputed=held
    )
    return {entity: lanes.keys_of(entity) for entity in partition.entities}


def _asked_of(
    plan: _Plan, partition: Partition, mine: Intps, earlier: Mapping[Spot, npt.NDArray]
) -> tuple[Intps, Intps, dict[Spot, npt.NDArray]]:
    """The requests and rows of some requests, or rows, and their lanes that were computed earlier."""
    requests = plan.requests
    if partition.of_rows:
        rows, asked = mine, np.unique(requests.row_request[mine])
    else:
        first, last = (
            np.searchsorted(requests.row_request, mine),
            np.searchsorted(requests.row_request, mine, side="right"),
        )
        rows, asked = ragged(first, last)[0], mine
    by_row = [is_by_row(one) for one in plan.features.layout.entities]
    return (
        asked,
        rows,
        {spot: values[rows if by_row[spot.entity] else asked] for spot, values in earlier.items()},
    )


def _needed_of_others(features: FeatureSet, partition: Partition) -> set[Spot]:
    """The lanes of other partitions' entities that this one's keys, or what was seen, are made of."""
    found = {
        spot
        for (entity, _), spot in features.composite_spots.items()
        if entity in partition.entities
    }
    found |= {
        spot
        for step in _steps_of(features, partition)
        if step.operation == "seen"
        for spot in step.spots[1:]
    }
    return {spot for spot in found if spot.entity not in partition.entities}


def _steps_of(features: FeatureSet, partition: Partition) -> list[Step]:
    return [
        step
        for step in features.layout.steps
        if step.spots and step.spots[0].entity in partition.entities
    ]


def _whole(plan: _Plan, spill: Spill, spot: Spot) -> npt.NDArray:
    """A lane at all requests, or rows."""
    by_row = is_by_row(plan.features.layout.entities[spot.entity])
    size = len(plan.requests.row_request) if by_row else len(plan.requests.t)
    return spill.held("rows" if by_row else "requests", slice(0, size), only=spot).get(
        spot, np.zeros(size, np.int64)
    )


def _put(
    plan: _Plan,
    spill: Spill,
    partition: Partition,
    frames: Frames,
    mine: Intps,
    name: str,
    earlier: Mapping[Spot, npt.NDArray],
    carried: CompactedHistory | None = None,
) -> None:
    """The lanes of some requests, or rows, of a shard."""
    features = plan.features
    asked, rows, held = _asked_of(plan, partition, mine, earlier)
    by_row = [is_by_row(one) for one in features.layout.entities]
    lanes = PastLanes(
        features,
        frames,
        plan.requests.take(asked, rows),
        entities=partition.entities,
        precomputed=held,
        compacted=carried,
    )
    of_rows: dict[Spot | str, npt.NDArray] = {}
    of_requests: dict[Spot | str, npt.NDArray] = {}
    for entity in partition.entities:
        for spot, values in lanes.lanes_of(entity).items():
            (of_rows if by_row[entity] else of_requests)[spot] = values
    for step in _steps_of(features, partition):
        if step.operation in OF_RUN:
            (of_rows if step.operation == "seen" else of_requests)[step.name] = lanes.run_values(step)
        elif step.kind == "sequence":
            spill.put_sequence(features.layout.steps.index(step), name, asked, lanes.sequence(step))
    for kind, here, columns in (("rows", rows, of_rows), ("requests", asked, of_requests)):
        if columns:
            spill.put(kind, name, here, columns)


def _buckets(plan: _Plan, earlier: Mapping[Spot, npt.NDArray], partition: Partition) -> Intps:
    """The bucket of each row, or of each request."""
    features, requests = plan.features, plan.requests
    count = len(requests.row_request) if partition.of_rows else len(requests.t)
    if partition.field is None:
        return np.zeros(count, np.intp)
    layout = features.layout.entities[partition.entities[0]]
    place = layout.entity.fields.index(partition.field)
    keyed = (
        partial(identities, start=START) if has_text_keys(Entity((partition.field,))) else hashes
    )
    lanes = PastLanes(features, None, requests, entities=(), precomputed=dict(earlier))
    return buckets_of(lanes.key_field(layout, place, partition.of_rows, keyed))


def _requests_of(plan: _Plan, place: Folder, part: int) -> Requests:
    start, stop = place.manifest.cuts[part : part + 2]
    return plan.requests.part(start, stop, slice(*place.manifest.row_cuts[part : part + 2]))


def _row_bytes(features: FeatureSet, entities: Sequence[int] | None = None) -> int:
    """About what a row takes while it, or these entities of it, is computed: its lanes, those of
    the longest sequence, its columns.
    """
    layout = features.layout
    lanes = sum(
        one.reading_lanes for one in layout.entities if entities is None or one.index in entities
    )
    return 16 * (lanes + len(layout.steps) + 16)


def _untold(stage: str, done: int, total: int | None) -> None:
    pass


def definitions(features: FeatureSet, only: Sequence[str] | None = None) -> dict[str, str]:
    """Each column with what it is defined by: the schema hash of a set of it, and of what it is
    derived from, alone.
    """
    names = [feature.name for feature in features.features] if only is None else only
    return {name: subset(features, [name]).schema_hash for name in names}


def _chosen(rows: BackfilledRows, names: Mapping[str, str]) -> BackfilledRows:
    """Without the sequences and categories that only served a derived column."""
    kept = [index for index, name in enumerate(rows.categorical_names) if name in names]
    return replace(
        rows,
        categorical=rows.categorical[:, kept],
        categorical_names=tuple(rows.categorical_names[index] for index in kept),
        sequences={name: one for name, one in rows.sequences.items() if name in names},
    )


def _tables(events: Events, columns: Sequence[str]) -> Iterator[pa.Table]:
    if isinstance(events, ds.Dataset):
        return (
            pa.Table.from_batches([batch]) for batch in events.to_batches(columns=list(columns))
        )
    return events(columns)


def _asked(requests: Requests, events: Events, version: str, rows_max: int) -> Manifest:
    rows = len(requests.row_request)
    size = max(1, min(1 << 20, rows_max))
    first = requests.row_request[np.arange(size, rows, size)] if rows else np.zeros(0, np.intp)
    cuts = np.unique(np.concatenate(([0], first, [len(requests.t)]))).astype(np.int64)
    row_cuts = np.searchsorted(requests.row_request, cuts)
    named = version or (
        "\n".join(sorted(events.files)) if isinstance(events, ds.FileSystemDataset) else ""
    )
    return Manifest(inputs_of(requests, named), cuts.tolist(), row_cuts.tolist())


def inputs_of(requests: Requests, version: str) -> str:
    """A hash of the requests and the name of the events: what the columns of a folder are the
    answer to.
    """
    return _hash(version, *_bytes_of(requests))


def _bytes_of(requests: Requests) -> Iterator[bytes]:
    for field in fields(requests):
        value = getattr(requests, field.name)
        yield f"{field.name}:{0 if value is None else len(value)}".encode()
        if isinstance(value, np.ndarray):
            yield value.tobytes()
        elif value is not None:  # by value: the same rows come in other buffers out of other files
            array = value if isinstance(value, pa.Array | pa.ChunkedArray) else pa.array(value)
            numbers = pa.types.is_integer(array.type) or pa.types.is_floating(array.type)
            yield (
                floats(pa.chunked_array(array)) if numbers else identities(array, start=START)
            ).tobytes()


def _hash(*parts: str | bytes) -> str:
    state = blake2b(digest_size=8, person=b"tb-backfill")
    for part in parts:
        state.update(part.encode() if isinstance(part, str) else part)
        state.update(b"\0")
    return state.hexdigest()

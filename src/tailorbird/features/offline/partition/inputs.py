"""Inputs of a backfill: its columns and rows, hashed so that only the same backfill resumes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from tailorbird.features.event_columns.fields import to_floats
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.offline.backfill import subset_features
from tailorbird.features.offline.bulk import BackfilledRows, Requests
from tailorbird.features.offline.hashing import identify_texts
from tailorbird.features.offline.parts import Manifest
from tailorbird.features.offline.spill import IDENTITY_SEED

# The events of a lake: a dataset, or a function from column names to the events with these,
# in any order, table by table. It is called more than once, and gives the same events each time.
Events = ds.Dataset | Callable[[Sequence[str]], Iterator[pa.Table]]


def row_bytes(features: FeatureSet, entities: Sequence[int] | None = None) -> int:
    """Estimate the memory of a row while it is computed: lanes, the longest sequence, columns."""
    layout = features.layout
    lanes = sum(
        entity.reading_lanes
        for entity in layout.entities
        if entities is None or entity.index in entities
    )
    return 16 * (lanes + len(layout.steps) + 16)


def no_progress(stage: str, done: int, total: int | None) -> None:
    pass


def definitions(features: FeatureSet, only_columns: Sequence[str] | None = None) -> dict[str, str]:
    """Return each column's definition: the schema hash of it and of what it derives from."""
    names = (
        [feature.name for feature in features.features] if only_columns is None else only_columns
    )
    return {name: subset_features(features, [name]).schema_hash for name in names}


def select_columns(rows: BackfilledRows, names: Mapping[str, str]) -> BackfilledRows:
    """Return the rows without sequences and categories that only served a derived column."""
    own_indices = [index for index, name in enumerate(rows.categorical_names) if name in names]
    return replace(
        rows,
        categorical=rows.categorical[:, own_indices],
        categorical_names=tuple(rows.categorical_names[index] for index in own_indices),
        sequences={name: sequence for name, sequence in rows.sequences.items() if name in names},
    )


def to_tables(events: Events, columns: Sequence[str]) -> Iterator[pa.Table]:
    if isinstance(events, ds.Dataset):
        return (
            pa.Table.from_batches([batch]) for batch in events.to_batches(columns=list(columns))
        )
    return events(columns)


def make_manifest(requests: Requests, events: Events, version: str, rows_max: int) -> Manifest:
    row_count = len(requests.row_request)
    rows_per_part = max(1, min(1 << 20, rows_max))
    part_starts = (
        requests.row_request[np.arange(rows_per_part, row_count, rows_per_part)]
        if row_count
        else np.zeros(0, np.intp)
    )
    part_bounds = np.unique(np.concatenate(([0], part_starts, [len(requests.t)]))).astype(np.int64)
    row_cuts = np.searchsorted(requests.row_request, part_bounds)
    events_name = version or (
        "\n".join(sorted(events.files)) if isinstance(events, ds.FileSystemDataset) else ""
    )
    return Manifest(hash_inputs(requests, events_name), part_bounds.tolist(), row_cuts.tolist())


def hash_inputs(requests: Requests, version: str) -> str:
    """Return a hash of the requests and events' name, which identifies a folder's inputs."""
    return hash_of(version, *_request_bytes(requests))


_HASHED_NAMES = {"log_position": "p"}  # as in the hashes of existing folders


def _request_bytes(requests: Requests) -> Iterator[bytes]:
    for field in fields(requests):
        value = getattr(requests, field.name)
        hashed_name = _HASHED_NAMES.get(field.name, field.name)
        yield f"{hashed_name}:{0 if value is None else len(value)}".encode()
        if isinstance(value, np.ndarray):
            yield value.tobytes()
        elif value is not None:  # Hash by value: buffers of equal rows differ between files.
            array = value if isinstance(value, pa.Array | pa.ChunkedArray) else pa.array(value)
            is_numeric = pa.types.is_integer(array.type) or pa.types.is_floating(array.type)
            yield (
                to_floats(pa.chunked_array(array))
                if is_numeric
                else identify_texts(array, seed=IDENTITY_SEED)
            ).tobytes()


def hash_of(*parts: str | bytes) -> str:
    hasher = blake2b(digest_size=8, person=b"tb-backfill")
    for part in parts:
        hasher.update(part.encode() if isinstance(part, str) else part)
        hasher.update(b"\0")
    return hasher.hexdigest()

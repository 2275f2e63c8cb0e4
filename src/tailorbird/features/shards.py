"""Backfills larger than memory: into a folder of Parquet parts, piece by piece, going on where one was cut short.

    requests ─► ranges of rows ─► one part each ─► folder (`features.parts`)

Columns that the folder has, as they are defined now and for the same events and requests, are not computed again: one feature more
computes that one alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from tailorbird.errors import UsageError
from tailorbird.features.backfill import History, event_columns, subset
from tailorbird.features.bulk import BackfilledRows, Requests
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.parts import Folder, Manifest, Part, read_manifest, read_parts

__all__ = ["Events", "Part", "backfill_to", "definitions", "read_manifest", "read_parts"]

# The events of a lake: a dataset, or a function from the names of columns to the events with those, in any order, table by table.
# It is called more than once, and gives the same events each time.
Events = ds.Dataset | Callable[[Sequence[str]], Iterator[pa.Table]]
Progress = Callable[[str, int, int | None], None]  # stage, done, of how many

MEMORY_BYTES = 2 << 30


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
    """Compute the features of past requests into `folder`, which `read_parts` reads. What is there already is kept.

    Args:
        requests: rows in order of their requests.
        memory_bytes: how much the computation may take beside the requests themselves.
        only: these columns only, by default all.
        version: names the events, as the version of a lake's table does: under another name all is computed again. Of a dataset, the
            names of its files are taken by default.
        progress: told of each stage how far it is.
    Raises:
        UsageError: `only` names no column; rows are not in order of their requests.
    """
    if np.any(np.diff(requests.row_request) < 0):
        raise UsageError("rows are not in order of their requests", where="requests.row_request", fix="sort them")
    wanted = definitions(features, only)
    place = Folder(Path(folder), _asked(requests, events, version, memory_bytes))
    missing = {name: one for name, one in wanted.items() if place.manifest.group_of(name, one) is None}
    if not missing:
        return place.path
    key = _hash(*(f"{name}={one}" for name, one in sorted(missing.items())))
    place.begin(key, missing)
    chosen = subset(features, list(missing))
    history: History | None = None
    for part in range(place.manifest.parts):
        if not place.has(key, part):
            history = history or History(features, pa.concat_tables(_tables(events, event_columns(chosen))), only=list(missing))
            start, stop = place.manifest.cuts[part : part + 2]
            rows = slice(*place.manifest.row_cuts[part : part + 2])
            place.write(key, part, _chosen(history.rows(requests.part(start, stop, rows)), missing))
        if progress is not None:
            progress("parts", part + 1, place.manifest.parts)
    place.end(key)
    return place.path


def definitions(features: FeatureSet, only: Sequence[str] | None = None) -> dict[str, str]:
    """Each column with what it is defined by: the schema hash of a set of it, and of what it is derived from, alone."""
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
        return (pa.Table.from_batches([batch]) for batch in events.to_batches(columns=list(columns)))
    return events(columns)


def _asked(requests: Requests, events: Events, version: str, memory_bytes: int) -> Manifest:
    rows = len(requests.row_request)
    size = max(1, min(1 << 20, memory_bytes // 2048))
    first = requests.row_request[np.arange(size, rows, size)] if rows else np.zeros(0, np.intp)
    cuts = np.unique(np.concatenate(([0], first, [len(requests.t)]))).astype(np.int64)
    row_cuts = np.searchsorted(requests.row_request, cuts)
    named = version or ("\n".join(sorted(events.files)) if isinstance(events, ds.FileSystemDataset) else "")
    return Manifest(_hash(named, *_bytes_of(requests)), cuts.tolist(), row_cuts.tolist())


def _bytes_of(requests: Requests) -> Iterator[bytes]:
    for field in fields(requests):
        value = getattr(requests, field.name)
        yield f"{field.name}:{0 if value is None else len(value)}".encode()
        if isinstance(value, np.ndarray):
            yield value.tobytes()
        elif value is not None:
            array = value.combine_chunks() if isinstance(value, pa.ChunkedArray) else pa.array(value)
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, pa.schema([("x", array.type)])) as writer:
                writer.write_batch(pa.record_batch([array], ["x"]))
            yield sink.getvalue().to_pybytes()


def _hash(*parts: str | bytes) -> str:
    state = blake2b(digest_size=8, person=b"tb-backfill")
    for part in parts:
        state.update(part.encode() if isinstance(part, str) else part)
        state.update(b"\0")
    return state.hexdigest()

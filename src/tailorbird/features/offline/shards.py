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

import shutil
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa

from tailorbird.errors import UsageError
from tailorbird.events.contract.schema import ROUTED
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.layout.layout import RecordLane
from tailorbird.features.offline.backfill import History, finish_columns, relevant_events, subset
from tailorbird.features.offline.bulk import BackfilledRows, Requests
from tailorbird.features.offline.lanes import PastLanes
from tailorbird.features.offline.partition.inputs import (
    Events,
    definitions,
    hash_of,
    make_manifest,
    no_progress,
    row_bytes,
    select_columns,
    to_tables,
)
from tailorbird.features.offline.partition.lanes import (
    EVENT_FACTOR,
    BackfillPlan,
    Progress,
    compute_partition,
)
from tailorbird.features.offline.parts import Folder
from tailorbird.features.offline.spill import Spill, order_partitions

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
        make_manifest(requests, events, version, memory_bytes // (2 * row_bytes(features))),
    )
    missing_columns = {
        name: definition
        for name, definition in definitions_.items()
        if parts.manifest.group_of(name, definition) is None
    }
    if not missing_columns:
        return parts.path
    key = hash_of(*(f"{name}={definition}" for name, definition in sorted(missing_columns.items())))
    parts.begin(key, missing_columns)
    plan = BackfillPlan(
        subset(features, list(missing_columns)),
        requests,
        list(missing_columns),
        memory_bytes,
        progress or no_progress,
    )
    pending = [part for part in range(parts.manifest.parts) if not parts.has_part(key, part)]
    for part, rows in _compute_parts(plan, events, parts, key, pending):
        parts.write(key, part, select_columns(rows, missing_columns))
        plan.progress("parts", part + 1, parts.manifest.parts)
    parts.end(key)
    shutil.rmtree(parts.path / key / "spill", ignore_errors=True)
    return parts.path


def _compute_parts(
    plan: BackfillPlan, events: Events, parts_folder: Folder, key: str, parts: list[int]
) -> Iterator[tuple[int, BackfilledRows]]:
    """Yield the rows of these parts, one after the other."""
    if not parts:
        return
    folder = parts_folder.path / key / "spill"
    spill = Spill(folder, plan.memory_bytes) if folder.exists() else None
    if spill is None or not spill.is_done("events"):
        tables, remaining_tables = _read_events(
            plan, events, int(np.diff(parts_folder.manifest.row_cuts).max())
        )
        if remaining_tables is None:
            history = History(plan.features, pa.concat_tables(tables), only=plan.only)
            for part in parts:
                yield part, history.rows(_part_requests(plan, parts_folder, part))
            return
        spill = Spill(folder, plan.memory_bytes)
        spill.write_buckets(
            {partition_.field for partition_ in order_partitions(plan.features)},
            chain(tables, remaining_tables),
        )
        del tables
    for number, partition in enumerate(order_partitions(plan.features)):
        compute_partition(plan, spill, number, partition)
    for part in parts:
        part_requests = _part_requests(plan, parts_folder, part)
        requests, rows = (
            slice(*parts_folder.manifest.cuts[part : part + 2]),
            slice(*parts_folder.manifest.row_cuts[part : part + 2]),
        )
        tables = spill.read_lanes("requests", requests) | spill.read_lanes("rows", rows)
        by_lane = {
            record_lane: values
            for record_lane, values in tables.items()
            if isinstance(record_lane, RecordLane)
        }
        run_columns = {name: values for name, values in tables.items() if isinstance(name, str)}
        lanes = PastLanes(
            plan.features, None, part_requests, precomputed=by_lane, run_columns=run_columns
        )
        steps = enumerate(plan.features.layout.steps)
        sequences = {
            layout_step.name: spill.read_sequence(index, requests.start, requests.stop)
            for index, layout_step in steps
            if layout_step.kind == "sequence"
        }
        yield part, finish_columns(plan.features, lanes, sequences, plan.only)


def _read_events(
    plan: BackfillPlan, events: Events, rows_of_part: int
) -> tuple[list[pa.Table], Iterator[pa.Table] | None]:
    """Return the tables that fit into memory, and the remaining ones, or None if there are none."""
    first_tables: list[pa.Table] = []
    tables = (
        relevant_events(plan.features.layout, table) for table in to_tables(events, plan.columns())
    )
    size = row_bytes(plan.features) * rows_of_part
    for table in tables:
        first_tables.append(table)
        size += EVENT_FACTOR * table.nbytes
        if size > plan.memory_bytes:
            return first_tables, tables
    return first_tables or [ROUTED.empty_table().select(plan.columns())], None


def _part_requests(plan: BackfillPlan, parts_folder: Folder, part: int) -> Requests:
    start, stop = parts_folder.manifest.cuts[part : part + 2]
    return plan.requests.slice_requests(
        start, stop, slice(*parts_folder.manifest.row_cuts[part : part + 2])
    )

"""Backfills larger than memory, into a folder of Parquet parts, resumable.

    events ─► split by keys ─► shard by shard: lanes ─► files ─► part by part: columns ─► folder
              (`spill`)        (`lanes`)                (`spill`)  (`finish`)          (`parts`)

Where the events fit into memory, requests are answered part by part. Columns that the folder has,
for the same definitions, events and requests, are not recomputed: adding a feature computes that
one alone. Where the events of one key do not fit (everyone's feature has a single key), they are
processed in order of time and compacted (`compaction`). Memory that the setting does not bound: the
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
from tailorbird.features.offline.backfill import (
    History,
    finish_columns,
    relevant_events,
    subset_features,
)
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
from tailorbird.features.offline.parts import BackfillFolder
from tailorbird.features.offline.spill import Spill, order_partitions

MEMORY_BYTES = 2 << 30


def backfill_to(
    features: FeatureSet,
    events: Events,
    requests: Requests,
    folder: Path,
    *,
    memory_bytes: int = MEMORY_BYTES,
    only_columns: Sequence[str] | None = None,
    version: str = "",
    progress: Progress | None = None,
) -> Path:
    """Compute the features of past requests into `folder`; `read_parts` reads them.

    Existing columns are reused.

    Args:
        requests: rows in order of their requests.
        memory_bytes: memory for the computation, besides the requests themselves.
        only_columns: compute these columns only, by default all.
        version: names the events, such as the version of a lake's table: another name recomputes
            everything. By default the file names of a dataset.
        progress: called with each stage and how far it is.
    Raises:
        UsageError: `only_columns` names no column; rows are not in order of their requests.
    """
    if np.any(np.diff(requests.row_request) < 0):
        raise UsageError(
            "rows are not in order of their requests", where="requests.row_request", fix="sort them"
        )
    definitions_ = definitions(features, only_columns)
    folder_of_parts = BackfillFolder(
        Path(folder),
        make_manifest(requests, events, version, memory_bytes // (2 * row_bytes(features))),
    )
    missing_columns = {
        name: definition
        for name, definition in definitions_.items()
        if folder_of_parts.manifest.group_of(name, definition) is None
    }
    if not missing_columns:
        return folder_of_parts.path
    group_key = hash_of(
        *(f"{name}={definition}" for name, definition in sorted(missing_columns.items()))
    )
    folder_of_parts.begin(group_key, missing_columns)
    plan = BackfillPlan(
        subset_features(features, list(missing_columns)),
        requests,
        list(missing_columns),
        memory_bytes,
        progress or no_progress,
    )
    pending_parts = [
        part
        for part in range(folder_of_parts.manifest.part_count)
        if not folder_of_parts.has_part(group_key, part)
    ]
    for part, rows in _compute_parts(plan, events, folder_of_parts, group_key, pending_parts):
        folder_of_parts.write(group_key, part, select_columns(rows, missing_columns))
        plan.progress("parts", part + 1, folder_of_parts.manifest.part_count)
    folder_of_parts.end(group_key)
    shutil.rmtree(folder_of_parts.path / group_key / "spill", ignore_errors=True)
    return folder_of_parts.path


def _compute_parts(
    plan: BackfillPlan,
    events: Events,
    parts_folder: BackfillFolder,
    group_key: str,
    parts: list[int],
) -> Iterator[tuple[int, BackfilledRows]]:
    """Yield the rows of these parts, one after the other."""
    if not parts:
        return
    folder = parts_folder.path / group_key / "spill"
    spill = Spill(folder, plan.memory_bytes) if folder.exists() else None
    if spill is None or not spill.is_done("events"):
        tables, remaining_tables = _read_events(
            plan, events, int(np.diff(parts_folder.manifest.row_cuts).max())
        )
        if remaining_tables is None:
            history = History(
                plan.features, pa.concat_tables(tables), only_columns=plan.only_columns
            )
            for part in parts:
                yield part, history.rows(_part_requests(plan, parts_folder, part))
            return
        spill = Spill(folder, plan.memory_bytes)
        spill.write_buckets(
            {partition_.field for partition_ in order_partitions(plan.features)},
            chain(tables, remaining_tables),
        )
        del tables
    for partition_number, partition in enumerate(order_partitions(plan.features)):
        compute_partition(plan, spill, partition_number, partition)
    for part in parts:
        part_requests = _part_requests(plan, parts_folder, part)
        request_span = slice(*parts_folder.manifest.cuts[part : part + 2])
        row_span = slice(*parts_folder.manifest.row_cuts[part : part + 2])
        spilled_columns = spill.read_lanes("requests", request_span) | spill.read_lanes(
            "rows", row_span
        )
        values_by_lane = {
            record_lane: values
            for record_lane, values in spilled_columns.items()
            if isinstance(record_lane, RecordLane)
        }
        run_columns = {
            name: values for name, values in spilled_columns.items() if isinstance(name, str)
        }
        lanes = PastLanes(
            plan.features, None, part_requests, precomputed=values_by_lane, run_columns=run_columns
        )
        steps = enumerate(plan.features.layout.steps)
        sequences = {
            layout_step.name: spill.read_sequence(index, request_span.start, request_span.stop)
            for index, layout_step in steps
            if layout_step.kind == "sequence"
        }
        yield part, finish_columns(plan.features, lanes, sequences, plan.only_columns)


def _read_events(
    plan: BackfillPlan, events: Events, rows_of_part: int
) -> tuple[list[pa.Table], Iterator[pa.Table] | None]:
    """Return the tables that fit into memory, and the remaining ones, or None if there are none."""
    first_tables: list[pa.Table] = []
    tables = (
        relevant_events(plan.features.layout, table) for table in to_tables(events, plan.columns())
    )
    used_bytes = row_bytes(plan.features) * rows_of_part
    for table in tables:
        first_tables.append(table)
        used_bytes += EVENT_FACTOR * table.nbytes
        if used_bytes > plan.memory_bytes:
            return first_tables, tables
    return first_tables or [ROUTED.empty_table().select(plan.columns())], None


def _part_requests(plan: BackfillPlan, parts_folder: BackfillFolder, part: int) -> Requests:
    start, stop = parts_folder.manifest.cuts[part : part + 2]
    return plan.requests.slice_requests(
        start, stop, slice(*parts_folder.manifest.row_cuts[part : part + 2])
    )

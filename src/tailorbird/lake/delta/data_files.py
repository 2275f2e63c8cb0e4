"""Data files of a table: rows split by day, as Parquet, with statistics in Delta's format.
`lake.delta.table` commits them.
"""

import hashlib
import json
import uuid
from collections.abc import Iterator
from datetime import date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake.transaction import AddAction, RemoveAction

from tailorbird import faults
from tailorbird.events.clock import DAY
from tailorbird.lake.delta.vacuum import FILE_PREFIX
from tailorbird.lake.files import durable
from tailorbird.lake.files.ledger import LedgerFile
from tailorbird.lake.tables import TableSpec
from tailorbird.storage_paths import StoragePath

_EPOCH_DATE = date(1970, 1, 1)
_EPOCH_DATETIME = datetime(1970, 1, 1)
_ROW_GROUP_ROWS = 128 * 1024
_SORTED_GROUP_ROWS = 32 * 1024


def is_sorted(file: pq.ParquetFile, spec: TableSpec) -> bool:
    """Return whether a file is sorted by person. Only then does that column have statistics."""
    if (
        not spec.person_columns
        or not file.metadata.num_row_groups
        or spec.person_columns[0] in spec.statistics_columns
    ):
        return False
    group = file.metadata.row_group(0)
    columns = [group.column(index) for index in range(group.num_columns)]
    return any(
        column.path_in_schema == spec.person_columns[0] and column.is_stats_set
        for column in columns
    )


def write_files(
    table_path: StoragePath,
    rows: pa.Table,
    spec: TableSpec,
    version: int,
    now: int,
    *,
    data_change: bool = True,
    sort_columns: tuple[str, ...] = (),
) -> tuple[list[LedgerFile], list[AddAction | RemoveAction]]:
    """Write rows durably as the data files of a version, and return them with their commit actions.

    Args:
        now: time of the commit, microseconds.
        data_change: whether the rows are new, rather than moved from other files.
        sort_columns: columns that the rows are sorted by.
    """
    files: list[LedgerFile] = []
    actions: list[AddAction | RemoveAction] = []
    folders: set[StoragePath] = set()
    for partition_value, partition_rows in split_by_partition(rows, spec):
        folder = (
            f"{spec.partition_column}={partition_value or '__HIVE_DEFAULT_PARTITION__'}/"
            if spec.partition_column
            else ""
        )
        token = uuid.uuid4().hex[:8]
        name = f"{folder}{FILE_PREFIX}{version:08d}-{len(files):04d}-{token}.parquet"
        path = table_path / name
        if path.parent not in folders:
            durable.make_folder(path.parent)
            folders.add(path.parent)
        parquet_bytes = encode_parquet(partition_rows, spec, sort_columns)
        durable.write_new(path, parquet_bytes)
        files.append(
            LedgerFile(
                name,
                len(parquet_bytes),
                hashlib.sha256(parquet_bytes).hexdigest(),
                partition_rows.num_rows,
            )
        )
        partition_values = {spec.partition_column: partition_value} if spec.partition_column else {}
        actions.append(
            AddAction(
                name,
                len(parquet_bytes),
                partition_values,
                now // 1000,
                data_change,
                encode_statistics(partition_rows, spec),
            )
        )
    faults.fire_if_armed("lake.before_folder_sync")
    for folder_path in folders:
        durable.sync_folder(folder_path)
    return files, actions


def split_by_partition(rows: pa.Table, spec: TableSpec) -> Iterator[tuple[str | None, pa.Table]]:
    """Yield the rows of each day: the partition value as text, and a table with the columns of a
    data file.
    """
    if spec.partition_column is None:
        yield None, rows.select(spec.schema.names)
        return
    days = np.asarray(rows.column("ts").cast(pa.int64()).to_numpy(zero_copy_only=False)) // DAY
    columns = rows.select(spec.file_schema.names)
    unique_days, counts = np.unique(days, return_counts=True)
    if len(unique_days) > 1 and np.any(days[1:] < days[:-1]):
        columns = columns.take(pa.array(np.argsort(days, kind="stable")))
    start = 0
    for day, count in zip(unique_days.tolist(), counts.tolist(), strict=True):
        yield (_EPOCH_DATE + timedelta(days=day)).isoformat(), columns.slice(start, count)
        start += count


def encode_parquet(
    rows: pa.Table, spec: TableSpec, sort_columns: tuple[str, ...] = ()
) -> memoryview:
    """Encode rows as Parquet, with statistics for the allowed columns and the first sort column.

    Statistics of the sort column are in the file only, next to its values, so an erasure that
    rewrites the file removes them.
    """
    buffer = pa.BufferOutputStream()
    pq.write_table(
        rows.cast(spec.file_schema),
        buffer,
        compression="zstd",
        compression_level=1,
        row_group_size=_SORTED_GROUP_ROWS if sort_columns else _ROW_GROUP_ROWS,
        write_statistics=list(dict.fromkeys((*spec.statistics_columns, *sort_columns[:1]))),
        store_schema=False,
    )
    return memoryview(buffer.getvalue())


def encode_statistics(rows: pa.Table, spec: TableSpec) -> str:
    """Return a file's statistics as Delta's JSON: row count, and minimum, maximum and null count of
    the allowed columns.
    """
    minima: dict[str, object] = {}
    maxima: dict[str, object] = {}
    null_counts: dict[str, int] = {}
    for name in spec.statistics_columns:
        column = rows.column(name)
        null_counts[name] = column.null_count
        if column.null_count == len(column):
            continue
        is_time = pa.types.is_timestamp(column.type)
        bounds = pc.min_max(column.cast(pa.int64()) if is_time else column)
        minima[name], maxima[name] = (
            _to_iso_timestamp(bounds[side].as_py()) if is_time else bounds[side].as_py()
            for side in ("min", "max")
        )
    return json.dumps(
        {
            "numRecords": rows.num_rows,
            "minValues": minima,
            "maxValues": maxima,
            "nullCount": null_counts,
        }
    )


def _to_iso_timestamp(time_us: int) -> str:
    # Floating-point division would not be exact over the full range of dates.
    return (_EPOCH_DATETIME + timedelta(microseconds=time_us)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

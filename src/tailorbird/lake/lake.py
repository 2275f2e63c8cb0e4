"""Read the lake: tables as Arrow, restricted to columns and a time span, and SQL. Never writes.

It reads the current versions, or earlier ones (`lake.delta.versions`): `Lake(path,
versions=versions_of(path))` reads the same rows for ever.

Times are int64 microseconds; `ts_from` is inclusive, `ts_to` exclusive. Rows come in no particular
order.

>>> from pathlib import Path
>>> Lake(Path("no-such-lake")).exists("events")
False
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, timedelta

import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import DeltaTable

from tailorbird.errors import NotReadyError, TailorbirdError, UsageError
from tailorbird.events.clock import DAY
from tailorbird.events.contract.schema import ROUTED, TIME_TYPE
from tailorbird.lake.delta.connection import delta_table
from tailorbird.lake.delta.corruption import find_corrupt_file_error, translate_read_errors
from tailorbird.lake.delta.recovery import translate_open_errors
from tailorbird.lake.delta.versions import TableVersion, version_filter, versions_of
from tailorbird.lake.query import run_query
from tailorbird.lake.tables import TABLES
from tailorbird.storage_paths import StoragePath

_EPOCH_DATE = date(1970, 1, 1)


class Lake:
    """A reader of the tables below `path`, each as of its latest commit at the time of the call.

    Use one per thread.

    Args:
        versions: read these versions instead; other tables do not exist then.

    Raises:
        NotReadyError: there is no such table yet.
        UsageError: there is no table or column of that name.
        DamageError: a file of the table is corrupt or missing; names it.
    """

    def __init__(
        self, path: StoragePath, *, versions: Mapping[str, TableVersion] | None = None
    ) -> None:
        self.path = path
        self.versions = versions
        self._tables_by_name: dict[str, DeltaTable] = {}

    def pin_versions(self) -> "Lake":
        """Return this lake at its current versions, or itself if it has fixed versions."""
        return (
            self if self.versions is not None else Lake(self.path, versions=versions_of(self.path))
        )

    def exists(self, name: str) -> bool:
        """Return whether a table exists."""
        if self.versions is not None and name not in self.versions:
            return False
        delta_log = self.path / name / "_delta_log"
        return (delta_log / f"{0:020d}.json").is_file() or _has_commit(delta_log)

    def version(self, name: str) -> int:
        """Return the latest version of a table."""
        return self._open_table(name).version()

    def count(self, name: str) -> int:
        """Return the number of rows of a table, from its log alone if read as of now."""
        return (
            self._open_table(name).count()
            if self.versions is None
            else self._count_rows(name, self._with_version_filter(name, None))
        )

    def table(
        self, name: str, columns: Sequence[str] | None = None, where: ds.Expression | None = None
    ) -> pa.Table:
        """Return a table's rows, all columns by default."""
        column_names = (
            list(columns) if columns is not None else TABLES[self._require_name(name)].schema.names
        )
        unknown_columns = [
            column
            for column in column_names
            if column not in TABLES[self._require_name(name)].schema.names
        ]
        if unknown_columns:
            raise UsageError(
                f"table {name} has no column {unknown_columns[0]!r}",
                fix=f"its columns: {', '.join(TABLES[name].schema.names)}",
            )
        with self._open_dataset(name) as dataset:
            return dataset.to_table(
                columns=column_names, filter=self._with_version_filter(name, where)
            )

    def batches(
        self, name: str, columns: Sequence[str], where: ds.Expression | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield a table's rows in batches, for results larger than memory."""
        with self._open_dataset(self._require_name(name)) as dataset:
            yield from dataset.to_batches(
                columns=list(columns), filter=self._with_version_filter(name, where)
            )

    def count_matching(self, name: str, where: ds.Expression) -> int:
        """Return the number of rows that pass a filter, without loading them."""
        return self._count_rows(name, self._with_version_filter(name, where))

    def events(
        self,
        columns: Sequence[str] | None = None,
        ts_from: int | None = None,
        ts_to: int | None = None,
    ) -> pa.Table:
        """Return the events in [ts_from, ts_to), by default with the columns of
        `events.contract.schema.ROUTED`.
        """
        return self.table(
            "events",
            columns if columns is not None else ROUTED.names,
            time_filter("day", ts_from, ts_to),
        )

    def responses(
        self,
        columns: Sequence[str] | None = None,
        ts_from: int | None = None,
        ts_to: int | None = None,
    ) -> pa.Table:
        """Return the answers in [ts_from, ts_to)."""
        return self.table("answers", columns, time_filter(None, ts_from, ts_to))

    def sql(self, query: str) -> pa.Table:
        """Run one SELECT, WITH, SHOW, DESCRIBE or EXPLAIN over the current tables."""
        if self.versions is not None:
            raise UsageError(
                "SQL reads the lake as it is now",
                fix="read a past version with `table`, or tailorbird lake events --at-version",
            )
        tables = {name: self._open_table(name) for name in TABLES if self.exists(name)}
        if not tables:
            raise self._empty_lake_error()
        return run_query(query, tables, self._find_corrupt_file_error)

    def row_counts_by_file(self, name: str, version: int) -> dict[str, int]:
        """Return the row counts of a table's data files at a version, by path below its folder."""
        delta = delta_table(self.path / self._require_name(name), version)
        actions = pa.table(delta.get_add_actions())
        return dict(
            zip(
                actions.column("path").to_pylist(),
                actions.column("num_records").to_pylist(),
                strict=True,
            )
        )

    def newest_log_position(self) -> int:
        """Return the last routed position in `events` by the ledger alone, or 0."""
        versions = versions_of(self.path) if self.versions is None else self.versions
        return (
            max(0, versions["events"].positions.get("routed", 0) - 1) if "events" in versions else 0
        )

    def last_position_by_day(self) -> dict[int, int]:
        """Return the last routed position of each day (since 1970) of events, by the log alone."""
        file_statistics = pa.table(self._open_table("events").get_add_actions(flatten=True))
        days, last_positions = (
            file_statistics[name].to_pylist() for name in ("partition.day", "max.p")
        )
        last_positions_by_day: dict[int, int] = {}
        for day, log_position in zip(
            ((day - _EPOCH_DATE).days for day in days), last_positions, strict=True
        ):
            last_positions_by_day[day] = max(log_position or 0, last_positions_by_day.get(day, 0))
        return last_positions_by_day

    def events_of_days(
        self, days: Sequence[int], end_position: int, columns: Sequence[str]
    ) -> pa.Table:
        """Return the events of these days (since 1970) with a position below `end_position`."""
        day_values = pa.array(list(days), pa.int32()).cast(pa.date32())
        return self.table(
            "events", columns, ds.field("day").isin(day_values) & (ds.field("p") < end_position)
        )

    def _require_name(self, name: str) -> str:
        if name not in TABLES:
            raise UsageError(f"there is no table {name!r}", fix=f"the tables: {', '.join(TABLES)}")
        return name

    def _open_table(self, name: str) -> DeltaTable:
        if not self.exists(self._require_name(name)):
            raise self._empty_lake_error()
        if self.versions is not None and version_filter(name, self.versions[name]) is None:
            return self._table_at(name, self.versions[name].version)
        with translate_open_errors(self.path, name):
            if name in self._tables_by_name:
                self._tables_by_name[name].update_incremental()
            else:
                self._tables_by_name[name] = delta_table(self.path / name)
        return self._tables_by_name[name]

    def _table_at(self, name: str, version: int) -> DeltaTable:
        if name not in self._tables_by_name:
            try:
                self._tables_by_name[name] = delta_table(self.path / name, version)
            except Exception as error:  # deltalake raises what it likes
                raise NotReadyError(
                    f"version {version} of table {name} is no longer kept",
                    where=str(self.path / name),
                    fix="a longer lake.history keeps versions of this table longer",
                ) from error
        return self._tables_by_name[name]

    @contextmanager
    def _open_dataset(self, name: str) -> Iterator[ds.Dataset]:
        """Open a table's files for reading; an error within names the corrupt file."""
        table = self._open_table(name)
        with translate_read_errors(self.path, name, lambda: _data_file_paths(table)):
            yield table.to_pyarrow_dataset(schema=TABLES[name].schema)

    def _find_corrupt_file_error(self, message: str) -> TailorbirdError | None:
        """Return the error about the corrupt file that made a query fail, or None."""
        errors = (
            find_corrupt_file_error(self.path, name, _data_file_paths(table), message)
            for name, table in self._tables_by_name.items()
        )
        return next((error for error in errors if error is not None), None)

    def _count_rows(self, name: str, where: ds.Expression | None) -> int:
        with self._open_dataset(name) as dataset:
            return dataset.count_rows(filter=where)

    def _with_version_filter(self, name: str, where: ds.Expression | None) -> ds.Expression | None:
        filter_of_version = (
            version_filter(name, self.versions[name]) if self.versions is not None else None
        )
        return (
            where
            if filter_of_version is None
            else filter_of_version
            if where is None
            else where & filter_of_version
        )

    def _empty_lake_error(self) -> NotReadyError:
        return NotReadyError(
            "there is nothing in the lake yet",
            where=str(self.path),
            fix="tailorbird import FORMAT PATH, or tailorbird up",
        )


def _data_file_paths(table: DeltaTable) -> list[str]:
    return pa.table(table.get_add_actions()).column("path").to_pylist()


def _has_commit(delta_log: StoragePath) -> bool:
    """Return whether a log that no longer begins at 0 has a commit."""
    return delta_log.is_dir() and any(entry.name.endswith(".json") for entry in delta_log.iterdir())


def time_filter(
    day_column: str | None = "day", ts_from: int | None = None, ts_to: int | None = None
) -> ds.Expression | None:
    """Return the filter for a span of `ts`, with the partition column so that files are skipped."""
    conditions: list[ds.Expression] = []
    if ts_from is not None:
        conditions.append(ds.field("ts") >= pa.scalar(ts_from, TIME_TYPE))
        if day_column is not None:
            conditions.append(
                ds.field(day_column)
                >= pa.scalar(_EPOCH_DATE + timedelta(days=ts_from // DAY), pa.date32())
            )
    if ts_to is not None:
        conditions.append(ds.field("ts") < pa.scalar(ts_to, TIME_TYPE))
        if day_column is not None:
            conditions.append(
                ds.field(day_column)
                <= pa.scalar(_EPOCH_DATE + timedelta(days=(ts_to - 1) // DAY), pa.date32())
            )
    where: ds.Expression | None = None
    for condition in conditions:
        where = condition if where is None else where & condition
    return where

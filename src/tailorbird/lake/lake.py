"""Reading the lake: tables as Arrow, with only the columns and the time that are asked for; SQL. It
never writes.

As of now, or as of versions that were noted before (`lake.versions`): `Lake(path,
at=versions_of(path))` reads the same rows for ever.

Times are int64 microseconds, from inclusive, to exclusive. Rows come in no particular order.

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
from tailorbird.events.schema import ROUTED, TIME
from tailorbird.lake.check import opened_whole
from tailorbird.lake.damage import blamed, read_whole
from tailorbird.lake.opening import delta_table
from tailorbird.lake.query import run_query
from tailorbird.lake.tables import TABLES
from tailorbird.lake.versions import TableVersion, rows_of, versions_of
from tailorbird.places import Place

_EPOCH = date(1970, 1, 1)


class Lake:
    """The tables below `path`, each as of its newest commit at the time of the call. For one
    thread; open one each.

    Args:
        at: read these versions instead; a table that is not among them is not there.
    Raises:
        NotReadyError: there is no such table yet.
        UsageError: a table or a column of that name is not known.
        DamageError: a file of the table is damaged or gone; names it.
    """

    def __init__(self, path: Place, *, at: Mapping[str, TableVersion] | None = None) -> None:
        self.path = path
        self.at = at
        self._open: dict[str, DeltaTable] = {}

    def pinned(self) -> "Lake":
        """The same lake as of now, whatever is loaded from here on; itself, if it is as of versions
        already.
        """
        return self if self.at is not None else Lake(self.path, at=versions_of(self.path))

    def exists(self, name: str) -> bool:
        """Whether the table was made."""
        if self.at is not None and name not in self.at:
            return False
        log = self.path / name / "_delta_log"
        return (log / f"{0:020d}.json").is_file() or _any_commit(log)

    def version(self, name: str) -> int:
        """The newest version of a table."""
        return self._table(name).version()

    def count(self, name: str) -> int:
        """The rows of a table, from its log alone where it is read as of now."""
        return (
            self._table(name).count()
            if self.at is None
            else self._rows(name, self._only(name, None))
        )

    def table(
        self, name: str, columns: Sequence[str] | None = None, where: ds.Expression | None = None
    ) -> pa.Table:
        """A table's rows, all columns unless said."""
        names = list(columns) if columns is not None else TABLES[self._known(name)].schema.names
        unknown = [
            column for column in names if column not in TABLES[self._known(name)].schema.names
        ]
        if unknown:
            raise UsageError(
                f"table {name} has no column {unknown[0]!r}",
                fix=f"its columns: {', '.join(TABLES[name].schema.names)}",
            )
        with self._whole(name) as dataset:
            return dataset.to_table(columns=names, filter=self._only(name, where))

    def batches(
        self, name: str, columns: Sequence[str], where: ds.Expression | None = None
    ) -> Iterator[pa.RecordBatch]:
        """A table's rows piece by piece, for what is larger than memory."""
        with self._whole(self._known(name)) as dataset:
            yield from dataset.to_batches(columns=list(columns), filter=self._only(name, where))

    def rows(self, name: str, where: ds.Expression) -> int:
        """How many rows of a table a filter leaves, without loading them."""
        return self._rows(name, self._only(name, where))

    def events(
        self,
        columns: Sequence[str] | None = None,
        ts_from: int | None = None,
        ts_to: int | None = None,
    ) -> pa.Table:
        """Events that happened in [ts_from, ts_to), with the columns of `events.schema.ROUTED`
        unless said.
        """
        return self.table(
            "events", columns if columns is not None else ROUTED.names, span("day", ts_from, ts_to)
        )

    def answers(
        self,
        columns: Sequence[str] | None = None,
        ts_from: int | None = None,
        ts_to: int | None = None,
    ) -> pa.Table:
        """Answers whose t lies in [ts_from, ts_to)."""
        return self.table("answers", columns, span(None, ts_from, ts_to))

    def sql(self, query: str) -> pa.Table:
        """The rows of one SELECT (or WITH, SHOW, DESCRIBE, EXPLAIN) over all tables, as they are
        now.
        """
        if self.at is not None:
            raise UsageError(
                "SQL reads the lake as it is now",
                fix="read a past version with `table`, or tailorbird lake events --at-version",
            )
        tables = {name: self._table(name) for name in TABLES if self.exists(name)}
        if not tables:
            raise self._nothing_yet()
        return run_query(query, tables, self._blamed)

    def files(self, name: str, version: int) -> dict[str, int]:
        """The data files of a table as of a version, by path below its folder, with the rows of
        each.
        """
        delta = delta_table(self.path / self._known(name), version)
        actions = pa.table(delta.get_add_actions())
        return dict(
            zip(
                actions.column("path").to_pylist(),
                actions.column("num_records").to_pylist(),
                strict=True,
            )
        )

    def newest_p(self) -> int:
        """The routed position up to which `events` holds all, from the ledger alone; 0 where it
        holds nothing.
        """
        at = versions_of(self.path) if self.at is None else self.at
        return max(0, at["events"].positions.get("routed", 0) - 1) if "events" in at else 0

    def rows_of_days(self, days: Sequence[int], p: int, columns: Sequence[str]) -> pa.Table:
        """Of `events` on these days (since 1970), the rows below p."""
        values = pa.array(list(days), pa.int32()).cast(pa.date32())
        return self.table("events", columns, ds.field("day").isin(values) & (ds.field("p") < p))

    def _known(self, name: str) -> str:
        if name not in TABLES:
            raise UsageError(f"there is no table {name!r}", fix=f"the tables: {', '.join(TABLES)}")
        return name

    def _table(self, name: str) -> DeltaTable:
        if not self.exists(self._known(name)):
            raise self._nothing_yet()
        if self.at is not None and rows_of(name, self.at[name]) is None:
            return self._old(name, self.at[name].version)
        with opened_whole(self.path, name):
            if name in self._open:
                self._open[name].update_incremental()
            else:
                self._open[name] = delta_table(self.path / name)
        return self._open[name]

    def _old(self, name: str, version: int) -> DeltaTable:
        if name not in self._open:
            try:
                self._open[name] = delta_table(self.path / name, version)
            except Exception as error:  # deltalake raises what it likes
                raise NotReadyError(
                    f"version {version} of table {name} is no longer kept",
                    where=str(self.path / name),
                    fix="a longer lake.history keeps versions of this table longer",
                ) from error
        return self._open[name]

    @contextmanager
    def _whole(self, name: str) -> Iterator[ds.Dataset]:
        """A table's files to read; one that cannot be read is told by name."""
        table = self._table(name)
        with read_whole(self.path, name, lambda: _paths(table)):
            yield table.to_pyarrow_dataset(schema=TABLES[name].schema)

    def _blamed(self, told: str) -> TailorbirdError | None:
        """Which file of the tables that are open is to blame for a query that broke off."""
        found = (blamed(self.path, name, _paths(table), told) for name, table in self._open.items())
        return next((error for error in found if error is not None), None)

    def _rows(self, name: str, where: ds.Expression | None) -> int:
        with self._whole(name) as dataset:
            return dataset.count_rows(filter=where)

    def _only(self, name: str, where: ds.Expression | None) -> ds.Expression | None:
        rows = rows_of(name, self.at[name]) if self.at is not None else None
        return where if rows is None else rows if where is None else where & rows

    def _nothing_yet(self) -> NotReadyError:
        return NotReadyError(
            "there is nothing in the lake yet",
            where=str(self.path),
            fix="tailorbird import FORMAT PATH, or tailorbird up",
        )


def _paths(table: DeltaTable) -> list[str]:
    return pa.table(table.get_add_actions()).column("path").to_pylist()


def _any_commit(log: Place) -> bool:
    """Whether a log that no longer begins at 0 has a commit."""
    return log.is_dir() and any(entry.name.endswith(".json") for entry in log.iterdir())


def span(
    day: str | None = "day", ts_from: int | None = None, ts_to: int | None = None
) -> ds.Expression | None:
    """The filter for a span of `ts`, on the partition as well where there is one, so that whole
    files are left out.
    """
    parts: list[ds.Expression] = []
    if ts_from is not None:
        parts.append(ds.field("ts") >= pa.scalar(ts_from, TIME))
        if day is not None:
            parts.append(
                ds.field(day) >= pa.scalar(_EPOCH + timedelta(days=ts_from // DAY), pa.date32())
            )
    if ts_to is not None:
        parts.append(ds.field("ts") < pa.scalar(ts_to, TIME))
        if day is not None:
            parts.append(
                ds.field(day) <= pa.scalar(_EPOCH + timedelta(days=(ts_to - 1) // DAY), pa.date32())
            )
    where: ds.Expression | None = None
    for part in parts:
        where = part if where is None else where & part
    return where

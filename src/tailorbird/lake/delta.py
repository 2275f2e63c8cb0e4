"""A Delta table with durable appends: what deltalake does not do on a local disk, we do here.

deltalake syncs nothing: after a power cut its commits may be empty files, which read as "no change". So an append is

    Parquet by us ─ sync ─ sync folders ─► commit by deltalake ─ sync it, sync _delta_log ─► ledger, synced ─► positions count

A crash between any two of these leaves files that no commit names, or a last commit that `lake.check` judges when the
role starts again. Each commit carries the position behind its rows as an application transaction, so that an append
that was made is not made again, and in its commit info how many files and rows it holds, so that half a commit shows.

Deletion vectors are off and stay off. Which files are put together stands in `lake.compaction`, what is deleted at last in
`lake.vacuum`. A table that an older release made gets the columns that are new by a commit of its own.
"""

import hashlib
import json
import uuid
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Field, PostCommitHookProperties, Schema, Transaction
from deltalake.transaction import AddAction, RemoveAction

from tailorbird import faults
from tailorbird.errors import DamageError
from tailorbird.events.clock import DAY, Clock
from tailorbird.lake import compaction, durable, vacuum
from tailorbird.lake.ledger import File, Ledger, Line
from tailorbird.lake.opening import delta_table
from tailorbird.lake.tables import TableSpec, aligned
from tailorbird.lake.vacuum import FILE_PREFIX, Vacuumed
from tailorbird.places import ObjectPath, Place, client_options

COMMIT_INFO = "tailorbird"  # our key in a commit's info
CHECKPOINT_EVERY = 100  # commits; between two checkpoints a reader parses that many small files

_EPOCH = date(1970, 1, 1)
_START = datetime(1970, 1, 1)
_ROW_GROUP_ROWS = 128 * 1024
_SORTED_GROUP_ROWS = 32 * 1024
_CONFIGURATION: dict[str, str | None] = {
    "delta.enableDeletionVectors": "false",
    "delta.enableExpiredLogCleanup": "false",
    "delta.checkpointInterval": "1000000000",  # ours are made and synced by `DurableTable.checkpoint`
}
_NO_HOOKS = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)


class CommitInfo(msgspec.Struct, frozen=True):
    """What a commit of ours says of itself."""

    files: int
    rows: int
    removed: int = 0  # files that a compaction put together
    columns: int = 0  # that were added
    token: str = ""  # by which its writer knows it again, where the reply was lost


def commit_path(table: Place, version: int) -> Place:
    """The file of a table's commit."""
    return table / "_delta_log" / f"{version:020d}.json"


def checkpoint_path(table: Place, version: int) -> Place:
    """The file of a table's checkpoint."""
    return table / "_delta_log" / f"{version:020d}.checkpoint.parquet"


def create_table(path: Place, spec: TableSpec, ledger: Ledger, clock: Clock) -> None:
    """Make an empty table whose first commit lasts."""
    durable.make_folder(path)
    with durable.disk_errors(path):
        DeltaTable.create(
            str(path),
            spec.schema,
            partition_by=[spec.partition] if spec.partition else None,
            configuration={**_CONFIGURATION, "delta.dataSkippingStatsColumns": ",".join(spec.statistics)},
            storage_options=client_options() if isinstance(path, ObjectPath) else None,
        )
    faults.at("lake.after_create")
    seal(path, spec.name, 0, ledger, written_at=clock.now())


def seal(
    path: Place, table: str, version: int, ledger: Ledger, *, written_at: int, rows: int = 0,
    positions: dict[str, int] | None = None, files: list[File] | None = None, removed: list[str] | None = None,
) -> Line:  # fmt: skip
    """Sync a commit file that deltalake wrote, and enter it into the ledger."""
    commit = commit_path(path, version)
    durable.sync_file(commit)
    durable.sync_folder(commit.parent)
    durable.sync_folder(path)
    faults.at("lake.after_sync")
    line = ledger.append(
        "commit",
        table,
        version,
        rows=rows,
        positions=positions,
        files=files,
        removed=removed,
        commit_sha256=durable.sha256_of(commit),
        written_at=written_at,
    )
    faults.at("lake.after_ledger")
    return line


class DurableTable:
    """The one writer of a table. Open it after `lake.check` has found the table whole.

    Raises:
        DamageError: the table has other columns than this version writes, or deletion vectors.
    """

    def __init__(self, path: Place, spec: TableSpec, ledger: Ledger, clock: Clock) -> None:
        self.path = path
        self.spec = spec
        self._ledger = ledger
        self._clock = clock
        self._delta = delta_table(path)
        self._positions: dict[str, int] = {}
        self._files = ledger.files(spec.name)
        self._written = ledger.written(spec.name)
        self._checkpointed = max(ledger.checkpoints(spec.name), default=0)
        if missing := self._check_shape():
            self._extend(missing)

    def _check_shape(self) -> list[Field]:
        """The columns that this version has and the table has not, which an older release made."""
        found = {field.name: str(field.type) for field in self._delta.schema().fields}
        wanted = {field.name: field for field in Schema.from_arrow(self.spec.schema).fields}
        odd = sorted(name for name, kind in found.items() if name not in wanted or str(wanted[name].type) != kind)
        if odd:
            raise DamageError(
                f"the table's columns are not those of this version; they differ in: {', '.join(odd)}",
                where=str(self.path),
                fix="use the version that wrote it, or make the lake anew from the archive",
            )
        if "deletionVectors" in (self._delta.protocol().reader_features or []):
            raise DamageError(
                "the table has deletion vectors, which not all readers honour", where=str(self.path), fix="purge and rewrite it"
            )
        return [field for name, field in wanted.items() if name not in found]

    def _extend(self, fields: list[Field]) -> None:
        """Add columns, by a commit without rows; the rows that are there have nulls in them."""
        now, version = self._clock.now(), self.version + 1
        info = {"files": 0, "rows": 0, "removed": 0, "columns": len(fields)}
        with durable.disk_errors(self.path):
            self._delta.alter.add_columns(
                fields,
                commit_properties=CommitProperties(custom_metadata={COMMIT_INFO: info}),
                post_commithook_properties=_NO_HOOKS,
            )
        faults.at("lake.after_commit")
        self._delta.update_incremental()
        seal(self.path, self.spec.name, version, self._ledger, written_at=now)

    @property
    def version(self) -> int:
        """The newest version."""
        return self._delta.version()

    def position(self, log: str) -> int | None:
        """The position behind the last row of `log` that the table holds; None if it holds none."""
        if log not in self._positions:
            found = self._delta.transaction_version(log)
            if found is None:
                return None
            self._positions[log] = found
        return self._positions[log]

    def append(self, rows: pa.Table, log: str, position: int) -> Line | None:
        """Append the rows that a log holds up to `position`, durably; the ledger's line, or None if that was done before."""
        reached = self.position(log)
        if rows.num_rows == 0 or (reached is not None and position <= reached):
            return None
        now = self._clock.now()
        files, actions = self._write(rows, now)
        line = self._commit(actions, files, now, rows=rows.num_rows, positions={log: position})
        self._positions[log] = position
        self._checkpoint_sometimes()
        return line

    def _checkpoint_sometimes(self) -> None:
        if self.version - self._checkpointed >= CHECKPOINT_EVERY:
            self.checkpoint()

    def _commit(
        self, actions: list[AddAction | RemoveAction], files: list[File], now: int, *, rows: int = 0,
        positions: dict[str, int] | None = None, removed: list[str] | None = None,
    ) -> Line:  # fmt: skip
        version = self.version + 1
        token = uuid.uuid4().hex
        info = {"files": len(files), "rows": sum(file.rows for file in files), "removed": len(removed or []), "token": token}
        faults.at("lake.after_data")
        with durable.disk_errors(self.path):
            try:
                self._delta.create_write_transaction(
                    actions,
                    "append",
                    self._delta.schema(),
                    [self.spec.partition] if self.spec.partition else None,
                    commit_properties=CommitProperties(
                        custom_metadata={COMMIT_INFO: info},
                        app_transactions=[Transaction(log, position) for log, position in (positions or {}).items()],
                        max_commit_retries=0,  # so that this commit is this version, or none
                    ),
                    post_commithook_properties=_NO_HOOKS,
                )
            except Exception:
                if not self._stands(version, token):
                    raise
        faults.at("lake.after_commit")
        self._delta.update_incremental()
        if self.version != version:
            raise DamageError(f"expected version {version}, found {self.version}: somebody else writes to it", where=str(self.path))
        line = seal(
            self.path, self.spec.name, version, self._ledger,
            rows=rows, positions=positions, files=files, removed=removed, written_at=now,
        )  # fmt: skip
        self._files.update({file.path: file for file in files})
        self._written.update({file.path: now for file in files})
        for path in removed or []:
            del self._files[path]
        return line

    def _stands(self, version: int, token: str) -> bool:
        """Whether a commit that was answered by an error, or by nothing, is there all the same.

        Nothing is cleaned up where it is not: it may still be on its way. That is decided when the role starts again.
        """
        try:
            data = commit_path(self.path, version).read_bytes()
        except OSError:
            return False
        return isinstance(self.path, ObjectPath) and f'"token":"{token}"'.encode() in data

    def _write(
        self, rows: pa.Table, now: int, *, data_change: bool = True, sort: tuple[str, ...] = ()
    ) -> tuple[list[File], list[AddAction | RemoveAction]]:
        files: list[File] = []
        actions: list[AddAction | RemoveAction] = []
        folders: set[Place] = set()
        for value, part in split_by_partition(rows, self.spec):
            folder = f"{self.spec.partition}={value or '__HIVE_DEFAULT_PARTITION__'}/" if self.spec.partition else ""
            name = f"{folder}{FILE_PREFIX}{self.version + 1:08d}-{len(files):04d}-{uuid.uuid4().hex[:8]}.parquet"
            path = self.path / name
            if path.parent not in folders:
                durable.make_folder(path.parent)
                folders.add(path.parent)
            data = parquet_of(part, self.spec, sort)
            durable.write_new(path, data)
            files.append(File(name, len(data), hashlib.sha256(data).hexdigest(), part.num_rows))
            values = {self.spec.partition: value} if self.spec.partition else {}
            actions.append(AddAction(name, len(data), values, now // 1000, data_change, statistics_of(part, self.spec)))
        faults.at("lake.before_folder_sync")
        for folder_path in folders:
            durable.sync_folder(folder_path)
        return files, actions

    def due(self, settled_us: int | None = None) -> list[compaction.Group]:
        """Which files are to be put together, as `compaction.due` says."""
        return compaction.due(self._files, self._written, self._clock.now(), settled_us=settled_us)

    def put_together(self, group: compaction.Group, sort: tuple[str, ...] = ()) -> int:
        """Make one file of a group's files, in log order or sorted by some columns, by one commit; how many files there are less.

        The old ones stay for readers that began before, until `vacuum` deletes them.
        """
        now = self._clock.now()
        tables = [aligned(self._read(file), self.spec.file_schema) for file in group.files]
        rows = pa.concat_tables(tables)
        if rows.num_rows != sum(file.rows for file in group.files):
            raise DamageError(
                f"files of table {self.spec.name} do not hold the rows that the ledger says; nothing was put together",
                where=str(self.path / group.folder),
                fix="tailorbird lake verify tells which",
            )
        faults.at("compact.before_write")
        if sort:
            rows = rows.sort_by([(name, "ascending") for name in sort])
        files, actions = self._write(rows, now, data_change=False, sort=sort)
        faults.at("compact.after_write")
        values: dict[str, str | None] = {self.spec.partition: group.folder.partition("=")[2]} if self.spec.partition else {}
        actions += [RemoveAction(file.path, False, now // 1000, file.size, values) for file in group.files]
        self._commit(actions, files, now, removed=[file.path for file in group.files])
        faults.at("compact.after_commit")
        self._checkpoint_sometimes()
        return len(group.files) - len(files)

    def _read(self, file: File) -> pa.Table:
        return self._opened(file).read()

    def _opened(self, file: File) -> pq.ParquetFile:
        source = self.path / file.path
        return pq.ParquetFile(pa.BufferReader(source.read_bytes()) if isinstance(source, ObjectPath) else source)

    def rewrite(self, change: Callable[[pa.Table], pa.Table | None], told: Callable[[int], None] = lambda done: None) -> int:
        """Write those files anew for whose rows `change` gives others (None: they stay), by one commit; how many there were.

        The old ones, and what the log says of them, stay until `forget_past`. Rows keep the order in which `change` gives them, but
        in files that are sorted by person.
        """
        now = self._clock.now()
        files: list[File] = []
        actions: list[AddAction | RemoveAction] = []
        removed: list[File] = []
        for file in list(self._files.values()):
            parquet = self._opened(file)
            rows = change(aligned(parquet.read(), self.spec.file_schema))
            told(1)
            if rows is None:
                continue
            sort = self.spec.person if _is_sorted(parquet, self.spec) else ()
            if rows.num_rows:
                some, adds = self._write(rows.sort_by([(name, "ascending") for name in sort]) if sort else rows, now, sort=sort)
                files, actions = files + some, actions + adds
            removed.append(file)
        if not removed:
            return 0
        faults.at("erase.table_files")
        for file in removed:
            day = file.path.rpartition("/")[0].partition("=")[2]
            values: dict[str, str | None] = {self.spec.partition: day} if self.spec.partition else {}
            actions.append(RemoveAction(file.path, True, now // 1000, file.size, values))
        self._commit(actions, files, now, removed=[file.path for file in removed])
        faults.at("erase.table_commit")
        return len(removed)

    def forget_past(self) -> Vacuumed:
        """Delete all that only the past needs, at once: files that were put together or written anew, and the log that names them."""
        self.checkpoint()
        return self.vacuum(0)

    def vacuum(self, keep_us: int, *, dry_run: bool = False, told: Callable[[int], None] = lambda done: None) -> Vacuumed:
        """Delete what only readers of `keep_us` ago and longer need, see `lake.vacuum`."""
        return vacuum.vacuum(self.path, self.spec.name, self._ledger, self._clock.now(), keep_us, dry_run=dry_run, told=told)

    def checkpoint(self) -> None:
        """Let deltalake summarise the log, so that readers open the table fast; enter it into the ledger once it lasts."""
        with durable.disk_errors(self.path):
            self._delta.create_checkpoint()
        faults.at("lake.after_checkpoint")
        path = checkpoint_path(self.path, self.version)
        durable.sync_file(path)
        durable.sync_file(path.with_name("_last_checkpoint"))
        durable.sync_folder(path.parent)
        file = File(path.name, path.stat().st_size, durable.sha256_of(path))
        self._ledger.append("checkpoint", self.spec.name, self.version, files=[file], written_at=self._clock.now())
        self._checkpointed = self.version
        self._delta = delta_table(self.path)  # a handle that is only ever brought up to date gets slower with each commit


def _is_sorted(file: pq.ParquetFile, spec: TableSpec) -> bool:
    """Whether a file was sorted by person: only then has that column statistics, see `parquet_of`."""
    if not spec.person or not file.metadata.num_row_groups or spec.person[0] in spec.statistics:
        return False
    group = file.metadata.row_group(0)
    columns = [group.column(index) for index in range(group.num_columns)]
    return any(column.path_in_schema == spec.person[0] and column.is_stats_set for column in columns)


def split_by_partition(rows: pa.Table, spec: TableSpec) -> Iterator[tuple[str | None, pa.Table]]:
    """The rows of each day, as the text of the partition value and a table in the order of the files' columns."""
    if spec.partition is None:
        yield None, rows.select(spec.schema.names)
        return
    days = np.asarray(rows.column("ts").cast(pa.int64()).to_numpy(zero_copy_only=False)) // DAY
    columns = rows.select(spec.file_schema.names)
    values, counts = np.unique(days, return_counts=True)
    if len(values) > 1 and np.any(days[1:] < days[:-1]):
        columns = columns.take(pa.array(np.argsort(days, kind="stable")))
    start = 0
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        yield (_EPOCH + timedelta(days=value)).isoformat(), columns.slice(start, count)
        start += count


def parquet_of(rows: pa.Table, spec: TableSpec, sort: tuple[str, ...] = ()) -> memoryview:
    """The rows as a Parquet file, with statistics for the columns that may have them, and those by which it is sorted.

    The latter stand in the file alone, beside the values that they are of, and go when it is rewritten.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(
        rows.cast(spec.file_schema),
        sink,
        compression="zstd",
        compression_level=1,
        row_group_size=_SORTED_GROUP_ROWS if sort else _ROW_GROUP_ROWS,
        write_statistics=list(dict.fromkeys((*spec.statistics, *sort[:1]))),
        store_schema=False,
    )
    return memoryview(sink.getvalue())


def statistics_of(rows: pa.Table, spec: TableSpec) -> str:
    """The file's statistics in Delta's JSON: rows, and least, greatest and nulls of the columns that may have them."""
    least: dict[str, object] = {}
    greatest: dict[str, object] = {}
    nulls: dict[str, int] = {}
    for name in spec.statistics:
        column = rows.column(name)
        nulls[name] = column.null_count
        if column.null_count == len(column):
            continue
        time = pa.types.is_timestamp(column.type)
        bounds = pc.min_max(column.cast(pa.int64()) if time else column)
        least[name], greatest[name] = (_iso(bounds[side].as_py()) if time else bounds[side].as_py() for side in ("min", "max"))
    return json.dumps({"numRecords": rows.num_rows, "minValues": least, "maxValues": greatest, "nullCount": nulls})


def _iso(moment: int) -> str:
    # Exact over the whole range of dates, which a division in floating point is not.
    return (_START + timedelta(microseconds=moment)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

"""A Delta table with durable appends.

deltalake syncs nothing on a local disk: after a power cut its commits may be empty files, which
read as "no change". So an append is

    our Parquet files, synced ─► deltalake's commit, synced ─► ledger, synced ─► positions

A crash between two steps leaves files that no commit names, or a last commit on which
`lake.delta.recovery` decides when the role starts again. Each commit carries the position after its
rows as an application transaction, so no append is repeated. Its commit info has the number of
files and rows, so a torn commit shows.

Deletion vectors are off and stay off. `lake.delta.compaction` chooses the files to compact,
`lake.delta.vacuum` those to delete. New columns are added to an older table by a commit of their
own.
"""

import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, Field, PostCommitHookProperties, Transaction
from deltalake.transaction import AddAction, RemoveAction

from tailorbird import faults
from tailorbird.errors import DamageError
from tailorbird.events.clock import Clock
from tailorbird.lake.delta import compaction, vacuum
from tailorbird.lake.delta.commits import COMMIT_INFO, checkpoint_path, commit_path, record_commit
from tailorbird.lake.delta.connection import delta_table
from tailorbird.lake.delta.corruption import translate_read_errors
from tailorbird.lake.delta.data_files import encode_statistics, is_sorted, write_files
from tailorbird.lake.delta.schema import missing_columns
from tailorbird.lake.delta.vacuum import VacuumReport
from tailorbird.lake.files import durable
from tailorbird.lake.files.ledger import Ledger, LedgerFile, LedgerLine
from tailorbird.lake.tables import TableSpec, align_columns
from tailorbird.storage import storage_at
from tailorbird.storage_paths import StoragePath

CHECKPOINT_EVERY_COMMITS = 100  # Between two checkpoints a reader parses that many small files.

_NO_HOOKS = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)


class DurableTable:
    """The single writer of a table that `lake.delta.recovery` has passed.

    Raises:
        DamageError: the table has deletion vectors, or columns that this version does not write.
    """

    def __init__(self, path: StoragePath, spec: TableSpec, ledger: Ledger, clock: Clock) -> None:
        self.path = path
        self.spec = spec
        self._ledger = ledger
        self._clock = clock
        self._delta = delta_table(path)
        self._positions: dict[str, int] = {}
        self._files = ledger.files(spec.name)
        self._commit_times = ledger.commit_times(spec.name)
        self._checkpoint_version = max(ledger.checkpoints(spec.name), default=0)
        if new_columns := missing_columns(self._delta, self.spec, self.path):
            self._add_columns(new_columns)

    def _add_columns(self, fields: list[Field]) -> None:
        """Add columns by a commit without rows; existing rows have nulls in them."""
        now = self._clock.now()
        version = self.version + 1
        commit_info = {"files": 0, "rows": 0, "removed": 0, "columns": len(fields)}
        with durable.translate_disk_errors(self.path):
            self._delta.alter.add_columns(
                fields,
                commit_properties=CommitProperties(custom_metadata={COMMIT_INFO: commit_info}),
                post_commithook_properties=_NO_HOOKS,
            )
        faults.fire_if_armed("lake.after_commit")
        self._delta.update_incremental()
        record_commit(self.path, self.spec.name, version, self._ledger, written_at=now)

    @property
    def version(self) -> int:
        """The latest version."""
        return self._delta.version()

    def position(self, log: str) -> int | None:
        """Return the position after the table's last row of `log`, or None if it has none."""
        if log not in self._positions:
            position = self._delta.transaction_version(log)
            if position is None:
                return None
            self._positions[log] = position
        return self._positions[log]

    def append(self, rows: pa.Table, log: str, position: int) -> LedgerLine | None:
        """Append the rows of a log up to `position` durably.

        Returns:
            The ledger's line, or None if they were appended before.
        """
        last_position = self.position(log)
        if rows.num_rows == 0 or (last_position is not None and position <= last_position):
            return None
        now = self._clock.now()
        files, actions = self._write_rows(rows, now)
        line = self._commit(actions, files, now, rows=rows.num_rows, positions={log: position})
        self._positions[log] = position
        self._checkpoint_if_due()
        return line

    def commit_existing_files(
        self, files: Sequence[LedgerFile], rows: pa.Table | None, positions: dict[str, int]
    ) -> LedgerLine | None:
        """Commit data files that are in the table's folder already, and rows that are in none.

        Returns:
            The ledger's line, or None if there is nothing to commit.
        """
        now = self._clock.now()
        new_files, actions = (
            self._write_rows(rows, now) if rows is not None and len(rows) else ([], [])
        )
        for file in files:
            statistics_rows = self._open_parquet(file).read(list(self.spec.statistics_columns))
            actions.append(
                AddAction(
                    file.path,
                    file.size,
                    self._partition_values(file),
                    now // 1000,
                    True,
                    encode_statistics(statistics_rows, self.spec),
                )
            )
        if not actions and not positions:
            return None
        for folder in {(self.path / file.path).parent for file in files}:
            durable.sync_folder(folder)
        all_files = [*files, *new_files]
        row_count = sum(file.rows for file in all_files)
        return self._commit(actions, all_files, now, rows=row_count, positions=positions)

    def _partition_values(self, file: LedgerFile) -> dict[str, str | None]:
        if not self.spec.partition_column:
            return {}
        return {self.spec.partition_column: file.path.rpartition("/")[0].partition("=")[2]}

    def _checkpoint_if_due(self) -> None:
        if self.version - self._checkpoint_version >= CHECKPOINT_EVERY_COMMITS:
            self.checkpoint()

    def _commit(
        self,
        actions: list[AddAction | RemoveAction],
        files: list[LedgerFile],
        now: int,
        *,
        rows: int = 0,
        positions: dict[str, int] | None = None,
        removed_paths: list[str] | None = None,
    ) -> LedgerLine:
        version = self.version + 1
        token = uuid.uuid4().hex
        commit_info = {
            "files": len(files),
            "rows": sum(file.rows for file in files),
            "removed": len(removed_paths or []),
            "token": token,
        }
        faults.fire_if_armed("lake.after_data")
        with durable.translate_disk_errors(self.path):
            try:
                self._delta.create_write_transaction(
                    actions,
                    "append",
                    self._delta.schema(),
                    [self.spec.partition_column] if self.spec.partition_column else None,
                    commit_properties=CommitProperties(
                        custom_metadata={COMMIT_INFO: commit_info},
                        app_transactions=[
                            Transaction(log, position)
                            for log, position in (positions or {}).items()
                        ],
                        max_commit_retries=0,  # The commit must be this version or fail.
                    ),
                    post_commithook_properties=_NO_HOOKS,
                )
            except Exception:
                if not self._is_committed(version, token):
                    raise
        faults.fire_if_armed("lake.after_commit")
        self._delta.update_incremental()
        if self.version != version:
            raise DamageError(
                f"expected version {version}, found {self.version}: another process writes to it",
                where=str(self.path),
            )
        line = record_commit(
            self.path,
            self.spec.name,
            version,
            self._ledger,
            rows=rows,
            positions=positions,
            files=files,
            removed_paths=removed_paths,
            written_at=now,
        )
        self._files.update({file.path: file for file in files})
        self._commit_times.update({file.path: now for file in files})
        for path in removed_paths or []:
            del self._files[path]
        return line

    def _is_committed(self, version: int, token: str) -> bool:
        """Return whether a commit succeeded although its reply was an error or was lost.

        If not, nothing is cleaned up: the write may still arrive. The role's next start decides.
        """
        try:
            data = commit_path(self.path, version).read_bytes()
        except OSError:
            return False
        return storage_at(self.path).is_remote and f'"token":"{token}"'.encode() in data

    def _write_rows(
        self,
        rows: pa.Table,
        now: int,
        *,
        data_change: bool = True,
        sort_columns: tuple[str, ...] = (),
    ) -> tuple[list[LedgerFile], list[AddAction | RemoveAction]]:
        return write_files(
            self.path,
            rows,
            self.spec,
            self.version + 1,
            now,
            data_change=data_change,
            sort_columns=sort_columns,
        )

    def due_groups(self, settled_us: int | None = None) -> list[compaction.Group]:
        """Return the groups of files to compact now."""
        return compaction.due_groups(
            self._files, self._commit_times, self._clock.now(), settled_us=settled_us
        )

    def compact(self, group: compaction.Group, sort_columns: tuple[str, ...] = ()) -> int:
        """Replace the files of a group by one, in log order or sorted by columns, in one commit.

        The old files stay for earlier readers until `vacuum` deletes them.

        Returns:
            The number of files that it saved.
        """
        now = self._clock.now()
        tables = [
            align_columns(self._read_file(file), self.spec.file_schema) for file in group.files
        ]
        rows = pa.concat_tables(tables)
        if rows.num_rows != sum(file.rows for file in group.files):
            raise DamageError(
                f"files of table {self.spec.name} do not hold the rows that the ledger says; "
                "nothing was compacted",
                where=str(self.path / group.folder),
                fix="tailorbird lake verify names them",
            )
        faults.fire_if_armed("compact.before_write")
        if sort_columns:
            rows = rows.sort_by([(name, "ascending") for name in sort_columns])
        files, actions = self._write_rows(rows, now, data_change=False, sort_columns=sort_columns)
        faults.fire_if_armed("compact.after_write")
        partition_values: dict[str, str | None] = (
            {self.spec.partition_column: group.folder.partition("=")[2]}
            if self.spec.partition_column
            else {}
        )
        actions += [
            RemoveAction(file.path, False, now // 1000, file.size, partition_values)
            for file in group.files
        ]
        self._commit(actions, files, now, removed_paths=[file.path for file in group.files])
        faults.fire_if_armed("compact.after_commit")
        self._checkpoint_if_due()
        return len(group.files) - len(files)

    def _read_file(self, file: LedgerFile) -> pa.Table:
        with self._translate_read_errors(file):
            return self._open_parquet(file).read()

    def _open_parquet(self, file: LedgerFile) -> pq.ParquetFile:
        return pq.ParquetFile(storage_at(self.path / file.path).arrow_source())

    def _translate_read_errors(self, file: LedgerFile) -> AbstractContextManager[None]:
        return translate_read_errors(self.path.parent, self.spec.name, lambda: [file.path])

    def rewrite(
        self,
        change: Callable[[pa.Table], pa.Table | None],
        progress: Callable[[int], None] = lambda file_count: None,
    ) -> int:
        """Rewrite the files whose rows `change` replaces, in one commit.

        The old files, and what the log says of them, stay until `delete_history`. Rows keep the
        order in which `change` returns them, except in files sorted by person.

        Args:
            change: return the new rows of a file, or None to keep it.

        Returns:
            The number of files rewritten.
        """
        now = self._clock.now()
        files: list[LedgerFile] = []
        actions: list[AddAction | RemoveAction] = []
        replaced_files: list[LedgerFile] = []
        for file in list(self._files.values()):
            with self._translate_read_errors(file):
                parquet = self._open_parquet(file)
                rows_before = parquet.read()
            rows = change(align_columns(rows_before, self.spec.file_schema))
            progress(1)
            if rows is None:
                continue
            sort_columns = self.spec.person_columns if is_sorted(parquet, self.spec) else ()
            if rows.num_rows:
                new_files, new_actions = self._write_rows(
                    rows.sort_by([(name, "ascending") for name in sort_columns])
                    if sort_columns
                    else rows,
                    now,
                    sort_columns=sort_columns,
                )
                files = files + new_files
                actions = actions + new_actions
            replaced_files.append(file)
        if not replaced_files:
            return 0
        faults.fire_if_armed("erase.table_files")
        for file in replaced_files:
            partition_values = self._partition_values(file)
            actions.append(RemoveAction(file.path, True, now // 1000, file.size, partition_values))
        self._commit(actions, files, now, removed_paths=[file.path for file in replaced_files])
        faults.fire_if_armed("erase.table_commit")
        return len(replaced_files)

    def delete_history(self) -> VacuumReport:
        """Delete the files that only old versions need, and the log that names them."""
        self.checkpoint()
        return self.vacuum(0)

    def vacuum(
        self,
        keep_us: int,
        *,
        dry_run: bool = False,
        progress: Callable[[int], None] = lambda file_count: None,
    ) -> VacuumReport:
        """Delete what only readers older than `keep_us` need, see `lake.delta.vacuum`."""
        return vacuum.vacuum(
            self.path,
            self.spec.name,
            self._ledger,
            self._clock.now(),
            keep_us,
            dry_run=dry_run,
            progress=progress,
        )

    def checkpoint(self) -> None:
        """Let deltalake write a checkpoint, which makes opening fast; sync it and append it to the
        ledger.
        """
        with durable.translate_disk_errors(self.path):
            self._delta.create_checkpoint()
        faults.fire_if_armed("lake.after_checkpoint")
        path = checkpoint_path(self.path, self.version)
        durable.sync_file(path)
        durable.sync_file(path.with_name("_last_checkpoint"))
        durable.sync_folder(path.parent)
        file = LedgerFile(path.name, path.stat().st_size, durable.sha256_of(path))
        self._ledger.append(
            "checkpoint", self.spec.name, self.version, files=[file], written_at=self._clock.now()
        )
        self._checkpoint_version = self.version
        self._delta = delta_table(
            self.path
        )  # A handle that is only updated gets slower with each commit.

"""The lake role: loads the logs into archive and tables exactly once, as their only writer.

    raw-*.db      ─► archive
    routed.db     ─► events, quarantine, duplicates, users, items
    answers-*.db  ─► answers
    ledger        ─► commits

Each table's commit carries its own position, so each can be repeated alone: after a crash a table
continues from its own last commit. `lake.write.feeds` reads the logs, `lake.write.loading` loads
them, `lake.write.process` runs the role as a process, `lake.lake` reads the lake, `lake.verify`
checks it, and `lake.write.rewrite` serves erasures.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tailorbird.errors import DamageError, StorageError
from tailorbird.events.clock import Clock
from tailorbird.lake.delta.recovery import Recovery, check_table, ledger_is_lost
from tailorbird.lake.delta.schema import create_table
from tailorbird.lake.delta.table import DurableTable
from tailorbird.lake.delta.vacuum import KEEP_US, VacuumReport
from tailorbird.lake.files import durable, swap
from tailorbird.lake.files.archive import FILE_AGE_US, FILE_BYTES_MAX, Archive
from tailorbird.lake.files.lease import acquire_writer_lock
from tailorbird.lake.files.ledger import Ledger
from tailorbird.lake.tables import TABLES
from tailorbird.lake.write.feeds import Feeds
from tailorbird.lake.write.loading import Loader
from tailorbird.lake.write.positions import load_positions, lost_ledger_fix, store_positions
from tailorbird.lake.write.rewrite import LakeRewriter
from tailorbird.storage import storage_at
from tailorbird.storage_paths import StoragePath
from tailorbird.stream import Stream
from tailorbird.stream.released import POSITIONS_FILE

ROWS_MAX = 250_000  # per commit, about 200 MB in memory

# Lines of the ledger per commit of `commits`. A commit for each would double the small files.
_MIRROR_LINES_MIN = 50


@dataclass(frozen=True)
class LakeReport:
    """The outcome of one step.

    Attributes:
        rows: rows appended, by table.
        archived: rows of raw logs that were archived.
        positions: for each log, the position below which the lake no longer needs it.
    """

    rows: dict[str, int] = field(default_factory=dict)
    archived: int = 0
    positions: dict[str, int] = field(default_factory=dict)

    @property
    def is_idle(self) -> bool:
        """True if there was nothing to do."""
        return not self.rows and not self.archived


class LakeRole:
    """The writer of the lake at `lake`, fed from the logs in `stream`.

    Opening it checks every table against the ledger and undoes what a crash left, see `recoveries`.

    Args:
        archive_bytes, archive_age_us: size and age at which a file of the archive is closed.
        keep_us: how long files stay that only old versions need.
        sort: "position", or "person" to sort settled days by person.

    Raises:
        LockedError: another process writes to this lake.
        DamageError: something is corrupt that the logs cannot restore.
    """

    def __init__(
        self,
        stream: Stream,
        lake: StoragePath,
        *,
        clock: Clock,
        archive_bytes: int = FILE_BYTES_MAX,
        archive_age_us: int = FILE_AGE_US,
        keep_us: int = KEEP_US,
        sort: str = "position",
    ) -> None:
        self._path = lake
        self._clock = clock
        self._keep_us = keep_us
        self._sort = sort
        self._failure = ""
        self._feeds = Feeds(stream)
        durable.make_folder(self._path)
        self._lock = acquire_writer_lock(self._path / "ledger.jsonl", clock)
        try:
            if (local_path := storage_at(self._path).local_path) is not None:
                swap.finish(local_path)
            if ledger_is_lost(self._path):
                where = str(self._path / "ledger.jsonl")
                fix = lost_ledger_fix(self._path)
                raise DamageError(
                    "the ledger is missing, and tables have rows", where=where, fix=fix
                )
            self._ledger = Ledger(self._path / "ledger.jsonl", for_writing=True)
            self._positions = load_positions(self._path)
            verified_lines = len(self._ledger.lines)
            self.recoveries = self._check_tables()
            self._tables = {name: self._open_table(name) for name in TABLES}
            self._archive = Archive(
                self._path / "archive",
                clock=clock,
                for_writing=True,
                bytes_max=archive_bytes,
                age_us=archive_age_us,
            )
            if (
                not self._archive.files
                and not any(line.positions for line in self._ledger.lines)
                and not (self._path / POSITIONS_FILE).exists()
            ):
                store_positions(
                    self._path, self._positions
                )  # so that one that is not there later was lost
            self._loader = Loader(
                path=self._path,
                stream=stream,
                feeds=self._feeds,
                ledger=self._ledger,
                tables=self._tables,
                archive=self._archive,
                positions=self._positions,
                verified_lines=verified_lines,
            )
        except BaseException:
            self.close()
            raise

    def _check_tables(self) -> list[Recovery]:
        all_recoveries: list[Recovery] = []
        for name, spec in TABLES.items():
            recoveries = check_table(
                self._path / name,
                spec,
                self._ledger,
                self._path / "set-aside",
                self._clock,
                can_replay_from=self._feeds.has_rows_from,
                keep_us=self._keep_us,
            )
            if any(recovery.action == "withdrawn" for recovery in recoveries):
                self._forget_positions(name)
            all_recoveries += recoveries
        return all_recoveries

    def _forget_positions(self, table: str) -> None:
        """Withdraw the positions of a table that lost its last commit, before a log is pruned."""
        for log in self._positions.tables.pop(table, {}):
            self._positions.safe.pop(log, None)
        store_positions(self._path, self._positions)

    def _open_table(self, name: str) -> DurableTable:
        path = self._path / name
        spec = TABLES[name]
        if 0 not in self._ledger.commits(name):
            create_table(path, spec, self._ledger, self._clock)
        return DurableTable(path, spec, self._ledger, self._clock)

    def step(self, rows_max: int = ROWS_MAX, *, flush: bool = False) -> LakeReport:
        """Load new rows, about `rows_max` of each log at most.

        Args:
            flush: close files of the archive early.

        Raises:
            DamageError, StorageError: the role is stopped; opening it again undoes the step.
        """
        with self._stop_on_error():
            self._lock.renew()
            rows_by_table: dict[str, int] = {}
            archived_rows = self._loader.archive_raw(flush)
            self._loader.load_routed(rows_max, rows_by_table)
            for producer, path in self._feeds.response_logs.items():
                self._loader.load_responses(producer, path, rows_max, rows_by_table)
            self._loader.mirror_ledger(rows_by_table, _MIRROR_LINES_MIN if not flush else 1)
            if rows_by_table or archived_rows or self._loader.has_progress:
                self._loader.publish_positions()
            return LakeReport(rows_by_table, archived_rows, dict(self._positions.safe))

    @contextmanager
    def _stop_on_error(self) -> Iterator[None]:
        """Stop the role after an error within: the disk must be checked before more is written."""
        if self._failure:
            raise StorageError(
                f"the lake role stopped: {self._failure}",
                where=str(self._path),
                fix="start the role again",
            )
        try:
            yield
        except BaseException as error:
            self._failure = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise

    def count_due_files(self, *, include_unsettled: bool = False) -> dict[str, int]:
        """Return the number of small files to compact, by table.

        Args:
            include_unsettled: include days that are still written to.
        """
        settled_us = 0 if include_unsettled else None
        counts = {
            name: sum(len(group.files) for group in table.due_groups(settled_us))
            for name, table in self._tables.items()
        }
        return {name: count for name, count in counts.items() if count}

    def upkeep(self, *, include_unsettled: bool = False) -> int:
        """Compact the files of one folder, and return the number of files saved, 0 if none was due.

        No row changes. Earlier readers find their files until `vacuum` deletes them.
        """
        with self._stop_on_error():
            self._lock.renew()
            settled_us = 0 if include_unsettled else None
            due_groups = [
                (table, group)
                for table in self._tables.values()
                for group in table.due_groups(settled_us)[:1]
            ]
            if not due_groups:
                return 0
            table, group = max(due_groups, key=lambda entry: len(entry[1].files))
            removed_count = table.compact(
                group,
                table.spec.person_columns if group.is_settled and self._sort == "person" else (),
            )
            self._loader.publish_positions()
            return removed_count

    def vacuum(
        self,
        *,
        keep_us: int | None = None,
        dry_run: bool = False,
        progress: Callable[[int], None] = lambda file_count: None,
    ) -> dict[str, VacuumReport]:
        """Delete the files that only earlier readers need.

        Returns:
            The deleted files by table, or with `dry_run` those that would be deleted.
        """
        keep_us = self._keep_us if keep_us is None else keep_us
        with self._stop_on_error():
            self._lock.renew()
            reports = {
                name: table.vacuum(keep_us, dry_run=dry_run, progress=progress)
                for name, table in self._tables.items()
            }
            if storage_at(self._path).is_remote and not dry_run:
                for file in self._archive.unreferenced_files():
                    file.unlink(missing_ok=True)
            if not dry_run and any(report.log_files for report in reports.values()):
                self._loader.publish_positions()
            return {name: report for name, report in reports.items() if report != VacuumReport()}

    def rewriter(self) -> LakeRewriter:
        """Return the rewriting operations of this lake's writer, for an erasure."""
        return LakeRewriter(
            self._tables,
            self._archive,
            self._stop_on_error,
            self._lock.renew,
            self._loader.publish_positions,
        )

    def drain(self) -> LakeReport:
        """Step until all logs are loaded and no folder has too many small files."""
        rows_by_table: dict[str, int] = {}
        archived_rows = 0
        while not (report := self.step(flush=True)).is_idle:
            archived_rows += report.archived
            for name, count in report.rows.items():
                rows_by_table[name] = rows_by_table.get(name, 0) + count
        while self.upkeep():
            pass
        return LakeReport(rows_by_table, archived_rows, report.positions)

    def count_pending_rows(self) -> int:
        """Return the number of rows of routed and answer logs that are not loaded yet."""
        return self._loader.count_pending_rows()

    def may_have_grown(self) -> bool:
        """Return whether any log may have grown since the last call; cheap enough to poll."""
        return self._feeds.may_have_grown()

    def close(self) -> None:
        """Release logs and lock; harmless when already closed."""
        self._feeds.close()
        self._lock.release()

    def __enter__(self) -> "LakeRole":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def publish_positions(self) -> None:
        """Mirror the ledger and store how far the tables are, after a rebuild."""
        with self._stop_on_error():
            self._loader.mirror_ledger({}, 1)
            self._loader.publish_positions()

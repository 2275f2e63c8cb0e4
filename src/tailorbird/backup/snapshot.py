"""The lake and the logs of a running project as of one moment.

Restored positions must not lie beyond the logs, and no row may be missing between them. So each
file is read before the files that its positions are about:

    positions.json ─► ledger, manifest of the archive     the lake; its files never change
    scores.db ─► routed.db ─► answers-*.db, raw-*.db      read transactions, opened one by one

In between, a writer may prune rows that the lake has meanwhile. `require_connected` notices, and
the caller starts again. The logs are copied inside their transactions, which keep a WAL from
shrinking, so this goes to a local folder and not over a network.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import apsw

from tailorbird.backup.manifest import LogSpan
from tailorbird.errors import DamageError, NotReadyError
from tailorbird.events.suppression import ERASED_COUNT_FILE
from tailorbird.lake.delta.commits import commit_path
from tailorbird.lake.delta.recovery import ledger_is_lost
from tailorbird.lake.delta.versions import TableVersion, version_at
from tailorbird.lake.files import swap
from tailorbird.lake.files.append_only import open_append_only
from tailorbird.lake.files.archive import Archive
from tailorbird.lake.files.ledger import Ledger
from tailorbird.lake.tables import TABLES
from tailorbird.lake.write.etl import ROUTED_TABLES
from tailorbird.lake.write.positions import Positions, load_positions, lost_ledger_fix
from tailorbird.storage_paths import StoragePath
from tailorbird.stream import raw_logs, response_logs, routed_path, scores_path, sqlite
from tailorbird.stream.reading import read_last_end, read_log_row
from tailorbird.stream.released import POSITIONS_FILE

_PAGES_PER_STEP = 2_048  # copied between two calls of progress
_REPLACED_FILES = (ERASED_COUNT_FILE, "pseudonyms.json")


class SnapshotMovedError(Exception):
    """A log was pruned between reading the lake and the log."""


@dataclass(frozen=True)
class LakeSnapshot:
    """The lake as of one line of its ledger.

    Attributes:
        positions: how far the lake has read each log.
        versions: version of each table.
        archive_ends: end of each raw log in the archive.
        files: path below the lake → SHA-256 of each file that never changes.
        replaced_files: path → content of files that are replaced.
        growing_files: path → content of files that grow.
    """

    positions: Positions = field(default_factory=Positions)
    versions: dict[str, TableVersion] = field(default_factory=dict)
    archive_ends: dict[str, int] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    replaced_files: dict[str, bytes] = field(default_factory=dict)
    growing_files: dict[str, bytes] = field(default_factory=dict)


def read_lake(lake: StoragePath) -> LakeSnapshot:
    """Read which files the lake has now; an empty snapshot without a lake.

    Raises:
        DamageError: ledger, positions or manifest are damaged or lost.
        NotReadyError: a rebuild was cut short.
    """
    if ledger_is_lost(lake):
        raise DamageError(
            "the ledger is missing, and tables have rows",
            where=str(lake),
            fix=lost_ledger_fix(lake),
        )
    if swap.is_unfinished(lake):
        raise NotReadyError(
            "a rebuild of the lake was cut short",
            where=str(lake),
            fix="tailorbird lake repair --yes completes it",
        )
    if not (lake / "ledger.jsonl").exists():
        return LakeSnapshot()
    positions = load_positions(lake)  # First, because ledger and archive may only be ahead of it.
    replaced_files = _read_replaced_files(lake)
    archive = Archive(lake / "archive")
    ledger = Ledger(lake / "ledger.jsonl")
    growing_files = {"ledger.jsonl": _read_first_lines(lake / "ledger.jsonl", len(ledger.lines))}
    if archive.files:
        growing_files["archive/manifest.jsonl"] = _read_first_lines(
            lake / "archive" / "manifest.jsonl", len(archive.files)
        )
    files = {f"archive/{file.file}": file.sha256 for file in archive.files}
    versions: dict[str, TableVersion] = {}
    for table in TABLES:
        commits = ledger.commits(table)
        if not commits:
            continue
        files |= _table_files(lake, table, ledger)
        versions |= version_at(lake, table, max(commits))
    archive_ends = {f"raw-{name}": end for name, end in archive.positions().items()}
    return LakeSnapshot(
        positions=positions,
        versions=versions,
        archive_ends=archive_ends,
        files=files,
        replaced_files=replaced_files,
        growing_files=growing_files,
    )


def _read_replaced_files(lake: StoragePath) -> dict[str, bytes]:
    content_by_name: dict[str, bytes] = {}
    for name in (POSITIONS_FILE, *_REPLACED_FILES):
        try:
            content_by_name[name] = (lake / name).read_bytes()
        except FileNotFoundError:
            continue
    return content_by_name


def _read_first_lines(path: StoragePath, count: int) -> bytes:
    """Return the first lines of a file that may have grown meanwhile."""
    lines = open_append_only(path).data.split(b"\n")[:count]
    return b"".join(line + b"\n" for line in lines)


def _table_files(lake: StoragePath, table: str, ledger: Ledger) -> dict[str, str]:
    """Return the files of a table: its rows, and the log from its beginning on."""
    first_version = ledger.first_log_version(table)
    files = {f"{table}/{file.path}": file.sha256 for file in ledger.files(table).values()}
    for version, line in ledger.commits(table).items():
        if version >= first_version:
            name = commit_path(lake / table, version).name
            files[f"{table}/_delta_log/{name}"] = line.commit_sha256
    for version, line in ledger.checkpoints(table).items():
        name = line.files[0].path
        if version >= first_version and (lake / table / "_delta_log" / name).exists():
            files[f"{table}/_delta_log/{name}"] = line.files[0].sha256
    return files


@dataclass(frozen=True)
class OpenLog:
    """A log file whose rows stay the same until its transaction ends."""

    path: Path
    connection: apsw.Connection
    partition: str
    span: LogSpan

    def copy_to(self, target: Path, progress: Callable[[int], None]) -> None:
        """Copy the file by SQLite's backup API."""
        target_connection = apsw.Connection(str(target))
        try:
            with sqlite.translate_errors(self.path):
                target_connection.execute(
                    "PRAGMA synchronous = 0"
                )  # A power cut ends the backup anyway.
                backup = target_connection.backup("main", self.connection, "main")
                try:
                    self._copy_pages(backup, progress)
                finally:
                    backup.finish()
        finally:
            target_connection.close()

    def _copy_pages(self, backup: apsw.Backup, progress: Callable[[int], None]) -> None:
        page_bytes = self.connection.execute("PRAGMA page_size").get
        remaining_pages: int | None = None
        while not backup.done:
            backup.step(_PAGES_PER_STEP)
            pages_before = backup.page_count if remaining_pages is None else remaining_pages
            remaining_pages = backup.remaining
            progress((pages_before - remaining_pages) * page_bytes)


@contextmanager
def open_log_snapshots(folder: Path) -> Iterator[list[OpenLog]]:
    """Open a read transaction on each log file, those with positions in others first."""
    with ExitStack() as stack:
        open_logs = [
            log
            for path in (scores_path(folder), routed_path(folder))
            for log in _open_log_snapshot(path, stack)
        ]
        # Listed here, because a producer that is new now may be in the routed log already.
        for paths in (response_logs(folder), raw_logs(folder)):
            open_logs += [log for path in paths.values() for log in _open_log_snapshot(path, stack)]
        yield open_logs


def _open_log_snapshot(path: Path, stack: ExitStack) -> list[OpenLog]:
    if not path.exists():
        return []
    connection = sqlite.connect_reader(path)
    stack.callback(connection.close)
    with sqlite.translate_errors(path):
        connection.execute("BEGIN")
        try:
            log_row = read_log_row(connection)
            partition = log_row.partition
            start = log_row.first
            end = max(log_row.end_min, read_last_end(connection).end)
        except apsw.SQLError:  # Its writer has just created the file, and acknowledged nothing.
            return []
    return [OpenLog(path, connection, partition, LogSpan(start, end))]


def require_connected(lake_snapshot: LakeSnapshot, logs: list[OpenLog]) -> None:
    """Raise SnapshotMovedError if rows lie in neither the lake nor a log."""
    for log in logs:
        stem = log.path.stem
        if stem == "scores":
            continue
        if stem == "routed":
            tables = lake_snapshot.positions.tables
            reached_row = min(tables.get(table, {}).get(stem, 0) for table in ROUTED_TABLES)
        elif stem.startswith("answers-"):
            reached_row = lake_snapshot.positions.tables.get("answers", {}).get(stem, 0)
        else:
            reached_row = min(
                lake_snapshot.archive_ends.get(stem, 0),
                lake_snapshot.positions.routed.get(log.partition, 0),
            )
        if log.span.start > reached_row and log.span.start > _read_origin(log):
            raise SnapshotMovedError(f"{log.path} was pruned up to {log.span.start:,}")


def _read_origin(log: OpenLog) -> int:
    """Return where a log began when it was made, which is not always 0."""
    return read_log_row(log.connection).origin

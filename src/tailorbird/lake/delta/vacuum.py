"""Delete the files that only old versions need: those that a compaction replaced, and the old part
of a table's log.

    data file    removed by a commit older than `keep_us`, or named by none
    commit file  older than `keep_us`, before a checkpoint that is too; the ledger says so first
    checkpoint   before that one

None holds a row that is not in the table. deltalake's own `vacuum` deletes nothing by default and
does not know the ledger. A crash leaves files that the next run deletes. The ledger keeps a line of
every commit for ever, with the position after each version, so reading an old version needs no old
file (`lake.delta.versions`).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from tailorbird import faults
from tailorbird.events.clock import DAY
from tailorbird.lake.files import durable
from tailorbird.lake.files.ledger import Ledger
from tailorbird.storage import storage_at
from tailorbird.storage_paths import StoragePath

FILE_PREFIX = "part-"
KEEP_US = 7 * DAY  # how long an earlier reader finds its files, unless `lake.history` is set
_LOG_FILE = re.compile(r"(\d{20})\.(json|checkpoint.*\.parquet)\Z")


@dataclass(frozen=True)
class VacuumReport:
    """Counts and bytes of the files deleted, or that would be deleted."""

    files: int = 0
    bytes: int = 0
    log_files: int = 0

    def __add__(self, other: "VacuumReport") -> "VacuumReport":
        return VacuumReport(
            self.files + other.files, self.bytes + other.bytes, self.log_files + other.log_files
        )


def unreferenced_files(
    table_path: StoragePath, table: str, ledger: Ledger, now: int, keep_us: int
) -> list[StoragePath]:
    """Return the data files that no commit names, or that were replaced so long ago that no reader
    needs them.

    On object storage a commit whose reply was lost may still arrive. So a file that no commit names
    stays until another commit has its version, because the storage then refuses its own.
    """
    named_files = set(ledger.files(table))
    for line in ledger.commits(table).values():
        if now - line.written_at < keep_us:
            named_files.update(line.removed)
    newest_version = max(ledger.commits(table), default=-1)
    may_arrive_late = storage_at(table_path).is_remote
    return [
        file
        for file, path_in_table in _data_files(table_path)
        if path_in_table not in named_files
        and not (may_arrive_late and _version_of_file(file.name) > newest_version)
    ]


def _data_files(table_path: StoragePath) -> list[tuple[StoragePath, str]]:
    files: list[tuple[StoragePath, str]] = [
        (file, relative_path(file, table_path))
        for file in table_path.rglob(f"{FILE_PREFIX}*.parquet")
    ]
    return sorted(files, key=lambda file: file[1])


def relative_path(file: StoragePath, folder: StoragePath) -> str:
    """Return the path of a file below a folder of the same storage."""
    return str(file)[len(str(folder)) + 1 :]


def _version_of_file(name: str) -> int:
    """Return the version for which a data file was written."""
    digits = name.removeprefix(FILE_PREFIX).partition("-")[0]
    return int(digits) if digits.isdigit() else -1


def first_needed_version(table: str, ledger: Ledger, now: int, keep_us: int) -> int:
    """Return the version from which the log is needed: the newest checkpoint older than `keep_us`,
    or its current beginning.
    """
    old_checkpoints = [
        version
        for version, line in ledger.checkpoints(table).items()
        if now - line.written_at >= keep_us
    ]
    return max([ledger.first_log_version(table), *old_checkpoints])


def vacuum(
    table_path: StoragePath,
    table: str,
    ledger: Ledger,
    now: int,
    keep_us: int,
    *,
    dry_run: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> VacuumReport:
    """Delete the unneeded files of one table. Only for the lake's writer, between two commits.

    Args:
        dry_run: only count what would be deleted.
        progress: called with 1 for each file.
    """
    data_files = unreferenced_files(table_path, table, ledger, now, keep_us)
    first_version = first_needed_version(table, ledger, now, keep_us)
    if first_version > ledger.first_log_version(table) and not _checkpoint_matches(
        table_path, table, ledger, first_version
    ):
        first_version = ledger.first_log_version(table)
    log_files = [file for file, version in _log_files(table_path) if version < first_version]
    report = VacuumReport(
        len(data_files),
        sum(file.stat().st_size for file in (*data_files, *log_files)),
        len(log_files),
    )
    if dry_run:
        return report
    if first_version > ledger.first_log_version(table):
        faults.fire_if_armed("vacuum.before_ledger")
        ledger.append(
            "trimmed", table, first_version, written_at=now
        )  # First, so that a check knows why they are missing.
    faults.fire_if_armed("vacuum.before_delete")
    for file in (*data_files, *log_files):
        with durable.translate_disk_errors(file):
            file.unlink()
        faults.fire_if_armed("vacuum.between_deletes")
        progress(1)
    for folder in {file.parent for file in (*data_files, *log_files)}:
        durable.sync_folder(folder)
    faults.fire_if_armed("vacuum.after_delete")
    return report


def _checkpoint_matches(table_path: StoragePath, table: str, ledger: Ledger, version: int) -> bool:
    """Return whether the checkpoint with which the log would begin is intact."""
    checkpoint_record = ledger.checkpoints(table)[version].files[0]
    file = table_path / "_delta_log" / checkpoint_record.path
    return file.exists() and durable.sha256_of(file) == checkpoint_record.sha256


def _log_files(table_path: StoragePath) -> list[tuple[StoragePath, int]]:
    log_folder = table_path / "_delta_log"
    names = sorted(entry.name for entry in log_folder.iterdir())
    return [
        (log_folder / name, int(match[1])) for name in names if (match := _LOG_FILE.match(name))
    ]

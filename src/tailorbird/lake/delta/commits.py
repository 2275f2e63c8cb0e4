"""Commits of a table: their files, their counts, and their lines in the ledger."""

import msgspec

from tailorbird import faults
from tailorbird.errors import DamageError
from tailorbird.lake.files import durable
from tailorbird.lake.files.ledger import Ledger, LedgerFile, LedgerLine
from tailorbird.storage_paths import StoragePath

COMMIT_INFO = "tailorbird"  # our key in the commit info


class CommitInfo(msgspec.Struct, frozen=True):
    """Counts in the commit info of our own commits, by which a torn one shows."""

    files: int
    rows: int
    removed: int = 0  # files that were replaced
    columns: int = 0  # added columns
    token: str = ""  # identifies the commit to its writer if the reply was lost


def commit_path(table_path: StoragePath, version: int) -> StoragePath:
    """Return the path of a commit file."""
    return table_path / "_delta_log" / f"{version:020d}.json"


def checkpoint_path(table_path: StoragePath, version: int) -> StoragePath:
    """Return the path of a checkpoint."""
    return table_path / "_delta_log" / f"{version:020d}.checkpoint.parquet"


def record_commit(
    table_path: StoragePath,
    table: str,
    version: int,
    ledger: Ledger,
    *,
    written_at: int,
    rows: int = 0,
    positions: dict[str, int] | None = None,
    files: list[LedgerFile] | None = None,
    removed_paths: list[str] | None = None,
) -> LedgerLine:
    """Sync a commit file that deltalake wrote, and append it to the ledger."""
    commit_file = commit_path(table_path, version)
    durable.sync_file(commit_file)
    durable.sync_folder(commit_file.parent)
    durable.sync_folder(table_path)
    faults.fire_if_armed("lake.after_sync")
    line = ledger.append(
        "commit",
        table,
        version,
        rows=rows,
        positions=positions,
        files=files,
        removed=removed_paths,
        commit_sha256=durable.sha256_of(commit_file),
        written_at=written_at,
    )
    faults.fire_if_armed("lake.after_ledger")
    return line


def verify_commit(lake: StoragePath, line: LedgerLine) -> None:
    """Compare the files of a commit on disk with the ledger's line. Raises DamageError."""
    if line.kind != "commit":
        return
    folder = lake / line.table
    for path, expected_sha256 in [
        (commit_path(folder, line.version), line.commit_sha256),
        *((folder / file.path, file.sha256) for file in line.files),
    ]:
        if durable.sha256_of(path) != expected_sha256:
            raise DamageError(
                f"version {line.version} of table {line.table} does not read back as it was "
                "written",
                where=str(path),
                fix="look at the disk; the log still has the rows",
            )

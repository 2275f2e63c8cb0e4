"""Check a table against the ledger before the lake role writes to it, and undo what a crash left.

    last commit complete, not in the ledger
        entered into the ledger: the crash came between the two
    last commit torn, not in the ledger
        set aside; its position was never published, so its rows are appended again
    orphan commits of another writer at the end
        set aside, with the files that they brought (`lake.delta.orphans`)
    last commit in the ledger, corrupt
        set aside and withdrawn, if the log still has its rows
    any other commit missing or corrupt
        DamageError with file and version
    checkpoint that the ledger does not know
        set aside: the commit files hold everything
    data file that no commit names
        removed: the crash came before the commit

A trimmed log (`lake.delta.vacuum`) begins with a checkpoint, which must be intact. Every commit
file is read and hashed. Of data files only name and size are checked here; `lake.verify` checks
their content.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from deltalake.exceptions import DeltaError

from tailorbird.errors import DamageError, TailorbirdError
from tailorbird.events.clock import Clock
from tailorbird.lake.delta import orphans
from tailorbird.lake.delta.commits import commit_path
from tailorbird.lake.delta.connection import unreadable_error
from tailorbird.lake.delta.corruption import corrupt_file_error, file_corruption
from tailorbird.lake.delta.orphans import list_versions, unknown_commit_fault
from tailorbird.lake.delta.vacuum import KEEP_US, unreferenced_files
from tailorbird.lake.files import durable
from tailorbird.lake.files.ledger import Ledger, LedgerFile, LedgerLine
from tailorbird.lake.tables import TABLES, TableSpec
from tailorbird.storage_paths import StoragePath

_REPAIR_FIX = (
    "tailorbird lake repair rebuilds the table, if its rows have a second source; else restore "
    "the file from the backup"
)


@dataclass(frozen=True)
class Recovery:
    """Something that the check undid, and how."""

    table: str
    version: int
    action: str  # "recovered", "set aside", "withdrawn" or "removed"
    detail: str


def check_table(
    table_path: StoragePath,
    spec: TableSpec,
    ledger: Ledger,
    aside_folder: StoragePath,
    clock: Clock,
    *,
    can_replay_from: Callable[[dict[str, int]], bool],
    keep_us: int = KEEP_US,
) -> list[Recovery]:
    """Check one table, which may be absent, and undo what a crash may have left.

    Args:
        aside_folder: the folder into which corrupt files are moved.
        can_replay_from: return whether the logs still hold the rows from these positions on.
        keep_us: how long files stay whose rows are in others now.

    Raises:
        DamageError: no crash explains the corruption, or the logs no longer hold its rows.
    """
    commits = ledger.commits(spec.name)
    recoveries = _set_orphans_aside(table_path, spec, ledger, aside_folder)
    newest_version = max([*commits, *list_versions(table_path)], default=-1)
    for version in range(ledger.first_log_version(spec.name), newest_version + 1):
        if (
            commit_corruption(table_path, version, commits.get(version)) is None
            and version in commits
        ):
            continue
        recoveries.append(
            _recover_last_commit(
                table_path,
                spec,
                version,
                newest_version=newest_version,
                commits=commits,
                ledger=ledger,
                aside_folder=aside_folder,
                clock=clock,
                can_replay_from=can_replay_from,
            )
        )
    _check_files(table_path, spec, ledger)
    recoveries += _set_checkpoints_aside(table_path, spec, ledger, aside_folder)
    for file in (
        unreferenced_files(table_path, spec.name, ledger, clock.now(), keep_us)
        if table_path.is_dir()
        else []
    ):
        file.unlink()
        recoveries.append(
            Recovery(spec.name, -1, "removed", f"{file}: not, or no longer, part of the table")
        )
    return recoveries


def ledger_is_lost(lake: StoragePath) -> bool:
    """Return whether tables have rows and there is no ledger.

    A new ledger would have the newest commit of each table only.
    """
    return not (lake / "ledger.jsonl").exists() and any(
        max(list_versions(lake / table), default=0) > 0 for table in TABLES
    )


def commit_corruption(table_path: StoragePath, version: int, line: LedgerLine | None) -> str | None:
    """Return what is corrupt in a commit file, or None; `line` is its ledger entry."""
    file = commit_path(table_path, version)
    if not file.exists():
        return "is missing"
    data = file.read_bytes()
    if line is None:
        return unknown_commit_fault(data, version)
    if hashlib.sha256(data).hexdigest() == line.commit_sha256:
        return None
    return "is empty" if not data else "does not match the ledger's checksum"


@contextmanager
def translate_open_errors(lake: StoragePath, table: str) -> Iterator[None]:
    """Name the file of the log to blame when opening a table within fails.

    Raises:
        DamageError, StorageError: a file is corrupt, missing or an orphan, or, if none is, the
            message of deltalake.
    """
    try:
        yield
    except Exception as error:  # deltalake raises what it likes
        ledger = Ledger(lake / "ledger.jsonl")
        for file, fault in log_corruptions(lake / table, table, ledger):
            raise corrupt_file_error(f"a file of the log of table {table} {fault}", file) from error
        if not isinstance(error, TailorbirdError | DeltaError):
            raise
        for orphan in orphans.find_orphans(lake / table, ledger.commits(table)):
            raise DamageError(
                f"a file of the log of table {table} {orphan.problem}",
                where=str(orphan.file),
                fix=orphan.remedy,
            ) from error
        if isinstance(error, DeltaError):
            raise unreadable_error(lake / table, error) from error
        raise


def log_corruptions(
    table_path: StoragePath, table: str, ledger: Ledger
) -> Iterator[tuple[StoragePath, str]]:
    """Yield the corrupt files of a table's log that the ledger knows, and what is corrupt."""
    first_version = ledger.first_log_version(table)
    for version, line in sorted(ledger.commits(table).items()):
        fault = commit_corruption(table_path, version, line) if version >= first_version else None
        if fault is not None:
            yield commit_path(table_path, version), fault
    for version, line in sorted(ledger.checkpoints(table).items()):
        file = table_path / "_delta_log" / line.files[0].path
        is_needed = version == first_version or (version > first_version and file.exists())
        if is_needed and (fault := file_corruption(file, line.files[0])) is not None:
            yield file, fault


def _set_orphans_aside(
    table_path: StoragePath, spec: TableSpec, ledger: Ledger, aside_folder: StoragePath
) -> list[Recovery]:
    """Set orphan commits at the end of the log aside, which readers would believe."""
    commits = ledger.commits(spec.name)
    if not orphans.are_all_foreign(orphans.orphan_commits(table_path, commits)):
        return []
    named_files = {file.path for line in commits.values() for file in line.files}
    moved_orphans = [
        (orphan, orphans.set_orphan_aside(orphan.file, named_files, aside_folder / spec.name))
        for orphan in reversed(orphans.find_orphans(table_path, commits))
    ]
    return [
        Recovery(
            spec.name,
            orphan.version,
            "set aside",
            f"{orphan.file}: {orphan.problem}; kept as {moved_path}",
        )
        for orphan, moved_path in moved_orphans
    ]


def _recover_last_commit(
    table_path: StoragePath,
    spec: TableSpec,
    version: int,
    newest_version: int,
    commits: dict[int, LedgerLine],
    ledger: Ledger,
    aside_folder: StoragePath,
    clock: Clock,
    can_replay_from: Callable[[dict[str, int]], bool],
) -> Recovery:
    commit_file = commit_path(table_path, version)
    fault = commit_corruption(table_path, version, commits.get(version))
    if fault is None:
        return _enter_commit(table_path, spec, version, ledger, clock)
    if version != newest_version:
        fix = (
            _REPAIR_FIX
            if version <= max(commits, default=-1)
            else orphans.describe_remedy(table_path, set_aside_at_start=False)
        )
        raise DamageError(
            f"version {version} of table {spec.name} {fault}, and later versions stand on it",
            where=str(commit_file),
            fix=fix,
        )
    line = commits.get(version)
    if line is not None and not (version > 0 and can_replay_from(_replay_positions(line, commits))):
        raise DamageError(
            f"version {version} of table {spec.name} {fault}, and the log no longer holds its rows",
            where=str(commit_file),
            fix=_REPAIR_FIX,
        )
    moved_file = (
        durable.move_aside(commit_file, aside_folder / spec.name) if commit_file.exists() else None
    )
    if line is None:
        return Recovery(
            spec.name,
            version,
            "set aside",
            f"{commit_file} {fault}; its rows are appended again"
            + (f"; kept as {moved_file}" if moved_file else ""),
        )
    ledger.append("withdrawn", spec.name, version, written_at=clock.now())
    if line.removed:
        detail = f"{commit_file} {fault}; it only put files together, and they are still there"
        return Recovery(spec.name, version, "set aside", detail)
    detail = f"{commit_file} {fault}; its {line.rows} rows are appended again"
    return Recovery(spec.name, version, "withdrawn", detail)


def _replay_positions(line: LedgerLine, commits: dict[int, LedgerLine]) -> dict[str, int]:
    """Return for each log of a commit the position from which its rows must be read again."""
    earlier_positions: dict[str, int] = {}
    for version in sorted(commits):
        if version < line.version:
            earlier_positions.update(commits[version].positions)
    return {log: earlier_positions.get(log, 0) for log in line.positions}


def enter_commits(table_path: StoragePath, spec: TableSpec, ledger: Ledger, clock: Clock) -> None:
    """Enter the complete commits after the last one of a table that the ledger knows.

    Raises:
        DamageError: one of them names a data file that is missing or incomplete.
    """
    newest_known_version = max(ledger.commits(spec.name), default=-1)
    for version in list_versions(table_path):
        if version > newest_known_version:
            if commit_corruption(table_path, version, None) is not None:
                break
            _enter_commit(table_path, spec, version, ledger, clock)


def _enter_commit(
    table_path: StoragePath, spec: TableSpec, version: int, ledger: Ledger, clock: Clock
) -> Recovery:
    """Enter a complete commit into the ledger; its data was synced before it was committed."""
    commit_file = commit_path(table_path, version)
    durable.sync_file(commit_file)
    durable.sync_folder(commit_file.parent)
    files: list[LedgerFile] = []
    positions: dict[str, int] = {}
    removed_paths: list[str] = []
    total_rows = 0
    data = commit_file.read_bytes()
    for action in map(json.loads, data.splitlines()):
        if "add" in action:
            add_action = action["add"]
            name = add_action["path"]
            row_count = json.loads(add_action["stats"])["numRecords"]
            data_file = table_path / name
            if not data_file.exists() or data_file.stat().st_size != add_action["size"]:
                raise DamageError(
                    f"version {version} of table {spec.name} names a file that is incomplete",
                    where=str(data_file),
                    fix=_REPAIR_FIX,
                )
            files.append(
                LedgerFile(name, add_action["size"], durable.sha256_of(data_file), row_count)
            )
            total_rows += row_count
        elif "remove" in action:
            removed_paths.append(action["remove"]["path"])
        elif "txn" in action:
            positions[action["txn"]["appId"]] = action["txn"]["version"]
    ledger.append(
        "commit",
        spec.name,
        version,
        rows=0 if removed_paths else total_rows,
        positions=positions,
        files=files,
        removed=removed_paths,
        commit_sha256=hashlib.sha256(data).hexdigest(),
        written_at=clock.now(),
    )
    return Recovery(
        spec.name, version, "recovered", f"{total_rows} rows were committed just before the crash"
    )


def _check_files(table_path: StoragePath, spec: TableSpec, ledger: Ledger) -> None:
    for file in ledger.files(spec.name).values():
        data_file = table_path / file.path
        try:
            size = data_file.stat().st_size
        except OSError:
            size = -1
        if size != file.size:
            fault = "is missing" if size < 0 else f"has {size} bytes, the ledger says {file.size}"
            raise DamageError(
                f"a file of table {spec.name} {fault}", where=str(data_file), fix=_REPAIR_FIX
            )


def _set_checkpoints_aside(
    table_path: StoragePath, spec: TableSpec, ledger: Ledger, aside_folder: StoragePath
) -> list[Recovery]:
    """Set aside checkpoints that the ledger does not vouch for.

    A hint to a missing checkpoint makes a table unreadable, so it goes as well.
    """
    log_folder = table_path / "_delta_log"
    if not log_folder.is_dir():
        return []
    checkpoints = ledger.checkpoints(spec.name)
    newest_version = max(ledger.commits(spec.name), default=-1)
    vouched_versions: set[int] = set()
    unvouched_checkpoints: list[tuple[int, StoragePath]] = []
    recoveries: list[Recovery] = []
    for file in sorted(log_folder.iterdir()):
        match = orphans.CHECKPOINT_FILE.match(file.name)
        if not match:
            continue
        version = int(match[1])
        line = checkpoints.get(version)
        if (
            version <= newest_version
            and line is not None
            and durable.sha256_of(file) == line.files[0].sha256
        ):
            vouched_versions.add(version)
        else:
            unvouched_checkpoints.append((version, file))
    first_version = ledger.first_log_version(spec.name)
    if first_version and max(vouched_versions, default=-1) < first_version:
        raise DamageError(
            f"the log of table {spec.name} begins at version {first_version}, and no checkpoint of "
            "it or later is intact",
            where=str(log_folder),
            fix=_REPAIR_FIX,
        )
    for version, file in unvouched_checkpoints:
        moved_file = durable.move_aside(file, aside_folder / spec.name)
        recoveries.append(
            Recovery(
                spec.name,
                version,
                "set aside",
                f"a corrupt checkpoint, as {moved_file}; nothing needs it",
            )
        )
    hint_file = log_folder / orphans.HINT_FILE
    if hint_file.exists() and orphans.hinted_version(hint_file) != max(
        vouched_versions, default=None
    ):
        durable.move_aside(hint_file, aside_folder / spec.name)
        recoveries.append(
            Recovery(spec.name, -1, "set aside", "the hint to a checkpoint that is not there")
        )
    return recoveries

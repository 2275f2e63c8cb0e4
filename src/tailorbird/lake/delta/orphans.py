"""Orphans in the log of a table: files that no ledger entry names, which readers believe anyway.

    a commit after the ledger's last that is torn or another writer's, and all later ones
    a checkpoint or another file of such a version, with which readers begin
    a hint to a missing checkpoint or to such a one, which makes the table unreadable

`lake.verify` reports them. `lake.delta.recovery`, at the start of the role, and `lake.rebuild` set
them aside. None is deleted.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

import msgspec

from tailorbird.lake.delta.commits import COMMIT_INFO, CommitInfo, commit_path
from tailorbird.lake.files import durable
from tailorbird.lake.files.ledger import LedgerLine
from tailorbird.storage import storage_at
from tailorbird.storage_paths import StoragePath

CHECKPOINT_FILE = re.compile(r"(\d{20})\.checkpoint.*\.parquet\Z")
HINT_FILE = "_last_checkpoint"
FOREIGN_REASON = "is not the lake's own"
MISSING_CHECKPOINT_REASON = "names a checkpoint that is not there"

_COMMIT = re.compile(r"(\d{20})\.json\Z")
_NON_COMMIT_FILE = re.compile(
    r"(\d{20})\.(?!json\Z).+\Z"
)  # checkpoints, and other writers' files of a commit
_MANUAL_REMEDY = (
    "move it and the files of later versions out of _delta_log, the newest first, then start "
    "the lake role"
)


@dataclass(frozen=True)
class Orphan:
    """A file of a table's log that readers believe and nothing vouches for, and its remedy."""

    file: StoragePath
    version: int
    problem: str
    remedy: str


def list_versions(table_path: StoragePath) -> list[int]:
    """Return the versions with a commit file in the log of a table."""
    log_folder = table_path / "_delta_log"
    names = [entry.name for entry in log_folder.iterdir()] if log_folder.is_dir() else []
    return sorted(int(match[1]) for name in names if (match := _COMMIT.match(name)))


def unknown_commit_fault(data: bytes, version: int) -> str | None:
    """Return what is wrong with a commit that the ledger does not know, or None.

    Our own commits have the number of their files and rows.
    """
    if not data:
        return "is empty"
    try:
        actions = [json.loads(line) for line in data.splitlines()]
        keys = [next(iter(action)) for action in actions]
        if version == 0:
            return None if {"protocol", "metaData"} <= set(keys) else "is incomplete"
        commit_info = actions[keys.index("commitInfo")]["commitInfo"]
        if COMMIT_INFO not in commit_info:
            return FOREIGN_REASON
        own_info = msgspec.convert(commit_info[COMMIT_INFO], CommitInfo)
        row_counts = [
            json.loads(action["add"]["stats"])["numRecords"]
            for action in actions
            if "add" in action
        ]
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        StopIteration,
        msgspec.ValidationError,
    ):
        return "is incomplete"
    is_complete = (
        len(row_counts) == own_info.files
        and sum(row_counts) == own_info.rows
        and keys.count("remove") == own_info.removed
    )
    has_effect = "txn" in keys or own_info.removed or (own_info.columns and "metaData" in keys)
    return None if is_complete and has_effect else "is incomplete"


def orphan_commits(
    table_path: StoragePath, commits: Mapping[int, LedgerLine]
) -> list[tuple[int, str]]:
    """Return the commits after the ledger's last, from the first orphan on, and what is wrong.

    A complete commit of our own that the ledger does not know was made just now, or before a crash.
    """
    later_versions = [
        version for version in list_versions(table_path) if version > max(commits, default=-1)
    ]
    later_faults = [
        (version, unknown_commit_fault(commit_path(table_path, version).read_bytes(), version))
        for version in later_versions
    ]
    first_orphan_version = next(
        (version for version, fault in later_faults if fault is not None), None
    )
    return [
        (version, fault or f"stands on one that {FOREIGN_REASON}")
        for version, fault in later_faults
        if first_orphan_version is not None and version >= first_orphan_version
    ]


def are_all_foreign(orphan_faults: list[tuple[int, str]]) -> bool:
    """Return whether all of these are complete commits of another writer, which nothing needs.

    A torn one may be our own.
    """
    return all(fault == FOREIGN_REASON for _, fault in orphan_faults)


def describe_remedy(table_path: StoragePath, *, set_aside_at_start: bool) -> str:
    """Return the remedy for orphans in the log of a table.

    Args:
        set_aside_at_start: whether the role sets them aside when it starts.
    """
    if not storage_at(table_path).is_remote:
        return "tailorbird lake repair sets it aside"
    return "the lake role sets it aside when it starts" if set_aside_at_start else _MANUAL_REMEDY


def find_orphans(table_path: StoragePath, own_commits: Mapping[int, LedgerLine]) -> list[Orphan]:
    """Return the orphans in the log of a table, and the hint to one.

    Set them aside from the last to the first, so that a crash in between hides none of the rest.

    Args:
        own_commits: the table's commits in the ledger.
    """
    if not (log_folder := table_path / "_delta_log").is_dir():
        return []
    orphan_faults = orphan_commits(table_path, own_commits)
    orphan_remedy = describe_remedy(
        table_path, set_aside_at_start=are_all_foreign(orphan_faults) or len(orphan_faults) == 1
    )  # A crash may leave a torn one.
    orphans = [
        Orphan(
            commit_path(table_path, version),
            version,
            f"version {version} {fault}, and the ledger does not know it",
            orphan_remedy,
        )
        for version, fault in orphan_faults
    ]
    newest_own_version = max(own_commits, default=-1)
    oldest_orphan_version = min((version for version, _ in orphan_faults), default=None)
    version_by_file_name: dict[str, int] = {
        entry.name: int(match[1])
        for entry in log_folder.iterdir()
        if (match := _NON_COMMIT_FILE.match(entry.name))
    }
    orphan_names = {
        name
        for name, version in version_by_file_name.items()
        if version > newest_own_version
        and (
            (oldest_orphan_version is not None and version >= oldest_orphan_version)
            or not commit_path(table_path, version).exists()
        )
    }
    orphans += [
        Orphan(
            log_folder / name,
            version_by_file_name[name],
            f"is of version {version_by_file_name[name]}, which {FOREIGN_REASON}",
            orphan_remedy,
        )
        for name in sorted(orphan_names)
    ]
    checkpoint_version = hinted_version(log_folder / HINT_FILE)
    if checkpoint_version is not None:
        checkpoint_names = {
            name
            for name, version in version_by_file_name.items()
            if version == checkpoint_version and CHECKPOINT_FILE.match(name)
        }
        if not checkpoint_names - orphan_names:
            message = (
                f"names a checkpoint that {FOREIGN_REASON}"
                if checkpoint_names
                else MISSING_CHECKPOINT_REASON
            )
            orphans.append(
                Orphan(
                    log_folder / HINT_FILE,
                    -1,
                    f"{message}, of version {checkpoint_version}",
                    orphan_remedy,
                )
            )
    return orphans


def hinted_version(hint_file: StoragePath) -> int | None:
    """Return the version of the checkpoint that the hint names, or None if it cannot be read."""
    try:
        version = json.loads(hint_file.read_bytes())["version"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return version if isinstance(version, int) else None


def set_orphan_aside(
    file: StoragePath, named_files: Collection[str], folder: StoragePath
) -> StoragePath:
    """Move an orphan into `folder`, after the data files that an orphan commit brought.

    The role would delete those, because no commit of the ledger names them.

    Args:
        named_files: the data files of our own commits, which stay.

    Returns:
        Its new path.
    """
    for path in data_files_of_orphan(file, named_files):
        durable.move_aside(file.parent.parent / path, folder)
    return durable.move_aside(file, folder)


def data_files_of_orphan(file: StoragePath, named_files: Collection[str]) -> list[str]:
    """Return the data files that an orphan commit brought, except those that our commits name."""
    if (
        not _COMMIT.match(file.name)
        or unknown_commit_fault(data := file.read_bytes(), -1) != FOREIGN_REASON
    ):
        return []
    table = file.parent.parent
    return [
        path for path in _added_files(data) if path not in named_files and (table / path).is_file()
    ]


def _added_files(data: bytes) -> Iterator[str]:
    """Yield the data files that a commit adds and that are below the table's folder."""
    for action in map(json.loads, data.splitlines()):
        path = unquote(str(action.get("add", {}).get("path", "")))
        if path and ":" not in path and not path.startswith("/") and ".." not in path.split("/"):
            yield path

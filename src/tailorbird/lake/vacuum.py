"""Removing for good what only the past needs: files whose rows were put together with others, and
the old part of a table's log.

    data file    removed by a commit that is older than `keep_us`, or named by none   → deleted
    commit file  older than `keep_us`, and below a checkpoint that is so too          → deleted, once the ledger says so
    checkpoint   below that one                                                       → deleted

Nothing of it holds a row that is not in the table. deltalake's own `vacuum` is not used: by default
it deletes nothing, and it knows nothing of the ledger. A crash at any point leaves files that the
next run deletes. The ledger keeps a line of every commit for ever, and with it the position behind
each version: reading as of an old version needs no old file (`lake.versions`).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from tailorbird import faults
from tailorbird.events.clock import DAY
from tailorbird.lake import durable
from tailorbird.lake.ledger import Ledger
from tailorbird.places import ObjectPath, Place

FILE_PREFIX = "part-"
KEEP_US = (
    7 * DAY
)  # for which a reader that began before finds its files, unless `lake.history` says otherwise
_LOG_FILE = re.compile(r"(\d{20})\.(json|checkpoint.*\.parquet)\Z")


@dataclass(frozen=True)
class Vacuumed:
    """What was deleted, or would be."""

    files: int = 0
    bytes: int = 0
    log_files: int = 0

    def __add__(self, other: "Vacuumed") -> "Vacuumed":
        return Vacuumed(
            self.files + other.files, self.bytes + other.bytes, self.log_files + other.log_files
        )


def needless_files(path: Place, table: str, ledger: Ledger, now: int, keep_us: int) -> list[Place]:
    """Data files that no commit names, or that were put together with others so long ago that no
    reader needs them.

    On object storage a commit whose reply was lost may still be on its way. So a file that no
    commit names stays until the version that it was written for is another commit's: from then on
    the storage refuses its own.
    """
    named = set(ledger.files(table))
    for line in ledger.commits(table).values():
        if now - line.written_at < keep_us:
            named.update(line.removed)
    newest = max(ledger.commits(table), default=-1)
    late = isinstance(path, ObjectPath)
    return [
        file
        for file, below in _data_files(path)
        if below not in named and not (late and _version(file.name) > newest)
    ]


def _data_files(path: Place) -> list[tuple[Place, str]]:
    found: list[tuple[Place, str]] = [
        (file, below_of(file, path)) for file in path.rglob(f"{FILE_PREFIX}*.parquet")
    ]
    return sorted(found, key=lambda each: each[1])


def below_of(file: Place, folder: Place) -> str:
    """The path of a file below a folder of the same storage."""
    return str(file)[len(str(folder)) + 1 :]


def _version(name: str) -> int:
    """For which version a data file was written."""
    digits = name.removeprefix(FILE_PREFIX).partition("-")[0]
    return int(digits) if digits.isdigit() else -1


def log_begin(table: str, ledger: Ledger, now: int, keep_us: int) -> int:
    """The version from which the log is needed: that of the newest checkpoint older than `keep_us`,
    or where it begins already.
    """
    old = [
        version
        for version, line in ledger.checkpoints(table).items()
        if now - line.written_at >= keep_us
    ]
    return max([ledger.log_begin(table), *old])


def vacuum(
    path: Place,
    table: str,
    ledger: Ledger,
    now: int,
    keep_us: int,
    *,
    dry_run: bool = False,
    told: Callable[[int], None] = lambda _: None,
) -> Vacuumed:
    """Delete what nobody needs of one table. Only for the lake's writer, between two commits.

    Args:
        dry_run: only say what would be deleted.
        told: called with 1 for each file.
    """
    data = needless_files(path, table, ledger, now, keep_us)
    begin = log_begin(table, ledger, now, keep_us)
    if begin > ledger.log_begin(table) and not _checkpoint_whole(path, table, ledger, begin):
        begin = ledger.log_begin(table)
    log = [file for file, version in _log_files(path) if version < begin]
    found = Vacuumed(len(data), sum(file.stat().st_size for file in (*data, *log)), len(log))
    if dry_run:
        return found
    if begin > ledger.log_begin(table):
        faults.at("vacuum.before_ledger")
        ledger.append(
            "trimmed", table, begin, written_at=now
        )  # first: a check that misses them must know why
    faults.at("vacuum.before_delete")
    for file in (*data, *log):
        with durable.disk_errors(file):
            file.unlink()
        faults.at("vacuum.between_deletes")
        told(1)
    for folder in {file.parent for file in (*data, *log)}:
        durable.sync_folder(folder)
    faults.at("vacuum.after_delete")
    return found


def _checkpoint_whole(path: Place, table: str, ledger: Ledger, version: int) -> bool:
    """Whether what the log will begin with reads as it was written; else nothing of the log is
    deleted.
    """
    expected = ledger.checkpoints(table)[version].files[0]
    file = path / "_delta_log" / expected.path
    return file.exists() and durable.sha256_of(file) == expected.sha256


def _log_files(path: Place) -> list[tuple[Place, int]]:
    log = path / "_delta_log"
    names = sorted(entry.name for entry in log.iterdir())
    return [(log / name, int(match[1])) for name in names if (match := _LOG_FILE.match(name))]

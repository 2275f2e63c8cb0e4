"""Recognise corrupt files, and turn a library's read error into one that names the file and the
remedy.

The ledger decides whether a file is corrupt, never the text of an error, which changes with each
release of a library. An error that no file explains is raised as it is.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

import pyarrow as pa

from tailorbird.errors import DamageError, StorageError, TailorbirdError
from tailorbird.lake.files import durable
from tailorbird.lake.files.ledger import Ledger
from tailorbird.storage import storage_at
from tailorbird.storage_paths import StoragePath

_LOCAL_FIX = "tailorbird lake verify names what is corrupt, tailorbird lake repair rebuilds it"
_BUCKET_FIX = (
    "restore the earlier version of this object; tailorbird lake verify names what else is corrupt"
)


def corrupt_file_error(message: str, file_path: StoragePath) -> DamageError:
    """Return the error about a corrupt file of a table, with the remedy for its kind of storage."""
    fix = _BUCKET_FIX if storage_at(file_path).is_remote else _LOCAL_FIX
    return DamageError(message, where=str(file_path), fix=fix)


class FileRecord(Protocol):
    """Size and checksum of a file of a table or of the archive, as recorded when it was written."""

    @property
    def size(self) -> int: ...
    @property
    def sha256(self) -> str: ...


def file_corruption(path: StoragePath, file: FileRecord) -> str | None:
    """Return what is corrupt in a file by its record in ledger or manifest, or None. Reads it."""
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    if size != file.size:
        return f"has {size:,} bytes, {file.size:,} were written"
    return None if durable.sha256_of(path) == file.sha256 else "does not match its checksum"


@contextmanager
def translate_read_errors(
    lake: StoragePath, table: str, list_paths: Callable[[], Iterable[str]]
) -> Iterator[None]:
    """Name the file to blame when reading data files within fails.

    Args:
        list_paths: the files being read, below the table's folder; called only after a failure.

    Raises:
        DamageError: a file is corrupt or missing.
        StorageError: a file was deleted during the read, because its rows are in another one now.
    """
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        if (
            corruption_error := find_corrupt_file_error(lake, table, list_paths(), str(error))
        ) is None:
            raise
        raise corruption_error from error


def find_corrupt_file_error(
    lake: StoragePath, table: str, paths: Iterable[str], message: str
) -> TailorbirdError | None:
    """Return the error about the first corrupt file, or None. Files that `message` names are
    checked first.
    """
    ledger = Ledger(lake / "ledger.jsonl")
    known_files = {
        file.path: file for line in ledger.commits(table).values() for file in line.files
    }
    live_files = ledger.files(table)
    for path in sorted(paths, key=lambda path: path.rpartition("/")[2] not in message):
        file_path = lake / table / path
        file = known_files.get(path)
        if file is not None:
            fault = file_corruption(file_path, file)
        else:
            fault = None if file_path.is_file() else "is missing"
        if fault is None:
            continue
        if path in known_files and path not in live_files and not file_path.is_file():
            return StorageError(
                f"a data file of table {table} was deleted while it was read: its rows are "
                "in another one now",
                where=str(file_path),
                fix="run the same again; a longer lake.history keeps such files longer",
            )
        return corrupt_file_error(f"a data file of table {table} {fault}", file_path)
    return None

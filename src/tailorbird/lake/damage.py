"""What is wrong with a file of a table, and telling it where one is read: what Arrow says names
neither the file nor the remedy.

Whether a file is damaged is asked of the ledger, never of the text of an error, which changes with
each release of a library. An error for which no file is to blame stays as it was.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

import pyarrow as pa

from tailorbird.errors import DamageError, StorageError, TailorbirdError
from tailorbird.lake import durable
from tailorbird.lake.ledger import Ledger
from tailorbird.places import ObjectPath, Place

_REMEDY = "tailorbird lake verify says what is damaged, tailorbird lake repair mends it"
_OF_BUCKET = (
    "restore the earlier version of this object; tailorbird lake verify says what else is damaged"
)


def damaged(message: str, place: Place) -> DamageError:
    """The error about a file of a table, with what mends it where that kind of storage is mended."""
    return DamageError(
        message, where=str(place), fix=_OF_BUCKET if isinstance(place, ObjectPath) else _REMEDY
    )


class Written(Protocol):
    """A file as it was written, of a table or of the archive."""

    @property
    def size(self) -> int: ...
    @property
    def sha256(self) -> str: ...


def file_fault(path: Place, file: Written) -> str | None:
    """What is wrong with a file that ledger or manifest know; costs the reading of it."""
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    if size != file.size:
        return f"has {size:,} bytes, {file.size:,} were written"
    return None if durable.sha256_of(path) == file.sha256 else "does not match its checksum"


@contextmanager
def read_whole(lake: Place, table: str, paths: Callable[[], Iterable[str]]) -> Iterator[None]:
    """Around the reading of data files: where it fails by one that is damaged or gone, that file is
    told, and what mends it.

    Args:
        paths: of the files that are read, below the table's folder; asked for only when something
            failed.
    Raises:
        DamageError: a file is not as it was written.
        StorageError: a file went while it was read, since its rows are in another one now.
    """
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        if (told := blamed(lake, table, paths(), str(error))) is None:
            raise
        raise told from error


def blamed(lake: Place, table: str, paths: Iterable[str], told: str) -> TailorbirdError | None:
    """The error about the first of these files that is not as it was written; those that are named
    in `told` are looked at first.
    """
    ledger = Ledger(lake / "ledger.jsonl")
    written = {file.path: file for line in ledger.commits(table).values() for file in line.files}
    standing = ledger.files(table)
    for path in sorted(paths, key=lambda path: path.rpartition("/")[2] not in told):
        place, file = lake / table / path, written.get(path)
        if file is not None:
            fault = file_fault(place, file)
        else:
            fault = None if place.is_file() else "is missing"
        if fault is None:
            continue
        if path in written and path not in standing and not place.is_file():
            return StorageError(
                f"a data file of table {table} was deleted while it was read: its rows are "
                "in another one now",
                where=str(place),
                fix="run the same again; a longer lake.history keeps such files longer",
            )
        return damaged(f"a data file of table {table} {fault}", place)
    return None

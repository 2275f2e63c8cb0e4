"""Opening a Delta table by its place, for reading and for writing; and what is said where deltalake
cannot.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from tailorbird.errors import DamageError, StorageError, TailorbirdError
from tailorbird.places import ObjectPath, Place, client_options


def delta_table(path: Place, version: int | None = None) -> DeltaTable:
    """The table at `path`, as of a version or now.

    Raises:
        DamageError, StorageError: deltalake cannot open it.
    """
    with delta_errors(path):
        if isinstance(path, ObjectPath):
            return DeltaTable(str(path), version=version, storage_options=client_options())
        return DeltaTable(path, version=version)


@contextmanager
def delta_errors(path: Place) -> Iterator[None]:
    """Turn what deltalake says of the table, or of the tables, at `path` into an error of ours."""
    try:
        yield
    except DeltaError as error:
        raise unreadable(path, error) from error


def unreadable(path: Place, error: DeltaError) -> TailorbirdError:
    """The error about a table that deltalake can neither open nor write to, though no file is known
    to be to blame.
    """
    told = (str(error).splitlines() or [type(error).__name__])[0]
    if isinstance(path, ObjectPath):
        fix = (
            "tailorbird lake verify says what is damaged, and the lake role mends what a crash "
            "may leave when it starts"
        )
        return StorageError(
            f"deltalake cannot read or write it: {told}",
            where=str(path),
            fix=f"{fix}; or the storage did not answer",
        )
    fix = (
        "tailorbird lake verify says what is damaged, tailorbird lake repair mends it; else "
        "restore the folder from a copy"
    )
    return DamageError(f"deltalake cannot read or write it: {told}", where=str(path), fix=fix)

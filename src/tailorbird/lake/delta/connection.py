"""Open Delta tables in either storage, and turn errors of deltalake into ours."""

from collections.abc import Iterator
from contextlib import contextmanager

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from tailorbird.errors import DamageError, StorageError, TailorbirdError
from tailorbird.storage import storage_at
from tailorbird.storage_paths import StoragePath


def delta_table(table_path: StoragePath, version: int | None = None) -> DeltaTable:
    """Open the table at `table_path`, at a version or the latest.

    Raises:
        DamageError, StorageError: deltalake cannot open it.
    """
    with translate_delta_errors(table_path):
        return DeltaTable(
            str(table_path), version=version, storage_options=storage_at(table_path).delta_options()
        )


@contextmanager
def translate_delta_errors(path: StoragePath) -> Iterator[None]:
    """Turn errors of deltalake about the tables at `path` into DamageError or StorageError."""
    try:
        yield
    except DeltaError as error:
        raise unreadable_error(path, error) from error


def unreadable_error(path: StoragePath, error: DeltaError) -> TailorbirdError:
    """Return the error about a table that deltalake cannot use, where no file is to blame."""
    message = (str(error).splitlines() or [type(error).__name__])[0]
    if storage_at(path).is_remote:
        fix = (
            "tailorbird lake verify names what is corrupt, and the lake role undoes what a crash "
            "may leave when it starts"
        )
        return StorageError(
            f"deltalake cannot read or write it: {message}",
            where=str(path),
            fix=f"{fix}; or the storage did not answer",
        )
    fix = (
        "tailorbird lake verify names what is corrupt, tailorbird lake repair rebuilds it; else "
        "restore the folder from the backup"
    )
    return DamageError(f"deltalake cannot read or write it: {message}", where=str(path), fix=fix)

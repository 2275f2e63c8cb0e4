"""A full read of a store in a separate process: python -m tailorbird.store.scan FOLDER.

LMDB has no checksums. A page that the disk lost is an error where LMDB notices, and may crash the
process where it does not. So the check runs in a child process. Exit status 0: all is readable.
"""

import os
import subprocess
import sys
from pathlib import Path

import lmdb


def is_readable(folder: Path) -> bool:
    """Return whether the store in a folder can be read in full, checked by a child process."""
    command = [sys.executable, "-m", "tailorbird.store.scan", str(folder)]
    return (
        subprocess.run(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
        ).returncode
        == 0
    )


def count_records(folder: Path) -> int:
    """Read every record of a store and return their number."""
    with (
        lmdb.open(str(folder), readonly=True, lock=False) as environment,
        environment.begin(buffers=True) as transaction,
    ):
        expected_count = transaction.stat()["entries"]
        count = 0
        with transaction.cursor() as cursor:
            for key, value in cursor:
                count += 1
                bytes(key), bytes(value)
        _check_size(folder, environment)
        with open(os.devnull, "wb") as nowhere:
            environment.copyfd(
                nowhere.fileno(), compact=True
            )  # also reads the list of free pages, as a writer does
    if count != expected_count:
        raise lmdb.CorruptedError(f"{expected_count} records are expected, {count} were found")
    return count


def _check_size(folder: Path, environment: lmdb.Environment) -> None:
    """Raise if the file ends before its last page, which would crash its readers."""
    expected_bytes = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    size = (folder / "data.mdb").stat().st_size
    if size < expected_bytes:
        raise lmdb.CorruptedError(f"the file has {size} bytes, its pages take {expected_bytes}")


if __name__ == "__main__":
    sys.exit(0 if count_records(Path(sys.argv[1])) >= 0 else 1)

"""Reads every record of a store, in a process that may die of it: python -m tailorbird.store.scan
FOLDER.

LMDB has no checksums. A page that a disk swallowed is an error where LMDB notices, and the end of
the process where it does not expect it; so whoever wants to know whether a store is whole asks from
outside (`whole`). Exit status 0: all could be read.
"""

import os
import subprocess
import sys
from pathlib import Path

import lmdb


def whole(folder: Path) -> bool:
    """Whether the store in a folder can be read from end to end; reads all of it, in a process of
    its own.
    """
    command = [sys.executable, "-m", "tailorbird.store.scan", str(folder)]
    return (
        subprocess.run(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
        ).returncode
        == 0
    )


def count_records(folder: Path) -> int:
    """How many records there are, each of which was looked at."""
    with (
        lmdb.open(str(folder), readonly=True, lock=False) as environment,
        environment.begin(buffers=True) as transaction,
    ):
        entries, count = transaction.stat()["entries"], 0
        with transaction.cursor() as cursor:
            for key, value in cursor:
                count += 1
                bytes(key), bytes(value)
        _check_size(folder, environment)
        with open(os.devnull, "wb") as nowhere:
            environment.copyfd(
                nowhere.fileno(), compact=True
            )  # which also reads the list of free pages, as a writer does
    if count != entries:
        raise lmdb.CorruptedError(f"{entries} records are expected, {count} were found")
    return count


def _check_size(folder: Path, environment: lmdb.Environment) -> None:
    """A file that ends before its last page ends whoever touches that page."""
    expected = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    size = (folder / "data.mdb").stat().st_size
    if size < expected:
        raise lmdb.CorruptedError(f"the file has {size} bytes, its pages take {expected}")


if __name__ == "__main__":
    sys.exit(0 if count_records(Path(sys.argv[1])) >= 0 else 1)

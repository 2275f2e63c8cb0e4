"""Files to import: found in folders, decompressed while read, checked against a `SHA256SUMS` beside them, identified by content."""

import gzip
import hashlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from tailorbird.errors import DamageError, InputError

_COMPRESSED = (".gz", ".zst")
_CHUNK = 1 << 20


def find_files(path: Path, patterns: tuple[str, ...]) -> list[Path]:
    """The files at `path`: itself, or those in the folder that match a pattern, compressed or not, sorted by name.

    Raises:
        InputError: there is nothing there, or nothing that matches; says what was looked for.
    """
    if path.is_file():
        return [path]
    if not path.exists():
        raise InputError("no such file or folder", where=str(path))
    wanted = [pattern + ending for pattern in patterns for ending in ("", *_COMPRESSED)]
    found = sorted({file for pattern in wanted for file in path.rglob(pattern) if file.is_file()})
    if not found:
        raise InputError(f"no file like {' or '.join(patterns)} (or .gz, .zst) in this folder", where=str(path))
    return found


def bare_suffix(file: Path) -> str:
    """`.csv` for `a.csv`, `a.csv.gz` and `a.csv.zst`."""
    suffixes = [suffix for suffix in file.suffixes if suffix not in _COMPRESSED]
    return suffixes[-1].lower() if suffixes else ""


def open_file(file: Path) -> BinaryIO:
    """A file opened for reading, decompressed by its ending.

    Raises:
        InputError: it cannot be opened; says why.
    """
    try:
        if file.suffix == ".gz":
            return gzip.open(file, "rb")  # type: ignore[return-value]
        if file.suffix == ".zst":
            return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(file), "rb"), "zstd"))  # type: ignore[arg-type]
        return file.open("rb")
    except OSError as error:
        raise InputError(f"cannot be opened: {error.strerror or error}", where=str(file)) from None


def read_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Each line that is not blank, with its number from 1.

    Raises:
        InputError: the compression is damaged; names the line that it was found behind.
    """
    number = 0
    try:
        with open_file(file) as stream:
            for number, line in enumerate(stream, 1):
                if stripped := line.strip():
                    yield number, stripped
    except (OSError, EOFError, pa.ArrowException) as error:
        raise InputError(f"damaged after line {number}: {error}", where=str(file)) from None


def digest_files(files: list[Path], progress: Callable[[int], None] = lambda _: None) -> dict[Path, str]:
    """The SHA-256 of each file in hexadecimal, verified against `SHA256SUMS` beside it where there is one.

    Raises:
        DamageError: a file does not match its line in SHA256SUMS.
    """
    digests: dict[Path, str] = {}
    sums = {folder: _read_sums(folder / "SHA256SUMS") for folder in {file.parent for file in files}}
    for file in files:
        hasher = hashlib.sha256()
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                hasher.update(chunk)
                progress(len(chunk))
        digests[file] = hasher.hexdigest()
        stated = sums[file.parent].get(file.name)
        if stated is not None and stated != digests[file]:
            raise DamageError(
                f"SHA-256 is {digests[file][:12]}…, but SHA256SUMS says {stated[:12]}…",
                where=str(file),
                fix="fetch the file again; nothing of it was imported",
            )
    return digests


def _read_sums(file: Path) -> dict[str, str]:
    if not file.is_file():
        return {}
    pairs = (line.split(maxsplit=1) for line in file.read_text().splitlines() if line.strip())
    return {name.lstrip("*./"): digest.lower() for digest, name in (pair for pair in pairs if len(pair) == 2)}

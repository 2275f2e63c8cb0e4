"""Files to import: discovery, decompression, verification against `SHA256SUMS`, digests."""

import codecs
import gzip
import hashlib
import io
import re
import zlib
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from tailorbird.errors import DamageError, InputError
from tailorbird.events.contract.codes import DECODE_ERRORS

READ_ERRORS = (
    OSError,
    EOFError,
    zlib.error,
    pa.ArrowException,
)  # errors of reading a damaged file, for any compression
NO_SUFFIX_PATTERN = "*"  # a pattern for files without a suffix, except companions of data
_COMPANION_NAMES = (
    "readme",
    "license",
    "copying",
    "notice",
    "changelog",
    "makefile",
    "manifest",
    "sha256sums",
    "md5sums",
)
_COMPRESSION_SUFFIXES = (".gz", ".zst")
_CHUNK_BYTES = 1 << 20
BATCH_ROWS = 20_000  # that are read at once
_LIST_BYTES_MAX = 1 << 30
_LINE_BYTES_MAX = 256 << 20
_LINE_PATTERN = re.compile(rb"\S[^\n]*")
_decode_elements = msgspec.json.Decoder(list[msgspec.Raw]).decode


def find_files(path: Path, patterns: tuple[str, ...]) -> list[Path]:
    """Return the files at `path` that match a pattern, compressed or not, sorted by name.

    Raises:
        InputError: there is nothing there, or nothing that matches, or a link that leads out of the
            folder; says what was looked for.
    """
    if path.is_file():
        return [path]
    if not path.exists():
        raise InputError("no such file or folder", where=str(path))
    name_patterns = [pattern for pattern in patterns if pattern != NO_SUFFIX_PATTERN]
    globs = [
        pattern + ending for pattern in name_patterns for ending in ("", *_COMPRESSION_SUFFIXES)
    ]
    matching = {file for pattern in globs for file in path.rglob(pattern) if file.is_file()}
    if NO_SUFFIX_PATTERN in patterns:
        matching.update(file for file in path.rglob("*") if has_no_suffix(file) and file.is_file())
    if not matching:
        suffix_note = ", nor one without a suffix," if NO_SUFFIX_PATTERN in patterns else ""
        raise InputError(
            f"no file like {' or '.join(name_patterns)} (or .gz, .zst){suffix_note} in this folder",
            where=str(path),
        )
    outside_files = [file for file in matching if not file.resolve().is_relative_to(path.resolve())]
    if outside_files:
        fix = "give the folder that it leads to, or a copy"
        raise InputError(
            "is a link out of the folder, and may not be what you mean to import",
            where=str(min(outside_files)),
            fix=fix,
        )
    return sorted(matching)


def has_no_suffix(file: Path) -> bool:
    """Return whether a name has no suffix but that of its compression.

    Names that commonly accompany data, such as `_SUCCESS` and `LICENSE`, are excluded.
    """
    return (
        not suffix_without_compression(file)
        and not file.name.startswith((".", "_"))
        and file.stem.lower() not in _COMPANION_NAMES
    )


def name_without_compression(file: Path) -> str:
    """Return the name without a compression suffix: `a.csv` for `a.csv.gz` and `a.csv.zst`."""
    return file.name.removesuffix(".gz").removesuffix(".zst")


def suffix_without_compression(file: Path) -> str:
    """Return the suffix without that of the compression: `.csv` for `a.csv.gz`."""
    suffixes = [suffix for suffix in file.suffixes if suffix not in _COMPRESSION_SUFFIXES]
    return suffixes[-1].lower() if suffixes else ""


def open_file(file: Path) -> BinaryIO:
    """Open a file for reading, decompressed by its suffix.

    Raises:
        InputError: it cannot be opened; says why.
    """
    try:
        if file.suffix == ".gz":
            return gzip.open(file, "rb")  # type: ignore[return-value]
        if file.suffix == ".zst":
            raw: Any = pa.CompressedInputStream(pa.OSFile(str(file), "rb"), "zstd")
            return io.BufferedReader(raw)
        return file.open("rb")
    except OSError as error:
        raise InputError(f"cannot be opened: {error.strerror or error}", where=str(file)) from None


def read_parquet_batches(
    source: pq.ParquetFile, file: Path, batch_rows: int, columns: list[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a Parquet file in batches.

    Raises:
        InputError: a text is no UTF-8; names its column and about where it stands.
    """
    rows_read = 0
    for batch in source.iter_batches(batch_rows, columns=columns):
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            try:
                column.validate(full=True)
            except pa.ArrowInvalid as error:
                where = f"{file}: rows {rows_read + 1} to {rows_read + batch.num_rows}"
                raise InputError(
                    f"column {name} is damaged: {error}",
                    where=where,
                    fix="write its texts in UTF-8; nothing was taken",
                ) from None
        rows_read += batch.num_rows
        yield batch


def read_lines(file: Path, *, strip: bool = True) -> Iterator[tuple[int, bytes]]:
    """Yield each line that is not blank, with its number from 1.

    Args:
        strip: take spaces and tabs off both ends as well, not only the end of the line.
    Raises:
        InputError: the compression is damaged, or a line has hundreds of megabytes; names the line
            that it was found behind.
    """
    line_number = 0
    try:
        with open_file(file) as stream:
            for line_number, line in enumerate(_read_bounded_lines(stream, file), 1):
                if line_number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                if stripped := line.strip():
                    yield line_number, stripped if strip else line.rstrip(b"\r\n")
    except READ_ERRORS as error:
        raise InputError(f"damaged after line {line_number}: {error}", where=str(file)) from None


def _read_bounded_lines(stream: BinaryIO, file: Path) -> Iterator[bytes]:
    """Yield lines of bounded length.

    A line is one record, except for a list of records, which `read_records` splits.
    """
    line_number = 0
    while line := stream.readline(_LINE_BYTES_MAX):
        line_number += 1
        while len(line) >= _LINE_BYTES_MAX and line[-1:] != b"\n":
            if line.lstrip(codecs.BOM_UTF8)[:1] != b"[" or len(line) > _LIST_BYTES_MAX:
                message = (
                    f"line {line_number} is longer than {_LINE_BYTES_MAX >> 20} MB, and no event is"
                )
                raise InputError(message, where=str(file), fix="write one event a line")
            continuation = stream.readline(_LINE_BYTES_MAX)
            if not continuation:
                break
            line += continuation
        yield line


def read_records(file: Path) -> Iterator[tuple[int, bytes]]:
    """Yield each JSON document of a file, one per line or per element of a list, numbered from 1.

    Raises:
        InputError: the compression is damaged, or a list is so large that it has to be rewritten
            with one element a line.
    """
    lines = read_lines(file)
    first_line = next(lines, None)
    if first_line is None:
        return
    if first_line[1][:1] != b"[":
        yield first_line
        yield from lines
        return
    document = bytearray()
    for _, line in chain([first_line], lines):
        document += line + b"\n"
        if len(document) > _LIST_BYTES_MAX:
            raise InputError(
                "a list of more than a gigabyte",
                where=str(file),
                fix="write one element a line, such as: jq -c '.[]'",
            )
    yield from enumerate(split_records(bytes(document)), 1)


def split_records(body: bytes) -> list[bytes]:
    """Split a body into records: the elements of a list, the lines, or the body itself.

    A body that cannot be split is one record.
    """
    if body.lstrip()[:1] == b"[":
        try:
            return [bytes(raw) for raw in _decode_elements(body)]
        except DECODE_ERRORS:
            return [body]
    lines = [line.strip() for line in body.split(b"\n") if line.strip()]
    return (
        lines
        if len(lines) > 1 and all(line[:1] == b"{" and line[-1:] == b"}" for line in lines)
        else [body]
    )


def count_records(body: bytes) -> int:
    """Count the records that `split_records` would return, without decoding or copying any."""
    if body.lstrip()[:1] == b"[":
        try:
            return len(_decode_elements(body))
        except DECODE_ERRORS:
            return 1
    count = 0
    for match in _LINE_PATTERN.finditer(body):
        line = match[0].rstrip()
        if line[:1] != b"{" or line[-1:] != b"}":
            return 1
        count += 1
    return max(1, count)


def digest_files(
    files: list[Path], report_bytes: Callable[[int], None] = lambda _: None
) -> dict[Path, str]:
    """Return the hexadecimal SHA-256 of each file, verified against `SHA256SUMS` beside it if any.

    Raises:
        DamageError: a file does not match its line in SHA256SUMS.
    """
    digests: dict[Path, str] = {}
    stated_digests_by_folder = {
        folder: _read_stated_digests(folder / "SHA256SUMS")
        for folder in {file.parent for file in files}
    }
    for file in files:
        hasher = hashlib.sha256()
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                hasher.update(chunk)
                report_bytes(len(chunk))
        digests[file] = hasher.hexdigest()
        stated_digest = stated_digests_by_folder[file.parent].get(file.name)
        if stated_digest is not None and stated_digest != digests[file]:
            raise DamageError(
                f"SHA-256 is {digests[file][:12]}…, but SHA256SUMS says {stated_digest[:12]}…",
                where=str(file),
                fix="fetch the file again; nothing of it was imported",
            )
    return digests


def _read_stated_digests(file: Path) -> dict[str, str]:
    if not file.is_file():
        return {}
    lines = file.read_text("utf-8", "surrogateescape").splitlines()  # as names of files are read
    pairs = (line.split(maxsplit=1) for line in lines if line.strip())
    return {
        name.lstrip("*./"): digest.lower()
        for digest, name in (pair for pair in pairs if len(pair) == 2)
    }

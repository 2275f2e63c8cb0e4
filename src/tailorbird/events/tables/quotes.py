"""CSV rows without lines whose quote is not closed.

Such a quote would swallow all lines up to the next one.

A row of several lines must have the header's width and well-placed quotes. Otherwise its first line
alone is set aside, and the others are read again. `without_broken_lines` also sets aside rows that
are not UTF-8.
"""

import csv
import io
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, BinaryIO

_CHUNK_BYTES = 1 << 20


class LineReader:
    """The lines of a file for a CSV reader; `next_row` may requeue the later lines of a row.

    Attributes:
        row_lines: the lines of the last row, or only the first where that was set aside.
        has_requeued: whether later lines of the last row are read again.
        requeued_lines: the lines to read again.
        is_truncated: whether the file ended within the last row.
        line_number: the number of the last line, from 1.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self.requeued_lines: deque[str] = deque()
        self.row_lines: list[str] = []
        self.has_requeued = self.is_truncated = False
        self.line_number = 0

    def __iter__(self) -> "LineReader":
        return self

    def __next__(self) -> str:
        try:
            line = self.requeued_lines.popleft() if self.requeued_lines else next(self._lines)
        except StopIteration:
            self.is_truncated = bool(self.row_lines)
            raise
        self.row_lines.append(line)
        self.line_number += 1
        return line

    def requeue(self) -> None:
        """Requeue all lines of the row but the first."""
        later_lines = self.row_lines[1:]
        self.requeued_lines.extendleft(reversed(later_lines))
        self.line_number -= len(later_lines)
        self.row_lines = self.row_lines[:1]
        self.has_requeued = bool(later_lines)


def next_row(
    reader: Iterator[list[str]], lines: LineReader, width: int, delimiter: str = ","
) -> list[str] | None:
    """Return the next row of a `csv.reader` over `lines`, or None if it is malformed.

    The first line of a malformed row is set aside in `lines.row_lines`.

    Raises:
        StopIteration: there is no more.
    """
    lines.row_lines = []
    lines.has_requeued = False
    lines.is_truncated = False
    try:
        row = next(reader)
        if not lines.is_truncated and (
            len(lines.row_lines) == 1
            or (len(row) == width and _is_single_row(lines.row_lines, row, delimiter))
        ):
            return row
    except csv.Error:  # the value is too long, or text follows a closing quote
        pass
    lines.requeue()
    return None


def _is_single_row(lines: list[str], row: list[str], delimiter: str) -> bool:
    """Return whether lines form exactly this row, with well-placed quotes.

    Raises csv.Error.
    """
    return list(csv.reader(lines, delimiter=delimiter, strict=True)) == [row]


def without_broken_lines(
    stream: BinaryIO, delimiter: str, broken_rows: list[str]
) -> io.BufferedReader:
    """Filter out lines with an unclosed quote and rows that are not UTF-8.

    They are appended to `broken_rows`.
    """
    return io.BufferedReader(
        ChunkStream(_read_whole_rows(stream, delimiter, broken_rows)), _CHUNK_BYTES
    )


class ChunkStream(io.RawIOBase):
    """A raw stream over chunks of bytes."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._unread_bytes = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        self._unread_bytes = self._unread_bytes or next(filter(None, self._chunks), b"")
        count = min(len(buffer), len(self._unread_bytes))
        buffer[:count] = self._unread_bytes[:count]
        self._unread_bytes = self._unread_bytes[count:]
        return count


def _read_whole_rows(stream: BinaryIO, delimiter: str, broken_rows: list[str]) -> Iterator[bytes]:
    header, width = _read_header(stream, delimiter)
    yield header
    while chunk := stream.read(_CHUNK_BYTES) + stream.readline(_CHUNK_BYTES):
        if b'"' not in chunk or _is_one_row_per_line(
            decoded_lines := list(map(_decode_text, chunk.splitlines(keepends=True))), delimiter
        ):
            yield _drop_invalid_utf8(chunk, broken_rows)
            continue
        line_reader = LineReader(
            chain(
                decoded_lines, map(_decode_text, iter(lambda: stream.readline(_CHUNK_BYTES), b""))
            )
        )
        rows = list[bytes]()
        reader = csv.reader(line_reader, delimiter=delimiter)
        while line_reader.line_number < len(decoded_lines) or line_reader.requeued_lines:
            is_row = next_row(reader, line_reader, width, delimiter) is not None or not (
                line_reader.has_requeued or line_reader.is_truncated
            )
            row_bytes = "".join(line_reader.row_lines).encode("latin-1")
            if is_row and is_utf8(
                row_bytes
            ):  # where one line is no row, the reader of the columns tells
                rows.append(row_bytes)
            else:
                broken_rows.append(_to_display(row_bytes))
        if rows:
            yield b"".join(rows)


def _drop_invalid_utf8(chunk: bytes, broken_rows: list[str]) -> bytes:
    """Drop the lines that are not UTF-8, where each line is one row."""
    if (
        is_utf8(chunk) or chunk.rfind(b"\n") < len(chunk) - _CHUNK_BYTES
    ):  # The last line continues, and a cut may split a character.
        return chunk
    lines = chunk.splitlines(keepends=True)
    broken_rows += [_to_display(line) for line in lines if not is_utf8(line)]
    return b"".join(filter(is_utf8, lines))


def is_utf8(data: bytes) -> bool:
    """Return whether bytes are valid UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _to_display(line: bytes) -> str:
    return line.decode(errors="backslashreplace").rstrip("\r\n")


def _read_header(stream: BinaryIO, delimiter: str) -> tuple[bytes, int]:
    """Return the header with the blank lines before it, and its number of columns."""
    header_lines: list[bytes] = []

    def read_header_lines() -> Iterator[str]:
        while line := stream.readline(_CHUNK_BYTES):
            header_lines.append(line)
            yield _decode_text(line)

    try:
        width = len(next(filter(None, csv.reader(read_header_lines(), delimiter=delimiter)), []))
    except csv.Error:  # for the reader of the columns to tell
        width = 0
    return b"".join(header_lines), width


def _is_one_row_per_line(lines: Iterable[str], delimiter: str) -> bool:
    """Return whether each line is one row, checked for all lines at once."""
    texts = [*lines, "."]  # the last one becomes part of a row that is not closed
    try:
        return sum(1 for _ in csv.reader(texts, delimiter=delimiter)) == len(texts)
    except csv.Error:
        return False


def _decode_text(line: bytes) -> str:
    return line.decode(
        "latin-1"
    )  # Latin-1 maps every byte to a character, and separators are ASCII.

"""A CSV file without the lines whose quote is not closed: such a quote would make one row of all lines up to the next one."""

import csv
import io
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

_CHUNK = 1 << 20


def without_stray_quotes(stream: BinaryIO, delimiter: str, broken: list[str]) -> io.BufferedReader:
    """The same bytes, but for lines that open a quote which no later line closes in its place: these are put into `broken`.

    A row of several lines stays if it is of the header's width and its quotes stand where they may; else its first line alone is left out.
    """
    return io.BufferedReader(_Joined(_pieces(stream, delimiter, broken)), _CHUNK)


class _Joined(io.RawIOBase):
    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._left = pieces, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        self._left = self._left or next(self._pieces, b"")
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count


def _pieces(stream: BinaryIO, delimiter: str, broken: list[str]) -> Iterator[bytes]:
    header, width = _header(stream, delimiter)
    yield header
    while chunk := stream.read(_CHUNK) + stream.readline(_CHUNK):
        waiting, whole = deque(chunk.splitlines(keepends=True)), []
        if b'"' not in chunk or _is_row_each(waiting, delimiter):
            yield chunk
            continue
        while waiting:
            if b'"' not in waiting[0]:
                whole.append(waiting.popleft())
                continue
            lines = _row(waiting, stream, width, delimiter)
            if lines:
                whole += lines
            else:
                broken.append(waiting.popleft().decode(errors="backslashreplace").rstrip("\r\n"))
        if whole:
            yield b"".join(whole)


def _header(stream: BinaryIO, delimiter: str) -> tuple[bytes, int]:
    """The header with the blank lines before it, and how many columns it has."""
    lines: list[bytes] = []

    def following() -> Iterator[str]:
        while line := stream.readline(_CHUNK):
            lines.append(line)
            yield _text(line)

    try:
        width = len(next(filter(None, csv.reader(following(), delimiter=delimiter)), []))
    except csv.Error:  # for the reader of the columns to tell
        width = 0
    return b"".join(lines), width


def _is_row_each(lines: Iterable[bytes], delimiter: str) -> bool:
    """Whether each line is a row, which most are: cheaper to tell of all at once than of one by one."""
    texts = [*map(_text, lines), "."]  # the last one becomes part of a row that is not closed
    try:
        return sum(1 for _ in csv.reader(texts, delimiter=delimiter)) == len(texts)
    except csv.Error:
        return False


def _row(waiting: deque[bytes], stream: BinaryIO, width: int, delimiter: str) -> list[bytes]:
    """The lines of the next row, taken off `waiting` and the stream; none, and nothing taken off, if its quote is a stray one."""
    lines: list[bytes] = []

    def following() -> Iterator[str]:
        while line := waiting.popleft() if waiting else stream.readline(_CHUNK):
            lines.append(line)
            yield _text(line)

    try:
        row = next(csv.reader(following(), delimiter=delimiter))
        if len(lines) == 1:
            return lines
        if len(row) == width and list(csv.reader(map(_text, lines), delimiter=delimiter, strict=True)) == [row]:
            return lines
    except csv.Error:  # longer than a row may be, or text behind a quote that was closed
        if len(lines) == 1:
            return lines
    waiting.extendleft(reversed(lines))
    return []


def _text(line: bytes) -> str:
    return line.decode("latin-1")  # any byte is a character of it; what divides rows and columns is ASCII

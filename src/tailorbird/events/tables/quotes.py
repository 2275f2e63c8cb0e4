"""The rows of a CSV file, without the lines whose quote is not closed: such a quote would make one
row of all lines up to the next one.

So a row of several lines has to be of the header's width, and its quotes in their places; else its
first line alone is set aside, and the others are read again. In `without_broken_lines` rows that
are no UTF-8 are set aside, too.
"""

import csv
import io
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, BinaryIO

_CHUNK = 1 << 20


class Lines:
    """The lines of a file, for a reader of rows; `next_row` may have those of a row but its first
    read again.

    Attributes:
        of_row: the lines of the last row; the first alone, where that was set aside.
        again: whether others of the last row are read again.
        waiting: those that are.
        cut: whether the last row was not at its end where the file was.
        number: of the last line, from 1.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self.waiting: deque[str] = deque()
        self.of_row: list[str] = []
        self.again = self.cut = False
        self.number = 0

    def __iter__(self) -> "Lines":
        return self

    def __next__(self) -> str:
        try:
            line = self.waiting.popleft() if self.waiting else next(self._lines)
        except StopIteration:
            self.cut = bool(self.of_row)
            raise
        self.of_row.append(line)
        self.number += 1
        return line

    def give_again(self) -> None:
        """All but the first line of the row come once more."""
        later_lines = self.of_row[1:]
        self.waiting.extendleft(reversed(later_lines))
        self.number -= len(later_lines)
        self.of_row, self.again = self.of_row[:1], bool(later_lines)


def next_row(
    reader: Iterator[list[str]], lines: Lines, width: int, delimiter: str = ","
) -> list[str] | None:
    """The next row of a `csv.reader` over `lines`; None where it is none: its first line is set
    aside, in `lines.of_row`.

    Raises:
        StopIteration: there is no more.
    """
    lines.of_row, lines.again, lines.cut = [], False, False
    try:
        row = next(reader)
        if not lines.cut and (
            len(lines.of_row) == 1 or (len(row) == width and _is_single_row(lines.of_row, row, delimiter))
        ):
            return row
    except csv.Error:  # longer than a value may be, or text behind a quote that was closed
        pass
    lines.give_again()
    return None


def _is_single_row(lines: list[str], row: list[str], delimiter: str) -> bool:
    """Whether lines are this row, with its quotes in their places. Raises csv.Error."""
    return list(csv.reader(lines, delimiter=delimiter, strict=True)) == [row]


def without_broken_lines(stream: BinaryIO, delimiter: str, broken: list[str]) -> io.BufferedReader:
    """The same bytes, but for lines that open a quote which no later line closes in its place, and
    rows that are no UTF-8: these are put into `broken`.
    """
    return io.BufferedReader(Joined(_pieces(stream, delimiter, broken)), _CHUNK)


class Joined(io.RawIOBase):
    """A stream of the bytes of pieces."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._left = pieces, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        self._left = self._left or next(filter(None, self._pieces), b"")
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count


def _pieces(stream: BinaryIO, delimiter: str, broken: list[str]) -> Iterator[bytes]:
    header, width = _header(stream, delimiter)
    yield header
    while chunk := stream.read(_CHUNK) + stream.readline(_CHUNK):
        if b'"' not in chunk or _is_one_row_per_line(
            decoded_lines := list(map(_text, chunk.splitlines(keepends=True))), delimiter
        ):
            yield _drop_invalid_utf8(chunk, broken)
            continue
        lines, rows = (
            Lines(chain(decoded_lines, map(_text, iter(lambda: stream.readline(_CHUNK), b"")))),
            list[bytes](),
        )
        reader = csv.reader(lines, delimiter=delimiter)
        while lines.number < len(decoded_lines) or lines.waiting:
            is_row = next_row(reader, lines, width, delimiter) is not None or not (
                lines.again or lines.cut
            )
            row_bytes = "".join(lines.of_row).encode("latin-1")
            if is_row and is_text(
                row_bytes
            ):  # where one line is no row, the reader of the columns tells
                rows.append(row_bytes)
            else:
                broken.append(_to_display(row_bytes))
        if rows:
            yield b"".join(rows)


def _drop_invalid_utf8(chunk: bytes, broken: list[str]) -> bytes:
    """Lines that are rows each, without those that are no UTF-8."""
    if (
        is_text(chunk) or chunk.rfind(b"\n") < len(chunk) - _CHUNK
    ):  # the last line goes on: where it is cut, any text may look broken
        return chunk
    lines = chunk.splitlines(keepends=True)
    broken += [_to_display(line) for line in lines if not is_text(line)]
    return b"".join(filter(is_text, lines))


def is_text(data: bytes) -> bool:
    """Whether bytes are UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _to_display(line: bytes) -> str:
    return line.decode(errors="backslashreplace").rstrip("\r\n")


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


def _is_one_row_per_line(lines: Iterable[str], delimiter: str) -> bool:
    """Whether each line is a row, which most are: cheaper to tell of all at once than of one by
    one.
    """
    texts = [*lines, "."]  # the last one becomes part of a row that is not closed
    try:
        return sum(1 for _ in csv.reader(texts, delimiter=delimiter)) == len(texts)
    except csv.Error:
        return False


def _text(line: bytes) -> str:
    return line.decode(
        "latin-1"
    )  # any byte is a character of it; what divides rows and columns is ASCII

"""Text files of any usual encoding, read as UTF-8.

UTF-16, Windows-1252 and Latin-1 are recognised and transcoded while reading.
"""

import codecs
import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tailorbird.errors import InputError
from tailorbird.events.tables.files import READ_ERRORS, open_file
from tailorbird.events.tables.quotes import ChunkStream, is_utf8

_SNIFF_BYTES = 16 << 20  # bytes; a later non-ASCII line is refused row by row
_CHUNK_BYTES = 1 << 20


def detect_encoding(file: Path) -> str:
    """Return the encoding of a text file, as Python calls it.

    A line that is valid UTF-8 beyond ASCII proves UTF-8, since other encodings hardly ever look
    like it. Then lines that are not valid are damaged, and the contract refuses them one by one.

    Raises:
        InputError: the file cannot be opened, or is damaged.
    """
    with open_file(file) as stream:
        try:
            first_bytes = stream.read(_SNIFF_BYTES)
        except READ_ERRORS as error:
            raise InputError(f"damaged: {error}", where=str(file)) from None
    if first_bytes.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    first_line = first_bytes[:_CHUNK_BYTES].partition(b"\n")[0]
    if b"\x00" in first_line:
        return "utf-16-be" if first_line[:1] == b"\x00" else "utf-16-le"
    if _looks_like_utf8(first_bytes):
        return "utf-8"
    try:
        first_bytes.decode("cp1252")
    except UnicodeDecodeError:
        return "latin-1"
    return "cp1252"


def open_table(file: Path) -> BinaryIO:
    """Open a text file for reading as UTF-8, decompressed and transcoded where necessary.

    Raises:
        InputError: it cannot be opened, or is damaged.
    """
    encoding = detect_encoding(file)
    stream = open_file(file)
    return (
        stream
        if encoding == "utf-8"
        else io.BufferedReader(ChunkStream(_transcode(stream, encoding)), _CHUNK_BYTES)
    )


def _looks_like_utf8(first_bytes: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(first_bytes)  # the last character may be cut
    except UnicodeDecodeError:
        return any(not line.isascii() and is_utf8(line) for line in first_bytes.splitlines())
    return True


def _transcode(stream: BinaryIO, encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
    with stream:
        while chunk := stream.read(_CHUNK_BYTES):
            yield decoder.decode(chunk).encode()
        yield decoder.decode(b"", final=True).encode()

"""A search through every byte of a project for ids and texts that should be nowhere: as they stand, unpacked, and as hashes.

    as it stands     every file
    unpacked         Parquet, Arrow, zstd, gzip, zip; the columns of Arrow blocks in our SQLite logs
    as hashes        `hash64` of people, which keys of records are made of, and the fingerprints in the index of repeats

A text within a longer one is a find, unless the longer one is an id that the lake knows of somebody else ("user-12" in "user-123").
Ids of fewer than six characters are looked for as whole values of columns alone.
"""

import gzip
import io
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import apsw
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tailorbird.events import hash64
from tailorbird.events.contract import ANONYMOUS_PREFIX
from tailorbird.places import ObjectPath, Place
from tailorbird.privacy.mention import WITHIN_MIN

_CHUNK = 32 << 20
_TABLE_BITS = 22
_MIX = np.uint64(0x9E3779B97F4A7C15)
_AS_IT_IS = "the file"
_ROUTED = ("events", "quarantine", "duplicates")


@dataclass(frozen=True)
class Found:
    """A file, by its whole path, that has what it should not: how often, and one place."""

    path: str
    count: int
    where: str


@dataclass
class Searched:
    """What was looked through, and what was found. `short`: ids that are too short to be looked for everywhere."""

    files: int = 0
    bytes: int = 0
    short: int = 0
    found: list[Found] = field(default_factory=list)


class Needles:
    """What is looked for.

    Args:
        texts: ids and texts.
        hashes: bytes, in any form.
        others: ids that hold one of the texts and are somebody else's.
    """

    def __init__(self, texts: Collection[str], hashes: Collection[bytes] = (), others: Collection[str] = ()) -> None:
        self.values = frozenset(texts)
        self._others = [other.encode() for other in others]
        texts = {text for text in texts if len(text) >= WITHIN_MIN}
        self.short = len(self.values) - len(texts)
        needles = {text.encode(errors="surrogatepass") for text in texts} | {escaped for text in texts if (escaped := _escaped(text))}
        self._by_prefix: dict[int, list[bytes]] = {}
        self._hashes = frozenset(hashes)
        for needle in needles | self._hashes:
            self._by_prefix.setdefault(int.from_bytes(needle[:WITHIN_MIN], "little"), []).append(needle)
        self._prefixes = np.array(sorted(self._by_prefix), np.uint64)
        self._table = np.zeros(1 << _TABLE_BITS, bool)
        self._table[_slot(self._prefixes)] = True
        self.longest = max((len(needle) for needle in needles | self._hashes), default=0)

    def find(self, data: bytes | memoryview) -> list[int]:
        """Where in the data one stands."""
        padded = bytes(data) + bytes(8)
        return [place for place, prefix in self._candidates(padded) if self._stands(padded, place, prefix)]

    def present(self, data: bytes) -> set[str]:
        """Which of the texts stand in the data, within others too."""
        padded = data + bytes(8)
        found = {one for place, prefix in self._candidates(padded) for one in self._by_prefix[prefix] if padded.startswith(one, place)}
        return {one.decode(errors="surrogatepass") for one in found}

    def _candidates(self, padded: bytes) -> list[tuple[int, int]]:
        if len(padded) < WITHIN_MIN + 8 or not len(self._prefixes):
            return []
        values = np.ndarray((len(padded) - 8,), np.dtype("<u8"), padded, strides=(1,)) & np.uint64((1 << 8 * WITHIN_MIN) - 1)
        places = np.flatnonzero(self._table[_slot(values)])
        places = places[np.isin(values[places], self._prefixes)]
        return list(zip(places.tolist(), values[places].tolist(), strict=True))

    def _stands(self, data: bytes, place: int, prefix: int) -> bool:
        return any(
            data.startswith(needle, place) and (needle in self._hashes or not self._is_others(data, place, len(needle)))
            for needle in self._by_prefix[prefix]
        )

    def _is_others(self, data: bytes, place: int, length: int) -> bool:
        for other in self._others:
            start = data.find(other, max(0, place - len(other) + length), place + len(other))
            if 0 <= start <= place and place + length <= start + len(other):
                return True
        return False


def hashes_of(users: Iterable[str], visitors: Iterable[str]) -> set[bytes]:
    """The hashes under which records know people, as keys and as values."""
    texts = [*users, *visitors, *(f"{ANONYMOUS_PREFIX}{id_}" for id_ in visitors)]
    return {hash64(text).to_bytes(8, order) for text in texts for order in ("big", "little")}


def search(
    roots: Sequence[Place], needles: Needles, *, skip: Collection[Place] = (), told: Callable[[int], None] = lambda done: None
) -> Searched:  # fmt: skip
    """Look through all files below some folders, or objects below a prefix.

    Args:
        skip: files that hold what is looked for by right, such as the journal of the erasure itself.
    """
    report = Searched(short=needles.short)
    for path in [path for root in roots for path in sorted(root.rglob("*"))]:
        if path in skip or not _is_content(path):
            continue
        report.files += 1
        count, where, size = 0, "", 0
        for label, data in contents(path, needles):
            size += len(data) if label == _AS_IT_IS else 0
            if places := needles.find(data):
                count += len(places)
                where = where or f"{label} at byte {places[0]}"
        report.bytes += size
        told(size)
        if count:
            report.found.append(Found(str(path), count, where))
    return report


def _is_content(path: Place) -> bool:
    return isinstance(path, ObjectPath) or (path.is_file() and not path.is_symlink())


def contents(path: Place, needles: Needles) -> Iterator[tuple[str, bytes | memoryview]]:
    """All that a file holds, in pieces: its bytes, then what is packed in it. What cannot be unpacked is only looked at as it is."""
    try:
        if isinstance(path, ObjectPath):
            data = path.read_bytes()
            yield _AS_IT_IS, data
            source: str | pa.BufferReader = pa.BufferReader(data)
        else:
            yield from _raw(path, needles.longest)
            source = str(path)
    except FileNotFoundError:  # it went while others were looked at
        return
    try:
        yield from _unpacked(path.suffix, source, needles)
    except (pa.ArrowException, OSError, ValueError, EOFError, zipfile.BadZipFile, apsw.Error):
        return


def _raw(path: Path, overlap: int) -> Iterator[tuple[str, bytes]]:
    with path.open("rb") as file:
        before = b""
        while chunk := file.read(_CHUNK):
            yield _AS_IT_IS, before + chunk
            before = (before + chunk)[-overlap:] if overlap else b""


def _unpacked(suffix: str, source: "str | pa.BufferReader", needles: Needles) -> Iterator[tuple[str, bytes | memoryview]]:
    if suffix == ".parquet":
        file = pq.ParquetFile(source)
        for group in range(file.num_row_groups):
            yield from _columns(file.read_row_group(group), needles)
    elif suffix == ".zst":
        with pa.CompressedInputStream(source if isinstance(source, pa.BufferReader) else pa.OSFile(source), "zstd") as stream:
            yield "unpacked", stream.read()
    elif isinstance(source, pa.BufferReader):  # a lake has nothing else that is packed
        return
    elif suffix == ".gz":
        yield "unpacked", gzip.decompress(Path(source).read_bytes())
    elif suffix == ".arrow":
        yield from _columns(pa.ipc.open_file(pa.memory_map(source)).read_all(), needles)
    elif suffix in (".zip", ".npz"):
        with zipfile.ZipFile(source) as archive:
            for name in archive.namelist():
                yield name, archive.read(name)
    elif suffix == ".db":
        yield from _blocks(Path(source), needles)


def _blocks(path: Path, needles: Needles) -> Iterator[tuple[str, bytes | memoryview]]:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'block'").fetchone() is None:
            return
        for offset, kind, payload in connection.execute("SELECT offset, kind, payload FROM block"):
            if kind in _ROUTED:
                for label, data in _columns(pa.ipc.open_stream(io.BytesIO(payload)).read_all(), needles):
                    yield f"block {offset}, {label}", data
            else:
                yield f"block {offset}", payload
    finally:
        connection.close()


def _columns(table: pa.Table, needles: Needles) -> Iterator[tuple[str, bytes]]:
    """Texts and bytes of columns, a line each, and the bits of whole numbers; a value that is an id itself stands between marks."""
    for name in table.column_names:
        column = table[name].combine_chunks()
        while pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            column = column.flatten()
        if pa.types.is_dictionary(column.type):
            column = column.dictionary
        if pa.types.is_integer(column.type):
            yield f"column {name}", np.asarray(column.drop_null()).tobytes()
        elif pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            yield f"column {name}", "\n".join(column.drop_null().unique().to_pylist()).encode(errors="surrogatepass")
        elif pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
            yield f"column {name}", b"\n".join(column.drop_null().unique().to_pylist())


def _escaped(text: str) -> bytes:
    """How JSON writes a text, where that differs."""
    written = msgspec.json.encode(text)[1:-1]
    return b"" if written == text.encode(errors="surrogatepass") else written


def _slot(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return ((values * _MIX) >> np.uint64(64 - _TABLE_BITS)).astype(np.intp)

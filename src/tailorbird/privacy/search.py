"""A search through every byte of a project for ids and texts that should be nowhere: as they stand,
unpacked, and as hashes.

    as it stands     every file, and its name; ids of people in every form that `privacy.forms` knows
    unpacked         Parquet, Arrow, zstd, gzip, bzip2, xz, LZ4, zip; the columns of Arrow blocks in our SQLite logs
    as hashes        `hash64` of people, which keys of records are made of, and the fingerprints in the index of repeats

A text within a longer one is a find, unless the longer one is an id of somebody else, or a word of
others ("user-12" in "user-123"; see `privacy.others`). An id of digits is one only between what are
no digits, as in `privacy.mention`: times and counts hold any digits. Ids of fewer than six
characters, and those that mean something else too, are not looked for here but in the columns of
the lake (`privacy.looking`).
"""

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import apsw
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tailorbird.events import hash64
from tailorbird.events.contract import ANONYMOUS_PREFIX
from tailorbird.events.free import is_number
from tailorbird.events.tables.files import DAMAGED
from tailorbird.places import ObjectPath, Place
from tailorbird.privacy.forms import forms, plain, written
from tailorbird.privacy.mention import WITHIN_MIN, stands_alone
from tailorbird.privacy.spots import Spots
from tailorbird.stream import Block

_CHUNK = 32 << 20
_COUNTS = frozenset({".json", ".jsonl"})  # of our own: what they have as numbers is counted
_AS_IT_IS = "the file"
_NOT_WHOLE = "packed, and not whole or encrypted: nobody can tell what is in it"
_UNREADABLE = "not permitted to read it: nobody can tell what is in it"
_PACKED = {
    b"PAR1": ".parquet",
    b"\x28\xb5\x2f\xfd": ".zst",
    b"\x1f\x8b": ".gz",
    b"BZh": ".bz2",
    b"\xfd7zXZ\x00": ".xz",
    b"\x04\x22\x4d\x18": ".lz4",
    b"PK\x03\x04": ".zip",
    b"ARROW1": ".arrow",
    b"SQLite f": ".db",
}
_UNPACK = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress}
_ROUTED = ("events", "quarantine", "duplicates")
_TABLES = (
    "index",
    "piece",
    # changes of the router's tables, and snapshots of them (`router.topic`, `stream.kafka.snapshots`)
)


@dataclass(frozen=True)
class Found:
    """A file, by its whole path, that has what it should not: how often, and one place. `told`: its
    path without what it should not say.
    """

    path: str
    count: int
    where: str
    told: str = ""


@dataclass
class Searched:
    """What was looked through, and what was found.

    Attributes:
        short: ids that were not looked for in every byte, since they are too short or mean
            something else too; `words` of these the latter.
        named: ids of items, types and the like that hold an id and stay.
        alike: ids of other people that are one of theirs in another form, and stay; `shared`:
            devices of theirs that are others' too.
        limits: what was not looked for, or stays, and where; sentences without anybody's id.
    """

    files: int = 0
    bytes: int = 0
    short: int = 0
    words: int = 0
    named: int = 0
    alike: int = 0
    shared: int = 0
    found: list[Found] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)


class Needles:
    """What is looked for.

    Args:
        texts: ids and texts.
        hashes: bytes, in any form.
        others: ids and words that hold one of the texts and are somebody else's.
        ids: those of the texts that are looked for in all their forms.
        things: ids of events and the like that hold an id of digits, and are not theirs.
        alike: ids of other people that are one of `ids` in another form.
        words: ids that mean something else, too. `apart` has these, and those that are too short.
    """

    def __init__(
        self,
        texts: Collection[str],
        hashes: Collection[bytes] = (),
        others: Collection[str] = (),
        ids: Collection[str] = (),
        things: Collection[str] = (),
        words: Collection[str] = (),
        alike: Collection[str] = (),
    ) -> None:
        self.values = frozenset(texts)
        others_ids = (
            {form for other in others for form in forms(other)}
            if ids
            else {other.encode() for other in others}
        )
        theirs = {form for text in ids for form in written(text)}
        self._others = sorted(
            others_ids | ({form for one in alike for form in written(one)} - theirs)
        )
        self.apart = frozenset(text for text in texts if len(text) < WITHIN_MIN or text in words)
        texts = self.values - self.apart
        self._texts = {form: text for text in texts for form in plain(text)}
        needles = {*self._texts, *(form for text in texts & frozenset(ids) for form in forms(text))}
        self._hashes = frozenset(hashes)
        self._numbers = frozenset(text.encode() for text in ids if is_number(text))
        self._things = frozenset(thing.encode(errors="surrogatepass") for thing in things)
        self._lengths = sorted({len(thing) for thing in self._things})
        self._spots = Spots(needles | self._hashes)
        self.longest = self._spots.longest

    def find(self, data: bytes | memoryview, *, counted: bool = False) -> list[int]:
        """Where in the data one stands; `counted`: as for `stands_alone`."""
        whole = bytes(data)
        stands = (
            place
            for place, needle in self._spots.at(whole)
            if needle in self._hashes or self._is_theirs(whole, place, needle, counted)
        )
        return list(dict.fromkeys(stands))

    def present(self, data: bytes) -> set[str]:
        """Which of the texts stand in the data, within others too, as they are or as our JSON
        writes them; none of `ids` in other forms.
        """
        return {self._texts[one] for _, one in self._spots.at(data) if one in self._texts}

    def _is_theirs(self, data: bytes, place: int, needle: bytes, counted: bool) -> bool:
        if needle in self._numbers and not stands_alone(
            data, place, place + len(needle), counted=counted
        ):
            return False
        return not self._is_others(data, place, len(needle)) and not (
            needle in self._numbers and self._is_thing(data, place, len(needle))
        )

    def _is_thing(self, data: bytes, place: int, length: int) -> bool:
        """Whether an id of a thing covers the place; in files of databases nothing stands between
        it and its neighbours.
        """
        return any(
            data[start : start + long] in self._things
            for long in self._lengths
            for start in range(max(0, place + length - long), place + 1)
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
    roots: Sequence[Place],
    needles: Needles,
    *,
    skip: Collection[Place] = (),
    ours: Sequence[Place] = (),
    told: Callable[[int], None] = lambda done: None,
) -> Searched:
    """Look through all files below some folders, or objects below a prefix.

    Args:
        skip: files that hold what is looked for by right, such as the journal of the erasure
            itself.
        ours: folders with files of the project's own, in whose JSON a number without quotes is a
            count or a time.
    """
    report = Searched(short=len(needles.apart))
    for below, path in [(root, path) for root in roots for path in sorted(root.rglob("*"))]:
        named = needles.find(path.name.encode(errors="surrogateescape"))
        told_path = _without(path, below, needles)
        if named and not _is_content(path):
            report.found.append(Found(str(path), len(named), "its name", told_path))
        if path in skip or not _is_content(path):
            continue
        report.files += 1
        count, where, size = len(named), "its name" if named else "", 0
        counted = path.suffix in _COUNTS and is_below(str(path), ours)
        for label, data in contents(path, needles):
            size += len(data) if label == _AS_IT_IS else 0
            if label in (_NOT_WHOLE, _UNREADABLE):
                count, where = count + 1, where or label
            elif places := needles.find(data, counted=counted and label == _AS_IT_IS):
                count += len(places)
                where = where or f"{label} at byte {places[0]}"
        report.bytes += size
        told(size)
        if count:
            report.found.append(Found(str(path), count, where, told_path))
    return report


def is_below(path: str, folders: Sequence[Place]) -> bool:
    """Whether a file is in one of these folders."""
    return any(path.startswith(f"{str(folder).rstrip('/')}/") for folder in folders)


def search_topics(
    messages: Iterable[tuple[str, Block]],
    needles: Needles,
    report: Searched,
    told: Callable[[int], None],
) -> None:
    """Look through messages and blocks of topics, each with where it stands; what is found is added
    to the report.
    """
    for where, block in messages:
        told(len(block.payload))
        report.bytes += len(block.payload)
        for label, data in _of_block(block, needles):
            if places := needles.find(data):
                report.found.append(Found(where, len(places), label))


def _of_block(block: Block, needles: Needles) -> Iterator[tuple[str, bytes | memoryview]]:
    if block.kind in _ROUTED:
        yield from _columns(pa.ipc.open_stream(io.BytesIO(block.payload)).read_all(), needles)
    elif block.kind in _TABLES:
        yield (
            "tables",
            pa.decompress(
                block.payload, decompressed_size=int(block.receipt), codec="zstd", asbytes=True
            ),
        )
    else:
        yield "message", block.payload


def _without(path: Place, root: Place, needles: Needles) -> str:
    """A path below its root, with nothing in it that is looked for."""
    parts = str(path).removeprefix(str(root)).strip("/").split("/")
    return "/".join(
        "(a name that says who)" if needles.find(part.encode(errors="surrogateescape")) else part
        for part in parts
    )


def _is_content(path: Place) -> bool:
    return isinstance(path, ObjectPath) or (path.is_file() and not path.is_symlink())


def contents(path: Place, needles: Needles) -> Iterator[tuple[str, bytes | memoryview]]:
    """All that a file holds, in pieces: its bytes, then what is packed in it. What cannot be
    unpacked is only looked at as it is.
    """
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
    except PermissionError:
        yield _UNREADABLE, b""
        return
    try:
        yield from _unpacked(_packing(source, path.suffix), source, needles)
    except (
        *DAMAGED,
        ValueError,
        RuntimeError,
        lzma.LZMAError,
        zipfile.BadZipFile,
        apsw.Error,
    ):  # RuntimeError: encrypted
        yield _NOT_WHOLE, b""


def _packing(source: "str | pa.BufferReader", suffix: str) -> str:
    """How a file is packed: by what it begins with, whatever its name; a draft is called otherwise
    than what it becomes.
    """
    if isinstance(source, str):
        with open(source, "rb") as file:
            head = file.read(8)
        return next((found for magic, found in _PACKED.items() if head.startswith(magic)), "")
    return suffix


def _raw(path: Path, overlap: int) -> Iterator[tuple[str, bytes]]:
    with path.open("rb") as file:
        before = b""
        while chunk := file.read(_CHUNK):
            yield _AS_IT_IS, before + chunk
            before = (before + chunk)[-overlap:] if overlap else b""


def _unpacked(
    suffix: str, source: "str | pa.BufferReader", needles: Needles
) -> Iterator[tuple[str, bytes | memoryview]]:
    if suffix == ".parquet":
        file = pq.ParquetFile(source)
        for group in range(file.num_row_groups):
            yield from _columns(file.read_row_group(group), needles)
    elif suffix == ".zst":
        with pa.CompressedInputStream(
            source if isinstance(source, pa.BufferReader) else pa.OSFile(source), "zstd"
        ) as stream:
            yield "unpacked", stream.read()
    elif isinstance(source, pa.BufferReader):  # a lake has nothing else that is packed
        return
    elif suffix in _UNPACK:
        yield "unpacked", _UNPACK[suffix](Path(source).read_bytes())
    elif suffix == ".lz4":
        with pa.CompressedInputStream(pa.OSFile(source), "lz4") as stream:
            yield "unpacked", stream.read()
    elif suffix == ".arrow":
        yield from _columns(pa.ipc.open_file(pa.memory_map(source)).read_all(), needles)
    elif suffix == ".zip":  # .npz is one
        with zipfile.ZipFile(source) as archive:
            for number, name in enumerate(archive.namelist()):
                yield (
                    f"member {number}",
                    b"\n".join((name.encode(errors="surrogateescape"), archive.read(name))),
                )
    elif suffix == ".db":
        yield from _blocks(Path(source), needles)


def _blocks(path: Path, needles: Needles) -> Iterator[tuple[str, bytes | memoryview]]:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        if (
            connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'block'").fetchone()
            is None
        ):
            return
        for offset, kind, payload in connection.execute("SELECT offset, kind, payload FROM block"):
            if kind in _ROUTED:
                for label, data in _columns(
                    pa.ipc.open_stream(io.BytesIO(payload)).read_all(), needles
                ):
                    yield f"block {offset}, {label}", data
            else:
                yield f"block {offset}", payload
    finally:
        connection.close()


def _columns(table: pa.Table, needles: Needles) -> Iterator[tuple[str, bytes]]:
    """Texts and bytes of columns, a line each, and the bits of whole numbers; a value that is an id
    itself stands between marks.
    """
    for name in table.column_names:
        for column in _plain(table[name].combine_chunks()):
            if pa.types.is_integer(column.type):
                yield f"column {name}", np.asarray(column.drop_null()).tobytes()
            elif pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
                yield (
                    f"column {name}",
                    "\n".join(column.drop_null().unique().to_pylist()).encode(
                        errors="surrogatepass"
                    ),
                )
            elif pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
                yield f"column {name}", b"\n".join(column.drop_null().unique().to_pylist())


def _plain(column: pa.Array) -> Iterator[pa.Array]:
    """What a column is made of: of lists, maps and structs all that is in them, of a dictionary its
    values.
    """
    kind = column.type
    if isinstance(kind, pa.MapType):
        yield from (*_plain(column.keys), *_plain(column.items))
    elif pa.types.is_struct(kind):
        yield from (each for part in column.flatten() for each in _plain(part))
    elif (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    ):
        yield from _plain(column.flatten())
    else:
        yield column.dictionary if pa.types.is_dictionary(kind) else column

"""A search through every byte of a project for ids that no file may hold.

    bytes       every file and its name: the id as written, JSON-escaped, URL-encoded
    unpacked    Parquet, Arrow, zstd, gzip, bzip2, xz, LZ4, zip, the tables of SQLite files

An id counts where it stands alone, see `privacy.matching`. An id that is shorter than six
characters, or that is also an item's or another value of others, counts only where a field says who
it was: `"user_id":"42"`, or a column of that name.
"""

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import apsw
import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tailorbird.config import Project
from tailorbird.events.contract.envelope import ANONYMOUS_PREFIX
from tailorbird.events.contract.plan import EVENT_TYPES
from tailorbird.events.free_text import EMBEDDED_ID_LENGTH_MIN
from tailorbird.events.tables.files import READ_ERRORS
from tailorbird.lake import Lake
from tailorbird.privacy.files import local_roots
from tailorbird.privacy.matching import IdMatcher, StringMatcher
from tailorbird.privacy.mentions import attribute_names
from tailorbird.privacy.people import People
from tailorbird.storage import storage_at
from tailorbird.storage_paths import StoragePath
from tailorbird.stream import Block

Progress = Callable[[str, int, int | None], None]
_CHUNK_BYTES = 32 << 20
_ROWS_PER_CHUNK = 10_000  # of a database that are searched at once
_PACKED_DAMAGED = "packed, and damaged or encrypted: cannot be searched"
_UNREADABLE = "not permitted to read: cannot be searched"
_SUFFIX_BY_MAGIC = {
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
_UNPACKER_BY_SUFFIX = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress}
_ID_FIELDS = ("user_id", "anonymous_id", "person")
_ID_FIELD_BY_COLUMN = {"id": "user_id"} | {name: name for name in _ID_FIELDS}
_VALUE_COLUMNS = ("type", "item_id", "device", "country", "slot", "experiment", "arm", "model")
_ARROW_BLOCK_KINDS = ("events", "quarantine", "duplicates")
_ZSTD_BLOCK_KINDS = ("index", "piece")  # the router's tables, see `router.routed_log.topic`


@dataclass(frozen=True)
class Match:
    """A file that holds ids: how often, and where first. `redacted` is its path without ids."""

    path: str
    count: int
    where: str
    redacted: str = ""


@dataclass
class SearchReport:
    """What a search read and what it found; `limits` says what it did not look for."""

    files: int = 0
    bytes: int = 0
    matches: list[Match] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)


class Needles:
    """The ids that a search looks for.

    Args:
        people: whose ids.
        ambiguous: ids that are also something else's.
        longer: texts that hold an id and are somebody else's.
    """

    def __init__(
        self, people: People, ambiguous: Collection[str] = (), longer: Collection[str] = ()
    ) -> None:
        self.field_only_ids = {
            id_ for id_ in people.ids if len(id_) < EMBEDDED_ID_LENGTH_MIN or id_ in ambiguous
        }
        self._ids = IdMatcher(people.ids - self.field_only_ids)
        named_ids = [("user_id", user) for user in people.users & self.field_only_ids]
        named_ids += [("anonymous_id", device) for device in people.devices & self.field_only_ids]
        named_ids += [
            ("person", person)
            for person in people.persons
            if _strip_prefix(person) in self.field_only_ids
        ]
        self._fields = StringMatcher(
            {
                form
                for name, value in named_ids
                for form in (_name_field(name, value), _name_field(name, value, " "))
            }
        )
        self._longer = sorted(value.encode(errors="surrogatepass") for value in longer)
        longest_length = max(self._ids.length_max, self._fields.length_max)
        self.length_max = longest_length + 8  # and what is around it

    def find(self, data: bytes | memoryview) -> list[int]:
        """Return where ids stand in some bytes."""
        data = bytes(data)
        starts = [
            start for start, end in self._ids.find(data) if not self._is_longer(data, start, end)
        ]
        return starts + [start for start, _ in self._fields.find(data)]

    def _is_longer(self, data: bytes, start: int, end: int) -> bool:
        for longer in self._longer:
            longer_start = data.find(longer, max(0, end - len(longer)), start + len(longer))
            if 0 <= longer_start <= start and end <= longer_start + len(longer):
                return True
        return False


def _strip_prefix(person: str) -> str:
    return person.removeprefix(ANONYMOUS_PREFIX)


def _name_field(name: str, value: str, space: str = "") -> bytes:
    return f'"{name}":{space}'.encode() + msgspec.json.encode(value)


def search_project(
    project: Project,
    people: People,
    *,
    skip: Collection[StoragePath] = (),
    progress: Progress = lambda stage, done, total: None,
) -> SearchReport:
    """Search all that a project has: its folder, its data, its lake, its topics."""
    ambiguous, longer_ids = _find_ambiguous(project, people)
    needles = Needles(people, ambiguous, longer_ids)
    done = 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        progress("search", done, None)

    report = search(roots_of(project), needles, skip=skip, on_read=count)
    if (topics := project.stream.kafka_logs) is not None:
        from tailorbird.privacy.rewrite_topics import read_topics

        _search_blocks(read_topics(topics), needles, report, count)
    if needles.field_only_ids:
        report.limits.append(
            f"{len(needles.field_only_ids):,} ids have fewer than {EMBEDDED_ID_LENGTH_MIN} "
            "characters, or are also an item's or another value's: they were looked for in fields "
            "that say who it was."
        )
    if longer_ids:
        report.limits.append(f"{len(longer_ids):,} ids of others hold one of theirs, and stay.")
    return report


def roots_of(project: Project) -> list[StoragePath]:
    """Return where a project keeps things: on this machine, and its lake if elsewhere."""
    lake = project.paths.lake
    local = local_roots(project)
    lake_folder = storage_at(lake).local_path
    is_local = lake_folder and any(folder in lake_folder.parents for folder in local)
    return [*local, *([] if is_local else [lake])]


def _find_ambiguous(project: Project, people: People) -> tuple[set[str], set[str]]:
    """Return the ids that are also something else's, and values of others that hold an id."""
    lake = Lake(project.paths.lake)
    ids = people.ids
    ambiguous = set(ids & {*EVENT_TYPES, *attribute_names(project.plan)})
    longer_ids: set[str] = set()
    matcher = IdMatcher(ids)
    own_ids_by_column = {"user_id": people.users, "anonymous_id": people.devices}
    columns = ["user_id", "anonymous_id", *_VALUE_COLUMNS, "items"]
    for batch in lake.batches("events", columns) if lake.exists("events") else ():
        for name in columns:
            column = batch.column(name)
            flat_values = pc.list_flatten(column) if name == "items" else column
            values = set(flat_values.drop_null().unique().to_pylist())
            ambiguous |= values & (ids - own_ids_by_column.get(name, frozenset()))
            longer_ids |= {
                value for value in values - ids if matcher.find(value.encode(errors="replace"))
            }
    return ambiguous, longer_ids


def search(
    roots: Sequence[StoragePath],
    needles: Needles,
    *,
    skip: Collection[StoragePath] = (),
    on_read: Callable[[int], None] = lambda size: None,
) -> SearchReport:
    """Search all files below some folders, or objects below a prefix; `skip` some of them."""
    report = SearchReport()
    paths = [(root, path) for root in roots for path in sorted(root.rglob("*"))]
    for root, path in paths:
        name = path.name.encode(errors="surrogateescape")
        count = len(needles.find(name))
        where = "its name" if count else ""
        size = 0
        if storage_at(path).is_regular_file() and path not in skip:
            report.files += 1
            for label, data in _read_contents(path, needles.length_max):
                size += len(data) if label == "the file" else 0
                if label in (_PACKED_DAMAGED, _UNREADABLE):
                    count = count + 1
                    where = where or label
                elif offsets := needles.find(data):
                    count += len(offsets)
                    where = where or f"{label} at byte {offsets[0]}"
        report.bytes += size
        on_read(size)
        if count:
            report.matches.append(Match(str(path), count, where, _redact_path(path, root, needles)))
    return report


def is_below(path: str, folders: Sequence[StoragePath]) -> bool:
    """Return whether a file is in one of these folders."""
    return any(path.startswith(f"{str(folder).rstrip('/')}/") for folder in folders)


def _search_blocks(
    messages: Iterable[tuple[str, Block]],
    needles: Needles,
    report: SearchReport,
    on_read: Callable[[int], None],
) -> None:
    """Search messages and blocks of topics, each with where it stands."""
    for where, block in messages:
        on_read(len(block.payload))
        report.bytes += len(block.payload)
        for label, data in _unpack_block(block.kind, block.payload, block.receipt):
            if offsets := needles.find(data):
                report.matches.append(Match(where, len(offsets), label))


def _unpack_block(kind: str, payload: bytes, receipt: bytes = b"") -> Iterator[tuple[str, bytes]]:
    if kind in _ARROW_BLOCK_KINDS:
        yield from _column_texts(pa.ipc.open_stream(io.BytesIO(payload)).read_all())
    elif kind in _ZSTD_BLOCK_KINDS and receipt:
        size = int(receipt)
        yield "tables", pa.decompress(payload, decompressed_size=size, codec="zstd", asbytes=True)
    else:
        yield "message", payload


def _redact_path(path: StoragePath, root: StoragePath, needles: Needles) -> str:
    """Return a path below its root, without names that hold an id."""
    parts = str(path).removeprefix(str(root)).strip("/").split("/")
    return "/".join(
        "(a name that says who)" if needles.find(part.encode(errors="surrogateescape")) else part
        for part in parts
    )


def _read_contents(path: StoragePath, overlap: int) -> Iterator[tuple[str, bytes]]:
    """Yield all that a file holds, in pieces: its bytes, then what is packed in it."""
    source: str | pa.BufferReader
    try:
        if (local_path := storage_at(path).local_path) is None:
            data = path.read_bytes()
            yield "the file", data
            source = pa.BufferReader(data)
            suffix = path.suffix
        else:
            yield from _read_overlapping(local_path, overlap)
            source = str(local_path)
            suffix = _packing_suffix(local_path)
    except FileNotFoundError:  # deleted since the folder was listed
        return
    except PermissionError:
        yield _UNREADABLE, b""
        return
    try:
        yield from _unpack_file(suffix, source)
    except (
        *(*READ_ERRORS, ValueError, lzma.LZMAError, zipfile.BadZipFile, apsw.Error),
        RuntimeError,  # an encrypted zip file
    ):
        yield _PACKED_DAMAGED, b""


def _packing_suffix(path: Path) -> str:
    """Return how a file is packed, by what it begins with: a draft has another name."""
    with path.open("rb") as file:
        first_bytes = file.read(8)
    return next(
        (suffix for magic, suffix in _SUFFIX_BY_MAGIC.items() if first_bytes.startswith(magic)), ""
    )


def _read_overlapping(path: Path, overlap: int) -> Iterator[tuple[str, bytes]]:
    with path.open("rb") as file:
        overlapping_bytes = b""
        while chunk := file.read(_CHUNK_BYTES):
            yield "the file", overlapping_bytes + chunk
            overlapping_bytes = (overlapping_bytes + chunk)[-overlap:]


def _unpack_file(suffix: str, source: "str | pa.BufferReader") -> Iterator[tuple[str, bytes]]:
    if suffix == ".parquet":
        file = pq.ParquetFile(source)
        for group in range(file.num_row_groups):
            yield from _column_texts(file.read_row_group(group))
    elif suffix in (".zst", ".lz4"):
        packed_file = source if isinstance(source, pa.BufferReader) else pa.OSFile(source)
        codec = "zstd" if suffix == ".zst" else "lz4"
        with pa.CompressedInputStream(packed_file, codec) as stream:
            yield "unpacked", stream.read()
    elif isinstance(source, pa.BufferReader):  # a lake in a bucket has nothing else that is packed
        return
    elif suffix in _UNPACKER_BY_SUFFIX:
        yield "unpacked", _UNPACKER_BY_SUFFIX[suffix](Path(source).read_bytes())
    elif suffix == ".arrow":
        yield from _column_texts(pa.ipc.open_file(pa.memory_map(source)).read_all())
    elif suffix == ".zip":  # .npz too
        with zipfile.ZipFile(source) as archive:
            for number, name in enumerate(archive.namelist()):
                content = archive.read(name)
                yield f"member {number}", name.encode(errors="surrogateescape") + b"\n" + content
    elif suffix == ".db":
        yield from _read_database(source)


def _read_database(source: str) -> Iterator[tuple[str, bytes]]:
    """Yield the cells of all tables: in the file nothing need stand between two of them."""
    connection = apsw.Connection(source, flags=apsw.SQLITE_OPEN_READONLY)
    try:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        for (table,) in names.fetchall():
            if table == "block":
                for kind, payload in connection.execute("SELECT kind, payload FROM block"):
                    yield from _unpack_block(kind, payload)
                continue
            rows = connection.execute(f'SELECT * FROM "{table}"')
            while row_chunk := list(islice(rows, _ROWS_PER_CHUNK)):
                cells = [
                    _to_bytes(value)
                    for row in row_chunk
                    for value in row
                    if isinstance(value, str | bytes)
                ]
                yield f"table {table}", b"\n".join(cells)
    finally:
        connection.close()


def _to_bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode(errors="surrogatepass")


def _column_texts(table: pa.Table) -> Iterator[tuple[str, bytes]]:
    """Yield the texts and bytes of columns, a line each; of columns that say who, as a field."""
    for name in table.column_names:
        for column in _flatten_column(table[name].combine_chunks()):
            if not _is_text(column.type):
                continue
            values = column.drop_null().unique().to_pylist()
            yield f"column {name}", b"\n".join(map(_to_bytes, values))
            if name in _ID_FIELD_BY_COLUMN:
                texts = [value for value in values if isinstance(value, str)]
                fields = [_name_field(_ID_FIELD_BY_COLUMN[name], text) for text in texts]
                yield f"column {name}", b"\n".join(fields)


def _is_text(kind: pa.DataType) -> bool:
    checks = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary)
    return any(is_kind(kind) for is_kind in (*checks, pa.types.is_large_binary))


def _flatten_column(column: pa.Array) -> Iterator[pa.Array]:
    """Yield what a column is made of: elements of lists, fields of structs, values of
    dictionaries.
    """
    kind = column.type
    if isinstance(kind, pa.MapType):
        yield from (*_flatten_column(column.keys), *_flatten_column(column.items))
    elif pa.types.is_struct(kind):
        yield from (leaf for part in column.flatten() for leaf in _flatten_column(part))
    elif (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    ):
        yield from _flatten_column(column.flatten())
    else:
        yield column.dictionary if pa.types.is_dictionary(kind) else column

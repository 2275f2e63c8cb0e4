"""What is damaged in the tables, and what it can be made anew from.

    data file    a flipped bit, turned back; the files that were put together in it; its log; other tables; the archive, routed again
    commit file  a flipped bit, turned back; the ledger, which knows what the commit did
    checkpoint   the commit files hold everything; where they were deleted, the ledger

A data file that comes out with the checksum of the ledger is the file. One that holds the rows of
its log in other bytes (another version of the library wrote it) takes its place by a commit of its
own. The archive, routed again, counts only if every byte is the same: what was decided then may
depend on more than the bodies.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable

from tailorbird.errors import TailorbirdError
from tailorbird.lake.check import commit_fault
from tailorbird.lake.damage import file_fault
from tailorbird.lake.datafiles import parquet_of, statistics_of
from tailorbird.lake.delta import COMMIT_INFO, CONFIGURATION, commit_path
from tailorbird.lake.foreign import CHECKPOINT, HINT
from tailorbird.lake.lake import Lake
from tailorbird.lake.ledger import File, Ledger, Line
from tailorbird.lake.repair.bits import turned_back
from tailorbird.lake.repair.rows import before, from_events, from_ledger, from_log, part_of
from tailorbird.lake.tables import TABLES, TableSpec, aligned
from tailorbird.stream import Stream


@dataclass(frozen=True)
class Found:
    """A file's content, and where it is from. `rows` where the content is right and the bytes are
    others.
    """

    source: str
    data: bytes = b""
    rows: pa.Table | None = None


@dataclass(frozen=True)
class Sources:
    """Where rows may be had from: logs, other tables, and the archive, routed again in some ways
    (made when they are asked for).
    """

    lake: Path
    stream: Stream
    ledger: Ledger
    routed_again: Callable[[], Iterator[Path]]


def data_file(sources: Sources, table: str, file: File) -> Found | None:
    """The content of a data file, if it can be had."""
    spec, known = TABLES[table], sources.ledger.commits(table)
    line = next(
        line for line in known.values() if any(each.path == file.path for each in line.files)
    )
    other: Found | None = None
    for source, rows, exact_only in _candidates(sources, table, line, known):
        part = None if rows is None else part_of(rows, file.path, spec)
        if part is None or part.num_rows != file.rows:
            continue
        for sort in ((), spec.person) if line.removed and spec.person else ((),):
            data = bytes(
                parquet_of(
                    part.sort_by([(name, "ascending") for name in sort]) if sort else part,
                    spec,
                    sort,
                )
            )
            if hashlib.sha256(data).hexdigest() == file.sha256:
                return Found(source, data)
            if not file.sha256 and len(data) == file.size:  # see `repair.ledger_lost`
                return Found(
                    f"{source}; by a new commit, of its rows and size, since its checksum is lost",
                    rows=part,
                )
        if other is None and not exact_only:
            other = Found(f"{source}; by a new commit, since the bytes would be others", rows=part)
    path = sources.lake / table / file.path
    if (
        file.sha256
        and path.is_file()
        and path.stat().st_size == file.size
        and (data := turned_back(path.read_bytes(), file.sha256))
    ):
        return Found("a flipped bit, turned back", data)
    return other


def _candidates(
    sources: Sources, table: str, line: Line, known: dict[int, Line]
) -> Iterator[tuple[str, pa.Table | None, bool]]:
    reader = Lake(sources.lake)
    if line.removed:
        yield from _put_together(sources, table, line, known)
        return
    if len(line.positions) != 1:  # what a checkpoint said, which is of many commits
        return
    ((_, start),) = before(line, known).items()
    if table == "commits":
        yield "the ledger", from_ledger(sources.ledger, line, start), False
        return
    yield (
        "its log, which still has the rows",
        from_log(sources.stream, reader, table, line, start),
        False,
    )
    if table in ("users", "items"):
        yield "the events that carry the profiles", from_events(reader, table, line, start), False
    for folder in sources.routed_again() if table != "answers" else ():
        yield "the archive, routed again", from_log(folder, reader, table, line, start), True


def _put_together(
    sources: Sources, table: str, line: Line, known: dict[int, Line]
) -> Iterator[tuple[str, pa.Table | None, bool]]:
    """The rows of the files that a commit put together: these stay for a while, and each can be had
    again as any file.
    """
    written = {file.path: file for each in known.values() for file in each.files}
    parts: list[pa.Table] = []
    made: set[str] = set()
    for path in line.removed:
        if file_fault(sources.lake / table / path, written[path]) is None:
            parts.append(pq.ParquetFile(sources.lake / table / path).read())
            continue
        found = data_file(sources, table, written[path])
        if found is None or not found.data:
            return
        made.add(found.source)
        parts.append(pq.ParquetFile(pa.BufferReader(found.data)).read())
    rows = pa.concat_tables([aligned(part, TABLES[table].file_schema) for part in parts])
    yield (
        "the files that were put together in it"
        + (f", from {', '.join(sorted(made))}" if made else ""),
        rows,
        True,
    )


def commit_file(lake: Path, ledger: Ledger, table: str, line: Line) -> Found | None:
    """The content of a commit file: as it was, or one that does the same."""
    path = commit_path(lake / table, line.version)
    if path.is_file() and (data := turned_back(path.read_bytes(), line.commit_sha256)):
        return Found("a flipped bit, turned back", data)
    try:
        path, spec = lake / table, TABLES[table]
        return Found(
            "the ledger, which knows what the commit did",
            _commit(path, spec, ledger.commits(table), line, _shape(path, spec)),
        )
    except (TailorbirdError, OSError, pa.ArrowException, KeyError, ValueError):
        return None


def _commit(
    path: Path, spec: TableSpec, known: dict[int, Line], line: Line, shape: dict[str, dict]
) -> bytes:
    if line.version == 0:
        return _lines([shape["protocol"], shape["metaData"]])
    columns = not (line.files or line.removed)
    info = {
        "files": len(line.files),
        "rows": sum(file.rows for file in line.files),
        "removed": len(line.removed),
        "columns": int(columns),
    }
    told = {
        "timestamp": line.written_at // 1000,
        "operation": "WRITE",
        "operationParameters": {},
        COMMIT_INFO: info,
    }
    actions: list[dict] = [{"commitInfo": told}]
    if columns:
        actions.append(shape["metaData"])
    sizes = {file.path: file.size for each in known.values() for file in each.files}
    for file in line.files:
        add = {
            "path": file.path,
            "partitionValues": _values(file.path, spec),
            "size": file.size,
            "modificationTime": line.written_at // 1000,
        }
        actions.append(
            {"add": {**add, "dataChange": not line.removed, "stats": _statistics(path, spec, file)}}
        )
    for gone in line.removed:
        remove = {
            "path": gone,
            "dataChange": False,
            "deletionTimestamp": line.written_at // 1000,
            "extendedFileMetadata": True,
        }
        actions.append(
            {"remove": {**remove, "partitionValues": _values(gone, spec), "size": sizes[gone]}}
        )
    actions += [
        {"txn": {"appId": log, "version": position}} for log, position in line.positions.items()
    ]
    return _lines(actions)


def _shape(path: Path, spec: TableSpec) -> dict[str, dict]:
    """Protocol and columns of a table of this kind, under the name that the table has."""
    with tempfile.TemporaryDirectory(prefix="tailorbird-repair-") as folder:
        DeltaTable.create(
            folder,
            spec.schema,
            partition_by=[spec.partition] if spec.partition else None,
            configuration={
                **CONFIGURATION,
                "delta.dataSkippingStatsColumns": ",".join(spec.statistics),
            },
        )
        made = commit_path(Path(folder), 0).read_bytes()
    shape = {next(iter(action)): action for action in map(json.loads, made.splitlines())}
    first = commit_path(path, 0)
    if first.is_file() and (same := first.read_bytes().partition(b'"metaData":{"id":"')[2][:36]):
        shape["metaData"]["metaData"]["id"] = same.decode(errors="replace")
    return shape


def _values(path: str, spec: TableSpec) -> dict[str, str]:
    return {spec.partition: path.rpartition("/")[0].partition("=")[2]} if spec.partition else {}


def _statistics(path: Path, spec: TableSpec, file: File) -> str:
    if file_fault(path / file.path, file) is not None:
        return json.dumps({"numRecords": file.rows})
    return statistics_of(pq.ParquetFile(path / file.path).read(), spec)


def _lines(actions: list[dict]) -> bytes:
    return b"\n".join(json.dumps(action).encode() for action in actions)


def checkpoint(lake: Path, ledger: Ledger, table: str) -> bytes | None:
    """What the log of a table begins with, where the commits before it were deleted."""
    begin, known = ledger.log_begin(table), ledger.commits(table)
    path, spec = lake / table, TABLES[table]
    try:
        shape = _shape(path, spec)
        with tempfile.TemporaryDirectory(prefix="tailorbird-repair-") as folder:
            log = Path(folder) / "_delta_log"
            log.mkdir()
            for version in range(begin + 1):
                (log / f"{version:020d}.json").write_bytes(
                    _commit(path, spec, known, known[version], shape)
                )
            DeltaTable(folder).create_checkpoint()
            return (log / f"{begin:020d}.checkpoint.parquet").read_bytes()
    except (TailorbirdError, OSError, pa.ArrowException, KeyError, ValueError):
        return None


def commits_at_fault(lake: Path, ledger: Ledger, table: str) -> Iterator[tuple[Line, str]]:
    """The commits of a table whose files are not as they were written, and what is wrong with each."""
    begin = ledger.log_begin(table)
    for version, line in sorted(ledger.commits(table).items()):
        if version >= begin and (fault := commit_fault(lake / table, version, line)) is not None:
            yield line, fault


def reads_as_told(lake: Path, ledger: Ledger, table: str) -> bool:
    """Whether deltalake can open a table, and finds the files in it that the ledger says."""
    try:
        found = Lake(lake).files(table, max(ledger.commits(table)))
    except Exception:  # deltalake raises what it likes
        return False
    return found == {file.path: file.rows for file in ledger.files(table).values()}


def unvouched(path: Path, ledger: Ledger, table: str) -> list[Path]:
    """The hint and the checkpoints in the log of a table that are not the ledger's, in the order in
    which they can go.
    """
    known = {line.files[0].path for line in ledger.checkpoints(table).values()}
    log = path / "_delta_log"
    hint = [log / HINT] if (log / HINT).exists() else []
    return hint + sorted(
        file for file in log.iterdir() if CHECKPOINT.match(file.name) and file.name not in known
    )

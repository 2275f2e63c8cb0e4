"""A ledger that is gone, written anew from the tables' own logs, which say what each commit did but
not the checksums of its files.

The checksum of a file that is there, of the size that its commit says, is taken as it is; whether
it holds what it held, `lake verify --deep` tells of the rows that the archive has. A file that is
gone or of another size enters without one: its rows may come back from their log, or from the
archive, where size and number of rows are what the commit says.

A log that was trimmed begins with a checkpoint: what that says enters as one commit, and versions
before it are not known any more.

The new ledger has fewer lines than the old one had, so the place up to which the table `commits`
has mirrored it would lie beyond its end. What the table has rows of comes first, then a line that
says so, then the rest.
"""

import hashlib
import json
from collections.abc import Collection
from pathlib import Path

import msgspec
import pyarrow as pa

from tailorbird.errors import DamageError
from tailorbird.events.clock import Clock
from tailorbird.lake import durable, foreign
from tailorbird.lake.delta import checkpoint_path, commit_path
from tailorbird.lake.ledger import File, Ledger, Line
from tailorbird.lake.opening import delta_table
from tailorbird.lake.positions import Positions, load_positions, store_positions
from tailorbird.lake.tables import COMMITS, TABLES
from tailorbird.stream.released import FILE

MIRROR = "commits"


def lines_anew(lake: Path) -> list[Line]:
    """The lines, without their numbers, in the order in which they were written.

    Raises:
        ValueError: a table's log does not say what is in it; which, and why.
    """
    logs = _logs(lake)
    lines = [
        line
        for table in TABLES
        if (lake / table / "_delta_log").is_dir()
        for line in _of_table(lake / table, table, logs)
    ]
    lines.sort(key=lambda line: line.written_at)
    position, told = _mirrored(lake / MIRROR)
    mirrored = [
        line
        for line in lines
        if line.table == MIRROR
        or line.kind != "commit"
        or told is None
        or (line.table, line.version) in told
    ]
    if not position:
        return lines
    rest = [line for line in lines if line not in mirrored]
    return [*mirrored, Line(n=0, kind="anew", table=MIRROR, version=position), *rest]


def _mirrored(path: Path) -> tuple[int, set[tuple[str, int]] | None]:
    """How far the table `commits` has the old ledger, and of which commits it has a row; None where
    a file of it cannot be read.
    """
    if not (path / "_delta_log").is_dir():
        return 0, set()
    try:
        delta = delta_table(path)
        position = delta.transaction_version("ledger") or 0
    except Exception as error:  # deltalake raises what it likes
        raise ValueError(f"the log of table {MIRROR} cannot be read") from error
    try:
        rows = delta.to_pyarrow_dataset(schema=COMMITS).to_table(["table", "version"])
    except (OSError, pa.ArrowException):
        return position, None
    return position, set(zip(rows["table"].to_pylist(), rows["version"].to_pylist(), strict=True))


def write_anew(lake: Path, lines: list[Line], clock: Clock) -> None:
    """Write the ledger, and its length into the file of positions, which else tells that lines are
    missing.
    """
    ledger = Ledger(lake / "ledger.jsonl", writer=True)
    for line in lines:
        ledger.append(
            line.kind,
            line.table,
            line.version,
            written_at=line.written_at or clock.now(),
            rows=line.rows,
            positions=line.positions,
            commit_sha256=line.commit_sha256,
            files=line.files,
            removed=line.removed,
        )
    if (positions := _positions(lake)) is not None:
        positions.ledger = len(lines)
        store_positions(lake, positions)


def _positions(lake: Path) -> Positions | None:
    """The file of positions; None where it is gone or damaged, which is mended by the ledger."""
    try:
        return load_positions(lake) if (lake / FILE).exists() else None
    except DamageError:
        return None


def _logs(lake: Path) -> Collection[str]:
    """The names of logs that a table may have rows of, as far as they are known."""
    positions = _positions(lake)
    return {
        "routed",
        "ledger",
        *(
            log
            for logs in (positions.tables.values() if positions is not None else ())
            for log in logs
        ),
    }


def _of_table(path: Path, table: str, logs: Collection[str]) -> list[Line]:
    versions = foreign.versions(path)
    if not versions or versions != list(range(versions[0], versions[-1] + 1)):
        raise ValueError(f"the log of table {table} is not whole")
    lines = _trimmed(path, table, versions[0], logs) if versions[0] else []
    for version in versions[1:] if versions[0] else versions:
        data = commit_path(path, version).read_bytes()
        if (fault := foreign.torn(data, version)) is not None:
            if version and (
                version == versions[-1] or foreign.of_others(foreign.strange_commits(path, {}))
            ):
                break  # what is set aside once there is a ledger
            raise ValueError(f"version {version} of table {table} {fault}")
        lines.append(_of_commit(path, table, version, data))
    return lines


def _of_commit(path: Path, table: str, version: int, data: bytes) -> Line:
    files: list[File] = []
    removed: list[str] = []
    positions: dict[str, int] = {}
    written_at = 0
    for action in map(json.loads, data.splitlines()):
        if "add" in action:
            add = action["add"]
            files.append(
                _file(path, add["path"], add["size"], json.loads(add["stats"])["numRecords"])
            )
        elif "remove" in action:
            removed.append(action["remove"]["path"])
        elif "txn" in action:
            positions[action["txn"]["appId"]] = action["txn"]["version"]
        elif "commitInfo" in action:
            written_at = int(action["commitInfo"].get("timestamp", 0)) * 1000
    line = Line(
        n=0,
        kind="commit",
        table=table,
        version=version,
        positions=positions,
        files=files,
        removed=removed,
        written_at=written_at,
    )
    rows = 0 if removed else sum(file.rows for file in files)
    return msgspec.structs.replace(line, rows=rows, commit_sha256=hashlib.sha256(data).hexdigest())


def _trimmed(path: Path, table: str, begin: int, logs: Collection[str]) -> list[Line]:
    checkpoint = checkpoint_path(path, begin)
    if not checkpoint.exists():
        raise ValueError(
            f"the log of table {table} begins at version {begin}, and the checkpoint before "
            "it is gone"
        )
    try:
        delta = delta_table(path, begin)
        actions = (
            pa.table(delta.get_add_actions())
            .select(["path", "size_bytes", "num_records"])
            .to_pylist()
        )
        positions = {
            log: at for log in sorted(logs) if (at := delta.transaction_version(log)) is not None
        }
    except Exception as error:  # deltalake raises what it likes
        raise ValueError(
            f"the checkpoint of table {table} at version {begin} cannot be read"
        ) from error
    files = [_file(path, one["path"], one["size_bytes"], one["num_records"]) for one in actions]
    last = _of_commit(path, table, begin, commit_path(path, begin).read_bytes())
    whole = File(checkpoint.name, checkpoint.stat().st_size, durable.sha256_of(checkpoint))
    at = last.written_at
    return [
        Line(n=0, kind="commit", table=table, version=0, written_at=at),
        msgspec.structs.replace(
            last,
            rows=sum(file.rows for file in files),
            positions=positions,
            files=files,
            removed=[],
        ),
        Line(n=0, kind="checkpoint", table=table, version=begin, files=[whole], written_at=at),
        Line(n=0, kind="trimmed", table=table, version=begin, written_at=at),
    ]


def _file(path: Path, name: str, size: int, rows: int) -> File:
    place = path / name
    whole = place.is_file() and place.stat().st_size == size
    return File(name, size, durable.sha256_of(place) if whole else "", rows)

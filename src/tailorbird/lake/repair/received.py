"""What is damaged of what came in, and what it can be made anew from: files of the archive, raw
logs, answer logs.

A file of the archive: a flipped bit, turned back, or what the raw log still has of its rows. Logs:
see `repair.logs`.
"""

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tailorbird.errors import DamageError, TailorbirdError
from tailorbird.lake.archive import Archive, Archived, packed
from tailorbird.lake.damage import file_fault
from tailorbird.lake.positions import Positions
from tailorbird.lake.repair import logs
from tailorbird.lake.repair.bits import turned_back
from tailorbird.lake.repair.plan import Beyond, Mend, Plan, put_back
from tailorbird.lock import FileLock
from tailorbird.stream import (
    Stored,
    Stream,
    answer_logs,
    open_reader,
    raw_addresses,
    raw_logs,
    routed_path,
)


def archived_file(lake: Path, stream: Stream, file: Archived, plan: Plan) -> None:
    """Look at a file of the archive."""
    path = lake / "archive" / file.file
    fault = file_fault(path, file)
    if fault is None:
        return
    data = _from_raw(stream, file)
    source = "the raw log, which still has the rows"
    if data is None and path.is_file() and path.stat().st_size == file.size:
        data, source = turned_back(path.read_bytes(), file.sha256), "a flipped bit, turned back"
    if data is None:
        rows = f"rows {file.first:,} to {file.end - 1:,} of {file.partition}"
        lost = (
            f"the bodies of {rows} as they were received; what was made of them stands in the "
            "tables, as far as these are whole"
        )
        plan.beyond.append(Beyond(str(path), fault, lost))
        return
    plan.mends.append(Mend(str(path), fault, source, partial(put_back, lake, path, data)))


def _from_raw(stream: Stream, file: Archived) -> bytes | None:
    address = raw_addresses(stream).get(file.partition)
    if address is None:
        return None
    try:
        with open_reader(address) as reader:
            blocks: list[Stored] = []
            at = file.first
            while at < file.end:
                more = [stored for stored in reader.read(at) if stored.end <= file.end]
                if not more:
                    break
                blocks += more
                at = more[-1].end
    except TailorbirdError:
        return None
    data = packed(blocks) if blocks else b""
    return data if hashlib.sha256(data).hexdigest() == file.sha256 else None


def logs_of(lake: Path, stream: Path, archive: Archive, positions: Positions, plan: Plan) -> None:
    """Look at the logs in a folder."""
    for producer, path in raw_logs(stream).items():
        archived = [file for file in archive.files if file.partition == producer]
        needed = min(archive.positions().get(producer, 0), positions.routed.get(producer, 0))
        copies = partial(_blocks_of, archive, [file for file in archived if file.end > needed])
        lost = "events that were acknowledged and are nowhere else"
        _log(lake, path, producer, copies, needed, archive.positions().get(producer, 0), lost, plan)
    for producer, path in answer_logs(stream).items():
        needed = positions.tables.get("answers", {}).get(path.stem, 0)
        _log(
            lake,
            path,
            producer,
            list,
            needed,
            needed,
            "the features that answers were given by",
            plan,
        )
    path = routed_path(stream)
    if path.exists() and (fault := logs.log_fault(path)) is not None:
        reached = min(
            (logs_[log] for logs_ in positions.tables.values() for log in logs_ if log == "routed"),
            default=0,
        )
        lost = (
            f"what was routed before {reached:,} is in the lake, what came behind is still "
            "in the raw logs; but what the router knows "
            "of events, people and answers of the last days stands in this file alone: "
            "restore it from a copy"
        )
        plan.beyond.append(Beyond(str(path), fault, lost))


def _log(
    lake: Path,
    path: Path,
    producer: str,
    elsewhere: Callable[[], list[Stored]],
    needed: int,
    end: int,
    lost: str,
    plan: Plan,
) -> None:
    fault = logs.log_fault(path)
    if fault is None:
        return
    found = logs.salvage(path, elsewhere, needed, end)
    if found.lost:
        plan.beyond.append(Beyond(str(path), fault, f"{logs.spans(found.lost)}: {lost}"))
        return
    source = (
        "archive and tables, and the blocks behind them that are whole"
        if found.blocks
        else "nobody needs what it held"
    )
    plan.mends.append(
        Mend(str(path), fault, source, partial(_put_log, lake, path, producer, found))
    )


def _put_log(lake: Path, path: Path, producer: str, found: logs.Salvage) -> None:
    lock = FileLock(path)
    try:
        logs.write_anew(path, producer, found, lake / "set-aside" / "stream")
    finally:
        lock.release()


def _blocks_of(archive: Archive, files: list[Archived]) -> list[Stored]:
    blocks: list[Stored] = []
    for file in files:
        try:
            blocks += archive.read(file)
        except DamageError:
            continue  # the log may have them
    return blocks

"""Corruption in what was received, and its second copy.

file of the archive  from the raw log, while that still has the rows
raw, answer log      see `rebuild.logs`
routed log           none
"""

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tailorbird.errors import DamageError, TailorbirdError
from tailorbird.file_lock import FileLock
from tailorbird.lake.files.archive import Archive, ArchiveFile, pack_blocks
from tailorbird.lake.files.swap import SET_ASIDE_FOLDER
from tailorbird.lake.rebuild import logs
from tailorbird.lake.rebuild.plan import Plan, Rebuild, Unrecoverable
from tailorbird.lake.write.positions import Positions
from tailorbird.stream import (
    StoredBlock,
    Stream,
    log_set,
    open_reader,
    raw_logs,
    response_logs,
    routed_path,
)

RebuildAction = Callable[[], None]


def archived_content(stream: Stream, file: ArchiveFile) -> bytes | None:
    """Return the content of a file of the archive, if the raw log still has its rows."""
    address = log_set(stream).raw_logs().get(file.partition)
    if address is None:
        return None
    try:
        with open_reader(address) as reader:
            blocks: list[StoredBlock] = []
            position = file.first
            while position < file.end:
                next_blocks = [
                    stored_block
                    for stored_block in reader.read(position)
                    if stored_block.end <= file.end
                ]
                if not next_blocks:
                    break
                blocks += next_blocks
                position = next_blocks[-1].end
    except TailorbirdError:
        return None
    data = pack_blocks(blocks) if blocks else b""
    return data if hashlib.sha256(data).hexdigest() == file.sha256 else None


def examine_logs(
    lake: Path, folder: Path, archive: Archive, positions: Positions, plan: Plan
) -> list[RebuildAction]:
    """Add the corrupt logs in a folder to the plan, and return what rebuilds them."""
    actions: list[RebuildAction] = []
    for path in logs.unfinished_rebuilds(folder):
        plan.rebuilds.append(Rebuild(str(path), "its rebuild was cut short", "the rebuilt log"))
        actions.append(partial(_finish_rebuild, lake, path))
    unfinished = set(logs.unfinished_rebuilds(folder))
    for producer, path in raw_logs(folder).items():
        if path in unfinished:
            continue
        archive_end = archive.positions().get(producer, 0)
        first_needed_row = min(archive_end, positions.routed.get(producer, 0))
        files = [file for file in archive.files if file.partition == producer]
        read_copies = partial(
            _archived_blocks, archive, [file for file in files if file.end > first_needed_row]
        )
        consequence = "of events were acknowledged and are nowhere else"
        actions += _examine_log(
            lake,
            path,
            producer,
            read_copies=read_copies,
            first_needed_row=first_needed_row,
            log_end=archive_end,
            consequence=consequence,
            plan=plan,
        )
    for producer, path in response_logs(folder).items():
        if path in unfinished:
            continue
        loaded_end = positions.tables.get("answers", {}).get(path.stem, 0)
        consequence = "hold the features that answers were given by, and are nowhere else"
        actions += _examine_log(
            lake,
            path,
            producer,
            read_copies=list,
            first_needed_row=loaded_end,
            log_end=loaded_end,
            consequence=consequence,
            plan=plan,
        )
    path = routed_path(folder)
    if path.exists() and (corruption := logs.log_corruption(path)) is not None:
        routed_loaded_end = min(
            (ends[log] for ends in positions.tables.values() for log in ends if log == "routed"),
            default=0,
        )
        consequence = (
            "the router's index of events, people and answers is in this file alone, so restore "
            f"it from the backup; rows before {routed_loaded_end:,} are in the lake, later ones "
            "still in the "
            "raw logs"
        )
        plan.unrecoverable.append(Unrecoverable(str(path), corruption, consequence))
    return actions


def _examine_log(
    lake: Path,
    path: Path,
    producer: str,
    read_copies: Callable[[], list[StoredBlock]],
    first_needed_row: int,
    log_end: int,
    consequence: str,
    plan: Plan,
) -> list[RebuildAction]:
    corruption = logs.log_corruption(path)
    if corruption is None:
        return []
    salvage = logs.salvage_log(path, read_copies, first_needed_row, log_end)
    if salvage.lost_spans:
        sentence = f"{logs.format_spans(salvage.lost_spans)} {consequence}"
        plan.unrecoverable.append(Unrecoverable(str(path), corruption, sentence))
        return []
    source = (
        "archive and tables, and the later blocks of the log that are intact"
        if salvage.blocks
        else "nothing is needed: the lake has all of its rows"
    )
    plan.rebuilds.append(Rebuild(str(path), corruption, source))
    return [partial(_rebuild_log, lake, path, producer, salvage)]


def _rebuild_log(lake: Path, path: Path, producer: str, salvage: logs.Salvage) -> None:
    lock = FileLock(path)
    try:
        logs.rebuild_log(path, producer, salvage, lake / SET_ASIDE_FOLDER / "stream")
    finally:
        lock.release()


def _finish_rebuild(lake: Path, path: Path) -> None:
    lock = FileLock(path)
    try:
        logs.finish_rebuild(path, lake / SET_ASIDE_FOLDER / "stream")
    finally:
        lock.release()


def _archived_blocks(archive: Archive, files: list[ArchiveFile]) -> list[StoredBlock]:
    blocks: list[StoredBlock] = []
    for file in files:
        try:
            blocks += archive.read(file)
        except DamageError:
            continue  # The log may still have them.
    return blocks

"""Recognise a plain copy of a project, such as one of `cp -r`, and name what it lacks.

A copy of a running project has each file as of another moment. So its lake may be ahead of its
logs, and the lake would skip new rows as if it had them already. `up` records path and inode of
the data folder. The folder of a copy has another inode, which tells it apart:

    data/run/origin.json    path and inode of the data folder, and what it was copied from
"""

import secrets
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from tailorbird.atomic_write import atomic_write
from tailorbird.config import Project
from tailorbird.config.roles import read_roles
from tailorbird.errors import DamageError, StorageError
from tailorbird.stream import open_reader, raw_logs, response_logs, sqlite
from tailorbird.stream.lag import unloaded_rows_by_log
from tailorbird.stream.locked import router_positions
from tailorbird.stream.partitions import routed_path
from tailorbird.stream.released import ReleasedPositions, read_released_positions

ORIGIN_FILE = "origin.json"


class Origin(msgspec.Struct, frozen=True):
    """Place of a data folder, and of the folder that it was copied from.

    Attributes:
        copied_from: path of the original; "" if this is no copy.
        was_running: whether roles ran while it was copied.
    """

    id: str
    path: str
    inode: int
    copied_from: str = ""
    was_running: bool = False


@dataclass(frozen=True)
class CopyReport:
    """A project that is a plain copy of another one.

    Attributes:
        copied_from: data folder of the original.
        was_running: whether roles ran while it was copied.
        waiting: rows of each log that are not in the lake yet; the roles bring them in.
        missing: what is wrong with each log that is behind its readers: rows were lost.
    """

    copied_from: str
    was_running: bool
    waiting: dict[str, int] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        when = "while its roles ran" if self.was_running else "while no role ran"
        lines = [f"This project is a plain copy of {self.copied_from}, taken {when}."]
        if (rows := sum(self.waiting.values())) and not self.missing:
            lines.append(
                f"{rows:,} rows of its logs are not in its lake yet. "
                "`tailorbird up` brings them in."
            )
        lines += [f"{log}: {description}" for log, description in self.missing.items()]
        if self.missing:
            lines.append("Use a backup instead: tailorbird restore URI FOLDER")
        return "\n".join(lines)


def record_origin(project: Project) -> CopyReport | None:
    """Record where the project is, before its roles start; report a copy.

    Raises:
        DamageError: the project is a copy whose logs are behind its lake or its router.
    """
    data_folder = project.paths.data
    run_folder = project.paths.run
    report = inspect_copy(project)
    if report is not None and report.missing:
        fix = "tailorbird restore URI FOLDER, or copy the original again while no role runs"
        if "routed" not in report.missing:  # Its positions would be given to other rows.
            fix += (
                "; to go on with a copy that lost these rows, delete "
                f"{run_folder / ORIGIN_FILE}: `up` then sets the short logs aside"
            )
        raise DamageError(str(report), where=str(data_folder), fix=fix)
    recorded_origin = read_origin(run_folder)
    inode = data_folder.stat().st_ino
    if recorded_origin is None or recorded_origin.inode != inode:
        origin = Origin(
            id=secrets.token_hex(8),
            path=str(data_folder),
            inode=inode,
            copied_from=report.copied_from if report else "",
            was_running=bool(report and report.was_running),
        )
        atomic_write(run_folder / ORIGIN_FILE, msgspec.json.encode(origin))
    return report


def read_origin(run_folder: Path) -> Origin | None:
    """Return the record, or None without a readable one."""
    try:
        return msgspec.json.decode((run_folder / ORIGIN_FILE).read_bytes(), type=Origin)
    except (OSError, msgspec.MsgspecError):
        return None


def inspect_copy(project: Project) -> CopyReport | None:
    """Return what a copy lacks, or None if the project is no copy."""
    paths = project.paths
    origin = read_origin(paths.run)
    if origin is None:
        return None
    if origin.inode == paths.data.stat().st_ino:
        if not origin.copied_from:
            return None
        copied_from = origin.copied_from
        was_running = origin.was_running
    else:
        copied_from = origin.path
        was_running = _has_open_writers(paths.run, project)
    lake_positions = read_released_positions(paths.lake)
    waiting = unloaded_rows_by_log(lake_positions, project.stream)
    missing = _describe_missing_rows(project, lake_positions)
    return CopyReport(copied_from, was_running, waiting, missing)


def _has_open_writers(run_folder: Path, project: Project) -> bool:
    """Return whether roles had not ended when this was copied: they leave their traces."""
    logs = project.stream.folder.glob("*.db")
    return bool(read_roles(run_folder)) or any(sqlite.wal_bytes(path) for path in logs)


def _describe_missing_rows(project: Project, lake_positions: ReleasedPositions) -> dict[str, str]:
    """Describe, for each log that ends before what was read of it, which rows it lacks."""
    log_folder = project.stream.folder
    path_by_log = {
        path.stem: path
        for path in (*raw_logs(log_folder).values(), *response_logs(log_folder).values())
    }
    if routed_path(log_folder).exists():
        path_by_log["routed"] = routed_path(log_folder)
    missing_by_log: dict[str, str] = {}
    needed_ends = _needed_ends(project, lake_positions)
    for log, end in sorted(needed_ends.items()):
        if log not in path_by_log:
            if not project.settings.stream.url:
                missing_by_log[log] = f"the log is missing, and was read up to row {end:,}"
            continue
        try:
            with open_reader(path_by_log[log]) as reader:
                missing_rows = end - reader.end()
        except (DamageError, StorageError) as error:
            missing_by_log[log] = error.message
            continue
        if missing_rows > 0:
            missing_by_log[log] = (
                f"lacks {missing_rows:,} rows that were acknowledged and read up to row {end:,}"
            )
    return missing_by_log


def _needed_ends(project: Project, lake_positions: ReleasedPositions) -> dict[str, int]:
    """Return how far router and lake have read each log, by its name."""
    end_by_log: dict[str, int] = dict(lake_positions.archive)
    for positions in (*router_positions(project.stream), lake_positions.routed):
        for producer, position in positions.items():
            log = f"raw-{producer}"
            end_by_log[log] = max(position, end_by_log.get(log, 0))
    for positions in lake_positions.tables.values():
        for log, position in positions.items():
            if log == "routed" or log.startswith("answers-"):
                end_by_log[log] = max(position, end_by_log.get(log, 0))
    return end_by_log

"""Upkeep of the lake by hand: compact files, delete old ones, read a version."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tailorbird.config import Project
from tailorbird.errors import LockedError, NotReadyError, UsageError
from tailorbird.pages.notebook import notebook_repr
from tailorbird.platform.frames import Frame
from tailorbird.platform.progress import Progress, no_progress

if TYPE_CHECKING:
    import pyarrow as pa

    from tailorbird.lake import LakeRole, TableVersion

_KEEP_ALL_US = 1 << 62  # Opening the lake must not delete what `vacuum` reports and deletes.


@notebook_repr
@dataclass(frozen=True)
class Compaction:
    """How many files less there are, and by how many commits."""

    removed_file_count: int
    commit_count: int


def compact(
    project: Project, *, all_days: bool = False, progress: Progress = no_progress
) -> Compaction:
    """Compact all small files that are due.

    Args:
        all_days: take every day with more than one small file, today's too.

    Raises:
        LockedError: the lake role is running; it compacts by itself.
    """
    removed_file_count = commit_count = 0
    with _open_role(project, "puts files together") as role:
        files_total = sum(role.count_due_files(include_unsettled=all_days).values())
        progress("files", 0, files_total)
        while due_files_by_table := role.count_due_files(include_unsettled=all_days):
            due_files_before = sum(due_files_by_table.values())
            removed_file_count += role.upkeep(include_unsettled=all_days)
            commit_count += 1
            remaining_files = sum(role.count_due_files(include_unsettled=all_days).values())
            files_total = max(files_total, remaining_files)
            progress("files", files_total - min(remaining_files, due_files_before), files_total)
    return Compaction(removed_file_count, commit_count)


def vacuum(
    project: Project, *, keep: str = "", dry_run: bool = False, progress: Progress = no_progress
) -> Frame:
    """Delete files that only old versions need; return their number and size by table.

    Args:
        keep: delete files unneeded for longer than this, instead of `lake.history`.
        dry_run: only count.

    Raises:
        LockedError: the lake role is running; it deletes by itself.
    """
    from tailorbird.events import parse_duration

    keep_us = parse_duration(keep or project.settings.lake.history)
    with _open_role(project, "deletes them") as role:
        report_by_table = role.vacuum(keep_us=keep_us, dry_run=True)
        files_total = sum(report.files + report.log_files for report in report_by_table.values())
        deleted_files = 0

        def count_files(count: int) -> None:
            nonlocal deleted_files
            deleted_files += count
            progress("files", deleted_files, files_total)

        if not dry_run:
            report_by_table = role.vacuum(keep_us=keep_us, progress=count_files)
    return Frame.from_rows(
        ["table", "files", "log_files", "bytes"],
        [
            (name, report.files, report.log_files, report.bytes)
            for name, report in report_by_table.items()
        ],
    )


@dataclass(frozen=True)
class EventsVersion:
    """The events at a version of the table, in order of their position."""

    version: int
    position_by_log: dict[str, int]
    rows: "pa.Table"


def read_version(
    project: Project,
    *,
    version: int | None = None,
    bundle: str = "",
    columns: tuple[str, ...] | None = None,
) -> EventsVersion:
    """Read the events at a version of the table, or as a bundle's training read them.

    Without either, as they are now.

    Raises:
        UsageError: both are given, or the bundle learned from no events.
        NotReadyError: the lake is empty.
    """
    from tailorbird.lake import Lake, version_at, versions_of

    if version is not None and bundle:
        raise UsageError("expected --at-version or --bundle, got both")
    if bundle:
        version_by_table = _table_versions_read_by(project, bundle)
    elif version is not None:
        version_by_table = version_at(project.paths.lake, "events", version)
    else:
        version_by_table = versions_of(project.paths.lake)
    if "events" not in version_by_table:
        raise NotReadyError(
            "there is nothing in the lake yet",
            where=str(project.paths.lake),
            fix="tailorbird import FORMAT PATH",
        )
    rows = Lake(project.paths.lake, versions=version_by_table).events(columns).sort_by("p")
    return EventsVersion(
        version_by_table["events"].version, version_by_table["events"].positions, rows
    )


def _table_versions_read_by(project: Project, bundle: str) -> "dict[str, TableVersion]":
    """Return table → the version of it that the training of a bundle read."""
    from tailorbird.events import SystemClock
    from tailorbird.lake.delta.versions import from_manifest
    from tailorbird.registry import Registry
    from tailorbird.registry.manifest import read_sealed

    folder = Registry(project.paths.registry, clock=SystemClock()).resolve(bundle)
    manifest = read_sealed(folder).manifest
    training_details = manifest.metrics.get("about", {})
    if not manifest.heads:
        raise UsageError(
            f"bundle {bundle} was trained on no events: it is an index without a model, "
            "which shows items by popularity",
            fix="name a version that train made: tailorbird models list; or --at-version",
        )
    if "lake" not in training_details:
        raise UsageError(
            f"bundle {bundle} does not say which versions it was trained on",
            fix="an older release trained it; train anew",
        )
    return from_manifest(training_details["lake"])


@contextmanager
def _open_role(project: Project, role_action: str) -> Iterator["LakeRole"]:
    """Open the lake's writer."""
    from tailorbird.events import SystemClock
    from tailorbird.lake import LakeRole
    from tailorbird.lake.write.positions import missing_ledger_error

    paths = project.paths
    if not (paths.lake / "ledger.jsonl").exists():
        raise missing_ledger_error(paths.lake)
    try:
        role = LakeRole(
            project.stream,
            paths.lake,
            clock=SystemClock(),
            keep_us=_KEEP_ALL_US,
            sort=project.settings.lake.sort,
        )
    except LockedError as error:
        raise LockedError(
            f"the lake role is running, and {role_action} by itself",
            where=error.where,
            fix="stop it to do it by hand",
        ) from error
    with role:
        yield role

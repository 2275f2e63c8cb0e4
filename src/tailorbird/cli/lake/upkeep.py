"""`tailorbird lake compact|vacuum|events`: compact files, delete old ones, read a version."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tailorbird.cli.output import Json, console, print_json, print_table, progress_bars
from tailorbird.errors import LockedError, NotReadyError, UsageError

if TYPE_CHECKING:
    from tailorbird.config import Project
    from tailorbird.lake import LakeRole, TableVersion

_SHOWN = 20
_KEEP_ALL = 1 << 62  # Opening the lake must not delete what `vacuum` reports and deletes.


def compact(*, all_days: bool = False, json: Json = False) -> None:
    """Compact small files, so that reading opens few. No row changes.

    The lake role does it by itself, one folder at a time between two loads: where a day has 32
    small files, and where a day had no write for a day. This command does everything that is due at
    once. Old files stay for `lake.history`; `lake vacuum` deletes them.

    Example:  tailorbird -C shop lake compact

    Parameters
    ----------
    all_days:
        take every day with more than one small file, today's too
    """
    totals: dict[str, int] = {}
    with _role(_project(), "puts files together") as role, progress_bars(quiet=json) as progress:
        total = sum(role.due(everything=all_days).values())
        progress("files", 0, total)
        while waiting := role.due(everything=all_days):
            before = sum(waiting.values())
            done = role.upkeep(everything=all_days)
            left = sum(role.due(everything=all_days).values())
            totals["files"] = totals.get("files", 0) + done
            totals["commits"] = totals.get("commits", 0) + 1
            total = max(total, left)
            progress("files", total - min(left, before), total)
    if json:
        print_json({"files_less": totals.get("files", 0), "commits": totals.get("commits", 0)})
    elif totals:
        console().print(
            f"{totals['files']:,} files less, by {totals['commits']:,} commits. Old readers "
            "still find theirs until lake vacuum."
        )
    else:
        console().print("Nothing is due: no day has many small files.")


def vacuum(*, keep: str = "", dry_run: bool = False, json: Json = False) -> None:
    """Delete files that only old versions need: those that were compacted, and the log before a
    checkpoint.

    It deletes at once; --dry-run only counts. No row of any table is lost: events, users, items and
    answers can still be read at every version. The lake role does it once an hour with
    `lake.history`.

    Example:  tailorbird -C shop lake vacuum --dry-run

    Example:  tailorbird -C shop lake vacuum --keep 2d

    Parameters
    ----------
    keep:
        delete files unneeded for longer than this, instead of `lake.history`; a reader that takes
            longer loses its files
    dry_run:
        only say what would be deleted
    """
    from tailorbird.events import parse_duration

    project = _project()
    keep_us = parse_duration(keep or project.settings.lake.history)
    with _role(project, "deletes them") as role, progress_bars(quiet=json) as progress:
        planned = role.vacuum(keep_us=keep_us, dry_run=True)
        total = sum(report.files + report.log_files for report in planned.values())
        done = 0

        def count_files(count: int) -> None:
            nonlocal done
            done += count
            progress("files", done, total)

        deleted = planned if dry_run else role.vacuum(keep_us=keep_us, progress=count_files)
    rows = {
        name: {"files": each.files, "log_files": each.log_files, "bytes": each.bytes}
        for name, each in deleted.items()
    }
    if json:
        print_json({"dry_run": dry_run, "tables": rows})
        return
    if not rows:
        console().print("There is nothing to delete.")
        return
    title = "Would be deleted" if dry_run else "Deleted"
    cells = [(name, each["files"], each["log_files"], each["bytes"]) for name, each in rows.items()]
    print_table(
        title,
        ["table", "files", "log files", "bytes"],
        cells,
        right=["files", "log files", "bytes"],
    )


def events(
    *, at_version: int | None = None, bundle: str = "", out: Path | None = None, json: Json = False
) -> None:
    """Show the events at a version of the table, or as a bundle's training read them. Without
    either, as they are now.

    Every version can be read, however old: no later load, compaction or vacuum changes it. An
    erasure does: it removes the people from every version.

    Example:  tailorbird -C shop lake events --at-version 120

    Example:  tailorbird -C shop lake events --bundle v0003 --out trained-on.parquet

    Parameters
    ----------
    at_version:
        the version, as `SELECT version, rows FROM commits` lists them
    bundle:
        the version of a bundle, as `models list` shows it
    out:
        write the rows there as Parquet, in order of their position; else only their number and some
            rows are shown
    """
    import pyarrow.parquet as pq

    from tailorbird.lake import Lake, version_at, versions_of
    from tailorbird.lake.write.labels import made

    project = _project()
    if at_version is not None and bundle:
        raise UsageError("expected --at-version or --bundle, got both")
    if bundle:
        at = _versions_read_by(project, bundle)
    elif at_version is not None:
        at = version_at(project.paths.lake, "events", at_version)
    else:
        at = versions_of(project.paths.lake)
    if "events" not in at:
        raise NotReadyError(
            "there is nothing in the lake yet",
            where=str(project.paths.lake),
            fix="tailorbird import FORMAT PATH",
        )
    lake = Lake(project.paths.lake, at=at)
    columns = None if out is not None else ["p", "ts", "type", "person", "item_id"]
    rows = lake.events(columns).sort_by("p")
    if out is not None:
        part = out.with_name(f"{out.name}.part")
        pq.write_table(made(rows, "lake events"), part, compression="zstd")
        part.replace(out)
    summary = {
        "version": at["events"].version,
        "positions": at["events"].positions,
        "rows": len(rows),
        "out": str(out) if out else None,
    }
    if json:
        print_json(summary)
        return
    console().print(f"Version {summary['version']} of events has {len(rows):,} rows.")
    if out is not None:
        console().print(f"Written to {out}")
    else:
        last = rows.slice(max(0, len(rows) - _SHOWN)).to_pylist()
        print_table(
            "The last of them",
            list(rows.column_names),
            [list(row.values()) for row in last],
            right=["p"],
        )


def _versions_read_by(project: "Project", version: str) -> "dict[str, TableVersion]":
    from tailorbird.events import SystemClock
    from tailorbird.lake.delta.versions import from_manifest
    from tailorbird.registry import Registry
    from tailorbird.registry.manifest import read_sealed

    folder = Registry(project.paths.registry, clock=SystemClock()).resolve(version)
    manifest = read_sealed(folder).manifest
    about = manifest.metrics.get("about", {})
    if not manifest.heads:
        raise UsageError(
            f"bundle {version} was trained on no events: it is an index without a model, "
            "which shows items by popularity",
            fix="name a version that train made: tailorbird models list; or --at-version",
        )
    if "lake" not in about:
        raise UsageError(
            f"bundle {version} does not say which versions it was trained on",
            fix="an older release trained it; train anew",
        )
    return from_manifest(about["lake"])


def _project() -> "Project":
    from tailorbird.config import open_project

    return open_project()


@contextmanager
def _role(project: "Project", does: str) -> Iterator["LakeRole"]:
    """Open the lake's writer."""
    from tailorbird.events import SystemClock
    from tailorbird.lake import LakeRole
    from tailorbird.lake.write.positions import no_ledger

    paths = project.paths
    if not (paths.lake / "ledger.jsonl").exists():
        raise no_ledger(paths.lake)
    try:
        role = LakeRole(
            project.stream,
            paths.lake,
            clock=SystemClock(),
            keep_us=_KEEP_ALL,
            sort=project.settings.lake.sort,
        )
    except LockedError as error:
        raise LockedError(
            f"the lake role is running, and {does} by itself",
            where=error.where,
            fix="stop it to do it by hand",
        ) from error
    with role:
        yield role

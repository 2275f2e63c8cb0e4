"""`tailorbird lake compact|vacuum|events`: compact files, delete old ones, read a version."""

from pathlib import Path

from tailorbird.cli.output import Json, console, print_json, print_table, progress_bars

_ROWS_SHOWN = 20


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
    from tailorbird.config import open_project
    from tailorbird.platform.lake.upkeep import compact as compact_files

    with progress_bars(quiet=json) as progress:
        compaction = compact_files(open_project(), all_days=all_days, progress=progress)
    if json:
        print_json(
            {"removed_files": compaction.removed_file_count, "commits": compaction.commit_count}
        )
    elif compaction.commit_count:
        console().print(
            f"{compaction.removed_file_count:,} files less, by {compaction.commit_count:,} "
            "commits. Old "
            "readers "
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
    from tailorbird.config import open_project
    from tailorbird.platform.lake.upkeep import vacuum as delete_files

    with progress_bars(quiet=json) as progress:
        deleted_files = delete_files(open_project(), keep=keep, dry_run=dry_run, progress=progress)
    counts_by_table = {row.pop("table"): row for row in deleted_files.to_pylist()}
    if json:
        print_json({"dry_run": dry_run, "tables": counts_by_table})
        return
    if not counts_by_table:
        console().print("There is nothing to delete.")
        return
    print_table(
        "Would be deleted" if dry_run else "Deleted",
        ["table", "files", "log files", "bytes"],
        [(name, *row.values()) for name, row in counts_by_table.items()],
        numeric_columns=["files", "log files", "bytes"],
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

    from tailorbird.config import open_project
    from tailorbird.lake.write.labels import add_command_metadata
    from tailorbird.platform.lake.upkeep import read_version

    columns = None if out is not None else ("p", "ts", "type", "person", "item_id")
    events_version = read_version(
        open_project(), version=at_version, bundle=bundle, columns=columns
    )
    rows = events_version.rows
    if out is not None:
        temporary_file = out.with_name(f"{out.name}.part")
        pq.write_table(
            add_command_metadata(rows, "lake events"), temporary_file, compression="zstd"
        )
        temporary_file.replace(out)
    summary = {
        "version": events_version.version,
        "positions": events_version.position_by_log,
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
        last_rows = rows.slice(max(0, len(rows) - _ROWS_SHOWN)).to_pylist()
        print_table(
            "The last of them",
            list(rows.column_names),
            [list(row.values()) for row in last_rows],
            numeric_columns=["p"],
        )

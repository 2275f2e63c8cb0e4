"""`tailorbird lake repair`: rebuild what is corrupt, or say from what it could be rebuilt."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tailorbird.cli.output import (
    Json,
    console,
    print_json,
    print_table,
    progress_bars,
    this_command,
)

if TYPE_CHECKING:
    from tailorbird.lake.rebuild import Plan

_ROWS_MAX = 20  # of one table


def repair(*, yes: bool = False, json: Json = False) -> None:
    """Rebuild what `lake verify` finds corrupt in lake, archive and logs from what is left. Without
    --yes it only says what it would do.

    A corrupt table is rebuilt in a scratch folder, verified there and swapped in: from its intact
    data files, and for the rows of the others from the routed log, from the archive routed again
    (where that gives every event the position that the tables have), from events that carry
    profiles, or from the answer logs. Rows that are in no table come back the same way. A file of
    the archive is rebuilt from the raw log, a raw log from the archive and its intact blocks,
    positions.json from ledger and tables. The ledger, the archive's manifest and the routed log
    have no second source: restore them from the backup. What cannot be rebuilt is named with the
    reason, and stays as it is. Corrupt files and orphan commits are kept in data/lake/set-aside,
    which nothing reads. No acknowledged row is lost or doubled if the command is killed: run it
    again. Ends with status 1 if anything is left.

    Stop `up` before --yes: it writes to the same files.

    Example:  tailorbird -C shop lake repair

    Example:  tailorbird -C shop lake repair --yes

    Parameters
    ----------
    yes:
        do it; without it, nothing is changed
    """
    from tailorbird.config import open_project
    from tailorbird.platform.lake.repair import repair as repair_lake

    project = open_project()
    with progress_bars(quiet=json) as progress:
        result = repair_lake(project, dry_run=not yes, progress=progress)
    if json:
        print_json(result.to_dict())
    else:
        _print_plan(result.plan, project.root, yes, result.is_clean)
    raise SystemExit(0 if result.is_intact else 1)


def _print_grouped(entries: Iterable[tuple[str, Sequence[str]]]) -> None:
    """Print one table for all entries with the same title."""
    rows_by_title: dict[str, list[Sequence[str]]] = {}
    for title, row in entries:
        rows_by_title.setdefault(title, []).append(row)
    for title, rows in rows_by_title.items():
        print_table(title, ("file", "what"), rows[:_ROWS_MAX])
        if len(rows) > _ROWS_MAX:
            console().print(f"… and {len(rows) - _ROWS_MAX:,} more; --json names all")


def _print_plan(plan: "Plan", root: Path, yes: bool, is_clean: bool) -> None:
    out = console()
    if not plan.rebuilds and not plan.unrecoverable:
        out.print("Nothing is corrupt.")
        return
    verb = "Rebuilt" if yes else "Can be rebuilt"
    _print_grouped(
        (f"{verb} from {entry.source}", (entry.where.removeprefix(f"{root}/"), entry.what))
        for entry in plan.rebuilds
    )
    _print_grouped(
        (f"Cannot be rebuilt: {entry.lost}", (entry.where.removeprefix(f"{root}/"), entry.what))
        for entry in plan.unrecoverable
    )
    if not yes:
        out.print(
            f"Nothing was changed. {this_command()} lake repair --yes does it; more may show "
            "once this is rebuilt."
        )
    elif is_clean:
        out.print("The lake verifies.")
    else:
        out.print(
            "Restore what is named from the backup, then run this again. Nothing else was touched."
        )

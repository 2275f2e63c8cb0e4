"""`tailorbird lake repair`: what is damaged, what it can be made anew from, and doing it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
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
from tailorbird.errors import LockedError

if TYPE_CHECKING:
    from tailorbird.config import Project
    from tailorbird.lake.repair import Plan

_SHOWN = 20  # files of which the same is said


def repair(*, yes: bool = False, json: Json = False) -> None:
    """Mend what `lake verify` finds damaged in lake, archive and logs, from what is whole. Without
    --yes it only says what it would do.

    A flipped bit in a small file or in a line of ledger and manifest is turned back. A file of the
    archive comes from the raw log while that still has the rows; a data file of a table from the
    files that were put together in it, from its log, from other tables, or from the archive, routed
    again; a commit file and a checkpoint from the ledger; a raw log from the archive and what is
    whole in it; rows that were routed and are in no table from the routed log, or from the archive,
    routed again. What comes back has the checksum that it had, or is entered into the ledger as
    new; nothing is guessed. A ledger that is gone is written anew from the tables' own logs, which
    know no checksums: run `lake verify --deep` then, which compares what the files hold with the
    archive; a file that is gone as well comes back where its rows are elsewhere and make its size.
    What another writer put into the log of a table is set aside, with the data files that it
    brought, and so is a hint to a checkpoint that is not there. What cannot be had is named with
    what is lost, and left as it is. Damaged files are kept in data/lake/set-aside: they are
    evidence, which nothing reads and nothing vouches for, so `lake verify` does not look at them.
    Ends with status 1 if anything is left.

    Stop `up` before --yes: it writes to the same files.

    Example:  tailorbird -C shop lake repair

    Example:  tailorbird -C shop lake repair --yes

    Parameters
    ----------
    yes:
        do it; without it, nothing is changed
    """
    from tailorbird.config import open_project
    from tailorbird.events import SystemClock
    from tailorbird.lake import verify
    from tailorbird.lake.repair import Repairer

    project = open_project()
    repairer = Repairer(
        project.stream,
        project.paths.lake,
        clock=SystemClock(),
        route_again=partial(_router, project),
    )
    with progress_bars(quiet=json) as progress:
        if not yes:
            plan = repairer.plan()
        else:
            try:
                plan = repairer.run(lambda mend: progress("mended", 0, None))
            except LockedError as error:
                raise LockedError(
                    "a role of this project is running, and a repair must be alone",
                    where=error.where,
                    fix="stop up",
                ) from error
    clean = not plan.beyond and (not yes or verify(project.paths.lake).clean)
    if json:
        mends = [{"where": one.where, "what": one.what, "from": one.source} for one in plan.mends]
        print_json(
            {
                "done": yes,
                "mends": mends,
                "beyond": [vars(one) for one in plan.beyond],
                "clean": clean and (yes or not mends),
            }
        )
    else:
        _tell(plan, project.root, yes, clean)
    raise SystemExit(1 if plan.beyond or not clean or (plan.mends and not yes) else 0)


@contextmanager
def _router(project: "Project", folder: Path) -> Iterator[Callable[[], None]]:
    """The router, as it was when the events came in, on other logs."""
    from tailorbird.events import SystemClock
    from tailorbird.router import Router

    with Router(folder, project.plan, clock=SystemClock()) as router:

        def route() -> None:
            while router.step().more:
                pass

        yield route


def _print_grouped(files: Iterable[tuple[str, Sequence[str], Sequence[str]]]) -> None:
    """A table for all files of which the same is said: what that is, the columns, and the row of
    each.
    """
    groups: dict[tuple[str, Sequence[str]], list[Sequence[str]]] = {}
    for said, columns, row in files:
        groups.setdefault((said, columns), []).append(row)
    for (said, columns), rows in groups.items():
        print_table(said, columns, rows[:_SHOWN])
        if len(rows) > _SHOWN:
            console().print(f"… and {len(rows) - _SHOWN:,} more; --json names all")


def _below(where: str, root: Path) -> str:
    """A file by its place in the project."""
    return where.removeprefix(f"{root}/")


def _tell(plan: "Plan", root: Path, yes: bool, clean: bool) -> None:
    out = console()
    if not plan.mends and not plan.beyond:
        out.print("Nothing is damaged.")
        return
    begin = "Mended" if yes else "Can be mended"
    _print_grouped(
        (f"{begin}: {one.source}", ("file", "what"), (_below(one.where, root), one.what))
        for one in plan.mends
    )
    _print_grouped(
        (
            f"Cannot be mended. {one.kept}",
            ("file", "what", "lost"),
            (_below(one.where, root), one.what, one.lost),
        )
        if one.kept
        else (
            f"Cannot be mended; lost: {one.lost}",
            ("file", "what"),
            (_below(one.where, root), one.what),
        )
        for one in plan.beyond
    )
    if not yes:
        out.print(
            f"Nothing was changed. {this_command()} lake repair --yes does it; more may show "
            "once this is mended."
        )
    elif clean:
        out.print("The lake verifies.")
    else:
        out.print("Not all is whole: restore what is named from a copy. Nothing else was touched.")

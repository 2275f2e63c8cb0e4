"""`tailorbird init`."""

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.prompt import Prompt

from tailorbird.cli.output import Json, console, print_json, print_table
from tailorbird.errors import UsageError

if TYPE_CHECKING:
    from tailorbird.proposal import Proposal


def init(
    folder: Path | None = None,
    *,
    from_: Annotated[Path | None, Parameter(name="--from")] = None,
    columns: str = "",
    ts_format: str = "",
    json: Json = False,
) -> None:
    """Make a project: tailorbird.toml, features.py and slots.py, each short, commented and ready to
    run.

    Prints the next commands; each works when pasted.

    Example:  tailorbird init shop

    Example:  tailorbird init news --from clicks.parquet

    Parameters
    ----------
    folder:
        where to make it, that of `-C` unless told; files that are already there are not touched
    from_:
        a CSV, JSON or Parquet file, or a folder of them: proposes a mapping and declarations from
            its columns, and says why
    columns:
        names of the columns, with commas between, of a file whose first line does not have them:
            user_id,timestamp,item_id
    ts_format:
        how times are written, as strptime has it, where day and month cannot be told apart:
            %d/%m/%Y
    """
    from tailorbird.events.guess.trial import SHARE_MAX
    from tailorbird.platform.create import check_folder, create_project

    folder = _chosen(folder)
    check_folder(folder)
    proposal = _propose(from_, columns, ts_format) if from_ is not None else None
    if proposal is not None and proposal.trial.warning:
        console(stderr=True).print(proposal.trial.warning, style="yellow")
    created = create_project(folder, proposal)
    tried, refused, user, format_ = (
        (proposal.trial.rows, proposal.trial.refused, proposal.user, proposal.format)
        if proposal is not None
        else (0, 0, "", "")
    )
    reasons = proposal.reasons if proposal is not None else []
    steps = _next_steps(folder, from_, format_, user)
    if json:
        told = {
            "project": str(folder),
            "files": list(created.files),
            "next": steps,
            "tried": tried,
            "refused": refused,
        }
        print_json({**told, "why": [list(reason) for reason in reasons]})
        return
    if reasons:
        print_table("What the data proposes", ["column or feature", "taken as", "why"], reasons)
    out = console()
    out.print(f"Made {folder} with {', '.join(created.files)}.")
    if reasons:
        out.print(
            "Read these files now, before you import: each choice has its reason, and is "
            "meant to be edited."
        )
    if tried and refused / tried > SHARE_MAX:
        out.print(
            f"Of the rows tried, {refused / tried:.0%} would be refused, as said above: mend "
            "that first, or go on without them.",
            style="yellow",
        )
    out.print("\nNext:")
    for step in steps:
        out.print(f"  {step}")


def _propose(data: Path, columns: str, ts_format: str) -> "Proposal":
    """Propose from data; where it leaves one thing open, ask on a terminal."""
    from tailorbird.events.guess import AskError
    from tailorbird.platform.create import propose_from

    names = tuple(name.strip() for name in columns.split(",")) if columns else ()
    try:
        return propose_from(data, names, ts_format)
    except AskError as error:
        if not sys.stdin.isatty():
            raise
        console().print(f"{error.where}: {error.message}.")
        chosen = Prompt.ask("Which is it?", choices=list(error.choices))
        return _propose(data, columns, chosen)


def _chosen(folder: Path | None) -> Path:
    """The folder of the command, within that of `-C` where there is one."""
    project = os.environ.get("TAILORBIRD_PROJECT", "")
    if folder is None and not project:
        raise UsageError("where to make the project is not said", fix="tailorbird init shop")
    return Path(project, *([] if folder is None else [folder]))


def _next_steps(folder: Path, data: Path | None, format_: str, user: str) -> list[str]:
    here = f"tailorbird -C {shlex.quote(str(folder))}"
    if data is None:
        events = shlex.quote(str(folder / "history.jsonl"))
        return [
            f"{here} check",
            f"{here} simulate --days 28 --out {events}",
            f"{here} import tailorbird {events}",
            f"{here} train",
            f"{here} recommend --user u000001",
            f"{here} up",
        ]
    mapped = (
        f" --mapping {shlex.quote(str(folder / 'mapping.toml'))}" if format_ == "mapping" else ""
    )
    return [
        f"{here} check",
        f"{here} import {format_} {shlex.quote(str(data))}{mapped}",
        f"{here} train --budget 2m",
        f"{here} recommend{f' --user {shlex.quote(user)}' if user else ''}",
        f"{here} up",
    ]

"""`tailorbird init`: create a project."""

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
    time: str = "",
    person: str = "",
    item: str = "",
    type_: Annotated[str, Parameter(name="--type")] = "",
    session: str = "",
    json: Json = False,
) -> None:
    """Create a project: tailorbird.toml, features.py and slots.py, commented and ready to run.

    Prints the next commands, which work when pasted.

    Example:  tailorbird init shop

    Example:  tailorbird init news --from clicks.parquet

    Parameters
    ----------
    folder:
        folder of the project, by default that of `-C`; existing files are not touched
    from_:
        a CSV, JSON or Parquet file, or a folder of them, to propose a mapping and declarations
        from, with reasons
    columns:
        column names of a file without a header line, separated by commas: user_id,timestamp,item_id
    ts_format:
        format of times as in strptime, needed if day and month are ambiguous: %d/%m/%Y
    time:
        the column of the time; in one of several files, FILE:COLUMN; `none` if there is none
    person:
        the column of who acts, as for `--time`
    item:
        the column of what it is done with, as for `--time`
    type_:
        the column of what is done, as for `--time`
    session:
        the column of the visit or order, as for `--time`
    """
    from tailorbird.events.guess.trial import REFUSED_SHARE_MAX
    from tailorbird.platform.create import check_folder, create_project

    folder = _project_folder(folder)
    check_folder(folder)
    answers = {
        "ts-format": ts_format,
        "time": time,
        "person": person,
        "item": item,
        "type": type_,
        "session": session,
    }
    proposal = _propose(from_, columns, answers) if from_ is not None else None
    if proposal is not None and proposal.trial.warning:
        console(stderr=True).print(proposal.trial.warning, style="yellow")
    created_project = create_project(folder, proposal)
    tried_count, refused_count, example_user, format_ = (
        (proposal.trial.rows, proposal.trial.refused, proposal.user, proposal.format)
        if proposal is not None
        else (0, 0, "", "")
    )
    reasons = proposal.reasons if proposal is not None else []
    next_commands = _next_commands(folder, from_, format_, example_user)
    if json:
        summary = {
            "project": str(folder),
            "files": list(created_project.files),
            "next": next_commands,
            "tried": tried_count,
            "refused": refused_count,
        }
        print_json({**summary, "why": [list(reason) for reason in reasons]})
        return
    if reasons:
        print_table("What the data proposes", ["column or feature", "taken as", "why"], reasons)
    out = console()
    out.print(f"Made {folder} with {', '.join(created_project.files)}.")
    if reasons:
        out.print(
            "Read these files now, before you import: each choice has its reason, and is "
            "meant to be edited."
        )
    if tried_count and refused_count / tried_count > REFUSED_SHARE_MAX:
        out.print(
            f"Of the rows tried, {refused_count / tried_count:.0%} would be refused, as said "
            "above: mend "
            "that first, or go on without them.",
            style="yellow",
        )
    out.print("\nNext:")
    for next_command in next_commands:
        out.print(f"  {next_command}")


def _propose(data: Path, columns: str, answers: dict[str, str]) -> "Proposal":
    """Propose declarations from data; ask on a terminal if the data are ambiguous."""
    from tailorbird.events.guess import AskError
    from tailorbird.platform.create import propose_from

    column_names = tuple(name.strip() for name in columns.split(",")) if columns else ()
    try:
        return propose_from(data, column_names, answers["ts-format"], answers)
    except AskError as error:
        if not sys.stdin.isatty():
            raise
        console().print(f"{error.where}: {error.message}.")
        choice = Prompt.ask("Which is it?", choices=list(error.choices), default=error.choices[0])
        return _propose(data, columns, {**answers, error.option: choice})


def _project_folder(folder: Path | None) -> Path:
    """Return the folder of the command, relative to that of `-C`."""
    project = os.environ.get("TAILORBIRD_PROJECT", "")
    if folder is None and not project:
        raise UsageError("where to make the project is not said", fix="tailorbird init shop")
    return Path(project, *([] if folder is None else [folder]))


def _next_commands(folder: Path, data: Path | None, format_: str, example_user: str) -> list[str]:
    command = f"tailorbird -C {shlex.quote(str(folder))}"
    if data is None:
        events_file = shlex.quote(str(folder / "history.jsonl"))
        return [
            f"{command} check",
            f"{command} simulate --days 28 --out {events_file}",
            f"{command} import tailorbird {events_file}",
            f"{command} train",
            f"{command} recommend --user u000001",
            f"{command} up",
        ]
    mapping_option = (
        f" --mapping {shlex.quote(str(folder / 'mapping.toml'))}" if format_ == "mapping" else ""
    )
    return [
        f"{command} check",
        f"{command} import {format_} {shlex.quote(str(data))}{mapping_option}",
        f"{command} train --budget 2m",
        f"{command} recommend{f' --user {shlex.quote(example_user)}' if example_user else ''}",
        f"{command} up",
    ]

"""`tailorbird models list|show|promote|rollback`; `shadow` and `canary` are in
`cli.models_rollout`.
"""

import getpass
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tailorbird.cli.output import By, Json, Why, console, print_json, print_table
from tailorbird.errors import NotReadyError

if TYPE_CHECKING:
    from tailorbird.config import Project
    from tailorbird.registry import Registry

Of = Annotated[str, Parameter(help="of this churn model of churn.py, instead of the ranker's")]


def list_(*, churn: Of = "", json: Json = False) -> None:
    """List the versions of the bundle, newest first, and which one answers.

    Example:  tailorbird -C shop models list

    Example:  tailorbird -C shop models list --churn churn
    """
    versions = sorted(
        open_registry(churn)[1].versions(), key=lambda info: info.version, reverse=True
    )
    if json:
        print_json(
            {
                "versions": [
                    {
                        "version": v.version,
                        "created_at": time_told(v.created_at) if v.is_readable else None,
                        "aliases": list(v.aliases),
                    }
                    for v in versions
                ]
            }
        )
        return
    if not versions:
        raise NotReadyError("there is no version yet", fix="tailorbird train makes one")
    rows = [
        (
            v.version,
            time_told(v.created_at) if v.is_readable else "its manifest is damaged",
            ", ".join(v.aliases),
        )
        for v in versions
    ]
    print_table("", ["version", "made", "is"], rows)


def show(
    version: str = "champion", *, churn: Of = "", markdown: bool = False, json: Json = False
) -> None:
    """Show what a version says of itself: data, columns, metrics, and its model card. Every file is
    checked against its checksum.

    Example:  tailorbird -C shop models show v0001

    Example:  tailorbird -C shop models show champion --markdown > card.md

    Parameters
    ----------
    version:
        a version, or champion, previous, canary, shadow, challenger
    markdown:
        print the card alone, as it is
    """
    import msgspec

    _, registry = open_registry(churn)
    folder = registry.resolve(version)
    manifest = registry.verify(folder.name)
    if json:
        print_json(msgspec.to_builtins(manifest))
        return
    if markdown:
        sys.stdout.write(manifest.card)
        return
    out = console()
    out.print(
        f"{manifest.version}, made {time_told(manifest.created_at)}, {len(manifest.files)} "
        "files, all as signed"
    )
    out.print(manifest.card)


def promote(version: str, *, why: Why, by: By = "", churn: Of = "") -> None:
    """Make a version the champion: servers swap to it within a second, without dropping a request.

    Example:  tailorbird -C shop models promote v0002 --why "wins on new users"

    Parameters
    ----------
    version:
        a version that `tailorbird models list` shows
    """
    _, registry = open_registry(churn)
    registry.promote(version, by=by or getpass.getuser(), why=why)
    of = f" --churn {churn}" if churn else ""
    told = (
        ""
        if registry.info(version).heads or churn
        else " It has no model: items are shown by popularity until one that has is promoted."
    )
    console().print(
        f"{version} is the champion now.{told} Back:  tailorbird models rollback{of} --why …"
    )


def rollback(*, why: Why, by: By = "", churn: Of = "") -> None:
    """Take the last step back: end the canary, if there is one; else make the champion before this
    one answer again.

    Servers hold the champion before in memory, so that it answers within a second. Again, to go one
    further back.

    Example:  tailorbird -C shop models rollback --why "clicks fell"
    """
    _, registry = open_registry(churn)
    signed = by or getpass.getuser()
    if registry.aliases().canary:
        ended = registry.end_canary(by=signed, why=why)
        console().print(
            f"{registry.aliases().champion} answers everybody again; {ended} was the canary."
        )
        return
    version = registry.rollback(by=signed, why=why)
    console().print(f"{version} is the champion again.")


def open_registry(churn: str = "") -> "tuple[Project, Registry]":
    """The project of this folder, and its registry, or that of one of its churn models."""
    from tailorbird.config import open_project
    from tailorbird.events import SystemClock
    from tailorbird.registry import Registry

    project = open_project()
    return project, Registry(
        project.paths.churn(project.churn_model(churn).name) if churn else project.paths.registry,
        clock=SystemClock(),
    )


def time_told(moment: int) -> str:
    """A moment as tables show it, to the second."""
    return datetime.fromtimestamp(moment / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")

"""`tailorbird models list|show|promote|rollback`."""

import getpass
from datetime import UTC, datetime
from typing import Annotated

from cyclopts import Parameter

from tailorbird.cli.output import Json, console, print_json, print_table
from tailorbird.errors import NotReadyError

Of = Annotated[str, Parameter(help="of this churn model of churn.py, instead of the ranker's")]


def list_(*, churn: Of = "", json: Json = False) -> None:
    """List the versions of the bundle, newest first, and which one answers.

    Example:  tailorbird -C shop models list

    Example:  tailorbird -C shop models list --churn churn
    """
    versions = sorted(_registry(churn).versions(), key=lambda info: info.version, reverse=True)
    if json:
        print_json({"versions": [{"version": v.version, "created_at": _time(v.created_at), "aliases": list(v.aliases)} for v in versions]})
        return
    if not versions:
        raise NotReadyError("there is no version yet", fix="tailorbird train makes one")
    rows = [(info.version, _time(info.created_at), ", ".join(info.aliases)) for info in versions]
    print_table("", ["version", "made", "is"], rows)


def show(version: str = "champion", *, churn: Of = "", json: Json = False) -> None:
    """Show what a version says of itself: data, columns, metrics, and its model card. Every file is checked against its checksum.

    Example:  tailorbird -C shop models show v0001

    Parameters
    ----------
    version:
        a version, or champion, previous, challenger
    """
    import msgspec

    registry = _registry(churn)
    folder = registry.resolve(version)
    manifest = registry.verify(folder.name)
    if json:
        print_json(msgspec.to_builtins(manifest))
        return
    out = console()
    out.print(f"[bold]{manifest.version}[/bold], made {_time(manifest.created_at)}, {len(manifest.files)} files, all as signed")
    out.print(manifest.card, markup=False)


def promote(version: str, *, why: str, by: str = "", churn: Of = "") -> None:
    """Make a version the champion: servers swap to it within a second, without dropping a request.

    Example:  tailorbird -C shop models promote v0002 --why "wins on new users"

    Parameters
    ----------
    version:
        a version that `tailorbird models list` shows
    why:
        stands in the audit log
    by:
        who decided; the name of this account unless told otherwise
    """
    _registry(churn).promote(version, by=by or getpass.getuser(), why=why)
    console().print(f"{version} is the champion now. Back:  tailorbird models rollback --why …")


def rollback(*, why: str, by: str = "", churn: Of = "") -> None:
    """Make the champion before this one answer again.

    Example:  tailorbird -C shop models rollback --why "clicks fell"

    Parameters
    ----------
    why:
        stands in the audit log
    by:
        who decided; the name of this account unless told otherwise
    """
    version = _registry(churn).rollback(by=by or getpass.getuser(), why=why)
    console().print(f"{version} is the champion again.")


def _registry(churn: str = ""):
    from tailorbird.config import open_project
    from tailorbird.errors import UsageError
    from tailorbird.events import SystemClock
    from tailorbird.registry import Registry

    project = open_project()
    if churn and churn not in project.churn:
        raise UsageError(f"churn.py declares no {churn!r}; it declares {', '.join(project.churn) or 'nothing'}", where="--churn")
    return Registry(project.paths.churn(churn) if churn else project.paths.registry, clock=SystemClock())


def _time(moment: int) -> str:
    return datetime.fromtimestamp(moment / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")

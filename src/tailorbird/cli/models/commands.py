"""`tailorbird models list|show|promote|rollback|audit|prune`."""

import getpass
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tailorbird.cli.output import By, Json, Why, console, print_json, print_table
from tailorbird.errors import NotReadyError, UsageError

if TYPE_CHECKING:
    from tailorbird.config import Project
    from tailorbird.registry import Registry

ChurnOption = Annotated[
    str, Parameter(help="use this churn model of churn.py instead of the ranker")
]


def list_(*, churn: ChurnOption = "", json: Json = False) -> None:
    """List the versions of the model bundle, newest first, with their aliases.

    Example:  tailorbird -C shop models list

    Example:  tailorbird -C shop models list --churn churn
    """
    _, registry = open_registry(churn)
    versions = sorted(registry.versions(), key=lambda info: info.version, reverse=True)
    if json:
        print_json(
            {
                "versions": [
                    {
                        "version": version_info.version,
                        "created_at": format_time(version_info.created_at)
                        if version_info.is_readable
                        else None,
                        "aliases": list(version_info.aliases),
                    }
                    for version_info in versions
                ]
            }
        )
        return
    if not versions:
        raise NotReadyError("there is no version yet", fix="tailorbird train makes one")
    rows = [
        (
            version_info.version,
            format_time(version_info.created_at)
            if version_info.is_readable
            else "its manifest is damaged",
            ", ".join(version_info.aliases),
        )
        for version_info in versions
    ]
    print_table("", ["version", "made", "is"], rows)


def show(
    version: str = "champion",
    *,
    churn: ChurnOption = "",
    markdown: bool = False,
    json: Json = False,
) -> None:
    """Show a version: data, columns, metrics and model card. All files are verified.

    Example:  tailorbird -C shop models show v0001

    Example:  tailorbird -C shop models show champion --markdown > card.md

    Parameters
    ----------
    version:
        a version, or champion, previous, canary, shadow or challenger
    markdown:
        print only the card, as Markdown
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
        f"{manifest.version}, made {format_time(manifest.created_at)}, {len(manifest.files)} "
        "files, all verified"
    )
    out.print(manifest.card)


def promote(
    version: str,
    *,
    why: Why = "",
    because: str = "",
    despite: str = "",
    by: By = "",
    churn: ChurnOption = "",
) -> None:
    """Make a version the champion: servers switch to it within a second, without dropped requests.

    Give the reason, or the experiment that decided for this version. Its verdict is then written
    into the audit log.

    Example:  tailorbird -C shop models promote v0002 --why "wins on new users"

    Example:  tailorbird -C shop models promote v0002 --because home-model

    Parameters
    ----------
    version:
        a version that `tailorbird models list` shows
    because:
        an experiment that decided for the arm of this version
    despite:
        reason to promote although that experiment did not decide for this version
    """
    project, registry = open_registry(churn)
    if because and not churn:
        from tailorbird.platform.models.registry import promote_because

        reason = promote_because(project, version, because, by=by, why=why, despite=despite)
        console().print(reason)
    elif why and not because:
        registry.promote(version, by=by or getpass.getuser(), why=why)
    else:
        raise UsageError(
            "a churn model has no experiment" if because else "a promotion needs a reason",
            where="--because" if because else "--why",
            fix='--why "…"' if because else '--why "…", or --because EXPERIMENT',
        )
    churn_option = f" --churn {churn}" if churn else ""
    warning = (
        ""
        if registry.info(version).heads or churn
        else " It has no model: items are shown by popularity until one that has is promoted."
    )
    console().print(
        f"{version} is the champion now.{warning} Back:  tailorbird models "
        f"rollback{churn_option} --why …"
    )


def rollback(*, why: Why, by: By = "", churn: ChurnOption = "") -> None:
    """Undo the last step: end the canary if there is one, else promote the previous champion.

    Servers hold the previous champion in memory, so it answers within a second. Repeat the command
    to go one step further back.

    Example:  tailorbird -C shop models rollback --why "clicks fell"
    """
    _, registry = open_registry(churn)
    author = by or getpass.getuser()
    if registry.aliases().canary:
        ended_version = registry.end_canary(by=author, why=why)
        console().print(
            f"{registry.aliases().champion} answers everybody again; {ended_version} was the "
            "canary."
        )
        return
    version = registry.rollback(by=author, why=why)
    console().print(f"{version} is the champion again.")


def audit(*, since: str = "", churn: ChurnOption = "", json: Json = False) -> None:
    """Print the audit log, newest first: each change of models, with who, when and why.

    Example:  tailorbird -C shop models audit --since 7d

    Parameters
    ----------
    since:
        length of the most recent period; by default all of it
    """
    from tailorbird.platform.models.registry import read_recent_audit

    frame = read_recent_audit(*open_registry(churn), since)
    if json:
        print_json({"entries": frame.to_pylist()})
        return
    print_table("", frame.columns, [tuple(row.values()) for row in frame.to_pylist()])


def prune(*, dry_run: bool = False, json: Json = False) -> None:
    """Remove old versions, checkpoints and states by `registry.keep` and `registry.days`.

    What an alias, a roll-back, a report or an undecided experiment refers to stays. The trainer
    does the same by itself.

    Example:  tailorbird -C shop models prune --dry-run

    Parameters
    ----------
    dry_run:
        only print what would be removed
    """
    from tailorbird.config import open_project
    from tailorbird.platform.runtime.retention import prune_models

    project = open_project(use_applied=True)
    result = prune_models(project, project.clock(), dry_run=dry_run)
    if json:
        print_json(result.to_dict())
    else:
        console().print(repr(result))


def open_registry(churn: str = "") -> "tuple[Project, Registry]":
    """Return the current project and its registry, or that of one of its churn models."""
    from tailorbird.config import open_project
    from tailorbird.events import SystemClock
    from tailorbird.registry import Registry

    project = open_project()
    return project, Registry(
        project.paths.churn(project.churn_model(churn).name) if churn else project.paths.registry,
        clock=SystemClock(),
    )


def format_time(timestamp_us: int) -> str:
    """Format a time for tables, to the second."""
    return datetime.fromtimestamp(timestamp_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")

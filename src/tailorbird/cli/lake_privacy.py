"""`tailorbird lake erase|export-user`: a person's data unlinked everywhere, or told."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from tailorbird.cli.output import Json, console, print_json, print_table, progress_bars, this_command
from tailorbird.errors import LockedError, UsageError

if TYPE_CHECKING:
    from tailorbird.config import Project
    from tailorbird.privacy import Erased, Preview


def erase(
    user: str = "",
    /,
    *,
    from_: Annotated[Path | None, Parameter(name="--from")] = None,
    yes: bool = False,
    json: Json = False,
) -> None:
    """Unlink a person from everything that is kept: logs, archive, lake with its history, quarantine, state, answers, training sets.

    Type, time and item of what they did stay, so that figures of items stay as they are; whose it was goes, for good. Nothing old of
    theirs is taken again, however it comes: as a retry, a replay, or an import of old files. At the end every byte of the project is
    searched, and a receipt without personal data is left in data/erasure/receipts. Models that learned from their events are named.

    Stop `up` before: an erasure must be alone. What it would find is told without --yes, also while `up` runs. One that was cut short
    goes on with the same command. Many people at once, from a file, cost hardly more than one.

    Example:  tailorbird -C shop lake erase 42

    Example:  tailorbird -C shop lake erase 42 --yes

    Example:  tailorbird -C shop lake erase --from leavers.txt --yes --json

    Parameters
    ----------
    user:
        the user's id as the site knows it, also where pseudonyms are kept; anon:ID for a visitor who never said who they are
    from_:
        a file with an id a line
    yes:
        do it; without it, only what is there is told
    """
    from tailorbird.config import open_project
    from tailorbird.events import SystemClock
    from tailorbird.privacy import erase as run_erase
    from tailorbird.privacy import preview, unfinished

    project, clock = open_project(applied=True), SystemClock()
    kept = _ids(project, user, from_, needed=not (yes and unfinished(project.paths.data)))
    if not yes:
        _tell_preview(preview(project, kept, clock), unfinished(project.paths.data), json)
        return
    with progress_bars(quiet=json) as progress:
        _bring_in(project, progress)
        done = run_erase(project, kept, clock, progress=progress)
    if json:
        print_json(_told(done))
    else:
        _tell(done)
    raise SystemExit(0 if done.clean else 1)


def export_user(user: str, /, *, out: Path, json: Json = False) -> None:
    """Write down all that is held about a person: lines of JSON, each with the place that it is from.

    Example:  tailorbird -C shop lake export-user 42 --out 42.jsonl

    Parameters
    ----------
    user:
        the user's id as the site knows it, also where pseudonyms are kept; anon:ID for a visitor
    out:
        the file; only you can read it. Delete it when it was handed over
    """
    from tailorbird.config import open_project
    from tailorbird.events import SystemClock
    from tailorbird.privacy import export_person
    from tailorbird.privacy.export import write_export

    project = open_project(applied=True)
    if not out.parent.is_dir():
        raise UsageError("no such folder", where=str(out.parent), fix="name a file in a folder that is there")
    counts = write_export(export_person(project, _ids(project, user, None, needed=True), SystemClock()), out)
    if json:
        print_json({"out": str(out), "records": counts})
        return
    print_table(f"Written to {out}", ["source", "records"], counts.items(), right=["records"])


def tell_search(user: str, json: bool) -> None:
    """`lake verify --erased`: search every byte for a person."""
    import msgspec

    from tailorbird.config import open_project
    from tailorbird.privacy import look_for

    project = open_project(applied=True)
    with progress_bars(quiet=json) as progress:
        found = look_for(project, _ids(project, user, None, needed=True), progress)
    if json:
        print_json(msgspec.to_builtins(found))
    else:
        _tell_found(found)
    raise SystemExit(1 if found.found else 0)


def _ids(project: "Project", user: str, file: Path | None, *, needed: bool) -> list[str]:
    from tailorbird.privacy.person import hidden

    if user and file is not None:
        raise UsageError("expected a user or --from FILE, got both")
    asked = [user] if user else []
    if file is not None:
        try:
            asked = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot be read: {error}", where=str(file), fix="a text file in UTF-8, an id a line") from None
    if needed and not asked:
        raise UsageError("expected the id of a user, or --from FILE with an id a line", fix=f"{this_command()} lake erase --help")
    return hidden(asked, project.pseudonyms())


def _bring_in(project: "Project", progress: Any) -> None:
    """Bring all that waits in the logs into the lake, so that it is all there is to look in."""
    from tailorbird.cli.roles import drain
    from tailorbird.events import SystemClock
    from tailorbird.privacy.held import STOP

    if not isinstance(project.stream, Path):
        return  # `erase` says why not
    try:
        drain(project, SystemClock(), progress=progress)
    except LockedError as error:
        raise LockedError("a role of this project is running, and an erasure must be alone", where=error.where, fix=STOP) from None


def _tell_preview(found: "Preview", cut_short: bool, json: bool) -> None:
    import msgspec

    if json:
        print_json({**msgspec.to_builtins(found), "unfinished": cut_short})
        return
    out = console()
    if cut_short:
        out.print("An erasure was cut short; --yes brings it to its end before anything else.")
    rows = sorted(found.events.items(), key=lambda each: -each[1])
    print_table("Would be unlinked", ["type", "events"], rows, right=["events"])
    out.print(f"{found.users:,} users, {found.visitors:,} visitors who are theirs alone, {found.shared:,} devices that others used too.")
    _tell_bundles(found.bundles)
    out.print("Nothing was changed. --yes does it, and cannot be undone.")


def _tell(done: "Erased") -> None:
    out = console()
    rows = [
        (place, ", ".join(f"{name} {count}" for name, count in told.items()))
        for place, told in done.counts.items()
        if isinstance(told, dict)
    ]
    print_table("Erased", ["place", "what"], rows)
    _tell_bundles(done.bundles)
    _tell_found(done.searched)
    out.print(f"Receipt: {done.receipt}", markup=False)


def _tell_bundles(bundles: list[dict[str, object]]) -> None:
    from tailorbird.events import to_iso

    if bundles:
        rows = [(one["version"], ", ".join(one["aliases"]), to_iso(one["due"])[:10], one["what"]) for one in bundles]  # type: ignore
        print_table("Models that learned from their events", ["version", "name", "until", "what to do"], rows)


def _tell_found(found: Any) -> None:
    out = console()
    out.print(f"{found.files:,} files, {found.bytes:,} bytes searched.")
    if found.short:
        out.print(f"{found.short:,} ids are too short to be looked for in every byte; columns and rows were compared whole.")
    if not found.found:
        out.print("Nothing of theirs is left.")
        return
    print_table("Still there", ["file", "times", "where"], [(one.path, one.count, one.where) for one in found.found], right=["times"])
    out.print("Files of your own, and exports, are not changed: delete them, or take these people out.")


def _told(done: "Erased") -> dict[str, Any]:
    import msgspec

    return {**msgspec.to_builtins(done), "clean": done.clean}

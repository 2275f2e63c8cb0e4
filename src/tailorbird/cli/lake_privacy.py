"""`tailorbird lake erase|export-user`: a person's data unlinked everywhere, or told."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from tailorbird.cli.output import (
    STDIN,
    Json,
    console,
    print_json,
    print_table,
    progress_bars,
    this_command,
)
from tailorbird.errors import BehindError, LockedError, UsageError

if TYPE_CHECKING:
    from tailorbird.config import Project
    from tailorbird.privacy import Erased, Preview
    from tailorbird.privacy.person import Kept
    from tailorbird.privacy.search import Searched

# of bringing in what brokers, or doors elsewhere that were stopped by it, show only once an erasure
# tries to begin
_ROUNDS = 4
_TOLD = 10  # ids of whom nothing was found


def erase(
    user: str = "",
    /,
    *,
    from_: Annotated[Path | None, Parameter(name="--from")] = None,
    yes: bool = False,
    json: Json = False,
) -> None:
    """Unlink a person from everything that is kept: logs, archive, lake with its history,
    quarantine, state, answers, training sets.

    Type, time and item of what they did stay, so that figures of items stay as they are; whose it
    was goes, for good. Nothing old of theirs is taken again, however it comes: as a retry, a
    replay, or an import of old files. At the end every byte of the project is searched, and a
    receipt without personal data is left in data/erasure/receipts. Models that learned from their
    events are named.

    Stop `up` before: an erasure must be alone. What it would find is told without --yes, also while
    `up` runs. One that was cut short goes on with the same command; given other ids, the command
    ends it first, then erases these. Many people at once, from a file, cost hardly more than one.

    An id on the command line stands in the shell's history, and in the list of processes while the
    command runs: give the ids in a file, or by - from standard input.

    Example:  tailorbird -C shop lake erase --from leavers.txt

    Example:  tailorbird -C shop lake erase --from leavers.txt --yes --json

    Parameters
    ----------
    user:
        the user's id as the site knows it, also where pseudonyms are kept; anon:ID for a visitor
        who never said who they are; - reads ids from standard input, one a line
    from_:
        a file with an id a line, blanks around it left out; - is standard input
    yes:
        do it; without it, only what is there is told
    """
    from tailorbird.config import open_project
    from tailorbird.events import SystemClock
    from tailorbird.privacy import forget_unbegun, not_begun, preview, unfinished

    project, clock = open_project(applied=True), SystemClock()
    if yes and forget_unbegun(project) and not json:
        console().print(
            "An erasure was cut short before it changed anything. Roles may start again; "
            "whoever was to be erased is not."
        )
    cut_short = unfinished(project.paths.data)
    kept = _kept(project, _asked(user, from_, needed=not (yes and cut_short)))
    if not yes:
        _tell_preview(preview(project, kept, clock), cut_short, json)
        return
    others = not_begun(project.paths.data, kept) if cut_short else []
    done = [_erased(project, kept, quiet=json)]
    if others:
        if not json:
            console().print(
                "This was the erasure that had been cut short. Now the ids that were given, "
                "of whom it was not:"
            )
        done.append(_erased(project, others, quiet=json))
    if json:
        earlier, last = done[:-1], done[-1]
        print_json(_told(last) | ({"cut_short": _told(earlier[0])} if earlier else {}))
    raise SystemExit(0 if all(one.clean for one in done) else 1)


def _erased(project: "Project", kept: "list[Kept]", *, quiet: bool) -> "Erased":
    from tailorbird.events import SystemClock
    from tailorbird.privacy import erase as run_erase

    with progress_bars(quiet=quiet) as progress:
        left = _ROUNDS
        while True:
            _bring_in(project, progress)
            try:
                done = run_erase(project, kept, SystemClock(), progress=progress)
                break
            except BehindError:
                left -= 1
                if not left:
                    raise
    if not quiet:
        _tell(done, project)
    return done


def export_user(user: str, /, *, out: Path | None = None, json: Json = False) -> None:
    """Write down all that is held about a person: lines of JSON, each with the place that it is
    from.

    Example:  tailorbird -C shop lake export-user 42 --out told.jsonl

    Parameters
    ----------
    user:
        the user's id as the site knows it, also where pseudonyms are kept; anon:ID for a visitor; -
            reads it from standard input
    out:
        the file; only you can read it. Delete it when it was handed over. Without one, the lines
            are printed
    """
    import msgspec

    from tailorbird.config import open_project
    from tailorbird.events import SystemClock
    from tailorbird.privacy import export_person
    from tailorbird.privacy.export import write_export

    project = open_project(applied=True)
    if out is None:
        for record in export_person(
            project, _ids(project, _asked(user, None, needed=True)), SystemClock()
        ):
            sys.stdout.write(msgspec.json.encode(record).decode() + "\n")
        return
    if not out.parent.is_dir():
        raise UsageError(
            "no such folder", where=str(out.parent), fix="name a file in a folder that is there"
        )
    counts = write_export(
        export_person(project, _ids(project, _asked(user, None, needed=True)), SystemClock()), out
    )
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
        found = look_for(project, _ids(project, _asked(user, None, needed=True)), progress)
    if json:
        print_json(msgspec.to_builtins(found))
    else:
        _tell_found(found, project, erased=False)
    raise SystemExit(1 if found.found else 0)


def _asked(user: str, file: Path | None, *, needed: bool) -> list[str]:
    if user and file is not None:
        raise UsageError("expected a user or --from FILE, got both")
    asked = [user] if user else []
    if user == STDIN or file == Path(STDIN):
        asked = _lines(sys.stdin.read())
    elif file is not None:
        try:
            asked = _lines(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"cannot be read: {error}",
                where=str(file),
                fix="a text file in UTF-8, an id a line",
            ) from None
    if needed and not asked:
        raise UsageError(
            "expected the id of a user, or --from FILE with an id a line",
            fix=f"{this_command()} lake erase --help",
        )
    return asked


def _kept(project: "Project", asked: list[str]) -> "list[Kept]":
    from tailorbird.privacy.person import kept_as

    return kept_as(asked, project.pseudonyms())


def _ids(project: "Project", asked: list[str]) -> list[str]:
    from tailorbird.privacy.person import ids_of

    return ids_of(_kept(project, asked))


def _lines(text: str) -> list[str]:
    """Ids, one a line, without the mark that some programs begin a file with, and without blanks
    around them.

    A line ends where an editor ends one: what Python takes for the end of a line besides may stand
    within an id.
    """
    lines = (line.strip(" \t\r") for line in text.removeprefix("\ufeff").split("\n"))
    return [line for line in lines if line]


def _bring_in(project: "Project", progress: Any) -> None:
    """Bring all that waits in the logs into the lake, so that it is all there is to look in."""
    from tailorbird.config.erasures import take_in
    from tailorbird.events import SystemClock
    from tailorbird.platform.roles import drain
    from tailorbird.privacy import unfinished
    from tailorbird.privacy.held import ALONE, STOP

    if not isinstance(project.stream, Path):
        if unfinished(project.paths.data):
            return  # topics may be gone, and nothing can have come in
        take_in(project)
    try:
        drain(project, SystemClock(), progress=progress)
    except LockedError as error:
        raise LockedError(ALONE, where=error.where, fix=STOP) from None


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
    if found.refused:
        out.print(
            f"{found.refused:,} rows that were refused, in the quarantine, which hold "
            "something of theirs."
        )
    out.print(
        f"{found.users:,} users, {found.visitors:,} visitors who are theirs alone, "
        f"{found.shared:,} devices that others used too."
    )
    if found.into:
        out.print(
            f"{found.into:,} others were one with some of them for a while, by merges, and stay."
        )
    _tell_unnamed(found.unnamed)
    _tell_strangers(found.strangers)
    _tell_bundles(found.bundles)
    out.print("Nothing was changed. --yes does it, and cannot be undone.")


def _tell(done: "Erased", project: "Project") -> None:
    out = console()
    rows = [
        (place, ", ".join(f"{name} {count}" for name, count in told.items()))
        for place, told in done.counts.items()
        if isinstance(told, dict)
    ]
    print_table("Erased", ["place", "what"], rows)
    _tell_bundles(done.bundles)
    _tell_found(done.searched, project, erased=True)
    _tell_unnamed(done.unnamed)
    _tell_strangers(done.strangers)
    out.print(f"Receipt: {done.receipt}")


def _tell_unnamed(count: int) -> None:
    if count:
        console().print(
            f"{count:,} users are one with them by merges, and only their pseudonyms are "
            "known here: what others wrote of these by the ids"
            " that the site knows is not found. Erase those ids too, at any time, in the "
            "same file or by themselves."
        )


def _tell_strangers(strangers: list[int]) -> None:
    if strangers:
        which = ", ".join(f"{number:,}" for number in strangers[:_TOLD]) + (
            ", …" if len(strangers) > _TOLD else ""
        )
        count = f"{len(strangers):,} of the ids that were given (number {which})"
        console().print(
            f"No event, answer, profile or refused row was found of {count}: are they "
            "written as the site writes them?"
        )


def _tell_bundles(bundles: list[dict[str, Any]]) -> None:
    from tailorbird.events import to_iso

    if bundles:
        rows = [
            (one["version"], ", ".join(one["aliases"]), to_iso(one["due"])[:10], one["what"])
            for one in bundles
        ]
        print_table(
            "Models that learned from their events",
            ["version", "name", "until", "what to do"],
            rows,
        )


def _way_out(erased: bool) -> str:
    """What takes out what is left in the project's own data."""
    if not erased:
        return "`lake erase` of the same ids takes these out."
    return (
        "This erasure did not take them out, and the same one again would not: please report "
        "it, with the places above."
    )


def _tell_found(found: "Searched", project: "Project", *, erased: bool) -> None:
    from tailorbird.privacy.files import derived
    from tailorbird.privacy.looking import ours_of
    from tailorbird.privacy.search import is_below

    out = console()
    out.print(f"{found.files:,} files, {found.bytes:,} bytes searched.")
    for limit in found.limits:
        out.print(limit)
    if not found.found:
        out.print(
            "Nothing else of theirs was found." if found.limits else "Nothing of theirs is left."
        )
        return
    folders = ours_of(project)
    ours = [
        one
        for one in found.found
        if is_below(one.path, folders) or not is_below(one.path, [project.root])
    ]  # or in topics
    made = [one for one in found.found if one not in ours and derived(Path(one.path), project)]
    own = [one for one in found.found if one not in ours and one not in made]
    for where, some in (
        ("the project's own data", ours),
        ("what commands made of it", made),
        ("files of yours", own),
    ):
        if some:
            rows = [(one.path, one.count, one.where) for one in some]
            print_table(
                f"Still there, in {where}", ["file", "times", "where"], rows, right=["times"]
            )
    if ours:
        out.print("Do not delete files of the project's own data: they hold everybody's.")
    if ours or made:
        out.print(_way_out(erased))
    if own:
        out.print(
            "Files of your own, and exports, are not changed: delete them, or take these "
            "people out."
        )


def _told(done: "Erased") -> dict[str, Any]:
    import msgspec

    return {**msgspec.to_builtins(done), "clean": done.clean}

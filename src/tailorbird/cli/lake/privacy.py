"""`tailorbird lake erase|export-user`: erase a person everywhere, or write down what is held."""

import sys
from collections.abc import Sequence
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
from tailorbird.errors import UsageError

if TYPE_CHECKING:
    from tailorbird.config import Project
    from tailorbird.privacy import Match, Preview, Receipt, SearchReport
    from tailorbird.privacy.people import StoredId

_SHOWN_MAX = 10  # unknown ids


def erase(
    user: str = "",
    /,
    *,
    from_: Annotated[Path | None, Parameter(name="--from")] = None,
    yes: bool = False,
    json: Json = False,
) -> None:
    """Erase a person from logs, archive, lake with its history, quarantine, state and answers.

    Type, time, item and numbers of what they did stay, as a stranger's. Later events of theirs are
    dropped, however they come: as a retry, a replay, or an import of old files. Every byte of the
    project is searched, and a receipt without personal data is left in data/erasure/receipts.
    Models that learned from their events are named.

    Stop `up` before: an erasure must be alone. Without --yes, the command says what it would erase;
    that works beside `up`. An erasure that was cut off goes on with the same command. Many people
    from a file cost hardly more than one.

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
    from tailorbird.privacy import find_not_begun, forget_unbegun, is_unfinished, preview

    project, clock = open_project(applied=True), SystemClock()
    if yes and forget_unbegun(project) and not json:
        console().print(
            "An erasure was cut short before it changed anything. Roles may start again; "
            "whoever was to be erased is not."
        )
    unfinished = is_unfinished(project.paths.data)
    stored = _stored(project, _read_ids(user, from_, required=not (yes and unfinished)))
    if not yes:
        _print_preview(preview(project, stored, clock), unfinished, json)
        return
    other_erasures = find_not_begun(project.paths.data, stored) if unfinished else []
    receipts = [_erase(project, stored, quiet=json)]
    if other_erasures:
        if not json:
            console().print(
                "This was the erasure that had been cut short. Now the ids that were given, "
                "of whom it was not:"
            )
        receipts.append(_erase(project, other_erasures, quiet=json))
    if json:
        earlier = {"cut_short": _as_json(receipts[0])} if other_erasures else {}
        print_json(_as_json(receipts[-1]) | earlier)
    raise SystemExit(0 if all(receipt.clean for receipt in receipts) else 1)


def _erase(project: "Project", stored: "list[StoredId]", *, quiet: bool) -> "Receipt":
    from tailorbird.platform.privacy import run_erasure

    with progress_bars(quiet=quiet) as progress:
        receipt = run_erasure(project, stored, progress)
    if not quiet:
        _print_receipt(receipt, project)
    return receipt


def export_user(user: str, /, *, out: Path | None = None, json: Json = False) -> None:
    """Write down all that is held about a person: lines of JSON, each with its source.

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
    if out is not None and not out.parent.is_dir():
        raise UsageError(
            "no such folder", where=str(out.parent), fix="name a file in a folder that is there"
        )
    records = export_person(project, _ids(project, user), SystemClock())
    if out is None:
        for record in records:
            sys.stdout.write(msgspec.json.encode(record).decode() + "\n")
        return
    counts = write_export(records, out)
    if json:
        print_json({"out": str(out), "records": counts})
        return
    print_table(f"Written to {out}", ["source", "records"], counts.items(), right=["records"])


def print_search(user: str, json: bool) -> None:
    """Run `lake verify --erased`: search every byte for a person."""
    import msgspec

    from tailorbird.config import open_project
    from tailorbird.events.contract.envelope import ANONYMOUS_PREFIX
    from tailorbird.privacy import People, search_project

    project = open_project(applied=True)
    ids = _ids(project, user)
    users = frozenset(id_ for id_ in ids if not id_.startswith(ANONYMOUS_PREFIX))
    devices = frozenset(id_.removeprefix(ANONYMOUS_PREFIX) for id_ in {*ids} - users)
    with progress_bars(quiet=json) as progress:
        report = search_project(project, People(users, devices), progress=progress)
    if json:
        print_json(msgspec.to_builtins(report))
    else:
        _print_matches(report, project, erased=False)
    raise SystemExit(1 if report.matches else 0)


def _read_ids(user: str, file: Path | None, *, required: bool) -> list[str]:
    if user and file is not None:
        raise UsageError("expected a user or --from FILE, got both")
    ids = [user] if user else []
    if user == STDIN or file == Path(STDIN):
        ids = _lines(sys.stdin.read())
    elif file is not None:
        try:
            ids = _lines(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"cannot be read: {error}",
                where=str(file),
                fix="a text file in UTF-8, an id a line",
            ) from None
    if required and not ids:
        raise UsageError(
            "expected the id of a user, or --from FILE with an id a line",
            fix=f"{this_command()} lake erase --help",
        )
    return ids


def _stored(project: "Project", ids: list[str]) -> "list[StoredId]":
    from tailorbird.privacy.people import stored_ids

    return stored_ids(ids, project.pseudonyms())


def _ids(project: "Project", user: str) -> list[str]:
    from tailorbird.privacy.people import flatten_ids

    return flatten_ids(_stored(project, _read_ids(user, None, required=True)))


def _lines(text: str) -> list[str]:
    """Return ids, one a line as an editor ends one, without blanks and a byte order mark."""
    lines = (line.strip(" \t\r") for line in text.removeprefix("\ufeff").split("\n"))
    return [line for line in lines if line]


def _print_preview(found_data: "Preview", unfinished: bool, json: bool) -> None:
    import msgspec

    if json:
        print_json({**msgspec.to_builtins(found_data), "unfinished": unfinished})
        return
    out = console()
    if unfinished:
        out.print("An erasure was cut short; --yes brings it to its end before anything else.")
    rows = sorted(found_data.events.items(), key=lambda item: -item[1])
    print_table("Would be erased", ["type", "events"], rows, right=["events"])
    out.print(
        f"{found_data.users:,} users, {found_data.devices:,} devices, {found_data.shared:,} of them used by "
        f"others too and erased whole, {found_data.refused:,} refused rows."
    )
    _print_unknown(found_data.unknown)
    _print_bundles(found_data.bundles)
    out.print("Nothing was changed. --yes does it, and cannot be undone.")


def _print_receipt(receipt: "Receipt", project: "Project") -> None:
    rows = [
        (place, ", ".join(f"{name} {count}" for name, count in counts.items()))
        for place, counts in receipt.counts.items()
    ]
    print_table("Erased", ["place", "what"], rows)
    _print_bundles(receipt.bundles)
    _print_matches(receipt.searched, project, erased=True)
    _print_unknown(receipt.unknown)
    console().print(f"Receipt: {receipt.path}")


def _print_unknown(unknown: list[int]) -> None:
    if unknown:
        more = ", …" if len(unknown) > _SHOWN_MAX else ""
        numbers = ", ".join(f"{number:,}" for number in unknown[:_SHOWN_MAX]) + more
        console().print(
            f"No event, answer or profile was found of {len(unknown):,} of the ids that were "
            f"given (number {numbers}): are they written as the site writes them?"
        )


def _print_bundles(bundles: list[dict[str, Any]]) -> None:
    from tailorbird.events import to_iso

    if bundles:
        rows = [
            (
                bundle["version"],
                ", ".join(bundle["aliases"]),
                to_iso(bundle["due"])[:10],
                bundle["what"],
            )
            for bundle in bundles
        ]
        title = "Models that learned from their events"
        print_table(title, ["version", "name", "until", "what to do"], rows)


def _print_matches(report: "SearchReport", project: "Project", *, erased: bool) -> None:
    out = console()
    out.print(f"{report.files:,} files, {report.bytes:,} bytes searched.")
    for limit in report.limits:
        out.print(limit)
    if not report.matches:
        out.print("Nothing of theirs is left.")
        return
    own_matches, derived_matches, foreign_matches = _by_owner(report.matches, project)
    for where, some in (
        ("the project's own data", own_matches),
        ("what commands made of it", derived_matches),
        ("files of yours", foreign_matches),
    ):
        if some:
            rows = [(match.path, match.count, match.where) for match in some]
            title = f"Still there, in {where}"
            print_table(title, ["file", "times", "where"], rows, right=["times"])
    if own_matches:
        out.print("Do not delete files of the project's own data: they hold everybody's.")
    if own_matches or derived_matches:
        out.print(
            "This erasure did not take them out: please report it, with the places above."
            if erased
            else "`lake erase` of the same ids takes these out."
        )
    if foreign_matches:
        out.print("Files of your own are not changed: delete them, or take these people out.")


def _by_owner(
    matches: "Sequence[Match]", project: "Project"
) -> "tuple[list[Match], list[Match], list[Match]]":
    """Return matches in the project's data or its topics, in what commands made, in other files."""
    from tailorbird.privacy.files import find_derived
    from tailorbird.privacy.search import is_below

    data = [project.paths.data, project.paths.lake]
    own_matches: list[Match] = []
    derived_matches: list[Match] = []
    foreign_matches: list[Match] = []
    for match in matches:
        if is_below(match.path, data) or not is_below(match.path, [project.root]):
            own_matches.append(match)
        else:
            (
                derived_matches if find_derived(Path(match.path), project) else foreign_matches
            ).append(match)
    return own_matches, derived_matches, foreign_matches


def _as_json(receipt: "Receipt") -> dict[str, Any]:
    import msgspec

    return {**msgspec.to_builtins(receipt), "clean": receipt.clean}

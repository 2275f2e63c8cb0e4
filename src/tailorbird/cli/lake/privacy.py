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

_UNKNOWN_IDS_SHOWN = 10


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

    project = open_project(use_applied=True)
    clock = SystemClock()
    if yes and forget_unbegun(project) and not json:
        console().print(
            "An erasure was cut short before it changed anything. Roles may start again; "
            "whoever was to be erased is not."
        )
    has_unfinished_erasure = is_unfinished(project.paths.data)
    stored_people = _to_stored_ids(
        project, _read_ids(user, from_, is_required=not (yes and has_unfinished_erasure))
    )
    if not yes:
        _print_preview(preview(project, stored_people, clock), has_unfinished_erasure, json)
        return
    people_not_begun = (
        find_not_begun(project.paths.data, stored_people) if has_unfinished_erasure else []
    )
    receipts = [_erase(project, stored_people, quiet=json)]
    if people_not_begun:
        if not json:
            console().print(
                "This was the erasure that had been cut short. Now the ids that were given, "
                "of whom it was not:"
            )
        receipts.append(_erase(project, people_not_begun, quiet=json))
    if json:
        earlier_receipt = {"cut_short": _receipt_to_dict(receipts[0])} if people_not_begun else {}
        print_json(_receipt_to_dict(receipts[-1]) | earlier_receipt)
    raise SystemExit(0 if all(receipt.is_clean for receipt in receipts) else 1)


def _erase(project: "Project", stored_people: "list[StoredId]", *, quiet: bool) -> "Receipt":
    from tailorbird.platform.privacy import run_erasure

    with progress_bars(quiet=quiet) as progress:
        receipt = run_erasure(project, stored_people, progress)
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

    project = open_project(use_applied=True)
    if out is not None and not out.parent.is_dir():
        raise UsageError(
            "no such folder", where=str(out.parent), fix="name a file in a folder that is there"
        )
    records = export_person(project, _read_flat_ids(project, user), SystemClock())
    if out is None:
        for record in records:
            sys.stdout.write(msgspec.json.encode(record).decode() + "\n")
        return
    counts = write_export(records, out)
    if json:
        print_json({"out": str(out), "records": counts})
        return
    print_table(
        f"Written to {out}", ["source", "records"], counts.items(), numeric_columns=["records"]
    )


def print_search(user: str, json: bool) -> None:
    """Run `lake verify --erased`: search every byte for a person."""
    import msgspec

    from tailorbird.config import open_project
    from tailorbird.events.contract.envelope import ANONYMOUS_PREFIX
    from tailorbird.privacy import People, search_project

    project = open_project(use_applied=True)
    ids = _read_flat_ids(project, user)
    user_ids = frozenset(id_ for id_ in ids if not id_.startswith(ANONYMOUS_PREFIX))
    device_ids = frozenset(id_.removeprefix(ANONYMOUS_PREFIX) for id_ in {*ids} - user_ids)
    with progress_bars(quiet=json) as progress:
        report = search_project(project, People(user_ids, device_ids), progress=progress)
    if json:
        print_json(msgspec.to_builtins(report))
    else:
        _print_matches(report, project, is_after_erasure=False)
    raise SystemExit(1 if report.matches else 0)


def _read_ids(user: str, ids_file: Path | None, *, is_required: bool) -> list[str]:
    if user and ids_file is not None:
        raise UsageError("expected a user or --from FILE, got both")
    ids = [user] if user else []
    if user == STDIN or ids_file == Path(STDIN):
        ids = _split_ids(sys.stdin.read())
    elif ids_file is not None:
        try:
            ids = _split_ids(ids_file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"cannot be read: {error}",
                where=str(ids_file),
                fix="a text file in UTF-8, an id a line",
            ) from None
    if is_required and not ids:
        raise UsageError(
            "expected the id of a user, or --from FILE with an id a line",
            fix=f"{this_command()} lake erase --help",
        )
    return ids


def _to_stored_ids(project: "Project", ids: list[str]) -> "list[StoredId]":
    from tailorbird.privacy.people import to_stored_ids

    return to_stored_ids(ids, project.pseudonyms())


def _read_flat_ids(project: "Project", user: str) -> list[str]:
    """Return all ids under which the given people are stored: pseudonyms and plain ids."""
    from tailorbird.privacy.people import flatten_ids

    return flatten_ids(_to_stored_ids(project, _read_ids(user, None, is_required=True)))


def _split_ids(text: str) -> list[str]:
    """Return ids, one a line as an editor ends one, without blanks and a byte order mark."""
    lines = (line.strip(" \t\r") for line in text.removeprefix("\ufeff").split("\n"))
    return [line for line in lines if line]


def _print_preview(preview: "Preview", has_unfinished_erasure: bool, json: bool) -> None:
    import msgspec

    if json:
        print_json({**msgspec.to_builtins(preview), "unfinished": has_unfinished_erasure})
        return
    out = console()
    if has_unfinished_erasure:
        out.print("An erasure was cut short; --yes brings it to its end before anything else.")
    rows = sorted(preview.events.items(), key=lambda item: -item[1])
    print_table("Would be erased", ["type", "events"], rows, numeric_columns=["events"])
    out.print(
        f"{preview.users:,} users, {preview.devices:,} devices, {preview.shared:,} of them used by "
        f"others too and erased whole, {preview.refused:,} refused rows."
    )
    _print_unknown(preview.unknown)
    _print_bundles(preview.bundles)
    out.print("Nothing was changed. --yes does it, and cannot be undone.")


def _print_receipt(receipt: "Receipt", project: "Project") -> None:
    rows = [
        (place, ", ".join(f"{name} {count}" for name, count in counts.items()))
        for place, counts in receipt.counts.items()
    ]
    print_table("Erased", ["place", "what"], rows)
    _print_bundles(receipt.bundles)
    _print_matches(receipt.searched, project, is_after_erasure=True)
    _print_unknown(receipt.unknown)
    console().print(f"Receipt: {receipt.path}")


def _print_unknown(unknown_id_numbers: list[int]) -> None:
    """Print which of the given ids nothing was found of, by their number in the input."""
    if unknown_id_numbers:
        ellipsis = ", …" if len(unknown_id_numbers) > _UNKNOWN_IDS_SHOWN else ""
        numbers = (
            ", ".join(f"{number:,}" for number in unknown_id_numbers[:_UNKNOWN_IDS_SHOWN])
            + ellipsis
        )
        console().print(
            f"No event, answer or profile was found of {len(unknown_id_numbers):,} of the ids that "
            "were "
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


def _print_matches(report: "SearchReport", project: "Project", *, is_after_erasure: bool) -> None:
    out = console()
    out.print(f"{report.files:,} files, {report.bytes:,} bytes searched.")
    for limit in report.limits:
        out.print(limit)
    if not report.matches:
        out.print("Nothing of theirs is left.")
        return
    own_matches, derived_matches, foreign_matches = _group_by_owner(report.matches, project)
    for owner, matches in (
        ("the project's own data", own_matches),
        ("what commands made of it", derived_matches),
        ("files of yours", foreign_matches),
    ):
        if matches:
            rows = [(match.path, match.count, match.where) for match in matches]
            title = f"Still there, in {owner}"
            print_table(title, ["file", "times", "where"], rows, numeric_columns=["times"])
    if own_matches:
        out.print("Do not delete files of the project's own data: they hold everybody's.")
    if own_matches or derived_matches:
        out.print(
            "This erasure did not take them out: please report it, with the places above."
            if is_after_erasure
            else "`lake erase` of the same ids takes these out."
        )
    if foreign_matches:
        out.print("Files of your own are not changed: delete them, or take these people out.")


def _group_by_owner(
    matches: "Sequence[Match]", project: "Project"
) -> "tuple[list[Match], list[Match], list[Match]]":
    """Return matches in the project's data or its topics, in what commands made, in other files."""
    from tailorbird.privacy.files import find_derived_files
    from tailorbird.privacy.search import is_below

    data_folders = [project.paths.data, project.paths.lake]
    own_matches: list[Match] = []
    derived_matches: list[Match] = []
    foreign_matches: list[Match] = []
    for match in matches:
        if is_below(match.path, data_folders) or not is_below(match.path, [project.root]):
            own_matches.append(match)
        else:
            (
                derived_matches
                if find_derived_files(Path(match.path), project)
                else foreign_matches
            ).append(match)
    return own_matches, derived_matches, foreign_matches


def _receipt_to_dict(receipt: "Receipt") -> dict[str, Any]:
    import msgspec

    return {**msgspec.to_builtins(receipt), "clean": receipt.is_clean}

"""Importing files into a project: recognise the format, import, route and load the lake."""

from dataclasses import dataclass
from pathlib import Path

from tailorbird.config import Project
from tailorbird.config.erasures import apply_remote_erasures, hold_off_erasures
from tailorbird.errors import InputError, LockedError, UsageError
from tailorbird.events import SystemClock
from tailorbird.events.adapters import AdapterOptions, list_importable_files, recognise_format
from tailorbird.platform.progress import Progress, no_progress
from tailorbird.platform.roles import drain
from tailorbird.stream.importer import ImportReport
from tailorbird.stream.importer import import_files as import_into_log

NAMES = (
    "tailorbird, metarank, movielens, personalize, gorse, segment, ga4, snowplow, "
    "cloudevents, mind, instacart, mapping"
)
PROPOSE = "tailorbird import --guess PATH > mapping.toml proposes one"


@dataclass(frozen=True)
class Imported:
    """What an import did.

    Attributes:
        format: of the files, recognised where it was not named.
        report: rows, refused rows and their reasons.
        routed: events by what the router decided; None where another process routes them.
    """

    format: str
    report: ImportReport
    routed: dict[str, int] | None

    def __str__(self) -> str:
        report = self.report
        refused = sum(report.refused.values())
        return (
            f"{report.accepted:,} of {report.rows:,} rows from {len(report.files)} file(s) "
            f"({self.format})" + (f", {refused:,} in quarantine" if refused else "")
        )


def import_files(
    project: Project,
    path: Path,
    format_: str = "auto",
    *,
    mapping: Path | None = None,
    slot: str = "home",
    route: bool = True,
    progress: Progress = no_progress,
) -> Imported:
    """Import a file or a folder into the raw log, then route it and load the lake.

    Files that were imported before are not taken twice. Rows that cannot be read go to the
    quarantine, with their reason.

    Args:
        format_: one of `NAMES`, or `auto`.
        mapping: for the format `mapping`: the file that says how columns become events.
        slot: the slot that imported responses belong to.
        route: also route the events and load the lake.

    Raises:
        InputError: the format cannot be recognised, or a file cannot be read.
        UsageError: there is no such format, or its mapping is missing.
    """
    if format_ == "auto":
        format_ = recognised_format(path)
    options = AdapterOptions(slot, _read_mapping(format_, mapping), str(mapping or ""), str(path))
    # A person who is erased meanwhile would be missing from the list that the files are read with.
    with hold_off_erasures(project.paths.data, make=True):
        apply_remote_erasures(project)
        report = import_into_log(
            project.paths.stream,
            format_,
            path,
            plan=project.plan,
            clock=SystemClock(),
            options=options,
            progress=progress,
            pseudonyms=project.pseudonyms(),
            suppression_list=project.suppression_list(),
            lake=project.paths.lake,
        )
        try:
            routed = drain(project, SystemClock(), progress=progress) if route else None
        except LockedError:
            routed = None
    return Imported(format_, report, routed)


def recognised_format(path: Path) -> str:
    """Return the format of what is at `path`.

    Raises:
        InputError: it cannot be seen, or the files need a mapping.
    """
    name = recognise_format(list_importable_files(path))
    if name is None:
        raise InputError(
            "which format this is cannot be seen",
            where=str(path),
            fix=f"name it: tailorbird import FORMAT PATH, with one of {NAMES}",
        )
    if name == "mapping":
        raise InputError(
            "a table that needs a mapping",
            where=str(path),
            fix=f"tailorbird import --guess {path} > mapping.toml proposes one",
        )
    return name


def require_accepted(imported: Imported, path: Path) -> None:
    """Raise InputError where none of the rows is an event."""
    report = imported.report
    if report.rows and not report.accepted:
        raise InputError(
            f"none of its {report.rows:,} rows is an event; all are kept in the quarantine",
            where=str(path),
            fix="look at them with tailorbird lake quarantine; for other columns, tailorbird "
            "import --guess PATH",
        )


def _read_mapping(format_: str, mapping: Path | None) -> str:
    if format_ != "mapping":
        return ""
    if mapping is None:
        raise UsageError("the format mapping needs --mapping FILE", fix=PROPOSE)
    if not mapping.is_file():
        raise UsageError("no such file", where=str(mapping), fix=PROPOSE)
    try:
        return mapping.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fix = (
            f"write it in UTF-8, such as: iconv -f ISO-8859-1 -t UTF-8 {mapping.name} > "
            f"new-{mapping.name}"
        )
        raise InputError(f"cannot be read: {error}", where=str(mapping), fix=fix) from None

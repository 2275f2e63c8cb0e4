"""Import files into a project: recognise the format, import, route and load the lake."""

from dataclasses import dataclass
from pathlib import Path

from tailorbird.config import Project
from tailorbird.config.erasures import apply_remote_erasures, hold_off_erasures
from tailorbird.errors import InputError, LockedError, UsageError
from tailorbird.events import SystemClock
from tailorbird.events.adapters import AdapterOptions, list_importable_files, recognise_format
from tailorbird.events.tables.locations import open_location
from tailorbird.import_formats import FORMAT_NAMES
from tailorbird.pages.notebook import text_html
from tailorbird.platform.progress import Progress, no_progress
from tailorbird.platform.runtime.roles import drain
from tailorbird.stream.importer import ImportReport
from tailorbird.stream.importer import import_files as import_into_log

PROPOSE_HINT = "tailorbird import --guess PATH > mapping.toml proposes one"


@dataclass(frozen=True)
class ImportResult:
    """The result of an import.

    Attributes:
        format: format of the files, given or recognised.
        report: counts of rows, and of refused rows by reason.
        count_by_decision: events by the router's decision; None if another process routes them.
    """

    format: str
    report: ImportReport
    count_by_decision: dict[str, int] | None

    _repr_html_ = text_html

    def __repr__(self) -> str:
        report = self.report
        refused_count = sum(report.refused.values())
        return (
            f"{report.accepted:,} of {report.rows:,} rows from {len(report.files)} file(s) "
            f"({self.format})" + (f", {refused_count:,} in quarantine" if refused_count else "")
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
) -> ImportResult:
    """Import a file or a folder into the raw log, then route it and load the lake.

    Files that were imported before are skipped. Unreadable rows go to the quarantine with a reason.

    Args:
        format_: one of `FORMAT_NAMES`, or `auto`.
        mapping: for the format `mapping`: the file that maps columns to events.
        slot: the slot that imported responses belong to.
        route: also route the events and load the lake.

    Raises:
        InputError: the format is not recognised, or a file is unreadable.
        UsageError: there is no such format, or its mapping is missing.
    """
    with open_location(path, project.paths.import_tables) as opened_path:
        return _import_path(project, opened_path, format_, mapping, slot, route, progress)


def _import_path(
    project: Project,
    path: Path,
    format_: str,
    mapping: Path | None,
    slot: str,
    route: bool,
    progress: Progress,
) -> ImportResult:
    if format_ == "auto":
        format_ = detect_format(path)
    options = AdapterOptions(slot, _read_mapping(format_, mapping), str(mapping or ""), str(path))
    # An erasure during the import would be missing from the suppression list that the rows are
    # checked against.
    with hold_off_erasures(project.paths.data, create=True):
        apply_remote_erasures(project)
        report = import_into_log(
            project.paths.stream,
            format_,
            path,
            plan=project.plan,
            clock=SystemClock(),
            options=options,
            report_progress=progress,
            pseudonyms=project.pseudonyms(),
            suppression_list=project.suppression_list(),
            lake=project.paths.lake,
        )
        try:
            count_by_decision = drain(project, SystemClock(), progress=progress) if route else None
        except LockedError:
            count_by_decision = None
    return ImportResult(format_, report, count_by_decision)


def detect_format(path: Path) -> str:
    """Return the format of the files at `path`.

    Raises:
        InputError: the format is not recognised, or the files need a mapping.
    """
    name = recognise_format(list_importable_files(path))
    if name is None:
        raise InputError(
            "the format is not recognised",
            where=str(path),
            fix=f"name it: tailorbird import FORMAT PATH, with one of {FORMAT_NAMES}",
        )
    if name == "mapping":
        raise InputError(
            "a table that needs a mapping",
            where=str(path),
            fix=f"tailorbird import --guess {path} > mapping.toml proposes one",
        )
    return name


def require_accepted(result: ImportResult, path: Path) -> None:
    """Raise InputError if none of the rows is an event."""
    report = result.report
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
        raise UsageError("the format mapping needs --mapping FILE", fix=PROPOSE_HINT)
    if not mapping.is_file():
        raise UsageError("no such file", where=str(mapping), fix=PROPOSE_HINT)
    try:
        return mapping.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fix = (
            f"write it in UTF-8, such as: iconv -f ISO-8859-1 -t UTF-8 {mapping.name} > "
            f"new-{mapping.name}"
        )
        raise InputError(f"cannot be read: {error}", where=str(mapping), fix=fix) from None

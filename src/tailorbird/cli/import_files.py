"""`tailorbird import`: import files, or propose a mapping."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tailorbird.cli.output import (
    Json,
    console,
    print_json,
    print_note,
    print_routed_counts,
    progress_bars,
    this_command,
)
from tailorbird.errors import UsageError
from tailorbird.import_formats import FORMAT_NAMES

if TYPE_CHECKING:
    from tailorbird.stream.importer import ImportReport


def import_files(
    format_: Annotated[
        str, Parameter(name="FORMAT", help=f"format of the files: {FORMAT_NAMES}; or auto")
    ] = "",
    path: Annotated[
        Path | None,
        Parameter(
            name="PATH",
            help="a file or a folder; .gz and .zst are decompressed, and zip archives, workbooks, "
            "SQLite and DuckDB databases unpacked",
        ),
    ] = None,
    /,
    *,
    mapping: Path | None = None,
    guess: Path | None = None,
    slot: str = "home",
    route: bool = True,
    json: Json = False,
) -> None:
    """Import files into the raw log, then route them and load them into the lake.

    Files are verified against a SHA256SUMS next to them. An interrupted import continues where it
    stopped, and files that were imported before are skipped. Unreadable records go to the
    quarantine with a reason. `auto` recognises the format by file names and first records.

    Example:  tailorbird import movielens ./ml-20m

    Example:  tailorbird import auto ./export-of-segment

    Example:  tailorbird import --guess clicks.parquet > mapping.toml

    Example:  tailorbird import mapping clicks.parquet --mapping mapping.toml

    Parameters
    ----------
    mapping:
        for the format `mapping`: the file that maps columns to events
    guess:
        propose a mapping for this file and show ten rows as they would be read; imports nothing
    slot:
        the slot that imported answers (Metarank's rankings) belong to
    route:
        also route the events and load the lake here; not needed while `up` is running
    """
    if guess is not None:
        from tailorbird.events.tables.locations import open_location

        with open_location(guess) as opened_path:
            _propose_mapping(opened_path, json)
        return
    if not format_ or path is None:
        raise UsageError("expected FORMAT and PATH", fix="tailorbird import --help shows examples")
    from tailorbird.config import open_project
    from tailorbird.platform.imports import import_files as run_import
    from tailorbird.platform.imports import require_accepted

    project = open_project()
    with progress_bars(quiet=json) as progress:
        result = run_import(
            project, path, format_, mapping=mapping, slot=slot, route=route, progress=progress
        )
    report = result.report
    count_by_decision = result.count_by_decision
    if format_ == "auto":
        print_note(f"{path}: this is {result.format}.")
    if json:
        summary = {
            "rows": report.rows,
            "accepted": report.accepted,
            "refused": dict(report.refused),
            "already": report.is_repeated,
        }
        print_json(
            {
                **summary,
                "format": result.format,
                "left_out": dict(report.left_out),
                "examples": report.examples,
                "routed": count_by_decision,
            }
        )
    else:
        _print_report(report, count_by_decision, path, route)
    require_accepted(result, path)


def _print_report(
    report: "ImportReport", count_by_decision: dict[str, int] | None, path: Path, route: bool
) -> None:
    out = console()
    if report.is_repeated:
        out.print(f"{path}: these files were imported before; nothing to do.")
    else:
        resumed_note = f" (went on after row {report.resumed_at:,})" if report.resumed_at else ""
        out.print(
            f"Imported {report.accepted:,} of {report.rows:,} rows from {len(report.files)} "
            f"file(s){resumed_note}."
        )
    for file in report.set_aside:
        out.print(
            f"The log was damaged or lost; what is left was moved to {file}. Import earlier "
            "files again."
        )
    if report.left_out:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in report.left_out.most_common())
        out.print(f"Left out, since they say nothing about people and items: {kinds}.")
    if report.refused:
        reasons = ", ".join(f"{count:,} {code}" for code, count in report.refused.most_common())
        out.print(
            f"{sum(report.refused.values()):,} rows are in quarantine: {reasons}. See: "
            f"{this_command()} lake quarantine"
        )
        for example in report.examples:
            out.print(f"  {example}")
    if route:
        print_routed_counts(count_by_decision, "import")


def _propose_mapping(path: Path, json: bool) -> None:
    """Print a mapping guessed from the columns, and its trial: how the first rows would be read."""
    import msgspec

    from tailorbird.events import SystemClock
    from tailorbird.events.adapters import (
        FORMATS,
        find_files,
        list_importable_files,
        recognise_format,
    )
    from tailorbird.events.guess import guess_files, try_mapping

    recognised_format = recognise_format(list_importable_files(path))
    if recognised_format not in (None, "mapping", "tailorbird"):
        if json:
            print_json({"format": recognised_format})
        else:
            console(stderr=True).print(
                f"{path}: this is {recognised_format}, which needs no mapping: {this_command()} "
                "import "
                f"{recognised_format} {path}"
            )
        return
    files = find_files(path, FORMATS["mapping"].patterns)
    guesses, reason_by_file = guess_files(files)
    mapping_toml = "\n".join(guess.toml for guess in guesses)
    trial = try_mapping(
        mapping_toml,
        files,
        SystemClock().now(),
        [name for guess in guesses for name in guess.types],
    )
    column_rows = [
        (guess.file.name, column.column, column.role or "left out", column.why)
        for guess in guesses
        for column in guess.columns
    ]
    column_rows += [(file.name, "", "left out", why) for file, why in reason_by_file.items()]
    if json:
        rows = [msgspec.json.decode(row) for row in trial.sample_events]
        print_json(
            {
                "mapping": mapping_toml,
                "columns": column_rows,
                "rows": rows,
                "tried": trial.rows,
                "refused": trial.refused,
            }
        )
        return
    print(mapping_toml)
    out = console(stderr=True)
    for name, column, role, why in column_rows:
        out.print(f"# {name}: {column:<20} → {role:<28} {why}", style="dim")
    out.print(f"# The first {len(trial.sample_events)} rows, as they would be read:", style="dim")
    for row in trial.sample_events:
        out.print(f"#   {row.decode()}", style="dim")
    if trial.warning:
        out.print(trial.warning, style="yellow")

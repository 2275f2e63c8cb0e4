"""`tailorbird score churn`."""

from pathlib import Path

from tailorbird.cli.output import Json, console, print_json, print_note, print_table, progress_bars


def churn(
    name: str = "churn",
    *,
    out: Path,
    version: str = "champion",
    as_of: str = "",
    reasons: int = 1_000,
    json: Json = False,
) -> None:
    """Score all people: how likely each is to leave, why, and their expected purchases.

    People are those that the model applies to (`active` in churn.py). The Parquet file has the
    columns person, gone, purchases, reasons and as_of, most likely first. The command prints the
    segments that are most worth contacting, by `contact` in churn.py. For one person, use `GET
    /v1/users/ID/churn`.

    Example:  tailorbird -C shop score churn --out churn.parquet

    Parameters
    ----------
    name:
        name of a churn model in churn.py
    out:
        the Parquet file to write; an existing file is replaced
    version:
        a version, or champion, previous or challenger
    as_of:
        score as of this time, such as 2026-11-25, or `latest`: just after the newest event
    reasons:
        number of people, the likeliest to leave, to give reasons for
    """
    import pyarrow.parquet as pq

    from tailorbird.config import open_project
    from tailorbird.errors import UsageError
    from tailorbird.events import DAY, to_iso
    from tailorbird.lake.write.labels import add_command_metadata
    from tailorbird.platform.models.churn_scores import score_churn

    project = open_project(use_applied=True)
    if not out.parent.is_dir():
        raise UsageError(
            f"there is no folder {out.parent}", where="--out", fix="make it, or name another file"
        )
    if out.suffix != ".parquet" or out.is_dir():
        raise UsageError(
            f"{out} is no name of a Parquet file", where="--out", fix="such as churn.parquet"
        )
    with progress_bars(quiet=json) as progress:
        result = score_churn(
            project,
            name,
            version=version,
            as_of=as_of,
            people_with_reasons=reasons,
            progress=progress,
            notify=print_note,
        )
    unfinished_file = out.with_name(f"{out.name}.part")
    try:
        pq.write_table(add_command_metadata(result.table, "score churn"), unfinished_file)
        unfinished_file.replace(out)
    finally:
        unfinished_file.unlink(missing_ok=True)
    scores = result.scores
    people_count = result.table.num_rows
    if json:
        print_json({**result.to_dict(), "out": str(out)})
        return
    rows = [
        (
            segment.column,
            segment.range,
            f"{segment.people:,}",
            f"{segment.gone:.1%}",
            f"{segment.lift:.2f}",
            f"{segment.expected:,.0f}",
        )
        for segment in scores.segments
    ]
    if rows:
        header = ["column", "range", "people", "gone", "lift", "expected"]
        print_table(
            "Worth contacting, by what churn.py says of cost and value",
            header,
            rows,
            numeric_columns=header[2:],
        )
    console().print(f"{result.version} scored {people_count:,} people into {out}")
    if result.age_us > max(project.plan.lateness_us, DAY):
        days = result.age_us // DAY
        notice = (
            f"The log ends at {to_iso(scores.until)[:16]}, {days:,} day{'s' * (days != 1)} "
            "before these scores"
        )
        console().print(
            f"  {notice}: everybody counts as away since. For a log that ended, score with "
            "--as-of latest."
        )

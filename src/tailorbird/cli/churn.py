"""`tailorbird train NAME` where churn.py declares the name, and `tailorbird score churn`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailorbird.cli.output import (
    Json,
    console,
    print_json,
    print_note,
    print_table,
    progress_bars,
    this_command,
)

if TYPE_CHECKING:
    from tailorbird.training.churn.train import ChurnReport

COLUMNS = ("auc", "ap", "log_loss", "lift_10", "mae", "bias")


def print_training(report: "ChurnReport", name: str) -> None:
    """Print what came of the training of a churn model, and what to do next."""
    plain = report.to_dict()
    out, cut = console(), report.last.cut
    _print(
        plain["results"],
        f"At {plain['origins'][-1]['origin'][:10]}: {len(cut.churned):,} people, "
        f"{cut.churned.mean():.1%} gone",
    )
    out.print(
        f"\n{report.version} {'goes live' if report.promoted else 'is kept, not promoted'}: "
        f"{report.decision.reason}"
    )
    if not report.promoted:
        out.print(
            f"  To let it answer nevertheless:  {this_command()} models promote "
            f'{report.version} --churn {name} --why "a first try"'
        )
    for note in (*report.decision.reasons[1:], *report.notes):
        out.print(f"  {note}")
    best = report.curve.best_k
    if best:
        worth = (
            f"expected {report.curve.expected[best - 1]:,.0f}, by who left "
            f"{report.curve.realised[best - 1]:,.0f}"
        )
        out.print(f"Contact the first {best:,} of {len(cut.churned):,}: {worth}")
    out.print(f"Report: {report.report}")


def _print(results: dict[str, dict[str, Any]], title: str) -> None:
    """Figures of the model and its baselines, least log loss first, with their 95 % intervals."""

    def cell(figures: dict[str, Any], name: str) -> str:
        value, low, high = (figures.get(f"{name}{end}") for end in ("", "_low", "_high"))
        if value is None:
            return ""
        return (
            f"{value:.4f}"
            if low is None or high is None
            else f"{value:.4f} ({low:.4f} – {high:.4f})"
        )

    def loss(pair: tuple[str, dict[str, Any]]) -> tuple[bool, float]:
        value = pair[1][
            "log_loss"
        ]  # None where it is no number, as of a baseline that overflows: behind the others
        return (True, 0.0) if value is None else (False, value)

    ranked = sorted(results.items(), key=loss)
    print_table(
        title,
        ["", *COLUMNS],
        [(name, *(cell(figures, column) for column in COLUMNS)) for name, figures in ranked],
        right=COLUMNS,
    )


def churn(
    name: str = "churn",
    *,
    out: Path,
    version: str = "champion",
    as_of: str = "",
    reasons: int = 1_000,
    json: Json = False,
) -> None:
    """Score everybody: how likely each person is to leave, why, and how much they are expected to
    buy, into a Parquet file.

    People are those whom the model is asked about (`active` in churn.py). Columns: person, gone,
    purchases, reasons, as_of, most likely first. Printed are the segments that are most worth
    contacting, by `contact` in churn.py. One person: `GET /v1/users/ID/churn`.

    Example:  tailorbird -C shop score churn --out churn.parquet

    Parameters
    ----------
    name:
        a churn model of churn.py
    out:
        the file to write, NAME.parquet; one that is there is replaced
    version:
        a version, or champion, previous, challenger
    as_of:
        score as if it were this time, such as 2026-11-25, or `latest`: just behind the newest event
    reasons:
        how many of the likeliest to leave are told why
    """
    import pyarrow.parquet as pq

    from tailorbird.config import open_project
    from tailorbird.errors import NotReadyError, UsageError
    from tailorbird.events import DAY, to_iso
    from tailorbird.lake.made import made
    from tailorbird.platform.moment import clock_as_of
    from tailorbird.ranking.churn_bundle import ChurnBundle
    from tailorbird.registry import Registry
    from tailorbird.training.churn.score import score_people

    project = open_project(applied=True)
    declared = project.churn_model(name)
    if not out.parent.is_dir():
        raise UsageError(
            f"there is no folder {out.parent}", where="--out", fix="make it, or name another file"
        )
    if out.suffix != ".parquet" or out.is_dir():
        raise UsageError(
            f"{out} is no name of a Parquet file", where="--out", fix="such as churn.parquet"
        )
    clock = clock_as_of(as_of, project, settled=False, notify=print_note)
    registry = Registry(project.paths.churn(name), clock=clock)
    versions = registry.versions()
    if not versions or (version == "champion" and registry.champion() is None):
        kept = (
            f"score churn {name} --version {versions[-1].version} --out {out}" if versions else ""
        )
        fix = f"{this_command()} {kept or f'train {name}'}"
        raise NotReadyError(f"there is no {version} of {name} yet", fix=fix)
    bundle = ChurnBundle.load(registry.resolve(version), schema_hash=None)
    with progress_bars(quiet=json) as progress:
        found = score_people(
            bundle,
            declared,
            lake=project.paths.lake,
            now=clock.now(),
            reasons=max(reasons, 0),
            progress=progress,
        )
    part = out.with_name(f"{out.name}.part")
    try:
        pq.write_table(made(found.table, "score churn"), part)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    people, late = found.table.num_rows, clock.now() - found.until
    if json:
        plain = {
            "version": bundle.version,
            "people": people,
            "out": str(out),
            "log_until": to_iso(found.until),
        }
        print_json({**plain, "segments": [each.to_dict() for each in found.segments]})
        return
    rows = [
        (
            each.column,
            each.range,
            f"{each.people:,}",
            f"{each.gone:.1%}",
            f"{each.lift:.2f}",
            f"{each.expected:,.0f}",
        )
        for each in found.segments
    ]
    if rows:
        heads = ["column", "range", "people", "gone", "lift", "expected"]
        print_table(
            "Worth contacting, by what churn.py says of cost and value",
            heads,
            rows,
            right=heads[2:],
        )
    console().print(f"{bundle.version} scored {people:,} people into {out}")
    if late > max(project.plan.lateness_us, DAY):
        days = late // DAY
        ended = (
            f"The log ends at {to_iso(found.until)[:16]}, {days:,} day{'s' * (days != 1)} "
            "before these scores"
        )
        console().print(
            f"  {ended}: everybody counts as away since. For a log that ended, score with "
            "--as-of latest."
        )

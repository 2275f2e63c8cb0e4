"""`tailorbird models verify`: whether servers scored what they showed as their bundle says."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from tailorbird.cli.output import Json, Report, console, print_json, print_table, progress_bars
from tailorbird.errors import NotReadyError, TailorbirdError

if TYPE_CHECKING:
    import pyarrow as pa

    from tailorbird.lake import Lake
    from tailorbird.registry import Registry
    from tailorbird.training.rescored import ScoreReport

_EXPLAINED = 5
_AT_ONCE = 500  # answers, with all that was logged of them


def verify(version: str = "", *, answers: int = 2_000, json: Json = False) -> None:
    """Score what was shown again, from the features that were logged with it, and compare with what
    the server's model said.

    On the machine that answered, no score should differ in any bit. One that differs by less than
    1e-6 of its size is told, and is no error: another machine adds in another order. What hangs on
    items that came or changed within seconds of an answer is left out. Ends with status 1 if any
    other score differs, or if a version that answered cannot be loaded any more.

    Whether the logged features are the lake's, `tailorbird features verify` says.

    Example:  tailorbird -C shop models verify

    Example:  tailorbird -C shop models verify champion --answers 20000

    Parameters
    ----------
    version:
        of this version only, or champion, previous, canary; all that answered and are still kept
            unless told otherwise
    answers:
        how many logged answers, spread evenly over all of a version
    """
    from tailorbird.cli.models import open_registry
    from tailorbird.lake import Lake

    project, registry = open_registry()
    lake = Lake(project.paths.lake)
    with progress_bars(quiet=json) as progress:
        reports, damaged = _compared(
            registry, lake, registry.resolve(version).name if version else "", answers, progress
        )
    if not damaged and not any(report.answers for report in reports.values()):
        raise _nothing(reports, str(lake.path))
    unequal = sum(report.unequal for report in reports.values())
    if json:
        print_json(
            {
                "unequal": unequal,
                "damaged": damaged,
                "versions": {name: asdict(report) for name, report in reports.items()},
            }
        )
    else:
        _print(reports, whole=not damaged)
    raise SystemExit(1 if unequal or damaged else 0)


def _compared(
    registry: "Registry", lake: "Lake", version: str, answers: int, progress: Report
) -> "tuple[dict[str, ScoreReport], list[str]]":
    """What came of each version that answered and is still kept; and those that cannot be loaded
    any more.
    """
    import pyarrow.dataset as ds

    from tailorbird.lake.tables import TABLES
    from tailorbird.ranking.bundle import Bundle
    from tailorbird.training.rescored import ITEM_COLUMNS, rescore_answers

    found: dict[str, ScoreReport] = {}
    damaged: list[str] = []
    kept = {info.version for info in registry.versions()}
    answered = set().union(
        *(batch.column(0).unique().to_pylist() for batch in lake.batches("answers", ("model",)))
    )
    items = (
        lake.table("items", ITEM_COLUMNS)
        if lake.exists("items")
        else TABLES["items"].schema.empty_table()
    )
    for name in sorted(kept & answered):
        if version not in ("", name):
            continue
        try:
            bundle = Bundle.load(registry.resolve(name), schema_hash=None)
        except TailorbirdError as error:
            console(stderr=True).print(f"answers of {name} are not compared: {error.message}")
            damaged.append(name)
            continue
        own = lake.table(
            "answers", ("producer", "offset", "ts"), ds.field("model") == name
        ).sort_by("ts")
        chosen = own.take(list(range(0, own.num_rows, max(1, -(-own.num_rows // max(1, answers))))))

        def told(done: int, name: str = name, total: int = chosen.num_rows) -> None:
            progress(f"answers of {name}", done, total)

        found[name] = rescore_answers(bundle, _rows(lake, chosen, name), items, progress=told)
    return found, damaged


def _rows(lake: "Lake", chosen: "pa.Table", version: str) -> "Iterator[pa.Table]":
    """Chosen answers with all that was logged, some at a time, in the order of time."""
    import pyarrow as pa
    import pyarrow.dataset as ds

    from tailorbird.training.rescored import COLUMNS

    places = ("producer", "offset")
    for start in range(0, chosen.num_rows, _AT_ONCE):
        some = chosen.slice(start, _AT_ONCE)
        where = (
            ds.field("offset").isin(some["offset"])
            & ds.field("producer").isin(some["producer"])
            & (ds.field("model") == version)
        )
        where &= (ds.field("ts") >= some["ts"][0]) & (
            ds.field("ts") <= some["ts"][-1]
        )  # leaves out most files
        rows = lake.table("answers", (*places, *COLUMNS), where)
        wanted = set(zip(*(some[name].to_pylist() for name in places), strict=True))
        found = zip(*(rows[name].to_pylist() for name in places), strict=True)
        yield rows.filter(pa.array([place in wanted for place in found], pa.bool_())).select(
            COLUMNS
        )


def _nothing(reports: "dict[str, ScoreReport]", lake: str) -> NotReadyError:
    """Why no score was compared."""
    skipped, moved = (
        sum(report.skipped for report in reports.values()),
        sum(report.moved for report in reports.values()),
    )
    if not moved and not skipped:
        return NotReadyError(
            "nothing could be compared: the lake has no answer of a model of this registry",
            where=lake,
            fix="tailorbird up, then ask it for some",
        )
    parts = [
        f"{skipped:,} answers do not say what a model made of each item: none ordered them, "
        "or it was not logged"
        if skipped
        else "",
        f"{moved:,} scores hang on items that came or changed within seconds of their answer"
        if moved
        else "",
    ]
    return NotReadyError(
        f"nothing could be compared: {', and '.join(filter(None, parts))}",
        where=lake,
        fix="ask for more answers while items stay as they are, or look at more of them: "
        "tailorbird models verify --answers 20000",
    )


def _print(reports: "dict[str, ScoreReport]", *, whole: bool) -> None:
    out = console()
    names = [
        "version",
        "answers",
        "scores",
        "unequal",
        "of other bits",
        "of items that moved",
        "answers passed over",
    ]
    counts = [
        (
            name,
            *(
                f"{count:,}"
                for count in (
                    one.answers,
                    one.scores,
                    one.unequal,
                    one.other_bits,
                    one.moved,
                    one.skipped,
                )
            ),
        )
        for name, one in reports.items()
    ]
    print_table("", names, counts)
    for name, report in reports.items():
        for one in report.examples[:_EXPLAINED]:
            out.print(
                f"{name}, answer {one.request_id}, item {one.item}: logged {one.logged!r}, "
                f"now {one.recomputed!r}"
            )
    if not any(report.unequal for report in reports.values()):
        if whole:
            out.print("Every score that was compared is what the bundle says.", style="green")
        return
    out.print(
        "Compare the server's version and machine with this one's; a bundle's files are "
        "checked by  tailorbird models show"
    )

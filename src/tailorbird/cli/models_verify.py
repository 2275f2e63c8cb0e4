"""`tailorbird models verify`: whether servers scored what they showed as their bundle says."""

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

from tailorbird.cli.output import Json, Report, console, print_json, print_table, progress_bars
from tailorbird.errors import NotReadyError, TailorbirdError

if TYPE_CHECKING:
    import pyarrow as pa

    from tailorbird.lake import Lake
    from tailorbird.registry import Registry
    from tailorbird.training.rescored import ScoreReport

_EXPLAINED = 5


def verify(version: str = "", *, answers: int = 2_000, json: Json = False) -> None:
    """Score what was shown again, from the features that were logged with it, and compare with what the server's model said.

    On the machine that answered, no score should differ in any bit. One that differs by less than 1e-6 of its size is told, and is no
    error: another machine adds in another order, and so does a net that scored more items at once. What hangs on items that came or
    changed within seconds of an answer is left out. Ends with status 1 if any other score differs,
    or if a version that answered cannot be loaded any more.

    Whether the logged features are the lake's, `tailorbird features verify` says.

    Example:  tailorbird -C shop models verify

    Example:  tailorbird -C shop models verify champion --answers 20000

    Parameters
    ----------
    version:
        of this version only, or champion, previous, canary; all that answered and are still kept unless told otherwise
    answers:
        how many logged answers, spread evenly over all of a version
    """
    from tailorbird.cli.models import open_registry
    from tailorbird.lake import Lake

    project, registry = open_registry()
    lake = Lake(project.paths.lake)
    with progress_bars(quiet=json) as progress:
        reports, damaged = _compared(registry, lake, registry.resolve(version).name if version else "", answers, progress)
    if not damaged and not any(report.answers for report in reports.values()):
        raise NotReadyError(
            "nothing could be compared: the lake has no answer of a model of this registry that says what the model made of each item",
            where=str(lake.path),
            fix="tailorbird up, then ask it for some; answers that were logged by an earlier version do not say so",
        )
    unequal = sum(report.unequal for report in reports.values())
    if json:
        print_json({"unequal": unequal, "damaged": damaged, "versions": {name: asdict(report) for name, report in reports.items()}})
    else:
        _print(reports, whole=not damaged)
    raise SystemExit(1 if unequal or damaged else 0)


def _compared(
    registry: "Registry", lake: "Lake", version: str, answers: int, progress: Report
) -> "tuple[dict[str, ScoreReport], list[str]]":
    """What came of each version that answered and is still kept; and those that cannot be loaded any more."""
    import pyarrow.compute as pc

    from tailorbird.lake.tables import TABLES
    from tailorbird.ranking.bundle import Bundle
    from tailorbird.training.rescored import ITEM_COLUMNS, rescored

    found: dict[str, ScoreReport] = {}
    damaged: list[str] = []
    kept = {info.version for info in registry.versions()}
    places = lake.table("answers", ("producer", "offset", "model"))
    items = lake.table("items", ITEM_COLUMNS) if lake.exists("items") else TABLES["items"].schema.empty_table()
    for name in sorted(kept & set(pc.unique(places["model"]).to_pylist())):
        if version not in ("", name):
            continue
        try:
            bundle = Bundle.load(registry.resolve(name), schema_hash=None)
        except TailorbirdError as error:
            console(stderr=True).print(f"answers of {name} are not compared: {error.message}", markup=False)
            damaged.append(name)
            continue
        own = places.filter(pc.equal(places["model"], name))
        chosen = own.take(list(range(0, own.num_rows, max(1, -(-own.num_rows // max(1, answers))))))
        rows = _rows(lake, chosen, name)
        found[name] = rescored(bundle, rows, items, progress=partial(progress, f"answers of {name}"))
    return found, damaged


def _rows(lake: "Lake", chosen: "pa.Table", version: str) -> "pa.Table":
    import pyarrow.dataset as ds

    from tailorbird.training.rescored import COLUMNS

    where = ds.field("offset").isin(chosen["offset"]) & ds.field("producer").isin(chosen["producer"])
    return lake.table("answers", COLUMNS, where & (ds.field("model") == version))


def _print(reports: "dict[str, ScoreReport]", *, whole: bool) -> None:
    out = console()
    names = ["version", "answers", "scores", "unequal", "of other bits", "of items that moved", "answers passed over"]
    counts = [
        (name, *(f"{count:,}" for count in (one.answers, one.scores, one.unequal, one.other_bits, one.moved, one.skipped)))
        for name, one in reports.items()
    ]
    print_table("", names, counts)
    for name, report in reports.items():
        for one in report.examples[:_EXPLAINED]:
            out.print(f"{name}, answer {one.request_id}, item {one.item}: logged {one.logged!r}, now {one.recomputed!r}", markup=False)
    if not any(report.unequal for report in reports.values()):
        if whole:
            out.print("[green]Every score that was compared is what the bundle says.[/green]")
        return
    out.print("Compare the server's version and machine with this one's; a bundle's files are checked by  tailorbird models show")

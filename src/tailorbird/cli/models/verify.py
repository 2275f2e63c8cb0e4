"""`tailorbird models verify`: check served scores against their bundles."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from tailorbird.cli.output import Json, Report, console, print_json, print_table, progress_bars
from tailorbird.errors import NotReadyError, TailorbirdError

if TYPE_CHECKING:
    import pyarrow as pa

    from tailorbird.lake import Lake
    from tailorbird.registry import Registry
    from tailorbird.training.evaluation.rescore import ScoreReport

_EXAMPLES_MAX = 5
_BATCH_SIZE = 500  # Answers with their logged features.


def verify(version: str = "", *, answers: int = 2_000, json: Json = False) -> None:
    """Recompute served scores from the logged features, and compare them with the logged scores.

    On the machine that answered, all bits of a score should be equal. A difference below 1e-6 of
    its size is reported but is no error, since another machine adds in another order. Scores that
    depend on items that changed within seconds of an answer are skipped. The command ends with
    status 1 if any other score differs, or if a version that answered cannot be loaded any more.

    `tailorbird features verify` checks the logged features against the lake.

    Example:  tailorbird -C shop models verify

    Example:  tailorbird -C shop models verify champion --answers 20000

    Parameters
    ----------
    version:
        a version, or champion, previous or canary; by default all stored versions that answered
    answers:
        number of logged answers to recompute, spread evenly over all of a version
    """
    from tailorbird.cli.models.commands import open_registry
    from tailorbird.lake import Lake

    project, registry = open_registry()
    lake = Lake(project.paths.lake)
    with progress_bars(quiet=json) as progress:
        reports, damaged = _compare_versions(
            registry, lake, registry.resolve(version).name if version else "", answers, progress
        )
    if not damaged and not any(report.answers for report in reports.values()):
        raise _nothing_compared_error(reports, str(lake.path))
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
        _print_reports(reports, all_loaded=not damaged)
    raise SystemExit(1 if unequal or damaged else 0)


def _compare_versions(
    registry: "Registry", lake: "Lake", version: str, answers: int, progress: Report
) -> "tuple[dict[str, ScoreReport], list[str]]":
    """Return a report per stored version that answered, and the versions that cannot be loaded."""
    import pyarrow.dataset as ds

    from tailorbird.lake.tables import TABLES
    from tailorbird.ranking.bundle import Bundle
    from tailorbird.training.evaluation.rescore import ITEM_COLUMNS, rescore_answers

    reports: dict[str, ScoreReport] = {}
    damaged: list[str] = []
    stored = {info.version for info in registry.versions()}
    served = set().union(
        *(batch.column(0).unique().to_pylist() for batch in lake.batches("answers", ("model",)))
    )
    items = (
        lake.table("items", ITEM_COLUMNS)
        if lake.exists("items")
        else TABLES["items"].schema.empty_table()
    )
    for name in sorted(stored & served):
        if version not in ("", name):
            continue
        try:
            bundle = Bundle.load(registry.resolve(name), schema_hash=None)
        except TailorbirdError as error:
            console(stderr=True).print(f"answers of {name} are not compared: {error.message}")
            damaged.append(name)
            continue
        answer_ids = lake.table(
            "answers", ("producer", "offset", "ts"), ds.field("model") == name
        ).sort_by("ts")
        sample = answer_ids.take(
            list(range(0, answer_ids.num_rows, max(1, -(-answer_ids.num_rows // max(1, answers)))))
        )

        def report_progress(done: int, name: str = name, total: int = sample.num_rows) -> None:
            progress(f"answers of {name}", done, total)

        reports[name] = rescore_answers(
            bundle, _rows(lake, sample, name), items, progress=report_progress
        )
    return reports, damaged


def _rows(lake: "Lake", answer_ids: "pa.Table", version: str) -> "Iterator[pa.Table]":
    """Yield the given answers with all logged columns, in batches, in the order of time."""
    import pyarrow as pa
    import pyarrow.dataset as ds

    from tailorbird.training.evaluation.rescore import COLUMNS

    key_columns = ("producer", "offset")
    for start in range(0, answer_ids.num_rows, _BATCH_SIZE):
        batch = answer_ids.slice(start, _BATCH_SIZE)
        where = (
            ds.field("offset").isin(batch["offset"])
            & ds.field("producer").isin(batch["producer"])
            & (ds.field("model") == version)
        )
        # Excludes most files.
        where &= (ds.field("ts") >= batch["ts"][0]) & (ds.field("ts") <= batch["ts"][-1])
        rows = lake.table("answers", (*key_columns, *COLUMNS), where)
        keys = set(zip(*(batch[name].to_pylist() for name in key_columns), strict=True))
        row_keys = zip(*(rows[name].to_pylist() for name in key_columns), strict=True)
        yield rows.filter(pa.array([key in keys for key in row_keys], pa.bool_())).select(COLUMNS)


def _nothing_compared_error(reports: "dict[str, ScoreReport]", lake: str) -> NotReadyError:
    """Return the error that says why no score was compared."""
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


def _print_reports(reports: "dict[str, ScoreReport]", *, all_loaded: bool) -> None:
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
                    report.answers,
                    report.scores,
                    report.unequal,
                    report.other_bits,
                    report.moved,
                    report.skipped,
                )
            ),
        )
        for name, report in reports.items()
    ]
    print_table("", names, counts)
    for name, report in reports.items():
        for example in report.examples[:_EXAMPLES_MAX]:
            out.print(
                f"{name}, answer {example.request_id}, item {example.item}: logged "
                f"{example.logged!r}, "
                f"now {example.recomputed!r}"
            )
    if not any(report.unequal for report in reports.values()):
        if all_loaded:
            out.print("Every score that was compared is what the bundle says.", style="green")
        return
    out.print(
        "Compare the server's version and machine with this one's; a bundle's files are "
        "checked by  tailorbird models show"
    )

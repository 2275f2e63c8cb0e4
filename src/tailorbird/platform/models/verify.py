"""Verification of served scores: recomputed from the logged features by the bundle."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tailorbird.config import Project
from tailorbird.errors import NotReadyError, TailorbirdError
from tailorbird.pages.notebook import text_html
from tailorbird.platform.progress import Progress, no_progress
from tailorbird.platform.training import Notify, discard_note

if TYPE_CHECKING:
    import pyarrow as pa

    from tailorbird.lake import Lake
    from tailorbird.registry import Registry
    from tailorbird.training.evaluation.rescore import ScoreReport

_BATCH_SIZE = 500  # Answers with their logged features.


@dataclass(frozen=True, repr=False)
class ScoreCheck:
    """What a comparison of scores found.

    Attributes:
        report_by_version: by version that answered.
        damaged_versions: versions that cannot be loaded.
    """

    report_by_version: "dict[str, ScoreReport]"
    damaged_versions: list[str]

    @property
    def unequal_count(self) -> int:
        """Number of scores that differ."""
        return sum(report.unequal for report in self.report_by_version.values())

    @property
    def is_sound(self) -> bool:
        """True if no score differs and every version loads."""
        return not self.unequal_count and not self.damaged_versions

    def to_dict(self) -> dict[str, Any]:
        """Return what `tailorbird models verify --json` prints."""
        versions = {name: asdict(report) for name, report in self.report_by_version.items()}
        return {
            "unequal": self.unequal_count,
            "damaged": self.damaged_versions,
            "versions": versions,
        }

    def __repr__(self) -> str:
        lines = [
            f"{name}: {report.answers:,} answers, {report.scores:,} scores, "
            f"{report.unequal:,} unequal"
            for name, report in self.report_by_version.items()
        ]
        return "\n".join([*lines, *(f"{name}: cannot be loaded" for name in self.damaged_versions)])

    _repr_html_ = text_html


def verify(
    project: Project,
    registry: "Registry",
    version: str = "",
    *,
    answers: int = 2_000,
    progress: Progress = no_progress,
    notify: Notify = discard_note,
) -> ScoreCheck:
    """Recompute served scores from the logged features, and compare them with the logged scores.

    Args:
        version: a version or an alias; "" takes all stored versions that answered.
        answers: number of logged answers of each version.

    Raises:
        NotReadyError: nothing can be compared yet.
    """
    from tailorbird.lake import Lake

    lake = Lake(project.paths.lake)
    resolved_version = registry.resolve(version).name if version else ""
    report_by_version, damaged_versions = _compare_versions(
        registry, lake, resolved_version, answers, progress=progress, notify=notify
    )
    if not damaged_versions and not any(report.answers for report in report_by_version.values()):
        raise _nothing_compared_error(report_by_version, str(lake.path))
    return ScoreCheck(report_by_version, damaged_versions)


def _compare_versions(
    registry: "Registry",
    lake: "Lake",
    version: str,
    responses_max: int,
    progress: Progress,
    notify: Notify,
) -> "tuple[dict[str, ScoreReport], list[str]]":
    """Return a report per stored version that answered, and the versions that cannot be loaded."""
    import pyarrow.dataset as ds

    from tailorbird.lake.tables import TABLES
    from tailorbird.ranking.bundle import Bundle
    from tailorbird.training.evaluation.rescore import ITEM_COLUMNS, rescore_responses

    report_by_version: dict[str, ScoreReport] = {}
    damaged_versions: list[str] = []
    stored_versions = {info.version for info in registry.versions()}
    served_versions = set().union(
        *(batch.column(0).unique().to_pylist() for batch in lake.batches("answers", ("model",)))
    )
    items = (
        lake.table("items", ITEM_COLUMNS)
        if lake.exists("items")
        else TABLES["items"].schema.empty_table()
    )
    for name in sorted(stored_versions & served_versions):
        if version not in ("", name):
            continue
        try:
            bundle = Bundle.load(registry.resolve(name), schema_hash=None)
        except TailorbirdError as error:
            notify(f"answers of {name} are not compared: {error.message}")
            damaged_versions.append(name)
            continue
        response_ids = lake.table(
            "answers", ("producer", "offset", "ts"), ds.field("model") == name
        ).sort_by("ts")
        sample = response_ids.take(
            list(
                range(
                    0,
                    response_ids.num_rows,
                    max(1, -(-response_ids.num_rows // max(1, responses_max))),
                )
            )
        )

        def report_progress(done: int, name: str = name, total: int = sample.num_rows) -> None:
            progress(f"answers of {name}", done, total)

        report_by_version[name] = rescore_responses(
            bundle, _read_responses(lake, sample, name), items, progress=report_progress
        )
    return report_by_version, damaged_versions


def _read_responses(lake: "Lake", response_ids: "pa.Table", version: str) -> "Iterator[pa.Table]":
    """Yield the given answers with all logged columns, in batches, in the order of time."""
    import pyarrow as pa
    import pyarrow.dataset as ds

    from tailorbird.training.evaluation.rescore import COLUMNS

    key_columns = ("producer", "offset")
    for start in range(0, response_ids.num_rows, _BATCH_SIZE):
        batch = response_ids.slice(start, _BATCH_SIZE)
        condition = (
            ds.field("offset").isin(batch["offset"])
            & ds.field("producer").isin(batch["producer"])
            & (ds.field("model") == version)
        )
        # Excludes most files.
        condition &= (ds.field("ts") >= batch["ts"][0]) & (ds.field("ts") <= batch["ts"][-1])
        rows = lake.table("answers", (*key_columns, *COLUMNS), condition)
        keys = set(zip(*(batch[name].to_pylist() for name in key_columns), strict=True))
        row_keys = zip(*(rows[name].to_pylist() for name in key_columns), strict=True)
        yield rows.filter(pa.array([key in keys for key in row_keys], pa.bool_())).select(COLUMNS)


def _nothing_compared_error(
    report_by_version: "dict[str, ScoreReport]", lake: str
) -> NotReadyError:
    """Return the error that says why no score was compared."""
    skipped_responses = sum(report.skipped for report in report_by_version.values())
    changed_scores = sum(report.moved for report in report_by_version.values())
    if not changed_scores and not skipped_responses:
        return NotReadyError(
            "nothing could be compared: the lake has no answer of a model of this registry",
            where=lake,
            fix="tailorbird up, then ask it for some",
        )
    reasons = [
        f"{skipped_responses:,} answers do not say what a model made of each item: none ordered "
        "them, "
        "or it was not logged"
        if skipped_responses
        else "",
        f"{changed_scores:,} scores hang on items that came or changed within seconds of their "
        "answer"
        if changed_scores
        else "",
    ]
    return NotReadyError(
        f"nothing could be compared: {', and '.join(filter(None, reasons))}",
        where=lake,
        fix="ask for more answers while items stay as they are, or look at more of them: "
        "tailorbird models verify --answers 20000",
    )

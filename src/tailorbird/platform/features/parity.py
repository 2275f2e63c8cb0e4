"""Parity of features and candidate lists: what was served, against the lake, bit by bit."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tailorbird.config import Project
from tailorbird.errors import NotReadyError, TailorbirdError
from tailorbird.pages.notebook import text_html
from tailorbird.platform.features.parity_lists import compare_logged_lists
from tailorbird.platform.progress import Progress, no_progress
from tailorbird.platform.training import Notify, discard_note

if TYPE_CHECKING:
    import pyarrow as pa

    from tailorbird.backup import CopyReport
    from tailorbird.candidates.parity import ListReport
    from tailorbird.features import FeatureSet
    from tailorbird.features.parity.recompute import ParityReport
    from tailorbird.features.parity.sampled import SampledRead
    from tailorbird.lake import Lake

_BATCH_SIZE = 250  # People to read and compare at a time.
_LAKE_TIMEOUT_S = 15.0  # For the lake to catch up with the state.
MEMORY_BYTES = 2_000_000_000  # of the events that values depend on; more are sorted on disk


@dataclass(frozen=True, repr=False)
class ParityCheck:
    """What a comparison with the lake found.

    Attributes:
        report_by_schema: of logged responses, by schema.
        state_report: of the present state; `sampling_obstacle` says why it is empty, or "".
        list_report: of logged candidate lists.
        copy_report: what a plain copy of a running project lacks; None if the folder is none.
        erased_responses: number of logged responses of erased people, which are gone.
    """

    report_by_schema: "dict[str, ParityReport]"
    state_report: "ParityReport"
    sampling_obstacle: str
    list_report: "ListReport"
    copy_report: "CopyReport | None" = None
    erased_responses: int = 0

    @property
    def logged_report(self) -> "ParityReport":
        """The sum over all schemas of logged responses."""
        return _sum_reports(self.report_by_schema)

    @property
    def unequal_by_feature(self) -> dict[str, int]:
        """Feature → number of values that differ."""
        counts = _sum_reports({"": self.logged_report, " ": self.state_report}).by_feature
        return {name: count for name, count in counts.items() if count}

    @property
    def is_sound(self) -> bool:
        """True if no value and no list differs, and nothing is missing."""
        return not (
            self.unequal_by_feature
            or self.list_report.unequal
            or (self.copy_report and self.copy_report.missing)
        )

    @property
    def erasure_note(self) -> str:
        """Return what is not compared because people were erased; "" if that is nothing."""
        exempt_responses = self.logged_report.exempt
        if not self.erased_responses and not exempt_responses:
            return ""
        return (
            f"after an erasure, {self.erased_responses:,} answers to erased people are gone, and "
            f"{exempt_responses:,} "
            "others are not compared, since they may have read what was erased"
        )

    def __repr__(self) -> str:
        logged_report = self.logged_report
        state_report = self.state_report
        list_report = self.list_report
        lines = [
            f"{logged_report.answers:,} responses: {logged_report.compared:,} values, "
            f"{logged_report.unequal:,} unequal",
            f"{state_report.answers:,} people now: {state_report.compared:,} values, "
            f"{state_report.unequal:,} unequal",
            f"{list_report.lists:,} candidate lists, {sum(list_report.unequal.values()):,} unequal",
        ]
        lines += [self.erasure_note, str(self.copy_report or "")]
        return "\n".join(filter(None, lines))

    _repr_html_ = text_html


def verify(
    project: Project,
    *,
    answers: int = 2_000,
    samples: int = 1_000,
    memory_bytes: int = MEMORY_BYTES,
    progress: Progress = no_progress,
    notify: Notify = discard_note,
) -> ParityCheck:
    """Recompute features and candidate lists from the lake and compare them bit by bit.

    Args:
        answers: number of logged responses to recompute, spread evenly over all.
        samples: number of people of the lake whose present state is compared.
        memory_bytes: limit of the events that the values depend on; more are sorted on disk.

    Raises:
        NotReadyError: nothing can be compared yet.
    """
    from tailorbird.backup import inspect_copy
    from tailorbird.lake import Lake
    from tailorbird.privacy.receipt import count_erased_answers

    copy_report = inspect_copy(project)
    if copy_report:
        notify(str(copy_report))
    lake = Lake(project.paths.lake)
    report_by_schema = _compare_logged(
        project, lake, answers, memory_bytes=memory_bytes, progress=progress, notify=notify
    )
    list_report = compare_logged_lists(project, lake, answers, progress)
    state_report, sampling_obstacle = _compare_state(project, lake, samples, memory_bytes, progress)
    erased_responses = count_erased_answers(project.paths.data)
    result = ParityCheck(
        report_by_schema,
        state_report,
        sampling_obstacle,
        list_report,
        copy_report,
        erased_responses,
    )
    if not result.logged_report.answers and not state_report.answers:
        raise NotReadyError(
            f"nothing could be compared: {result.erasure_note or 'no answer was logged'}, and "
            f"{sampling_obstacle or 'no sample was asked for'}",
            where=str(lake.path),
            fix="tailorbird up, then ask it for some",
        )
    return result


def _sum_reports(reports: "dict[str, ParityReport]") -> "ParityReport":
    """Return the sums over all schemas."""
    from tailorbird.features.parity.recompute import ParityReport

    total = ParityReport()
    for report in reports.values():
        total.answers += report.answers
        total.compared += report.compared
        total.pending += report.pending
        total.skipped += report.skipped
        total.exempt += report.exempt
        total.dropped += report.dropped
        total.examples += report.examples
        for name, count in report.by_feature.items():
            total.by_feature.setdefault(name, 0)
            total.add_unequal(name, count)
    return total


def _compare_logged(
    project: Project,
    lake: "Lake",
    responses_max: int,
    memory_bytes: int,
    progress: Progress,
    notify: Notify,
) -> "dict[str, ParityReport]":
    """Recompute logged answers; return a report per schema whose declarations are available."""
    import pyarrow.compute as pc

    from tailorbird.config.schemas import find_schema

    response_ids = lake.table("answers", ("producer", "offset", "schema_hash"))
    report_by_schema = {}
    for schema in (
        sorted(pc.unique(response_ids["schema_hash"]).to_pylist()) if responses_max > 0 else []
    ):
        try:
            features = find_schema(project, schema)
        except TailorbirdError as error:
            notify(f"answers of schema {schema} are not compared: {error.message}")
            continue
        schema_response_ids = response_ids.filter(pc.equal(response_ids["schema_hash"], schema))
        stride = max(1, -(-response_ids.num_rows // responses_max))
        sample = schema_response_ids.take(list(range(0, schema_response_ids.num_rows, stride)))
        report_by_schema[schema] = _compare_schema(
            project, features, lake, sample, memory_bytes=memory_bytes, progress=progress
        )
    return report_by_schema


def _read_evicted_at_by_kind(project: Project, features: "FeatureSet") -> dict[str, int]:
    """Return the kinds of entities that the schema's worker evicted, with their last times."""
    from tailorbird.features.state.progress import read_schema_progress

    schema_progress = read_schema_progress(
        project.paths.state, features.schema_hash, project.workers
    )
    return {} if schema_progress is None else schema_progress.dropped


def _compare_schema(
    project: Project,
    features: "FeatureSet",
    lake: "Lake",
    sampled_ids: "pa.Table",
    memory_bytes: int,
    progress: Progress,
) -> "ParityReport":
    import pyarrow.dataset as ds

    from tailorbird.features.parity.bounds import (
        KindExemptions,
        backfill_on_disk,
        read_required_events,
    )
    from tailorbird.features.parity.recompute import (
        Exemptions,
        comparable_responses,
        compare_responses,
        compute_parity,
        empty_report,
        requests_of,
    )

    report = empty_report(features)
    complete_position = _lake_position(lake)
    evicted_at_by_kind = _read_evicted_at_by_kind(project, features)
    is_sampled = ds.field("offset").isin(sampled_ids["offset"]) & ds.field("producer").isin(
        sampled_ids["producer"]
    )
    rows = lake.table(
        "answers", where=is_sampled & (ds.field("schema_hash") == features.schema_hash)
    )
    sample = comparable_responses(features, complete_position, rows, report)
    if not sample.num_rows:
        return report
    report_progress = partial(progress, "logged answers")
    requests = requests_of(sample)
    events = read_required_events(lake, features, requests, bytes_max=memory_bytes)
    if events is not None:
        in_memory_report = compute_parity(
            features,
            events,
            sample,
            complete_position=complete_position,
            dropped_ts_by_kind=evicted_at_by_kind,
            progress=report_progress,
        )
        in_memory_report.skipped = report.skipped
        in_memory_report.exempt = report.exempt
        in_memory_report.pending = report.pending
        return in_memory_report
    with _scratch_folder(project) as folder:
        for chunk in backfill_on_disk(lake, features, requests, folder, memory_bytes):
            chunk_sample = sample.slice(chunk.start, chunk.stop - chunk.start).combine_chunks()
            compare_responses(
                features,
                chunk_sample,
                chunk.rows,
                report,
                Exemptions(KindExemptions(features), requests_of(chunk_sample), evicted_at_by_kind),
            )
            report_progress(chunk.stop, sample.num_rows)
    return report


@contextmanager
def _scratch_folder(project: Project) -> Iterator[Path]:
    """Create a temporary folder on the disk of the data.

    The system's folder for temporary files is often in memory.
    """
    project.paths.run.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="verify-", dir=project.paths.run) as folder:
        yield Path(folder)


def _compare_state(
    project: Project, lake: "Lake", people_max: int, memory_bytes: int, progress: Progress
) -> tuple["ParityReport", str]:
    """Compare the state's present values of a sample; return the report and why it is empty."""
    from tailorbird.events import SystemClock
    from tailorbird.features.online.read import Reader
    from tailorbird.features.parity.recompute import empty_report
    from tailorbird.features.parity.sampled import draw_sample, read_sample

    features = project.features
    report = empty_report(project.features)
    if people_max <= 0:
        return report, ""
    sample = draw_sample(lake, people_max, now=SystemClock().now())
    if not sample.requests:
        return report, "the lake has no event of a person"
    try:
        reader = Reader(project.paths.state, features, workers=project.workers)
    except NotReadyError as error:
        return report, error.message
    try:
        for start in range(0, len(sample.requests), _BATCH_SIZE):
            batch = slice(start, start + _BATCH_SIZE)
            try:
                readings = read_sample(reader, sample.requests[batch], sample.items[batch])
            except NotReadyError as error:
                return report, error.message
            _wait_for_lake(lake, max(reading.rows.log_position for reading in readings))
            _compare_sample(project, lake, readings, memory_bytes, report)
            progress(
                "people of the lake",
                min(start + _BATCH_SIZE, len(sample.requests)),
                len(sample.requests),
            )
    finally:
        reader.close()
    return report, ""


def _compare_sample(
    project: Project,
    lake: "Lake",
    readings: "list[SampledRead]",
    memory_bytes: int,
    report: "ParityReport",
) -> None:
    from tailorbird.features.offline.backfill import History
    from tailorbird.features.parity.bounds import (
        KindExemptions,
        backfill_on_disk,
        read_required_events,
    )
    from tailorbird.features.parity.recompute import Exemptions
    from tailorbird.features.parity.sampled import compare_reads, requests_of

    features = project.features
    requests = requests_of(readings)
    evicted_at_by_kind = _read_evicted_at_by_kind(project, features)
    events = read_required_events(lake, features, requests, bytes_max=memory_bytes)
    if events is not None:
        history = History(features, events)
        compare_reads(
            features,
            readings,
            history.rows(requests),
            report,
            exemptions=Exemptions(history, requests, evicted_at_by_kind),
        )
        return
    with _scratch_folder(project) as folder:
        for chunk in backfill_on_disk(lake, features, requests, folder, memory_bytes):
            chunk_readings = readings[chunk.start : chunk.stop]
            compare_reads(
                features,
                chunk_readings,
                chunk.rows,
                report,
                exemptions=Exemptions(
                    KindExemptions(features), requests_of(chunk_readings), evicted_at_by_kind
                ),
            )


def _lake_position(lake: "Lake") -> int:
    """Return the position up to which the lake is complete."""
    from tailorbird.stream import read_released_positions

    return read_released_positions(lake.path).routed_position() - 1


def _wait_for_lake(lake: "Lake", log_position: int) -> None:
    """Wait for the lake, because the worker is often a second ahead of it."""
    deadline = time.monotonic() + _LAKE_TIMEOUT_S
    while _lake_position(lake) < log_position:
        if time.monotonic() > deadline:
            raise NotReadyError(
                f"the state has events up to {log_position:,}, the lake up to "
                f"{_lake_position(lake):,}",
                where=str(lake.path),
                fix="tailorbird run lake",
            )
        time.sleep(0.1)

"""`tailorbird features verify`: check served features and candidate lists against the lake."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tailorbird.cli.features.parity_output import print_reports, reports_to_dict
from tailorbird.cli.features.verify_lists import compare_logged_lists, lists_to_dict, print_lists
from tailorbird.cli.limits import parse_size
from tailorbird.cli.output import Json, Report, console, print_json, progress_bars
from tailorbird.errors import NotReadyError, TailorbirdError

if TYPE_CHECKING:
    import pyarrow as pa

    from tailorbird.config import Project
    from tailorbird.features import FeatureSet
    from tailorbird.features.parity.recompute import ParityReport
    from tailorbird.features.parity.sampled import SampledRead
    from tailorbird.lake import Lake

_BATCH_SIZE = 250  # People to read and compare at a time.
_WAIT_S = 15.0  # For the lake to catch up with the state.


def verify(
    *, answers: int = 2_000, samples: int = 1_000, memory: str = "2GB", json: Json = False
) -> None:
    """Recompute features and candidate lists from the lake and compare them bit by bit.

    Each logged answer is recomputed at its own time and position, and each list that it read at the
    position of its tables. In addition a sample of the present state is compared: people and items
    from the lake's events, read as a request would. Differences that may come from evicted entities
    (entities_max) are counted separately. The command ends with status 1 if any other value or list
    differs, and prints how to examine the first of them.

    Example:  tailorbird -C shop features verify

    Example:  tailorbird -C shop features verify --answers 0 --samples 20000

    Parameters
    ----------
    answers:
        number of logged answers to recompute, spread evenly over all of this schema
    samples:
        number of people of the lake to compare, with two items each
    memory:
        memory limit of the events that the values depend on; if there are more, they are first
        sorted in a folder below data/run
    """
    import msgspec

    from tailorbird.backup import inspect_copy
    from tailorbird.config import open_project
    from tailorbird.lake import Lake

    memory_bytes = parse_size(memory)
    project = open_project(applied=True)
    lake = Lake(project.paths.lake)
    if (copied := inspect_copy(project)) and not json:
        console().print(str(copied))
    with progress_bars(quiet=json) as progress:
        reports = _compare_logged(project, lake, answers, memory_bytes, progress)
        lists = compare_logged_lists(project, lake, answers, progress)
        sampled, reason = _compare_state(project, lake, samples, memory_bytes, progress)
    logged = _sum_reports(reports)
    if not logged.answers and not sampled.answers:
        raise NotReadyError(
            "nothing could be compared: no answer was logged, and "
            f"{reason or 'no sample was asked for'}",
            where=str(lake.path),
            fix="tailorbird up, then ask it for some",
        )
    unequal = {
        name: count
        for name, count in _sum_reports({"": logged, " ": sampled}).by_feature.items()
        if count
    }
    if json:
        outcome = reports_to_dict(reports, logged, sampled, unequal) | {
            "lists": lists_to_dict(lists)
        }
        print_json(outcome | {"copy": msgspec.to_builtins(copied)})
    else:
        print_reports(reports, logged, sampled, unequal, reason)
        print_lists(lists)
    failed = unequal or lists.unequal or (copied and copied.missing)
    raise SystemExit(1 if failed else 0)


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
    project: "Project", lake: "Lake", answers: int, memory_bytes: int, progress: Report
) -> "dict[str, ParityReport]":
    """Recompute logged answers; return a report per schema whose declarations are available."""
    import pyarrow.compute as pc

    from tailorbird.config.schemas import find_schema

    rows, reports = lake.table("answers", ("producer", "offset", "schema_hash")), {}
    for schema in sorted(pc.unique(rows["schema_hash"]).to_pylist()) if answers > 0 else []:
        try:
            features = find_schema(project, schema)
        except TailorbirdError as error:
            console(stderr=True).print(
                f"answers of schema {schema} are not compared: {error.message}"
            )
            continue
        schema_rows = rows.filter(pc.equal(rows["schema_hash"], schema))
        stride = max(1, -(-rows.num_rows // answers))
        sample = schema_rows.take(list(range(0, schema_rows.num_rows, stride)))
        reports[schema] = _compare_schema(project, features, lake, sample, memory_bytes, progress)
    return reports


def _evicted_kinds(project: "Project", features: "FeatureSet") -> dict[str, int]:
    """Return the kinds of entities that the schema's worker evicted, with their last times."""
    from tailorbird.features.state.progress import read_schema_figures

    figures = read_schema_figures(project.paths.state, features.schema_hash, project.workers)
    return {} if figures is None else figures.dropped


def _compare_schema(
    project: "Project",
    features: "FeatureSet",
    lake: "Lake",
    answers: "pa.Table",
    memory_bytes: int,
    progress: Report,
) -> "ParityReport":
    import pyarrow.dataset as ds

    from tailorbird.features.parity.bounds import (
        KindExemptions,
        backfill_on_disk,
        read_required_events,
    )
    from tailorbird.features.parity.recompute import (
        Exemptions,
        comparable_answers,
        compare_answers,
        empty_report,
        parity,
        requests_of,
    )

    report, known_position, dropped = (
        empty_report(features),
        _lake_position(lake),
        _evicted_kinds(project, features),
    )
    where = ds.field("offset").isin(answers["offset"]) & ds.field("producer").isin(
        answers["producer"]
    )
    rows = lake.table("answers", where=where & (ds.field("schema_hash") == features.schema_hash))
    sample = comparable_answers(features, known_position, rows, report)
    if not sample.num_rows:
        return report
    report_progress = partial(progress, "logged answers")
    requests = requests_of(sample)
    events = read_required_events(lake, features, requests, bytes_max=memory_bytes)
    if events is not None:
        parity_report = parity(
            features,
            events,
            sample,
            complete_to=known_position,
            dropped=dropped,
            progress=report_progress,
        )
        parity_report.skipped, parity_report.exempt, parity_report.pending = (
            report.skipped,
            report.exempt,
            report.pending,
        )
        return parity_report
    with _scratch_folder(project) as folder:
        for part in backfill_on_disk(lake, features, requests, folder, memory_bytes):
            part_sample = sample.slice(part.start, part.stop - part.start).combine_chunks()
            compare_answers(
                features,
                part_sample,
                part.rows,
                report,
                Exemptions(KindExemptions(features), requests_of(part_sample), dropped),
            )
            report_progress(part.stop, sample.num_rows)
    return report


@contextmanager
def _scratch_folder(project: "Project") -> Iterator[Path]:
    """Create a temporary folder on the disk of the data.

    The system's folder for temporary files is often in memory.
    """
    project.paths.run.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="verify-", dir=project.paths.run) as folder:
        yield Path(folder)


def _compare_state(
    project: "Project", lake: "Lake", samples: int, memory_bytes: int, progress: Report
) -> tuple["ParityReport", str]:
    """Compare the state's present values of a sample; return the report and why it is empty."""
    from tailorbird.events import SystemClock
    from tailorbird.features.online.read import Reader
    from tailorbird.features.parity.recompute import empty_report
    from tailorbird.features.parity.sampled import draw_sample, read_sample

    features, report = project.features, empty_report(project.features)
    if samples <= 0:
        return report, ""
    sample = draw_sample(lake, samples, now=SystemClock().now())
    if not sample.requests:
        return report, "the lake has no event of a person"
    try:
        reader = Reader(project.paths.state, features, workers=project.workers)
    except NotReadyError as error:
        return report, error.message
    try:
        for start in range(0, len(sample.requests), _BATCH_SIZE):
            part = slice(start, start + _BATCH_SIZE)
            try:
                readings = read_sample(reader, sample.requests[part], sample.items[part])
            except NotReadyError as error:
                return report, error.message
            _wait_for(lake, max(reading.rows.p for reading in readings))
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
    project: "Project",
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
    from tailorbird.features.parity.sampled import compare, requests_of

    features, requests = project.features, requests_of(readings)
    dropped = _evicted_kinds(project, features)
    events = read_required_events(lake, features, requests, bytes_max=memory_bytes)
    if events is not None:
        history = History(features, events)
        compare(
            features,
            readings,
            history.rows(requests),
            report,
            excused=Exemptions(history, requests, dropped),
        )
        return
    with _scratch_folder(project) as folder:
        for part in backfill_on_disk(lake, features, requests, folder, memory_bytes):
            part_readings = readings[part.start : part.stop]
            compare(
                features,
                part_readings,
                part.rows,
                report,
                excused=Exemptions(KindExemptions(features), requests_of(part_readings), dropped),
            )


def _lake_position(lake: "Lake") -> int:
    """Return the position up to which the lake is complete."""
    from tailorbird.stream import read_released

    return read_released(lake.path).routed_position() - 1


def _wait_for(lake: "Lake", p: int) -> None:
    """Wait for the lake, because the worker is often a second ahead of it."""
    deadline = time.monotonic() + _WAIT_S
    while _lake_position(lake) < p:
        if time.monotonic() > deadline:
            raise NotReadyError(
                f"the state has events up to {p:,}, the lake up to {_lake_position(lake):,}",
                where=str(lake.path),
                fix="tailorbird run lake",
            )
        time.sleep(0.1)

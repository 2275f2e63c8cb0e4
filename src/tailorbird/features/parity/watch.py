"""Continuous parity check: every minute a few recent responses are recomputed from the lake.

`run_parity_watch` is a thread of the lake role, which has the lake at hand and runs wherever there
is one. The result is in the file of `features.parity.totals`, which serve processes show at
`/metrics` and
`tailorbird doctor` reports.

The cost is bounded: a few responses, at most `EVENTS_MAX` events in memory (else some columns are
skipped, starting with those about everybody, at random), and a pause of `REST_FACTOR` times the
duration of a comparison. It never stops the role: errors are written to the file.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from tailorbird.errors import NotReadyError, TailorbirdError
from tailorbird.events.clock import MINUTE, Clock
from tailorbird.events.contract.schema import TIME_TYPE
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.offline.backfill import subset_features
from tailorbird.features.parity.bounds import affordable_columns, read_required_events
from tailorbird.features.parity.recompute import (
    ParityReport,
    comparable_responses,
    compute_parity,
    empty_report,
    requests_of,
)
from tailorbird.features.parity.totals import ParityTotals, read_parity_totals, write_parity_totals
from tailorbird.features.state.progress import read_schema_progress
from tailorbird.lake import Lake
from tailorbird.storage_paths import StoragePath
from tailorbird.stream import read_released_positions

INTERVAL_US = 1 * MINUTE
RECENT_US = 10 * MINUTE  # age of the responses that are sampled
RESPONSES_MAX = 20
EVENTS_MAX = 1_000_000
REST_FACTOR = 20
log = logging.getLogger(__name__)


def compare_recent_responses(
    features: FeatureSet,
    lake: Lake,
    now: int,
    *,
    dropped_ts_by_kind: Mapping[str, int] | None = None,
    responses_max: int = RESPONSES_MAX,
    seed: int = 0,
    events_max: int = EVENTS_MAX,
    until: int | None = None,
) -> tuple[ParityReport, list[str]]:
    """Recompute a few responses of the minutes before `now`, up to `until`.

    Returns the report and the columns that were skipped.
    """
    where = (ds.field("ts") >= pa.scalar(now - RECENT_US, TIME_TYPE)) & (
        ds.field("schema_hash") == features.schema_hash
    )
    if until is not None:
        where &= ds.field("ts") < pa.scalar(until, TIME_TYPE)
    logged_responses = lake.table("answers", where=where)
    complete_position = read_released_positions(lake.path).routed_position() - 1
    report = empty_report(features)
    sampled_responses = comparable_responses(features, complete_position, logged_responses, report)
    rng = np.random.default_rng(seed)
    if sampled_responses.num_rows > responses_max:
        sampled_rows = np.sort(rng.choice(sampled_responses.num_rows, responses_max, replace=False))
        sampled_responses = sampled_responses.take(pa.array(sampled_rows))
    if not sampled_responses.num_rows:
        return report, []
    requests = requests_of(sampled_responses)
    only_columns = None
    skipped_columns = []
    events = read_required_events(lake, features, requests, rows_max=events_max)
    if events is None:
        only_columns = affordable_columns(lake, features, requests, events_max, rng)
        skipped_columns = [
            step.name for step in features.layout.steps if step.name not in only_columns
        ]
        events = (
            read_required_events(
                lake, subset_features(features, only_columns), requests, rows_max=events_max
            )
            if only_columns
            else None
        )
        if events is None:
            return report, [step.name for step in features.layout.steps]
    return compute_parity(
        features,
        events,
        sampled_responses,
        complete_position=complete_position,
        only_columns=only_columns,
        dropped_ts_by_kind=dropped_ts_by_kind,
    ), skipped_columns


def add_report(
    earlier_totals: ParityTotals | None,
    features: FeatureSet,
    report: ParityReport,
    skipped_columns: list[str],
    now: int,
) -> ParityTotals:
    """Return the totals with one comparison added."""
    if earlier_totals is None or earlier_totals.schema_hash != features.schema_hash:
        earlier_totals = ParityTotals(schema_hash=features.schema_hash)
    names = (*features.numeric, *features.categorical, *features.sequences)
    examples = [
        f"{example.feature} of {example.person or 'nobody'}"
        f"{' and ' + example.item if example.item else ''} "
        f"at t={example.t} p={example.log_position}: "
        f"read {example.logged}, the lake says {example.recomputed}"
        for example in report.examples
    ]
    return ParityTotals(
        schema_hash=features.schema_hash,
        at=now,
        answers=earlier_totals.answers + report.answers,
        compared={
            name: earlier_totals.compared.get(name, 0) + report.compared_by_feature.get(name, 0)
            for name in names
        },
        unequal={
            name: earlier_totals.unequal.get(name, 0) + report.by_feature.get(name, 0)
            for name in names
        },
        dropped=earlier_totals.dropped + report.dropped,
        examples=(examples or earlier_totals.examples)[:5],
        left_out=skipped_columns,
    )


def run_comparison(
    features: FeatureSet,
    lake: StoragePath,
    state: Path,
    folder: Path,
    now: int,
    *,
    events_max: int = EVENTS_MAX,
    workers: int = 1,
) -> ParityTotals:
    """Run one comparison, and add it to the file."""
    earlier_totals = read_parity_totals(folder)
    try:
        progress = read_schema_progress(state, features.schema_hash, workers)
        dropped_ts_by_kind = {} if progress is None else progress.dropped
        report, skipped_columns = compare_recent_responses(
            features,
            Lake(lake),
            now,
            dropped_ts_by_kind=dropped_ts_by_kind,
            seed=now % (1 << 32),
            events_max=events_max,
        )
        totals = add_report(earlier_totals, features, report, skipped_columns, now)
    except NotReadyError:  # There is no table yet.
        return earlier_totals or ParityTotals(schema_hash=features.schema_hash)
    except (TailorbirdError, OSError, ValueError, pa.ArrowException) as error:
        log.warning("logged features could not be compared: %s", error)
        previous_totals = (
            earlier_totals
            if earlier_totals is not None and earlier_totals.schema_hash == features.schema_hash
            else ParityTotals(schema_hash=features.schema_hash)
        )
        totals = msgspec.structs.replace(
            previous_totals,
            error=str(error).splitlines()[0] if str(error) else type(error).__name__,
        )
    if totals.unequal_features and (
        earlier_totals is None or totals.unequal != earlier_totals.unequal
    ):
        log.error(
            "served features differ from the lake: %s; tailorbird features verify",
            ", ".join(sorted(totals.unequal_features)),
        )
    write_parity_totals(folder, totals)
    return totals


def run_parity_watch(
    features: Callable[[], FeatureSet],
    lake: StoragePath,
    state: Path,
    folder: Path,
    clock: Clock,
    stop: threading.Event,
    *,
    interval_us: int = INTERVAL_US,
    workers: int = 1,
) -> None:
    """Compare every minute until `stop`, with pauses of `REST_FACTOR` times a comparison's
    duration.

    Args:
        features: returns the current features of responses.
        state: the folder of all states, where workers record what a cap has dropped.
        folder: the folder of the result file.
        workers: number of workers that share the entities of a schema.
    """
    wait_s = interval_us / 1e6
    while not stop.wait(wait_s):
        started_s = time.monotonic()
        run_comparison(features(), lake, state, folder, clock.now(), workers=workers)
        wait_s = max(interval_us / 1e6, REST_FACTOR * (time.monotonic() - started_s))

"""Continuous parity check: every minute a few recent responses are recomputed from the lake.

`run` is a thread of the lake role, which has the lake at hand and runs wherever there is one. The
result is in the file of `features.parity.totals`, which serve processes show at `/metrics` and
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
from tailorbird.events.contract.schema import TIME
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.offline.backfill import subset
from tailorbird.features.parity.bounds import affordable_columns, read_required_events
from tailorbird.features.parity.recompute import (
    ParityReport,
    comparable_responses,
    empty_report,
    parity,
    requests_of,
)
from tailorbird.features.parity.totals import ParityTotals, read_parity_totals, write_parity_totals
from tailorbird.features.state.progress import read_schema_figures
from tailorbird.lake import Lake
from tailorbird.storage_paths import StoragePath
from tailorbird.stream import read_released

INTERVAL_US = 1 * MINUTE
RECENT_US = 10 * MINUTE  # age of the responses that are sampled
RESPONSES_MAX = 20
EVENTS_MAX = 1_000_000
REST_FACTOR = 20
log = logging.getLogger(__name__)


def compare_recent(
    features: FeatureSet,
    lake: Lake,
    now: int,
    *,
    dropped: Mapping[str, int] | None = None,
    answers: int = RESPONSES_MAX,
    seed: int = 0,
    events_max: int = EVENTS_MAX,
    until: int | None = None,
) -> tuple[ParityReport, list[str]]:
    """Recompute a few responses of the minutes before `now`, up to `until`.

    Returns the report and the columns that were skipped.
    """
    where = (ds.field("ts") >= pa.scalar(now - RECENT_US, TIME)) & (
        ds.field("schema_hash") == features.schema_hash
    )
    if until is not None:
        where &= ds.field("ts") < pa.scalar(until, TIME)
    logged = lake.table("answers", where=where)
    complete_to = read_released(lake.path).routed_position() - 1
    report = empty_report(features)
    sample = comparable_responses(features, complete_to, logged, report)
    rng = np.random.default_rng(seed)
    if sample.num_rows > answers:
        sampled_rows = np.sort(rng.choice(sample.num_rows, answers, replace=False))
        sample = sample.take(pa.array(sampled_rows))
    if not sample.num_rows:
        return report, []
    requests, only, left_out = requests_of(sample), None, []
    events = read_required_events(lake, features, requests, rows_max=events_max)
    if events is None:
        only = affordable_columns(lake, features, requests, events_max, rng)
        left_out = [step.name for step in features.layout.steps if step.name not in only]
        events = (
            read_required_events(lake, subset(features, only), requests, rows_max=events_max)
            if only
            else None
        )
        if events is None:
            return report, [step.name for step in features.layout.steps]
    return parity(
        features, events, sample, complete_to=complete_to, only=only, dropped=dropped
    ), left_out


def add_report(
    earlier_totals: ParityTotals | None,
    features: FeatureSet,
    report: ParityReport,
    left_out: list[str],
    now: int,
) -> ParityTotals:
    """Return the totals with one comparison added."""
    if earlier_totals is None or earlier_totals.schema_hash != features.schema_hash:
        earlier_totals = ParityTotals(schema_hash=features.schema_hash)
    names = (*features.numeric, *features.categorical, *features.sequences)
    examples = [
        f"{example.feature} of {example.person or 'nobody'}"
        f"{' and ' + example.item if example.item else ''} "
        f"at t={example.t} p={example.p}: "
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
        left_out=left_out,
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
        figures = read_schema_figures(state, features.schema_hash, workers)
        dropped = {} if figures is None else figures.dropped
        report, left_out = compare_recent(
            features, Lake(lake), now, dropped=dropped, seed=now % (1 << 32), events_max=events_max
        )
        totals = add_report(earlier_totals, features, report, left_out, now)
    except NotReadyError:  # There is no table yet.
        return earlier_totals or ParityTotals(schema_hash=features.schema_hash)
    except (TailorbirdError, OSError, ValueError, pa.ArrowException) as error:
        log.warning("logged features could not be compared: %s", error)
        previous = (
            earlier_totals
            if earlier_totals is not None and earlier_totals.schema_hash == features.schema_hash
            else ParityTotals(schema_hash=features.schema_hash)
        )
        totals = msgspec.structs.replace(
            previous, error=str(error).splitlines()[0] if str(error) else type(error).__name__
        )
    if totals.differing and (earlier_totals is None or totals.unequal != earlier_totals.unequal):
        log.error(
            "served features differ from the lake: %s; tailorbird features verify",
            ", ".join(sorted(totals.differing)),
        )
    write_parity_totals(folder, totals)
    return totals


def run(
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
        started = time.monotonic()
        run_comparison(features(), lake, state, folder, clock.now(), workers=workers)
        wait_s = max(interval_us / 1e6, REST_FACTOR * (time.monotonic() - started))

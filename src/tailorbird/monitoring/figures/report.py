"""Figures of any window and grouping, from cells."""

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.errors import UsageError, suggest_name
from tailorbird.events import MINUTE
from tailorbird.experiments.statistics import proportion_interval
from tailorbird.monitoring.figures.cells import LATENCY_BUCKETS, SKETCH, SUMS, latency_quantile
from tailorbird.monitoring.figures.delays import (
    BUCKETS,
    Delays,
    correct_conversions,
    estimate_delays,
)
from tailorbird.monitoring.figures.label_free import expect_performance

DELAY_COLUMNS = ("slot", "minute", "delays", "counted_at")  # that `slot_delays` needs
DIMENSIONS = ("slot", "version", "arm", "device", "visitor")


class Figures(msgspec.Struct, frozen=True):
    """The figures of one group in one window; NaN where there is nothing to divide by.

    Attributes:
        start: start of the window, microseconds; that of the report without windows.
        error_rate: share of responses whose model failed or returned no finite score.
        ctr: clicks per item seen, or per item served where the slot counts so. Its interval is
            Wilson's.
        ctr_expected, auc_expected: what the click probabilities of seen items promise, see
            `label_free`. They hold if only the people and items changed.
        auc: of the click probabilities, by the clicks so far.
        conversion: share of responses with a purchase, corrected for those still to come. Its
            interval joins Wilson's with that of the correction.
        conversion_observed: the share so far.
        conversion_estimated_share: the part of `conversion` that is an estimate.
        coverage: distinct items served, relative to the catalogue.
        novelty: mean of −log2 of an item's share of yesterday's clicks and purchases.
        calibration: predicted clicks ÷ clicks on seen items; above 1 the model overpredicts.
    """

    start: int
    group: str
    requests: int
    requests_per_s: float
    latency_ms_p50: float
    latency_ms_p95: float
    latency_ms_p99: float
    error_rate: float
    empty_rate: float
    degraded_rate: float
    seen: int
    clicks: int
    ctr: float
    ctr_low: float
    ctr_high: float
    ctr_expected: float
    ctr_expected_low: float
    ctr_expected_high: float
    auc: float
    auc_expected: float
    auc_expected_low: float
    auc_expected_high: float
    search_success: float
    conversions: int
    conversion: float
    conversion_low: float
    conversion_high: float
    conversion_observed: float
    conversion_estimated_share: float
    revenue: float
    revenue_per_request: float
    dwell_s: float
    items: int
    coverage: float
    novelty: float
    calibration: float


METRICS = tuple(
    field.name for field in msgspec.structs.fields(Figures) if field.name not in ("start", "group")
)


def check_dimension(name: str) -> str:
    """Return the name of a dimension, or "" for none. Raises UsageError for another name."""
    if name and name not in DIMENSIONS:
        fix = suggest_name(name, list(DIMENSIONS), f"use one of {', '.join(DIMENSIONS)}")
        raise UsageError(f"there is no dimension {name!r}", where="by", fix=fix)
    return name


def slot_delays(cells: pa.Table) -> dict[str, Delays]:
    """Return the distribution of the delay of conversions of each slot."""
    delays = {}
    for slot in pc.unique(cells["slot"]).to_pylist():
        slot_cells = cells.filter(pc.equal(cells["slot"], slot))
        counts, ages = _matrix(slot_cells["delays"], BUCKETS), ages_of(slot_cells)
        hours = np.unique(ages // (10 * MINUTE), return_inverse=True)[1]
        pooled = np.zeros((int(hours.max(initial=-1)) + 1, BUCKETS))
        np.add.at(pooled, hours, counts)
        # The youngest response of each group decides what the group can show.
        youngest = np.full(len(pooled), np.inf)
        np.minimum.at(youngest, hours, ages)
        delays[slot] = estimate_delays(pooled, youngest)
    return delays


def summarize(
    cells: pa.Table,
    since: int,
    until: int,
    *,
    by: str = "",
    window: int = 0,
    catalogue: int = 0,
    delays: dict[str, Delays] | None = None,
) -> list[Figures]:
    """Return figures by window and group.

    Args:
        cells: see `figures.cells.SCHEMA`.
        since, until: the time that the cells cover.
        by: one of `DIMENSIONS`, or "" for all together.
        window: microseconds; 0 is one window over all.
        catalogue: number of items, for coverage; 0 leaves it unknown.
        delays: of each slot, from a longer time; by default estimated from these cells.
    """
    check_dimension(by)
    delays = slot_delays(cells) if delays is None else delays
    minute = cells["minute"].to_numpy()
    start = minute // window * window if window else np.full(len(minute), since)
    group = cells[by].to_pylist() if by else ["all"] * len(minute)
    keys = sorted(set(zip(start.tolist(), group, strict=True)))
    index = {key: number for number, key in enumerate(keys)}
    member = np.array([index[key] for key in zip(start.tolist(), group, strict=True)], np.int64)
    figures = []
    for number, (window_start, name) in enumerate(keys):
        part = cells.take(pa.array(np.flatnonzero(member == number)))
        end = min(until, window_start + window) if window else until
        seconds = max(1.0, (end - max(window_start, since)) / 1e6)
        figures.append(_figures(part, window_start, name or "none", seconds, catalogue, delays))
    return figures


def _figures(
    part: pa.Table,
    start: int,
    group: str,
    seconds: float,
    catalogue: int,
    delays: dict[str, Delays],
) -> Figures:
    total = {name: float(pc.sum(part[name]).as_py() or 0.0) for name in SUMS}
    requests = total["requests"]
    latency = _matrix(part["latency"], LATENCY_BUCKETS).sum(axis=0)
    value, low, high = 0.0, 0.0, 0.0
    for slot in pc.unique(part["slot"]).to_pylist():
        slot_cells = part.filter(pc.equal(part["slot"], slot))
        corrected = correct_conversions(
            slot_cells["conversions"].to_numpy(),
            slot_cells["requests"].to_numpy(),
            ages_of(slot_cells),
            delays[slot],
        )
        value, low, high = value + corrected.value, low + corrected.low, high + corrected.high
    items = _distinct(part["items"])
    ctr_low, ctr_high = rate_interval(total["clicks"], total["seen"])
    conversion_low, conversion_high = _conversion_interval(value, low, high, requests)
    expected = expect_performance(
        pc.list_flatten(part["score_codes"]).to_numpy().astype(np.int64),
        pc.list_flatten(part["score_counts"]).to_numpy().astype(np.float64),
        total["predicted_clicks"],
    )
    return Figures(
        start=start,
        group=group,
        requests=int(requests),
        requests_per_s=requests / seconds,
        latency_ms_p50=latency_quantile(latency, 0.5),
        latency_ms_p95=latency_quantile(latency, 0.95),
        latency_ms_p99=latency_quantile(latency, 0.99),
        error_rate=_ratio(total["errors"], requests),
        empty_rate=_ratio(total["empty"], requests),
        degraded_rate=_ratio(total["degraded"], requests),
        seen=int(total["seen"]),
        clicks=int(total["clicks"]),
        ctr=_ratio(total["clicks"], total["seen"]),
        ctr_low=ctr_low,
        ctr_high=ctr_high,
        ctr_expected=expected.ctr,
        ctr_expected_low=expected.ctr_low,
        ctr_expected_high=expected.ctr_high,
        auc=expected.auc_observed,
        auc_expected=expected.auc,
        auc_expected_low=expected.auc_low,
        auc_expected_high=expected.auc_high,
        search_success=_ratio(total["clicked_searches"], total["searches"]),
        conversions=int(total["conversions"]),
        conversion=_ratio(value, requests),
        conversion_low=conversion_low,
        conversion_high=conversion_high,
        conversion_observed=_ratio(total["conversions"], requests),
        conversion_estimated_share=_ratio(value - total["conversions"], value) if value else 0.0,
        revenue=total["revenue"],
        revenue_per_request=_ratio(total["revenue"], requests),
        dwell_s=_ratio(total["dwell_s"], total["dwells"]),
        items=items,
        coverage=_ratio(items, catalogue),
        novelty=_ratio(total["novelty"], total["items_served"]),
        calibration=_ratio(total["predicted_clicks"], total["scored_clicks"]),
    )


def rate_interval(hits: float, runs: float) -> tuple[float, float]:
    """Return Wilson's interval of a rate; NaN without a run."""
    if runs < 1:
        return math.nan, math.nan
    return proportion_interval(min(round(hits), round(runs)), round(runs))


def _conversion_interval(
    value: float, low: float, high: float, requests: float
) -> tuple[float, float]:
    """Return the interval of a rate whose count is itself estimated, between `low` and `high`."""
    if not requests:
        return math.nan, math.nan
    rate = value / requests
    wilson_low, wilson_high = rate_interval(value, requests)
    below = math.hypot(rate - wilson_low, (value - low) / requests)
    above = math.hypot(wilson_high - rate, (high - value) / requests)
    return max(rate - below, 0.0), min(rate + above, 1.0)


def _distinct(sketches: pa.ChunkedArray) -> int:
    """Return the number of distinct items; an estimate by the k smallest hashes if there are many.

    A cell's hashes are its smallest, so those of the union are the smallest of all.
    """
    hashes = np.unique(pc.list_flatten(sketches).to_numpy())
    full = pc.max(pc.list_value_length(sketches)).as_py() or 0
    if full < SKETCH:
        return len(hashes)
    # Hashes above the smallest full sketch's last one may be missing in that cell.
    limit = min(sketch[-1] for sketch in sketches.to_pylist() if sketch and len(sketch) >= SKETCH)
    below = int(np.searchsorted(hashes, limit))
    return round(below / (limit / 2.0**63))


def _matrix(column: pa.ChunkedArray, width: int) -> np.ndarray:
    return pc.list_flatten(column).to_numpy().astype(np.float64).reshape(-1, width)


def ages_of(cells: pa.Table) -> np.ndarray:
    """Return the age of each cell's responses when they were counted, from the minute's middle."""
    age = cells["counted_at"].to_numpy() - cells["minute"].to_numpy() - MINUTE // 2
    return np.maximum(age, 0).astype(np.float64)


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.nan


def rows_of(figures: Sequence[Figures]) -> list[dict[str, object]]:
    """Return figures as dicts, with None in place of NaN, for JSON."""
    return [
        {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in msgspec.structs.asdict(figure).items()
        }
        for figure in figures
    ]

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
from tailorbird.monitoring.figures.cells import (
    LATENCY_BUCKETS,
    SKETCH_SIZE,
    SUM_COLUMNS,
    latency_quantile,
)
from tailorbird.monitoring.figures.delays import (
    BUCKETS,
    DelayDistribution,
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


METRIC_NAMES = tuple(
    field.name for field in msgspec.structs.fields(Figures) if field.name not in ("start", "group")
)


def check_dimension(name: str) -> str:
    """Return the name of a dimension, or "" for none. Raises UsageError for another name."""
    if name and name not in DIMENSIONS:
        fix = suggest_name(name, list(DIMENSIONS), f"use one of {', '.join(DIMENSIONS)}")
        raise UsageError(f"there is no dimension {name!r}", where="by", fix=fix)
    return name


def slot_delays(cells: pa.Table) -> dict[str, DelayDistribution]:
    """Return the distribution of the delay of conversions of each slot."""
    delays = {}
    for slot in pc.unique(cells["slot"]).to_pylist():
        slot_cells = cells.filter(pc.equal(cells["slot"], slot))
        counts = _to_matrix(slot_cells["delays"], BUCKETS)
        ages = ages_of(slot_cells)
        age_group = np.unique(ages // (10 * MINUTE), return_inverse=True)[1]
        pooled_counts = np.zeros((int(age_group.max(initial=-1)) + 1, BUCKETS))
        np.add.at(pooled_counts, age_group, counts)
        # The youngest response of each group decides what the group can show.
        youngest_age = np.full(len(pooled_counts), np.inf)
        np.minimum.at(youngest_age, age_group, ages)
        delays[slot] = estimate_delays(pooled_counts, youngest_age)
    return delays


def summarize(
    cells: pa.Table,
    since: int,
    until: int,
    *,
    by: str = "",
    window_us: int = 0,
    catalogue_size: int = 0,
    delays: dict[str, DelayDistribution] | None = None,
) -> list[Figures]:
    """Return figures by window and group.

    Args:
        cells: see `figures.cells.SCHEMA`.
        since, until: the time that the cells cover.
        by: one of `DIMENSIONS`, or "" for all together.
        window_us: microseconds; 0 is one window over all.
        catalogue_size: number of items, for coverage; 0 leaves it unknown.
        delays: of each slot, from a longer time; by default estimated from these cells.
    """
    check_dimension(by)
    delays = slot_delays(cells) if delays is None else delays
    minutes = cells["minute"].to_numpy()
    window_starts = minutes // window_us * window_us if window_us else np.full(len(minutes), since)
    groups = cells[by].to_pylist() if by else ["all"] * len(minutes)
    keys = sorted(set(zip(window_starts.tolist(), groups, strict=True)))
    index_by_key = {key: key_index for key_index, key in enumerate(keys)}
    group_index = np.array(
        [index_by_key[key] for key in zip(window_starts.tolist(), groups, strict=True)], np.int64
    )
    figures = []
    for key_index, (window_start, name) in enumerate(keys):
        group_cells = cells.take(pa.array(np.flatnonzero(group_index == key_index)))
        end = min(until, window_start + window_us) if window_us else until
        seconds = max(1.0, (end - max(window_start, since)) / 1e6)
        figures.append(
            _compute_figures(
                group_cells,
                start=window_start,
                group=name or "none",
                seconds=seconds,
                catalogue_size=catalogue_size,
                delays=delays,
            )
        )
    return figures


def _compute_figures(
    group_cells: pa.Table,
    start: int,
    group: str,
    seconds: float,
    catalogue_size: int,
    delays: dict[str, DelayDistribution],
) -> Figures:
    totals = {name: float(pc.sum(group_cells[name]).as_py() or 0.0) for name in SUM_COLUMNS}
    requests = totals["requests"]
    latency_counts = _to_matrix(group_cells["latency"], LATENCY_BUCKETS).sum(axis=0)
    conversions = 0.0
    conversions_low = 0.0
    conversions_high = 0.0
    for slot in pc.unique(group_cells["slot"]).to_pylist():
        slot_cells = group_cells.filter(pc.equal(group_cells["slot"], slot))
        corrected = correct_conversions(
            slot_cells["conversions"].to_numpy(),
            slot_cells["requests"].to_numpy(),
            ages_of(slot_cells),
            delays[slot],
        )
        conversions = conversions + corrected.value
        conversions_low = conversions_low + corrected.low
        conversions_high = conversions_high + corrected.high
    items = _count_distinct(group_cells["items"])
    ctr_low, ctr_high = rate_interval(totals["clicks"], totals["seen"])
    conversion_low, conversion_high = _conversion_interval(
        conversions, conversions_low, conversions_high, requests
    )
    expected = expect_performance(
        pc.list_flatten(group_cells["score_codes"]).to_numpy().astype(np.int64),
        pc.list_flatten(group_cells["score_counts"]).to_numpy().astype(np.float64),
        totals["predicted_clicks"],
    )
    return Figures(
        start=start,
        group=group,
        requests=int(requests),
        requests_per_s=requests / seconds,
        latency_ms_p50=latency_quantile(latency_counts, 0.5),
        latency_ms_p95=latency_quantile(latency_counts, 0.95),
        latency_ms_p99=latency_quantile(latency_counts, 0.99),
        error_rate=_ratio(totals["errors"], requests),
        empty_rate=_ratio(totals["empty"], requests),
        degraded_rate=_ratio(totals["degraded"], requests),
        seen=int(totals["seen"]),
        clicks=int(totals["clicks"]),
        ctr=_ratio(totals["clicks"], totals["seen"]),
        ctr_low=ctr_low,
        ctr_high=ctr_high,
        ctr_expected=expected.ctr,
        ctr_expected_low=expected.ctr_low,
        ctr_expected_high=expected.ctr_high,
        auc=expected.auc_observed,
        auc_expected=expected.auc,
        auc_expected_low=expected.auc_low,
        auc_expected_high=expected.auc_high,
        search_success=_ratio(totals["clicked_searches"], totals["searches"]),
        conversions=int(totals["conversions"]),
        conversion=_ratio(conversions, requests),
        conversion_low=conversion_low,
        conversion_high=conversion_high,
        conversion_observed=_ratio(totals["conversions"], requests),
        conversion_estimated_share=_ratio(conversions - totals["conversions"], conversions)
        if conversions
        else 0.0,
        revenue=totals["revenue"],
        revenue_per_request=_ratio(totals["revenue"], requests),
        dwell_s=_ratio(totals["dwell_s"], totals["dwells"]),
        items=items,
        coverage=_ratio(items, catalogue_size),
        novelty=_ratio(totals["novelty"], totals["items_served"]),
        calibration=_ratio(totals["predicted_clicks"], totals["scored_clicks"]),
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
    error_below = math.hypot(rate - wilson_low, (value - low) / requests)
    error_above = math.hypot(wilson_high - rate, (high - value) / requests)
    return max(rate - error_below, 0.0), min(rate + error_above, 1.0)


def _count_distinct(sketches: pa.ChunkedArray) -> int:
    """Return the number of distinct items; an estimate by the k smallest hashes if there are many.

    A cell's hashes are its smallest, so those of the union are the smallest of all.
    """
    hashes = np.unique(pc.list_flatten(sketches).to_numpy())
    longest = pc.max(pc.list_value_length(sketches)).as_py() or 0
    if longest < SKETCH_SIZE:
        return len(hashes)
    # Hashes above the smallest full sketch's last one may be missing in that cell.
    limit = min(
        sketch[-1] for sketch in sketches.to_pylist() if sketch and len(sketch) >= SKETCH_SIZE
    )
    hashes_below = int(np.searchsorted(hashes, limit))
    return round(hashes_below / (limit / 2.0**63))


def _to_matrix(column: pa.ChunkedArray, width: int) -> np.ndarray:
    return pc.list_flatten(column).to_numpy().astype(np.float64).reshape(-1, width)


def ages_of(cells: pa.Table) -> np.ndarray:
    """Return the age of each cell's responses when they were counted, from the minute's middle."""
    age = cells["counted_at"].to_numpy() - cells["minute"].to_numpy() - MINUTE // 2
    return np.maximum(age, 0).astype(np.float64)


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.nan


def figures_to_json(figures: Sequence[Figures]) -> list[dict[str, object]]:
    """Return figures as dicts, with None in place of NaN, for JSON."""
    return [
        {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in msgspec.structs.asdict(figure).items()
        }
        for figure in figures
    ]

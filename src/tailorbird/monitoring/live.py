"""Live metrics: impressions and clicks of each arm of a slot by period, and lift over the baseline
arm.

`experiments` has the statistics and counts; `monitoring.retrain` decides whether a fall is more
than chance.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tailorbird.events import DAY
from tailorbird.events.clock import ATTRIBUTION_WINDOW
from tailorbird.experiments.counts import Counts, count_events
from tailorbird.experiments.outcomes import CLICK, IMPRESSION, match_outcomes
from tailorbird.experiments.statistics import NO_ESTIMATE, Interval, Moments, relative_uplift


@dataclass(frozen=True)
class PeriodFigures:
    """Metrics of one arm in one period.

    `lift` is the relative difference in CTR to the baseline arm; NaN with too little data.
    """

    start: int  # microseconds
    arm: str
    users: int
    impressions: int
    clicks: int
    ctr: float
    purchases: int
    lift: float
    lift_low: float
    lift_high: float


@dataclass(frozen=True)
class Calibration:
    """Scores against outcomes of an arm: predicted and actual clicks on seen items."""

    arm: str
    items: int
    predicted: float
    clicks: float

    @property
    def ratio(self) -> float:
        """Predicted ÷ actual: 1 is calibrated, above it the model overpredicts."""
        return self.predicted / self.clicks if self.clicks else math.nan


def figures_by_period(
    events: pa.Table,
    slot: str,
    *,
    baseline: str,
    period_us: int = DAY,
    experiment: str | None = None,
    denominator: str = "impression",
    level: float = 0.95,
    attribution: int = ATTRIBUTION_WINDOW,
) -> list[PeriodFigures]:
    """Return the metrics of a slot for each period with impressions, by time and arm.

    Args:
        events: with the columns of `experiments.counts.COLUMNS`, as in the lake's `events`.
        baseline: the arm that lifts are relative to.
        period_us: microseconds; periods start at multiples of it since 1970.
        experiment, denominator, attribution: as in `experiments.counts.count_events`.
    """
    counts = count_events(
        events, slot, experiment=experiment, denominator=denominator, attribution=attribution
    )
    figures = []
    for start, moments_by_arm, purchases_by_arm in sums_by_period(counts, period_us):
        for arm, arm_moments in sorted(moments_by_arm.items()):
            lift = (
                _lift(arm_moments, moments_by_arm.get(baseline)) if arm != baseline else NO_ESTIMATE
            )
            figures.append(
                PeriodFigures(
                    start=start,
                    arm=arm,
                    users=arm_moments.users,
                    impressions=int(arm_moments.y),  # the denominator of the rate: impressions
                    clicks=int(arm_moments.x),  # its numerator: clicks
                    ctr=arm_moments.ratio,
                    purchases=purchases_by_arm[arm],
                    lift=lift.value,
                    lift_low=lift.low,
                    lift_high=lift.high,
                )
            )
    return figures


def sums_by_period(
    counts: Counts, period_us: int
) -> Iterator[tuple[int, dict[str, Moments], dict[str, int]]]:
    """Yield each period with impressions: start, moments by arm, and purchases by arm."""
    if not len(counts.ts):
        return
    period_numbers = counts.ts // period_us
    order = np.argsort(period_numbers, kind="stable")
    distinct_periods, first_indexes = np.unique(period_numbers[order], return_index=True)
    for period_number, rows in zip(
        distinct_periods.tolist(), np.split(order, first_indexes[1:]), strict=True
    ):
        period_counts = counts.select(rows)
        moments_by_arm = {}
        purchases_by_arm = {}
        for arm_index, arm in enumerate(counts.arms):
            seen = period_counts.per_person(arm_index, "impressions")
            clicks = period_counts.per_person(arm_index, "clicks")
            # Clicks without an impression in this period have no denominator: they are dropped.
            is_seen = seen > 0
            if is_seen.any():
                moments_by_arm[arm] = Moments.from_totals(clicks[is_seen], seen[is_seen])
                purchases_by_arm[arm] = int(period_counts.per_person(arm_index, "purchases").sum())
        if moments_by_arm:
            yield period_number * period_us, moments_by_arm, purchases_by_arm


def measure_calibration(
    events: pa.Table,
    responses: pa.Table,
    slot: str,
    *,
    head: str = "scores",
    attribution: int = ATTRIBUTION_WINDOW,
) -> list[Calibration]:
    """Compare logged scores, as click probabilities, with clicks on seen items, by arm.

    An item counts once per response, as in training; a click without an impression proves that the
    item was seen.

    Args:
        events: with the columns of `experiments.counts.COLUMNS`.
        responses: with request_id, arm, items and the column named by `head`, one value an item.
        attribution: the slot's window.
    """
    score_by_pair: dict[tuple[str, str], float] = {}
    arm_by_request: dict[str, str] = {}
    for request, arm, items, values in zip(
        *(responses[name].to_pylist() for name in ("request_id", "arm", "items", head)), strict=True
    ):
        arm_by_request[request] = arm or ""
        score_by_pair.update(
            ((request, item), value) for item, value in zip(items or (), values or (), strict=False)
        )
    outcomes = match_outcomes(events, slot, attribution)
    requests = outcomes.table["request_id"].to_pylist()
    seen_pairs: set[tuple[str, str]] = set()
    clicked_pairs: set[tuple[str, str]] = set()
    for event_row, response_row, item in zip(
        outcomes.event_row.tolist(),
        outcomes.response_row.tolist(),
        outcomes.item.tolist(),
        strict=True,
    ):
        pair = (requests[response_row], outcomes.items[item])
        if pair in score_by_pair and outcomes.kind[event_row] in (IMPRESSION, CLICK):
            seen_pairs.add(pair)
            if outcomes.kind[event_row] == CLICK:
                clicked_pairs.add(pair)
    # by arm
    items = Counter[str]()
    clicks = Counter[str]()
    predicted: defaultdict[str, float] = defaultdict(float)
    for request, item in sorted(seen_pairs):
        arm = arm_by_request[request]
        items[arm] += 1
        predicted[arm] += score_by_pair[request, item]
        clicks[arm] += (request, item) in clicked_pairs
    return [
        Calibration(arm, count, predicted[arm], float(clicks[arm]))
        for arm, count in sorted(items.items())
    ]


def _lift(sums: Moments, baseline: Moments | None) -> Interval:
    if baseline is None or sums.x <= 0 or baseline.x <= 0 or min(sums.users, baseline.users) < 2:
        return NO_ESTIMATE
    return relative_uplift(sums, baseline)

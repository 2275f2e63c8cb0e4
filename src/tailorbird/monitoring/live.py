"""Live metrics: impressions and clicks of each arm of a slot by period, and lift over the baseline
arm.

`experiments` has the statistics and counts; `monitoring.retrain` decides whether a fall is more
than chance.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tailorbird.events import DAY
from tailorbird.events.clock import ATTRIBUTION
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
    period: int = DAY,
    experiment: str | None = None,
    denominator: str = "impression",
    level: float = 0.95,
    attribution: int = ATTRIBUTION,
) -> list[PeriodFigures]:
    """Return the metrics of a slot for each period with impressions, by time and arm.

    Args:
        events: with the columns of `experiments.counts.COLUMNS`, as in the lake's `events`.
        baseline: the arm that lifts are relative to.
        period: microseconds; periods start at multiples of it since 1970.
        experiment, denominator, attribution: as in `experiments.counts.count_events`.
    """
    counts = count_events(
        events, slot, experiment=experiment, denominator=denominator, attribution=attribution
    )
    figures = []
    for start, moments, purchases in sums_by_period(counts, period):
        for arm, arm_moments in sorted(moments.items()):
            lift = _lift(arm_moments, moments.get(baseline)) if arm != baseline else NO_ESTIMATE
            figures.append(
                PeriodFigures(
                    start,
                    arm,
                    arm_moments.users,
                    int(arm_moments.y),  # the denominator of the rate: impressions
                    int(arm_moments.x),  # its numerator: clicks
                    arm_moments.ratio,
                    purchases[arm],
                    lift.value,
                    lift.low,
                    lift.high,
                )
            )
    return figures


def sums_by_period(
    counts: Counts, period: int
) -> Iterator[tuple[int, dict[str, Moments], dict[str, int]]]:
    """Yield each period with impressions: start, moments by arm, and purchases by arm."""
    if not len(counts.ts):
        return
    period_numbers = counts.ts // period
    order = np.argsort(period_numbers, kind="stable")
    values, first = np.unique(period_numbers[order], return_index=True)
    for value, rows in zip(values.tolist(), np.split(order, first[1:]), strict=True):
        period_counts = counts.select(rows)
        moments, purchases = {}, {}
        for number, arm in enumerate(counts.arms):
            seen = period_counts.per_person(number, "impressions")
            clicks = period_counts.per_person(number, "clicks")
            is_seen = (
                seen > 0
                # Clicks without an impression in this period have no denominator, so they are
                # dropped.
            )
            if is_seen.any():
                moments[arm] = Moments.from_totals(clicks[is_seen], seen[is_seen])
                purchases[arm] = int(period_counts.per_person(number, "purchases").sum())
        if moments:
            yield value * period, moments, purchases


def calibration(
    events: pa.Table,
    responses: pa.Table,
    slot: str,
    *,
    head: str = "scores",
    attribution: int = ATTRIBUTION,
) -> list[Calibration]:
    """Compare logged scores, as click probabilities, with clicks on seen items, by arm.

    An item counts once per response, as in training; a click without an impression proves that the
    item was seen.

    Args:
        events: with the columns of `experiments.counts.COLUMNS`.
        responses: with request_id, arm, items and the column named by `head`, one value an item.
        attribution: the slot's window.
    """
    scores: dict[tuple[str, str], float] = {}
    arms: dict[str, str] = {}
    for request, arm, items, values in zip(
        *(responses[name].to_pylist() for name in ("request_id", "arm", "items", head)), strict=True
    ):
        arms[request] = arm or ""
        scores.update(
            ((request, item), value) for item, value in zip(items or (), values or (), strict=False)
        )
    outcomes = match_outcomes(events, slot, attribution)
    requests = outcomes.table["request_id"].to_pylist()
    seen: set[tuple[str, str]] = set()
    clicked: set[tuple[str, str]] = set()
    for row, response, item in zip(
        outcomes.row.tolist(), outcomes.response.tolist(), outcomes.item.tolist(), strict=True
    ):
        pair = (requests[response], outcomes.items[item])
        if pair in scores and outcomes.kind[row] in (IMPRESSION, CLICK):
            seen.add(pair)
            if outcomes.kind[row] == CLICK:
                clicked.add(pair)
    totals: dict[str, list[float]] = {}
    for pair in sorted(seen):
        total = totals.setdefault(arms[pair[0]], [0, 0.0, 0.0])
        total[0] += 1
        total[1] += scores[pair]
        total[2] += pair in clicked
    return [
        Calibration(arm, int(total[0]), total[1], total[2]) for arm, total in sorted(totals.items())
    ]


def _lift(sums: Moments, baseline: Moments | None) -> Interval:
    if baseline is None or sums.x <= 0 or baseline.x <= 0 or min(sums.users, baseline.users) < 2:
        return NO_ESTIMATE
    return relative_uplift(sums, baseline)

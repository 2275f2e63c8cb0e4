"""Live figures: what each arm of a slot showed and got, by hour or day, and its lift over the
baseline arm.

The statistics and how events are counted are those of `experiments`; whether a fall is more than
chance is decided in `monitoring.retrain`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tailorbird.events import DAY
from tailorbird.experiments.counts import ATTRIBUTION, Counts, count_events
from tailorbird.experiments.outcomes import CLICK, IMPRESSION, what_followed
from tailorbird.experiments.statistics import NOTHING_KNOWN, Interval, Moments, relative_uplift


@dataclass(frozen=True)
class Figure:
    """One arm in one period. `lift` is the relative difference in CTR to the baseline arm; NaN
    where it cannot be said.
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
    """Scores against outcomes of an arm: predicted and actual clicks on the items that were seen,
    and their ratio.
    """

    arm: str
    items: int
    predicted: float
    clicks: float

    @property
    def ratio(self) -> float:
        """Predicted ÷ actual: 1 is calibrated, above it the model promises too much."""
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
) -> list[Figure]:
    """Figures of a slot for each period in which it was shown, in order of time and arm.

    Args:
        events: with the columns of `experiments.counts.COLUMNS`, as in the lake's `events`.
        baseline: the arm that lifts are relative to.
        period: microseconds; periods begin at multiples of it since 1970.
        experiment, denominator, attribution: as in `experiments.counts.count_events`.
    """
    counts = count_events(
        events, slot, experiment=experiment, denominator=denominator, attribution=attribution
    )
    figures = []
    for start, moments, purchases in sums_by_period(counts, period):
        for arm, sums in sorted(moments.items()):
            lift = _lift(sums, moments.get(baseline)) if arm != baseline else NOTHING_KNOWN
            figures.append(
                Figure(
                    start,
                    arm,
                    sums.users,
                    int(sums.y),
                    int(sums.x),
                    sums.ratio,
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
    """For each period with impressions: its start, and by arm the sums over persons and the
    purchases.
    """
    if not len(counts.ts):
        return
    slots = counts.ts // period
    order = np.argsort(slots, kind="stable")
    values, first = np.unique(slots[order], return_index=True)
    for value, rows in zip(values.tolist(), np.split(order, first[1:]), strict=True):
        part = counts.where(rows)
        moments, purchases = {}, {}
        for number, arm in enumerate(counts.arms):
            seen = part.per_person(number, "impressions")
            clicks = part.per_person(number, "clicks")
            there = (
                seen > 0
                # a click whose impression fell into the period before is left out: its denominator is
                # there
            )
            if there.any():
                moments[arm] = Moments.of(clicks[there], seen[there])
                purchases[arm] = int(part.per_person(number, "purchases").sum())
        if moments:
            yield value * period, moments, purchases


def calibration(
    events: pa.Table,
    answers: pa.Table,
    slot: str,
    *,
    head: str = "scores",
    attribution: int = ATTRIBUTION,
) -> list[Calibration]:
    """Logged scores, read as chances of a click, against the clicks on the items seen; by arm.

    An item counts once for each answer, as in training; a click without an impression proves that
    the item was seen.

    Args:
        events: with the columns of `experiments.counts.COLUMNS`.
        answers: with request_id, arm, items and the column named by `head`, one value an item.
        attribution: the slot's window.
    """
    scores: dict[tuple[str, str], float] = {}
    arms: dict[str, str] = {}
    for request, arm, items, values in zip(
        *(answers[name].to_pylist() for name in ("request_id", "arm", "items", head)), strict=True
    ):
        arms[request] = arm or ""
        scores.update(
            ((request, item), value) for item, value in zip(items or (), values or (), strict=False)
        )
    found = what_followed(events, slot, attribution)
    requests = found.table["request_id"].to_pylist()
    seen: set[tuple[str, str]] = set()
    clicked: set[tuple[str, str]] = set()
    for row, answer, item in zip(
        found.row.tolist(), found.answer.tolist(), found.item.tolist(), strict=True
    ):
        shown = (requests[answer], found.items[item])
        if shown in scores and found.kind[row] in (IMPRESSION, CLICK):
            seen.add(shown)
            if found.kind[row] == CLICK:
                clicked.add(shown)
    totals: dict[str, list[float]] = {}
    for shown in sorted(seen):
        total = totals.setdefault(arms[shown[0]], [0, 0.0, 0.0])
        total[0] += 1
        total[1] += scores[shown]
        total[2] += shown in clicked
    return [
        Calibration(arm, int(total[0]), total[1], total[2]) for arm, total in sorted(totals.items())
    ]


def _lift(sums: Moments, baseline: Moments | None) -> Interval:
    if baseline is None or sums.x <= 0 or baseline.x <= 0 or min(sums.users, baseline.users) < 2:
        return NOTHING_KNOWN
    return relative_uplift(sums, baseline)

"""The report of an experiment: its arms, uplift with interval, sample ratio check, and a verdict.

    report = experiment_report(lake, experiment, "home")
    print(report.verdict)

The uplift is in clicks per item shown, relative to the control. Clicks and purchases are attributed
as in training: to items of a response, within the slot's attribution window, once per response and
item. Persons seen in more than one arm are counted, reported and left out of the comparison. With
several treatments the intervals are Bonferroni's.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tailorbird.events.clock import ATTRIBUTION_WINDOW
from tailorbird.experiments.assign import Experiment
from tailorbird.experiments.counts import COLUMNS, Counts, count_events
from tailorbird.experiments.distributions import normal_quantile
from tailorbird.experiments.page import split_html
from tailorbird.experiments.statistics import (
    NO_ESTIMATE,
    Interval,
    Moments,
    always_valid_uplift,
    relative_uplift,
    sample_ratio_p,
)
from tailorbird.experiments.views.tables import plot_split, split_frame

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tailorbird.platform.frames import Frame

SRM_ALARM = 0.001
SEVERAL_ARMS_ALARM = 0.01  # share of persons in several arms above which the verdict warns


class EventSource(Protocol):
    """The lake, or anything else with its events."""

    def events(
        self,
        columns: Sequence[str] | None = None,
        ts_from: int | None = None,
        ts_to: int | None = None,
    ) -> pa.Table: ...


@dataclass(frozen=True)
class ArmMetrics:
    """Metrics of one arm.

    `ctr` is clicks per item shown; `conversion` is the share of users who bought an item that the
    slot had shown them.
    """

    arm: str
    users: int
    impressions: int
    clicks: int
    ctr: float
    ctr_low: float
    ctr_high: float
    purchases: int
    conversion: float


@dataclass(frozen=True)
class Comparison:
    """A treatment against the control: relative uplift in CTR as fractions."""

    arm: str
    control: str
    uplift: float
    low: float
    high: float
    p: float
    always_low: float  # bounds of the confidence sequence
    always_high: float


@dataclass(frozen=True)
class Report:
    """The results of an experiment so far."""

    experiment: str
    slot: str
    level: float
    ts_from: int | None
    ts_to: int | None
    arms: tuple[ArmMetrics, ...]  # the control first
    comparisons: tuple[Comparison, ...]
    srm_p: float
    multiple_exposures: int
    persons: int
    verdict: str

    @property
    def uplift(self) -> float:
        return self._first.uplift

    @property
    def low(self) -> float:
        return self._first.low

    @property
    def high(self) -> float:
        return self._first.high

    @property
    def p(self) -> float:
        return self._first.p

    @property
    def _first(self) -> Comparison:
        return self.comparisons[0]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return asdict(self)

    def _repr_html_(self) -> str:
        return split_html(self)

    def to_frame(self) -> "Frame":
        """Return the figures of each arm as a table."""
        return split_frame(self)

    def plot(self) -> "Figure":
        """Draw the click rate of each arm."""
        return plot_split(self)

    def __repr__(self) -> str:
        return f"{self.verdict}\n{self.to_frame()!r}"


def experiment_report(
    lake: EventSource,
    experiment: Experiment,
    slot: str,
    ts_from: int | None = None,
    ts_to: int | None = None,
    *,
    denominator: str = "impression",
    level: float = 0.95,
    attribution: int = ATTRIBUTION_WINDOW,
) -> Report:
    """Report on an experiment in a slot, over events with ts_from ≤ ts < ts_to (µs).

    Args:
        denominator, attribution: of the slot.
    """
    read_from_ts = (
        None if ts_from is None else ts_from - attribution
    )  # includes the responses of the first clicks
    events = lake.events(columns=COLUMNS, ts_from=read_from_ts, ts_to=ts_to)
    return report_from_events(
        events,
        experiment,
        slot,
        ts_from,
        ts_to,
        denominator=denominator,
        level=level,
        attribution=attribution,
    )


def report_from_events(
    events: pa.Table,
    experiment: Experiment,
    slot: str,
    ts_from: int | None = None,
    ts_to: int | None = None,
    *,
    denominator: str = "impression",
    level: float = 0.95,
    attribution: int = ATTRIBUTION_WINDOW,
) -> Report:
    """Report from a table with the columns of the lake's `events`."""
    counts = count_events(
        events, slot, experiment=experiment.name, denominator=denominator, attribution=attribution
    )
    counts = _select_period(counts, ts_from, ts_to)
    arm_names = [
        experiment.control_arm,
        *(arm for arm in experiment.arms if arm != experiment.control_arm),
    ]
    exposed_by_arm = {name: _exposed_mask(counts, name) for name in arm_names}
    is_in_several_arms = np.stack(list(exposed_by_arm.values())).sum(axis=0) > 1
    moments_by_arm = {
        name: _arm_moments(counts, name, is_exposed & ~is_in_several_arms)
        for name, is_exposed in exposed_by_arm.items()
    }
    arm_metrics = tuple(
        _arm_metrics(
            counts, name, exposed_by_arm[name] & ~is_in_several_arms, moments_by_arm[name], level
        )
        for name in arm_names
    )
    corrected_level = 1 - (1 - level) / max(len(arm_names) - 1, 1)
    comparisons = tuple(
        _compare(name, arm_names[0], moments_by_arm, corrected_level) for name in arm_names[1:]
    )
    srm_p = sample_ratio_p(
        {name: int(is_exposed.sum()) for name, is_exposed in exposed_by_arm.items()},
        experiment.arms,
    )
    person_count = int(np.logical_or.reduce(list(exposed_by_arm.values())).sum())
    verdict = _verdict(
        arms=arm_metrics,
        comparisons=comparisons,
        srm_p=srm_p,
        several_arms_count=int(is_in_several_arms.sum()),
        person_count=person_count,
        level=level,
    )
    return Report(
        experiment=experiment.name,
        slot=slot,
        level=level,
        ts_from=ts_from,
        ts_to=ts_to,
        arms=arm_metrics,
        comparisons=comparisons,
        srm_p=srm_p,
        multiple_exposures=int(is_in_several_arms.sum()),
        persons=person_count,
        verdict=verdict,
    )


def _select_period(counts: Counts, ts_from: int | None, ts_to: int | None) -> Counts:
    is_in_period = np.ones(len(counts.ts), bool)
    if ts_from is not None:
        is_in_period &= counts.ts >= ts_from
    if ts_to is not None:
        is_in_period &= counts.ts < ts_to
    return counts.select(is_in_period)


def _exposed_mask(counts: Counts, arm: str) -> npt.NDArray[np.bool_]:
    if arm not in counts.arms:
        return np.zeros(len(counts.persons), bool)
    return counts.exposed_persons(counts.arms.index(arm))


def _per_person(counts: Counts, arm: str, count_name: str) -> npt.NDArray[np.float64]:
    if arm not in counts.arms:
        return np.zeros(len(counts.persons))
    return counts.per_person(counts.arms.index(arm), count_name)


def _arm_moments(counts: Counts, arm: str, is_in_arm: npt.NDArray[np.bool_]) -> Moments:
    return Moments.from_totals(
        _per_person(counts, arm, "clicks")[is_in_arm],
        _per_person(counts, arm, "impressions")[is_in_arm],
    )


def _arm_metrics(
    counts: Counts, arm: str, is_in_arm: npt.NDArray[np.bool_], moments: Moments, level: float
) -> ArmMetrics:
    purchases = _per_person(counts, arm, "purchases")[is_in_arm]
    half_width = (
        0.0
        if math.isnan(moments.variance)
        else normal_quantile(0.5 + level / 2) * math.sqrt(moments.variance)
    )
    return ArmMetrics(
        arm=arm,
        users=moments.users,
        impressions=int(moments.y),
        clicks=int(moments.x),
        ctr=moments.ratio,
        ctr_low=max(moments.ratio - half_width, 0.0),
        ctr_high=moments.ratio + half_width,
        purchases=int(purchases.sum()),
        conversion=float((purchases > 0).mean()) if moments.users else math.nan,
    )


def _compare(
    arm: str, control: str, moments_by_arm: dict[str, Moments], level: float
) -> Comparison:
    has_clicks = moments_by_arm[arm].x > 0 and moments_by_arm[control].x > 0
    fixed_interval: Interval = (
        relative_uplift(moments_by_arm[arm], moments_by_arm[control], level=level)
        if has_clicks
        else NO_ESTIMATE
    )
    always_valid_interval = (
        always_valid_uplift(moments_by_arm[arm], moments_by_arm[control], level=level)
        if has_clicks
        else NO_ESTIMATE
    )
    return Comparison(
        arm=arm,
        control=control,
        uplift=fixed_interval.value,
        low=fixed_interval.low,
        high=fixed_interval.high,
        p=fixed_interval.p,
        always_low=always_valid_interval.low,
        always_high=always_valid_interval.high,
    )


def _verdict(
    arms: tuple[ArmMetrics, ...],
    comparisons: tuple[Comparison, ...],
    srm_p: float,
    several_arms_count: int,
    person_count: int,
    level: float,
) -> str:
    if not person_count:
        return (
            "Nobody has been in this experiment yet: start it in slots.py and send traffic to "
            "the slot."
        )
    users_text = " and ".join(f"{metrics.users:,}" for metrics in arms)
    sentences = []
    if srm_p < SRM_ALARM:
        sentences.append(
            f"Do not trust this yet: the split of users ({users_text}) is not the declared one (p "
            f"= {srm_p:.2g})."
        )
    if several_arms_count > SEVERAL_ARMS_ALARM * person_count:
        sentences.append(
            f"{several_arms_count:,} of {person_count:,} persons were in more than one arm and are left out."
        )
    for comparison in comparisons:
        if math.isnan(comparison.uplift):
            sentences.append(
                f"{comparison.arm} against {comparison.control}: too few clicks to say anything."
            )
            continue
        interval = f"{level:.0%} interval {comparison.low:+.1%} to {comparison.high:+.1%}"
        if comparison.low > 0:
            sentences.append(
                f"{comparison.arm} beats {comparison.control}: {comparison.uplift:+.1%} "
                "clicks per item "
                f"shown ({interval})."
            )
        elif comparison.high < 0:
            sentences.append(
                f"{comparison.arm} is worse than {comparison.control}: "
                f"{comparison.uplift:+.1%} clicks per "
                f"item shown ({interval})."
            )
        else:
            sentences.append(
                f"No difference between {comparison.arm} and {comparison.control} is shown: "
                f"{comparison.uplift:+.1%} ({interval})."
            )
    return " ".join(sentences)

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

from tailorbird.events.clock import ATTRIBUTION
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
MULTIPLE_ALARM = 0.01  # share of persons in several arms above which the verdict warns


class EventSource(Protocol):
    """The lake, or anything else with its events."""

    def events(
        self,
        columns: Sequence[str] | None = None,
        ts_from: int | None = None,
        ts_to: int | None = None,
    ) -> pa.Table: ...


@dataclass(frozen=True)
class ArmFigures:
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
    arms: tuple[ArmFigures, ...]  # the control first
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
    attribution: int = ATTRIBUTION,
) -> Report:
    """Report on an experiment in a slot, over events with ts_from ≤ ts < ts_to (µs).

    Args:
        denominator, attribution: of the slot.
    """
    read_from = (
        None if ts_from is None else ts_from - attribution
    )  # includes the responses of the first clicks
    events = lake.events(columns=COLUMNS, ts_from=read_from, ts_to=ts_to)
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
    attribution: int = ATTRIBUTION,
) -> Report:
    """Report from a table with the columns of the lake's `events`."""
    counts = count_events(
        events, slot, experiment=experiment.name, denominator=denominator, attribution=attribution
    )
    counts = _within(counts, ts_from, ts_to)
    names = [
        experiment.control_arm,
        *(arm for arm in experiment.arms if arm != experiment.control_arm),
    ]
    members = {name: _members(counts, name) for name in names}
    in_several_arms = np.stack(list(members.values())).sum(axis=0) > 1
    moments = {
        name: _arm_moments(counts, name, mask & ~in_several_arms) for name, mask in members.items()
    }
    figures = tuple(
        _arm_figures(counts, name, members[name] & ~in_several_arms, moments[name], level)
        for name in names
    )
    corrected = 1 - (1 - level) / max(len(names) - 1, 1)
    comparisons = tuple(_compare(name, names[0], moments, corrected) for name in names[1:])
    srm_p = sample_ratio_p(
        {name: int(mask.sum()) for name, mask in members.items()}, experiment.arms
    )
    persons = int(np.logical_or.reduce(list(members.values())).sum())
    verdict = _verdict(figures, comparisons, srm_p, int(in_several_arms.sum()), persons, level)
    return Report(
        experiment.name,
        slot,
        level,
        ts_from,
        ts_to,
        figures,
        comparisons,
        srm_p,
        int(in_several_arms.sum()),
        persons,
        verdict,
    )


def _within(counts: Counts, ts_from: int | None, ts_to: int | None) -> Counts:
    rows = np.ones(len(counts.ts), bool)
    if ts_from is not None:
        rows &= counts.ts >= ts_from
    if ts_to is not None:
        rows &= counts.ts < ts_to
    return counts.select(rows)


def _members(counts: Counts, arm: str) -> npt.NDArray[np.bool_]:
    if arm not in counts.arms:
        return np.zeros(len(counts.persons), bool)
    return counts.exposed_persons(counts.arms.index(arm))


def _per_person(counts: Counts, arm: str, measure: str) -> npt.NDArray[np.float64]:
    if arm not in counts.arms:
        return np.zeros(len(counts.persons))
    return counts.per_person(counts.arms.index(arm), measure)


def _arm_moments(counts: Counts, arm: str, mask: npt.NDArray[np.bool_]) -> Moments:
    return Moments.from_totals(
        _per_person(counts, arm, "clicks")[mask], _per_person(counts, arm, "impressions")[mask]
    )


def _arm_figures(
    counts: Counts, arm: str, mask: npt.NDArray[np.bool_], sums: Moments, level: float
) -> ArmFigures:
    purchases = _per_person(counts, arm, "purchases")[mask]
    half_width = (
        0.0
        if math.isnan(sums.variance)
        else normal_quantile(0.5 + level / 2) * math.sqrt(sums.variance)
    )
    return ArmFigures(
        arm=arm,
        users=sums.users,
        impressions=int(sums.y),
        clicks=int(sums.x),
        ctr=sums.ratio,
        ctr_low=max(sums.ratio - half_width, 0.0),
        ctr_high=sums.ratio + half_width,
        purchases=int(purchases.sum()),
        conversion=float((purchases > 0).mean()) if sums.users else math.nan,
    )


def _compare(arm: str, control: str, sums: dict[str, Moments], level: float) -> Comparison:
    has_clicks = sums[arm].x > 0 and sums[control].x > 0
    fixed_interval: Interval = (
        relative_uplift(sums[arm], sums[control], level=level) if has_clicks else NO_ESTIMATE
    )
    always_valid_interval = (
        always_valid_uplift(sums[arm], sums[control], level=level) if has_clicks else NO_ESTIMATE
    )
    return Comparison(
        arm,
        control,
        fixed_interval.value,
        fixed_interval.low,
        fixed_interval.high,
        fixed_interval.p,
        always_valid_interval.low,
        always_valid_interval.high,
    )


def _verdict(
    arms: tuple[ArmFigures, ...],
    comparisons: tuple[Comparison, ...],
    srm_p: float,
    several: int,
    persons: int,
    level: float,
) -> str:
    if not persons:
        return (
            "Nobody has been in this experiment yet: start it in slots.py and send traffic to "
            "the slot."
        )
    users = " and ".join(f"{figures.users:,}" for figures in arms)
    sentences = []
    if srm_p < SRM_ALARM:
        sentences.append(
            f"Do not trust this yet: the split of users ({users}) is not the declared one (p "
            f"= {srm_p:.2g})."
        )
    if several > MULTIPLE_ALARM * persons:
        sentences.append(
            f"{several:,} of {persons:,} persons were in more than one arm and are left out."
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

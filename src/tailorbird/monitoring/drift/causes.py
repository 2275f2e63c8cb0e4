"""The likely cause of an episode of drift, or of a fall of clicks, with its evidence and runbook.

Each cause is a row of `ROWS`: what it shows in the signals, and which requests it reaches. A row
has evidence if its signal moved by more than chance allows. The chance is that of the site itself:
blocks of hours differ by more than as many independent events would.

| judged | evidence | the best explanation |
|---|---|---|
| an episode | the signal is one of those that moved, see `detect` | the strongest |
| a fall of clicks | the share moved between blocks of hours | explains most of the fall, at least half |

A row that implies another is named in its place: crawlers make an event of each view, so traffic
rises too. If no row explains half of a fall that stays without all that moved, people choose
otherwise. What reaches both arms alike cannot explain a fall against a control.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tailorbird.events import EPOCH_WEEKDAY, HOUR
from tailorbird.experiments.distributions import student_tail
from tailorbird.monitoring.drift.detect import (
    CLICKED_BIN,
    EVENTS_SIGNAL,
    LABEL_KIND,
    QUIET_RATIO,
    SHORT_BLOCK_HOURS,
    TRAFFIC_KIND,
    TRAFFIC_SCALE,
    USUAL_COUNT_MIN,
    VECTOR_KIND,
    Episode,
    Floats,
    Signal,
    block_sums,
)
from tailorbird.monitoring.drift.distance import SMALLEST_EFFECT
from tailorbird.monitoring.drift.explained import Bools, Explained, Requests
from tailorbird.training.sketches import number_from_bin

BUSY_RATIO = 1.5  # traffic of a promotion relative to usual; the best days of a year have 1.3
# A stale source still gives what others do not have, so its share does not fall to nothing.
STALE_RATIO = 0.25
BLOCK_HOURS = 6
BLOCK_COUNT_MIN = 200.0  # requests or events in a block whose shares are compared
CHANCE = 0.01  # that a share moves as far without a cause
HALF = 0.5  # of a fall: what explains less leaves the larger part open
NEAR = 0.2  # of a fall: an explanation so much behind the best is named too
OUTAGE = "outage upstream"
LOST_FIELD = "tracker lost a field"
BOTS = "bots"
STALE_SOURCE = "stale source"
SLOW_STORE = "slow store"
MODEL_CHANGE = "model change"
CATALOGUE = "catalogue swap"
DEVICE = "new app version or device"
PROMOTION = "promotion"
SEASON = "seasonality"
TASTE = "change of taste"
CHURN_FALL = "stale churn model"
UNKNOWN = "unknown"
# What moves if people choose otherwise.
BEHAVIOUR_KINDS = {LABEL_KIND, "event_types", "feature", "score", VECTOR_KIND}
MODEL_KINDS = ("model", "score", "source", LABEL_KIND, VECTOR_KIND)
SOURCE_PARTS = ("candidates", "retrieval")  # of a degraded answer: what comes from sources
SHORT_HISTORIES = ("hour", "all")  # of `Episode.compared_with`
NO_WEEKDAYS = "the history has no four weeks yet, so weekdays are not told apart"

RUNBOOK_PAGES = {  # cause → its runbook in docs/operate
    OUTAGE: "no-events.md",
    LOST_FIELD: "lost-field.md",
    BOTS: "bots.md",
    STALE_SOURCE: "stale-source.md",
    SLOW_STORE: "slow-store.md",
    MODEL_CHANGE: "model-change.md",
    CATALOGUE: "catalogue.md",
    DEVICE: "traffic-mix.md",
    PROMOTION: "promotion.md",
    SEASON: "drift.md",
    TASTE: "taste.md",
    CHURN_FALL: "churn.md",
    "training-serving skew": "skew.md",
    UNKNOWN: "drift.md",
}

# causes of which a model must not learn: what people did is not in the log as it was
DATA_FAULTS = (OUTAGE, LOST_FIELD, BOTS, STALE_SOURCE, SLOW_STORE)

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Cause:
    """A likely cause, one of `RUNBOOK_PAGES`, and the evidence in one sentence.

    Attributes:
        affected, total: of a fall: the requests since then, and how many the cause reaches.
    """

    name: str
    evidence: str
    affected: int = 0
    total: int = 0

    @property
    def runbook_page(self) -> str:
        """Return the runbook in docs/operate."""
        return RUNBOOK_PAGES[self.name]

    def describe_reach(self) -> str:
        """Return the requests that wait while the cause lasts, and how many of them it spares."""
        if not self.total:
            return "the requests since then"
        spared = self.total - self.affected
        return (
            f"the {self.total:,} requests since then, of which the cause reaches {self.affected:,} "
            f"({self.affected / self.total:.0%}) and {spared:,} would be good"
        )


@dataclass(frozen=True)
class Change:
    """A change of models: when, and what; from the registry's audit log."""

    at: int
    what: str


@dataclass(frozen=True)
class Shift:
    """The share of a bin before and during, and its strength: above 1 it is beyond chance."""

    signal: Signal
    bin: str
    before: float
    during: float
    strength: float

    @property
    def change(self) -> float:
        return self.during - self.before


@dataclass(frozen=True)
class Reading:
    """Evidence of a cause in its signals.

    Attributes:
        strength: in units of what chance allows.
        affected: returns the requests that it reaches; None if it reaches both arms alike.
    """

    strength: float
    evidence: str
    affected: Callable[[Requests], Bools] | None = None


@dataclass(frozen=True)
class Row:
    """A cause, what it shows, and the causes whose signals it moves as well."""

    name: str
    read: Callable[["Windows"], Reading | None]
    implies: tuple[str, ...] = ()


@dataclass(frozen=True)
class Windows(ABC):
    """Signals before and during an episode or a fall.

    Attributes:
        start, stop: hours of the episode, counted from `first_hour`; stop is exclusive.
        detected: the hour when it was.
        first_hour: that of the signals, microseconds.
        compared_with, is_outage: as of an `Episode`.
        requests: what the figure is of that fell; None in an episode.
    """

    signals: dict[str, Signal]
    start: int
    stop: int
    detected: int
    first_hour: int
    changes: Sequence[Change]
    compared_with: str = "reference"
    is_outage: bool = False
    requests: Requests | None = None

    @abstractmethod
    def shares(self, signal: Signal) -> tuple[Floats, Floats]:
        """Return the share of each bin before and during."""

    @abstractmethod
    def strength_of(self, signal: Signal, bins: Bools) -> float:
        """Return how far the share of some bins, or the traffic, is beyond chance."""

    @abstractmethod
    def strength_of_kind(self, kind: str) -> float:
        """Return the strength of the strongest signal of a kind."""

    def of_kind(self, kind: str) -> list[Signal]:
        return [signal for signal in self.signals.values() if signal.kind == kind]

    def shifts(self, kind: str) -> list[Shift]:
        """Return how each bin of each signal of a kind moved, where that is beyond chance."""
        shifts = []
        for signal in self.of_kind(kind):
            before, during = self.shares(signal)
            for index, name in enumerate(signal.bins):
                bins = np.arange(len(signal.bins)) == index
                if (strength := self.strength_of(signal, bins)) > 1:
                    share_before = float(before[index])
                    share_during = float(during[index])
                    shifts.append(Shift(signal, name, share_before, share_during, strength))
        return shifts

    def traffic_ratios(self, name: str, length: int) -> Floats:
        """Return the number of each block of hours, relative to the same hours before.

        Blocks of which too little is usual are 1.
        """
        signal = self.signals.get(name)
        start = self.start
        if signal is None or start < 24:
            return np.ones(1)
        counts = signal.counts.sum(axis=1)
        past = np.arange(max(0, start - 7 * 24), start)
        usual = np.bincount(past % 24, counts[past], 24) / np.bincount(past % 24, minlength=24)
        hours = np.arange(start, min(self.stop, len(counts)))
        blocks, usual_blocks = block_sums(
            np.column_stack([counts[hours], usual[hours % 24]]), length
        ).T
        usual_min = USUAL_COUNT_MIN if length == SHORT_BLOCK_HOURS else 1.0
        return np.where(usual_blocks >= usual_min, blocks / np.maximum(usual_blocks, 1.0), 1.0)

    def hours_of(self, is_block: Bools, length: int) -> Ints:
        """Return the hours since 1970 in some blocks of the episode."""
        blocks = np.flatnonzero(is_block)
        hours = np.unique(blocks[:, None] + np.arange(length)) if len(blocks) else blocks
        return self.first_hour // HOUR + self.start + hours


@dataclass(frozen=True)
class EpisodeWindows(Windows):
    """Those of an episode, in which some hours may be as usual; its signals have a strength."""

    strengths: dict[str, float] = field(default_factory=dict)

    def shares(self, signal: Signal) -> tuple[Floats, Floats]:
        """Return the shares before, and in the most distant `BLOCK_HOURS` of the episode."""
        before = signal.counts[: self.start].sum(axis=0)
        before = before / max(before.sum(), 1.0)
        hourly_counts = signal.counts[self.start : self.stop]
        blocks = block_sums(hourly_counts, BLOCK_HOURS)
        totals = blocks.sum(axis=1)
        if (is_large := totals >= BLOCK_COUNT_MIN).any():
            shares = blocks[is_large] / totals[is_large, None]
            return before, shares[np.abs(shares - before).sum(axis=1).argmax()]
        during = hourly_counts.sum(axis=0)
        return before, during / max(during.sum(), 1.0)

    def strength_of(self, signal: Signal, bins: Bools) -> float:
        if signal.kind != TRAFFIC_KIND:
            before, during = self.shares(signal)
            if abs(during[bins].sum() - before[bins].sum()) < SMALLEST_EFFECT:
                return 0.0  # another bin moved the signal
        return self.strengths.get(signal.name, 0.0)

    def strength_of_kind(self, kind: str) -> float:
        names = [signal.name for signal in self.of_kind(kind)]
        return max((self.strengths.get(name, 0.0) for name in names), default=0.0)


@dataclass(frozen=True)
class FallWindows(Windows):
    """Those of a fall, which all of its hours together explain."""

    def shares(self, signal: Signal) -> tuple[Floats, Floats]:
        usual, current = sum_same_hours(signal.counts, self.start)
        return usual / max(usual.sum(), 1.0), current / max(current.sum(), 1.0)

    def strength_of(self, signal: Signal, bins: Bools) -> float:
        if signal.kind == TRAFFIC_KIND:
            usual, current = (
                counts.sum() + 1.0 for counts in sum_same_hours(signal.counts, self.start)
            )
            return float(TRAFFIC_SCALE * abs(np.log(current / usual)) / SMALLEST_EFFECT)
        part = signal.counts[:, bins].sum(axis=1)
        total = signal.counts.sum(axis=1)
        p = max(share_shift_p(part, total, self.start, length) for length in (BLOCK_HOURS, 24))
        # One of several bins moves more easily.
        return math.log(max(min(1.0, p * len(bins)), 1e-300)) / math.log(CHANCE)

    def strength_of_kind(self, kind: str) -> float:
        return max((shift.strength for shift in self.shifts(kind)), default=0.0)


def share_shift_p(part: Floats, total: Floats, start: int, length: int) -> float:
    """Return the chance that a share moves as far by what blocks of hours differ before.

    Each hour is compared with the same hour of the days before, and blocks with each other: as a
    crawler comes in bursts, its events are not independent.

    Args:
        part, total: by hour, of which those from `start` on are compared with those before.
        length: hours in a block.
    """
    hour = np.arange(len(total)) % 24
    days = start / 24
    if not (total[:start].sum() and total[start:].sum()):
        return 1.0
    pooled = part[:start].sum() / total[:start].sum()
    usual = np.full(24, pooled)
    if days >= 2:
        parts = np.zeros(24)
        totals = np.zeros(24)
        np.add.at(parts, hour[:start], part[:start])
        np.add.at(totals, hour[:start], total[:start])
        usual = np.where(totals > 0, parts / np.maximum(totals, 1.0), pooled)
    excess = part - usual[hour] * total
    block = np.arange(start) // length
    block_excess = np.bincount(block, excess[:start])
    block_total = np.bincount(block, total[:start])
    is_used = block_total > 0
    count = int(is_used.sum())
    if count < 3:
        return 1.0 if length > BLOCK_HOURS else share_shift_p(part, total, start, 1)
    # The usual share is of the same hours, which makes them look alike.
    correction = days / (days - 1) if days >= 2 else 1.0
    mean_total = block_total[is_used].mean()
    variance = (block_excess[is_used] ** 2).mean() * count / (count - 1) * correction
    share = (part.sum() + 1.0) / (total.sum() + 2.0)
    variance = max(variance / mean_total**2, share * (1.0 - share) / mean_total)
    count_after = total[start:].sum() / mean_total  # in blocks of the usual size
    shift = abs(excess[start:].sum() / total[start:].sum())
    t = shift / math.sqrt(variance * (1.0 / count_after + 1.0 / count))
    return 2.0 * student_tail(t, count - 1)


def sum_same_hours(counts: Floats, start: int) -> tuple[Floats, Floats]:
    """Return what is usual for the hours from `start` on, and what they have."""
    hour = np.arange(len(counts)) % 24
    usual = np.zeros((24, counts.shape[1]))
    np.add.at(usual, hour[:start], counts[:start])
    usual /= np.maximum(np.bincount(hour[:start], minlength=24), 1)[:, None]
    return usual[hour[start:]].sum(axis=0), counts[start:].sum(axis=0)


def name_cause(
    episode: Episode, signals: Sequence[Signal], first_hour: int, changes: Sequence[Change] = ()
) -> Cause:
    """Return the likely cause of an episode, or `unknown`: the strongest that nothing implies."""
    windows = EpisodeWindows(
        {signal.name: signal for signal in signals},
        episode.start,
        episode.stop,
        episode.detected,
        first_hour,
        changes,
        episode.compared_with,
        episode.is_outage,
        strengths={moved.name: moved.strength for moved in episode.moved},
    )
    readings = _read_rows(windows)
    if readings:
        row, reading = max(readings, key=lambda pair: pair[1].strength)
        return Cause(row.name, reading.evidence)
    moved_kinds = {moved.kind for moved in episode.moved if moved.name != EVENTS_SIGNAL}
    if LABEL_KIND in moved_kinds and moved_kinds <= BEHAVIOUR_KINDS:  # fewer clicks: fewer events
        clicks = windows.of_kind(LABEL_KIND)[0]
        index = clicks.bins.index(CLICKED_BIN)
        before, during = (
            hourly_counts[:, index].sum() / max(hourly_counts.sum(), 1.0)
            for hourly_counts in (
                clicks.counts[: episode.start],
                clicks.counts[episode.start : episode.stop],
            )
        )
        evidence = (
            f"{during:.1%} of the seen items are clicked, {before:.1%} before; "
            "visitors, devices, fields, sources and models are as usual"
        )
        return Cause(TASTE, evidence)
    moved_names = ", ".join(signal.name for signal in episode.moved[:3])
    return Cause(UNKNOWN, f"moved most: {moved_names}")


def name_cause_of_fall(
    signals: Sequence[Signal],
    start: int,
    first_hour: int,
    requests: Requests,
    changes: Sequence[Change] = (),
) -> Cause:
    """Return the cause that explains most of a fall, at least half of it.

    Without one, it is a change of taste if the fall stays without all requests that something else
    reached, else `unknown`.

    Args:
        signals: of the hours of the reference, and of the fall.
        start: the first hour of the fall, counted from the first.
        requests: what the figure is of.
    """
    stop = len(signals[0].counts) if signals else start
    if stop <= start:
        return Cause(UNKNOWN, "no hour of the fall is over yet")
    signal_by_name = {signal.name: signal for signal in signals}
    windows = FallWindows(signal_by_name, start, stop, stop, first_hour, changes, requests=requests)
    readings = _read_rows(windows)
    reached = [
        (
            row,
            reading,
            requests.nothing() if reading.affected is None else reading.affected(requests),
        )
        for row, reading in readings
    ]
    weighed = [(row, reading, requests.explain(mask)) for row, reading, mask in reached]
    best = sorted(
        (entry for entry in weighed if _explains_half(entry[2])),
        # Nothing is left to compare where all requests are reached: known shares come first.
        key=lambda entry: (-np.nan_to_num(entry[2].share, nan=HALF), -entry[1].strength),
    )
    if best:
        row, _, explained = best[0]
        near = [entry for entry in best[1:2] if best[0][2].share - entry[2].share < NEAR]
        evidence = "; ".join(
            (f"{entry_row.name}, " if index else "") + f"{reading.evidence}, {_describe(part)}"
            for index, (entry_row, reading, part) in enumerate([best[0], *near])
        )
        return Cause(row.name, evidence, explained.affected, explained.total)
    rest = requests.explain(np.any([requests.nothing(), *(mask for *_, mask in reached)], axis=0))
    moved = "; ".join(f"{reading.evidence}, {_describe(part)}" for _, reading, part in weighed)
    if rest.is_rest_beyond_chance and not rest.share >= HALF:
        usual = "fields, devices, crawlers, catalogue, sources and models are as before the fall"
        evidence = f"the fall stays without what else moved: {moved}" if moved else usual
        return Cause(TASTE, evidence)
    return Cause(UNKNOWN, f"these moved: {moved}" if moved else "nothing moved beyond chance")


def _explains_half(part: Explained) -> bool:
    """Return whether requests explain half of a fall, or are all that there are."""
    if math.isnan(part.share):
        return part.affected > HALF * part.total
    return part.share >= HALF and part.is_beyond_chance


def _describe(part: Explained) -> str:
    if math.isnan(part.share):
        return f"in {part.affected:,} of {part.total:,} requests: too few others to compare with"
    share = min(max(part.share, 0.0), 1.0)
    return f"which explains {share:.0%} of the fall ({part.affected:,} of {part.total:,} requests)"


def _read_rows(windows: Windows) -> list[tuple[Row, Reading]]:
    """Return the rows with evidence, without those that another one implies."""
    readings = [
        (row, reading) for row in ROWS if (reading := row.read(windows)) and reading.strength > 1
    ]
    implied = {name for row, _ in readings for name in row.implies}
    return [(row, reading) for row, reading in readings if row.name not in implied]


def _strongest(shifts: Sequence[Shift]) -> Shift | None:
    return max(shifts, key=lambda shift: (shift.strength, abs(shift.change)), default=None)


def _read_outage(windows: Windows) -> Reading | None:
    events = windows.signals.get(EVENTS_SIGNAL)
    if events is None:
        return None
    ratios = windows.traffic_ratios(EVENTS_SIGNAL, SHORT_BLOCK_HOURS)
    ratio = float(ratios.min(initial=1.0))
    if windows.is_outage:
        usual, current = sum_same_hours(events.counts[: windows.stop], windows.start)
        ratio = float(current.sum() / max(usual.sum(), 1.0))
    elif ratio > QUIET_RATIO:
        return None
    hours = windows.hours_of(ratios <= QUIET_RATIO, SHORT_BLOCK_HOURS)
    return Reading(
        windows.strength_of(events, np.ones(1, bool)),
        f"events are at {ratio:.0%} of usual: nothing arrives, people have not left",
        lambda requests: requests.in_hours(hours),
    )


def _read_lost_field(windows: Windows) -> Reading | None:
    shifts = [shift for shift in windows.shifts("field") if shift.bin == "missing"]
    lost = _strongest([shift for shift in shifts if shift.change > 0])
    if lost is None:
        return None
    type_, field_name = lost.signal.name.split(".")
    return Reading(
        lost.strength,
        f"{lost.signal.name} is missing in {lost.during:.0%}, {lost.before:.0%} before",
        lambda requests: requests.from_devices_without(type_, field_name),
    )


def _read_bots(windows: Windows) -> Reading | None:
    """Read crawlers by their name, and in a fall also those that hide: no figure counts others."""
    shifts = [shift for shift in windows.shifts("agent") if shift.bin == "bot"]
    more = _strongest([shift for shift in shifts if shift.change > 0])
    busy_share = 0.0
    if windows.requests is not None:
        is_after = windows.requests.is_after
        busy_share = (
            float(windows.requests.by_busy_people()[is_after].mean()) if is_after.any() else 0.0
        )
    named = (
        f"crawlers make {more.during:.0%} of the events, {more.before:.0%} before" if more else ""
    )
    hidden = f"people busier than anybody before make {busy_share:.0%} of the requests"
    is_hidden = busy_share >= SMALLEST_EFFECT  # one or two busy people are on any site
    if more is None and not is_hidden:
        return None
    return Reading(
        max(more.strength if more else 0.0, busy_share / SMALLEST_EFFECT),
        ", and ".join(filter(None, [named, hidden if is_hidden else ""])),
        lambda requests: requests.by_busy_people(),
    )


def _read_slow_store(windows: Windows) -> Reading | None:
    usual_parts = ("nothing", "missing", *SOURCE_PARTS)
    lacking = _strongest(
        [
            shift
            for shift in windows.shifts("degraded")
            if shift.bin not in usual_parts and shift.change > 0
        ]
    )
    if lacking is not None:
        part = lacking.bin
        return Reading(
            lacking.strength,
            f"{lacking.change:.0%} more answers lack {part}",
            lambda requests: requests.have("degraded", [part]),
        )
    return next(
        (
            reading
            for signal in windows.of_kind("latency")
            if (reading := _read_latency(windows, signal))
        ),
        None,
    )


def _read_latency(windows: Windows, signal: Signal) -> Reading | None:
    shares_before, shares_during = windows.shares(signal)
    if len(signal.bins) < 2 or not (shares_before[1:].sum() and shares_during[1:].sum()):
        return None
    before = _p95_ms(signal, shares_before)
    during = _p95_ms(signal, shares_during)
    if during <= before:
        return None
    is_slow = np.array([False, *(_bin_ms(name) > before for name in signal.bins[1:])])
    return Reading(
        windows.strength_of(signal, is_slow),
        f"95% of the answers take up to {during:,.1f} ms, {before:,.1f} ms before",
        lambda requests: requests.slower_than(before * 1_000),
    )


def _bin_ms(name: str) -> float:
    return number_from_bin(int(name)) / 1_000


def _p95_ms(signal: Signal, shares: Floats) -> float:
    """Return the 95th percentile of a latency, by the shares of its bins."""
    cumulative = np.cumsum(shares[1:])
    target = 0.95 * cumulative[-1]
    index = int(np.searchsorted(cumulative, target))
    fraction_of_bin = (target - cumulative[index] + shares[index + 1]) / max(
        shares[index + 1], 1e-12
    )
    return number_from_bin(int(signal.bins[index + 1]) + float(fraction_of_bin)) / 1_000


def _read_stale_source(windows: Windows) -> Reading | None:
    lacking = _strongest(
        [
            shift
            for shift in windows.shifts("degraded")
            if shift.bin in SOURCE_PARTS and shift.change > 0
        ]
    )
    if lacking is not None:
        part = lacking.bin
        return Reading(
            lacking.strength,
            f"{lacking.change:.0%} more answers lack {part}",
            lambda requests: requests.have("degraded", [part]),
        )
    shifts = windows.shifts("source")
    stale = _strongest([shift for shift in shifts if shift.during < shift.before * STALE_RATIO])
    if stale is None:
        return None
    source = stale.bin
    return Reading(
        stale.strength,
        f"{source} gives {stale.during:.0%} of the candidates, {stale.before:.0%} before",
        lambda requests: ~requests.have("candidate_sources", [source]),
    )


def _read_model_change(windows: Windows) -> Reading | None:
    start, detected = (
        windows.first_hour + hour * HOUR for hour in (windows.start, windows.detected)
    )
    nearby = [change for change in windows.changes if start - 26 * HOUR <= change.at <= detected]
    strengths = [windows.strength_of_kind(kind) for kind in MODEL_KINDS]
    # Scores and clicks move for other reasons too, so the versions are asked first.
    strength = strengths[0] if strengths[0] > 1 else max(strengths)
    if not nearby:
        return None
    return Reading(strength, nearby[-1].what, lambda requests: requests.of_new_versions())


def _read_catalogue(windows: Windows) -> Reading | None:
    signal = windows.signals.get("item profiles")
    ratio = float(windows.traffic_ratios("item profiles", BLOCK_HOURS).max(initial=1.0))
    if signal is None or ratio < BUSY_RATIO:
        return None
    return Reading(
        windows.strength_of(signal, np.ones(1, bool)),
        f"item profiles are at {ratio:.0%} of usual",
        lambda requests: requests.with_changed_items(),
    )


def _read_device(windows: Windows) -> Reading | None:
    other = _strongest([*windows.shifts("event_device"), *windows.shifts("device")])
    if other is None:
        return None
    name = other.bin
    return Reading(
        other.strength,
        f"device {name} has {other.during:.0%} of the traffic, {other.before:.0%} before",
        lambda requests: requests.have("device", [name]),
    )


def _read_promotion(windows: Windows) -> Reading | None:
    ratios = windows.traffic_ratios(EVENTS_SIGNAL, BLOCK_HOURS)
    ratio = float(ratios.max(initial=1.0))
    if ratio < BUSY_RATIO:
        return None
    strength = windows.strength_of(windows.signals[EVENTS_SIGNAL], np.ones(1, bool))
    hours = windows.hours_of(ratios >= BUSY_RATIO, BLOCK_HOURS)
    return Reading(
        strength,
        f"events are at {ratio:.0%} of usual",
        lambda requests: requests.nothing() if requests.has_control else requests.in_hours(hours),
    )


def _read_season(windows: Windows) -> Reading | None:
    """Read the calendar where weekdays are not told apart."""
    if windows.compared_with not in SHORT_HISTORIES:
        return None
    kinds = {signal.kind for signal in windows.signals.values()}
    strengths = [windows.strength_of_kind(kind) for kind in kinds]
    day = (windows.first_hour // HOUR + windows.start) // 24
    if (day + EPOCH_WEEKDAY) % 7 >= 5:
        return Reading(max(strengths), f"it is a weekend, and {NO_WEEKDAYS}")
    return Reading(1.0 + 1e-9, NO_WEEKDAYS) if sum(each > 1 for each in strengths) > 1 else None


# From the fault to the calendar: of two that are as strong, the first is named.
ROWS = (
    Row(
        OUTAGE,
        _read_outage,
        # Shares of next to no events are of anything.
        implies=(
            LOST_FIELD,
            BOTS,
            SLOW_STORE,
            STALE_SOURCE,
            CATALOGUE,
            DEVICE,
            MODEL_CHANGE,
            SEASON,
        ),
    ),
    Row(LOST_FIELD, _read_lost_field, implies=(SEASON,)),
    # A crawler's events are traffic, from its own device.
    Row(BOTS, _read_bots, implies=(PROMOTION, DEVICE, SEASON)),
    # Answers that lack features are served by fallbacks, without some sources.
    Row(SLOW_STORE, _read_slow_store, implies=(STALE_SOURCE, SEASON)),
    Row(STALE_SOURCE, _read_stale_source, implies=(SEASON,)),
    Row(MODEL_CHANGE, _read_model_change, implies=(SEASON,)),
    Row(CATALOGUE, _read_catalogue, implies=(SEASON,)),
    # On a weekend other people come, on other devices.
    Row(SEASON, _read_season),
    Row(DEVICE, _read_device),
    Row(PROMOTION, _read_promotion),
)

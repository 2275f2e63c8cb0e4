"""The likely cause of an episode of drift, with its evidence and its runbook.

Causes are tried from the specific to the general. One that explains the strongest signals is named
even if others moved too: a tracker that lost a field also moves features and scores.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tailorbird.events import EPOCH_WEEKDAY, HOUR
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
    MovedSignal,
    Signal,
    block_sums,
)
from tailorbird.monitoring.drift.distance import SMALLEST_EFFECT, distances
from tailorbird.training.sketches import number_from_bin

SHARE_SHIFT = 0.1  # change in a share that is evidence
FALL_SHARE_SHIFT = 0.2  # the same for a fall of clicks, which less would not explain
BUSY_RATIO = 1.5  # traffic relative to usual
BLOCK_HOURS = 6
BLOCK_COUNT_MIN = 200.0  # requests or events in a block whose shares are compared
OUTAGE = "outage upstream"
TASTE = "change of taste"
CHURN_FALL = "stale churn model"
# What moves if people choose otherwise.
BEHAVIOUR_KINDS = {LABEL_KIND, "event_types", "feature", "score", VECTOR_KIND}
SHORT_HISTORIES = ("hour", "all")  # of `Episode.compared_with`
NO_WEEKDAYS = "the history has no four weeks yet, so weekdays are not told apart"


RUNBOOK_PAGES = {  # cause → its runbook in docs/operate
    OUTAGE: "no-events.md",
    "tracker lost a field": "lost-field.md",
    "bots": "bots.md",
    "stale source": "stale-source.md",
    "slow store": "slow-store.md",
    "model change": "model-change.md",
    "catalogue swap": "catalogue.md",
    "new app version or device": "traffic-mix.md",
    "promotion": "promotion.md",
    "seasonality": "drift.md",
    TASTE: "taste.md",
    CHURN_FALL: "churn.md",
    "training-serving skew": "skew.md",
    "unknown": "drift.md",
}

# causes of which a model must not learn: what people did is not in the log as it was
DATA_FAULTS = (OUTAGE, "tracker lost a field", "bots", "stale source", "slow store")


@dataclass(frozen=True)
class Cause:
    """A likely cause, one of `RUNBOOK_PAGES`, and the evidence in one sentence."""

    name: str
    evidence: str

    @property
    def runbook_page(self) -> str:
        """Return the runbook in docs/operate."""
        return RUNBOOK_PAGES[self.name]


@dataclass(frozen=True)
class Change:
    """A change of models: when, and what; from the registry's audit log."""

    at: int
    what: str


@dataclass(frozen=True)
class _Facts:
    """Signals before and during an episode.

    Attributes:
        first_hour: that of the signals, microseconds; the episode counts hours from it.
        shift: change in a share that is evidence.
        is_fall: the episode is one of clicks, which all its hours together explain.
    """

    signals: dict[str, Signal]
    episode: Episode
    first_hour: int
    changes: Sequence[Change]
    shift: float = SHARE_SHIFT
    is_fall: bool = False

    def of_kind(self, kind: str) -> list[Signal]:
        """Return the signals of a kind that moved, the strongest first."""
        return [self.signals[moved.name] for moved in self.episode.moved if moved.kind == kind]

    def shares(self, signal: Signal) -> tuple[Floats, Floats]:
        """Return the share of each bin before the episode, and in its most distant `BLOCK_HOURS`.

        An episode found by the day has hours in it that are as usual.
        """
        if self.is_fall:
            usual, current = _sum_same_hours(signal.counts, self.episode.start)
            return usual / max(usual.sum(), 1.0), current / max(current.sum(), 1.0)
        before = signal.counts[: self.episode.start].sum(axis=0)
        before = before / max(before.sum(), 1.0)
        hourly_counts = signal.counts[self.episode.start : self.episode.stop]
        blocks = block_sums(hourly_counts, BLOCK_HOURS)
        totals = blocks.sum(axis=1)
        if (is_large := totals >= BLOCK_COUNT_MIN).any():
            shares = blocks[is_large] / totals[is_large, None]
            return before, shares[np.abs(shares - before).sum(axis=1).argmax()]
        during = hourly_counts.sum(axis=0)
        return before, during / max(during.sum(), 1.0)

    def largest_shift(self, signal: Signal) -> tuple[str, float, float]:
        """Return the bin whose share moved most, with its share before and during."""
        before, during = self.shares(signal)
        index = int(np.argmax(np.abs(during - before)))
        return signal.bins[index], float(before[index]), float(during[index])

    def traffic_extremes(self, name: str) -> tuple[float, float]:
        """Return the lowest and highest number of a signal in some hours of the episode.

        Both are relative to the same hours of the week before the episode; 1 if nothing is known.
        The lowest is of `SHORT_BLOCK_HOURS` hours, the highest of `BLOCK_HOURS` hours.
        """
        signal, start = self.signals.get(name), self.episode.start
        if signal is None or start < 24:
            return 1.0, 1.0
        counts = signal.counts.sum(axis=1)
        past = np.arange(max(0, start - 7 * 24), start)
        usual = np.bincount(past % 24, counts[past], 24) / np.bincount(past % 24, minlength=24)
        hours = np.arange(start, min(self.episode.stop, len(counts)))
        counts_and_usual = np.column_stack([counts[hours], usual[hours % 24]])  # (hours, 2)
        short_counts, short_usual = block_sums(counts_and_usual, SHORT_BLOCK_HOURS).T
        long_counts, long_usual = block_sums(counts_and_usual, BLOCK_HOURS).T
        short_ratios = short_counts / np.maximum(short_usual, 1.0)
        long_ratios = long_counts / np.maximum(long_usual, 1.0)
        lowest = short_ratios[short_usual >= USUAL_COUNT_MIN].min(initial=1.0)
        highest = long_ratios[long_usual > 0].max(initial=1.0)
        return float(lowest), float(highest)


def name_cause(
    episode: Episode, signals: Sequence[Signal], first_hour: int, changes: Sequence[Change] = ()
) -> Cause:
    """Return the likely cause of an episode, or `unknown`."""
    facts = _Facts({signal.name: signal for signal in signals}, episode, first_hour, changes)
    for rule in _RULES:
        if (cause := rule(facts)) is not None:
            return cause
    moved_names = ", ".join(signal.name for signal in episode.moved[:3])
    return Cause("unknown", f"moved most: {moved_names}")


def name_cause_of_fall(
    signals: Sequence[Signal], start: int, first_hour: int, changes: Sequence[Change] = ()
) -> Cause:
    """Return the likely cause of a fall of a model's clicks against those of a control.

    Weekdays and promotions move both alike, so the cause is something that the model depends on. If
    all of that is as in the reference, people choose otherwise.

    Args:
        signals: of the hours of the reference, and of the fall.
        start: the first hour of the fall, counted from the first.
    """
    signal_by_name = {signal.name: signal for signal in signals}
    distance_by_name = {signal.name: _distance(signal, start) for signal in signals}
    moved = tuple(
        MovedSignal(name, signal.kind, distance, distance / SMALLEST_EFFECT)
        for name, distance in sorted(distance_by_name.items(), key=lambda entry: -entry[1])
        if (signal := signal_by_name[name]).kind != "latency" and distance >= SMALLEST_EFFECT
    )
    stop = len(signals[0].counts) if signals else start
    if stop <= start:
        return Cause("unknown", "no hour of the fall is over yet")
    facts = _Facts(
        signal_by_name,
        Episode(start, stop, stop, "reference", True, moved),
        first_hour,
        changes,
        FALL_SHARE_SHIFT,
        is_fall=True,
    )
    for rule in _MODEL_RULES:
        if (cause := rule(facts)) is not None:
            return cause
    evidence = "fields, devices, crawlers, catalogue, sources and models are as before the fall"
    return Cause(TASTE, evidence)


def _distance(signal: Signal, start: int) -> float:
    """Return how far the hours from `start` on are from the same hours of the days before."""
    before, during = _sum_same_hours(signal.counts, start)
    if signal.kind == TRAFFIC_KIND:
        return float(TRAFFIC_SCALE * abs(np.log((during.sum() + 1.0) / (before.sum() + 1.0))))
    if not (before.sum() and during.sum()):
        return 0.0
    return float(distances(during[None], before[None], is_category=signal.is_category)[0])


def _sum_same_hours(counts: Floats, start: int) -> tuple[Floats, Floats]:
    """Return what is usual for the hours from `start` on, and what they have."""
    hour = np.arange(len(counts)) % 24
    usual = np.zeros((24, counts.shape[1]))
    np.add.at(usual, hour[:start], counts[:start])
    usual /= np.maximum(np.bincount(hour[:start], minlength=24), 1)[:, None]
    return usual[hour[start:]].sum(axis=0), counts[start:].sum(axis=0)


def _explain_by_outage(facts: _Facts) -> Cause | None:
    if facts.episode.is_outage:
        counts = facts.signals[EVENTS_SIGNAL].counts[: facts.episode.stop]
        usual, current = _sum_same_hours(counts, facts.episode.start)
        ratio = float(current.sum() / max(usual.sum(), 1.0))
    else:
        ratio, _ = facts.traffic_extremes(EVENTS_SIGNAL)
        moved_kinds = {moved.kind for moved in facts.episode.moved}
        if ratio > QUIET_RATIO or TRAFFIC_KIND not in moved_kinds:
            return None
    evidence = f"events are at {ratio:.0%} of usual: nothing arrives, people have not left"
    return Cause(OUTAGE, evidence)


def _explain_by_lost_field(facts: _Facts) -> Cause | None:
    for signal in facts.of_kind("field"):
        before, during = (float(shares[0]) for shares in facts.shares(signal))  # of missing values
        if during - before > facts.shift:
            evidence = f"{signal.name} is missing in {during:.0%}, {before:.0%} before"
            return Cause("tracker lost a field", evidence)
    return None


def _explain_by_bots(facts: _Facts) -> Cause | None:
    for signal in facts.of_kind("agent"):
        name, before, during = facts.largest_shift(signal)
        if name != "bot":
            before, during = 1.0 - before, 1.0 - during
        if during - before > SHARE_SHIFT / 2:
            evidence = f"crawlers make {during:.0%} of the events, {before:.0%} before"
            return Cause("bots", evidence)
    return None


def _explain_by_slow_store(facts: _Facts) -> Cause | None:
    for signal in facts.of_kind("degraded"):
        before, during = facts.shares(signal)
        share_change = during - before
        rises = [
            (float(share_change[index]), name)
            for index, name in enumerate(signal.bins)
            if name not in ("nothing", "missing")
        ]
        largest_rise, name = max(rises, default=(0.0, ""))
        if largest_rise > SHARE_SHIFT / 2:
            cause_name = "stale source" if name in ("candidates", "retrieval") else "slow store"
            return Cause(cause_name, f"{largest_rise:.0%} more answers lack {name}")
    for signal in facts.of_kind("latency"):
        before, during = (_p95_ms(signal, shares) for shares in facts.shares(signal))
        if during > before:
            evidence = f"95% of the answers take up to {during:,.1f} ms, {before:,.1f} ms before"
            return Cause("slow store", evidence)
    return None


def _p95_ms(signal: Signal, shares: Floats) -> float:
    """Return the 95th percentile of a latency, by the shares of its bins."""
    cumulative = np.cumsum(shares[1:])
    target = 0.95 * cumulative[-1]
    index = int(np.searchsorted(cumulative, target))
    fraction_of_bin = (target - cumulative[index] + shares[index + 1]) / max(
        shares[index + 1], 1e-12
    )
    return number_from_bin(int(signal.bins[index + 1]) + float(fraction_of_bin)) / 1_000


def _explain_by_model_change(facts: _Facts) -> Cause | None:
    start, detected = (
        facts.first_hour + hour * HOUR for hour in (facts.episode.start, facts.episode.detected)
    )
    moved_kinds = {moved.kind for moved in facts.episode.moved}
    nearby_changes = [
        change for change in facts.changes if start - 26 * HOUR <= change.at <= detected
    ]
    if nearby_changes and moved_kinds & {"score", "model", "source", LABEL_KIND, VECTOR_KIND}:
        return Cause("model change", nearby_changes[-1].what)
    return None


def _explain_by_stale_source(facts: _Facts) -> Cause | None:
    for signal in facts.of_kind("source"):
        before, during = facts.shares(signal)
        index = int(np.argmax(before - during))
        if before[index] - during[index] > facts.shift and during[index] < before[index] / 4:
            evidence = (
                f"{signal.bins[index]} gives {during[index]:.0%} of the candidates, "
                f"{before[index]:.0%} before"
            )
            return Cause("stale source", evidence)
    return None


def _explain_by_catalogue(facts: _Facts) -> Cause | None:
    _, ratio = facts.traffic_extremes("item profiles")
    if ratio < BUSY_RATIO or not any(
        moved.name == "item profiles" for moved in facts.episode.moved
    ):
        return None
    return Cause("catalogue swap", f"item profiles are at {ratio:.0%} of usual")


def _explain_by_device(facts: _Facts) -> Cause | None:
    for signal in (*facts.of_kind("event_device"), *facts.of_kind("device")):
        name, before, during = facts.largest_shift(signal)
        if abs(during - before) > facts.shift:
            evidence = f"device {name} has {during:.0%} of the traffic, {before:.0%} before"
            return Cause("new app version or device", evidence)
    return None


def _explain_by_promotion(facts: _Facts) -> Cause | None:
    _, ratio = facts.traffic_extremes(EVENTS_SIGNAL)
    if ratio >= BUSY_RATIO:
        return Cause("promotion", f"events are at {ratio:.0%} of usual")
    return None


def _explain_by_weekend(facts: _Facts) -> Cause | None:
    day = (facts.first_hour // HOUR + facts.episode.start) // 24
    if facts.episode.compared_with in SHORT_HISTORIES and (day + EPOCH_WEEKDAY) % 7 >= 5:
        return Cause("seasonality", f"it is a weekend, and {NO_WEEKDAYS}")
    return None


def _explain_by_season(facts: _Facts) -> Cause | None:
    if facts.episode.compared_with in SHORT_HISTORIES and len(facts.episode.moved) > 1:
        return Cause("seasonality", NO_WEEKDAYS)
    return None


def _explain_by_taste(facts: _Facts) -> Cause | None:
    """Explain clicks that moved while visitors, what they send, and models are as usual."""
    labels = facts.of_kind(LABEL_KIND)
    # Fewer clicks are fewer events.
    other_kinds = {
        moved.kind for moved in facts.episode.moved if moved.name != EVENTS_SIGNAL
    } - BEHAVIOUR_KINDS
    if not labels or other_kinds:
        return None
    clicks, start, stop = labels[0], facts.episode.start, facts.episode.stop
    before, during = (
        hourly_counts[:, clicks.bins.index(CLICKED_BIN)].sum() / max(hourly_counts.sum(), 1.0)
        for hourly_counts in (clicks.counts[:start], clicks.counts[start:stop])
    )
    evidence = (
        f"{during:.1%} of the seen items are clicked, {before:.1%} before; "
        "visitors, devices, "
        "fields, sources and models are as usual"
    )
    return Cause(TASTE, evidence)


_RULES: tuple[Callable[[_Facts], Cause | None], ...] = (
    _explain_by_outage,
    _explain_by_lost_field,
    _explain_by_bots,
    _explain_by_slow_store,
    _explain_by_model_change,
    _explain_by_catalogue,
    _explain_by_stale_source,
    _explain_by_weekend,
    _explain_by_device,
    _explain_by_promotion,
    _explain_by_season,
    _explain_by_taste,
)

# The others are those of a model alone; these are what people do, and reach its control too.
_BEHAVIOUR_RULES = (
    _explain_by_weekend,
    _explain_by_promotion,
    _explain_by_season,
    _explain_by_taste,
)
_MODEL_RULES = tuple(rule for rule in _RULES if rule not in _BEHAVIOUR_RULES)

"""The likely cause of an episode of drift, with its evidence and its runbook.

Causes are tried from the specific to the general. One that explains the strongest signals is named
even if others moved too: a tracker that lost a field also moves features and scores.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tailorbird.events import EPOCH_WEEKDAY, HOUR
from tailorbird.monitoring.drift.detect import (
    CLICKED,
    EVENTS,
    LABEL,
    QUIET,
    SHORT_BLOCK,
    TRAFFIC,
    TRAFFIC_SCALE,
    USUAL_MIN,
    VECTOR,
    Episode,
    Floats,
    Moved,
    Signal,
    block_sums,
)
from tailorbird.monitoring.drift.distance import SMALLEST_EFFECT, distances
from tailorbird.training.sketches import number_from_bin

SHIFT = 0.1  # change in a share that is evidence
FALL_SHIFT = 0.2  # the same for a fall of clicks, which less would not explain
BUSY = 1.5  # traffic relative to usual
BLOCK = 6  # hours
COUNT_MIN = 200.0  # requests or events in a block whose shares are compared
OUTAGE = "outage upstream"
TASTE = "change of taste"
CHURN_FALL = "stale churn model"
OF_PEOPLE = {
    LABEL,
    "event_types",
    "feature",
    "score",
    VECTOR,
}  # what moves if people choose otherwise
SHORT_HISTORY = ("hour", "all")  # of `Episode.compared_with`
NO_WEEKDAYS = "the history has no four weeks yet, so weekdays are not told apart"


PAGES = {  # cause → its runbook in docs/operate
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
    """A likely cause, one of `PAGES`, and the evidence in one sentence."""

    name: str
    evidence: str

    @property
    def page(self) -> str:
        """Return the runbook in docs/operate."""
        return PAGES[self.name]


@dataclass(frozen=True)
class Change:
    """A change of models: when, and what; from the registry's audit log."""

    at: int
    what: str


@dataclass(frozen=True)
class _Facts:
    """Signals before and during an episode.

    Attributes:
        shift: change in a share that is evidence.
        is_fall: the episode is one of clicks, which all its hours together explain.
    """

    signals: dict[str, Signal]
    episode: Episode
    first_hour: int
    changes: Sequence[Change]
    shift: float = SHIFT
    is_fall: bool = False

    def of_kind(self, kind: str) -> list[Signal]:
        """Return the signals of a kind that moved, the strongest first."""
        return [self.signals[moved.name] for moved in self.episode.moved if moved.kind == kind]

    def shares(self, signal: Signal) -> tuple[Floats, Floats]:
        """Return the share of each bin before the episode, and in its `BLOCK` hours most apart.

        An episode found by the day has hours in it that are as usual.
        """
        if self.is_fall:
            sums = _sum_same_hours(signal.counts, self.episode.start)
            return sums[0] / max(sums[0].sum(), 1.0), sums[1] / max(sums[1].sum(), 1.0)
        before = signal.counts[: self.episode.start].sum(axis=0)
        before = before / max(before.sum(), 1.0)
        hours = signal.counts[self.episode.start : self.episode.stop]
        blocks = block_sums(hours, BLOCK)
        totals = blocks.sum(axis=1)
        if (is_large := totals >= COUNT_MIN).any():
            shares = blocks[is_large] / totals[is_large, None]
            return before, shares[np.abs(shares - before).sum(axis=1).argmax()]
        share_during = hours.sum(axis=0)
        return before, share_during / max(share_during.sum(), 1.0)

    def largest(self, signal: Signal) -> tuple[str, float, float]:
        """Return the bin whose share moved most, with its share before and during."""
        before, share_during = self.shares(signal)
        index = int(np.argmax(np.abs(share_during - before)))
        return signal.bins[index], float(before[index]), float(share_during[index])

    def traffic(self, name: str) -> tuple[float, float]:
        """Return the lowest and highest number of a signal in some hours of the episode.

        Both are relative to the same hours of the week before the episode; 1 if nothing is known.
        The lowest is of `SHORT_BLOCK` hours, the highest of `BLOCK` hours.
        """
        signal, start = self.signals.get(name), self.episode.start
        if signal is None or start < 24:
            return 1.0, 1.0
        counts = signal.counts.sum(axis=1)
        past = np.arange(max(0, start - 7 * 24), start)
        usual = np.bincount(past % 24, counts[past], 24) / np.bincount(past % 24, minlength=24)
        hours = np.arange(start, min(self.episode.stop, len(counts)))
        both = np.column_stack([counts[hours], usual[hours % 24]])
        short, long = (block_sums(both, length).T for length in (SHORT_BLOCK, BLOCK))
        lowest = (short[0] / np.maximum(short[1], 1.0))[short[1] >= USUAL_MIN].min(initial=1.0)
        highest = (long[0] / np.maximum(long[1], 1.0))[long[1] > 0].max(initial=1.0)
        return float(lowest), float(highest)


def name_cause(
    episode: Episode, signals: Sequence[Signal], first_hour: int, changes: Sequence[Change] = ()
) -> Cause:
    """Return the likely cause of an episode, or `unknown`."""
    facts = _Facts({each.name: each for each in signals}, episode, first_hour, changes)
    for rule in _RULES:
        if (cause := rule(facts)) is not None:
            return cause
    moved = ", ".join(one.name for one in episode.moved[:3])
    return Cause("unknown", f"moved most: {moved}")


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
    distance = {each.name: _distance(each, start) for each in signals}
    moved = tuple(
        Moved(each.name, each.kind, distance[each.name], distance[each.name] / SMALLEST_EFFECT)
        for each in sorted(signals, key=lambda one: -distance[one.name])
        if each.kind != "latency" and distance[each.name] >= SMALLEST_EFFECT
    )
    stop = len(signals[0].counts) if signals else start
    if stop <= start:
        return Cause("unknown", "no hour of the fall is over yet")
    facts = _Facts(
        {each.name: each for each in signals},
        Episode(start, stop, stop, "reference", True, moved),
        first_hour,
        changes,
        FALL_SHIFT,
        is_fall=True,
    )
    for rule in _OF_MODELS:
        if (cause := rule(facts)) is not None:
            return cause
    evidence = "fields, devices, crawlers, catalogue, sources and models are as before the fall"
    return Cause(TASTE, evidence)


def _distance(signal: Signal, start: int) -> float:
    """Return how far the hours from `start` on are from the same hours of the days before."""
    before, share_during = _sum_same_hours(signal.counts, start)
    if signal.kind == TRAFFIC:
        return float(TRAFFIC_SCALE * abs(np.log((share_during.sum() + 1.0) / (before.sum() + 1.0))))
    if not (before.sum() and share_during.sum()):
        return 0.0
    return float(distances(share_during[None], before[None], is_category=signal.is_category)[0])


def _sum_same_hours(counts: Floats, start: int) -> tuple[Floats, Floats]:
    """Return what is usual for the hours from `start` on, and what they have."""
    hour = np.arange(len(counts)) % 24
    usual = np.zeros((24, counts.shape[1]))
    np.add.at(usual, hour[:start], counts[:start])
    usual /= np.maximum(np.bincount(hour[:start], minlength=24), 1)[:, None]
    return usual[hour[start:]].sum(axis=0), counts[start:].sum(axis=0)


def _outage(facts: _Facts) -> Cause | None:
    if facts.episode.is_outage:
        counts = facts.signals[EVENTS].counts[: facts.episode.stop]
        usual, now = _sum_same_hours(counts, facts.episode.start)
        ratio = float(now.sum() / max(usual.sum(), 1.0))
    else:
        ratio, _ = facts.traffic(EVENTS)
        if ratio > QUIET or not any(one.kind == TRAFFIC for one in facts.episode.moved):
            return None
    evidence = f"events are at {ratio:.0%} of usual: nothing arrives, people have not left"
    return Cause(OUTAGE, evidence)


def _lost_field(facts: _Facts) -> Cause | None:
    for signal in facts.of_kind("field"):
        before, share_during = facts.shares(signal)
        if share_during[0] - before[0] > facts.shift:
            evidence = f"{signal.name} is missing in {share_during[0]:.0%}, {before[0]:.0%} before"
            return Cause("tracker lost a field", evidence)
    return None


def _bots(facts: _Facts) -> Cause | None:
    for signal in facts.of_kind("agent"):
        name, before, share_during = facts.largest(signal)
        share = (before, share_during) if name == "bot" else (1.0 - before, 1.0 - share_during)
        if share[1] - share[0] > SHIFT / 2:
            evidence = f"crawlers make {share[1]:.0%} of the events, {share[0]:.0%} before"
            return Cause("bots", evidence)
    return None


def _slow_store(facts: _Facts) -> Cause | None:
    for signal in facts.of_kind("degraded"):
        before, share_during = facts.shares(signal)
        change = share_during - before
        names = [
            (float(change[index]), name)
            for index, name in enumerate(signal.bins)
            if name not in ("nothing", "missing")
        ]
        largest_rise, name = max(names, default=(0.0, ""))
        if largest_rise > SHIFT / 2:
            kind = "stale source" if name in ("candidates", "retrieval") else "slow store"
            return Cause(kind, f"{largest_rise:.0%} more answers lack {name}")
    for signal in facts.of_kind("latency"):
        before, share_during = (_p95_ms(signal, shares) for shares in facts.shares(signal))
        if share_during > before:
            evidence = (
                f"95% of the answers take up to {share_during:,.1f} ms, {before:,.1f} ms before"
            )
            return Cause("slow store", evidence)
    return None


def _p95_ms(signal: Signal, shares: Floats) -> float:
    """Return the 95th percentile of a latency, by the shares of its bins."""
    below = np.cumsum(shares[1:])
    index = int(np.searchsorted(below, 0.95 * below[-1]))
    inside = (0.95 * below[-1] - below[index] + shares[index + 1]) / max(shares[index + 1], 1e-12)
    return number_from_bin(int(signal.bins[index + 1]) + float(inside)) / 1_000


def _model_change(facts: _Facts) -> Cause | None:
    start, detected = (
        facts.first_hour + hour * HOUR for hour in (facts.episode.start, facts.episode.detected)
    )
    kinds = {one.kind for one in facts.episode.moved}
    near = [one for one in facts.changes if start - 26 * HOUR <= one.at <= detected]
    if near and kinds & {"score", "model", "source", LABEL, VECTOR}:
        return Cause("model change", near[-1].what)
    return None


def _stale_source(facts: _Facts) -> Cause | None:
    for signal in facts.of_kind("source"):
        before, share_during = facts.shares(signal)
        index = int(np.argmax(before - share_during))
        if (
            before[index] - share_during[index] > facts.shift
            and share_during[index] < before[index] / 4
        ):
            evidence = (
                f"{signal.bins[index]} gives {share_during[index]:.0%} of the candidates, "
                f"{before[index]:.0%} before"
            )
            return Cause("stale source", evidence)
    return None


def _catalogue(facts: _Facts) -> Cause | None:
    _, ratio = facts.traffic("item profiles")
    if ratio < BUSY or not any(one.name == "item profiles" for one in facts.episode.moved):
        return None
    return Cause("catalogue swap", f"item profiles are at {ratio:.0%} of usual")


def _device(facts: _Facts) -> Cause | None:
    for signal in (*facts.of_kind("event_device"), *facts.of_kind("device")):
        name, before, share_during = facts.largest(signal)
        if abs(share_during - before) > facts.shift:
            evidence = f"device {name} has {share_during:.0%} of the traffic, {before:.0%} before"
            return Cause("new app version or device", evidence)
    return None


def _promotion(facts: _Facts) -> Cause | None:
    _, ratio = facts.traffic(EVENTS)
    if ratio >= BUSY:
        return Cause("promotion", f"events are at {ratio:.0%} of usual")
    return None


def _weekend(facts: _Facts) -> Cause | None:
    day = (facts.first_hour // HOUR + facts.episode.start) // 24
    if facts.episode.compared_with in SHORT_HISTORY and (day + EPOCH_WEEKDAY) % 7 >= 5:
        return Cause("seasonality", f"it is a weekend, and {NO_WEEKDAYS}")
    return None


def _season(facts: _Facts) -> Cause | None:
    if facts.episode.compared_with in SHORT_HISTORY and len(facts.episode.moved) > 1:
        return Cause("seasonality", NO_WEEKDAYS)
    return None


def _taste(facts: _Facts) -> Cause | None:
    """Explain clicks that moved while visitors, what they send, and models are as usual."""
    labels = facts.of_kind(LABEL)
    # Fewer clicks are fewer events.
    others = {one.kind for one in facts.episode.moved if one.name != EVENTS} - OF_PEOPLE
    if not labels or others:
        return None
    clicks, start, stop = labels[0], facts.episode.start, facts.episode.stop
    before, share_during = (
        part[:, clicks.bins.index(CLICKED)].sum() / max(part.sum(), 1.0)
        for part in (clicks.counts[:start], clicks.counts[start:stop])
    )
    evidence = (
        f"{share_during:.1%} of the seen items are clicked, {before:.1%} before; visitors, devices, "
        "fields, sources and models are as usual"
    )
    return Cause(TASTE, evidence)


_RULES: tuple[Callable[[_Facts], Cause | None], ...] = (
    _outage,
    _lost_field,
    _bots,
    _slow_store,
    _model_change,
    _catalogue,
    _stale_source,
    _weekend,
    _device,
    _promotion,
    _season,
    _taste,
)

# Those of a model alone: the others are what people do, and reach its control too.
_OF_MODELS = tuple(rule for rule in _RULES if rule not in (_weekend, _promotion, _season, _taste))

"""Episodes of drift at a stated rate of false alarms.

Each window (an hour, and a day) is compared with the comparable windows of the history: same hour
and weekday where at least `WEEKS_MIN` weeks are there, else the same hour, else all.

    d      distance of a window to the sum of its comparable windows, without itself
    z      d² ÷ (a + b ÷ n), where a is the site's own variation and b ÷ n that of n requests;
           a and b are fitted to the history of each signal
    M      the largest z over all signals whose d is at least `SMALLEST_EFFECT`

The threshold on M comes from the peaks of M in the history, one for each episode: an exponential
tail fitted to the largest of them says which level is passed at the stated rate (peaks over
threshold; Davison and Smith, JRSS B 1990). All signals share it, so one figure holds for all
together, however they depend on each other.

An outage is an episode of its own, whatever else goes on: next to no events in hours that have had
many each time. It needs no threshold, which an earlier outage in the history would raise.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.monitoring.drift.distance import SMALLEST_EFFECT, distances

HOURS_WEEK = 168
HOURS_MONTH = 730.0
WEEKS_MIN = 4
DAYS_MIN = 7
OUTAGE_DAYS_MIN = 3  # with less than `DAYS_MIN`, the number of requests alone is compared
OUTLIER = 10.0  # a peak that is so many median excesses high is a drift in the history itself
GAP = 6  # windows of quiet that end an episode
PEAKS = 20
TRAFFIC = "traffic"  # a signal of this kind is compared by its number of requests alone
TRAFFIC_SCALE = 0.1  # of a logarithm: the smallest effect is a change by a third
LABEL = "label"  # a signal of this kind is compared by the share of its bin `CLICKED`
CLICKED = "clicked"
VECTOR = "vector"  # user vectors along one direction: together, a sliced Wasserstein distance
LABEL_SCALE = 0.3  # of a logarithm: the smallest effect is a change by a tenth
SCALES = (1, 24)  # hours in a window; each has half of the stated rate
EVENTS = "events"  # the signal whose fall is an outage
EVENTS_MIN = 20.0  # in a window; the share of fewer is one visitor's, and has no exponential tail
COMPARED_MIN = 7  # windows of the history that tell how much a signal varies
QUIET = 0.2  # traffic of an outage relative to usual
SHORT_BLOCK = 2  # hours, for an outage
OUTAGE_BLOCKS = (SHORT_BLOCK, 6, 24)  # a small site needs more hours
USUAL_MIN = 30.0  # usual number of events in a block that can show an outage

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Signal:
    """Histograms of one signal by hour: shape (hours, bins), the first bin for missing values.

    Attributes:
        kind: feature, score, source, traffic, …; episodes are explained by it.
        bins: names of the bins.
    """

    name: str
    counts: Floats
    is_category: bool = False
    kind: str = "feature"
    bins: tuple[str, ...] = ()


@dataclass(frozen=True)
class Moved:
    """A signal that moved in an episode: its largest distance, and z in units of the threshold."""

    name: str
    kind: str
    distance: float
    strength: float


@dataclass(frozen=True)
class Episode:
    """A drift from hour `start` until `stop` (exclusive), counted from the first hour of the table.

    Attributes:
        detected: end of the first window that showed it.
        compared_with: `hour and weekday`, `weekday`, `hour`, `all`, or `training`.
        is_open: it goes on.
        moved: the signals, the strongest first.
        is_outage: next to no events arrived.
    """

    start: int
    stop: int
    detected: int
    compared_with: str
    is_open: bool
    moved: tuple[Moved, ...]
    is_outage: bool = False


def find_episodes(
    signals: list[Signal], history: int, *, false_alarms: float = 1.0
) -> list[Episode]:
    """Return the episodes after the history.

    Args:
        signals: all of the same hours.
        history: number of hours, from the first, that are taken to be without drift. With less
            than `DAYS_MIN` days only the number of requests is compared, by the hour.
        false_alarms: episodes a month that chance alone may cause, over all signals.
    """
    is_young = history < DAYS_MIN * 24
    if is_young:
        signals = [signal for signal in signals if signal.kind == TRAFFIC]
    if not signals or history < OUTAGE_DAYS_MIN * 24:
        return []
    outages = _find_outages(signals, history)
    found_episodes: list[Episode] = []
    for scale in SCALES[:1] if is_young else SCALES:
        found_episodes += _find(signals, history, scale, false_alarms / len(SCALES), outages)
    return sorted([*merge_episodes(found_episodes), *outages], key=lambda episode: episode.start)


def _find_outages(signals: Sequence[Signal], history: int) -> list[Episode]:
    """Return the times after the history in which next to no events arrived.

    Usual is the second lowest of the comparable hours, which one earlier outage does not change.
    Hours that are quiet anyway continue an outage, and neither begin nor end one.
    """
    events = next((signal for signal in signals if signal.name == EVENTS), None)
    if events is None:
        return []
    counts = events.counts.sum(axis=1)
    slot, compared_with = _comparable(history, 1)
    slots = slot[np.arange(len(counts)) % len(slot)]
    usual = np.array(
        [_second_lowest(counts[:history][slots[:history] == each]) for each in range(len(slot))]
    )[slots]
    is_quiet = counts <= np.maximum(QUIET * usual, 1.0)
    is_out = np.zeros(len(counts), bool)
    for length in OUTAGE_BLOCKS:
        blocks = block_sums(np.column_stack([counts, usual]), length)
        is_out_block = (blocks[:, 1] >= USUAL_MIN) & (blocks[:, 0] <= QUIET * blocks[:, 1])
        is_out |= is_quiet & (np.convolve(is_out_block, np.ones(length)) > 0)
    outages = []
    for first, last in _runs(is_quiet[history:], 1):
        hours = history + first + np.flatnonzero(is_out[history + first : history + last + 1])
        if not len(hours):
            continue
        start, is_open = int(hours[0]), history + last == len(counts) - 1
        stop = len(counts) if is_open else int(hours[-1]) + 1
        fall = np.log((usual[start:stop].sum() + 1.0) / (counts[start:stop].sum() + 1.0))
        distance = TRAFFIC_SCALE * max(float(fall), 0.0)
        moved = (Moved(EVENTS, TRAFFIC, distance, distance / SMALLEST_EFFECT),)
        missing = int(np.searchsorted(usual[start:stop].cumsum(), USUAL_MIN)) + 1
        detected = min(start + max(missing, SHORT_BLOCK), stop)
        outages.append(Episode(start, stop, detected, compared_with, is_open, moved, True))
    return outages


def _second_lowest(counts: Floats) -> float:
    """Return the second lowest number of four or more, else the lowest."""
    return float(np.sort(counts)[min(1, (len(counts) - 1) // 3)]) if len(counts) else 0.0


def block_sums(rows: Floats, hours: int) -> Floats:
    """Return the sums of each run of so many rows, or of all if there are fewer."""
    below = np.vstack([np.zeros(rows.shape[1]), np.cumsum(rows, axis=0)])
    length = min(hours, len(rows))
    return below[length:] - below[: len(below) - length]


def merge_episodes(episodes: list[Episode]) -> list[Episode]:
    """Join episodes that overlap, as an hour and its day do."""
    merged_episodes: list[Episode] = []
    for each in sorted(episodes, key=lambda episode: episode.start):
        if merged_episodes and each.start <= merged_episodes[-1].stop:
            last = merged_episodes.pop()
            strongest_by_name: dict[str, Moved] = {}
            for moved in sorted((*last.moved, *each.moved), key=lambda one: one.strength):
                strongest_by_name[moved.name] = moved
            ordered = tuple(sorted(strongest_by_name.values(), key=lambda one: -one.strength))
            merged_episodes.append(
                Episode(
                    last.start,
                    max(last.stop, each.stop),
                    min(last.detected, each.detected),
                    last.compared_with,
                    last.is_open or each.is_open,
                    ordered,
                )
            )
        else:
            merged_episodes.append(each)
    return merged_episodes


def _find(
    signals: list[Signal], history: int, scale: int, false_alarms: float, outages: Sequence[Episode]
) -> list[Episode]:
    windows, past = len(signals[0].counts) // scale, history // scale
    slot, compared_with = _comparable(past, scale)
    slots = slot[np.arange(windows) % len(slot)]
    strength = np.zeros((len(signals), windows))
    distance = np.zeros((len(signals), windows))
    for index, signal in enumerate(signals):
        counts = signal.counts[: windows * scale].reshape(windows, scale, -1).sum(axis=1)
        distance[index], strength[index] = measure_windows(counts, slots, past, signal)
    threshold = find_threshold(strength[:, :past].max(axis=0), false_alarms, past * scale)
    for outage in outages:  # with the hours before and after, which it cuts
        strength[:, max(outage.start - 1, 0) // scale : outage.stop // scale + 1] = 0.0
    return episodes_above(threshold, signals, distance, strength, past, scale, compared_with)


def episodes_above(
    threshold: float,
    signals: Sequence[Signal],
    distance: Floats,
    strength: Floats,
    past: int,
    scale: int,
    compared_with: str,
) -> list[Episode]:
    """Return the episodes in which a signal is stronger than a threshold, and moved enough.

    Args:
        distance, strength: of each signal in each window, shape (signals, windows).
        past: number of windows of the history.
        scale: hours in a window.
    """
    windows = distance.shape[1]
    relevant_strength = np.where(distance >= SMALLEST_EFFECT, strength, 0.0)
    highest = relevant_strength.max(axis=0)
    episodes = []
    for first, last in _runs(highest[past:] > threshold):
        part = slice(past + first, past + last + 1)
        own = relevant_strength[:, part].max(axis=1)
        moved = tuple(
            Moved(
                signals[index].name,
                signals[index].kind,
                float(distance[index, part].max()),
                float(own[index] / threshold),
            )
            for index in np.argsort(-own)
            if own[index] > threshold
        )
        episodes.append(
            Episode(
                (past + first) * scale,
                (past + last + 1) * scale,
                (past + first + 1) * scale,
                compared_with,
                past + last >= windows - GAP,
                moved,
            )
        )
    return episodes


def _comparable(past: int, scale: int) -> tuple[npt.NDArray[np.int64], str]:
    """Return the class of comparable windows of each window of a cycle, and its name."""
    day, week = 24 // scale, HOURS_WEEK // scale
    if past >= WEEKS_MIN * week:
        return np.arange(week), "hour and weekday" if scale == 1 else "weekday"
    if day > 1:
        return np.arange(day), "hour"
    return np.zeros(1, np.int64), "all"


def measure_windows(
    counts: Floats,
    slots: npt.NDArray[np.int64],
    past: int,
    signal: Signal,
    against: Floats | None = None,
) -> tuple[Floats, Floats]:
    """Return the distance and z of each window.

    Args:
        counts: of each window, shape (windows, bins).
        slots: class of comparable windows of each window.
        past: number of windows of the history.
        against: a histogram to compare the windows after the history with, in place of it.
    """
    totals = np.zeros((int(slots.max()) + 1, counts.shape[1]))
    np.add.at(totals, slots[:past], counts[:past])
    reference = totals[slots]
    reference[:past] -= counts[:past]
    requests = np.maximum(counts.sum(axis=1), 1.0)
    if against is not None:
        reference[past:] = against
        # The reference has an error too: that of as many requests as it was taken of.
        requests[past:] = 1.0 / (1.0 / requests[past:] + 1.0 / max(against.sum(), 1.0))
    if signal.kind == TRAFFIC:
        members = np.bincount(slots[:past], minlength=len(totals))[slots].astype(np.float64)
        members[:past] -= 1.0
        usual = reference.sum(axis=1) / np.maximum(members, 1.0)
        distance = TRAFFIC_SCALE * np.abs(np.log((counts.sum(axis=1) + 1.0) / (usual + 1.0)))
        requests = np.maximum(usual, 1.0)
        is_counted = np.maximum(counts.sum(axis=1), usual) >= EVENTS_MIN
    else:
        if signal.kind == LABEL:
            clicked = signal.bins.index(CLICKED)
            logs = [_log_share(each, clicked) for each in (counts, reference)]
            distance = LABEL_SCALE * np.abs(logs[0] - logs[1])
        else:
            distance = distances(counts, reference, is_category=signal.is_category)
        is_counted = (counts.sum(axis=1) >= EVENTS_MIN) & (reference.sum(axis=1) > 0)
    distance = np.where(is_counted, distance, 0.0)
    squared_distance = distance[:past] ** 2
    design = np.column_stack([np.ones(past), 1.0 / requests[:past]])
    keep = is_counted[:past]
    if keep.sum() < COMPARED_MIN:
        return distance, np.zeros(len(counts))
    # Robust against drift in the history: the largest values are taken out before the second fit.
    scale = np.full(len(counts), max(float(squared_distance[keep].mean()), 1e-12))
    for _ in range(2):
        fitted = np.linalg.lstsq(design[keep], squared_distance[keep], rcond=None)[0]
        a, b = max(float(fitted[0]), 0.0), max(float(fitted[1]), 0.0)
        if a + b <= 0:
            break
        scale = np.maximum(a + b / requests, 1e-12)
        ratio = squared_distance / scale[:past]
        if (ratio > 0).any():
            keep = is_counted[:past] & (ratio < 5.0 * np.median(ratio[ratio > 0]))
    return distance, distance**2 / scale


def _log_share(counts: Floats, index: int) -> Floats:
    return np.log((counts[:, index] + 0.5) / (counts.sum(axis=1) + 1.0))


def find_threshold(highest: Floats, false_alarms: float, hours: int) -> float:
    """Return the level that a month without drift passes in `false_alarms` episodes."""
    peaks = -np.sort(-_peaks(highest))
    count = min(PEAKS, len(peaks) - 1)
    if count < 3:
        return float(highest.max(initial=0.0) * 2.0 + 1.0)
    base, excess = peaks[count], peaks[:count] - peaks[count]
    if (limit := OUTLIER * float(np.median(excess))) > 0:
        excess = excess[excess <= limit]
    expected = false_alarms * hours / HOURS_MONTH
    return float(base + excess.mean() * np.log(len(excess) / expected))


def _peaks(highest: Floats) -> Floats:
    """Return local maxima that are more than `GAP` windows apart."""
    blocks = highest[: len(highest) // GAP * GAP].reshape(-1, GAP).max(axis=1)
    padded = np.concatenate([[-np.inf], blocks, [-np.inf]])
    is_peak = (padded[1:-1] >= padded[:-2]) & (padded[1:-1] > padded[2:])
    return blocks[is_peak]


def _runs(alarm: Bools, gap: int = GAP) -> list[tuple[int, int]]:
    """Return first and last window of each run of alarms that are at most `gap` apart."""
    indices = np.flatnonzero(alarm)
    if not len(indices):
        return []
    parts = np.split(indices, np.flatnonzero(np.diff(indices) > gap) + 1)
    return [(int(part[0]), int(part[-1])) for part in parts]

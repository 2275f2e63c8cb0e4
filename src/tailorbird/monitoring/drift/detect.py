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
OUTLIER_RATIO = 10.0  # a peak that is so many median excesses high is a drift in the history itself
GAP_WINDOWS = 6  # windows of quiet that end an episode
PEAKS_MAX = 20
TRAFFIC_KIND = "traffic"  # a signal of this kind is compared by its number of requests alone
TRAFFIC_SCALE = 0.1  # of a logarithm: the smallest effect is a change by a third
LABEL_KIND = "label"  # a signal of this kind is compared by the share of its bin `CLICKED_BIN`
CLICKED_BIN = "clicked"
VECTOR_KIND = "vector"  # user vectors along one direction: together, a sliced Wasserstein distance
LABEL_SCALE = 0.3  # of a logarithm: the smallest effect is a change by a tenth
WINDOW_HOURS = (1, 24)  # hours in a window; each has half of the stated rate
EVENTS_SIGNAL = "events"  # the signal whose fall is an outage
EVENTS_MIN = 20.0  # in a window; the share of fewer is one visitor's, and has no exponential tail
COMPARED_MIN = 7  # windows of the history that tell how much a signal varies
QUIET_RATIO = 0.2  # traffic of an outage relative to usual
SHORT_BLOCK_HOURS = 2  # hours, for an outage
OUTAGE_BLOCK_HOURS = (SHORT_BLOCK_HOURS, 6, 24)  # a small site needs more hours
USUAL_COUNT_MIN = 30.0  # usual number of events in a block that can show an outage

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
class MovedSignal:
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
    moved: tuple[MovedSignal, ...]
    is_outage: bool = False


def find_episodes(
    signals: list[Signal], history_hours: int, *, false_alarms_per_month: float = 1.0
) -> list[Episode]:
    """Return the episodes after the history.

    Args:
        signals: all of the same hours.
        history_hours: number of hours, from the first, that are taken to be without drift. With
            less than `DAYS_MIN` days only the number of requests is compared, by the hour.
        false_alarms_per_month: episodes a month that chance alone may cause, over all signals.
    """
    is_young = history_hours < DAYS_MIN * 24
    if is_young:
        signals = [signal for signal in signals if signal.kind == TRAFFIC_KIND]
    if not signals or history_hours < OUTAGE_DAYS_MIN * 24:
        return []
    outages = _find_outages(signals, history_hours)
    found_episodes: list[Episode] = []
    rate = false_alarms_per_month / len(WINDOW_HOURS)
    for window_hours in WINDOW_HOURS[:1] if is_young else WINDOW_HOURS:
        found_episodes += _find_in_windows(signals, history_hours, window_hours, rate, outages)
    return sorted([*merge_episodes(found_episodes), *outages], key=lambda episode: episode.start)


def _find_outages(signals: Sequence[Signal], history_hours: int) -> list[Episode]:
    """Return the times after the history in which next to no events arrived.

    Usual is the second lowest of the comparable hours, which one earlier outage does not change.
    Hours that are quiet anyway continue an outage, and neither begin nor end one.
    """
    events = next((signal for signal in signals if signal.name == EVENTS_SIGNAL), None)
    if events is None:
        return []
    counts = events.counts.sum(axis=1)
    cycle_classes, compared_with = _comparable_classes(history_hours, 1)
    hour_classes = cycle_classes[np.arange(len(counts)) % len(cycle_classes)]
    usual_counts = np.array(
        [
            _second_lowest(counts[:history_hours][hour_classes[:history_hours] == hour_class])
            for hour_class in range(len(cycle_classes))
        ]
    )[hour_classes]
    is_quiet = counts <= np.maximum(QUIET_RATIO * usual_counts, 1.0)
    is_outage = np.zeros(len(counts), bool)
    for length in OUTAGE_BLOCK_HOURS:
        blocks = block_sums(np.column_stack([counts, usual_counts]), length)
        is_outage_block = (blocks[:, 1] >= USUAL_COUNT_MIN) & (
            blocks[:, 0] <= QUIET_RATIO * blocks[:, 1]
        )
        is_outage |= is_quiet & (np.convolve(is_outage_block, np.ones(length)) > 0)
    outages = []
    for first_hour, last_hour in _find_runs(is_quiet[history_hours:], 1):
        is_outage_in_run = is_outage[history_hours:][first_hour : last_hour + 1]
        hours = history_hours + first_hour + np.flatnonzero(is_outage_in_run)
        if not len(hours):
            continue
        start = int(hours[0])
        is_open = history_hours + last_hour == len(counts) - 1
        stop = len(counts) if is_open else int(hours[-1]) + 1
        fall = np.log((usual_counts[start:stop].sum() + 1.0) / (counts[start:stop].sum() + 1.0))
        distance = TRAFFIC_SCALE * max(float(fall), 0.0)
        moved = (MovedSignal(EVENTS_SIGNAL, TRAFFIC_KIND, distance, distance / SMALLEST_EFFECT),)
        hours_needed = int(np.searchsorted(usual_counts[start:stop].cumsum(), USUAL_COUNT_MIN)) + 1
        detected = min(start + max(hours_needed, SHORT_BLOCK_HOURS), stop)
        outages.append(Episode(start, stop, detected, compared_with, is_open, moved, True))
    return outages


def _second_lowest(counts: Floats) -> float:
    """Return the second lowest number of four or more, else the lowest."""
    return float(np.sort(counts)[min(1, (len(counts) - 1) // 3)]) if len(counts) else 0.0


def block_sums(rows: Floats, hours: int) -> Floats:
    """Return the sums of each run of so many rows, or of all if there are fewer."""
    cumulative = np.vstack([np.zeros(rows.shape[1]), np.cumsum(rows, axis=0)])
    length = min(hours, len(rows))
    return cumulative[length:] - cumulative[: len(cumulative) - length]


def merge_episodes(episodes: list[Episode]) -> list[Episode]:
    """Join episodes that overlap, as an hour and its day do."""
    merged_episodes: list[Episode] = []
    for later in sorted(episodes, key=lambda episode: episode.start):
        if merged_episodes and later.start <= merged_episodes[-1].stop:
            earlier = merged_episodes.pop()
            strongest_by_name: dict[str, MovedSignal] = {}
            for moved in sorted((*earlier.moved, *later.moved), key=lambda signal: signal.strength):
                strongest_by_name[moved.name] = moved
            ordered = tuple(sorted(strongest_by_name.values(), key=lambda signal: -signal.strength))
            merged_episodes.append(
                Episode(
                    earlier.start,
                    max(earlier.stop, later.stop),
                    min(earlier.detected, later.detected),
                    earlier.compared_with,
                    earlier.is_open or later.is_open,
                    ordered,
                )
            )
        else:
            merged_episodes.append(later)
    return merged_episodes


def _find_in_windows(
    signals: list[Signal],
    history_hours: int,
    window_hours: int,
    false_alarms_per_month: float,
    outages: Sequence[Episode],
) -> list[Episode]:
    window_count = len(signals[0].counts) // window_hours
    history_windows = history_hours // window_hours
    cycle_classes, compared_with = _comparable_classes(history_windows, window_hours)
    window_classes = cycle_classes[np.arange(window_count) % len(cycle_classes)]
    strength = np.zeros((len(signals), window_count))
    distance = np.zeros((len(signals), window_count))
    for index, signal in enumerate(signals):
        hourly_counts = signal.counts[: window_count * window_hours]
        counts = hourly_counts.reshape(window_count, window_hours, -1).sum(axis=1)
        distance[index], strength[index] = measure_windows(
            counts, window_classes, history_windows, signal
        )
    threshold = find_threshold(
        strength[:, :history_windows].max(axis=0),
        false_alarms_per_month,
        history_windows * window_hours,
    )
    for outage in outages:  # with the hours before and after, which it cuts
        strength[:, max(outage.start - 1, 0) // window_hours : outage.stop // window_hours + 1] = (
            0.0
        )
    return episodes_above(
        threshold,
        signals=signals,
        distance=distance,
        strength=strength,
        history_windows=history_windows,
        window_hours=window_hours,
        compared_with=compared_with,
    )


def episodes_above(
    threshold: float,
    signals: Sequence[Signal],
    distance: Floats,
    strength: Floats,
    history_windows: int,
    window_hours: int,
    compared_with: str,
) -> list[Episode]:
    """Return the episodes in which a signal is stronger than a threshold, and moved enough.

    Args:
        distance, strength: of each signal in each window, shape (signals, windows).
        history_windows: number of windows of the history.
        window_hours: hours in a window.
    """
    window_count = distance.shape[1]
    relevant_strength = np.where(distance >= SMALLEST_EFFECT, strength, 0.0)
    peak_strength = relevant_strength.max(axis=0)
    episodes = []
    for first_window, last_window in _find_runs(peak_strength[history_windows:] > threshold):
        run = slice(history_windows + first_window, history_windows + last_window + 1)
        strongest = relevant_strength[:, run].max(axis=1)
        moved = tuple(
            MovedSignal(
                signals[index].name,
                signals[index].kind,
                float(distance[index, run].max()),
                float(strongest[index] / threshold),
            )
            for index in np.argsort(-strongest)
            if strongest[index] > threshold
        )
        episodes.append(
            Episode(
                (history_windows + first_window) * window_hours,
                (history_windows + last_window + 1) * window_hours,
                (history_windows + first_window + 1) * window_hours,
                compared_with,
                history_windows + last_window >= window_count - GAP_WINDOWS,
                moved,
            )
        )
    return episodes


def _comparable_classes(
    history_windows: int, window_hours: int
) -> tuple[npt.NDArray[np.int64], str]:
    """Return the class of comparable windows of each window of a cycle, and its name."""
    windows_per_day = 24 // window_hours
    windows_per_week = HOURS_WEEK // window_hours
    if history_windows >= WEEKS_MIN * windows_per_week:
        return np.arange(windows_per_week), "hour and weekday" if window_hours == 1 else "weekday"
    if windows_per_day > 1:
        return np.arange(windows_per_day), "hour"
    return np.zeros(1, np.int64), "all"


def measure_windows(
    counts: Floats,
    window_classes: npt.NDArray[np.int64],
    history_windows: int,
    signal: Signal,
    fixed_reference: Floats | None = None,
) -> tuple[Floats, Floats]:
    """Return the distance and z of each window.

    Args:
        counts: of each window, shape (windows, bins).
        window_classes: class of comparable windows of each window.
        history_windows: number of windows of the history.
        fixed_reference: a histogram to compare the windows after the history with, in place of it.
    """
    totals = np.zeros((int(window_classes.max()) + 1, counts.shape[1]))
    np.add.at(totals, window_classes[:history_windows], counts[:history_windows])
    reference = totals[window_classes]
    reference[:history_windows] -= counts[:history_windows]
    effective_requests = np.maximum(counts.sum(axis=1), 1.0)
    if fixed_reference is not None:
        reference[history_windows:] = fixed_reference
        # The reference has an error too: that of as many requests as it was taken of.
        effective_requests[history_windows:] = 1.0 / (
            1.0 / effective_requests[history_windows:] + 1.0 / max(fixed_reference.sum(), 1.0)
        )
    if signal.kind == TRAFFIC_KIND:
        class_sizes = np.bincount(window_classes[:history_windows], minlength=len(totals))[
            window_classes
        ].astype(np.float64)
        class_sizes[:history_windows] -= 1.0
        usual_counts = reference.sum(axis=1) / np.maximum(class_sizes, 1.0)
        distance = TRAFFIC_SCALE * np.abs(np.log((counts.sum(axis=1) + 1.0) / (usual_counts + 1.0)))
        effective_requests = np.maximum(usual_counts, 1.0)
        is_counted = np.maximum(counts.sum(axis=1), usual_counts) >= EVENTS_MIN
    else:
        if signal.kind == LABEL_KIND:
            clicked_bin = signal.bins.index(CLICKED_BIN)
            log_share, log_usual = (_log_share(each, clicked_bin) for each in (counts, reference))
            distance = LABEL_SCALE * np.abs(log_share - log_usual)
        else:
            distance = distances(counts, reference, is_category=signal.is_category)
        is_counted = (counts.sum(axis=1) >= EVENTS_MIN) & (reference.sum(axis=1) > 0)
    distance = np.where(is_counted, distance, 0.0)
    squared_distance = distance[:history_windows] ** 2
    design = np.column_stack([np.ones(history_windows), 1.0 / effective_requests[:history_windows]])
    is_fitted = is_counted[:history_windows]
    if is_fitted.sum() < COMPARED_MIN:
        return distance, np.zeros(len(counts))
    # One event more or less in a share is chance, even if a history never had one.
    least_square = np.full(len(counts), 1e-12)
    if signal.kind not in (TRAFFIC_KIND, LABEL_KIND):
        least_square = 1.0 / effective_requests**2
    # Robust against drift in the history: the largest values are taken out before the second fit.
    expected_square = np.maximum(squared_distance[is_fitted].mean(), least_square)
    for _ in range(2):
        solution = np.linalg.lstsq(design[is_fitted], squared_distance[is_fitted], rcond=None)[0]
        a = max(float(solution[0]), 0.0)
        b = max(float(solution[1]), 0.0)
        if a + b <= 0:
            break
        expected_square = np.maximum(a + b / effective_requests, least_square)
        ratio = squared_distance / expected_square[:history_windows]
        if (ratio > 0).any():
            is_fitted = is_counted[:history_windows] & (ratio < 5.0 * np.median(ratio[ratio > 0]))
    return distance, distance**2 / expected_square


def _log_share(counts: Floats, index: int) -> Floats:
    return np.log((counts[:, index] + 0.5) / (counts.sum(axis=1) + 1.0))


def find_threshold(strengths: Floats, false_alarms_per_month: float, hours: int) -> float:
    """Return the level that a month without drift passes in `false_alarms_per_month` episodes."""
    peaks = -np.sort(-_find_peaks(strengths))
    peak_count = min(PEAKS_MAX, len(peaks) - 1)
    if peak_count < 3:
        return float(strengths.max(initial=0.0) * 2.0 + 1.0)
    tail_start = peaks[peak_count]
    excess = peaks[:peak_count] - peaks[peak_count]
    if (limit := OUTLIER_RATIO * float(np.median(excess))) > 0:
        excess = excess[excess <= limit]
    expected_alarms = false_alarms_per_month * hours / HOURS_MONTH
    return float(tail_start + excess.mean() * np.log(len(excess) / expected_alarms))


def _find_peaks(strength: Floats) -> Floats:
    """Return local maxima that are more than `GAP_WINDOWS` windows apart."""
    blocks = (
        strength[: len(strength) // GAP_WINDOWS * GAP_WINDOWS].reshape(-1, GAP_WINDOWS).max(axis=1)
    )
    padded = np.concatenate([[-np.inf], blocks, [-np.inf]])
    is_peak = (padded[1:-1] >= padded[:-2]) & (padded[1:-1] > padded[2:])
    return blocks[is_peak]


def _find_runs(is_alarm: Bools, gap_windows: int = GAP_WINDOWS) -> list[tuple[int, int]]:
    """Return first and last window of each run of alarms that are at most `gap_windows` apart."""
    indices = np.flatnonzero(is_alarm)
    if not len(indices):
        return []
    runs = np.split(indices, np.flatnonzero(np.diff(indices) > gap_windows) + 1)
    return [(int(run[0]), int(run[-1])) for run in runs]

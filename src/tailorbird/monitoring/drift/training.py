"""What is served now against what the champion learned from.

The days after the history are compared with the training's histograms, by the distances and the
smallest effect of `detect`. How much a day may differ is learned from the days of the history, each
compared with the others.

A signal that differed already in the time that the training learned from has not moved since: it is
training-serving skew. That time is one more window.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tailorbird.monitoring.drift.detect import (
    DAYS_MIN,
    Episode,
    Floats,
    Signal,
    episodes_above,
    find_threshold,
    measure_windows,
)
from tailorbird.monitoring.drift.distance import SMALLEST_EFFECT

DAY_HOURS = 24
TRAINING = "training"
# A signal of this kind is listed and not judged: the first item of a response is chosen among more
# candidates than the training rows have.
LISTED_ONLY_KIND = "score"


@dataclass(frozen=True)
class Shift:
    """Distances of one signal to its histogram in the training; NaN if nothing was served.

    Attributes:
        current_distance: of the compared days together.
        training_distance: of the time that the training learned from.
        is_skew: it was apart already then, by more than chance and by the smallest effect.
    """

    current_distance: float
    training_distance: float
    is_skew: bool


def compare_with_training(
    signal_pairs: Sequence[tuple[Signal, Floats]],
    history_hours: int,
    training_hours: slice,
    *,
    false_alarms_per_month: float = 1.0,
) -> tuple[list[Episode], dict[str, Shift]]:
    """Return the episodes after the history, and the shift of each signal.

    Args:
        signal_pairs: signals, each with its histogram in the training, shape (bins,).
        history_hours: number of hours, from the first, that the variation of a day is learned from.
        training_hours: the hours that the training learned from, as far as they were served.
        false_alarms_per_month: episodes a month that chance alone may cause, over all signals.
    """
    signal_pairs = [
        (signal, training_histogram)
        for signal, training_histogram in signal_pairs
        if training_histogram.sum() > 0
    ]
    judged_indexes = [
        index for index, (signal, _) in enumerate(signal_pairs) if signal.kind != LISTED_ONLY_KIND
    ]
    if not judged_indexes or history_hours < DAYS_MIN * DAY_HOURS:
        return [], {}
    days = len(signal_pairs[0][0].counts) // DAY_HOURS
    history_days = history_hours // DAY_HOURS
    # After the days come two windows: all compared days, and the time of the training.
    window_classes = np.zeros(days + 2, np.int64)
    distance, strength = np.zeros((2, len(signal_pairs), days + 2))
    for index, (signal, training_histogram) in enumerate(signal_pairs):
        hourly_counts = signal.counts[: days * DAY_HOURS]
        counts = np.concatenate(
            [
                hourly_counts.reshape(days, DAY_HOURS, -1).sum(axis=1),
                hourly_counts[history_days * DAY_HOURS :].sum(axis=0, keepdims=True),
                signal.counts[training_hours].sum(axis=0, keepdims=True),
            ]
        )
        distance[index], strength[index] = measure_windows(
            counts, window_classes, history_days, signal, training_histogram
        )
    threshold = find_threshold(
        strength[judged_indexes, :history_days].max(axis=0, initial=0.0),
        false_alarms_per_month,
        history_days * DAY_HOURS,
    )
    is_skew = (distance[:, -1] >= SMALLEST_EFFECT) & (strength[:, -1] > threshold)
    shifts = {
        signal.name: Shift(
            _distance_if_served(signal, slice(history_days * DAY_HOURS, None), distance[index, -2]),
            _distance_if_served(signal, training_hours, distance[index, -1]),
            bool(is_skew[index]),
        )
        for index, (signal, _) in enumerate(signal_pairs)
    }
    signals = [signal_pairs[index][0] for index in judged_indexes]
    judged_days = np.ix_(judged_indexes, range(days))
    episodes = episodes_above(
        threshold,
        signals=signals,
        distance=distance[judged_days],
        strength=strength[judged_days],
        history_windows=history_days,
        window_hours=DAY_HOURS,
        compared_with=TRAINING,
    )
    return episodes, shifts


def _distance_if_served(signal: Signal, hours: slice, distance: float) -> float:
    return float(distance) if signal.counts[hours].sum() > 0 else math.nan

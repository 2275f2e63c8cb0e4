"""What is served against what the champion learned from: drift since then, and skew from the start."""

import math

import numpy as np
import pytest

from tailorbird.monitoring.drift import Signal
from tailorbird.monitoring.drift.training import compare_with_training

DAYS, HISTORY, TRAINED = 35, 28 * 24, slice(0, 21 * 24)


def numbers(rng, name, *, mean=0.0, mean_now=0.0, mean_trained=0.0, kind="feature"):
    """Return a signal of numbers by hour, and its histogram in the training."""
    day = np.repeat(rng.normal(0.0, 0.02, DAYS), 24)
    means = np.where(np.arange(DAYS * 24) < HISTORY, mean, mean_now) + day
    return Signal(name, draw(rng, means, 200), kind=kind), draw(rng, [mean_trained], 20_000)[0]


def draw(rng, means, count):
    grid = np.linspace(-3, 3, 13)
    density = np.exp(-0.5 * (grid - np.asarray(means)[:, None]) ** 2)
    probability = density / density.sum(axis=1, keepdims=True)
    return np.column_stack([np.zeros(len(means)), rng.multinomial(count, probability)]).astype(
        float
    )


def test_episodes_say_what_moved_since_the_training_and_what_was_apart_from_the_start():
    rng = np.random.default_rng(0)
    pairs = [
        *(numbers(rng, f"f{index}") for index in range(8)),
        numbers(rng, "moved", mean_now=0.6),
        numbers(rng, "skewed", mean=0.6, mean_now=0.6),
        numbers(rng, "score", mean=0.6, mean_now=0.6, kind="score"),
    ]
    (episode,), shifts = compare_with_training(pairs, HISTORY, TRAINED)
    assert (episode.start, episode.is_open, episode.compared_with) == (HISTORY, True, "training")
    assert {one.name for one in episode.moved} == {"moved", "skewed"}, "scores open no episode"
    assert not shifts["moved"].is_skew
    assert shifts["moved"].training_distance < 0.03 < shifts["moved"].current_distance
    assert shifts["skewed"].is_skew
    assert shifts["skewed"].training_distance == pytest.approx(
        shifts["skewed"].current_distance, abs=0.03
    )
    assert shifts["f0"].current_distance < 0.03


def test_nothing_moved_is_no_episode():
    counts = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        pairs = [numbers(rng, f"f{index}") for index in range(20)]
        counts.append(len(compare_with_training(pairs, HISTORY, TRAINED)[0]))
    assert sum(counts) <= 2, "a week has a quarter of the one a month that is stated"


def test_what_was_not_served_in_the_time_of_the_training_is_unknown():
    rng = np.random.default_rng(0)
    _, shifts = compare_with_training([numbers(rng, "f", mean_now=1.0)], HISTORY, slice(0, 0))
    assert math.isnan(shifts["f"].training_distance)
    assert not shifts["f"].is_skew

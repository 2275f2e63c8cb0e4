"""Intervals: as wide as theory says, over people rather than requests, and paired."""

import numpy as np
import pytest

from tailorbird.training.evaluation import metrics
from tailorbird.training.evaluation.bootstrap import Bootstrap
from tailorbird.training.evaluation.calibration import measure_calibration


def test_the_interval_of_a_mean_is_as_wide_as_the_normal_one():
    rng = np.random.default_rng(0)
    value = rng.normal(2.0, 1.0, 4_000)
    interval = Bootstrap(np.arange(4_000)).mean(value)
    half = 1.96 / np.sqrt(4_000)
    assert interval.value == pytest.approx(value.mean())
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.1)


def test_people_are_resampled_not_requests():
    rng = np.random.default_rng(1)
    person = np.repeat(np.arange(200), 20)
    value = np.repeat(rng.normal(size=200), 20)  # a person's requests are all alike
    honest = Bootstrap(person).mean(value)
    naive = Bootstrap(np.arange(4_000)).mean(value)
    assert (honest.high - honest.low) / (naive.high - naive.low) == pytest.approx(
        np.sqrt(20), rel=0.15
    )


def test_intervals_cover_the_true_value_at_their_level():
    rng = np.random.default_rng(2)
    covered = 0
    for run in range(300):
        sizes = rng.integers(1, 9, 150)
        person = np.repeat(np.arange(150), sizes)
        value = (rng.random(len(person)) < np.repeat(rng.beta(2, 6, 150), sizes)).astype(float)
        interval = Bootstrap(person, replicates=300, seed=run).mean(value)
        covered += interval.low <= 0.25 <= interval.high
    assert 0.90 <= covered / 300 <= 0.98


def test_a_difference_is_paired():
    rng = np.random.default_rng(3)
    shared = rng.normal(0, 5, 1_000)
    first, second = shared + 0.1 + rng.normal(0, 0.1, 1_000), shared
    bootstrap = Bootstrap(np.arange(1_000))
    difference = bootstrap.difference(first, second)
    assert 0.08 < difference.low < difference.value < difference.high < 0.12
    alone = bootstrap.mean(first)
    assert alone.high - alone.low > 10 * (difference.high - difference.low)


def test_missing_values_are_left_out():
    interval = Bootstrap(np.arange(4)).mean(np.array([1.0, np.nan, 1.0, 1.0]))
    assert interval.value == 1.0


def test_one_person_gives_no_interval():
    assert not Bootstrap(np.zeros(10, int)).mean(np.arange(10.0)).has_bounds


def test_the_auc_interval_agrees_with_resampling_by_hand():
    rng = np.random.default_rng(4)
    person = np.repeat(np.arange(300), 10)
    label = rng.random(3_000) < 0.3
    score = label * 0.4 + rng.random(3_000) + np.repeat(rng.normal(0, 0.2, 300), 10)
    bootstrap = Bootstrap(np.arange(300))
    interval = bootstrap.auc(metrics.auc(score, label), metrics.auc_influence(score, label), person)
    draws = [
        metrics.auc(score, label, rng.poisson(1.0, 300)[person].astype(float)) for _ in range(400)
    ]
    low, high = np.quantile(draws, [0.025, 0.975])
    assert interval.low == pytest.approx(low, abs=0.006)
    assert interval.high == pytest.approx(high, abs=0.006)


def test_the_calibration_interval_lies_around_the_figure():
    rng = np.random.default_rng(5)
    p = rng.uniform(0.1, 0.6, 5_000)
    label = rng.random(5_000) < p * 0.8
    calibration = measure_calibration(p, label)
    interval, debiased = Bootstrap(np.arange(500)).calibration_errors(
        calibration, p, label, np.repeat(np.arange(500), 10)
    )
    assert interval.low < interval.value < interval.high
    assert interval.low > 0.03
    assert debiased.low < debiased.value < debiased.high


@pytest.mark.slow
def test_many_people_are_drawn_in_parts_with_the_same_result_each_time():
    value = np.random.default_rng(6).random(60_000)
    first, second = (
        Bootstrap(np.arange(60_000), replicates=900, seed=7).mean(value) for _ in range(2)
    )
    assert first == second


def test_a_figure_of_weights_is_drawn_in_the_same_replicates():
    value = np.random.default_rng(7).random(200)
    bootstrap = Bootstrap(np.arange(200))
    draws = bootstrap.resample_metrics(lambda weight: [weight @ value / weight.sum(), weight.max()])
    assert draws.shape == (1_000, 2)
    mean, drawn = bootstrap.mean(value), bootstrap.interval(value.mean(), draws[:, 0])
    assert (drawn.low, drawn.high) == pytest.approx((mean.low, mean.high))

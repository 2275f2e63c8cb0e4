"""Statistics of experiments: against each other, and against simulated truth."""

import math

import numpy as np
import pytest

from tailorbird.experiments.statistics import (
    Moments,
    always_valid_uplift,
    proportion_interval,
    relative_uplift,
    sample_ratio_p,
)


def users(rng, n, rate):
    """Items seen and clicks of users who differ in both: the heavy ones click more."""
    taste = rng.gamma(3.0, 1 / 3.0, n)
    seen = 1 + rng.poisson(20 * taste)
    return rng.binomial(seen, np.clip(rate * taste, 0, 1)), seen


def test_moments_of_shards_add_up():
    rng = np.random.default_rng(0)
    x, y = users(rng, 100, 0.1)
    parts = Moments.from_totals(x[:30], y[:30]) + Moments.from_totals(x[30:], y[30:])
    assert parts == Moments.from_totals(x, y)


def test_delta_variance_agrees_with_the_bootstrap():
    rng = np.random.default_rng(2)
    x, y = users(rng, 800, 0.08)
    draws = rng.integers(0, len(x), (2_000, len(x)))
    bootstrap = np.var(x[draws].sum(axis=1) / y[draws].sum(axis=1))
    assert Moments.from_totals(x, y).variance == pytest.approx(bootstrap, rel=0.1)


def test_users_as_units_are_less_sure_than_clicks_as_units():
    rng = np.random.default_rng(3)
    x, y = users(rng, 2_000, 0.08)
    rate = x.sum() / y.sum()
    assert Moments.from_totals(x, y).variance > 1.5 * rate * (1 - rate) / y.sum()


def test_uplift_interval_covers_the_truth_at_its_level():
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(1_000):
        control, treatment = (
            Moments.from_totals(*users(rng, 300, 0.05)),
            Moments.from_totals(*users(rng, 200, 0.06)),
        )
        interval = relative_uplift(treatment, control)
        covered += interval.low <= 0.2 <= interval.high
    low, high = proportion_interval(covered, 1_000, level=0.999)
    assert low <= 0.95 <= high


def test_swapping_the_arms_inverts_the_interval():
    rng = np.random.default_rng(5)
    a, b = Moments.from_totals(*users(rng, 300, 0.05)), Moments.from_totals(*users(rng, 300, 0.07))
    there, back = relative_uplift(b, a), relative_uplift(a, b)
    assert 1 + there.low == pytest.approx(1 / (1 + back.high))
    assert there.p == pytest.approx(back.p)


def test_without_clicks_nothing_is_claimed():
    nothing, some = Moments.from_totals([0, 0], [5, 5]), Moments.from_totals([1, 2], [5, 5])
    assert math.isnan(relative_uplift(some, nothing).value)
    assert not relative_uplift(some, nothing).excludes_zero


@pytest.mark.slow
def test_daily_looks_inflate_errors_of_the_fixed_interval_but_not_of_the_always_valid():
    rng = np.random.default_rng(6)
    fixed = always = 0
    runs = 200
    for _ in range(runs):
        a, b = Moments.from_totals([], []), Moments.from_totals([], [])
        fixed_hit = always_hit = False
        for _ in range(40):
            a, b = (
                a + Moments.from_totals(*users(rng, 50, 0.06)),
                b + Moments.from_totals(*users(rng, 50, 0.06)),
            )
            fixed_hit |= relative_uplift(b, a).excludes_zero
            always_hit |= always_valid_uplift(b, a, tuned_for_units=4_000).excludes_zero
        fixed += fixed_hit
        always += always_hit
    assert fixed / runs > 0.15
    assert always / runs < 0.08


def test_sample_ratio_alarms_on_a_broken_split_only():
    shares = {"a": 0.5, "b": 0.5}
    assert sample_ratio_p({"a": 5_050, "b": 4_950}, shares) > 0.1
    assert sample_ratio_p({"a": 5_300, "b": 4_700}, shares) < 1e-6
    assert sample_ratio_p({"a": 100}, {"a": 0.5}) != sample_ratio_p(
        {"a": 100}, {"a": 0.5}
    )  # one arm: NaN

"""Group sequential designs: published boundaries, the level, power, and estimates after
stopping.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailorbird.experiments.analysis.sequential import (
    SPENDING_FUNCTIONS,
    compute_boundaries,
    conditional_power,
    estimate_after_stopping,
    exit_probabilities,
    plan_design,
    repeated_interval,
    select_stages,
    spent_alpha,
)

FIVE = np.arange(1, 6) / 5
# Jennison and Turnbull (2000) and the software of Reboussin, DeMets, Kim and Lan: five equal looks.
PUBLISHED = {
    "obrien_fleming": [4.877, 3.357, 2.680, 2.290, 2.031],
    "pocock": [2.438, 2.427, 2.410, 2.397, 2.386],
}


@pytest.mark.parametrize("spending", SPENDING_FUNCTIONS)
def test_five_equal_looks_have_the_published_boundaries(spending: str) -> None:
    bounds = compute_boundaries(FIVE, planned=1.0, spending=spending)
    assert bounds == pytest.approx(PUBLISHED[spending], abs=0.001)


@settings(max_examples=25, deadline=None)
@given(
    steps=st.lists(st.floats(0.01, 1.0), min_size=1, max_size=12),
    spending=st.sampled_from(SPENDING_FUNCTIONS),
    overrun=st.floats(0.8, 1.3),
)
def test_the_level_holds_for_unequal_late_and_extra_looks(
    steps: list[float], spending: str, overrun: float
) -> None:
    information = np.cumsum(steps) * 100
    planned = float(information[-1] * overrun)
    bounds = compute_boundaries(information, planned=planned, spending=spending, is_final=True)
    crossed = exit_probabilities(information, bounds, 0.0).total
    assert crossed == pytest.approx(0.05, abs=2e-4)


def test_alpha_is_spent_once() -> None:
    bounds = compute_boundaries([0.5, 1.0, 1.2], planned=1.0)
    assert bounds[2] == 8.0  # nothing is left
    assert spent_alpha(1.0, 0.05) == pytest.approx(0.025)
    with pytest.raises(ValueError, match="ascending"):
        compute_boundaries([0.5, 0.5], planned=1.0)


def test_a_plan_has_its_power_and_costs_little_more_than_a_fixed_test() -> None:
    design = plan_design(14)
    assert exit_probabilities(design.times, design.bounds, design.drift).total == pytest.approx(
        0.8, abs=1e-5
    )
    assert 1.03 < design.inflation < 1.06
    assert design.expected_share < 0.78
    assert plan_design(1).inflation == pytest.approx(1.0, abs=1e-5)
    assert plan_design(14, spending="pocock").inflation > 1.2


def test_a_single_look_gives_the_usual_interval() -> None:
    result = estimate_after_stopping(np.array([4.0]), np.array([1.96]), 2.5)
    assert (result.value, result.low, result.high) == pytest.approx(
        (1.25, 1.25 - 0.98, 1.25 + 0.98), abs=1e-3
    )
    assert result.p == pytest.approx(0.0124, abs=1e-4)


@pytest.mark.parametrize("effect", [0.0, 2.5])
def test_estimates_after_stopping_are_median_unbiased_and_cover(effect: float) -> None:
    rng, bounds = np.random.default_rng(5), plan_design(5).bounds
    steps = rng.normal(effect / 5, math.sqrt(1 / 5), (500, 5))
    z = steps.cumsum(axis=1) / np.sqrt(FIVE)
    low = median = covered = 0
    for walk in z:
        crossed = np.flatnonzero(np.abs(walk) >= bounds)
        stage = int(crossed[0]) if len(crossed) else 4
        result = estimate_after_stopping(FIVE[: stage + 1], bounds[: stage + 1], float(walk[stage]))
        covered += result.low <= effect <= result.high
        median += result.value <= effect
        low += result.low > effect
    assert 0.92 < covered / 500 < 0.98
    assert 0.43 < median / 500 < 0.57
    assert low < 30


def test_estimates_swap_with_the_arms() -> None:
    bounds = plan_design(5).bounds
    up = estimate_after_stopping(FIVE[:3], bounds[:3], 3.0)
    down = estimate_after_stopping(FIVE[:3], bounds[:3], -3.0)
    assert (down.value, down.low, down.high) == pytest.approx((-up.value, -up.high, -up.low))
    assert up.value < 3.0 / math.sqrt(0.6)  # stopping early exaggerates


def test_repeated_interval_excludes_zero_once_the_boundary_is_crossed() -> None:
    assert repeated_interval(2.7, 0.6, 2.68)[0] > 0
    assert repeated_interval(2.6, 0.6, 2.68)[0] < 0
    assert repeated_interval(1.0, 0.1, 8.0) == (-math.inf, math.inf)


def test_conditional_power_falls_with_a_bad_trend() -> None:
    good, bad = (conditional_power(z, 0.7, 2.8, final_bound=2.03) for z in (1.5, -1.0))
    assert good > 0.5 > 0.1 > bad
    assert conditional_power(2.1, 1.0, 2.8, final_bound=2.03) == 1.0


def test_stages_that_add_no_information_are_left_out() -> None:
    assert select_stages([10, 10.1, 9, 30, 60, 60.2], planned=100).tolist() == [0, 3, 5]
    assert select_stages([50, 20], planned=100).tolist() == [1]

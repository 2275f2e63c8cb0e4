"""Confidence sequences, estimates, variance reduction, multiplicity, sample ratio and segments."""

import math

import numpy as np
import pytest
from scipy import stats

from tailorbird.experiments.analysis import estimates
from tailorbird.experiments.analysis.adjust import cuped
from tailorbird.experiments.analysis.anytime import anytime_bound, confidence_sequence, split_alpha
from tailorbird.experiments.analysis.multiple import adjust_holm
from tailorbird.experiments.analysis.sample_ratio import sample_ratio_log_factors, sample_ratio_p
from tailorbird.experiments.analysis.segments import shrink_segments


def test_a_confidence_sequence_holds_at_every_look() -> None:
    rng = np.random.default_rng(1)
    n = np.arange(1, 4_001)
    walks = rng.normal(size=(1_000, len(n))).cumsum(axis=1) / np.sqrt(n)
    ever = (np.abs(walks) > anytime_bound(n, tuned_for_units=2_000)).any(axis=1).mean()
    peeked = (np.abs(walks[:, 99:]) > 1.96).any(axis=1).mean()
    assert ever < 0.05 < 0.3 < peeked


def test_a_confidence_sequence_concludes_nothing_before_its_burn_in() -> None:
    assert confidence_sequence(1.0, 0.01, 99, tuned_for_units=1_000) == (-math.inf, math.inf)
    low, high = confidence_sequence(1.0, 0.01, 1_000, tuned_for_units=1_000)
    assert 0.96 < low < 0.98
    assert high - 1 == pytest.approx(1 - low)
    widths = anytime_bound([100, 1_000, 10_000_000], tuned_for_units=1_000)
    assert widths[1] < min(widths[0], widths[2])
    assert split_alpha(0.05, 5) == pytest.approx(0.01)


def test_cuped_leaves_one_minus_rho_squared_and_keeps_the_effect() -> None:
    rng, rho, n = np.random.default_rng(2), 0.7, 20_000
    before = rng.normal(size=n)
    arm = rng.integers(0, 2, n)
    y = 5 + rho * before + math.sqrt(1 - rho**2) * rng.normal(size=n) + 0.1 * arm
    adjusted = cuped(y, before, arm)
    assert adjusted.variance_ratio == pytest.approx(1 - rho**2, abs=0.02)
    difference = adjusted.values[arm == 1].mean() - adjusted.values[arm == 0].mean()
    assert difference == pytest.approx(0.1, abs=0.04)
    assert adjusted.values.mean() == pytest.approx(y.mean())


def test_cuped_survives_covariates_without_content() -> None:
    y, arm = np.arange(10.0), np.arange(10) % 2
    assert cuped(y, np.ones((10, 2)), arm).values == pytest.approx(y)


def test_cuped_on_indicators_is_post_stratification() -> None:
    rng, n = np.random.default_rng(3), 4_000
    stratum, arm = rng.integers(0, 3, n), rng.integers(0, 2, n)
    y = rng.normal(size=n) + 10 * stratum + 0.5 * arm
    adjusted = cuped(y, np.stack([stratum == 1, stratum == 2], axis=1), arm).values
    difference = adjusted[arm == 1].mean() - adjusted[arm == 0].mean()
    by_stratum = [
        y[(stratum == each) & (arm == 1)].mean() - y[(stratum == each) & (arm == 0)].mean()
        for each in range(3)
    ]
    stratified = np.bincount(stratum) / n @ by_stratum
    error = math.sqrt(4 / n)
    assert difference == pytest.approx(stratified, abs=0.1 * error)
    assert estimates.mean(adjusted[arm == 1]).variance < 0.05 * estimates.mean(y[arm == 1]).variance


def test_a_ratio_has_the_delta_method_variance() -> None:
    rng = np.random.default_rng(4)
    values = []
    for _ in range(800):
        shown = rng.integers(1, 30, 300)
        clicks = rng.binomial(shown, rng.beta(2, 18, 300))
        values.append(estimates.ratio(clicks, shown))
    spread = np.std([each.value for each in values])
    assert np.mean([math.sqrt(each.variance) for each in values]) == pytest.approx(spread, rel=0.08)
    x, y = np.array([1.0, 0, 2, 4]), np.array([10.0, 8, 12, 20])
    overall = estimates.ratio(x, y)
    assert overall.value == pytest.approx(0.14)
    assert overall == estimates.mean(estimates.linearise(x, y))


def test_quantiles_cover() -> None:
    """Amounts have no ties. Counts do: the median of their mid-distribution is 7/8 here."""
    rng = np.random.default_rng(6)
    counts = np.repeat([0, 1, 2], [3, 5, 2])  # mid-distribution 0.15, 0.55, 0.9
    for probability, truth, values in (
        (0.9, stats.expon.ppf(0.9), rng.exponential(size=(1_000, 400))),
        (0.5, 0.875, rng.choice(counts, (1_000, 400))),
    ):
        found = [estimates.quantile(row, probability) for row in values]
        away = [abs(each.value - truth) <= 1.96 * math.sqrt(each.variance) for each in found]
        assert 0.93 < np.mean(away) < 0.985


def test_an_effect_swaps_with_the_arms_and_is_absent_without_data() -> None:
    a, b = estimates.Estimate(0.12, 1e-5, 900), estimates.Estimate(0.1, 1e-5, 1_000)
    effect, swapped = estimates.compare(a, b), estimates.compare(b, a)
    assert effect is not None
    assert swapped is not None
    assert effect.uplift == pytest.approx(0.2)
    assert effect.z == pytest.approx(-swapped.z)
    low, high = effect.interval()
    assert low < 0.2 < high
    assert effect.p == pytest.approx(swapped.p)
    assert estimates.compare(a, estimates.Estimate(0.0, 0.0, 10)) is None
    assert estimates.winsorise([1.0, 2, 3, 1_000], 0.5).max() == 2.5


def test_holm_adjusts_for_several_arms() -> None:
    assert adjust_holm([0.001, 0.04, 0.03, 0.8, 0.02]) == pytest.approx(
        [0.005, 0.09, 0.09, 0.8, 0.08]
    )


def test_a_wrong_split_is_found_and_a_right_one_never() -> None:
    rng = np.random.default_rng(7)
    alarms = 0
    for share in (0.5, 0.53):
        draws = rng.binomial(1_000, share, (300, 20)).cumsum(axis=1)
        total = 1_000 * np.arange(1, 21)
        p = [sample_ratio_p(np.stack([row, total - row], axis=1), [1, 1]) for row in draws]
        alarms = np.mean(np.array(p) < 0.001)
        assert alarms <= 0.01 if share == 0.5 else alarms > 0.95
    assert sample_ratio_log_factors([[0, 0]], [1, 3]) == pytest.approx(0.0)
    assert sample_ratio_p([[250, 750]], [1, 3]) == 1.0


def test_segments_shrink_to_their_mean_unless_they_differ() -> None:
    same = [estimates.Effect(0.1 + d, 0.1, 500) for d in (-0.05, 0.0, 0.05)]
    result = shrink_segments(["a", "b", "c"], same)
    assert result.p_equal > 0.5
    assert {round(each.uplift, 6) for each in result.effects} == {round(math.expm1(0.1), 6)}
    different = [estimates.Effect(d, 0.01, 500) for d in (-0.2, 0.2)]
    apart = shrink_segments(["a", "b"], different)
    assert apart.p_equal < 1e-6
    assert apart.effects[0].uplift == pytest.approx(apart.effects[0].own, abs=0.005)

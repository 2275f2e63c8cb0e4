"""Every statistic that is written by hand, against SciPy or scikit-learn on the same values.

Values are drawn with ties, as constants, alone, absent and as NaN. Where the other says NaN, ours
must say that nothing is known.
"""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats
from scipy.spatial.distance import jensenshannon
from sklearn.metrics import roc_auc_score

from tailorbird.experiments.analysis import estimates
from tailorbird.experiments.analysis.adjust import cuped
from tailorbird.experiments.analysis.estimates import Effect
from tailorbird.experiments.analysis.multiple import adjust_holm
from tailorbird.experiments.analysis.sample_ratio import CONCENTRATIONS, sample_ratio_log_factors
from tailorbird.experiments.analysis.segments import shrink_segments
from tailorbird.experiments.distributions import (
    chi_square_tail,
    normal_quantile,
    normal_tail,
    student_quantile,
    student_tail,
)
from tailorbird.experiments.statistics import (
    Moments,
    difference,
    proportion_interval,
    relative_uplift,
    sample_ratio_p,
)
from tailorbird.monitoring.amounts import _deviance
from tailorbird.monitoring.decisions.champion import dispersion_of
from tailorbird.monitoring.decisions.evidence import rate_above, rate_below
from tailorbird.monitoring.drift.distance import distances
from tailorbird.monitoring.figures.cells import LATENCY_BUCKETS, latency_bucket, latency_quantile
from tailorbird.monitoring.figures.label_free import auc_of
from tailorbird.monitoring.usual import stability_index, usual_shares

# Few distinct values give ties and constants; lists begin at none.
FEW_VALUES = st.sampled_from([0.0, 0.1, 0.3, 1.0, 2.5, 7.0])
SAMPLES = st.lists(FEW_VALUES, max_size=12) | st.builds(
    lambda value, size: [value] * size, FEW_VALUES, st.integers(0, 12)
)
WITH_NAN = st.lists(FEW_VALUES, max_size=6).map(lambda values: [*values, math.nan])
COUNTS = st.lists(st.integers(0, 40), min_size=2, max_size=6)
quick = settings(max_examples=150, deadline=None, derandomize=True)


def is_constant(*samples):
    return all(len(set(sample)) <= 1 for sample in samples)


@quick
@given(st.floats(-12, 12), st.floats(0, 1_100), st.floats(-30, 30), st.floats(0.5, 1e6))
def test_tails(z, x, t, freedom):
    assert normal_tail(z) == pytest.approx(stats.norm.sf(z), rel=1e-12)
    freedom_x = min(freedom, 1_000.0)
    assert chi_square_tail(x, freedom_x) == pytest.approx(
        stats.chi2.sf(x, freedom_x), rel=1e-8, abs=1e-290
    )
    assert student_tail(t, freedom) == pytest.approx(stats.t.sf(t, freedom), rel=1e-7, abs=1e-250)


@quick
@given(st.floats(1e-4, 1 - 1e-4), st.floats(1, 1e5))
def test_quantiles(probability, freedom):
    assert normal_quantile(probability) == pytest.approx(stats.norm.ppf(probability), abs=1e-9)
    assert student_quantile(probability, math.inf) == pytest.approx(
        stats.norm.ppf(probability), abs=1e-9
    )
    assert student_quantile(probability, freedom) == pytest.approx(
        stats.t.ppf(probability, freedom), rel=1e-6, abs=1e-8
    )


@quick
@given(st.sampled_from([math.nan]), st.floats(1, 100))
def test_tails_of_nan_are_nan(x, freedom):
    assert math.isnan(normal_tail(x))
    assert math.isnan(student_tail(x, freedom))
    assert math.isnan(chi_square_tail(x, freedom))


@quick
@given(SAMPLES | WITH_NAN, SAMPLES)
def test_difference_is_welchs_test(a, b):
    interval = difference(Moments.from_totals(a), Moments.from_totals(b))
    if min(len(a), len(b)) < 2 or is_constant(a, b) or np.isnan(a).any():
        assert math.isnan(interval.value)
        assert not interval.excludes_zero
        return
    expected = stats.ttest_ind(a, b, equal_var=False)
    bounds = expected.confidence_interval(0.95)
    assert interval.p == pytest.approx(expected.pvalue, rel=1e-5, abs=1e-12)
    assert (interval.low, interval.high) == pytest.approx((bounds.low, bounds.high), abs=1e-6)


@quick
@given(st.integers(0, 50), st.integers(1, 50), st.sampled_from([0.9, 0.95, 0.99]))
def test_proportion_interval_is_wilsons(hits, more, level):
    runs = max(hits, more)
    expected = stats.binomtest(hits, runs).proportion_ci(level, method="wilson")
    assert proportion_interval(hits, runs, level=level) == pytest.approx(tuple(expected), abs=1e-9)


@quick
@given(st.lists(st.integers(0, 500), min_size=2, max_size=4))
def test_split_is_the_chi_square_test(users):
    arms = {f"arm{index}": count for index, count in enumerate(users)}
    p = sample_ratio_p(arms, dict.fromkeys(arms, 1.0))
    if not sum(users):
        assert math.isnan(p)
        return
    assert p == pytest.approx(stats.chisquare(users).pvalue, rel=1e-8, abs=1e-250)


@quick
@given(st.lists(st.integers(0, 500), min_size=2, max_size=4))
def test_anytime_split_is_a_ratio_of_likelihoods(users):
    shares = np.arange(1.0, len(users) + 1)
    shares /= shares.sum()
    total = sum(users)
    null = stats.multinomial.logpmf(users, total, shares)
    mixtures = [
        stats.dirichlet_multinomial.logpmf(users, concentration * shares, total)
        for concentration in CONCENTRATIONS
    ]
    expected = special.logsumexp(mixtures) - math.log(len(CONCENTRATIONS)) - null
    assert sample_ratio_log_factors(users, shares)[0] == pytest.approx(expected, abs=1e-6)


@quick
@given(SAMPLES | WITH_NAN)
def test_mean(values):
    estimate = estimates.mean(values)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        expected, error = np.mean(values), stats.sem(values)
    assert estimate.value == pytest.approx(expected, nan_ok=True)
    if len(values) > 1 and is_constant(values):
        assert estimate.variance == 0.0, "not what is left of rounding"
    else:
        assert math.sqrt(estimate.variance) == pytest.approx(error, nan_ok=True)


@quick
@given(FEW_VALUES, st.integers(2, 12), st.integers(2, 12))
def test_equal_constants_never_differ(value, treatment_units, control_units):
    treatment, control = [value] * treatment_units, [value] * control_units
    assert estimates.compare(estimates.mean(treatment), estimates.mean(control)) is None
    moments = Moments.from_totals(treatment), Moments.from_totals(control)
    assert math.isnan(relative_uplift(*moments).value)
    assert math.isnan(difference(*moments).value)


@quick
@given(st.lists(st.floats(0, 100), min_size=1, max_size=40), st.sampled_from([0.5, 0.75, 0.95]))
def test_quantile_without_ties_is_hazens(values, probability):
    distinct = np.unique(np.round(values, 3))
    expected = np.quantile(distinct, probability, method="hazen")
    assert estimates.quantile(distinct, probability).value == pytest.approx(expected, abs=1e-9)


@quick
@given(SAMPLES, st.sampled_from([0.1, 0.5, 0.95]))
def test_quantile_with_ties_stays_among_the_values(values, probability):
    estimate = estimates.quantile(values, probability)
    if not values:
        assert math.isnan(estimate.value)
        return
    assert min(values) <= estimate.value <= max(values)
    if is_constant(values) and len(values) > 1:
        assert (estimate.value, estimate.variance) == (values[0], 0.0)


@quick
@given(SAMPLES | WITH_NAN)
def test_winsorised_values_are_clipped(values):
    capped = estimates.winsorise(values, 0.9)
    if values and not np.isnan(values).any():
        np.testing.assert_allclose(capped, np.clip(values, None, np.quantile(values, 0.9)))
    else:
        assert len(capped) == len(values)
        assert np.isnan(capped).all(), "of unknown values no quantile is known"


@quick
@given(st.lists(st.sampled_from([0.0, 0.01, 0.02, 0.04, 0.5, 1.0, math.nan]), max_size=8))
def test_holm(p):
    adjusted, known = adjust_holm(p), [value for value in p if not math.isnan(value)]
    # Holm by its definition: the largest over the smaller ones of p times those not smaller.
    for value, result in zip(p, adjusted, strict=True):
        if math.isnan(value):
            assert math.isnan(result)
            continue
        steps = [other * sum(each >= other for each in known) for other in known if other <= value]
        assert result == pytest.approx(min(max(steps), 1.0))


@quick
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_cuped_is_a_regression_within_one_arm(seed, is_covariate_constant):
    rng = np.random.default_rng(seed)
    before = np.full(20, 3.0) if is_covariate_constant else rng.integers(0, 4, 20).astype(float)
    values = rng.integers(0, 4, 20) + before
    adjusted = cuped(values, before, np.zeros(20, int))
    if is_constant(before):
        np.testing.assert_allclose(adjusted.values, values)
        return
    line = stats.linregress(before, values)
    np.testing.assert_allclose(
        adjusted.values, values - line.slope * (before - before.mean()), atol=1e-9
    )
    assert adjusted.variance_ratio == pytest.approx(1 - line.rvalue**2, abs=1e-9)


@quick
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=6))
def test_effects_of_segments_are_pooled_by_their_precision(log_ratios):
    effects = [Effect(value, 0.1 * (1 + index), 100) for index, value in enumerate(log_ratios)]
    shrunk = shrink_segments([str(index) for index in range(len(effects))], effects)
    errors = np.array([effect.standard_error for effect in effects])
    centre = np.average(log_ratios, weights=errors**-2)
    heterogeneity = (((log_ratios - centre) / errors) ** 2).sum()
    if len(effects) == 1:
        assert math.isnan(shrunk.p_equal)
        assert shrunk.effects[0].uplift == pytest.approx(effects[0].uplift)
    else:
        assert shrunk.p_equal == pytest.approx(stats.chi2.sf(heterogeneity, len(effects) - 1))


@quick
@given(st.integers(0, 60), st.integers(0, 60), st.sampled_from([0.01, 0.3, 0.5, 0.9]))
def test_evidence_on_a_rate_is_a_ratio_of_likelihoods(hits, misses, limit):
    trials = hits + misses
    evidence = rate_above(hits, trials, limit)
    if hits <= limit * trials:
        assert evidence == 0.0
        return

    def relative_likelihood(rate):
        log = special.xlogy(hits, rate / limit) + special.xlogy(misses, (1 - rate) / (1 - limit))
        return np.exp(log) / (1 - limit)

    mixture, _ = integrate.quad(
        relative_likelihood, limit, 1.0, points=[max(hits / trials, limit)], epsrel=1e-10
    )
    assert evidence == pytest.approx(math.log(mixture), abs=1e-5)
    # One look exceeds e^evidence at most as often as the exact test says.
    p = stats.binomtest(hits, trials, limit, alternative="greater").pvalue
    assert evidence <= -math.log(p) + 1e-9


def test_evidence_without_trials_or_with_nan_is_none():
    assert rate_above(0, 0, 0.1) == 0.0
    assert not rate_above(math.nan, 10, 0.1) > 0
    assert rate_below(0, 0.0, 5, 10.0) == rate_below(5, 10.0, 0, 0.0) == 0.0


@quick
@given(COUNTS)
def test_dispersion_of_independent_items_is_one(clicks):
    moments = Moments.from_totals(np.array(clicks, float), np.full(len(clicks), 40.0))
    rate = sum(clicks) / (40 * len(clicks))
    expected = 1.0
    if 0 < rate < 1:
        expected = max(1.0, np.var(clicks, ddof=1) / (40 * rate * (1 - rate)))
    assert dispersion_of(moments) == pytest.approx(expected, abs=1e-9)


@quick
@given(COUNTS, COUNTS)
def test_distance_of_categories_is_jensen_shannons(counts, reference):
    size = min(len(counts), len(reference))
    p, q = np.array(counts[:size], float), np.array(reference[:size], float)
    distance = distances(np.r_[0, p][None], np.r_[0, q][None], is_category=True)[0]
    if p.sum() and q.sum():
        assert distance == pytest.approx(0.5 * jensenshannon(p, q, base=2), abs=1e-7)
    elif not p.sum() and not q.sum():
        assert distance == 0.0


@quick
@given(COUNTS, COUNTS)
def test_distance_of_numbers_is_wassersteins_of_mid_ranks(counts, reference):
    size = min(len(counts), len(reference))
    p, q = np.array(counts[:size], float), np.array(reference[:size], float)
    if not p.sum() or not q.sum():
        return
    distance = distances(np.r_[0, p][None], np.r_[0, q][None], is_category=False)[0]
    mass = 0.5 * (p / p.sum() + q / q.sum())
    mid_rank = mass.cumsum() - 0.5 * mass
    expected = stats.wasserstein_distance(mid_rank, mid_rank, p, q)
    assert distance <= expected + 1e-9
    gaps = np.cumsum(p / p.sum() - q / q.sum())
    if (gaps > -1e-12).all() or (gaps < 1e-12).all():  # where no bin has a gap of either sign
        assert distance == pytest.approx(expected, abs=1e-9)


@quick
@given(COUNTS, COUNTS)
def test_area_under_the_curve(positives, negatives):
    size = min(len(positives), len(negatives))
    won, lost = np.array(positives[:size], float), np.array(negatives[:size], float)
    area = auc_of(won[None], won + lost)[0]
    if not won.sum() or not lost.sum():
        assert math.isnan(area)
        return
    bins = np.arange(size)
    expected = roc_auc_score(
        np.repeat([1, 0], size), np.r_[bins, bins], sample_weight=np.r_[won, lost]
    )
    assert area == pytest.approx(expected)


@quick
@given(st.lists(st.floats(200, 1e6), max_size=40), st.sampled_from([0.5, 0.95, 0.99]))
def test_latency_quantile_is_within_its_bucket(latency_us, q):
    counts = np.bincount(latency_bucket(np.array(latency_us)), minlength=LATENCY_BUCKETS)
    quantile_ms = latency_quantile(counts.astype(float), q)
    if not latency_us:
        assert math.isnan(quantile_ms)
        return
    below, above = (np.quantile(latency_us, q, method=side) for side in ("lower", "higher"))
    assert below / 1_000 / 2**0.26 <= quantile_ms <= above / 1_000 * 2**0.26


@quick
@given(COUNTS, COUNTS)
def test_stability_index_is_the_relative_entropy_both_ways(counts, usual):
    size = min(len(counts), len(usual))
    if not sum(counts[:size]) or not sum(usual[:size]):
        return  # `check_categories` asks from so many rows on
    day = {str(index): count for index, count in enumerate(counts[:size])}
    shares = usual_shares([{str(index): count for index, count in enumerate(usual[:size])}], 1)
    index, _ = stability_index(day, shares)
    p = np.maximum(np.array(counts[:size]) / sum(counts[:size]), 1e-3)
    q = np.maximum(np.array(usual[:size]) / sum(usual[:size]), 1e-3)
    assert index == pytest.approx((special.rel_entr(p, q) + special.rel_entr(q, p)).sum())


@quick
@given(st.integers(0, 200), st.integers(1, 100))
def test_deviance_bounds_a_poisson_tail(count, expected):
    tail = stats.poisson.cdf(count, expected)
    if count > expected:
        tail = stats.poisson.sf(count - 1, expected)
    assert tail <= math.exp(-_deviance(count, expected)) * (1 + 1e-9)

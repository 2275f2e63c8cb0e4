"""Calibration is monotone, strictly so within its range, and ends up right on average."""

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from tailorbird.ranking.calibration import (
    Beta,
    Calibration,
    Isotonic,
    Platt,
    Temperature,
    fit_beta,
    fit_isotonic,
    fit_platt,
    fit_temperature,
)


def sample(n=20_000, seed=0):
    rng = np.random.default_rng(seed)
    raw = rng.normal(size=n)
    return raw, (rng.random(n) < 1 / (1 + np.exp(-(2 * raw - 3)))).astype(float)


def test_three_points_that_one_sees_at_once():
    # 0.4 and 0.6 are out of order and become one block of mean 0.5.
    fitted = fit_isotonic(np.array([0.2, 0.4, 0.6, 0.8]), np.array([0.0, 1.0, 0.0, 1.0]))
    np.testing.assert_allclose(fitted.x, [0.2, 0.4, 0.6, 0.8])
    np.testing.assert_allclose(
        fitted.y, [0.25, 0.5, 0.5, 0.75]
    )  # one row proves nothing for certain


@pytest.mark.parametrize("weighted", [False, True])
def test_isotonic_is_right_on_average_like_scikit_learn(weighted):
    """Half of the rows are of .02 and half of .08, and most scores lie near 0: lines between the
    centres of blocks said .055 of .051.
    """
    rng = np.random.default_rng(1)
    rank = rng.random(16_000)
    raw, truth = 0.3 * np.exp(4 * (rank - 1)), np.where(rank < 0.5, 0.02, 0.08)
    label, weight = (
        (rng.random(rank.size) < truth).astype(float),
        rng.exponential(1, rank.size) if weighted else None,
    )
    fitted = fit_isotonic(raw, label, weight)
    calibrated = fitted.apply(raw)
    assert np.average(calibrated, weights=weight) == pytest.approx(
        np.average(label, weights=weight), abs=1e-4
    )
    reference = IsotonicRegression(out_of_bounds="clip").fit(raw, label, sample_weight=weight)
    certain = (reference.predict(raw) <= 0) | (reference.predict(raw) >= 1)
    np.testing.assert_allclose(calibrated[~certain], reference.predict(raw)[~certain], atol=2e-7)
    assert ((calibrated[certain] > 1e-4) & (calibrated[certain] < 1 - 1e-4)).all(), (
        "nothing becomes certain"
    )
    assert (np.diff(fitted.apply(np.sort(raw))) > 0).all(), "and no two items change places"


def test_a_table_of_many_blocks_is_bounded_and_right_on_average():
    raw = np.arange(40_000) / 40_000
    fitted = fit_isotonic(raw, raw**2)
    assert len(fitted.x) <= 1_000
    assert fitted.apply(raw).mean() == pytest.approx((raw**2).mean(), abs=1e-6)
    np.testing.assert_allclose(fitted.apply(raw), raw**2, atol=2e-3)


@settings(deadline=None)
@example(
    [(1.0, True), (1.0, True), (6.773814467889345e-170, True), (-35.63974387960123, False)],
    [0.0, 9.541377810546758e-50],
)
@given(
    st.lists(st.tuples(st.floats(-50, 50), st.booleans()), min_size=1, max_size=60),
    st.lists(st.floats(-100, 100), min_size=2, max_size=30),
)
def test_isotonic_keeps_the_order_of_the_model(pairs, scores):
    raw, label = (np.array(part, float) for part in zip(*pairs, strict=True))
    p = fit_isotonic(raw, label).apply(np.sort(np.array(scores)))
    assert (np.diff(p) >= 0).all()
    assert ((p >= 0) & (p <= 1)).all()


def test_outliers_are_separated_and_nothing_becomes_certain():
    raw = np.concatenate([0.001 + 1e-6 * np.random.default_rng(0).random(5_000), np.full(50, 0.9)])
    p = fit_platt(raw, (raw > 0.5).astype(float)).apply(raw)
    np.testing.assert_allclose([p[:5_000].mean(), p[-1]], [1 / 5_002, 51 / 52], rtol=1e-4)


def test_two_items_within_a_flat_part_keep_their_order():
    p = Isotonic([0.0, 1.0], [0.3, 0.3]).apply(np.array([0.2, 0.4, 2.0, 3.0]))
    assert (np.diff(p) > 0).all()


def test_both_end_up_right_on_average_on_later_data():
    raw, label = sample()
    later, outcome = sample(seed=1)
    for fitted in (fit_isotonic(raw, label), fit_platt(raw, label)):
        p = fitted.apply(later)
        assert abs(p.mean() - outcome.mean()) < 0.01
        top = later > 1
        assert abs(p[top].mean() - outcome[top].mean()) < 0.03


def test_platt_finds_the_logistic_curve():
    fitted = fit_platt(*sample(100_000))
    assert abs(fitted.slope - 2) < 0.1
    assert abs(fitted.intercept + 3) < 0.1


def test_platt_never_turns_the_order_round():
    raw, label = sample()
    turned = fit_platt(raw, 1 - label)
    assert turned.slope == 0
    assert turned.apply(raw[:1])[0] == pytest.approx(float(np.mean(1 - label)), abs=1e-3)


def test_platt_gives_the_mean_where_all_scores_are_alike():
    label = (np.arange(20_000) % 400 == 0).astype(float)
    for noise in (0.0, 1e-19):
        raw = 0.0028 + noise * np.arange(20_000)
        assert fit_platt(raw, label).apply(raw[:1])[0] == pytest.approx(0.0025, abs=1e-4)


def test_weights_count_as_repeats():
    raw, label = np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.0, 0.0])
    repeated = fit_isotonic(
        np.array([0.0, 1.0, 1.0, 1.0, 2.0]), np.array([0.0, 1.0, 1.0, 1.0, 0.0])
    )
    weighted = fit_isotonic(raw, label, np.array([1.0, 3.0, 1.0]))
    np.testing.assert_allclose(weighted.y, repeated.y)
    np.testing.assert_allclose(weighted.x, repeated.x)


def test_tables_go_through_json_unchanged():
    tables = {
        "click": fit_isotonic(*sample(500)),
        "purchase": Platt(1.5, -2.0),
        "cart": Beta(1.0, 0.5, -1.0),
        "view": Temperature(1.7),
    }
    assert msgspec.json.decode(msgspec.json.encode(tables), type=dict[str, Calibration]) == tables


def probabilities(n=40_000, seed=0, bend=lambda z: z):
    """A model's probability, and outcomes whose log-odds are a bent form of the model's."""
    rng = np.random.default_rng(seed)
    z = rng.normal(-0.5, 1.5, n)
    truth = 1 / (1 + np.exp(-bend(z)))
    return 1 / (1 + np.exp(-z)), (rng.random(n) < truth).astype(float), truth


def test_temperature_finds_by_how_much_a_model_is_too_sure():
    raw, label, truth = probabilities(bend=lambda z: z / 2)
    fitted = fit_temperature(raw, label)
    assert abs(fitted.temperature - 2) < 0.1
    assert np.abs(fitted.apply(raw) - truth).max() < 0.02


def test_beta_is_the_maximum_that_scikit_learn_finds():
    raw, label, _ = probabilities(bend=lambda z: 0.4 * z - 1)
    design = np.column_stack([np.log(raw), -np.log1p(-raw)])
    reference = LogisticRegression(C=1e8, tol=1e-10, max_iter=10_000).fit(design, label)
    fitted = fit_beta(raw, label)
    np.testing.assert_allclose([fitted.a, fitted.b], reference.coef_[0], atol=2e-3)
    np.testing.assert_allclose(fitted.c, reference.intercept_[0], atol=2e-3)


def test_beta_bends_the_two_ends_apart():
    """Right below one half, far too sure above: one slope cannot say both."""
    raw, label, truth = probabilities(bend=lambda z: np.where(z > 0, z / 4, z))
    beta, temperature = (
        np.abs(fit(raw, label).apply(raw) - truth).mean() for fit in (fit_beta, fit_temperature)
    )
    assert beta < temperature / 2


@given(st.integers(0, 10_000))
@settings(deadline=None, max_examples=30)
def test_no_curve_turns_the_order_round(seed):
    rng = np.random.default_rng(seed)
    raw = rng.random(200)
    label = (rng.random(200) < (1 - raw)).astype(float)  # the model is worse than chance
    scores = np.linspace(0, 1, 101)
    for fitted in (fit_beta(raw, label), fit_temperature(raw, label)):
        p = fitted.apply(scores)
        assert (np.diff(p) >= 0).all()
        assert ((p >= 0) & (p <= 1)).all()


def test_a_beta_curve_of_ones_changes_nothing():
    p = np.array([0.0, 0.01, 0.5, 0.99, 1.0])
    np.testing.assert_allclose(Beta(1.0, 1.0, 0.0).apply(p), p, atol=1e-6)
    np.testing.assert_allclose(Temperature(1.0).apply(p), p, atol=1e-6)

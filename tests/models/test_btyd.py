"""BG/NBD: the published parameters, simulated customers, and the same numbers from ONNX and from
NumPy alone.
"""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.special import hyp2f1

from tailorbird.errors import NotReadyError
from tailorbird.models.btyd import BgNbd, ColumnBgNbd, Purchases, bg_nbd_to_onnx, fit_bg_nbd
from tailorbird.models.export import score_onnx
from tailorbird.ranking.churn.bg_nbd import BgNbdColumns, hypergeometric, integrate_expectation

DATA = (
    Path(os.environ.get("TAILORBIRD_DATA") or Path(__file__).parents[3] / "shared" / "data")
    / "cdnow"
    / "sample_summary.parquet"
)


def simulated(n=4_000, r=0.8, alpha=20.0, a=0.8, b=2.5, seed=0):
    """Customers as the model says: bought once at a time in the first 100 days, then at their rate
    until they stay away.
    """
    rng = np.random.default_rng(seed)
    rate, leaving = rng.gamma(r, 1 / alpha, n), rng.beta(a, b, n)
    age = 365 - rng.uniform(0, 100, n)
    repeats, recency, alive, at = np.zeros(n), np.zeros(n), np.ones(n, bool), np.zeros(n)
    while alive.any():
        at = at + rng.exponential(1 / np.maximum(rate, 1e-12))
        alive &= at < age
        repeats[alive] += 1
        recency[alive] = at[alive]
        alive &= rng.random(n) >= leaving
    return Purchases(repeats, recency, age)


def by_scipy(model, customers, span):
    """Equation 10 of the paper after Euler's transformation, by SciPy's series."""
    r, alpha, a, b = model.r, model.alpha, model.a, model.b
    x, age = customers.repeats, customers.age
    z = span / (alpha + age + span)
    series = hyp2f1(a - 1, a + b - 1 - r, a + b + x - 1, z)
    alive = (a + b + x - 1) / (a - 1) * (1 - (1 - z) ** (a - 1) * series)
    return alive * model.probability_alive(customers)


@pytest.mark.data
@pytest.mark.skipif(
    not DATA.is_file(), reason=f"no {DATA}; name the folder of data sets by TAILORBIRD_DATA"
)
def test_the_published_parameters():
    """Fader, Hardie, Lee (2005), table 2: r = .243, alpha = 4.414, a = .793, b = 2.426,
    log-likelihood −9,582.4.
    """
    table = pq.read_table(DATA)
    model = fit_bg_nbd(
        Purchases(
            *(
                table[name].to_numpy().astype(float)
                for name in ("frequency", "recency_weeks", "T_weeks")
            )
        )
    )
    np.testing.assert_allclose(
        [model.r, model.alpha, model.a, model.b], [0.243, 4.414, 0.793, 2.426], atol=6e-4
    )
    assert abs(model.log_likelihood + 9_582.4) < 0.1


def test_simulated_parameters_are_recovered():
    model = fit_bg_nbd(simulated())
    np.testing.assert_allclose([model.r, model.alpha], [0.8, 20.0], rtol=0.15)
    np.testing.assert_allclose(model.a / (model.a + model.b), 0.8 / 3.3, rtol=0.15)


def test_the_unit_of_time_does_not_matter():
    customers = simulated()
    days = fit_bg_nbd(customers)
    weeks = fit_bg_nbd(replace(customers, recency=customers.recency / 7, age=customers.age / 7))
    np.testing.assert_allclose(weeks.alpha * 7, days.alpha, rtol=1e-3)
    np.testing.assert_allclose(
        weeks.probability_returning(
            replace(customers, recency=customers.recency / 7, age=customers.age / 7), 10
        ),
        days.probability_returning(customers, 70),
        atol=1e-3,
    )


def test_being_alive_is_no_churn_score():
    """Check that customers with one purchase are alive by construction.

    Whether they return is another matter.
    """
    model = fit_bg_nbd(simulated())
    lately, long_ago = (
        Purchases(np.zeros(1), np.zeros(1), np.array([age])) for age in (10.0, 3_000.0)
    )
    assert model.probability_alive(lately) == model.probability_alive(long_ago) == 1
    assert model.probability_returning(long_ago, 90) < model.probability_returning(lately, 90) / 3


def test_too_few_customers_are_refused():
    with pytest.raises(NotReadyError, match="at least 20 customers"):
        fit_bg_nbd(Purchases(np.ones(3), np.ones(3), np.full(3, 2.0)))


def test_onnx_and_numpy_say_the_same():
    customers = simulated(1_000)
    model = fit_bg_nbd(customers)
    day = 86_400
    matrix = np.column_stack(
        [
            (customers.age - customers.recency) * day,
            np.ones(1_000),
            customers.repeats + 1,
            customers.age * day,
        ]
    )
    matrix = matrix.astype(np.float32)
    matrix[0] = np.nan
    column_model = ColumnBgNbd(model, ("since", "other", "count", "age"), 0, 2, 3, 90.0, 0.01)
    ours = column_model.score(matrix)
    assert ours[0] == 0.01
    np.testing.assert_allclose(ours[1:], model.probability_returning(customers, 90)[1:], atol=1e-5)
    np.testing.assert_allclose(score_onnx(bg_nbd_to_onnx(column_model), matrix), ours, atol=1e-5)
    served = BgNbdColumns(model.r, model.alpha, model.a, model.b, 0, 2, 3)
    np.testing.assert_allclose(
        served.purchases(matrix, 0, 90)[1:], by_scipy(model, customers, 90)[1:], rtol=1e-4
    )
    np.testing.assert_allclose(
        model.expected_purchases(customers, 90), by_scipy(model, customers, 90), rtol=1e-8
    )
    both = served.purchases(matrix, 0, 30) + served.purchases(matrix, 30, 90)
    np.testing.assert_allclose(both, served.purchases(matrix, 0, 90), rtol=1e-9)


@pytest.mark.parametrize("count", [200, 2_000, 20_000])
def test_thousands_of_purchases_score_the_same_in_all_three(count):
    """Somebody who clicked every hour is a customer too: chances and counts are numbers, and those
    of the export.
    """
    rng = np.random.default_rng(count)
    model, day = BgNbd(0.24, 31.0, 0.79, 2.43, 0.0), 86_400
    repeats, age = np.floor(rng.uniform(count / 2, count, 500)), rng.uniform(100, 1_500, 500)
    customers = Purchases(repeats, age * rng.uniform(0.3, 1, 500), age)
    matrix = np.column_stack([(age - customers.recency) * day, repeats + 1, age * day]).astype(
        np.float32
    )
    column_model = ColumnBgNbd(model, ("since", "count", "age"), 0, 1, 2, 90.0, 0.01)
    np.testing.assert_allclose(
        score_onnx(bg_nbd_to_onnx(column_model), matrix), column_model.score(matrix), atol=1e-6
    )
    regular = Purchases(repeats, age, age)
    rate = (0.24 + repeats) / (
        31.0 + age
    )  # of one who has never stayed away, and hardly will: b grows with each purchase
    np.testing.assert_allclose(model.expected_purchases(regular, 30), rate * 30, rtol=0.1)
    np.testing.assert_allclose(
        BgNbdColumns(0.24, 31.0, 0.79, 2.43, 0, 1, 2).purchases(matrix, 0, 90),
        model.expected_purchases(customers, 90),
        rtol=0.02,
    )


@pytest.mark.parametrize(
    "model",
    [
        BgNbd(1.5e5, 155.0, 0.146, 1.7e-5, 0.0),  # nearly the same rate for all
        BgNbd(6e-4, 3.6, 2.9e4, 1.2e4, 0.0),  # nearly the same chance of staying away
        BgNbd(1.9e4, 171.0, 1.74, 0.2, 0.0),
        BgNbd(2.05e4, 5.4e4, 0.00145, 8.7e-6, 0.0),
        BgNbd(5e4, 0.08, 0.0285, 1.49, 0.0),
    ],
)
def test_what_is_expected_is_a_number_at_the_ends_of_what_is_fitted_too(model):
    """There the series overflows. Nobody is expected to buy more often than they would if they
    never stayed away.
    """
    rng = np.random.default_rng(0)
    repeats, age, day = np.repeat([0.0, 1.0, 30.0, 3_000.0], 25), rng.uniform(10, 900, 100), 86_400
    customers = Purchases(repeats, np.where(repeats > 0, age, 0.0), age)
    expected = model.expected_purchases(customers, 90.0)
    assert (
        (expected >= 0) & (expected <= (model.r + repeats) / (model.alpha + age) * 90 * 1.001)
    ).all()
    matrix = np.column_stack([(age - customers.recency) * day, repeats + 1, age * day]).astype(
        np.float32
    )
    served = BgNbdColumns(model.r, model.alpha, model.a, model.b, 0, 1, 2).purchases(matrix, 0, 90)
    np.testing.assert_allclose(served, expected, rtol=0.02, atol=1e-6)
    # One by one: how many of a rate and a chance that are drawn as the model says.
    p, rate = (
        rng.beta(model.a, model.b + repeats[25], 200_000),
        rng.gamma(model.r + repeats[25], 1 / (model.alpha + age[25]), 200_000),
    )
    one = np.where(p > 1e-12, -np.expm1(-rate * p * 90) / np.maximum(p, 1e-12), rate * 90)
    alive = model.probability_alive(customers)[25]
    assert abs(expected[25] - alive * one.mean()) < 5 * alive * one.std() / np.sqrt(len(one)) + 1e-9


@pytest.mark.parametrize(
    "model",
    [
        BgNbd(0.24, 4.4, 0.79, 2.43, 0.0),
        BgNbd(3.0, 60.0, 0.2, 0.4, 0.0),
        BgNbd(0.5, 9.0, 8.0, 20.0, 0.0),
    ],
)
def test_the_integral_equals_the_series_where_both_are_defined(model):
    x, age = np.repeat([0.0, 1.0, 10.0], 20), np.random.default_rng(1).uniform(10, 900, 60)
    by_integral = integrate_expectation(model.r + x, model.alpha + age, model.a, model.b + x, 90.0)
    alive = Purchases(x, age, age)
    np.testing.assert_allclose(
        by_integral,
        model.expected_purchases(alive, 90.0) / model.probability_alive(alive),
        rtol=2e-3,
    )


def test_the_series_is_that_of_scipy():
    rng = np.random.default_rng(0)
    a, b, c, z = (*(rng.uniform(0.2, 40, 200) for _ in range(3)), rng.uniform(0, 0.97, 200))
    np.testing.assert_allclose(
        hypergeometric(a, b, a + b + c, z), hyp2f1(a, b, a + b + c, z), rtol=1e-8
    )

"""Pareto/NBD: parameters that were drawn from are found again, and what it says is what the
hypergeometric form and draws say.
"""

import numpy as np
import pytest
from scipy.special import hyp2f1

from tailorbird.errors import NotReadyError
from tailorbird.models.btyd import Purchases
from tailorbird.ranking.churn.pareto_nbd import ParetoNbdColumns
from tailorbird.training.tasks.churn import pareto
from tailorbird.training.tasks.churn.pareto import ParetoNbd, fit_pareto_nbd

TRUE = ParetoNbd(0.6, 80.0, 0.7, 90.0, 0.0)
SPAN = 120.0


def drawn(people, seed=0):
    """Draw customers and their purchases in the next `SPAN` days."""
    rng = np.random.default_rng(seed)
    rate, leaving = (
        rng.gamma(TRUE.r, 1 / TRUE.alpha, people),
        rng.gamma(TRUE.s, 1 / TRUE.beta, people),
    )
    age, life = rng.uniform(100, 400, people), rng.exponential(1, people) / leaving
    seen = np.minimum(life, age)
    repeats, later = (
        rng.poisson(rate * seen).astype(float),
        rng.poisson(rate * np.clip(life - age, 0, SPAN)).astype(float),
    )
    recency = np.where(repeats > 0, seen * rng.random(people) ** (1 / np.maximum(repeats, 1)), 0.0)
    return Purchases(repeats, recency, age), later


def test_simulated_parameters_are_recovered():
    customers, later = drawn(8_000)
    model = fit_pareto_nbd(customers)
    assert model.r == pytest.approx(TRUE.r, rel=0.15)
    assert model.alpha == pytest.approx(TRUE.alpha, rel=0.2)
    assert model.s / model.beta == pytest.approx(TRUE.s / TRUE.beta, rel=0.3)
    assert model.expected_purchases(customers, SPAN).mean() == pytest.approx(later.mean(), rel=0.1)
    assert model.probability_returning(customers, SPAN).mean() == pytest.approx(
        (later > 0).mean(), rel=0.1
    )
    often = customers.repeats > 3
    assert model.expected_purchases(customers, SPAN)[often].mean() == pytest.approx(
        later[often].mean(), rel=0.1
    )


@pytest.mark.slow
def test_a_fit_of_some_kinds_of_customers_is_nearly_that_of_all(monkeypatch):
    customers, _ = drawn(3_000)
    every = fit_pareto_nbd(customers)
    monkeypatch.setattr(pareto, "DISTINCT_CUSTOMERS_MAX", 1_000)
    some = fit_pareto_nbd(customers)
    np.testing.assert_allclose(
        some.expected_purchases(customers, SPAN),
        every.expected_purchases(customers, SPAN),
        rtol=0.15,
    )


@pytest.mark.parametrize("beta", [40.0, 90.0, 300.0])
def test_being_alive_is_the_hypergeometric_function_of_the_paper(beta):
    model = ParetoNbd(0.6, 80.0, 0.7, beta, 0.0)
    customers, _ = drawn(500)
    x, recency, age = customers.repeats, customers.recency, customers.age
    total, largest, apart = model.r + model.s + x, max(80.0, beta), abs(80.0 - beta)
    second = model.s + 1 if beta <= 80.0 else model.r + x
    terms = [
        hyp2f1(total, second, total + 1, apart / (largest + t)) / (largest + t) ** total
        for t in (recency, age)
    ]
    odds = (
        model.s
        / total
        * (80.0 + age) ** (model.r + x)
        * (beta + age) ** model.s
        * (terms[0] - terms[1])
    )
    np.testing.assert_allclose(model.probability_alive(customers), 1 / (1 + odds), rtol=1e-4)


def test_who_bought_once_may_have_left_and_who_bought_daily_for_years_is_a_number():
    lately, long_ago = (
        Purchases(np.zeros(1), np.zeros(1), np.array([age])) for age in (10.0, 3_000.0)
    )
    assert TRUE.probability_alive(long_ago) < TRUE.probability_alive(lately) < 1
    many = Purchases(
        np.array([2_000.0, 2_000.0]), np.array([2_000.0, 10.0]), np.array([2_000.0, 2_000.0])
    )
    expected = TRUE.expected_purchases(many, SPAN)
    assert expected[0] == pytest.approx(SPAN, rel=0.15)
    assert expected[1] < 1e-9
    assert TRUE.probability_alive(many)[0] > 0.99


def test_columns_agree_and_missing_ones_are_nan():
    customers, _ = drawn(200)
    day = 86_400
    matrix = np.column_stack(
        [(customers.age - customers.recency) * day, customers.repeats + 1, customers.age * day]
    ).astype(np.float32)
    matrix[0] = np.nan
    served = ParetoNbdColumns(TRUE.r, TRUE.alpha, TRUE.s, TRUE.beta, 0, 1, 2)
    assert served.purchases(matrix, 0, SPAN)[0] == 0
    np.testing.assert_allclose(
        served.purchases(matrix, 0, SPAN)[1:],
        TRUE.expected_purchases(customers, SPAN)[1:],
        rtol=1e-4,
    )
    parts = served.purchases(matrix, 0, 50) + served.purchases(matrix, 50, SPAN)
    np.testing.assert_allclose(parts, served.purchases(matrix, 0, SPAN), rtol=1e-9)
    assert len(served.purchases(matrix[:0], 0, SPAN)) == 0


def test_too_few_customers_are_refused():
    with pytest.raises(NotReadyError, match="at least 20 customers"):
        fit_pareto_nbd(Purchases(np.ones(3), np.ones(3), np.full(3, 2.0)))

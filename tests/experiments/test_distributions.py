"""Own tails and quantiles against SciPy's."""

import math

import pytest

from tailorbird.experiments.distributions import (
    chi_square_tail,
    normal_quantile,
    normal_tail,
    student_quantile,
    student_tail,
)

stats = pytest.importorskip("scipy.stats")


@pytest.mark.parametrize("z", [-8.0, -1.0, 0.0, 0.3, 1.96, 6.0, 12.0])
def test_normal_tail_equals_scipys(z):
    assert normal_tail(z) == pytest.approx(stats.norm.sf(z), rel=1e-12)


@pytest.mark.parametrize("freedom", [1, 2, 3, 7, 40, 1_000])
@pytest.mark.parametrize("x", [1e-6, 0.1, 1.0, 3.84, 12.0, 45.0, 400.0, 1_100.0])
def test_chi_square_tail_equals_scipys(x, freedom):
    assert chi_square_tail(x, freedom) == pytest.approx(
        stats.chi2.sf(x, freedom), rel=1e-9, abs=1e-290
    )


@pytest.mark.parametrize("freedom", [1, 2.5, 4, 30, 5_000, 1e6])
@pytest.mark.parametrize("t", [-3.0, 0.0, 0.01, 0.7, 1.96, 4.0, 30.0])
def test_student_tail_equals_scipys(t, freedom):
    assert student_tail(t, freedom) == pytest.approx(stats.t.sf(t, freedom), rel=1e-8, abs=1e-250)


@pytest.mark.parametrize("freedom", [1, 3, 17.4, 900])
@pytest.mark.parametrize("probability", [0.005, 0.3, 0.5, 0.9, 0.975, 0.9999])
def test_student_quantile_equals_scipys(probability, freedom):
    assert student_quantile(probability, freedom) == pytest.approx(
        stats.t.ppf(probability, freedom), rel=1e-7, abs=1e-9
    )


def test_student_with_infinite_freedom_is_normal():
    assert student_quantile(0.975, math.inf) == pytest.approx(normal_quantile(0.975))

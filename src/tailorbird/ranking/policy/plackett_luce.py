"""Probabilities of the positions of a Plackett-Luce order.

Item i arrives at an exponential time with its strength s_i as the rate, and is at position j (from
0) if exactly j others arrive before it: P = ∫ s_i exp(-s_i t) Pr[j of the others by t] dt. All
items share the quadrature points: Gauss-Legendre in log(1 + t Σs), up to the time by which as many
items as there are positions have arrived. The number of the others is Poisson-binomial. Its
generating function is a product over items, read off on a circle in the complex plane: a Fourier
sum there gives all positions at once. O(n * points of time * points of the circle).
"""

from functools import cache

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float64]

CIRCLE_POINTS = 32  # Points on it, so terms of a distance of 32 positions alias, …
RADIUS = 0.5  # … damped by 0.5³².
TIME_MAX = 30.0  # e⁻³⁰ is nothing.
BLOCK = 16  # Items whose factors are in memory at once, so that they stay in its cache.
_PROBABILITY_MIN = 1e-12


def position_probabilities(strengths: Floats, items: Rows, positions: int) -> Floats:
    """Return the probability that item `items[i]` is at position j, shape (k, positions).

    Args:
        strengths: (n,), above 0.
        positions: at most n.
    """
    weakest_strength = np.partition(strengths, strengths.size - positions)[
        strengths.size - positions
    ]
    total_strength = strengths.sum()
    log_span = float(np.log1p(total_strength * TIME_MAX / weakest_strength))
    nodes, weights = _legendre(16 + int(np.ceil(5 * log_span)))
    log_time = (nodes + 1.0) / 2.0 * log_span
    time = np.expm1(log_time) / total_strength
    time_weights = weights / 2.0 * log_span * np.exp(log_time) / total_strength
    arrival_probability = -np.expm1(-strengths[:, None] * time)
    product = np.ones((time.size, CIRCLE_POINTS // 2), np.complex128)
    for start in range(0, strengths.size, BLOCK):
        product *= np.multiply.reduce(
            _generating_functions(arrival_probability[start : start + BLOCK]), axis=0
        )
    product_of_others = product / _generating_functions(arrival_probability[items])
    density = strengths[items, None] * (1.0 - arrival_probability[items]) * time_weights
    sums = np.einsum("iq,iqm->im", density, product_of_others)
    inverse_powers = _circle_points()[:, None] ** -np.arange(positions)
    # The other half of the circle is the complex conjugate.
    return np.clip(2.0 / CIRCLE_POINTS * (sums @ inverse_powers).real, _PROBABILITY_MIN, 1.0)


def _generating_functions(arrival_probability: Floats) -> npt.NDArray[np.complex128]:
    """Return the generating functions (n, times, points) of whether each item has arrived."""
    factors = arrival_probability[:, :, None] * (_circle_points() - 1.0)
    factors += 1.0
    return factors


@cache
def _circle_points() -> npt.NDArray[np.complex128]:
    """Return the upper half of the circle; no point is real, where a factor may be 0."""
    angle = np.pi * (2 * np.arange(CIRCLE_POINTS // 2) + 1) / CIRCLE_POINTS
    return (RADIUS * np.cos(angle) + 1j * RADIUS * np.sin(angle)).astype(np.complex128)


@cache
def _legendre(count: int) -> tuple[Floats, Floats]:
    return np.polynomial.legendre.leggauss(count)

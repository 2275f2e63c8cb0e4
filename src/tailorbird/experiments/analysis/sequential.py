"""Group sequential designs with alpha spending (Lan, DeMets 1983), symmetric and two-sided.

Look k sees a statistic Z_k ~ N(θ √I_k, 1), where I_k is the information, one over the variance of
the estimated effect θ. Increments of the score Z √I are independent. Each side spends alpha / 2:

    obrien_fleming   2 (1 − Φ(z / √t)), z the 1 − alpha / 4 quantile
    pocock           alpha / 2 · ln(1 + (e − 1) t)

t = I_k / I_planned is the information time. Looks may be unequal, late, or more than planned, since
a boundary depends only on the looks so far (Jennison, Turnbull 2000, chapters 7, 8 and 19). The
futility rule is non-binding: boundaries ignore it, so that a team may continue.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import cast

import numpy as np
import numpy.typing as npt
from scipy import optimize
from scipy.special import ndtr, ndtri

from tailorbird.experiments.assign import SPENDING_FUNCTIONS

Floats = npt.NDArray[np.float64]

Z_MAX = 8.0  # stands for an infinite boundary: P(|Z| > 8) is about 1e-15
_SMALLEST_SPENDING = 1e-13  # less alpha than this for a look gives it the boundary Z_MAX


def spent_alpha(information_time: float, alpha: float, spending: str = "obrien_fleming") -> float:
    """Return the alpha that one side has spent by an information time.

    >>> round(spent_alpha(0.5, 0.05), 5), round(spent_alpha(0.5, 0.05, "pocock"), 5)
    (0.00153, 0.0155)
    """
    side_alpha = alpha / 2
    t = min(max(information_time, 0.0), 1.0)
    if t == 0:
        return 0.0
    if spending == "pocock":
        return side_alpha * math.log1p((math.e - 1) * t)
    if spending != "obrien_fleming":
        raise ValueError(
            f"unknown spending {spending!r}: use one of {', '.join(SPENDING_FUNCTIONS)}"
        )
    return float(2 * ndtr(-ndtri(1 - side_alpha / 2) / math.sqrt(t)))


def compute_boundaries(
    information: Sequence[float] | Floats,
    *,
    planned: float,
    alpha: float = 0.05,
    spending: str = "obrien_fleming",
    is_final: bool = False,
) -> Floats:
    """Return the boundary of |Z| at each look, shape (stages,).

    Args:
        information: of each look, ascending.
        planned: the information at which all of alpha is spent. Information beyond it changes the
            correlation of looks, not the total alpha. Once all is spent, boundaries are infinite.
        is_final: the last look is the last, and spends what is left, even if it came short.
    """
    info = np.asarray(information, np.float64)
    if len(info) and (info[0] <= 0 or (np.diff(info) <= 0).any()):
        raise ValueError(f"expected information above 0 and ascending, got {info.tolist()}")
    score_density = _ScoreDensity(0.0)
    bounds = np.empty(len(info))
    alpha_spent_before = 0.0
    for stage, look_information in enumerate(info):
        information_time = (
            1.0 if is_final and stage == len(info) - 1 else look_information / planned
        )
        alpha_spent = spent_alpha(information_time, alpha, spending)
        bounds[stage] = score_density.solve_boundary(
            look_information, alpha_spent - alpha_spent_before
        )
        score_density.advance(look_information, bounds[stage])
        alpha_spent_before = max(alpha_spent_before, alpha_spent)
    return bounds


def select_stages(
    information: Sequence[float] | Floats, *, planned: float, smallest_step: float = 0.01
) -> npt.NDArray[np.intp]:
    """Return the looks that add information, at least a share of what is planned; always the last.

    Estimated information may stall or fall, and a look that adds nothing is not a new one.
    """
    info = np.asarray(information, np.float64)
    selected_stages: list[int] = []
    for stage, look_information in enumerate(info):
        step = smallest_step * planned
        while (
            selected_stages
            and stage == len(info) - 1
            and look_information < info[selected_stages[-1]] + step
        ):
            selected_stages.pop()
        if (
            look_information >= (info[selected_stages[-1]] if selected_stages else 0.0) + step
            or stage == len(info) - 1
        ):
            selected_stages.append(stage)
    return np.array(selected_stages, np.intp)


@dataclass(frozen=True)
class ExitProbabilities:
    """Probabilities of stopping at each look above and below, shape (stages,)."""

    upper: Floats
    lower: Floats

    @property
    def total(self) -> float:
        return float(self.upper.sum() + self.lower.sum())


def exit_probabilities(information: Floats, bounds: Floats, effect: float) -> ExitProbabilities:
    """Return where a trial with a true effect stops."""
    score_density = _ScoreDensity(effect)
    tail_probabilities = []
    for look_information, bound in zip(information, bounds, strict=True):
        tail_probabilities.append(
            (
                score_density.tail(look_information, bound),
                score_density.tail(look_information, -bound, upper=False),
            )
        )
        score_density.advance(look_information, bound)
    upper, lower = np.array(tail_probabilities).T
    return ExitProbabilities(upper, lower)


@dataclass(frozen=True)
class Design:
    """A planned group sequential test, in units of its own planned information.

    Attributes:
        times: information times of the looks, the last is 1.
        bounds: boundary of |Z| at each look.
        drift: expected Z at the end for an effect that is found with the planned power.
        inflation: planned sample, as a multiple of that of a fixed test of the same power.
        expected_share: expected share of the planned sample that is used if the effect is real.
    """

    times: Floats
    bounds: Floats
    drift: float
    inflation: float
    expected_share: float


def fixed_drift(alpha: float, power: float) -> float:
    """Return the expected Z of a fixed test for an effect that it finds with a power."""
    return float(ndtri(1 - alpha / 2) + ndtri(power))


@cache
def plan_design(
    stages: int, *, alpha: float = 0.05, power: float = 0.8, spending: str = "obrien_fleming"
) -> Design:
    """Plan a test with equally spaced looks.

    >>> [round(float(bound), 2) for bound in plan_design(5).bounds]
    [4.88, 3.36, 2.68, 2.29, 2.03]
    """
    times = np.arange(1, stages + 1) / stages
    bounds = compute_boundaries(times, planned=1.0, alpha=alpha, spending=spending)
    return complete_design(times, bounds, alpha=alpha, power=power)


def complete_design(
    times: Floats, bounds: Floats, *, alpha: float, power: float, drift_factor_max: float = 2.0
) -> Design:
    """Return the design with these looks and boundaries, whose last time is 1.

    Args:
        drift_factor_max: largest drift that is tried, as a multiple of a fixed test's.
    """
    fixed_test_drift = fixed_drift(alpha, power)

    def power_surplus(drift: float) -> float:
        return exit_probabilities(times, bounds, drift).total - power

    drift = _find_root(
        power_surplus, 0.8 * fixed_test_drift, drift_factor_max * fixed_test_drift, 1e-6
    )
    exit_distribution = exit_probabilities(times, bounds, drift)
    exit_probability = exit_distribution.upper + exit_distribution.lower
    expected_share = float(times @ exit_probability + 1 - exit_probability.sum())
    return Design(times, bounds, drift, (drift / fixed_test_drift) ** 2, expected_share)


def conditional_power(
    z: float, information_time: float, drift: float, *, final_bound: float
) -> float:
    """Return the chance of a result at the end, above or below, given Z at an information time.

    `drift` is the expected Z at the end under the effect of interest. Stop for futility where it is
    below, say, 0.1; nothing else changes by it.
    """
    if information_time >= 1:
        return float(abs(z) >= final_bound)
    mean = z * math.sqrt(information_time) + drift * (1 - information_time)
    sd = math.sqrt(1 - information_time)
    return float(ndtr((mean - final_bound) / sd) + ndtr((-final_bound - mean) / sd))


@dataclass(frozen=True)
class StoppedEstimate:
    """An effect after stopping: median-unbiased, with the stage-wise interval and p-value."""

    value: float
    low: float
    high: float
    p: float


def estimate_after_stopping(
    information: Floats, bounds: Floats, z: float, *, alpha: float = 0.05
) -> StoppedEstimate:
    """Estimate the effect of a trial that stopped at the last of these looks with Z = z.

    The stage-wise order counts an early exit above as more extreme than a later one (Tsiatis,
    Rosner, Mehta 1984). For data that came in after the boundary was crossed, leave that look out
    and give the final one instead (deletion, Whitehead 1992).
    """
    last_information = float(information[-1])
    standard_error = 1 / math.sqrt(last_information)
    naive_effect = z / math.sqrt(last_information)

    def exceedance(effect: float) -> float:
        return _exceedance_probability(information, bounds, z, effect)

    def solve_effect(probability: float) -> float:
        """Return the effect under which a result at least as high has this probability."""
        low = naive_effect - 4 * standard_error
        high = naive_effect + 4 * standard_error
        while exceedance(low) > probability:
            low -= 4 * standard_error
        while exceedance(high) < probability:
            high += 4 * standard_error
        return _find_root(
            lambda effect: exceedance(effect) - probability, low, high, 1e-5 * standard_error
        )

    null_exceedance = exceedance(0.0)
    p = min(2 * min(null_exceedance, 1 - null_exceedance), 1.0)
    return StoppedEstimate(
        solve_effect(0.5), solve_effect(alpha / 2), solve_effect(1 - alpha / 2), p
    )


def repeated_interval(z: float, information: float, bound: float) -> tuple[float, float]:
    """Return the interval of the effect that holds at all looks together (Jennison, Turnbull)."""
    half_width = bound / math.sqrt(information) if bound < Z_MAX else math.inf
    return z / math.sqrt(information) - half_width, z / math.sqrt(information) + half_width


def _exceedance_probability(information: Floats, bounds: Floats, z: float, effect: float) -> float:
    """Return the chance of a result at least as high as (last look, z); it grows with `effect`."""
    score_density = _ScoreDensity(effect)
    earlier_upper = 0.0
    earlier_lower = 0.0
    for look_information, bound in zip(information[:-1], bounds[:-1], strict=True):
        earlier_upper += score_density.tail(look_information, bound)
        earlier_lower += score_density.tail(look_information, -bound, upper=False)
        score_density.advance(look_information, bound)
    if z >= 0:
        return earlier_upper + score_density.tail(information[-1], z)
    return 1 - earlier_lower - score_density.tail(information[-1], z, upper=False)


class _ScoreDensity:
    """The density of the score among trials that have not stopped, on Gauss–Legendre nodes."""

    def __init__(self, effect: float) -> None:
        self._effect = effect
        self._information = 0.0
        # weights include the density
        self._nodes = np.zeros(1)
        self._weights = np.ones(1)

    def tail(self, look_information: float, z: float, *, upper: bool = True) -> float:
        """Return the chance of not stopping before the look and then exceeding z there."""
        step = look_information - self._information
        distance = (
            z * math.sqrt(look_information) - self._nodes - self._effect * step
        ) / math.sqrt(step)
        return float(self._weights @ ndtr(-distance if upper else distance))

    def solve_boundary(self, look_information: float, exit_probability: float) -> float:
        """Return the z that an upper exit at this look exceeds with a probability."""
        if (
            exit_probability <= _SMALLEST_SPENDING
            or self.tail(look_information, Z_MAX) >= exit_probability
        ):
            return Z_MAX
        return _find_root(
            lambda z: self.tail(look_information, z) - exit_probability, -Z_MAX, Z_MAX, 1e-10
        )

    def advance(self, look_information: float, bound: float) -> None:
        """Continue with the trials whose |Z| is below the boundary at this look."""
        step = look_information - self._information
        score_bound = max(bound, 1e-6) * math.sqrt(look_information)
        # Nodes closer than the step's standard deviation make the quadrature exact to 1e-8.
        shift = self._effect * step
        node_count = int(np.clip(np.ceil(4 * 2 * score_bound / math.sqrt(step)), 48, 640))
        unit_nodes, unit_weights = _legendre_rule(
            16 * math.ceil(node_count / 16)
        )  # few distinct sizes, each computed once
        nodes = score_bound * unit_nodes
        distance = (nodes[:, None] - self._nodes[None, :] - shift) / math.sqrt(step)
        density = np.exp(-0.5 * distance * distance) @ self._weights / math.sqrt(2 * math.pi * step)
        self._nodes = nodes
        self._weights = density * score_bound * unit_weights
        self._information = look_information


def _find_root(
    function: Callable[[float], float], low: float, high: float, tolerance: float
) -> float:
    return cast(float, optimize.brentq(function, low, high, xtol=tolerance))


@cache
def _legendre_rule(count: int) -> tuple[Floats, Floats]:
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return nodes, weights

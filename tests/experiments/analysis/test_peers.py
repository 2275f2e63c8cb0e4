"""Our figures are those of tea-tasting, gbstats and confseq on the same inputs."""

import math

import numpy as np
import pytest
from benchmarks.quality.parts.validity_peers import ALPHA, has_peers, run_peers, sum_arms
from benchmarks.quality.validity_sites import KINDS, Units

from tailorbird.experiments.analysis import estimates
from tailorbird.experiments.analysis.adjust import cuped
from tailorbird.experiments.analysis.anytime import anytime_bound
from tailorbird.experiments.statistics import Moments, difference, relative_uplift

pytestmark = pytest.mark.skipif(
    not has_peers(), reason="tea-tasting, gbstats and confseq are absent: make peers"
)
UNITS, TUNED_FOR_UNITS = 3_000, 2_500


def draw(name: str) -> tuple[Units, Units]:
    rng = np.random.default_rng(4)
    return KINDS[name].draw(rng, UNITS, 0.0), KINDS[name].draw(rng, UNITS, 0.1)


@pytest.fixture(scope="module")
def said():
    names = {"normal": "mean", "revenue": "mean", "clustered": "ratio", "cuped": "covariate"}
    counts = np.array([UNITS])
    totals = {name: sum_arms(draw(name), counts) for name in names}
    return run_peers(totals, names, tuned_for_units=TUNED_FOR_UNITS)


def figure(said, package: str, key: str) -> float:
    if package in said.missing:
        pytest.skip(f"{package} is absent: {said.missing[package]}")
    return float(said.values[key][0])


@pytest.mark.parametrize("name", ["normal", "revenue", "clustered"])
def test_a_fixed_horizon_and_the_delta_method_are_tea_tastings(said, name: str) -> None:
    control, treatment = (
        Moments.from_totals(arm.value, np.ones(UNITS) if arm.shown is None else arm.shown)
        for arm in draw(name)
    )
    keys = ("value", "low", "high", "difference", "p")
    theirs = [figure(said, "tea-tasting", f"{name}.tea_tasting.{key}") for key in keys]
    uplift, absolute = relative_uplift(treatment, control), difference(treatment, control)
    ours = [uplift.value, uplift.low, uplift.high, absolute.value, absolute.p]
    assert ours == pytest.approx(theirs, rel=1e-8)
    made = [
        estimates.mean(arm.value) if arm.shown is None else estimates.ratio(arm.value, arm.shown)
        for arm in draw(name)
    ]
    effect = estimates.compare(made[1], made[0])
    assert effect is not None
    assert effect.uplift == pytest.approx(theirs[0], rel=1e-8)
    # Ours are wider for heavy tails and heavy units.
    assert theirs[2] <= effect.interval()[1] < theirs[2] + 0.05 * (theirs[2] - theirs[1])


def test_cuped_is_tea_tastings_but_for_the_effect_in_its_coefficient(said) -> None:
    control, treatment = draw("cuped")
    assert control.before is not None
    assert treatment.before is not None
    values = np.concatenate([control.value, treatment.value])
    before = np.concatenate([control.before, treatment.before])
    adjusted = cuped(values, before, np.repeat([0, 1], UNITS)).values
    arms = [estimates.mean(adjusted[:UNITS]), estimates.mean(adjusted[UNITS:])]
    theirs = figure(said, "tea-tasting", "cuped.tea_tasting.difference")
    error = math.sqrt(arms[0].variance + arms[1].variance)
    assert arms[1].value - arms[0].value == pytest.approx(theirs, abs=0.02 * error)


@pytest.mark.parametrize("name", ["normal", "revenue", "clustered"])
def test_the_error_and_the_sequential_interval_are_growthbooks(said, name: str) -> None:
    control, treatment = (
        Moments.from_totals(arm.value, np.ones(UNITS) if arm.shown is None else arm.shown)
        for arm in draw(name)
    )
    value = figure(said, "gbstats", f"{name}.gbstats.value")
    error = figure(said, "gbstats", f"{name}.gbstats.error")
    log_error = math.sqrt(treatment.variance_of_log + control.variance_of_log)
    assert treatment.ratio / control.ratio - 1 == pytest.approx(value, rel=1e-8)
    assert (1 + value) * log_error == pytest.approx(error, rel=1e-8)
    half = value - figure(said, "gbstats", f"{name}.gbstats.sequential_low")
    assert half / error == pytest.approx(bound_of_peers(), rel=1e-8)


def test_the_confidence_sequence_is_that_of_confseq(said) -> None:
    assert figure(said, "confseq", "normal.confseq.bound") == pytest.approx(
        bound_of_peers(), rel=1e-8
    )


def bound_of_peers() -> float:
    """Return our bound with the peers' approximation of the best mixture."""
    log = -2 * math.log(ALPHA)
    exact = float(anytime_bound(2 * UNITS, tuned_for_units=TUNED_FOR_UNITS, alpha=ALPHA))
    ours = best_mixture(ALPHA)
    tuned_for_units = TUNED_FOR_UNITS * ours / (log + math.log(1 + log))
    result = float(anytime_bound(2 * UNITS, tuned_for_units=tuned_for_units, alpha=ALPHA))
    assert result == pytest.approx(exact, rel=2e-3)  # the approximation costs next to nothing
    return result


def best_mixture(alpha: float) -> float:
    """Solve x − ln(1 + x) = −2 ln alpha, which gives the narrowest bound."""
    x = -2 * math.log(alpha)
    for _ in range(60):
        x = -2 * math.log(alpha) + math.log1p(x)
    return x

"""Check the level, power and coverage of each method that judges experiments.

    python -m benchmarks.quality.validity [--small] [--data PATH] [--add FILE] [--json]

Each simulated experiment is analysed by the product's own functions, at each of 14 equal stages as
its units arrive. `aa` has false positives without an effect, for six kinds of metric. `power` has
rejections at the effect that a fixed test of the same sample finds in 80 %. `coverage` has
intervals that hold the truth, stopped trials included. `srm` has alarms about the split over an
experiment's life, `cuped` the variance that is left, and `cost` the samples of sequential plans.
`cost_us` is the time that a request's assignment takes with 50 running experiments in 10 layers.
`interleaving` has the balance by position without a difference, and the people needed beside an A/B
test.

`peers` are other libraries on 1,000 of the same draws, if `make peers` was run. `asos` are the
decisions of each rule on the real tests of ASOS, if `--data` has them. `--add` measures these two
and `interleaving` alone, and prints the figures of an earlier run with them.

Exit status 1 if a method that claims a level exceeds it: the 99.9 % interval of its rate lies above
5 %, or the fixed test's rate outside 5 %.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from benchmarks.quality.parts.validity_asos import FOLDER, measure_asos
from benchmarks.quality.parts.validity_cost import measure_assignment
from benchmarks.quality.parts.validity_peers import has_peers, measure_peers
from benchmarks.quality.running import default_data, find_data_set, revision, share_with_interval
from benchmarks.quality.validity_interleaving import measure_interleaving, position_violations
from benchmarks.quality.validity_sites import KINDS, MetricKind, Units, with_history
from tailorbird.experiments.analysis import estimates
from tailorbird.experiments.analysis.adjust import cuped
from tailorbird.experiments.analysis.anytime import anytime_bound
from tailorbird.experiments.analysis.estimates import Effect, Estimate
from tailorbird.experiments.analysis.sample_ratio import sample_ratio_log_factors
from tailorbird.experiments.analysis.sequential import (
    compute_boundaries,
    estimate_after_stopping,
    plan_design,
    select_stages,
)
from tailorbird.experiments.assign import SPENDING_FUNCTIONS
from tailorbird.experiments.stages import UNITS_MIN
from tailorbird.experiments.statistics import proportion_interval

STAGES, MANY_STAGES = 14, 200
Floats = npt.NDArray[np.float64]
Figure = dict[str, float]


def estimate_arms(arms: tuple[Units, Units], count: int) -> list[Estimate]:
    """Estimate both arms from their first units, by the product's functions."""
    if arms[0].before is not None and arms[1].before is not None:
        values = np.concatenate([arm.value[:count] for arm in arms])
        before = np.concatenate([arms[0].before[:count], arms[1].before[:count]])
        adjusted = cuped(values, before, np.repeat([0, 1], count)).values
        return [estimates.mean(adjusted[:count]), estimates.mean(adjusted[count:])]
    return [
        estimates.mean(arm.value[:count])
        if arm.shown is None
        else estimates.ratio(arm.value[:count], arm.shown[:count])
        for arm in arms
    ]


def run_effects(
    kind: MetricKind, effect: float, runs: int, seed: int, stages: int = STAGES, first: int = 0
) -> Iterator[list[Effect]]:
    """Yield the effects at each stage of each simulated experiment, from a first one on.

    As in a report, a stage with fewer than 100 units shows no effect.
    """
    counts = np.arange(1, stages + 1) * kind.units // stages
    for run in range(first, runs):
        rng = np.random.default_rng([seed, run])
        arms = (kind.draw(rng, kind.units, 0.0), kind.draw(rng, kind.units, effect))
        effects = []
        for count in counts.tolist():
            estimated_effect = None
            if 2 * count >= UNITS_MIN:
                control, treatment = estimate_arms(arms, count)
                estimated_effect = estimates.compare(treatment, control)
            effects.append(
                Effect(0.0, 1.0, 2 * count) if estimated_effect is None else estimated_effect
            )
        yield effects


def method_bounds(units: int, stages: int) -> dict[str, Floats]:
    """Return the bound of |Z| at each stage, by method."""
    counts = 2 * np.arange(1, stages + 1) * units / stages
    return {
        "once": np.append(np.full(stages - 1, np.inf), ndtri(0.975)),
        "peeked": np.full(stages, ndtri(0.975)),
        **{
            spending: plan_design(stages, spending=spending).bounds
            for spending in SPENDING_FUNCTIONS
        },
        "anytime": anytime_bound(counts, tuned_for_units=units),
    }


def measure_rejections(z: Floats, bounds: dict[str, Floats]) -> dict[str, Figure]:
    """Return the share of runs in which |Z| reaches a bound, and of the sample that it took."""
    figures = {}
    for method, bound in bounds.items():
        is_crossed = np.abs(z) >= bound
        figures[method] = share_with_interval(int(is_crossed.any(axis=1).sum()), len(z))
        stages_used = np.where(is_crossed.any(axis=1), is_crossed.argmax(axis=1) + 1, z.shape[1])
        figures[method]["sample_used"] = float(stages_used.mean() / z.shape[1])
    return figures


def measure_level(runs: int, seed: int) -> dict[str, Any]:
    """Return false positives by metric, method and number of stages."""
    result: dict[str, Any] = {}
    for name, kind in KINDS.items():
        for stages in (STAGES, MANY_STAGES):
            z = simulate_z(kind, runs, seed, stages)
            for method, figure in measure_rejections(z, method_bounds(kind.units, stages)).items():
                result.setdefault(name, {}).setdefault(method, {})[str(stages)] = figure
    return result


def simulate_z(kind: MetricKind, runs: int, seed: int, stages: int, first: int = 0) -> Floats:
    """Return Z at each stage of experiments without an effect, shape (runs, stages)."""
    effects = run_effects(kind=kind, effect=0.0, runs=runs, seed=seed, stages=stages, first=first)
    return np.array([[e.z for e in run] for run in effects])


def measure_estimated_information(runs: int, seed: int) -> Figure:
    """Return false positives where each stage's information is estimated, as in a report."""
    kind, hits = KINDS["clustered"], 0
    expected = np.mean([e[-1].information for e in run_effects(kind, 0.0, 50, seed + 1)])
    for effects in run_effects(kind, 0.0, runs, seed):
        information = np.array([e.information for e in effects])
        rows = select_stages(information, planned=float(expected))
        bounds = compute_boundaries(information[rows], planned=float(expected), is_final=True)
        hits += bool((np.abs([effects[row].z for row in rows]) >= bounds).any())
    return share_with_interval(hits, runs)


def measure_power(runs: int, seed: int) -> dict[str, Figure]:
    """Return rejections at the effect that a fixed test finds in 80 %."""
    kind = KINDS["normal"]
    z = np.array([[e.z for e in run] for run in run_effects(kind, power_effect(), runs, seed)])
    figures = measure_rejections(z, method_bounds(kind.units, STAGES))
    return {name: figure for name, figure in figures.items() if name != "peeked"}


def power_effect() -> float:
    """Return the relative effect of normal outcomes that a fixed test finds in 80 %."""
    effect = 0.0
    for _ in range(20):  # the deviation stays, so that the treatment's relative variance falls
        error = 0.3 * math.sqrt((1 + (1 + effect) ** -2) / KINDS["normal"].units)
        effect = math.expm1((ndtri(0.975) + ndtri(0.8)) * error)
    return effect


def measure_coverage(runs: int, stopped_runs: int, seed: int) -> dict[str, Figure]:
    """Return how often the 95 % interval of an uplift between two arms holds the truth."""
    hits = dict.fromkeys(("winsorised", "quantile", "revenue", "ratio", "clustered", "cuped"), 0)
    truth = {name: math.log1p(0.1) for name in hits} | {"winsorised": _winsorised_truth(seed)}
    for run in range(runs):
        rng = np.random.default_rng([seed, run])
        for name in hits:
            if name in KINDS:
                kind = KINDS[name]
                arms = (kind.draw(rng, kind.units, 0.0), kind.draw(rng, kind.units, 0.1))
                control, treatment = estimate_arms(arms, kind.units)
            else:
                control, treatment = _amounts(rng, 2_000, name)
            effect = estimates.compare(treatment, control)
            if effect is not None:
                hits[name] += (
                    abs(effect.log_ratio - truth[name]) <= ndtri(0.975) * effect.standard_error
                )
    result = {name: share_with_interval(count, runs) for name, count in hits.items()}
    return result | _stopped_coverage(stopped_runs, seed)


def _amounts(rng: np.random.Generator, count: int, name: str) -> list[Estimate]:
    """Estimate log-normal amounts in two arms; the treatment's are 10 % larger."""
    amounts = rng.lognormal(0, 1, 2 * count)
    amounts[count:] *= 1.1
    if name == "quantile":
        return [estimates.quantile(arm, 0.9) for arm in np.split(amounts, 2)]
    return [estimates.mean(arm) for arm in np.split(estimates.winsorise(amounts, 0.99), 2)]


def _winsorised_truth(seed: int) -> float:
    """Return the log ratio of the means below the cap of all amounts, from many draws."""
    control, treatment = _amounts(np.random.default_rng([seed, 77]), 4_000_000, "winsorised")
    return math.log(treatment.value / control.value)


def _stopped_coverage(runs: int, seed: int) -> dict[str, Figure]:
    """Return coverage of the effect in trials that stop at the boundary, by true effect."""
    kind, design = KINDS["normal"], plan_design(STAGES)
    result = {}
    for name, true_effect in (("stopped_null", 0.0), ("stopped_effect", 0.038)):
        hits = below_truth_count = anytime_hits = 0
        bound = anytime_bound(
            2 * np.arange(1, STAGES + 1) * kind.units / STAGES, tuned_for_units=1_000
        )
        for effects in run_effects(kind, true_effect, runs, seed):
            z = np.array([e.z for e in effects])
            crossed_stages = np.flatnonzero(np.abs(z) >= design.bounds)
            last_stage = int(crossed_stages[0]) if len(crossed_stages) else STAGES - 1
            information = effects[-1].information * design.times[: last_stage + 1]
            estimate = estimate_after_stopping(
                information, design.bounds[: last_stage + 1], z[last_stage]
            )
            hits += estimate.low <= math.log1p(true_effect) <= estimate.high
            below_truth_count += estimate.value < math.log1p(true_effect)
            standardised_error = [
                abs(e.log_ratio - math.log1p(true_effect)) / e.standard_error for e in effects
            ]
            anytime_hits += bool((standardised_error <= bound).all())
        result[name] = share_with_interval(hits, runs)
        result[f"{name}_median_below_truth"] = share_with_interval(below_truth_count, runs)
        result[f"{name}_anytime_at_every_stage"] = share_with_interval(anytime_hits, runs)
    return result


def measure_sample_ratio(runs: int, seed: int) -> dict[str, Any]:
    """Return alarms over 14 days of 10,000 units, and the days to find an imbalance, up to 60.

    `standard_errors` are those of the imbalance on the last day, and what an alarm needs then.
    """
    rng = np.random.default_rng([seed, 3])
    result: dict[str, Any] = {}
    for name, share, days in (("right", 0.5, STAGES), ("wrong", 0.505, 60)):
        hits = {"tailorbird": 0, "chi_square_daily": 0}
        total, delays = 10_000 * np.arange(1, days + 1), []
        for _ in range(0, runs, 5_000):
            first_arm_counts = rng.binomial(10_000, share, (5_000, days)).cumsum(axis=1)
            counts = np.stack([first_arm_counts, total - first_arm_counts], axis=-1).reshape(-1, 2)
            factors = sample_ratio_log_factors(counts, [1, 1]).reshape(-1, days)
            is_alarm = factors > math.log(1_000)
            is_chi_alarm = np.abs(first_arm_counts - total / 2) / np.sqrt(total / 4) > ndtri(
                1 - 0.0005
            )
            hits["tailorbird"] += int(is_alarm[:, :STAGES].any(axis=1).sum())
            hits["chi_square_daily"] += int(is_chi_alarm[:, :STAGES].any(axis=1).sum())
            delays.append(np.where(is_alarm.any(axis=1), is_alarm.argmax(axis=1) + 1, math.inf))
        result[name] = {method: share_with_interval(count, runs) for method, count in hits.items()}
        if name == "wrong":
            quantiles = np.quantile(np.concatenate(delays), [0.1, 0.5, 0.9], method="higher")
            result["days_to_alarm"] = dict(zip(("low", "value", "high"), quantiles, strict=True))
            result["days_to_alarm"]["n"] = runs
    units = 10_000 * STAGES
    larger_arm_counts = units // 2 + np.arange(units // 100)
    factors = sample_ratio_log_factors(
        np.stack([larger_arm_counts, units - larger_arm_counts], axis=-1), [1, 1]
    )
    least_imbalance = float(np.argmax(factors > math.log(1_000)))
    errors = {"imbalance": 0.005 * units, "alarm": least_imbalance}
    result["standard_errors"] = {key: value / math.sqrt(units / 4) for key, value in errors.items()}
    return result


def measure_cuped(runs: int, seed: int) -> dict[str, Any]:
    """Return the variance of the effect with CUPED over that without, by correlation."""
    result = {}
    for correlation in (0.0, 0.3, 0.5, 0.7, 0.9):
        draw, values = with_history(correlation), np.empty((runs, 2))
        for run in range(runs):
            rng = np.random.default_rng([seed, run, round(100 * correlation)])
            arms = (draw(rng, 500, 0.0), draw(rng, 500, 0.0))
            adjusted = estimate_arms(arms, 500)
            values[run] = (
                arms[1].value.mean() - arms[0].value.mean(),
                adjusted[1].value - adjusted[0].value,
            )
        variances = values.var(axis=0, ddof=1)
        share = float(variances[1] / variances[0])
        # The two variances correlate as their effects do, so this interval is conservative.
        half_width = share * 1.96 * math.sqrt(4 / runs)
        figure = {"value": share, "low": share - half_width, "high": share + half_width, "n": runs}
        result[f"{correlation:g}"] = figure | {"expected": 1 - correlation**2}
    return result


def measure_cost() -> dict[str, Any]:
    """Return the planned sample over that of a fixed test, and the expected share of it."""
    result: dict[str, Any] = {}
    for spending in SPENDING_FUNCTIONS:
        for stages in (5, STAGES, 20, 200):
            design = plan_design(stages, spending=spending)
            result.setdefault(spending, {})[str(stages)] = {
                "sample_ratio": design.inflation,
                "expected_share": design.expected_share,
            }
    return result


def list_violations(results: dict[str, Any]) -> list[str]:
    """Return the cells that break their claim, by the 99.9 % interval of their rate."""
    violated_claims = []
    for metric, methods in results["aa"].items():
        for method, cells in methods.items():
            for stages, cell in cells.items():
                hits = round(cell["value"] * cell["n"])
                low, high = proportion_interval(hits, cell["n"], level=0.999)
                if method != "peeked" and (low > 0.05 or (method == "once" and high < 0.05)):
                    violated_claims.append(
                        f"{metric}, {method}, {stages} stages: {cell['value']:.2%}"
                    )
    cell = results["information"]
    if proportion_interval(round(cell["value"] * cell["n"]), cell["n"], level=0.999)[0] > 0.05:
        violated_claims.append(f"estimated information: {cell['value']:.2%}")
    for name, cell in results["cuped"].items():
        if not cell["low"] <= cell["expected"] <= cell["high"]:
            violated_claims.append(
                f"cuped at {name}: {cell['value']:.3f}, not {cell['expected']:.3f}"
            )
    if "interleaving" in results:
        violated_claims += position_violations(results["interleaving"]["aa"])
    return violated_claims


def measure_parts(data: Path | None, *, small: bool, seed: int) -> dict[str, Any]:
    """Return interleaving, and what needs the peers' environment and the data set."""
    interleaving_results = measure_interleaving(small=small, seed=seed)
    parts: dict[str, Any] = {"interleaving": {"revision": revision(), **interleaving_results}}
    if has_peers():
        peers = measure_peers(40 if small else 1_000, seed, STAGES, power_effect())
        parts["peers"] = {"revision": revision(), **peers}
    if (folder := find_data_set(FOLDER, data)) is not None:
        parts["asos"] = {"revision": revision(), **measure_asos(folder)}
    return parts


def measure(data: Path | None, *, small: bool, seed: int = 21) -> dict[str, Any]:
    """Measure all tables."""
    started = time.monotonic()
    runs = 400 if small else 10_000
    results = {
        "aa": measure_level(runs, seed),
        "information": measure_estimated_information(runs, seed),
        "power": measure_power(runs, seed + 1),
        "coverage": measure_coverage(runs, runs // 5, seed + 2),
        "srm": measure_sample_ratio(5_000 if small else 100_000, seed),
        "cuped": measure_cuped(runs // 2, seed),
        "cost": measure_cost(),
        "cost_us": measure_assignment(seed),
        **measure_parts(data, small=small, seed=seed),
    }
    return {
        "benchmark": "validity",
        "small": small,
        "revision": revision(),
        "seed": seed,
        "stages": STAGES,
        "units_per_arm": {name: kind.units for name, kind in KINDS.items()},
        "results": results,
        "violations": list_violations(results),
        "wall_s": round(time.monotonic() - started, 1),
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="fewer runs: within a minute")
    parser.add_argument("--seed", type=int, default=21)
    parser.add_argument("--data", type=Path, default=default_data(), help="folder of data sets")
    parser.add_argument("--add", type=Path, help="figures to add peers and asos to")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    if arguments.add is not None:
        result = json.loads(arguments.add.read_text())
        result["results"] |= measure_parts(
            arguments.data, small=arguments.small, seed=result["seed"]
        )
    else:
        result = measure(arguments.data, small=arguments.small, seed=arguments.seed)
    if arguments.json:
        print(json.dumps(result, indent=1))
    else:
        from benchmarks.quality.pages.validity_page import section

        print(section(result))
    raise SystemExit(1 if result["violations"] else 0)


if __name__ == "__main__":
    main()

"""Off-policy evaluation of three bundles on the simulated site, against their one-step truth.

    python -m benchmarks.quality.off_policy_site [--small] [--runs 200] [--json]

A shop is trained and served by the product (`parts.off_policy_shop`): a champion logs, and its slot
draws the whole slate of a tenth of the requests. Three bundles of other quality learned from the
same history: with the default settings, without columns about people, and from 200 requests.

**Runs.** The logged requests are replayed once, by the code of `experiment estimate`. Each run then
draws people with replacement, what the champion shows in their requests, and the simulator's
clicks, and estimates each bundle against the champion and each pair of bundles. The truth is the
expected clicks per answer of a bundle's own slates in all of these requests.

**Beside it** stand the estimate of the one log that was served, as the command prints it, and a
later trial: an experiment of the product with an arm for each bundle.

Seeds are fixed. Sizes were chosen by effective sample sizes alone, which need no click.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track

from benchmarks.quality.pages.off_policy_site_page import section
from benchmarks.quality.parts.off_policy_log import Contexts, DrawnLog, draw_log, read_contexts
from benchmarks.quality.parts.off_policy_shop import OPTIONS_BY_BUNDLE, SEED, SLOT, Scale, Shop
from benchmarks.quality.running import environment, revision, share_with_interval
from tailorbird.experiments.off_policy.evaluate import Estimate, PolicyEvaluation, evaluate_policies
from tailorbird.experiments.plain_data import replace_not_finite
from tailorbird.experiments.trial import TrialReport
from tailorbird.training.evaluation.off_policy import HEADLINE_ESTIMATOR

Floats = npt.NDArray[np.float64]
Pair = tuple[int, int]

ESTIMATORS = ("dr", "ips", "snips", "clipped", "switch_dr", "dros", "dm")
POLICY_NAMES = ("champion", *OPTIONS_BY_BUNDLE)
POLICY_PAIRS: tuple[Pair, ...] = tuple(
    (new, old) for old, new in combinations(range(len(POLICY_NAMES)), 2)
)
REPLICATES = 300
BOOTSTRAP_SEED = 1_000_000  # so that no bootstrap shares the random numbers of its log
CLEAR_DIFFERENCE = 0.05  # relative difference from which an order has to be right


@dataclass(frozen=True)
class Size:
    """The size of a measurement: of the shop, and the mean responses of each run."""

    shop: Scale
    run_responses: int


FULL = Size(Scale(1_500, 400, 10, 4, 5), 40_000)
SMALL = Size(Scale(300, 200, 6, 2, 2), 20_000)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality.off_policy_site", description=__doc__
    )
    parser.add_argument("--small", action="store_true", help="a fifth of the people, 20 runs")
    parser.add_argument("--runs", type=int, help="by default 200, or 20")
    parser.add_argument("--json", action="store_true", help="one JSON object and nothing else")
    options = parser.parse_args()
    runs = options.runs or (20 if options.small else 200)
    result = measure(SMALL if options.small else FULL, runs, small=options.small)
    print(json.dumps(result, indent=1) if options.json else section(result))


def measure(size: Size, runs: int, *, small: bool) -> dict[str, Any]:
    """Train, log, try and run; return all figures."""
    measured_revision, started = revision("--short"), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tailorbird-off-policy-") as folder:
        shop = Shop(Path(folder), size.shop)
        with shop:
            shop.log_answers()
            trial = shop.run_trial()
        served = {name: shop.estimate(name) for name in OPTIONS_BY_BUNDLE}
        log = shop.load_responses()
        contexts = read_contexts(log, shop.project.slots[SLOT], shop.site, SEED)
    people = round(size.run_responses * len(contexts.rows_of_people) / len(contexts.user))
    evaluations = [
        evaluate_run(contexts, people, run)
        for run in track(range(runs), "runs", console=Console(stderr=True))
    ]
    results = {
        "log": describe_log(contexts, people, evaluations),
        "pairs": judge_pairs(contexts.values, evaluations),
        "trial": describe_trial(contexts.values, trial, served),
        **judge_bundles(contexts.values, evaluations),
    }
    return {
        "benchmark": "off_policy_site",
        "kind": "off_policy_site",
        "small": small,
        "runs": runs,
        "size": asdict(size),
        "minutes": round((time.monotonic() - started) / 60, 1),
        "revision": measured_revision,
        "environment": environment(),
        "results": {"ope": {"site": results}},
    }


def evaluate_run(contexts: Contexts, people: int, run: int) -> dict[Pair, PolicyEvaluation]:
    """Draw one log, and compare each pair of policies with the reward model of the new one."""
    drawn = draw_log(contexts, people, np.random.default_rng([SEED, run]))
    return {pair: evaluate_pair(drawn, pair, BOOTSTRAP_SEED + run) for pair in POLICY_PAIRS}


def evaluate_pair(drawn: DrawnLog, pair: Pair, seed: int) -> PolicyEvaluation:
    """Compare two policies as `experiment estimate` does."""
    new, old = pair
    return evaluate_policies(
        drawn.sample(new, new),
        drawn.sample(old, new),
        ESTIMATORS if old == 0 else (HEADLINE_ESTIMATOR,),
        replicates=REPLICATES,
        seed=seed,
    )


def describe_log(
    contexts: Contexts, people: int, evaluations: Sequence[dict[Pair, PolicyEvaluation]]
) -> dict[str, Any]:
    """Return sizes of the contexts and of a run, and the truth of the champion."""
    supports = [each[POLICY_PAIRS[0]].new.support for each in evaluations]
    return {
        "requests": len(contexts.user),
        "people": len(contexts.rows_of_people),
        "left_out": contexts.left_out,
        "propensities_reproduced": contexts.reproduced_share,
        "run_people": people,
        "run_responses": float(np.mean([each.responses for each in supports])),
        "champion_truth": float(contexts.values[0]),
        "outside": dict(zip(POLICY_NAMES, contexts.unsupported_share.tolist(), strict=True)),
    }


def judge_bundles(
    truth: Floats, evaluations: Sequence[dict[Pair, PolicyEvaluation]]
) -> dict[str, Any]:
    """Return the figures of each bundle's value, by estimator."""
    result = {}
    for number, name in enumerate(POLICY_NAMES[1:], 1):
        values = [each[number, 0].new for each in evaluations]
        result[name] = {
            "truth": float(truth[number]),
            "uplift": float(truth[number] / truth[0] - 1),
            "effective": float(np.mean([value.support.effective for value in values])),
            "unsupported": float(np.mean([value.support.unsupported for value in values])),
            "refused": share_with_interval(
                sum(bool(value.support.refusal) for value in values), len(values)
            ),
            **{
                estimator: judge_estimates(
                    [value[estimator] for value in values], float(truth[number])
                )
                for estimator in ESTIMATORS
            },
        }
    return result


def judge_estimates(estimates: Sequence[Estimate], truth: float) -> dict[str, Any] | None:
    """Return error, coverage and width of what was not refused, as shares of the truth."""
    rows = [(each.value, each.low, each.high) for each in estimates if not each.is_refused]
    if not rows:
        return None
    value, low, high = np.array(rows).T / truth
    miss_penalty = 40 * (np.maximum(low - 1, 0) + np.maximum(1 - high, 0))  # 2 / 5 %
    return {
        "bias": mean_interval(value - 1),
        "error": mean_interval(np.abs(value - 1)),
        "rmse": float(np.sqrt(np.mean((value - 1) ** 2))),
        "coverage": share_with_interval(int(((low <= 1) & (high >= 1)).sum()), len(rows)),
        "width": float(np.mean(high - low)),
        "interval_score": float(np.mean(high - low + miss_penalty)),
    }


def mean_interval(values: Floats) -> dict[str, float]:
    """Return a mean with its 95 % interval."""
    mean, half_width = float(values.mean()), 1.96 * float(values.std() / np.sqrt(len(values)))
    return {"value": mean, "low": mean - half_width, "high": mean + half_width, "n": len(values)}


def judge_pairs(
    truth: Floats, evaluations: Sequence[dict[Pair, PolicyEvaluation]]
) -> dict[str, Any]:
    """Return how often the decisive estimator has the order of two policies right."""
    pairs, totals = {}, np.zeros(4, int)
    for new, old in POLICY_PAIRS:
        difference = float(truth[new] - truth[old])
        estimates = [estimate[new, old].difference[HEADLINE_ESTIMATOR] for estimate in evaluations]
        estimates = [estimate for estimate in estimates if not estimate.is_refused]
        is_right = np.array([estimate.value * difference > 0 for estimate in estimates], bool)
        is_decided = np.array(
            [estimate.low > 0 or estimate.high < 0 for estimate in estimates], bool
        )
        relative = difference / float(truth[old])
        covered = sum(estimate.low <= difference <= estimate.high for estimate in estimates)
        counts = (is_right.sum(), len(estimates), (is_right & is_decided).sum(), is_decided.sum())
        if abs(relative) > CLEAR_DIFFERENCE:
            totals += counts
        pairs[f"{POLICY_NAMES[new]} - {POLICY_NAMES[old]}"] = {
            "difference": relative,
            "is_clear": abs(relative) > CLEAR_DIFFERENCE,
            "refused": share_with_interval(len(evaluations) - len(estimates), len(evaluations)),
            "coverage": _rate(covered, len(estimates)),
            **_order_rates(*counts),
        }
    return {"clear": _order_rates(*totals), **pairs}


def _order_rates(right: int, count: int, decided_right: int, decided: int) -> dict[str, Any]:
    return {
        "right": _rate(right, count),
        "decided": _rate(decided, count),
        "right_if_decided": _rate(decided_right, decided),
    }


def _rate(hits: int, runs: int) -> dict[str, float] | None:
    return share_with_interval(int(hits), int(runs)) if runs else None


def describe_trial(
    truth: Floats, trial: TrialReport, served: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Return each bundle's uplift over the champion: true, estimated from the log, and measured."""
    result_by_arm = {each.arm: each for each in trial.primary}
    units_by_arm = {each.arm: each.units for each in trial.arms}
    result: dict[str, Any] = {"people": units_by_arm}
    for number, name in enumerate(POLICY_NAMES[1:], 1):
        each, report = result_by_arm[name], served[name]
        result[name] = {
            "one_step": float(truth[number] / truth[0] - 1),
            "measured": replace_not_finite(
                {"value": each.uplift, "low": each.low, "high": each.high}
            ),
            "estimated": _estimated_uplift(report),
            "refusal": report["refusal"],
            "responses": report["new"]["support"]["responses"],
            "effective": report["new"]["support"]["effective"],
        }
    return result


def _estimated_uplift(report: dict[str, Any]) -> dict[str, float] | None:
    """Return the difference that a log tells as a share of the champion's value."""
    if report["refusal"]:
        return None
    old = report["old"]["estimates"][report["headline"]]["value"]
    difference = report["difference"][report["headline"]]
    return {name: difference[name] / old for name in ("value", "low", "high")}


if __name__ == "__main__":
    main()

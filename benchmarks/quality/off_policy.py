"""Off-policy evaluation against known truth, and on the Open Bandit Dataset.

    python -m benchmarks.quality.off_policy [--small] [--data PATH] [--add FILE] [--json]

**Simulated logs.** `actions`: one of five items, drawn by a known policy, for people who come
several times; a reward model that is right in order but too flat. `item_position` and `cascade`:
slates of three out of five candidates, a share of which Plackett–Luce draws by the code that serves;
clicks depend on item and position. The truth is the expected reward of the evaluated policy. Each
run draws a new log. Reported are bias, root mean square error, and how often the 95 % interval
covers the truth, over all runs; also the share of runs that the support check would refuse.

**Open Bandit.** Half of the impressions were shown by a uniform policy, half by Thompson sampling
(`bts`), at the same time. `random_to_bts` estimates the click rate of `bts` from the log of
`random`; the evaluated policy is that of the whole week, each item's share of the `bts` impressions
at a position, as its changing probabilities are logged only for what it showed. `bts_to_random`
needs no such step. The reward model is each item's smoothed click rate, fitted on the other half of
the evaluated log. The comparison is the click rate of the other half, which has its own error.

**obp.** If `make peers` was run, the synthetic and the digits protocol of the Open Bandit Pipeline,
its estimators with their default settings beside ours. `--add` measures these alone, and prints the
figures of an earlier run with them.
"""

import argparse
import json
import math
from collections.abc import Callable, Mapping
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from benchmarks.quality.parts.off_policy_peers import has_obp, measure_protocols
from benchmarks.quality.running import (
    default_data,
    environment,
    find_data_set,
    revision,
    share_with_interval,
)
from tailorbird.experiments.off_policy.evaluate import PolicyValue, evaluate_policy
from tailorbird.experiments.off_policy.sample import PolicySample
from tailorbird.experiments.off_policy.support import check_support
from tailorbird.ranking import Explore
from tailorbird.ranking.policy.slate_distribution import slate_distribution

Floats = npt.NDArray[np.float64]
Draw = Callable[[np.random.Generator], PolicySample]

FOLDER = "open-bandit"
ESTIMATORS = ("ips", "snips", "clipped", "dm", "dr", "switch_dr", "dros")
BANDIT_ESTIMATORS = ("ips", "snips", "dr")
BOOTSTRAP_SEED = 1_000_000  # so that no bootstrap shares the random numbers of its log
SMOOTHING = 200.0  # impressions that an item's click rate is smoothed by
ACTIONS = np.linspace(-1, 1, 5)
LOGGING_SCORES = np.array([0.9, 0.2, 0.8, 0.5, 0.4])  # of the logging order
CLICK_RATE_BY_ITEM = np.array([0.10, 0.16, 0.06, 0.13, 0.04])
EXAMINATION_BY_POSITION = np.array([1.0, 0.6, 0.4])
EXPLORE = Explore(method="plackett_luce", first=1, pool=10, temperature=1.5, share=0.5)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality.off_policy", description=__doc__
    )
    parser.add_argument("--data", type=Path, default=default_data())
    parser.add_argument("--small", action="store_true", help="a tenth of the runs")
    parser.add_argument("--add", type=Path, help="figures to add obp's protocols to")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.add is not None:
        result = json.loads(arguments.add.read_text())
        result["results"] |= measure_peers(small=arguments.small)
    else:
        result = measure(arguments.data, small=arguments.small)
    print(json.dumps(result, indent=1) if arguments.json else format_report(result))


def measure(data: Path | None, *, small: bool) -> dict[str, Any]:
    """Run all protocols; Open Bandit is left out where its files are missing."""
    runs = 40 if small else 400
    by_position, cascade = SlateLog(6_000, joint=False), SlateLog(20_000, joint=True)
    protocols = {
        "actions": (draw_actions, actions_truth()),
        "item_position": (by_position.draw, by_position.truth),
        "cascade": (cascade.draw, cascade.truth),
    }
    results: dict[str, Any] = {
        name: measure_runs(draw, truth, runs) for name, (draw, truth) in protocols.items()
    }
    folder = find_data_set(FOLDER, data)
    campaigns = ("all", "men") if folder is not None else ()
    for campaign in campaigns:
        assert folder is not None
        for source, target in (("random", "bts"), ("bts", "random")):
            results[f"open_bandit.{campaign}.{source}_to_{target}"] = measure_campaign(
                folder / f"{campaign}.parquet", source, target
            )
    return {
        "benchmark": "off_policy",
        "kind": "off_policy",
        "small": small,
        "runs": runs,
        "revision": revision("--short"),
        "environment": environment(),
        "results": {"ope": results, **measure_peers(small=small)},
    }


def measure_peers(*, small: bool) -> dict[str, Any]:
    """Return the protocols of obp under `obp`, if it is there."""
    if not has_obp():
        return {}
    return {"obp": {"revision": revision("--short"), **measure_protocols(5 if small else 200)}}


def measure_runs(draw: Draw, truth: float, runs: int) -> dict[str, Any]:
    """Return bias, error, coverage and width of each estimator over new logs."""
    samples = [draw(np.random.default_rng(seed)) for seed in range(runs)]
    values = [
        evaluate_policy(
            sample,
            ESTIMATORS,
            replicates=300,
            seed=BOOTSTRAP_SEED + seed,
            ess_min=0,
            unsupported_max=1,
        )
        for seed, sample in enumerate(samples)
    ]
    refused = sum(not check_support(sample).is_enough for sample in samples)
    figures = {name: _run_figures([value[name] for value in values], truth) for name in ESTIMATORS}
    effective = float(np.mean([value.support.effective for value in values]))
    return {
        "truth": truth,
        "refused": share_with_interval(refused, runs),
        "effective": effective,
        "responses": values[0].support.responses,
        **figures,
    }


def _run_figures(estimates: list[Any], truth: float) -> dict[str, Any]:
    values = np.array([estimate.value for estimate in estimates])
    covered = [estimate.low <= truth <= estimate.high for estimate in estimates]
    error = float(values.std() / math.sqrt(len(values)))
    bias = float(values.mean() - truth)
    return {
        "bias": {
            "value": bias / truth,
            "low": (bias - 1.96 * error) / truth,
            "high": (bias + 1.96 * error) / truth,
            "n": len(values),
        },
        "rmse": float(np.sqrt(np.mean((values - truth) ** 2))) / truth,
        "coverage": share_with_interval(sum(covered), len(values)),
        "width": float(np.mean([estimate.high - estimate.low for estimate in estimates])) / truth,
    }


def action_probabilities(taste: Floats, strength: float) -> Floats:
    """Return the probabilities (n, 5) of a policy that follows tastes by a strength."""
    weights = np.exp(strength * ACTIONS * taste[:, None])
    return weights / weights.sum(axis=1, keepdims=True)


def action_clicks(taste: Floats) -> Floats:
    """Return the click rate (n, 5) of each item for tastes."""
    return 1 / (1 + np.exp(1.5 - ACTIONS * taste[:, None]))


def actions_truth() -> float:
    """Return the value of the evaluated policy, over a million tastes."""
    taste = np.random.default_rng(12345).normal(size=1_000_000)
    return float((action_clicks(taste) * action_probabilities(taste, 1.0)).sum(axis=1).mean())


def draw_actions(rng: np.random.Generator) -> PolicySample:
    """Draw a log of 3,000 single actions of 1,000 people."""
    n = 3_000
    person = rng.integers(1_000, size=n)
    taste = rng.normal(size=1_000)[person]
    logged_probabilities, target_probabilities = (
        action_probabilities(taste, -0.5),
        action_probabilities(taste, 1.0),
    )
    action = np.minimum(
        (rng.random(n)[:, None] > logged_probabilities.cumsum(axis=1)).sum(axis=1), 4
    )
    row = np.arange(n)
    predicted_rewards = 0.2 + 0.05 * ACTIONS * taste[:, None]
    return PolicySample.of_actions(
        rng.random(n) < action_clicks(taste)[row, action],
        logged_probabilities[row, action],
        target_probabilities[row, action],
        person=person,
        prediction=predicted_rewards[row, action],
        expected=(predicted_rewards * target_probabilities).sum(axis=1),
    )


class SlateLog:
    """A log of slates with the propensities of the code that serves, for the order by appeal."""

    def __init__(self, responses: int, *, joint: bool) -> None:
        self._responses = responses
        size = EXAMINATION_BY_POSITION.size
        order = np.argsort(-LOGGING_SCORES)
        logging = slate_distribution(order, size, EXPLORE, LOGGING_SCORES)
        target_order = np.argsort(-CLICK_RATE_BY_ITEM)
        target = slate_distribution(target_order, size, None)
        self._slates = np.array(list(permutations(range(LOGGING_SCORES.size), size)))
        pairs = [logging.propensities(slate) for slate in self._slates]
        self._chance = np.array([pair[1][-1] for pair in pairs])
        logged = np.array([pair[int(joint)] for pair in pairs])
        chosen = np.array([target.propensities(slate)[int(joint)] for slate in self._slates])
        self._weight = chosen / logged
        self.truth = float(
            np.sum(CLICK_RATE_BY_ITEM[target_order[:size]] * EXAMINATION_BY_POSITION)
        )
        self._expected = (
            0.5 * (CLICK_RATE_BY_ITEM[target_order[:size]] + 0.1) * EXAMINATION_BY_POSITION
        )

    def draw(self, rng: np.random.Generator) -> PolicySample:
        """Draw a log of slates, two a person; the model is half right about items."""
        n = self._responses
        index = rng.choice(len(self._slates), n, p=self._chance / self._chance.sum())
        items = self._slates[index]
        clicked = rng.random(items.shape) < CLICK_RATE_BY_ITEM[items] * EXAMINATION_BY_POSITION
        return PolicySample(
            reward=clicked.astype(np.float64),
            weight=self._weight[index],
            person=rng.integers(n // 2, size=n),
            shown=np.ones(items.shape, bool),
            prediction=0.5 * (CLICK_RATE_BY_ITEM[items] + 0.1) * EXAMINATION_BY_POSITION,
            expected=np.broadcast_to(self._expected, items.shape),
        )


def measure_campaign(path: Path, source: str, target: str) -> dict[str, Any]:
    """Estimate the click rate of one policy from the other's log of a campaign."""
    rows = pq.read_table(path, columns=["policy", "item_id", "position", "click", "propensity"])
    policy = np.array(rows["policy"].to_pylist())
    click = rows["click"].to_numpy().astype(np.float64)
    items, item = np.unique(rows["item_id"].to_numpy(), return_inverse=True)
    position = rows["position"].to_numpy().astype(np.int64) - 1
    is_logged, is_target = policy == source, policy == target
    shares = np.full((3, items.size), 1.0 / items.size)
    if target == "bts":
        counts = np.zeros((3, items.size))
        np.add.at(counts, (position[is_target], item[is_target]), 1.0)
        shares = counts / counts.sum(axis=1, keepdims=True)
    model = _cross_fit(click[is_logged], item[is_logged], items.size)
    sample = PolicySample.of_actions(
        click[is_logged],
        rows["propensity"].to_numpy()[is_logged],
        shares[position[is_logged], item[is_logged]],
        prediction=model[np.arange(len(model)), item[is_logged]],
        expected=(model * shares[position[is_logged]]).sum(axis=1),
    )
    value = evaluate_policy(sample, BANDIT_ESTIMATORS, replicates=1_000, seed=1, ess_min=100)
    on_policy = share_with_interval(int(click[is_target].sum()), int(is_target.sum()))
    truth = on_policy["value"]
    return {
        "on_policy": on_policy,
        "logged": value.logged,
        "effective": value.support.effective,
        "responses": value.support.responses,
        "largest_weight": value.support.largest_weight,
        "refusal": value.support.refusal,
        **{name: _bandit_figures(value, name, truth) for name in BANDIT_ESTIMATORS},
    }


def _bandit_figures(value: PolicyValue, name: str, truth: float) -> Mapping[str, float | None]:
    estimate = value[name]
    if estimate.is_refused:
        return {"value": None, "low": None, "high": None, "relative_error": None}
    return {
        "value": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "relative_error": abs(estimate.value - truth) / truth,
    }


def _cross_fit(click: Floats, item: npt.NDArray[np.int64], item_count: int) -> Floats:
    """Return the smoothed click rate (n, items) of the other half, for each row."""
    fold_by_row = np.arange(len(click)) % 2
    rates = np.empty((2, item_count))
    for fold in (0, 1):
        rows = fold_by_row != fold
        clicks = np.bincount(item[rows], click[rows], item_count)
        shown = np.bincount(item[rows], minlength=item_count)
        rates[fold] = (clicks + SMOOTHING * click[rows].mean()) / (shown + SMOOTHING)
    return rates[fold_by_row]


def format_report(result: dict[str, Any]) -> str:
    """Format the result for people."""
    lines = []
    for name, case in result["results"]["ope"].items():
        lines.append(name)
        for estimator in ESTIMATORS:
            if estimator in case:
                lines.append(f"  {estimator:10} {json.dumps(case[estimator])}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

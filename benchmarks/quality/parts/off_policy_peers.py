"""Our estimators and those of the Open Bandit Pipeline on the logs of its own protocols."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from benchmarks.peers.asking import HERE, run_script
from benchmarks.peers.install import OFF_POLICY, interpreter
from benchmarks.quality.running import share_with_interval

from tailorbird.experiments.off_policy.estimators import ESTIMATORS, dros, switch_dr
from tailorbird.experiments.off_policy.evaluate import PolicyValue, evaluate_policy
from tailorbird.experiments.off_policy.sample import PolicySample

Floats = npt.NDArray[np.float64]

PROTOCOLS = ("synthetic", "digits")
ROUNDS = 2_000  # of a log of the synthetic protocol
REPLICATES = 300
LIMIT, SHRINKAGE = 2.0, 3.0  # of the weights in `compare_values`, so that some are cut


def has_obp() -> bool:
    """Return whether `make peers` has made the environment."""
    return interpreter(OFF_POLICY).exists()


def measure_protocols(runs: int) -> dict[str, Any]:
    """Return the errors of both, and the coverage and width of our intervals, by protocol."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "job.json").write_text(json.dumps({"runs": runs, "rounds": ROUNDS}))
        run_script(HERE / "policy_protocols.py", folder, OFF_POLICY)
        said = json.loads((folder / "said.json").read_text())
        result: dict[str, Any] = {"runs": runs, "version": said["version"]}
        result["same_inputs"] = compare_values()
        for protocol in PROTOCOLS:
            with np.load(folder / f"{protocol}.npz") as arrays:
                result[protocol] = judge_protocol(dict(arrays), said["estimators"])
    return result


def compare_values(rows: int = 5_000, actions: int = 6) -> dict[str, Any]:
    """Return the relative difference of each estimator that obp shares, on the same log."""
    rng = np.random.default_rng(11)
    logged, target = rng.dirichlet(np.full(actions, 2.0), (2, rows))
    model = rng.random((rows, actions))
    action = np.array([rng.choice(actions, p=row) for row in logged])
    row = np.arange(rows)
    reward = (rng.random(rows) < 0.3).astype(np.float64)
    log = {"reward": reward, "action": action, "propensity": logged[row, action]}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(folder / "log.npz", **log, target=target, model=model)
        (folder / "job.json").write_text(json.dumps({"limit": LIMIT, "shrinkage": SHRINKAGE}))
        run_script(HERE / "policy_value.py", folder, OFF_POLICY)
        said = json.loads((folder / "said.json").read_text())
    sample = PolicySample.of_actions(
        reward,
        logged[row, action],
        target[row, action],
        prediction=model[row, action],
        expected=(model * target).sum(axis=1),
    )
    ours = {
        **{name: ESTIMATORS[name](sample).value for name in ("ips", "snips", "dm", "dr")},
        "switch_dr": switch_dr(sample, limit=LIMIT).value,
        "dros": dros(sample, shrinkage=SHRINKAGE).value,
    }
    differences = {name: abs(ours[name] / said["values"][name] - 1) for name in ours}
    return {
        "version": said["version"],
        "responses": rows,
        "cut": int((sample.weight > LIMIT).sum()),
        "difference": differences,
    }


def judge_protocol(logs: dict[str, Floats], estimators: list[str]) -> dict[str, Any]:
    """Return relative errors by estimator; ours with coverage, width and interval score."""
    truth = logs["truth"]
    values = [evaluate_log(logs, run) for run in range(len(truth))]
    refused = [bool(value.support.refusal) for value in values]
    accepted_runs = np.flatnonzero(np.logical_not(refused))
    theirs = {
        name: _relative_error(logs["estimates"][:, column], truth)
        for column, name in enumerate(estimators)
    }
    ours = {name: _judge_ours(values, name, truth, accepted_runs) for name in values[0].estimates}
    effective = float(np.mean([value.support.effective for value in values]))
    return {
        "responses": logs["reward"].shape[1],
        "effective": effective,
        "refused": share_with_interval(sum(refused), len(truth)),
        "obp": theirs,
        "tailorbird": ours,
    }


def evaluate_log(logs: dict[str, Floats], run: int) -> PolicyValue:
    """Evaluate the policy of one log by all of our estimators."""
    columns = {
        name: logs[name][run] for name in ("reward", "logged", "target", "prediction", "expected")
    }
    sample = PolicySample.of_actions(**columns)
    return evaluate_policy(sample, replicates=REPLICATES, seed=1_000_000 + run)


def _judge_ours(
    values: list[PolicyValue], name: str, truth: Floats, accepted_runs: npt.NDArray[np.intp]
) -> dict[str, Any]:
    rows = [values[run][name] for run in accepted_runs]
    value, low, high = np.array([(row.value, row.low, row.high) for row in rows]).reshape(-1, 3).T
    true_values = truth[accepted_runs]
    miss_penalty = 40 * (
        np.maximum(low - true_values, 0) + np.maximum(true_values - high, 0)
    )  # 2 / 5 %
    hits = int(((low <= true_values) & (true_values <= high)).sum())
    return {
        **_relative_error(value, true_values),
        "coverage": share_with_interval(hits, len(accepted_runs)) if len(accepted_runs) else None,
        "width": float(np.mean((high - low) / true_values)) if len(accepted_runs) else None,
        "interval_score": float(np.mean((high - low + miss_penalty) / true_values))
        if len(accepted_runs)
        else None,
    }


def _relative_error(value: Floats, truth: Floats) -> dict[str, Any]:
    """Return the mean of the relative absolute errors, with its 95 % interval."""
    if not len(value):
        return {"error": None}
    errors = np.abs(value - truth) / truth
    mean, half = float(errors.mean()), 1.96 * float(errors.std() / np.sqrt(len(errors)))
    return {"error": {"value": mean, "low": mean - half, "high": mean + half, "n": len(errors)}}

"""Logs with known truth by the protocols of the Open Bandit Pipeline, and its own estimates.

    .peers/off_policy/bin/python policy_protocols.py FOLDER

    FOLDER/job.json        {"runs", "rounds"}
    FOLDER/PROTOCOL.npz    reward, logged, target, prediction, expected (runs, n); truth (runs,);
                           estimates (runs, estimators), with each estimator's default settings
    FOLDER/said.json       {"estimators": [name], "version"}

`synthetic` has ten actions, a logistic reward and a linear behaviour policy; the evaluated policy is
an `IPWLearner`. `digits` are the images of scikit-learn as a bandit, by `MultiClassToBanditReduction`.
Each run has a seed of its own. The reward model is a cross-fitted logistic regression. Imports
nothing of ours.
"""

import json
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from obp.dataset import (
    MultiClassToBanditReduction,
    SyntheticBanditDataset,
    linear_behavior_policy,
    logistic_reward_function,
)
from obp.ope import (
    DirectMethod,
    DoublyRobust,
    DoublyRobustWithShrinkage,
    InverseProbabilityWeighting,
    RegressionModel,
    SelfNormalizedInverseProbabilityWeighting,
    SwitchDoublyRobust,
)
from obp.policy import IPWLearner
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

ESTIMATORS = {
    "dm": DirectMethod(),
    "ipw": InverseProbabilityWeighting(),
    "snipw": SelfNormalizedInverseProbabilityWeighting(),
    "dr": DoublyRobust(),
    "switch_dr": SwitchDoublyRobust(),
    "dros": DoublyRobustWithShrinkage(),
}


def main(folder: Path) -> None:
    warnings.filterwarnings("ignore")
    job = json.loads((folder / "job.json").read_text())
    protocols: dict[str, Callable[[int], tuple[dict[str, Any], np.ndarray, float]]] = {
        "synthetic": lambda seed: draw_synthetic(seed, job["rounds"]),
        "digits": draw_digits,
    }
    for name, draw in protocols.items():
        runs = [summarise(*draw(seed), seed) for seed in range(job["runs"])]
        columns = {column: np.stack([run[column] for run in runs]) for column in runs[0]}
        np.savez(folder / f"{name}.npz", **columns)  # type: ignore[arg-type]
    said = {"estimators": list(ESTIMATORS), "version": version("obp")}
    (folder / "said.json").write_text(json.dumps(said))


def draw_synthetic(seed: int, rounds: int) -> tuple[dict[str, Any], np.ndarray, float]:
    """Return the log, the evaluated policy's probabilities and its true value."""
    dataset = SyntheticBanditDataset(
        n_actions=10,
        dim_context=5,
        reward_function=logistic_reward_function,
        behavior_policy_function=linear_behavior_policy,
        random_state=seed,
    )
    train, log = (dataset.obtain_batch_bandit_feedback(n_rounds=rounds) for _ in range(2))
    policy = IPWLearner(n_actions=10, base_classifier=LogisticRegression(max_iter=1_000))
    policy.fit(
        context=train["context"],
        action=train["action"],
        reward=train["reward"],
        pscore=train["pscore"],
    )
    target = policy.predict_proba(context=log["context"])
    truth = dataset.calc_ground_truth_policy_value(
        expected_reward=log["expected_reward"], action_dist=target
    )
    return log, target, float(truth)


def draw_digits(seed: int) -> tuple[dict[str, Any], np.ndarray, float]:
    """Return the log, the evaluated policy's probabilities and its true value."""
    digits: Any = load_digits()
    dataset = MultiClassToBanditReduction(
        X=digits.data / 16,
        y=digits.target,
        base_classifier_b=LogisticRegression(max_iter=200),
        alpha_b=0.8,
        dataset_name="digits",
    )
    dataset.split_train_eval(eval_size=0.7, random_state=seed)
    log = dataset.obtain_batch_bandit_feedback(random_state=seed)
    target = dataset.obtain_action_dist_by_eval_policy(
        base_classifier_e=LogisticRegression(C=0.1, max_iter=200), alpha_e=0.9
    )
    return log, target, float(dataset.calc_ground_truth_policy_value(action_dist=target))


def summarise(
    log: dict[str, Any], target: np.ndarray, truth: float, seed: int
) -> dict[str, np.ndarray]:
    model = RegressionModel(
        n_actions=log["n_actions"], base_model=LogisticRegression(max_iter=200)
    ).fit_predict(
        context=log["context"],
        action=log["action"],
        reward=log["reward"],
        n_folds=3,
        random_state=seed,
    )
    row = np.arange(len(log["action"]))
    inputs = {
        "reward": log["reward"],
        "action": log["action"],
        "pscore": log["pscore"],
        "position": np.zeros(len(row), int),
        "action_dist": target,
        "estimated_rewards_by_reg_model": model,
    }
    return {
        "reward": log["reward"].astype(np.float64),
        "logged": log["pscore"],
        "target": target[row, log["action"], 0],
        "prediction": model[row, log["action"], 0],
        "expected": (model * target).sum(axis=1)[:, 0],
        "truth": np.array(truth),
        "estimates": np.array(
            [each.estimate_policy_value(**inputs) for each in ESTIMATORS.values()]
        ),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))

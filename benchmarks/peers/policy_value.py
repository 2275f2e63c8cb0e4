"""The value of a policy by the estimators of the Open Bandit Pipeline (obp).

    .peers/off_policy/bin/python policy_value.py FOLDER

    FOLDER/job.json    {"limit": of Switch-DR's weights, "shrinkage": of DR with shrinkage}
    FOLDER/log.npz     reward, action, propensity (n,); target, model (n, actions): probabilities of
                       the evaluated policy, and predicted rewards
    FOLDER/said.json   {"values": {estimator: value}, "version"}

Imports nothing of ours.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from obp.ope import (
    DirectMethod,
    DoublyRobust,
    DoublyRobustWithShrinkage,
    InverseProbabilityWeighting,
    SelfNormalizedInverseProbabilityWeighting,
    SwitchDoublyRobust,
)


def main(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text())
    log = dict(np.load(folder / "log.npz"))
    inputs = {
        "reward": log["reward"],
        "action": log["action"],
        "pscore": log["propensity"],
        "position": np.zeros(len(log["action"]), int),
        "action_dist": log["target"][:, :, None],
        "estimated_rewards_by_reg_model": log["model"][:, :, None],
    }
    estimators = {
        "ips": InverseProbabilityWeighting(),
        "snips": SelfNormalizedInverseProbabilityWeighting(),
        "dm": DirectMethod(),
        "dr": DoublyRobust(),
        "switch_dr": SwitchDoublyRobust(tau=job["limit"]),
        "dros": DoublyRobustWithShrinkage(lambda_=job["shrinkage"]),
    }
    values = {
        name: float(estimator.estimate_policy_value(**inputs))
        for name, estimator in estimators.items()
    }
    (folder / "said.json").write_text(json.dumps({"values": values, "version": version("obp")}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

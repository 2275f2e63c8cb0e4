"""Each estimator that the Open Bandit Pipeline shares has its value."""

import json
from pathlib import Path

import numpy as np
import pytest
from benchmarks.peers.asking import HERE, run_script
from benchmarks.peers.install import OFF_POLICY, interpreter

from tailorbird.experiments.off_policy.estimators import ESTIMATORS, dros, switch_dr
from tailorbird.experiments.off_policy.sample import PolicySample

pytestmark = pytest.mark.skipif(
    not interpreter(OFF_POLICY).exists(), reason="obp is absent: make peers"
)
ROWS, ACTIONS, LIMIT, SHRINKAGE = 5_000, 6, 2.0, 3.0


def test_the_shared_estimators_are_obps(tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    logged, target = rng.dirichlet(np.full(ACTIONS, 2.0), (2, ROWS))
    model = rng.random((ROWS, ACTIONS))
    action = np.array([rng.choice(ACTIONS, p=row) for row in logged])
    row = np.arange(ROWS)
    reward = (rng.random(ROWS) < 0.3).astype(np.float64)
    np.savez(
        tmp_path / "log.npz",
        reward=reward,
        action=action,
        propensity=logged[row, action],
        target=target,
        model=model,
    )
    (tmp_path / "job.json").write_text(json.dumps({"limit": LIMIT, "shrinkage": SHRINKAGE}))
    try:
        run_script(HERE / "policy_value.py", tmp_path, OFF_POLICY)
    except RuntimeError as error:
        if "No module named 'obp'" in str(error):
            pytest.skip("obp did not install: make peers")
        raise
    theirs = json.loads((tmp_path / "said.json").read_text())["values"]
    sample = PolicySample.of_actions(
        reward,
        logged[row, action],
        target[row, action],
        prediction=model[row, action],
        expected=(model * target).sum(axis=1),
    )
    assert (sample.weight > LIMIT).any()
    ours = {
        **{name: ESTIMATORS[name](sample).value for name in ("ips", "snips", "dm", "dr")},
        "switch_dr": switch_dr(sample, limit=LIMIT).value,
        "dros": dros(sample, shrinkage=SHRINKAGE).value,
    }
    assert ours == pytest.approx(theirs, rel=1e-8)

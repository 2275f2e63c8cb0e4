"""Each estimator that the Open Bandit Pipeline shares has its value."""

import pytest
from benchmarks.peers.install import OFF_POLICY, interpreter
from benchmarks.quality.parts.off_policy_peers import compare_values

pytestmark = pytest.mark.skipif(
    not interpreter(OFF_POLICY).exists(), reason="obp is absent: make peers"
)


def test_the_shared_estimators_are_obps() -> None:
    try:
        result = compare_values()
    except RuntimeError as error:
        if "No module named 'obp'" in str(error):
            pytest.skip("obp did not install: make peers")
        raise
    assert result["cut"] > 0
    assert len(result["difference"]) == 6
    assert max(result["difference"].values()) < 1e-8

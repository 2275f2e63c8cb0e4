"""The coverage benchmark runs and prints one JSON object; that the coverage is right is the
benchmark's own business.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_it_prints_one_json_object():
    command = [
        sys.executable,
        "-m",
        "benchmarks.quality.experiment",
        "--small",
        "--runs",
        "8",
        "--json",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120, check=False)
    report = json.loads(done.stdout)
    assert done.returncode == (0 if report["held"] else 1)
    ours = report["results"]["tailorbird"]
    assert ours["runs"] == 8
    assert ours["coverage_low"] <= ours["coverage"] <= ours["coverage_high"]
    assert abs(ours["mean_uplift"] - ours["true_uplift"]) < ours["mean_width"]

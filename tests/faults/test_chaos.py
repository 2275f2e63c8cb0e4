"""Injected faults over all roles, and unsafe changes that the scenes must notice.

`make chaos` tries each point of each scene, and the real processes under load, on Kafka and Valkey
too, with power cuts and a full disk; docs/reliability.md has the results.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.faults.chaos import injection, power

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(injection.WHY_NOT), reason=injection.WHY_NOT or "faults can be injected"
    ),
]


def _run_chaos(
    tmp_path: Path, *arguments: str
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """Run chaos in a process of its own, since it forks, which other tests' threads would break."""
    report = tmp_path / "found.json"
    command = [sys.executable, "-m", "tests.faults.chaos", *arguments, "--json", str(report)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert report.exists(), process.stderr[-3_000:]
    return process, json.loads(report.read_text())


def test_injected_faults_lose_nothing_double_nothing_and_leave_nothing_unequal(
    tmp_path: Path,
) -> None:
    process, report = _run_chaos(tmp_path, "--quick")
    counts = {name: report[name] for name in ("lost", "doubled", "unequal")}
    assert counts == dict.fromkeys(counts, 0), process.stdout
    assert process.returncode == 0
    assert (
        process.stdout.splitlines()[-1] == f"kills {report['kills']}, lost 0, doubled 0, unequal 0"
    )
    assert report["faults"] >= (100 if os.environ.get("TAILORBIRD_NIGHTLY") else 35)
    assert set(report["by_kind"]) >= {"kill", "sync", "full", "lost"}
    assert set(report["by_kind"]["kill"]) >= {
        "collector",
        "router",
        "worker",
        "lake",
        "compaction",
        "import",
        "bootstrap",
    }
    assert "power" in report["by_kind"] or power.why_not(), (
        "power is cut where file systems can be mounted"
    )


@pytest.mark.nightly
@pytest.mark.skipif(bool(power.why_not()), reason=power.why_not() or "power can be cut")
def test_every_unsafe_change_is_noticed(tmp_path: Path) -> None:
    process, report = _run_chaos(tmp_path, "--mutants", "--quick")
    assert [row["name"] for row in report["mutants"] if not row["caught"]] == [], process.stdout
    assert len(report["mutants"]) >= 15

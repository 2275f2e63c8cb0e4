"""Some hundred injected faults over all roles, and the unsafe changes that the same scenes must
notice.

`make chaos` tries each point of each scene, and the real processes under load, on Kafka and Valkey
too, with power cuts and a full disk; docs/reliability.md says what came of it.
"""

import json
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


def _chaos(
    tmp_path: Path, *arguments: str
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """In a process of its own: it forks, which what other tests have left in this one would not
    survive.
    """
    found = tmp_path / "found.json"
    command = [sys.executable, "-m", "tests.faults.chaos", *arguments, "--json", str(found)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert found.exists(), done.stderr[-3_000:]
    return done, json.loads(found.read_text())


def test_a_hundred_faults_lose_nothing_double_nothing_and_leave_nothing_unequal(
    tmp_path: Path,
) -> None:
    done, found = _chaos(tmp_path, "--quick")
    counts = {name: found[name] for name in ("lost", "doubled", "unequal")}
    assert counts == dict.fromkeys(counts, 0), done.stdout
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == f"kills {found['kills']}, lost 0, doubled 0, unequal 0"
    assert found["faults"] >= 100
    assert set(found["by_kind"]) >= {"kill", "sync", "full", "lost"}
    assert set(found["by_kind"]["kill"]) >= {
        "door",
        "router",
        "worker",
        "lake",
        "compaction",
        "import",
        "bootstrap",
    }
    assert "power" in found["by_kind"] or power.why_not(), (
        "power is cut where file systems can be mounted"
    )


@pytest.mark.skipif(bool(power.why_not()), reason=power.why_not() or "power can be cut")
def test_every_unsafe_change_is_noticed(tmp_path: Path) -> None:
    done, found = _chaos(tmp_path, "--mutants", "--quick")
    assert [row["name"] for row in found["mutants"] if not row["caught"]] == [], done.stdout
    assert len(found["mutants"]) >= 15
